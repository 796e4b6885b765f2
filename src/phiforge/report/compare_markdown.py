"""A comparison in Markdown: the sentence, the verdicts, and what is needed to believe them or not."""

from __future__ import annotations

from typing import Any

from phiforge.report.compare_costs import cost_table
from phiforge.report.compare_parts import quoted
from phiforge.report.experiment import Experiment
from phiforge.report.format import number, when, words
from phiforge.report.markdown import escape, table
from phiforge.report.read import number_of
from phiforge.report.verdicts import (
    between,
    count_of,
    decimals,
    headline,
    places,
    probability,
    seeds_needed,
    short,
    signed,
    what_would_change,
)


def markdown_of(x: Experiment) -> str:
    """The whole of it."""
    sections = [
        ("To know first", "\n".join(f"- {escape(text)}" for text in x.words("warnings"))),
        ("Verdicts", _verdicts(x, x.family, against=False)),
        ("Predicted and measured", _prediction(x)),
        ("Every arm", _costs(x)),
        ("Controls", _verdicts(x, x.controls, against=True)),
        ("Trials that did not count", _failures(x)),
        ("What a pair shares", _streams(x)),
        ("What would change the verdict", _outlook(x)),
        ("Other tests (shown, they don't decide)", _others(x)),
        ("How to make it again", _again(x)),
    ]
    parts = [f"# {escape(short(x.name, 120))}", escape(headline(x))]
    parts += [part for title, text in sections if text for part in (f"## {title}", text)]
    return "\n\n".join(parts) + "\n"


def _verdicts(x: Experiment, comparisons: list[dict[str, Any]], *, against: bool) -> str:
    digits = places(x.family or comparisons)
    rows: list[list[Any]] = []
    for c in comparisons:
        least = number_of(c.get("minimum_detectable"))
        row: list[Any] = [
            short(c.get("arm")),
            *([short(c.get("against") or x.baseline)] if against else []),
            str(c.get("verdict") or "none"),
        ]
        row += [signed(number_of(c.get("mean")), digits), between(c, digits), probability(c.get("p")), probability(c.get("p_holm"))]
        row += [str(count_of(c)), signed(number_of(c.get("effect_size")), 2)]
        rows.append([*row, "–" if least is None else f"{least:.{max(digits, decimals([least]))}f}", seeds_needed(c)])
    columns = [
        "arm",
        *(["against"] if against else []),
        "verdict",
        f"difference in {words(x.metric)}",
        "95 % interval",
        "p",
        "p after Holm",
    ]
    text = table([*(escape(c) for c in columns), "pairs", "effect size", "detectable from", "seeds needed"], rows)
    if not text or against:
        return text
    side = "below" if x.lower_is_better else "above"
    below = f"Difference: arm minus {escape(short(x.baseline)) or 'baseline'}; {side} zero is better."
    return f"{text}\n\n{below}" + (f" Decided by: {escape(x.text('decided_by'))}." if x.text("decided_by") else "")


def _costs(x: Experiment) -> str:
    columns, rows = cost_table(x)
    return table([escape(c) for c in columns], [[short(row[0]), *row[1:]] for row in rows]) if len(columns) > 1 else ""


def _prediction(x: Experiment) -> str:
    parts = [(name, x.text(name)) for name in ("question", "prediction")]
    return "\n".join(f"- {name}: {escape(text)}" for name, text in parts if text)


def _failures(x: Experiment) -> str:
    rows: list[list[Any]] = [[short(arm.name), str(t.seed), t.status, short(t.error, 300)] for arm, t in x.trials() if not t.complete]
    return table(["arm", "seed", "status", "why"], rows)


def _streams(x: Experiment) -> str:
    parts = [("shared", x.words("shared")), ("not shared", x.words("not_shared"))]
    return "\n".join(f"- {name}: {escape(', '.join(items) or 'nothing')}" for name, items in parts) if any(i for _, i in parts) else ""


def _outlook(x: Experiment) -> str:
    digits = places(x.family)
    return "\n".join(f"- {escape(short(c.get('arm')))}: {escape(what_would_change(x, c, digits))}" for c in x.family)


def _others(x: Experiment) -> str:
    digits = places(x.comparisons)
    rows: list[list[Any]] = [
        [short(c.get("arm")), probability(c.get("t_p")), probability(c.get("wilcoxon_p")), between(c, digits, "bootstrap")]
        for c in [*x.family, *x.controls]
    ]
    return table(["arm", "paired t", "Wilcoxon", "bootstrap interval"], rows)


def _again(x: Experiment) -> str:
    noise = number_of(x.part("noise").get("sd_over_seeds"))
    lines = ["    phiforge " + " ".join(_line(quoted(word)) for word in x.command)] if x.command else []
    facts = [
        ("recipe", x.text("recipe")),
        ("seeds", ", ".join(x.words("seeds")[:50])),
        ("made", when(x.data["made"]) if x.data.get("made") else ""),
    ]
    facts += [("standard deviation over seeds", number(noise))] if noise is not None else []
    listed = "\n".join(f"- {name}: {escape(value)}" for name, value in facts if value)
    return "\n\n".join(part for part in (*lines, listed) if part)


def _line(text: str) -> str:
    """A code line: no line break, no control character."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
