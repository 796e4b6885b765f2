"""The golden-ratio study's two ends: the data before it, and the document after it.

    python benchmarks/golden_study.py prepare books FOLDER --out data/books              # texts -> books.jsonl
    python benchmarks/golden_study.py prepare instructions FILE... --out data/instructions  # rows -> instructions.jsonl, chats.jsonl
    phiforge compare phi/tiny data=data/books --out runs/golden-books
    phiforge compare phi/rate-end data=data/books --out runs/golden-rate-end                # the question that came up on the way
    python benchmarks/golden_study.py report runs/golden-books runs/golden-instructions --follow-up runs/golden-rate-end

`prepare` only rearranges what it is given: nothing is fetched. `report` reads verdict.json of each experiment and writes nothing by itself;
the prediction it opens with is docs/studies/golden-ratio-prediction.md, which was committed before the first run and is not touched again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

PREDICTION = Path(__file__).parents[1] / "docs" / "studies" / "golden-ratio-prediction.md"
AFTERWARDS = PREDICTION.with_name("golden-ratio-afterwards.md")  # what was changed once results were known, by hand as well
PIECE = 8_000  # characters of a book's piece: small, so that what is held out comes from every book
PROMPT_KEYS = ("instruction", "prompt")
RESPONSE_KEYS = ("output", "response")


def read_text(path: Path) -> str:
    """A text file, or a .gz of one."""
    raw = path.read_bytes()
    return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """A text cut between paragraphs into pieces of about `size` characters; nothing is lost but blank lines at the cuts."""
    held: list[str] = []
    length = 0
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        held.append(paragraph)
        length += len(paragraph) + 2
        if length >= size:
            yield "\n\n".join(held).strip()
            held, length = [], 0
    if "".join(held).strip():
        yield "\n\n".join(held).strip()


def prepare_books(folders: list[Path]) -> list[dict[str, str]]:
    """{"text"} of every piece of every .txt and .md (also .gz) in the folders or files, in order of names."""
    files = [file for source in folders for file in (sorted(source.iterdir()) if source.is_dir() else [source])]
    books = [file for file in files if re.search(r"\.(txt|md)(\.gz)?$", file.name) and file.name != "SOURCE.md"]
    if not books:
        raise SystemExit(f"{', '.join(map(str, folders))}: no .txt or .md file")
    return [{"text": piece} for book in books for piece in pieces(read_text(book))]


def prepare_instructions(files: list[Path]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """({"text"}, {"prompt", "response"}) of every row with an instruction and an answer, in order.

    The text is the row as it would be read from end to end, so that a model is trained on it, and measured in bits per byte, as on a book.
    """
    texts, chats = [], []
    for file in files:
        for line in read_text(file).splitlines():
            row = json.loads(line)
            prompt = _first(row, PROMPT_KEYS)
            response = _first(row, RESPONSE_KEYS)
            if not prompt or not response:
                continue
            if match := re.search(r"### Instruction:\n(.*?)\n+### Response:", prompt, re.DOTALL):
                prompt = match[1].strip()  # a row that was rendered already
            extra = str(row.get("input") or "").strip()
            chats.append({"prompt": f"{prompt}\n\n{extra}" if extra else prompt, "response": response})
            texts.append({"text": _rendered(prompt, extra, response)})
    if not texts:
        raise SystemExit(f"{', '.join(map(str, files))}: no row with {' or '.join(PROMPT_KEYS)} and {' or '.join(RESPONSE_KEYS)}")
    return texts, chats


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((str(row[key]).strip() for key in keys if row.get(key)), "")


def _rendered(prompt: str, extra: str, response: str) -> str:
    parts = [("Instruction", prompt), ("Input", extra), ("Response", response)]
    return "\n\n".join(f"### {name}:\n{text}" for name, text in parts if text)


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    """One object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows):,} rows, {path.stat().st_size:,} bytes", file=sys.stderr)


def _prepare(arguments: argparse.Namespace) -> None:
    if arguments.kind == "books":
        write_jsonl(arguments.out / "books.jsonl", prepare_books(arguments.source))
    else:
        texts, chats = prepare_instructions(arguments.source)
        write_jsonl(arguments.out / "instructions.jsonl", texts)
        write_jsonl(arguments.out.with_name(arguments.out.name + "-chats") / "chats.jsonl", chats)  # not beside: a folder is read whole


def _report(arguments: argparse.Namespace) -> None:
    from golden_report import document
    from golden_text import read_study

    experiments = [read_study(folder) for folder in arguments.experiment]
    after = [read_study(folder) for folder in arguments.follow_up]
    opening = arguments.prediction.read_text(encoding="utf-8").strip()
    if arguments.prediction == PREDICTION and AFTERWARDS.is_file():
        opening += "\n\n" + AFTERWARDS.read_text(encoding="utf-8").strip()
    sys.stdout.write(document(opening, experiments, after))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    prepare = verbs.add_parser("prepare", help="rearrange texts or instruction rows into the study's data")
    prepare.add_argument("kind", choices=("books", "instructions"))
    prepare.add_argument("source", nargs="+", type=Path)
    prepare.add_argument("--out", type=Path, required=True)
    prepare.set_defaults(do=_prepare)
    report = verbs.add_parser("report", help="write the study's document on stdout")
    report.add_argument("experiment", nargs="+", type=Path)
    report.set_defaults(do=_report)
    report.add_argument("--follow-up", nargs="+", type=Path, default=[], help="folders of phi/rate-end, which was asked for afterwards")
    report.add_argument("--prediction", type=Path, default=PREDICTION, help="what was predicted, hand-written")
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
