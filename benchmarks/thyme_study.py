"""The study of Thyme's 57.1 as a document: what the protocol is, what each model comes to under it, by budget, and whether that is luck.

    phiforge run thyme/origin data=BOOKS --out STUDY/literal-full                         # the first design, full length
    phiforge run thyme/origin data=BOOKS form=outer --out STUDY/outer-full
    phiforge run thyme/origin-attention data=BOOKS --out STUDY/attention-full
    phiforge run thyme/origin data=STUDY/literal-full/data tokenizer=STUDY/literal-full/tokenizer form=outer seed=1 \\
        num_train_epochs=null train_seconds=240 --out STUDY/outer-240-1                   # one of a pair; likewise the others, seeds 1 to 6
    python -m benchmarks.thyme_study STUDY > docs/studies/thyme.md

It reads every finished evaluation with a `protocol` in the folder, and the training behind it; names of folders don't matter. Nothing but
what is computed from them is said of results; docs/studies/thyme-notes.md, where there is one, is set before them as it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiforge.core.errors import PhiforgeError
from phiforge.core.runs import Run
from phiforge.report.blocks import picture
from phiforge.stats.verdict import judge

CLAIMED = 57.1
NOTES = Path(__file__).parents[1] / "docs" / "studies" / "thyme-notes.md"
ARMS = ("literal", "outer", "attention")
PROTOCOL = """Chunks of about 500 characters are packed by paragraph, and a random tenth of them is held out (seed 42): the text beside
every held-out chunk is trained on. The words of a BPE of 10,000 are learned from all of it, the held-out chunks too, and blanks are lost.
The held-out tokens are one row; a window predicts 128 of them from at most 128 before it, its state empty at the start. The loss is the
mean of a batch of 32 windows, then of the batches; perplexity is its exponential. *Overlapping*: windows stand 64 apart, as in the
document's origin. *Disjoint*: 128 apart, so that every token is predicted once. Bits per byte count the text's own bytes, blanks included,
which no token pays for: they compare what stands on this page, and nothing else. The trigram (Witten-Bell, the same training tokens) reads
the same windows."""


@dataclass(frozen=True)
class Result:
    """One training and its evaluation."""

    name: str
    arm: str
    seed: int
    budget: str
    seconds_asked: float | None
    parameters: int
    metrics: dict[str, Any]  # of both
    rows: dict[tuple[str, bool], dict[str, Any]]  # (who, disjoint) -> row of the evaluation's protocol
    curve: list[tuple[float, float]]  # seconds, bits per byte of held-out text on the way
    machine: str
    data: str  # fingerprint of the text
    held_out: str = "chunks"  # what of it: chunks, or whole books

    def value(self, who: str = "model", *, disjoint: bool = False, what: str = "perplexity") -> float:
        """A figure of the protocol."""
        row = self.rows[who, disjoint]
        return float(row["bits_per_byte"]["value"] if what == "bits_per_byte" else row[what])


def read_results(folder: Path) -> list[Result]:
    """Every evaluation with a protocol below `folder`, with the training that it names or that lies beside it."""
    results = []
    for file in sorted(folder.rglob("evaluation.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if found.get("protocol") and Run.is_run(file.parent):
            evaluation = Run.open(file.parent)
            model = _model_run(evaluation)
            if evaluation.status == "complete" and model is not None:
                results.append(_result(file.parent, found, evaluation, model))
    return results


def _model_run(evaluation: Run) -> Run | None:
    parent = evaluation.manifest.parents.get("model")
    if parent is None:
        return None
    places = [evaluation.path.parent / Path(parent.path).name, Path(parent.path)]
    runs = [Run.open(place) for place in places if Run.is_run(place)]
    return next((run for run in runs if run.manifest.id == parent.id), None)


def _result(folder: Path, found: dict[str, Any], evaluation: Run, model: Run) -> Result:
    config, manifest = model.config, model.manifest
    shape = config.get("model") or {}
    protocol = found["protocol"]
    first = protocol["rows"][0]["borders"]
    rows = {(row["who"], row["stride"] == protocol["length"]): row for row in protocol["rows"] if row["borders"] == first}
    metrics = {**manifest.metrics, **evaluation.manifest.metrics}
    hardware = manifest.hardware
    lines = [line for line in model.metrics() if isinstance(line.get("eval_bits_per_byte"), float)]
    return Result(
        name=folder.parent.name,
        arm=str(shape.get("form", "outer")) if shape.get("family") == "thyme" else "attention",
        seed=int(config.get("seed", 0)),
        budget=_budget(config),
        seconds_asked=config.get("train_seconds"),
        parameters=int(manifest.metrics["parameters"]),
        metrics=metrics,
        rows=rows,
        curve=[(float(line["seconds"]), line["eval_bits_per_byte"]) for line in lines],
        machine=f"{hardware.get('cores')} cores of {hardware.get('processor')}, torch {manifest.versions.get('torch')},"
        f" commit {str(manifest.git_commit)[:7]}",
        data=str(manifest.parents["data"].fingerprint) if "data" in manifest.parents else "",
        held_out=_held_out(evaluation),
    )


def _held_out(evaluation: Run) -> str:
    """By the data run that was scored; chunks where it can't be told."""
    parent = evaluation.manifest.parents.get("data")
    places = [] if parent is None else [evaluation.path.parent / Path(parent.path).name, Path(parent.path)]
    split = next((Run.open(place).config.get("split") for place in places if Run.is_run(place)), "chunks")
    return "chunks" if split == "chunks" else "whole books"


def _budget(config: dict[str, Any]) -> str:
    if config.get("train_seconds"):
        return f"{config['train_seconds'] / 60:.3g} minutes"
    for name, unit in (("max_steps", "steps"), ("max_tokens", "tokens"), ("num_train_epochs", "epochs")):
        if config.get(name):
            return f"{config[name]:,.10g} {unit}"
    return "as the stage has it"


# -- the page ----------------------------------------------------------------------------------------------------------


def document(results: Sequence[Result], notes: str = "", verdicts: Sequence[dict[str, Any]] = ()) -> str:
    """The whole page. Raises SystemExit where there is nothing to say."""
    if not results:
        raise SystemExit("no finished evaluation with a protocol in that folder")
    by_budget: dict[str, list[Result]] = defaultdict(list)
    for result in sorted(results, key=_order):
        by_budget[result.budget + ("" if result.held_out == "chunks" else f", {result.held_out} held out")].append(result)
    chunks = [result for result in results if result.held_out == "chunks"]
    parts = ["# Thyme's 57.1", opening(chunks or results), notes.strip(), f"## The protocol\n\n{PROTOCOL}"]
    parts += [f"## {budget}\n\n{section(group)}" for budget, group in by_budget.items()]
    parts += [compared(verdict) for verdict in verdicts]
    parts += [f"## On the way\n\n{curves(results)}", again(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _order(result: Result) -> tuple[float, str, int, int]:
    return (-(result.seconds_asked or 1e9), result.budget, ARMS.index(result.arm), result.seed)


def opening(results: Sequence[Result]) -> str:
    """What came out, in a few lines."""
    best = {arm: min((r for r in results if r.arm == arm), key=Result.value, default=None) for arm in ARMS}
    lines = [
        f"- **{arm}** ends at perplexity {found.value():.1f} over overlapping windows and {found.value(disjoint=True):.1f} over disjoint"
        f" ones ({found.budget}, {_minutes(found)}, {found.parameters:,} parameters)."
        for arm, found in best.items()
        if found is not None
    ]
    trigrams = {
        (round(r.value("trigram"), 1), round(r.value("trigram", disjoint=True), 1)) for r in results if ("trigram", False) in r.rows
    }
    lines += [f"- A **trigram** of the same tokens: {over:.1f} and {apart:.1f}." for over, apart in sorted(trigrams)]
    reached = [f"{arm} ({found.value():.1f})" for arm, found in best.items() if found is not None and found.value() <= CLAIMED]
    said = f"{CLAIMED} or less was reached by {', '.join(reached)}" if reached else f"Nothing here came to {CLAIMED}"
    return (
        f"The document gives perplexity {CLAIMED} for eight books after 110 minutes, and not how it was measured. Here is a protocol that"
        " fits what is known of it, and what each model comes to under it. Generated by `benchmarks/thyme_study.py` from the runs' own"
        " files.\n\n" + "\n".join(lines) + f"\n- {said}, over overlapping windows."
    )


def _minutes(result: Result) -> str:
    cpu = result.metrics.get("cpu_seconds")
    return "" if cpu is None else f"{cpu / 60:.1f} CPU-minutes"


HEAD = [
    "model",
    "seeds",
    "parameters",
    "tokens",
    "CPU-minutes",
    "overlapping",
    "of all tokens",
    "disjoint",
    "of all tokens",
    "bits/byte",
    "disjoint",
]


def section(group: Sequence[Result]) -> str:
    """One budget: the table, then the pairs."""
    rows = []
    for arm in ARMS:
        mine = [r for r in group if r.arm == arm]
        if mine:
            seeds = ", ".join(str(r.seed) for r in sorted(mine, key=lambda r: r.seed))
            sizes = " / ".join(f"{n:,}" for n in sorted({r.parameters for r in mine}))
            rows.append(
                [arm, seeds, sizes, f"{_mean([r.metrics.get('tokens', 0) for r in mine]):,.0f}", _cpu(mine), *_figures(mine, "model")]
            )
    with_trigram = [r for r in group if ("trigram", False) in r.rows]
    if with_trigram:
        rows.append(["trigram", "", "", "", "", *_figures(with_trigram, "trigram")])
    texts = len({r.data for r in group})
    warning = f"\n\nThese runs have {texts} different splits of the text: their figures don't compare exactly." if texts > 1 else ""
    return f"{table(HEAD, rows)}\n\nMeans over seeds.{warning}\n\n{pairs(group)}"


def _figures(mine: Sequence[Result], who: str) -> list[str]:
    cells = []
    for disjoint in (False, True):
        for what in ("perplexity", "perplexity_per_token"):
            cells.append(f"{_mean([r.value(who, disjoint=disjoint, what=what) for r in mine]):.1f}")
    return cells + [f"{_mean([r.value(who, disjoint=d, what='bits_per_byte') for r in mine]):.4f}" for d in (False, True)]


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def _cpu(mine: Sequence[Result]) -> str:
    seconds = [r.metrics["cpu_seconds"] for r in mine if r.metrics.get("cpu_seconds") is not None]
    return f"{_mean(seconds) / 60:.1f}" if seconds else ""


def compared(verdict: dict[str, Any]) -> str:
    """A comparison of `phiforge compare` that lies in the folder: its question, its prediction, what came out."""
    rows = []
    for one in verdict["comparisons"]:
        if one.get("role") == "arm":
            low, high = one["interval"] or (float("nan"), float("nan"))
            figures = [f"{one['mean']:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{one['p']:.4f}", f"{one['p_holm']:.4f}"]
            rows.append([f"{one['arm']} against {verdict['baseline']}", f"**{one['verdict']}**", str(one["n"]), *figures])
    arms = "\n".join(f"- **{arm['name']}**: {arm['about']}; {_trials(arm)}" for arm in verdict["arms"] if arm.get("role") != "control")
    said = " ".join(str(verdict["prediction"]).split())
    return (
        f"## Pairs: {verdict['name']}\n\n{verdict['question'][:1].upper()}{verdict['question'][1:]}\n\n{arms}\n\n*Predicted before:* {said}"
        f"\n\n{table(VERDICT, rows)}\n\nPlus is worse than {verdict['baseline']}; {verdict['decided_by']}."
    )


def _trials(arm: dict[str, Any]) -> str:
    """Mean of the values, tokens and CPU seconds of an arm's finished runs."""
    done = [trial for trial in arm["trials"] if trial.get("value") is not None]
    if not done:
        return "no finished run"
    tokens, seconds = ([t["metrics"][name] for t in done if t["metrics"].get(name) is not None] for name in ("tokens", "cpu_seconds"))
    told = [f"{_mean([t['value'] for t in done]):.4f} bits/byte over {len(done)} seeds"]
    told += [f"{_mean(tokens):,.0f} tokens"] if tokens else []
    told += [f"{_mean(seconds):.0f} CPU-seconds"] if seconds else []
    return ", ".join(told)


VERDICT = ["", "verdict", "pairs", "difference, bits/byte", "95 %", "p", "p, Holm"]


def pairs(group: Sequence[Result]) -> str:
    """`outer` against each of the others with the same seeds, by the exact sign-flip test; empty where nothing is paired."""
    by_arm = {arm: {r.seed: r.value(what="bits_per_byte") for r in group if r.arm == arm} for arm in ARMS}
    differences = {
        f"outer against {other}": [by_arm["outer"][seed] - by_arm[other][seed] for seed in sorted(by_arm["outer"]) if seed in by_arm[other]]
        for other in ("literal", "attention")
        if set(by_arm["outer"]) & set(by_arm[other])
    }
    if not differences:
        return ""
    rows = []
    for name, found in judge(differences, baseline="the other").items():
        interval = f"{found.interval[0]:+.4f} to {found.interval[1]:+.4f}" if found.interval else ""
        mean = "" if found.mean is None else f"{found.mean:+.4f}"
        rows.append([name, f"**{found.verdict}**", str(found.n), mean, interval, f"{found.p:.4f}", f"{found.p_holm:.4f}"])
    told = f"Pairs of one seed, overlapping windows; minus is better for `outer`. The exact sign-flip test decides, Holm over {len(rows)}."
    return f"{table(VERDICT, rows)}\n\n{told}"


def curves(results: Sequence[Result]) -> str:
    """Bits per byte of held-out text over seconds of training, of the longest run of each arm; the run's own measure, not the windows'."""
    drawn = []
    for arm in ARMS:
        longest = max((r for r in results if r.arm == arm and len(r.curve) > 2), key=lambda r: r.curve[-1][0], default=None)
        if longest is not None:
            seconds, values = zip(*longest.curve, strict=True)
            lines = "\n".join(picture([s / 60 for s in seconds], list(values), unit="minutes", columns=64))
            drawn.append(f"{arm}, {longest.budget}: {values[0]:.3f} at first, {values[-1]:.3f} at the end\n\n```text\n{lines}\n```")
    return "\n\n".join(drawn) or "The runs are too short to have been looked at on the way."


def again(results: Sequence[Result]) -> str:
    """How to do it again, and on what it was done."""
    machines = "; ".join(sorted({r.machine for r in results}))
    doc = str(__doc__).split("\n\n")[1]
    commands = "\n".join(
        line.strip() if line.strip().startswith(("phiforge", "python")) else "    " + line.strip() for line in doc.splitlines()
    )
    return f"## Again\n\n```sh\n{commands}\n```\n\nThese runs: {machines}."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with the runs")
    parser.add_argument("--notes", type=Path, default=NOTES, help="Markdown that is put before the results, by hand")
    arguments = parser.parse_args()
    notes = arguments.notes.read_text(encoding="utf-8") if arguments.notes.is_file() else ""
    try:
        verdicts = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(arguments.folder.rglob("verdict.json"))]
        sys.stdout.write(document(read_results(arguments.folder), notes, verdicts))
    except PhiforgeError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
