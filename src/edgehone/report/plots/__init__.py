"""The report's pictures: one file per kind, each a pure function from values and a width to SVG text.

Every picture is drawn twice, for a phone and for a wide column, and the page shows the one that fits its box, so text
keeps its size. Colours and line widths are classes of `report.css`.
"""

from __future__ import annotations

from collections.abc import Callable

from edgehone.report.svg import tag

PHONE = 340
COLUMN = 510


def both(draw: Callable[[int], str]) -> str:
    """A picture for narrow and for wide boxes; the style sheet shows one of them."""
    return tag("div", draw(PHONE), class_="narrow") + tag("div", draw(COLUMN), class_="wide")
