"""What the golden-ratio study comes to: predictions against outcomes, failure modes, the decision by its rule, and the road from there.

The numbers predicted are those of docs/studies/golden-ratio-prediction.md (a test holds the two together).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from golden_text import BETTER, FEW, NONE, WORSE, Study, number, seeds_of, share, signed, table


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """mean, low, high: difference in bits per byte; expected: the verdict; sure: in per cent."""

    mean: float
    low: float
    high: float
    expected: str
    sure: int


PREDICTED = {
    "rate": Predicted(mean=0.03, low=0.01, high=0.06, expected=WORSE, sure=65),
    "rate_cosine": Predicted(mean=0.0, low=-0.01, high=0.02, expected=NONE, sure=80),
    "batch": Predicted(mean=0.02, low=-0.01, high=0.05, expected=WORSE, sure=50),
    "phases": Predicted(mean=0.005, low=-0.01, high=0.02, expected=NONE, sure=90),
    "data": Predicted(mean=0.01, low=-0.01, high=0.03, expected=NONE, sure=80),
    "regularisation": Predicted(mean=-0.01, low=-0.02, high=0.0, expected=NONE, sure=65),
    "shape": Predicted(mean=0.0, low=-0.05, high=0.05, expected=NONE, sure=65),
    "document": Predicted(mean=0.03, low=0.0, high=0.07, expected=WORSE, sure=65),
    "all": Predicted(mean=0.03, low=-0.03, high=0.09, expected=WORSE, sure=45),
}
PREDICTED_DECISION = "unsuccessful"
WHOLE = ("document", "all")  # not components
GAIN = 0.003  # of the baseline's bits per byte: the least mean gain on every data set that is worth a larger run
SUSTAINED = 2e13  # floating-point operations a second of a consumer GPU in training, assumed


def outcome_section(studies: Sequence[Study]) -> str:
    """Each prediction beside what was measured."""
    rows, hits, inside, total = [], 0, 0, 0
    for arm, said in PREDICTED.items():
        cells = [arm, f"{said.mean:+.3f} ({said.low:+.2f} to {said.high:+.2f})", f"{said.expected} ({said.sure} %)"]
        for study in studies:
            row = study.family.get(arm)
            if row is None or row["mean"] is None:
                cells.append("not measured")
                continue
            within, hit = said.low <= row["mean"] <= said.high, row["verdict"] == said.expected
            hits, inside, total = hits + hit, inside + within, total + 1
            size, told = "inside" if within else "outside", "as expected" if hit else "not expected"
            cells.append(f"{signed(row['mean'], 3)}, {size}; {row['verdict']}, {told}")
        rows.append(cells)
    told = f"Verdict as expected in {hits} of {total} cases, the size inside the predicted range in {inside} of {total}."
    head = ["arm", "predicted", "expected verdict", *(study.label for study in studies)]
    return f"## Predicted and measured\n\n{table(head, rows)}\n\n{told}"


# -- the decision -----------------------------------------------------------------------------------------------------


def loses_time(row: Mapping[str, Any]) -> bool:
    """Whether the whole interval of the difference at equal seconds lies on the worse side."""
    equal = row.get("equal_seconds")
    return bool(equal) and equal["interval"][0] > 0


def kept(studies: Sequence[Study], arm: str) -> bool:
    """The rule: better on one data set at least, worse on none at equal tokens, no loss at equal seconds."""
    rows = [study.family[arm] for study in studies if arm in study.family]
    verdicts = {row["verdict"] for row in rows}
    return len(rows) == len(studies) and BETTER in verdicts and WORSE not in verdicts and not any(map(loses_time, rows))


def decide(studies: Sequence[Study]) -> tuple[str, list[str]]:
    """(successful | mixed | unsuccessful | not decided, components that are kept)."""
    whole = {arm: [study.family[arm]["verdict"] for study in studies if arm in study.family] for arm in WHOLE}
    parts = [arm for arm in PREDICTED if arm not in WHOLE and kept(studies, arm)]
    unfinished = any(not study.data.get("finished", True) for study in studies)
    if unfinished or FEW in whole["document"] or len(whole["document"]) < len(studies):
        return "not decided", parts
    if any(len(verdicts) == len(studies) and set(verdicts) == {BETTER} for verdicts in whole.values()):
        return "successful", parts
    return ("mixed" if parts else "unsuccessful"), parts


def decision_section(studies: Sequence[Study], afterwards: Sequence[str] = ()) -> str:
    """The decision, failure modes, what to do, and where to go with numbers. afterwards: what a follow-up found, which decides nothing."""
    decision, parts = decide(studies)
    agreed = "as predicted" if decision == PREDICTED_DECISION else f"predicted was {PREDICTED_DECISION}"
    lines = [f"## The document's decision: {decision}", "", f"By the rule above ({agreed}). {_why(studies, decision, parts)}", ""]
    if afterwards:
        lines += [f"The follow-up, which the rule does not know of, puts this in its place. {' '.join(afterwards)}", ""]
    lines += ["### Failure modes", "", *failure_modes(studies), "", "### Recommendation", "", *recommendation(studies, decision, parts), ""]
    return "\n".join([*lines, "### Roadmap", "", roadmap(studies), "", *limits(studies)])


def _why(studies: Sequence[Study], decision: str, parts: Sequence[str]) -> str:
    lines = []
    for study in studies:
        whole = [(arm, study.family[arm]) for arm in WHOLE if arm in study.family]
        lines.append(f"{study.label}: " + ", ".join(f"{arm} {row['verdict']} ({signed(row['mean'])})" for arm, row in whole))
    told = f"Parts that are kept: {', '.join(parts)}." if parts else "No part is kept."
    why_not = " The experiments are not finished, or have too few pairs." if decision == "not decided" else ""
    return f"The whole plan on {'; on '.join(lines)}. {told}{why_not}"


def failure_modes(studies: Sequence[Study]) -> list[str]:
    """What went wrong, by name and number: arms that lost, arms that lost at equal seconds only, runs that failed."""
    lines = []
    for study in studies:
        for arm, row in study.family.items():
            of = share(row["mean"], study.baseline_value)
            if row["verdict"] == WORSE:
                lines.append(f"- **{arm} loses** on {study.label}: {signed(row['mean'])} ({of}); {_cause(study, arm)}")
            elif loses_time(row):
                at = signed(row["equal_seconds"]["mean"])
                lines.append(f"- **{arm} costs time** on {study.label}: not worse at equal tokens, {at} at equal seconds.")
        for failure in study.data["failures"]:
            lines.append(f"- **failed run** on {study.label}: {failure['arm']}, seed {failure['seed']}.")
    return lines or ["None was seen: no arm is called worse, none failed, none loses at equal seconds."]


def _cause(study: Study, arm: str) -> str:
    """What the arm's controls say about why."""
    rows = [row for row in study.controls if row["arm"] == arm and row["mean"] is not None]
    told = [f"against {row['against']} {signed(row['mean'])} ({row['verdict']})" for row in rows]
    return f"beside its controls: {', '.join(told)}." if told else "it has no control that would say why."


def recommendation(studies: Sequence[Study], decision: str, parts: Sequence[str]) -> list[str]:
    """What a person should switch on, arm by arm."""
    lines = {
        "successful": ["Take the whole plan to the next size.", ""],
        "mixed": [f"Leave the plan as a whole off. Switch on alone: {', '.join(parts)}.", ""],
        "unsuccessful": ["Leave the golden switches off: nothing here beat plain training with a tuned rate that falls to zero.", ""],
        "not decided": ["Finish the runs, or give them more seeds, before anything is concluded.", ""],
    }[decision]
    ahead = [part for part in parts if _gains_more(studies, part, "document")]
    if decision == "successful" and ahead:
        lines = [f"Alone, {' and '.join(ahead)} gains more than the whole plan on every data set: take that, not the plan.", ""]
    for arm in PREDICTED:
        rows = [study.family[arm] for study in studies if arm in study.family]
        verdicts = [row["verdict"] for row in rows]
        if rows and all(verdict == NONE for verdict in verdicts):
            seen = number(max((row.get("minimum_detectable") or 0.0) for row in rows), 3)
            lines.append(f"- {arm}: no reason to use it, none against it; an effect of {seen} bits per byte would have been found.")
        elif WORSE in verdicts and BETTER in verdicts:
            lines.append(f"- {arm}: better on one text and worse on another; off.")
        elif WORSE in verdicts:
            lines.append(f"- {arm}: off; it costs quality.")
        elif BETTER in verdicts:
            lines.append(f"- {arm}: {'on' if kept(studies, arm) else 'off: it loses at equal seconds'}.")
    return lines


def _gains_more(studies: Sequence[Study], part: str, whole: str) -> bool:
    """Whether a part's interval lies wholly on the better side of the whole plan's mean, on every data set."""
    return all(study.family[part]["interval"][1] < study.family[whole]["mean"] for study in studies)


# -- the road ---------------------------------------------------------------------------------------------------------


def go(studies: Sequence[Study], arm: str) -> str:
    """`go`, `no-go` or `more seeds`, with the reason in numbers."""
    rows = [(study, study.family[arm]) for study in studies if arm in study.family and study.family[arm]["mean"] is not None]
    if not rows:
        return "no-go: not measured"
    gains = [-row["mean"] / study.baseline_value for study, row in rows]
    told = ", ".join(f"{100 * gain:+.2f} %" for gain in gains)
    if any(row["verdict"] == WORSE for _, row in rows):
        return f"no-go: worse (gains {told})"
    if min(gains) < GAIN:
        return f"no-go: gains {told}, below {100 * GAIN:g} % on a data set"
    if kept(studies, arm):
        return f"**go**: gains {told}"
    if any(loses_time(row) for _, row in rows):
        return f"no-go: gains {told}, and loses at equal seconds"
    needed = ", ".join(str(row["seeds_needed"] or "over 1,000") for _, row in rows)
    return f"more seeds first: gains {told} that the test can't tell from nothing ({needed} pairs would)"


_EXAMPLES = "1,000 to 5,000 prompts with responses, ten epochs, about 12M tokens"
_STEPS = (  # name, size, parameters, tokens a run, data, gate
    ("phi/small", "40M", 40e6, 25e6, "100 MB of unrepeated text, 25M tokens a run", f"better with 10 seeds, by {100 * GAIN:g} % or more"),
    ("phi/full", "GPT-2 small, 124M", 124e6, 12e6, _EXAMPLES, "better with 10 seeds, also at equal seconds"),
    ("GPT-2 medium", "355M", 355e6, 100e6, "1 GB of unrepeated text, 100M tokens a run", "gain not below half of that at 40M"),
)


def roadmap(studies: Sequence[Study]) -> str:
    """Which arms go on, to which sizes, on what data, for how much, and what stops them."""
    gates = [[arm, go(studies, arm)] for arm in PREDICTED]
    arms = sum(told.startswith("**go**") for _, told in gates)
    steps = table(["step", "size", "data and budget", "runs", "computed cost", "go on if"], [_step(arms or 1, *row) for row in _STEPS])
    rule = f"An arm goes on if it is kept by the rule and gains {100 * GAIN:g} % or more of the baseline's bits per byte on every data set."
    cost = f"cost computed at an assumed {SUSTAINED / 1e12:g} TFLOP/s sustained, not measured"
    if arms:
        then = f"With {arms} arm{'s' if arms > 1 else ''} going on, the next steps are these ({cost}):"
    else:
        then = f"No arm goes on, so no larger run is due. For one arm that a later result brings back, the steps would be these ({cost}):"
    return f"{rule}\n\n{table(['arm', 'to the next size?'], gates)}\n\n{then}\n\n{steps}"


def _step(arms: int, name: str, size: str, parameters: float, tokens: float, data: str, gate: str) -> list[str]:
    runs = (1 + arms) * (3 + 10)  # three rates with a seed each, ten seeds
    hours = 6 * parameters * tokens * runs / SUSTAINED / 3600
    who = f"{runs}: {arms} arm{'s' if arms > 1 else ''} and the baseline, tuning included"
    return [name, size, data, who, f"{hours:,.1f} GPU hours", gate]


def limits(studies: Sequence[Study]) -> list[str]:
    """What this can't say."""
    tokens = {(study.data.get("budget") or {}).get("tokens") for study in studies} - {None}
    length = ", ".join(f"{n:,}" for n in sorted(tokens)) or "?"
    seeds = min(seeds_of(study) for study in studies)
    return [
        "### What this does not say",
        "",
        f"It is about the first {length} tokens of a 1M-parameter model, {seeds} seeds, from scratch, on English. Rates that end high"
        " may do less harm, or more, in longer runs; regularisation can matter where data are repeated, as in the document's ten epochs,"
        " which `phi/full` is for and which was not run here.",
    ]
