"""What a person sees, at the width of a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from phiforge.core import console


def terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> io.StringIO:
    seen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=seen, width=width, force_terminal=True, color_system=None, highlight=False))
    return seen


def test_a_terminal_breaks_between_words_and_leaves_what_is_to_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = terminal(monkeypatch, 20)
    console.say("chapters and blocks are held out")
    console.say("phiforge chat runs/quickstart/export", whole=True)
    assert [line.rstrip() for line in seen.getvalue().splitlines()] == [
        "chapters and blocks",
        "are held out",
        "phiforge chat runs/quickstart/export",
    ]


def test_a_pipe_keeps_a_line_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("word " * 100)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_and_its_figures_fit_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = terminal(monkeypatch, width)
    with console.progress("training", 10) as bar:
        bar.advance(5, loss=5.792, **{"bits/byte": 3.831, "tokens/s": 101_748})
        bar._progress.refresh()
    assert "…" not in seen.getvalue() and "tokens/s 101,748" in seen.getvalue()
