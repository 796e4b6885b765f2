"""A corpus as one self-contained HTML page, from the report that `phiforge data stats` makes: it opens offline and loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phiforge.core import atomic
from phiforge.report.format import count, number, size, some
from phiforge.report.html import Markup, badge, bars, card, details, esc, facts, join, page, table, tag, tiles
from phiforge.report.svg import Chart, Series, draw

_MOST_SOURCES, _MOST_MIXED = 12, 8  # shown at once; the others are folded


def corpus_page(found: dict[str, Any], name: str) -> str:
    """The page as text. found: the report with "measured" in it; name: what the person called the corpus."""
    body = join(
        [
            _head(found, name),
            _figures(found),
            _short(found),
            _axioms(found),
            _mix(found),
            _vocabulary(found),
            tag("div", join([_lengths(found), _scripts(found), _languages(found), _dropped(found)]), klass="two"),
            _sources(found),
            _flags(found),
            _samples(found),
            tag("footer", "Drawn by phiforge data stats. This page loads nothing."),
        ]
    )
    return page(f"{name} · corpus", body)


def render_corpus(found: dict[str, Any], name: str, target: Path) -> Path:
    """Write the page to `target` and return it. Raises PreflightError: it can't be written."""
    atomic.write_text(target, corpus_page(found, name))
    return target


def _head(found: dict[str, Any], name: str) -> Markup:
    sample = found["measured"]["sample"]
    labels = [badge(some(found["documents"], "document")), badge(size(found["bytes"]))]
    if sample["bytes"] < found["measured"]["bytes"] and (sample["share"] < 1 or sample["full"]):
        labels.append(badge(f"words counted in a sample of {size(sample['bytes'])}", "warn"))
    return tag(
        "header",
        join(
            [
                tag("p", "phiforge · corpus", klass="eyebrow"),
                tag("h1", Path(name).name or name),
                tag("div", join(labels), klass="badges"),
                tag("p", _sentence(found), klass="lead"),
            ]
        ),
    )


def _sentence(found: dict[str, Any]) -> str:
    vocabulary, dropped = found["measured"]["vocabulary"], sum(found["dropped"].values())
    said = [f"{size(found['bytes'])} of text in {some(found['documents'], 'document')}"]
    if vocabulary["words"]:
        said.append(f"{count(vocabulary['words'])} words counted, {count(vocabulary['distinct'])} of them different")
    said.append(f"{number(dropped)} left out" if dropped else "nothing left out")
    return "; ".join(said) + "."


def _figures(found: dict[str, Any]) -> Markup:
    measured = found["measured"]
    made = [
        ("text", size(found["bytes"]), f"{count(found['characters'])} characters"),
        ("documents", number(found["documents"]), f"median {count(found['lengths']['median'])} characters"),
    ]
    words = measured["vocabulary"]
    if words["words"]:
        made.append(("words", count(words["words"]), f"{count(words['distinct'])} different, {words['once'] / words['distinct']:.0%} once"))
    if "split" in found:
        held = found["split"]["validation"]
        made.append(("held out", size(held["bytes"]), f"{found['split']['got_fraction']:.1%}, by {found['split']['method']}"))
    reasons = len(found["dropped"])
    made.append(
        ("left out", number(sum(found["dropped"].values())), f"for {some(reasons, 'reason')}" if reasons else "documents and files")
    )
    return tiles(made)


def _short(found: dict[str, Any]) -> Markup:
    lines = [
        tag("li", join([tag("b", line["source"]), ": ", line["why"] if not line["poles"] else _poles(line)]))
        for line in found["measured"]["coverage"]["short"]
    ]
    if not lines:
        return Markup("")
    shown, folded = lines[:_MOST_SOURCES], lines[_MOST_SOURCES:]
    return card(
        "Short of",
        tag("ul", join(shown), klass="tree"),
        details(f"{len(folded)} more", tag("ul", join(folded), klass="tree")) if folded else "",
        note=f"Poles of an axiom with less than {found['measured']['coverage']['least_share']:.1%} of all lexicon words that were met.",
        klass="heed",
    )


def _poles(line: dict[str, Any]) -> str:
    return "little about " + ", ".join(f"{axiom}: {pole} ({share:.1%})" for axiom, pole, share in line["poles"])


def _axioms(found: dict[str, Any]) -> Markup:
    coverage = found["measured"]["coverage"]
    whole = coverage["whole"]
    if not whole["words"]:
        return Markup("")
    rates, shares = whole["per_1000_words"], whole["share"]
    lines = [
        (f"{axiom}: {pole}", rate, f"{rate:.1f} · {share:.1%}", share >= coverage["least_share"])
        for (axiom, pole), rate, share in zip(coverage["poles"], rates, shares, strict=True)
    ]
    sources = list(coverage["sources"].items())
    grid = ""
    if len(sources) > 1:
        heads = ["source", "words", *(axiom for axiom, _ in coverage["poles"][::2])]
        grid = join(
            [tag("h3", "By source, first pole / second pole"), table(heads, [_by_source(name, source) for name, source in sources])]
        )
    return card(
        "The seven content axioms",
        bars(lines),
        grid,
        note="Words of the axiom lexicon per 1,000 words, and their share of all such words. The lexicon is English and has some hundred"
        " words for each pole: compare sources with each other, not poles.",
    )


def _by_source(name: str, source: dict[str, Any]) -> list[Any]:
    rates = source["per_1000_words"]
    return [name, count(source["words"]), *(f"{a:.1f} / {b:.1f}" for a, b in zip(rates[::2], rates[1::2], strict=True))]


def _mix(found: dict[str, Any]) -> Markup:
    coverage = found["measured"]["coverage"]
    mix = coverage["suggested_mix"]
    if len(mix) < 2:
        return Markup("")
    total = sum(coverage["sources"][name]["words"] for name in mix) or 1
    top = max([*mix.values(), *(coverage["sources"][name]["words"] / total for name in mix)])
    lines = []
    for name, share in mix.items():
        now = coverage["sources"][name]["words"] / total
        lines += [(name, now, f"now {now:.1%}", False), ("", share, f"suggested {share:.1%}", True)]
    first, others = lines[: 2 * _MOST_MIXED], lines[2 * _MOST_MIXED :]
    return card(
        "A mix that speaks of all axioms more evenly",
        bars(first, top=top),
        details(f"{len(others) // 2} more sources", bars(others, top=top)) if others else "",
        note="A suggestion: shares of the words to train on that balance the poles (proportional fairness), with no source taken more than"
        " four times as often as it is there.",
    )


def _vocabulary(found: dict[str, Any]) -> Markup:
    vocabulary = found["measured"]["vocabulary"]
    figures = []
    if len(vocabulary["growth"]) > 4:
        x, y = zip(*vocabulary["growth"], strict=True)
        law = f"about words ^ {vocabulary['heaps']:.2f}" if vocabulary["heaps"] is not None else ""
        figures.append(_figure(Chart("Different words", law, (Series("different words", x, y),), x_label="words read", logarithmic=True)))
    if len(vocabulary["ranks"]) > 4:
        x, y = zip(*vocabulary["ranks"], strict=True)
        law = f"about rank ^ {vocabulary['zipf']:.2f}" if vocabulary["zipf"] is not None else ""
        figures.append(
            _figure(Chart("Times a word comes", law, (Series("frequency", x, y),), x_label="rank of the word", logarithmic=True))
        )
    if not figures:
        return Markup("")
    top = ", ".join(f"{word} {number(times)}" for word, times in vocabulary["top"])
    return card(
        "Vocabulary",
        tag("div", join(figures), klass="grid"),
        details("The most frequent words", tag("p", top)) if top else "",
        note="Both axes are logarithmic, so that a power law is a straight line. Case and accents don't count.",
    )


def _figure(chart: Chart) -> Markup:
    unit = join([" ", tag("span", chart.unit)]) if chart.unit else ""
    return tag("figure", join([tag("figcaption", join([chart.title, unit])), draw(chart)]))


def _lengths(found: dict[str, Any]) -> Markup:
    lines = [(f"{count(low)} to {count(high + 1)}", float(n), number(n), False) for low, high, n in found["measured"]["lengths"]]
    return card("Document lengths", bars(lines), note=f"Characters. The longest: {found['lengths']['longest_source']}.")


def _scripts(found: dict[str, Any]) -> Markup:
    scripts = found["measured"]["scripts"]
    total = sum(scripts.values()) or 1
    lines = [(name, float(n), f"{n / total:.1%}" if n / total >= 0.0005 else number(n), False) for name, n in list(scripts.items())[:12]]
    return card("Characters by script", bars(lines))


def _languages(found: dict[str, Any]) -> Markup:
    languages = found["measured"]["languages"]
    looked = languages["looked_at"]
    if not looked:
        return Markup("")
    lines = [
        ("undecided" if name == "und" else name, float(n), f"{n / looked:.1%}", False)
        for name, n in list(languages["documents"].items())[:12]
    ]
    more = len(languages["documents"]) - len(lines)
    note = f"Of the {some(looked, 'document')} that were looked at" + (f"; {some(more, 'language')} more are rarer." if more else ".")
    return card("Languages", bars(lines), note=note)


def _dropped(found: dict[str, Any]) -> Markup:
    rows = [[reason, n, found["dropped_examples"].get(reason, "")] for reason, n in found["dropped"].items()]
    return card("Left out", table(["reason", "count", "the first"], rows))


def _sources(found: dict[str, Any]) -> Markup:
    rows = [[s["about"], s.get("licence") or "", s["documents"], size(s["bytes"])] for s in found["sources"]]
    return card("Sources", table(["source", "licence", "documents", "text"], rows))


def _flags(found: dict[str, Any]) -> Markup:
    parts = []
    for title, key in (("Licence hints", "licences"), ("Personal data", "personal_data")):
        rows = [[name, flag["count"], flag["documents"], "; ".join(flag["examples"][:2])] for name, flag in found[key].items()]
        if rows:
            parts += [tag("h3", title), table(["what", "times", "documents", "for example"], rows)]
    return card(
        "To know before training", *parts, note="Hints found by patterns: no legal advice, and nothing was removed." if parts else ""
    )


def _samples(found: dict[str, Any]) -> Markup:
    lines = [(sample["source"], esc(sample["line"])) for sample in found["samples"]]
    return card("Sample lines", facts(lines) if lines else "")
