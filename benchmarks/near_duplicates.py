"""Near-duplicate removal on planted copies: how many are found, how many other documents go with them, and at what speed.

    python benchmarks/near_duplicates.py [--data FOLDER] [--documents 400] [--seed 0] [--record]

FOLDER holds real texts (books-58, eight-books, wiki-c4-demo, tinystories-sample, gsm8k, peps; default $PHIFORGE_SHARED_DATA or
shared/data). They are cut into documents of 50 to 5,000 words, whole books among them. For each kind of change some documents get a changed
copy, planted later in the corpus: recall is the share of copies that are removed. Beside them lie documents that look alike and aren't:
one licence before different texts, one preface, lists of the same things in part, school problems of one mould. Every removal of a
document that is no planted copy counts as false, whatever it looks like.
"""

from __future__ import annotations

import os

os.environ["RAYON_NUM_THREADS"] = "1"

import argparse
import gzip
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import record

from phiforge.data.dedup import COLUMNS, DTYPE, empty, near_duplicates, signature
from phiforge.data.filters import strip_gutenberg

LENGTHS = (50, 120, 400, 1500, 5000)
OCR = {"e": "c", "l": "1", "rn": "m", "h": "b", "o": "0", "i": "j", "u": "n", "s": "5", "m": "rn", "a": "o", "t": "f"}
LICENCE = (
    "This text is made available under the terms of the free reading licence. You may copy it, give it away or use it again under the terms"
    " that are included with it. It is provided as is, without warranty of any kind, either expressed or implied, including but not limited"
    " to fitness for a purpose. In no event shall the makers be liable for any damage that arises from the use of this text or of any text"
    " derived from it, even if they have been told that such damage may happen. Copies must carry this notice whole and unchanged. If you"
    " live in a country where a part of these terms does not hold, the other parts hold all the same. Corrections are welcome; send them to"
    " the people named on the first page. A fee may be asked for the cost of copying, and for nothing else. "
)


def read(path: Path) -> str:
    """A plain or gzipped text."""
    raw = path.read_bytes()
    return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")


def records(path: Path, field: str) -> list[str]:
    """One field of a .jsonl file."""
    return [json.loads(line)[field] for line in read(path).splitlines()]


def cut(text: str, words: int) -> list[str]:
    """Documents of about so many words, in whole paragraphs where they are short enough."""
    pieces: list[str] = []
    held: list[str] = []
    count = 0
    for paragraph in re.split(r"\n\s*\n", text):
        size = len(paragraph.split())
        if not size:
            continue
        held.append(paragraph)
        count += size
        if count >= words:
            pieces.append("\n\n".join(held))
            held, count = [], 0
    return pieces


# --- changes ------------------------------------------------------------------------------------------------------------------------


def edit(share: float) -> Callable[[str, random.Random, list[str]], str]:
    """That share of the words replaced (half), left out or doubled by a new one."""

    def change(text: str, rng: random.Random, vocabulary: list[str]) -> str:
        parts = re.split(r"(\s+)", text)
        at = [i for i in range(0, len(parts), 2) if parts[i]]
        for i in rng.sample(at, max(1, round(share * len(at)))):
            kind = rng.random()
            new = rng.choice(vocabulary)
            parts[i] = new if kind < 0.5 else "" if kind < 0.75 else f"{parts[i]} {new}"
        return "".join(parts)

    return change


def paragraphs(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    """A tenth of the text dropped or added, in one piece, between lines or sentences."""
    parts = re.split(r"(?<=\n)|(?<=[.!?] )", text)
    size = len(text) // 12
    if rng.random() < 0.5:
        at, gone = rng.randrange(len(parts)), 0
        while at < len(parts) and gone + len(parts[at]) <= size:
            gone += len(parts[at])
            parts[at] = ""
            at += 1
        return "".join(parts)
    new = ""
    while len(new) < size:
        new += rng.choice(vocabulary) + " "
    parts.insert(rng.randrange(len(parts)), f"\n\n{new}\n\n")
    return "".join(parts)


def rewrap(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    """Other line ends, words hyphenated over them."""
    width, lines, line = rng.choice((40, 60, 100)), [], ""
    for word in text.split():
        if len(line) + len(word) > width:
            if len(word) > 6 and word.isalpha() and rng.random() < 0.6:
                lines.append(f"{line} {word[:3]}-")
                word = word[3:]
            else:
                lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def case_and_punctuation(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    """All in one case, typographic marks made plain or left out."""
    text = text.upper() if rng.random() < 0.5 else text.lower()
    return re.sub(r"[,;:!?\"“”‘’'()_*-]", "", text) if rng.random() < 0.5 else text.replace(",", " ,").replace(".", " .")


def ocr(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    """One letter in a hundred misread."""
    out = list(text)
    for i in rng.sample(range(len(out)), max(1, len(out) // 100)):
        out[i] = OCR.get(out[i], out[i])
    return "".join(out)


def header(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    """A title page before it and a note behind it, together an eighth of the text at most."""
    size = min(60, len(text.split()) // 16)
    front, back = (" ".join(rng.choice(vocabulary) for _ in range(size)) for _ in range(2))
    return f"{front.title()}\n\n{text}\n\n[{back}]\n"


CHANGES: dict[str, Callable[[str, random.Random, list[str]], str]] = {
    **{f"{share:.0%} of the words": edit(share) for share in (0.01, 0.02, 0.05, 0.1)},
    "a twelfth dropped or added": paragraphs,
    "other line ends, hyphenated": rewrap,
    "case and punctuation": case_and_punctuation,
    "1 % of the letters misread": ocr,
    "header and footer": header,
}


# --- the corpus -----------------------------------------------------------------------------------------------------------------------


def originals(folder: Path, rng: random.Random, count: int) -> tuple[dict[str, list[str]], dict[str, list[str]], list[str]]:
    """Documents by kind; further ones that are in the corpus in no other form; the books both came from."""
    paths = [*sorted((folder / "books-58").glob("*.md.gz")), *sorted((folder / "eight-books").glob("*.txt"))]
    books = [strip_gutenberg(read(path))[0] for path in paths]
    found: dict[str, list[str]] = {}
    order = list(range(len(books)))
    rng.shuffle(order)
    share = -(-len(books) // len(LENGTHS))
    for number, length in enumerate(LENGTHS):
        mine = order[number * share : (number + 1) * share]  # each book is cut one way: a page would lie in a longer document otherwise
        found[f"{length} words"] = [piece for at in mine for piece in cut(books[at], length)]
    found["web pages"] = records(folder / "wiki-c4-demo" / "c4_demo.jsonl.gz", "text")
    found["encyclopedia"] = [line for line in read(folder / "wiki-c4-demo" / "wiki_demo.txt.gz").splitlines() if line.strip()]
    found["stories"] = cut(read(folder / "tinystories-sample" / "tiny_stories.txt.gz"), 150)
    found["PEPs"] = records(folder / "peps" / "peps.jsonl.gz", "text")
    spare = {}
    for kind, documents in found.items():
        rng.shuffle(documents)
        most = min(count, len(documents) * 2 // 3)
        spare[kind], found[kind] = documents[most:], documents[:most]
    return found, spare, books


def look_alikes(spare: dict[str, list[str]], folder: Path, rng: random.Random, count: int) -> dict[str, list[str]]:
    """Documents that share text or a mould with others and are documents of their own."""
    preface, *long = spare["1500 words"][: count // 4]
    names = read(folder / "names" / "names.txt").split()
    return {
        "one licence (160 words) before 120 words": [f"{LICENCE}\n\n{d}" for d in spare["120 words"][:count]],
        "one licence before and after 400 words": [f"{LICENCE}\n\n{d}\n\n{LICENCE}" for d in spare["400 words"][:count]],
        "one preface (1,500 words) before 1,500 others": [f"{preface}\n\n{d}" for d in long],
        "lists, half the names in common": [", ".join(rng.sample(names[:400], 200)) for _ in range(count // 4)],
        "school problems": records(folder / "gsm8k" / "train.jsonl.gz", "question")[: 10 * count],
    }


def corpus(folder: Path, rng: random.Random, count: int) -> Iterator[tuple[str, str, str]]:
    """(text, kind, "" or the change that made it): originals first, then copies and look-alikes, shuffled among each other."""
    found, spare, books = originals(folder, rng, count)
    vocabulary = sorted({word for book in books[:10] for word in book.split() if word.isalpha()})
    alike = look_alikes(spare, folder, rng, count)
    later: list[tuple[str, str, str]] = [(text, kind, "") for kind, texts in alike.items() for text in texts]
    for kind, texts in found.items():
        for name, change in CHANGES.items():
            for text in rng.sample(texts, max(1, len(texts) // 12)):
                later.append((change(text, rng, vocabulary), kind, name))
    for number, (name, change) in enumerate(CHANGES.items()):
        for book in books[number::13]:
            later.append((change(book, rng, vocabulary), "books", name))
    for book, other in zip(books[::9], books[1::9], strict=False):
        chapter = cut(other, 8000)[0]
        half = len(book) // 2
        if len(book.split()) > 60_000:
            later.append((book[:half] + chapter + book[half:], "books", "a chapter of another book put in"))
    rng.shuffle(later)
    for kind, texts in {**found, "books": books}.items():
        for text in texts:
            yield text, kind, ""
    yield from later


def main() -> None:
    """Measure, print, and record when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("PHIFORGE_SHARED_DATA", Path(__file__).parents[1] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--documents", type=int, default=400, help="at most so many documents of a kind")
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print what was removed falsely")
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    result = measure(list(corpus(chosen.data, random.Random(chosen.seed), chosen.documents)), chosen.threshold, chosen.show)
    print(json.dumps(result, indent=1, ensure_ascii=False))
    if chosen.record:
        settings = {"threshold": chosen.threshold, "documents": chosen.documents, "seed": chosen.seed}
        record("near_duplicates", [result], config=settings)


def measure(documents: list[tuple[str, str, str]], threshold: float, show: bool = False) -> dict[str, Any]:
    """Recall by change and by kind, false removals by kind, speeds."""
    signature("a warm up of five words")
    started = time.process_time()
    rows = np.stack([row if (row := signature(text)) is not None else empty() for text, _, _ in documents])
    signing = time.process_time() - started
    started = time.process_time()
    repeats = near_duplicates(rows, threshold)
    matching = time.process_time() - started
    planted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    others: Counter[str] = Counter()
    false: Counter[str] = Counter()
    for (text, kind, change), first in zip(documents, repeats, strict=True):
        if change:
            planted.update([change, f"of {kind}", "all"])
            found.update([change, f"of {kind}", "all"] if first >= 0 else [])
            continue
        others.update([kind, "all"])
        if first >= 0:
            false.update([kind, "all"])
            if show:
                print(f"--- {kind}: {text[:400]!r}\n    {documents[first][0][:400]!r}")
    size = sum(len(text.encode()) for text, _, _ in documents) / 1e6
    return {
        "name": "near duplicates",
        "documents": len(documents),
        "megabytes": round(size, 1),
        "bytes_a_row": COLUMNS * np.dtype(DTYPE).itemsize,
        "recall": {key: [found[key], planted[key], round(found[key] / planted[key], 4)] for key in planted},
        "false_removals": {key: [false[key], others[key], round(false[key] / others[key], 5)] for key in others},
        "signatures_mb_per_cpu_second": round(size / signing, 1),
        "matching_documents_per_cpu_second": round(len(documents) / matching),
    }


if __name__ == "__main__":
    main()
