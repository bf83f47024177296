"""What the user sees while something takes time: on stderr, so that stdout stays the result."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""The one console for talk; results go to stdout."""


@contextmanager
def bar(*columns: str) -> Iterator[Progress]:
    """Open a progress display with time left; each column is a rich format such as ``{task.fields[loss]}``."""
    with Progress(
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(column) for column in columns),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,  # stdout is the result, and may go to a file
    ) as progress:
        yield progress


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield the items while showing how far along they are."""
    with bar() as progress:
        yield from progress.track(items, description=what, total=total)


def say(text: str) -> None:
    """Print one line of talk (rich markup is not interpreted)."""
    console.print(text, markup=False)
