"""The parts of a comparison's page that come from the runs themselves: curves, schedules, samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from phiforge.report.compare_parts import labelled, marked
from phiforge.report.experiment import Arm, Experiment
from phiforge.report.format import count, duration, number, words
from phiforge.report.html import Markup, card, details, esc, join, tag
from phiforge.report.read import number_of
from phiforge.report.svg import Chart, Series, draw, look
from phiforge.report.trajectory import Axis, Trajectory, at_equal, average, difference
from phiforge.report.verdicts import between, decimals, interval_of, short, signed

_TOGETHER = 4  # arms that one chart holds with their intervals; more get a chart each
_SMALL_IN_SIGHT = 6  # charts of one arm each that are not folded, where it is the second set of them
_SCHEDULES = {"learning_rate": False, "batch_size": True, "dropout": False, "weight_decay": False}  # name: drawn as stairs
_LONGEST_SAMPLE = 1200  # characters
Line = tuple[tuple[float, ...], tuple[float, ...]]


def legend(arms: Iterable[Arm]) -> Markup:
    """Which line is whose, in the page's own text."""
    items = []
    for arm in arms:
        colour, dashes = look(arm.look)
        dash = f' stroke-dasharray="{" ".join(f"{d:g}" for d in dashes)}"' if dashes else ""
        line = Markup(
            f'<svg aria-hidden="true"><line x1="0" x2="100%" y1="50%" y2="50%" stroke="{colour}" stroke-width="2.5"{dash}/></svg>'
        )
        items.append(tag("li", join([line, tag("span", short(arm.name))])))
    return tag("ul", join(items), klass="legend") if items else Markup("")


def figure(chart: Chart, title: Any = None) -> Markup:
    """A chart with its caption."""
    unit = join([" ", tag("span", chart.unit)]) if chart.unit else ""
    return tag("figure", join([tag("figcaption", join([title or chart.title, unit])), draw(chart)]))


def _series(arm: Arm, t: Trajectory, *, band: bool) -> Series:
    edges = (t.low.tolist(), t.high.tolist()) if band and t.low is not None and t.high is not None else None
    return Series(arm.name, t.x.tolist(), t.mean.tolist(), band=edges, look=arm.look)


def curves(x: Experiment) -> Markup:
    """Every arm's mean over seeds on its way, and how far from the baseline, over tokens and over seconds."""
    parts: list[Any] = []
    with_curves = [arm for arm in x.arms if arm.curves]
    if not with_curves:
        return Markup("")
    baseline = x.arm(x.baseline)
    metric = words(x.metric)
    for axis, title in (("tokens", "At equal tokens"), ("seconds", "At equal seconds")):
        drawn = [(arm, t) for arm in with_curves if (t := average(arm.curves, axis)) is not None]  # type: ignore[arg-type]
        if not drawn:
            continue
        banded = len(drawn) <= _TOGETHER
        chart = Chart(metric, "", tuple(_series(arm, t, band=banded) for arm, t in drawn), x_label=axis, legend=False, height=3.1)
        shown = [figure(chart, f"{metric.capitalize()}, mean over seeds" + (" with 95 % interval" if banded else ""))]
        away = _away(x, baseline, axis) if baseline else []  # type: ignore[arg-type]
        if away and len(away) <= _TOGETHER:
            both = Chart(
                "difference", "", tuple(_series(a, t, band=True) for a, t in away), x_label=axis, legend=False, zero=True, height=3.1
            )
            shown.append(figure(both, f"Difference from {short(x.baseline, 30)}, mean over pairs with 95 % interval"))
        parts += [tag("h3", title), tag("div", join(shown), klass="grid")]
        if len(away) > _TOGETHER:
            parts.append(_small(x, away, axis))  # type: ignore[arg-type]
        if baseline:
            parts.append(_equal(x, baseline, axis))  # type: ignore[arg-type]
    note = "Evaluations on the way. Bands over seeds hold the seeds' own spread, which the pairs take out: judge by the differences."
    return card("Curves", legend(with_curves), *parts, note=note) if parts else Markup("")


def _away(x: Experiment, baseline: Arm, axis: Axis) -> list[tuple[Arm, Trajectory]]:
    return [(arm, t) for arm in x.arms if arm is not baseline and (t := difference(arm, baseline, axis)) is not None]


def _small(x: Experiment, away: Sequence[tuple[Arm, Trajectory]], axis: Axis) -> Markup:
    """Each arm's difference in a chart of its own."""
    edges = [np.concatenate([edge for edge in (t.mean, t.low, t.high) if edge is not None]) for _, t in away]
    low, high = min(0.0, *(e.min() for e in edges)), max(0.0, *(e.max() for e in edges))
    pad = 0.05 * (high - low) or 1.0
    look: dict[str, Any] = {"x_label": axis, "legend": False, "zero": True, "width": 3.5, "height": 2.1, "span": (low - pad, high + pad)}
    made = [figure(Chart("difference", "", (_series(arm, t, band=True),), **look), marked(arm, arm.name)) for arm, t in away]
    head = tag("p", f"Difference from {short(x.baseline, 30)}, mean over pairs with 95 % interval, one scale for all:", klass="tag")
    charts = join([head, tag("div", join(made), klass="grid small")])
    return charts if axis == "tokens" or len(away) <= _SMALL_IN_SIGHT else details(f"each arm's difference over {axis}", charts)


def _equal(x: Experiment, baseline: Arm, axis: Axis) -> Markup:
    """Differences where both runs of a pair have done as much, in tokens or in seconds."""
    found = [(arm, at) for arm in x.arms if arm is not baseline and (at := at_equal(arm, baseline, axis)) is not None]
    digits = min(6, decimals([(at.high - at.low) / 2 if at.low is not None and at.high is not None else at.mean for _, at in found]))
    rows, places = [], []
    for arm, at in found:
        place, mean, n = at.place, at.mean, at.n
        ends = f"{signed(at.low, digits)} to {signed(at.high, digits)}" if at.low is not None else "–"
        recorded = _recorded(x, arm) if axis == "seconds" else None
        if recorded:
            place, mean, n = recorded["seconds"], recorded["mean"], int(number_of(recorded.get("n")) or at.n)
            ends = between(recorded, digits) if interval_of(recorded) else "–"
        places.append(f"{count(int(place))} tokens" if axis == "tokens" else duration(place))
        rows.append([marked(arm, arm.name), signed(mean, digits), ends, str(n)])
    met = {arm.name for arm, _ in found}
    apart = [short(arm.name) for arm in x.arms if arm is not baseline and arm.curves and arm.name not in met]
    note = tag("p", f"No pair has a stretch of {axis} in common with the baseline: {', '.join(apart)}.", klass="tag") if apart else ""
    columns = ["arm", "difference", "95 % interval", "pairs"]
    if len(set(places)) == 1:
        return join([tag("p", f"Difference after {places[0]}:", klass="tag"), labelled(columns, rows), note])
    return join([labelled([*columns, "after"], [[*row, place] for row, place in zip(rows, places, strict=True)]), note])


def _recorded(x: Experiment, arm: Arm) -> dict[str, Any] | None:
    """What the comparison itself found at equal seconds."""
    for c in x.comparisons:
        found = c.get("equal_seconds")
        if c.get("arm") == arm.name and c.get("against", x.baseline) == x.baseline and isinstance(found, dict):
            return found if number_of(found.get("mean")) is not None and number_of(found.get("seconds")) is not None else None
    return None


def schedules(x: Experiment) -> Markup:
    """Rate, batch, dropout and weight decay of each arm's first run, as they were applied; arms with the same line share it."""
    shown = []
    for name, stairs in _SCHEDULES.items():
        groups: dict[Line, list[Arm]] = {}
        for arm in x.arms:
            line = _scheduled(arm, name)
            if line:
                groups.setdefault(line, []).append(arm)
        if groups:
            chart = Chart(
                words(name),
                "",
                tuple(Series(arms[0].name, list(xs), list(ys), look=arms[0].look, stairs=stairs) for (xs, ys), arms in groups.items()),
                x_label="tokens",
                legend=False,
            )
            said = _who(x, name, list(groups.values()))
            shown.append(tag("div", join([figure(chart, words(name).capitalize()), said])))
    drawn = [arm for arm in x.arms if any(_scheduled(arm, name) for name in _SCHEDULES)]
    note = "As applied, read from the first run of each arm."
    return card("Schedules", legend(drawn), tag("div", join(shown), klass="grid"), note=note) if shown else Markup("")


def _who(x: Experiment, name: str, groups: list[list[Arm]]) -> Markup:
    """Which arms share a line, and which have none."""
    drawn = sum(map(len, groups))
    if len(groups) == 1 and drawn == len(x.arms):
        return tag("p", "the same in every arm", klass="tag") if drawn > 1 else Markup("")
    said = [f"{short(arms[0].name, 24)} = {', '.join(short(a.name, 24) for a in arms[1:])}" for arms in groups if len(arms) > 1]
    text = f"On one line: {'; '.join(said)}. " if said else ""
    text += f"The others did not schedule their {words(name)}." if drawn < len(x.arms) else ""
    return tag("p", text, klass="tag") if text else Markup("")


def _scheduled(arm: Arm, name: str) -> Line | None:
    """(tokens, values) of the first complete run that logged it."""
    for trial in arm.complete or arm.trials:
        points = [
            (t, v)
            for line in trial.lines
            if (t := number_of(line.get("tokens"))) is not None and (v := number_of(line.get(name))) is not None
        ]
        if len(points) > 1:
            xs, ys = zip(*points, strict=True)
            return xs, ys
    return None


def samples(x: Experiment) -> Markup:
    """The last words of each arm's first run, side by side."""
    blocks = []
    for arm in x.arms:
        trial = next((trial for trial in arm.complete if trial.samples), None)
        if trial is None:
            continue
        last = trial.samples[-1].get("step")
        said = [line for line in trial.samples if line.get("step") == last][:4]
        texts = [tag("pre", _spoken(line)) for line in said]
        value = f", {words(x.metric)} {number(trial.value)}" if trial.value is not None else ""
        step = f"step {number(last)}, " if isinstance(last, int) else ""
        at = tag("div", join([esc(f"{step}seed {trial.seed}{value}")]), klass="at")
        blocks.append(tag("div", join([tag("h3", marked(arm, arm.name)), at, *texts]), klass="sample"))
    shown, rest = blocks[:6], blocks[6:]
    more = details(f"{len(rest)} more arms", tag("div", join(rest), klass="samples")) if rest else ""
    note = "The last sample of each arm's first seed; the prompt is grey. One sample proves nothing either way."
    return card("In their own words", tag("div", join(shown), klass="samples"), more, note=note) if blocks else Markup("")


def _spoken(line: dict[str, Any]) -> Markup:
    prompt, text = line.get("prompt"), str(line["text"])
    cut = text if len(text) <= _LONGEST_SAMPLE else text[:_LONGEST_SAMPLE] + "…"
    return join([tag("b", prompt[:_LONGEST_SAMPLE]) if isinstance(prompt, str) and prompt else "", cut])
