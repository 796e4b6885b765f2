"""What a person sees while work goes on, on stderr, so that stdout stays for results.

On a terminal text is wrapped between words; in a pipe or a file a line stays one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console(stderr=True, highlight=False)
results = Console(highlight=False)  # stdout: what a verb was asked to show
_ENDLESS = 100_000  # columns
_ROOM_FOR_TIMES = 100  # columns of a terminal from which a progress bar shows the time passed too


_announced: list[str] = []


def announce(text: str) -> None:
    """The title of a step: at once on a terminal, elsewhere before the next line, so that failing at once leaves one line."""
    _show_announced()
    _announced.append(text)
    if console.is_terminal:
        _show_announced()


def _show_announced() -> None:
    while _announced:
        _print(f"[bold]{escape(_announced.pop(0))}[/bold]")


def _print(markup: str) -> None:
    console.print(markup, soft_wrap=not console.is_terminal)


def width() -> int:
    """Columns of the terminal; in a pipe or a file there is no end."""
    return console.width if console.is_terminal else _ENDLESS


def say(text: str, *, whole: bool = False) -> None:
    """A plain line for the person. `whole`: a line to copy, which is not wrapped."""
    _show_announced()
    console.print(escape(text), soft_wrap=whole or not console.is_terminal)


def headline(text: str) -> None:
    """A title."""
    _show_announced()
    _print(f"[bold]{escape(text)}[/bold]")


def warn(text: str) -> None:
    """A line that the person should not miss."""
    _show_announced()
    _print(f"[yellow]note:[/yellow] {escape(text)}")


def fail(text: str) -> None:
    """The one line of an error."""
    _announced.clear()
    _print(f"[bold red]error:[/bold red] {escape(text)}")


def stopped(text: str = "") -> None:
    """The one line of work that a person stopped: no error."""
    _announced.clear()
    _print("[bold]stopped[/bold]" + (f"[bold]:[/bold] {escape(text)}" if text else ""))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, result: bool = False, whole: bool = False) -> None:
    """A table; numbers align right. In a pipe or a file nothing is folded.

    `result`: on stdout. `whole`: a long last cell runs over the edge of the terminal instead of folding within its column.
    """
    _show_announced()
    out = results if result else console
    rows = [list(row) for row in rows]
    drawn = Table(header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        drawn.add_column(escape(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(_cell(value)) for value in row))
    if title:
        out.print(f"[bold]{escape(title)}[/bold]", soft_wrap=True)
    if out.is_terminal and not whole:
        out.print(drawn)
        return
    natural = Measurement.get(out, out.options.update(max_width=_ENDLESS), drawn).maximum
    wide = Console(stderr=not result, highlight=False, width=max(1, natural))
    with wide.capture() as drawing:
        wide.print(drawn)
    for line in drawing.get().splitlines():
        out.file.write(line.rstrip() + "\n")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Bar:
    """One line of progress; `advance` moves it, keyword fields are shown behind it."""

    def __init__(self, progress: Progress, task: Any, room: int) -> None:
        self._progress, self._task, self._room = progress, task, room

    def advance(self, n: float = 1, **fields: Any) -> None:
        """Move by `n` and show `fields` (name=value)."""
        self._progress.update(self._task, advance=n)
        self._detail(fields)

    def set(self, completed: float, **fields: Any) -> None:
        """Move to `completed`."""
        self._progress.update(self._task, completed=completed)
        self._detail(fields)

    def print(self, text: str) -> None:
        """A line above the bar."""
        _show_announced()
        self._progress.console.print(escape(text), soft_wrap=not console.is_terminal)

    def _detail(self, fields: dict[str, Any]) -> None:
        if fields:
            text = "  ".join(f"{name} {_cell(value)}" for name, value in fields.items())
            self._progress.update(self._task, detail=text[: self._room])


@contextmanager
def progress(description: str, total: float | None, *, count: bool = False) -> Iterator[Bar]:
    """A progress bar with time passed and left; `total=None` where the end isn't known. Quiet when stderr is no terminal."""
    room = console.width
    bar = max(4, min(24, room - len(description) - 66))
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=bar)]
    columns += [MofNCompleteColumn()] if count else [TextColumn("{task.percentage:>3.0f}%")]
    columns += [TimeElapsedColumn()] if room >= _ROOM_FOR_TIMES else []
    columns += [TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[detail]}", markup=False)]
    taken = len(description) + bar + (31 if count else 21) + (8 if room >= _ROOM_FOR_TIMES else 0)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal, refresh_per_second=4) as drawn:
        yield Bar(drawn, drawn.add_task(escape(description), total=total, detail=""), max(0, room - taken))
