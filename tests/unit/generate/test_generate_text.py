"""Streaming text: never half a character, never half a stop text."""

from __future__ import annotations

import pytest

from phiforge.generate.text import TextStream


class Bytes:
    """A tokenizer whose ids are bytes: every non-ASCII character is cut in pieces."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


def pieces(text: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(Bytes(), stop)
    found = []
    for byte in text:
        found.append(stream.push(byte))
        if stream.stopped:
            break
    found.append(stream.finish())
    return found, stream


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語のテキスト", "a🙂b🏳️‍🌈c", "Ω", "", "e\u0301 combining", "mixed 🙂 日 x"])
def test_characters_arrive_whole(text: str) -> None:
    found, stream = pieces(text.encode())
    assert "".join(found) == text == stream.text == stream.shown
    assert "\ufffd" not in "".join(found)
    assert found[: len(text.encode())].count("") == len(text.encode()) - len(text)  # one piece a character


def test_bytes_that_are_no_character_show_in_the_end_and_do_not_block() -> None:
    found, _ = pieces(b"ab" + b"\xf0\x9f")
    assert "".join(found[:-1]) == "ab" and found[-1] == "\ufffd"
    found, stream = pieces(b"\xff\xff\xff\xff\xffab")
    assert stream.text.endswith("ab") and "".join(found) == stream.text


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("hello<|im_end|>more", ("<|im_end|>",), "hello"),
        ("a < b <| c", ("<|im_end|>",), "a < b <| c"),
        ("one\n\ntwo", ("\n\n",), "one"),
        ("xaab", ("aab", "ab"), "x"),
        ("aaab", ("aab",), "a"),
        ("日本語", ("本",), "日"),
        ("stop", ("stop",), ""),
        ("stop", ("",), "stop"),
    ],
)
def test_stop_texts_end_the_text_and_never_leak(text: str, stop: tuple[str, ...], expected: str) -> None:
    found, stream = pieces(text.encode(), stop)
    assert "".join(found) == expected == stream.text
    assert stream.stopped == (expected != text)
    shown = ""
    for piece in found:  # at no time is more shown than belongs to the answer
        shown += piece
        assert expected.startswith(shown)
