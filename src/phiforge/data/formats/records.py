"""Which column of a record is the text, and a record as a document. Shared by every format that has columns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from phiforge.data.document import Document
from phiforge.data.filters import normalise_line_ends
from phiforge.data.unit import Intake, Unit

# In this order: the first that a record has is its text.
TEXT_COLUMNS = tuple(
    "text content body article story document passage raw_content contents maintext page_content full_text plain_text poem".split()
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_CHAT = frozenset({"messages", "conversations", "instruction", "prompt"})


def text_column(names: Iterable[str], intake: Intake) -> str | None:
    """The name of the text column, as the data spells it, or None."""
    spelled = {name.lower(): name for name in reversed(list(names))}
    wanted = (intake.text_column.lower(),) if intake.text_column else TEXT_COLUMNS
    return next((spelled[name] for name in wanted if name in spelled), None)


class BadRecord(Exception):
    """A record that can't be used: why, in a word for the report and in a sentence for a person."""

    def __init__(self, reason: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.reason, self.what, self.fix = reason, what, fix

    def tell(self, unit: Unit, intake: Intake, place: str, source: str) -> None:
        """Raise DataError where the person named the file, else count it."""
        unit.fault(intake, self.reason, f"{unit.path}{place}: {self.what}", fix=self.fix, where=f"{source}: {self.what}")


def no_column(names: Iterable[str], intake: Intake) -> BadRecord:
    """That no column fits, naming those there are."""
    names = [str(name) for name in names]
    listed = (", ".join(names[:12]) or "no keys")[:200]
    what, fix = f'no "text" of type string (has: {listed})', 'text_column=NAME names the column; "text", "content" and the like are found'
    if intake.text_column:
        what, fix = f"no column {intake.text_column!r} with text (has: {listed})", "text_column=NAME, one of those"
    elif _CHAT & set(names):
        fix = "this looks like chat data: use it with `phiforge finetune`; or text_column=NAME"
    return BadRecord("record without a text column", what, fix)


def document_of(record: Any, source: str, intake: Intake) -> Document | None:
    """A record (a mapping) as a document; None: its text is null, which is counted. Raises BadRecord."""
    if not isinstance(record, dict):
        raise BadRecord("record that is no object", f"a {type(record).__name__}, not an object", 'one object a line: {"text": "..."}')
    name = text_column(record, intake)
    return value_of(record[name] if name else 0, record, source, intake)


def value_of(value: Any, names: Iterable[str], source: str, intake: Intake) -> Document | None:
    """The text column's value as a document; None: it is null, which is counted. A list of strings is its lines. Raises BadRecord."""
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if value is None:
        intake.skip("record without a text (null)", source)
        return None
    if not isinstance(value, str):
        raise no_column(names, intake)
    if not value.isascii() and _SURROGATE.search(value):
        if intake.encoding_errors == "error":
            what = "the text holds half of a character (a lone surrogate)"
            raise BadRecord("half of a character", what, "repair it, or set encoding_errors=replace")
        intake.repaired += 1
        value = value.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")
    return Document.of(normalise_line_ends(value), source)
