"""What the ``unsee`` command shows on a terminal: progress, results, and one readable line where something fails."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from unsee.errors import Error
from unsee.events import EraseProgress, GenerateProgress
from unsee.jobs import EraseEvent, GenerateEvent

INTERRUPTED = 130
out, notes = Console(emoji=False), Console(stderr=True, emoji=False)  # names may hold ":cat:"


@contextmanager
def reported_errors() -> Iterator[None]:
    """End the command with one readable line and status 1 where a call fails, with 130 after Ctrl-C."""
    try:
        yield
    except Error as error:
        fail(str(error))
    except KeyboardInterrupt:
        notes.print("unsee: interrupted")
        raise typer.Exit(INTERRUPTED) from None


def fail(message: str) -> NoReturn:
    """End the command with one readable line and status 1."""
    notes.print(f"unsee: {message}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1)


@contextmanager
def shown_progress(what: str, *, is_quiet: bool) -> Iterator[Callable[[EraseEvent | GenerateEvent], None]]:
    """Give what shows events: a bar on a terminal, a line for each tenth elsewhere, nothing where quiet."""
    if is_quiet:
        yield lambda event: None
    elif not notes.is_terminal:
        yield lambda event: print_step(what, event)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=notes, transient=True) as bars:
            tasks: dict[str, TaskID] = {}

            def show(event: EraseEvent | GenerateEvent) -> None:
                if isinstance(event, EraseProgress | GenerateProgress):
                    phase = f"{what}: {event.phase}" if isinstance(event, EraseProgress) else what
                    if phase not in tasks:
                        tasks[phase] = bars.add_task(phase, total=event.total)
                    bars.update(tasks[phase], completed=event.step)

            yield show


def print_step(what: str, event: EraseEvent | GenerateEvent) -> None:
    """Print a line if the event is at a tenth of its phase."""
    if not isinstance(event, EraseProgress | GenerateProgress):
        return
    if event.step == event.total or event.step % max(1, event.total // 10) == 0:
        phase = f"{what}: {event.phase}" if isinstance(event, EraseProgress) else what
        notes.print(f"{phase} {event.step}/{event.total}", markup=False, highlight=False)


def print_rows(rows: Mapping[str, object]) -> None:
    """Print names and values, a line each."""
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        out.print(f"{name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print a value, dataclasses and times included, as JSON."""
    out.print_json(json.dumps(value, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
