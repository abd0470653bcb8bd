"""Times of a story in the unit that its length asks for: seconds, minutes, hours or days. Pure.

unit = unit_for(3 * 86_400)
unit.text(129_600)          # "36.0 h"
"""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0


@dataclass(frozen=True)
class TimeUnit:
    """A unit: its short name, its name at an axis, how many seconds it has, and the decimals that are worth showing."""

    short: str
    name: str
    seconds: float
    decimals: int = 1

    def text(self, at_s: float) -> str:
        """A time since the start."""
        return f"{at_s / self.seconds:.{self.decimals}f} {self.short}"


SECONDS = TimeUnit("s", "seconds", 1.0)
_FROM_S = (  # a story is so long at least: a coarser unit would give events of one morning the same time
    (7 * DAY_S, TimeUnit("d", "days", DAY_S, 2)),
    (5 * HOUR_S, TimeUnit("h", "hours", HOUR_S)),
    (20 * MINUTE_S, TimeUnit("min", "minutes", MINUTE_S)),
)


def unit_for(length_s: float) -> TimeUnit:
    """The unit of a story of this length: minutes from 20 of them on, hours from 5, days from 7."""
    return next((unit for from_s, unit in _FROM_S if length_s >= from_s), SECONDS)
