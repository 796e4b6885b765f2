"""The page of an evaluation of memory: figures and cards from recall.json and memory.json. `section` is what a run's page shows."""

from __future__ import annotations

import math
from typing import Any

from phiforge.report.format import size
from phiforge.report.html import Markup, card, details, join, table, tag
from phiforge.report.memory import (
    BUDGETS,
    DAMAGED,
    TASKS,
    accuracies,
    bits_table,
    memory_sentences,
    name_of,
    needle_table,
    read,
    recall_table,
)
from phiforge.report.read import RunView, dicts, number_of
from phiforge.report.svg import Chart, Series, draw

_FAR = 2  # how far the axis of a recall chart goes on beyond the bound's knee, in doublings


def _recall_chart(found: dict[str, Any], task: str, budget: str) -> Chart:
    """Accuracy over size on a doubling axis, with the bound going on to where it falls."""
    series = []
    for kind in dicts(found.get("kinds")):
        rows = accuracies(found, kind["name"], task, budget)
        if rows:
            x = [math.log2(row[0]) for row in rows]
            band = ([row[3] for row in rows], [row[4] for row in rows])
            series.append(Series(kind["label"], x, [row[1] for row in rows], band=band if len(found.get("seeds") or []) > 1 else None))
    knee = found["state_bits"] / found["bits_per_answer"]
    first = math.log2(min(entry["size"] for entry in dicts(found["asked"]) if entry["task"] == task))
    last = math.ceil(math.log2(knee)) + _FAR
    places = sorted({first + i * (last - first) / 60 for i in range(61)} | {math.log2(knee)})
    bound = [_most(found["state_bits"] / 2**place, found["values"]) for place in places]
    series.append(Series(f"most that {found['state_bits']:,} bits allow", places, bound, look=0))
    ticks = tuple((float(place), f"{2**place:,}") for place in range(math.floor(first), last + 1, 2))
    return Chart(
        TASKS[task][0],
        f"share of right answers, {BUDGETS[budget]} (dashes: chance, {100 * found['chance']:.1f} %)",
        tuple(series),
        levels=(("", found["chance"]),),  # a label would lie under the legend: the caption names it
        x_label=TASKS[task][1],
        span=(0.0, 1.04),
        x_ticks=ticks,
    )


def _most(bits: float, values: int) -> float:
    """As evaluate.memory_tasks.most_accuracy, of `bits` for each answer; this room lies above that one."""
    if bits >= math.log2(values):
        return 1.0
    low, high = 1 / values, 1.0
    for _ in range(50):
        p = (low + high) / 2
        q = 1 - p
        cost = math.log2(values) + p * math.log2(p) + (q * math.log2(q) if q > 0 else 0) - q * math.log2(values - 1)
        low, high = (p, high) if cost <= bits else (low, p)
    return low


def recall_card(found: dict[str, Any]) -> Markup:
    """Figures, table and costs of the synthetic part."""
    if not dicts(found.get("kinds")) or not dicts(found.get("asked")):
        return Markup("")
    tasks = [task for task in TASKS if any(entry.get("task") == task for entry in dicts(found["asked"]))]
    budgets = [budget for budget in BUDGETS if any(one.get("budget") == budget for one in dicts(found.get("results")))]
    charts = [figure(_recall_chart(found, task, budget)) for budget in budgets[:1] for task in tasks]
    more = [figure(_recall_chart(found, task, budget)) for budget in budgets[1:] for task in tasks]
    note = (
        "Random pairs to be recalled, random strings to be repeated: nothing but memory helps. Bands run from the worst seed to the best."
        f" The line without a colour is no model: it is what {found['state_bits']:,} bits allow at most (rate-distortion bound)."
    )
    return card(
        "Made-up tasks, trained from nothing",
        tag("div", join(charts), klass="grid"),
        table(*recall_table(found, "steps")[1:]),
        tag("h3", "At equal CPU seconds") if more else "",
        tag("div", join(more), klass="grid") if more else "",
        details("the same in figures, at equal CPU seconds", table(*recall_table(found, "seconds")[1:])) if more else "",
        tag("h3", "What it cost, and what is kept"),
        table(*_costs(found)),
        note=note,
    )


def _costs(found: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    rows: list[list[Any]] = []
    for kind in dicts(found["kinds"]):
        memory = {int(tokens): int(held_) for tokens, held_ in kind.get("memory_bytes", {}).items()}
        low, high = (min(memory), max(memory)) if memory else (0, 0)
        kept = f"{memory[high]:,} bytes" if memory and memory[low] == memory[high] else ""
        kept = kept or (f"{memory[low]:,} bytes after {low:,} tokens, {memory[high]:,} after {high:,}" if memory else "–")
        for budget in BUDGETS:
            costs = [cost for cost in dicts(kind.get("costs")) if cost.get("budget") == budget]
            if costs:
                mean = {name: sum(cost[name] for cost in costs) / len(costs) for name in ("steps", "tokens", "cpu_seconds")}
                rows.append(
                    [
                        kind["label"],
                        BUDGETS[budget],
                        int(kind["parameters"]),
                        round(mean["steps"]),
                        round(mean["tokens"]),
                        round(mean["cpu_seconds"], 1),
                        kept,
                    ]
                )
    return ["", "compared at", "parameters", "steps", "tokens", "CPU seconds", "kept while reading"], rows


def _bits_chart(found: dict[str, Any]) -> Chart | None:
    series = []
    for model in dicts((found.get("positions") or {}).get("models")):
        bins = dicts(model.get("bins"))
        if bins:
            x = [_middle(place) for place in bins]
            error = [number_of(place["bits_per_byte"].get("standard_error")) for place in bins]
            series.append(Series(name_of(found, model["role"]), x, [place["bits_per_byte"]["value"] for place in bins], error))
    windows = tuple(
        (math.log2(model["context_length"]), "sliding window from here")
        for model in dicts(found.get("models"))
        if model.get("context_length") and series and math.log2(model["context_length"]) < max(series[0].x)
    )
    return _over_places("Bits per byte by place", "fewer is better", series, "tokens before", windows) if series else None


def _gain_chart(found: dict[str, Any]) -> Chart | None:
    part = found.get("positions") or {}
    series = []
    for model in dicts(part.get("models")):
        bins = [place for place in dicts(model.get("bins")) if isinstance(place.get("gain"), dict) and place["first"] >= part["forget"]]
        if len(bins) > 1:
            error = [number_of(place["gain"].get("standard_error")) for place in bins]
            series.append(
                Series(name_of(found, model["role"]), [_middle(place) for place in bins], [p["gain"]["value"] for p in bins], error)
            )
    title = f"Saved by what lies before the last {part.get('forget', 0):,} tokens"
    return _over_places(title, "bits per byte, with two standard errors", series, "tokens before", zero=True) if series else None


def _needle_chart(found: dict[str, Any], name: str, title: str, unit: str, level: tuple[str, float] | None) -> Chart | None:
    series = []
    for model in dicts((found.get("needles") or {}).get("models")):
        asked = [one for one in dicts(model.get("distances")) if one.get("asked") and isinstance(one.get(name), dict)]
        if asked:
            error = [number_of(one[name].get("standard_error")) for one in asked]
            x = [math.log2(one["distance"]) for one in asked]
            series.append(Series(name_of(found, model["role"]), x, [one[name]["value"] for one in asked], error))
    if not series:
        return None
    return _over_places(title, unit, series, "tokens between fact and question", zero=level is None, levels=(level,) if level else ())


def _over_places(
    title: str,
    unit: str,
    series: list[Series],
    x_label: str,
    borders: tuple[tuple[float, str], ...] = (),
    *,
    zero: bool = False,
    levels: tuple[tuple[str, float], ...] = (),
) -> Chart:
    low, high = min(min(one.x) for one in series), max(max(one.x) for one in series)
    step = max(1, round((high - low) / 6))
    ticks = tuple((float(place), f"{2**place:,}") for place in range(math.floor(low), math.ceil(high) + 1, step))
    return Chart(title, unit, tuple(series), x_label=x_label, borders=borders, zero=zero, levels=levels, x_ticks=ticks)


def _middle(place: dict[str, Any]) -> float:
    """The middle of a bin on a doubling axis."""
    return (math.log2(max(place["first"], 1)) + math.log2(place["last"] + 1)) / 2


def positions_card(found: dict[str, Any]) -> Markup:
    """Bits per byte by place."""
    made = bits_table(found)
    if made is None:
        return Markup("")
    charts = [figure(chart) for chart in (_bits_chart(found), _gain_chart(found)) if chart]
    part = found["positions"]
    alone = part["documents"] == 1
    longest = "the longest held-out document" if alone else f"the {part['documents']:,} longest held-out documents"
    note = (
        f"Each model reads {longest}, up to {part['length']:,} tokens of {'it' if alone else 'each'}; a constant"
        f" state is carried from the first token to the last. The control reads the same tokens, its state"
        f" emptied every {part['forget']:,}."
    )
    return card("Long texts", tag("div", join(charts), klass="grid"), table(*made[1:]), note=note)


def needles_card(found: dict[str, Any]) -> Markup:
    """Needles by distance."""
    made = needle_table(found)
    if made is None:
        return Markup("")
    charts = [
        _needle_chart(found, "gain_wrong", "What the fact adds to its answer", "bits, against a wrong needle", None),
        _needle_chart(found, "choice", "The right one of ten", "share", ("chance", 0.1)),
    ]
    note = "A made fact is put into a held-out text, and asked for later. Gains are of the whole answer, in bits, with two standard errors."
    return card("Needles", tag("div", join(figure(chart) for chart in charts if chart), klass="grid"), table(*made[1:]), note=note)


def models_card(found: dict[str, Any]) -> Markup:
    """Who was asked, and what each keeps while it reads."""
    rows: list[list[Any]] = []
    for model in dicts(found.get("models")):
        context = model.get("context_length")
        kept = size(model["state_bytes"]) if context else f"{model['state_bytes']:,} bytes"
        rows.append(
            [
                str(model["name"]),
                str(model["kind"]),
                int(model["parameters"]),
                f"{context:,} tokens" if context else "no end",
                f"{kept} when full" if context else f"{kept}, whatever the length",
            ]
        )
    said = [tag("p", f"{note}.", klass="note") for note in found.get("notes") or [] if isinstance(note, str)]
    return card("The models", table(["", "how it remembers", "parameters", "sees", "keeps while reading"], rows), *said)


def figure(chart: Chart) -> Markup:
    """A chart with its caption."""
    unit = join([" ", tag("span", chart.unit)]) if chart.unit else ""
    return tag("figure", join([tag("figcaption", join([chart.title, unit])), draw(chart)]))


def section(view: RunView) -> Markup:
    """All of it, for the page of a run; empty for a run that measured no memory. Damaged figures cost this part only."""
    found = read(view.path)
    if not found:
        return Markup("")
    try:
        recall = found.get("recall")
        verdict = card("Where it suffices, and where it doesn't", *(tag("p", text) for text in memory_sentences(found)))
        parts = [verdict, recall_card(recall) if isinstance(recall, dict) else "", models_card(found), positions_card(found)]
        return join([*parts, needles_card(found)])
    except DAMAGED as error:
        return card("Memory", tag("p", f"its figures could not be read ({type(error).__name__}: {error})"), klass="trouble")
