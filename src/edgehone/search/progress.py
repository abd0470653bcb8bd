"""How a study tells what it is doing. The command line shows bars; a library caller may show nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told about one stage after another, never two at once."""

    def stage(self, title: str, total: float | None = None) -> None:
        """A new stage begins; `total` is in units that `at` uses, None when unknown."""

    def at(self, done: float, note: str = "") -> None:
        """The present stage has come this far."""

    def say(self, text: str) -> None:
        """One line that should stay."""


class Silent:
    """Shows nothing."""

    def stage(self, title: str, total: float | None = None) -> None:
        """Nothing."""

    def at(self, done: float, note: str = "") -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""
