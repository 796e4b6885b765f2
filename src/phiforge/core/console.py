"""What a person sees while work goes on: everything on stderr, so that stdout stays for results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console(stderr=True, highlight=False)


_announced: list[str] = []


def announce(text: str) -> None:
    """The title of a step: at once on a terminal, elsewhere before the next line, so that failing at once leaves one line."""
    _show_announced()
    _announced.append(text)
    if console.is_terminal:
        _show_announced()


def _show_announced() -> None:
    while _announced:
        console.print(f"[bold]{escape(_announced.pop(0))}[/bold]", soft_wrap=True)


def say(text: str) -> None:
    """A plain line for the person."""
    _show_announced()
    console.print(escape(text), soft_wrap=True)


def headline(text: str) -> None:
    """A title."""
    _show_announced()
    console.print(f"[bold]{escape(text)}[/bold]", soft_wrap=True)


def warn(text: str) -> None:
    """A line that the person should not miss."""
    _show_announced()
    console.print(f"[yellow]note:[/yellow] {escape(text)}", soft_wrap=True)


def fail(text: str) -> None:
    """The one line of an error."""
    _announced.clear()
    console.print(f"[bold red]error:[/bold red] {escape(text)}", soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, to: Console | None = None) -> None:
    """A table; numbers align right."""
    _show_announced()
    rows = [list(row) for row in rows]
    drawn = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        drawn.add_column(escape(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(_cell(value)) for value in row))
    (to or console).print(drawn)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Bar:
    """One line of progress; `advance` moves it, keyword fields are shown behind it."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task = progress, task

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
        self._progress.console.print(escape(text))

    def _detail(self, fields: dict[str, Any]) -> None:
        if fields:
            self._progress.update(self._task, detail="  ".join(f"{name} {_cell(value)}" for name, value in fields.items()))


@contextmanager
def progress(description: str, total: float | None, *, count: bool = False) -> Iterator[Bar]:
    """A progress bar with time passed and left; `total=None` where the end isn't known. Quiet when stderr is no terminal."""
    columns = [TextColumn("{task.description}"), BarColumn(bar_width=24)]
    columns += [MofNCompleteColumn()] if count else [TextColumn("{task.percentage:>3.0f}%")]
    columns += [TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[detail]}", markup=False)]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal, refresh_per_second=4) as drawn:
        yield Bar(drawn, drawn.add_task(escape(description), total=total, detail=""))
