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


@pytest.mark.parametrize(
    "note",
    [
        "Produced by Jane Doe and the Online Distributed\nProofreading Team at https://www.pgdp.net\n\n",
        "E-text prepared by Jane Doe\n\n\n",
        "[Transcriber's Note: Spelling is as in the original;\nitalics are shown so.]\n\n",
        "Transcriber’s Notes:\n\nObvious errors were\nput right.\n\n",
        "Transcriber's note: obvious errors were put right.\n\n",
    ],
)
def test_credits_and_transcribers_notes_go(note: str) -> None:
    start, end = "*** START OF THE PROJECT GUTENBERG EBOOK EMMA ***\n\n", "\n\n*** END OF THE PROJECT GUTENBERG EBOOK EMMA ***\nlicence"
    assert strip_gutenberg(f"{start}{note}{BOOK}{end}") == (BOOK, True)
    inside = "She was a transcriber. Transcriber's notes lay about.\n\nProduced by hand, they were.\n"
    assert strip_gutenberg(f"{start}{inside}{end}") == (inside, True), "a book may speak of it"


def test_real_books_lose_what_was_said_about_them(shared_data: Path) -> None:
    books = {d.source: strip_gutenberg(d.text)[0] for d in read_source(shared_data / "eight-books", Intake()) if d.source.endswith(".txt")}
    assert len(books) == 8
    for text in books.values():
        assert not any(words in text for words in ("Project Gutenberg", "START OF", "END OF THE PROJECT", "Transcriber", "Produced by"))
