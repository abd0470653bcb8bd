"""Progress on the terminal: one bar with the time left for what is going on now, finished stages above it."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from edgehone.units import format_duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_QUIET_S = 2.0  # shorter stages leave no line


class TerminalProgress:
    """Shows a study's stages on standard error: bars on a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._quiet = quiet
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._bars: Bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("[dim]{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._started = 0.0

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(finished=kind is None)
        self._bars.stop()

    def stage(self, title: str, total: float | None = None) -> None:
        """A new stage begins."""
        self._close(finished=True)
        self._title, self._started = title, time.monotonic()
        self._task = self._bars.add_task(title, total=total, note="")

    def at(self, done: float, note: str = "") -> None:
        """The present stage has come this far."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, note=note)

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(f"  {text}", highlight=False)

    def _close(self, *, finished: bool) -> None:
        if self._task is None:
            return
        self._bars.remove_task(self._task)
        self._task = None
        took = time.monotonic() - self._started
        if finished and took >= _QUIET_S:
            self._console.print(f"[green]✓[/] {self._title} [dim]{format_duration(took)}[/]", highlight=False)
