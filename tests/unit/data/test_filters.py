"""Project Gutenberg's wrapping comes off, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from phiforge.data.filters import normalise_line_ends, strip_gutenberg
from phiforge.data.sources import Intake, read_source

BOOK = "CHAPTER I\n\nIt was a *** dark *** night.\n"


@pytest.mark.parametrize(
    "start",
    [
        "*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***",
        "*** START OF THIS PROJECT GUTENBERG EBOOK EMMA ***",
        "***START OF THE PROJECT GUTENBERG EBOOK EMMA***",
        "*** START OF THE PROJECT GUTENBERG EBOOK THE LONG\nTITLE OF A BOOK ***",
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*",
    ],
)
@pytest.mark.parametrize(
    "end",
    [
        "*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***\nlicence",
        "End of the Project Gutenberg EBook of Emma, by Jane Austen\n\n*** END OF THIS PROJECT GUTENBERG EBOOK EMMA ***\nlicence",
        "End of Project Gutenberg's Emma, by Jane Austen\n",
        "",
    ],
)
def test_header_and_footer_go(start: str, end: str) -> None:
    assert strip_gutenberg(f"The Project Gutenberg eBook\n\n{start}\n\n\n{BOOK}\n\n{end}") == (BOOK, True)


def test_other_texts_stay_as_they_are() -> None:
    for text in (BOOK, "\n\n a *** START of something ***\n", "*** END OF THE PROJECT GUTENBERG EBOOK ***\n"):
        assert strip_gutenberg(text) == (text, False)


def test_line_ends_and_the_byte_order_mark() -> None:
    assert normalise_line_ends("\ufeffa\r\nb\rc\n\r\nd\ufeff") == "a\nb\nc\n\nd\ufeff"


def test_real_books_lose_their_licence(shared_data: Path) -> None:
    for document in read_source(shared_data / "eight-books", Intake()):
        text, stripped = strip_gutenberg(document.text)
        if document.source.endswith(".txt"):
            assert stripped and "gutenberg license" not in text.lower() and 0.8 < len(text) / len(document.text) < 1
