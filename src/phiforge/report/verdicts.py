"""What a comparison came to, in plain words: for the page, the Markdown and whoever reads only one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from phiforge.report.experiment import Experiment
from phiforge.report.format import number, some, words
from phiforge.report.read import number_of

BETTER, WORSE, NONE, FEW = "better", "worse", "no detectable difference", "too few seeds to say"
BADGES = {BETTER: "good", WORSE: "bad", NONE: "", FEW: "warn"}
MOST_SEEDS = 1000  # above which no number of seeds is named
_NAMES_IN_A_SENTENCE = 6
_LONGEST_NAME = 60  # characters


def short(name: Any, most: int = _LONGEST_NAME) -> str:
    """A name on one line, cut where it is longer than a page bears."""
    text = " ".join(str(name).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def interval_of(comparison: dict[str, Any], name: str = "interval") -> tuple[float, float] | None:
    """Two finite ends, ascending; None where there are none."""
    ends = comparison.get(name)
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    low, high = number_of(ends[0]), number_of(ends[1])
    return None if low is None or high is None else (min(low, high), max(low, high))


def decimals(values: Iterable[float | None]) -> int:
    """Digits behind the point for a column of such widths: the median one shows two figures, the least at most one digit more.

    >>> decimals([0.0123, 0.4]), decimals([12.0]), decimals([]), decimals([0.00001, 0.02, 0.03])
    (3, 0, 3, 4)
    """
    widths = sorted(abs(value) for value in values if value and math.isfinite(value))
    if not widths:
        return 3
    least, middle = (1 - math.floor(math.log10(width)) for width in (widths[0], widths[len(widths) // 2]))
    return max(0, min(9, least, middle + 1))


def places(comparisons: Sequence[dict[str, Any]]) -> int:
    """Digits for a table of differences: two figures of the narrowest interval's half."""
    halves = [(ends[1] - ends[0]) / 2 for c in comparisons if (ends := interval_of(c))]
    return min(6, decimals(halves or [number_of(c.get("mean")) for c in comparisons]))


def signed(value: float | None, digits: int) -> str:
    """With its sign, a true minus; a dash where there is none.

    >>> signed(-0.0123, 3), signed(0.5, 2), signed(None, 2), signed(-0.0001, 2)
    ('−0.012', '+0.50', '–', '0.00')
    """
    if value is None:
        return "–"
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def between(comparison: dict[str, Any], digits: int, name: str = "interval") -> str:
    """`−0.02 to +0.01`, or a dash."""
    ends = interval_of(comparison, name)
    return f"{signed(ends[0], digits)} to {signed(ends[1], digits)}" if ends else "–"


def probability(value: Any) -> str:
    """A p value: three figures, small ones as a power.

    >>> probability(0.04321), probability(0.00001), probability(1.0), probability(None)
    ('0.0432', '1e-05', '1', '–')
    """
    p = number_of(value)
    return "–" if p is None else f"{p:.3g}"


def seeds_needed(comparison: dict[str, Any]) -> str:
    """How many pairs would decide an effect of the size measured."""
    if not count_of(comparison):
        return "–"
    needed = number_of(comparison.get("seeds_needed"))
    if needed is not None:
        return number(int(needed))
    return f"more than {MOST_SEEDS:,}" if comparison.get("mean") and count_of(comparison) > 1 else "–"


def count_of(comparison: dict[str, Any]) -> int:
    """Pairs."""
    n = number_of(comparison.get("n"))
    return int(n) if n is not None else len(comparison.get("pairs") or [])


def listed(names: Sequence[str]) -> str:
    """`a, b and c`; a long list is cut.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    if len(names) > _NAMES_IN_A_SENTENCE:
        return f"{', '.join(names[: _NAMES_IN_A_SENTENCE - 1])} and {len(names) - _NAMES_IN_A_SENTENCE + 1} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def headline(experiment: Experiment) -> str:
    """Who is better, who is worse, for whom nothing was found and how much could have been overlooked, who has too few seeds."""
    family = experiment.family
    if not family:
        return "Nothing was compared: there is no arm beside the baseline."
    digits = places(family)
    said = [_found(experiment, family, verdict, digits) for verdict in (BETTER, WORSE)]
    said += [_nothing(experiment, family, digits), _few(experiment, family)]
    return " ".join(sentence for sentence in said if sentence) or "No verdict was recorded."


def _with(family: list[dict[str, Any]], verdict: str) -> list[dict[str, Any]]:
    return [c for c in family if c.get("verdict") == verdict]


def _found(experiment: Experiment, family: list[dict[str, Any]], verdict: str, digits: int) -> str:
    found = _with(family, verdict)
    if not found:
        return ""
    against, metric = short(found[0].get("against") or experiment.baseline), words(experiment.metric)
    which = "lower" if experiment.lower_is_better else "higher"
    said = []
    for c in found:
        within = f"95 % interval {between(c, digits)}, " if interval_of(c) and len(found) <= 2 else ""
        pairs = f" ({within}{some(count_of(c), 'paired seed')})" if len(found) <= 2 else ""
        said.append(f"{short(c.get('arm'), 30)} {signed(number_of(c.get('mean')), digits)}{pairs}")
    return f"{verdict.capitalize()} than {against} in {metric} ({which} is better): {listed(said)}."


def _nothing(experiment: Experiment, family: list[dict[str, Any]], digits: int) -> str:
    found = _with(family, NONE)
    if not found:
        return ""
    against, names = short(found[0].get("against") or experiment.baseline), [short(c.get("arm"), 30) for c in found]
    begin = f"No detectable difference from {against}: {listed(names)}"
    least = [value for c in found if (value := number_of(c.get("minimum_detectable"))) is not None]
    if not least:
        return f"{begin}."
    size = f"{max(least):.{max(digits, decimals([max(least)]))}f}"
    return f"{begin}; a true difference below about {size} in {words(experiment.metric)} would mostly go unnoticed with this many seeds."


def _few(experiment: Experiment, family: list[dict[str, Any]]) -> str:
    found = _with(family, FEW)
    if not found:
        return ""
    names = [f"{short(c.get('arm'), 30)} ({some(count_of(c), 'pair')})" for c in found]
    least = [int(value) for c in found if (value := number_of(c.get("least_pairs"))) is not None]
    m = int(number_of(experiment.data.get("family_size")) or len(family))
    deciding = "a comparison" if m == 1 else f"one of {m:,} comparisons"
    needed = f"; at least {max(least)} pairs are needed to decide {deciding}" if least else ""
    return f"Too few seeds to say: {listed(names)}{needed}."


def conclusion(experiment: Experiment, comparison: dict[str, Any], digits: int) -> str:
    """One arm in one line, for beside the prediction."""
    verdict = str(comparison.get("verdict") or "no verdict")
    mean = number_of(comparison.get("mean"))
    ends = f" ({between(comparison, digits)})" if interval_of(comparison) else ""
    return f"{verdict}" + (f": {signed(mean, digits)}{ends}" if mean is not None else "")


def what_would_change(experiment: Experiment, comparison: dict[str, Any], digits: int) -> str:
    """How the verdict could still turn, from the numbers."""
    verdict, n = comparison.get("verdict"), count_of(comparison)
    least, needed, mean = (number_of(comparison.get(name)) for name in ("minimum_detectable", "seeds_needed", "mean"))
    if verdict in (BETTER, WORSE):
        return (
            "Decided at this level. Other data, another size or another budget may decide otherwise; more seeds only narrow the interval."
        )
    parts = []
    if least is not None:
        parts.append(f"With {some(n, 'pair')} a true difference of {least:.{max(digits, decimals([least]))}f} is found 8 times in 10")
    if needed is not None and needed > n:
        parts.append(f"about {number(int(needed))} paired seeds would decide a difference of the size measured ({signed(mean, digits)})")
    elif needed is None and mean and n > 1:
        parts.append(f"a difference of the size measured ({signed(mean, digits)}) would need more than {MOST_SEEDS:,} pairs")
    elif needed is not None:
        parts.append("a true difference of the size measured would usually have been found")
    least_pairs = number_of(comparison.get("least_pairs"))
    if verdict == FEW and least_pairs is not None:
        parts.insert(0, f"At least {number(int(least_pairs))} pairs; there {'is' if n == 1 else 'are'} {n}")
    return "; ".join(parts) + "." if parts else "More paired seeds."
