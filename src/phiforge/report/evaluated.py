"""Cards of an evaluation beside its main figure: perplexity over fixed windows, and what a Thyme model's axiom units mean."""

from __future__ import annotations

from typing import Any

from phiforge.report.html import Markup, card, table, tag
from phiforge.report.read import RunView, dicts, number_of


def windows(view: RunView) -> Markup:
    """Perplexity over windows that begin anew, of the model and of a trigram of its tokens."""
    found = view.evaluation.get("protocol")
    rows = dicts(found.get("rows")) if isinstance(found, dict) else []
    if not rows or not isinstance(found, dict):
        return Markup("")
    length = found.get("length")
    return card(
        f"Windows of {length} predictions",
        table(
            ["", "stride", "borders", "perplexity", "of all tokens", "bits/byte"],
            [
                [
                    "this model" if row.get("who") == "model" else "trigram of its tokens",
                    f"{row.get('stride')}" + (" (disjoint)" if row.get("stride") == length else ""),
                    str(row.get("borders", "")),
                    _fixed(row.get("perplexity"), 1),
                    _fixed(row.get("perplexity_per_token"), 1),
                    _fixed((row.get("bits_per_byte") or {}).get("value"), 3),
                ]
                for row in rows
            ],
        ),
        note="Context begins anew in each window. Perplexity is the exponential of the mean of the batches' mean losses.",
    )


def axioms(view: RunView) -> Markup:
    """Whether unit k of a Thyme model means axiom k, on words that it was not taught."""
    found = view.evaluation.get("axioms")
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        return Markup("")
    columns = [str(column) for column in found.get("columns") or []]
    rows = [[str(cell) for cell in row] for row in found["rows"] if isinstance(row, list) and len(row) == len(columns)]
    return card("The twelve axiom units", tag("p", str(found.get("sentence", ""))), table(columns, rows))


def _fixed(value: Any, digits: int) -> str:
    known = number_of(value)
    return "not a number" if known is None else f"{known:,.{digits}f}"
