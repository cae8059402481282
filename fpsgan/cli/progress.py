"""The progress meter, and everything else that a command prints on standard error."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

__all__ = ["Line", "Meter", "tell", "until_interrupted"]

P = TypeVar("P", contravariant=True)
T = TypeVar("T")

CONSOLE = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
EVERY = 10.0  # seconds between lines if standard error is not a terminal
OFTEN = 0.2  # and if a program reads them


class Line(NamedTuple):
    """How far the work is: the ``share`` done, 0 to 1 (None: its end is not known), and that in words."""

    share: float | None
    text: str


class Meter(Generic[P]):
    """Shows how far the work is, as long as the ``with`` block lasts.

    On a terminal a bar that is redrawn in place, elsewhere a line every 10 seconds; nothing with ``quiet``. To be
    called with the library's progress, which ``line`` puts into words; ``title`` names the work. ``several``: the work
    has parts, see ``begin``; one bar for all of them, with the total time left. ``record``: for programs, prints JSON
    instead, an object per line: the record of each progress, and {"note": …}.
    """

    def __init__(
        self,
        line: Callable[[P], Line],
        *,
        title: str = "",
        quiet: bool = False,
        several: bool = False,
        record: Callable[[P], dict[str, Any]] | None = None,
    ) -> None:
        self.line, self.title, self.quiet, self.several, self.record = line, title, quiet, several, record
        self.part = 0.0, 1.0
        self.every = EVERY if record is None else OFTEN
        self.told = -EVERY
        self.bar: Progress | None = None
        if CONSOLE.is_terminal and not CONSOLE.is_dumb_terminal and not quiet and record is None:
            title_column, text_column = (
                TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[text]")
            )
            columns: list[ProgressColumn] = [SpinnerColumn(), title_column, BarColumn(24), TaskProgressColumn()]
            columns += [TimeRemainingColumn(), text_column] if several else [text_column]
            self.bar = Progress(*columns, console=CONSOLE, transient=True, refresh_per_second=5)
            self.task = self.bar.add_task(title, total=None, text="starting")

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begin(self, title: str, part: tuple[float, float]) -> None:
        """Start the next part of the work, which is between these two shares of the whole."""
        self.title, self.part, self.told = title, part, -EVERY
        if self.bar is not None:
            self.bar.update(self.task, total=1.0, completed=part[0], description=title, text="starting")

    def __call__(self, now: P) -> None:
        share, text = self.line(now)
        if self.bar is not None:
            begin, end = self.part
            done = begin + (end - begin) * (share or 0.0)
            self.bar.update(self.task, total=None if share is None else 1.0, completed=done, text=text)
        elif not self.quiet and (time.monotonic() - self.told >= self.every or share == 1):
            self.told = time.monotonic()
            text = f"{self.title}: {text}" if self.several else text
            tell(text if self.record is None else json.dumps(self.record(now)))

    def say(self, text: str) -> None:
        """``tell``, unless ``quiet``."""
        if not self.quiet:
            tell(text if self.record is None else json.dumps({"note": text}))


def tell(text: str) -> None:
    """A line on standard error, above the bar where there is one."""
    CONSOLE.print(text)


def until_interrupted(work: Callable[[], T]) -> T:
    """Do long work; on Ctrl-C (or SIGTERM, see main) exit at once: by then the library has cleaned up."""
    try:
        return work()
    except KeyboardInterrupt:
        print(
            "\nstopped; no output written. Finished segments are kept: the same command resumes (`fpsgan jobs`)",
            file=sys.stderr,
            flush=True,
        )
        os._exit(130)  # a thread may still be blocked in a network call, which cannot be interrupted
