"""Runs set against the law of their kind: a table, a picture, the document's own expectations; as a page, as Markdown, as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from phiforge.report.html import Markup, card, esc, join, page, table, tag
from phiforge.report.scaling import AT_ODDS, DOCUMENT, FAR, Law, bytes_text


def point_rows(laws: Sequence[Law]) -> list[list[str]]:
    """Each run beside what the law through all of them says."""
    rows = []
    for law in laws:
        for p in law.points:
            said = law.at(p.effective)
            beside = f"{said.value:.3f} ({p.bits_per_byte - said.value:+.3f})" if said else ""
            text = f"{bytes_text(p.text_bytes)}, {p.read_bytes / p.text_bytes:.3g} times"
            rows.append([p.run, p.kind, f"{p.parameters:,}", text, bytes_text(p.effective), f"{p.bits_per_byte:.3f}", beside, p.where])
    return rows


HEAD = ["run", "model", "parameters", "text read", "as new text", "bits/byte", "the law (run - law)", "where"]
PREDICTED = ["text", "bits/byte", "95 %", "", "the document's perplexity"]


def predicted_rows(law: Law) -> list[list[str]]:
    """The document's sizes of text, each read once, as the law has them."""
    rows = []
    for corpus in DOCUMENT:
        said = law.at(corpus.bytes)
        far = "a guess: over 100 times the largest run" if said and corpus.bytes > FAR * law.largest else ""
        value = ["?" if far else f"{said.value:.2f}", f"{said.low:.2f} to {said.high:.2f}"] if said else ["too few runs to say", ""]
        rows.append([corpus.name, *value, far, corpus.perplexity])
    return rows


def figure(laws: Sequence[Law]) -> Markup:
    """Runs and laws over the text read, on a logarithmic axis of millions of bytes, as an inline SVG. Loads matplotlib."""
    from phiforge.report.svg import Chart, Series, draw

    series: list[Series] = []
    for law in laws:
        if not law.points:
            continue
        colour = len(series) + 1
        at = [math.log10(p.effective / 1e6) for p in law.points]
        series.append(Series(f"{law.kind}: runs", at, [p.bits_per_byte for p in law.points], look=None))
        if law.law is not None:
            low, high = at[0], max(at[-1], math.log10(max(c.bytes for c in DOCUMENT) / 1e6))
            places = [low + (high - low) * i / 60 for i in range(61)]
            said = [law.at(1e6 * 10**place) for place in places]
            band = [s.low for s in said if s], [s.high for s in said if s]
            series.append(Series(f"{law.kind}: law", places, [s.value for s in said if s], band=band, look=colour))
    return draw(Chart("Bits per byte by text read", "bits per byte", tuple(series), x_label="log10 of the text read, in MB"))


def as_data(laws: Sequence[Law], skipped: Sequence[str] = ()) -> dict[str, Any]:
    """Plain data for --json; its `points` are what measured/thyme.json holds."""
    found = []
    for law in laws:
        said = [(corpus, law.at(corpus.bytes)) for corpus in DOCUMENT]
        found.append(
            {
                "kind": law.kind,
                "unseen": law.unseen,
                "law": asdict(law.law) if law.law else None,
                "why_none": law.why or None,
                "predicted": [{"text": corpus.name, "bytes": corpus.bytes, **asdict(value)} for corpus, value in said if value],
            }
        )
    return {"laws": found, "points": [asdict(p) for law in laws for p in law.points], "skipped": list(skipped)}


def markdown(laws: Sequence[Law], skipped: Sequence[str] = ()) -> str:
    """Table, laws and predictions as Markdown."""
    parts = ["# Bits per byte by text read", _table(HEAD, point_rows(laws)), "\n".join(f"- {law.sentence()}" for law in laws)]
    for law in laws:
        if law.law is not None:
            parts.append(f"Predicted for {law.kind}, the document's sizes of text read once:\n\n{_table(PREDICTED, predicted_rows(law))}")
    parts += [AT_ODDS, *([f"Left out: {'; '.join(skipped)}."] if skipped else [])]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def scaling_page(laws: Sequence[Law], skipped: Sequence[str] = ()) -> str:
    """The whole page, which loads nothing."""
    picture = tag("figure", figure(laws)) if any(law.points for law in laws) else Markup("")
    cards = [card("Runs", picture, table(HEAD, point_rows(laws)), join(tag("p", law.sentence()) for law in laws))]
    for law in laws:
        if law.law is not None:
            cards.append(card(f"Predicted for {law.kind}", table(PREDICTED, predicted_rows(law)), note=AT_ODDS))
    if skipped:
        cards.append(card("Left out", join(tag("p", line) for line in skipped)))
    head = tag("header", join([tag("p", "phiforge \u00b7 scaling", klass="eyebrow"), tag("h1", "Bits per byte by text read")]))
    return page("scaling", join([head, *cards, tag("footer", esc("This page loads nothing."))]))
