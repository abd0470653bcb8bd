"""Progress on the terminal: one bar with the time left for what is going on now, finished stages above it.

Ctrl-C takes effect at the next step of progress. Python would raise it anywhere, also while a C library is being
loaded, and there it leaves a broken library, a wrong error message or a crash. A second Ctrl-C is Python's own.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

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
        self._stopped = False
        self._before: Any = None

    def __enter__(self) -> TerminalProgress:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._stop)
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(finished=kind is None)
        self._bars.stop()
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  what Python hands to a handler
        self._stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _heed(self) -> None:
        if self._stopped:
            raise KeyboardInterrupt

    def stage(self, title: str, total: float | None = None) -> None:
        """A new stage begins.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; `at` and `say` raise it too.
        """
        self._heed()
        self._close(finished=True)
        self._title, self._started = title, time.monotonic()
        self._task = self._bars.add_task(title, total=total, note="")

    def at(self, done: float, note: str = "") -> None:
        """The present stage has come this far."""
        self._heed()
        if self._task is not None:
            self._bars.update(self._task, completed=done, note=note)

    def say(self, text: str) -> None:
        """One line that stays."""
        self._heed()
        self._console.print(f"  {text}", highlight=False)

    def _close(self, *, finished: bool) -> None:
        if self._task is None:
            return
        self._bars.remove_task(self._task)
        self._task = None
        took = time.monotonic() - self._started
        if finished and took >= _QUIET_S:
            self._console.print(f"[green]✓[/] {self._title} [dim]{format_duration(took)}[/]", highlight=False)
