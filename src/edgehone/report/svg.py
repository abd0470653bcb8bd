"""The smallest SVG writer that does the job: elements as text, escaped, with short numbers.

Colours come from CSS classes of the page (`report.css`), so one picture serves both themes. A mark with a `title`
explains itself to a screen reader and on hover.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

Attribute = str | float | None

CHARACTER_WIDTH = 0.56
"""Mean width of a character of the report's font, in font sizes: good to 10 % for names and numbers."""


def tag(name: str, *children: str, **attributes: Attribute) -> str:
    """One element. `children` are finished markup; attributes are escaped, `_` becomes `-`, None is left out."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{text}>{''.join(children)}</{name}>" if children else f"<{name}{text}/>"


def picture(label: str, width: float, height: float, *children: str, class_: str = "") -> str:
    """A whole picture of `width` x `height` user units that scales to its box; `label` says what it shows."""
    return tag(
        "svg", *children, role="img", aria_label=label, viewBox=f"0 0 {_short(width)} {_short(height)}",
        class_=f"plot {class_}".strip(),
    )  # fmt: skip


def text(content: str, x: float, y: float, *, anchor: str = "start", class_: str | None = None, turn: float = 0) -> str:
    """A line of text at its baseline; `turn` rotates it about its start, in degrees."""
    transform = f"rotate({_short(turn)} {_short(x)} {_short(y)})" if turn else None
    return tag(
        "text", escape(content), x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_,
        transform=transform,
    )  # fmt: skip


def group(*children: str, title: str | None = None, class_: str | None = None) -> str:
    """Marks that belong together, with what they say in words."""
    return tag("g", *((tag("title", escape(title)),) if title else ()), *children, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return tag("path", d=f"M{_short(x1)} {_short(y1)}L{_short(x2)} {_short(y2)}", class_=class_)


def path(points: Iterable[tuple[float, float]], class_: str) -> str:
    """A line through points."""
    return tag("path", d="M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points), class_=class_)


def box(x: float, y: float, width: float, height: float, class_: str | None, *, round_: float | None = None) -> str:
    """A rectangle; no negative sizes."""
    return tag("rect", x=x, y=y, width=max(0.0, width), height=max(0.0, height), rx=round_, class_=class_)


def boxes(corners: Iterable[tuple[float, float]], width: float, height: float, class_: str) -> str:
    """Rectangles of one size and kind as a single mark, each given by its upper left corner."""
    wide, high = _short(width), _short(height)
    return tag("path", d="".join(f"M{_short(x)} {_short(y)}h{wide}v{high}h-{wide}z" for x, y in corners), class_=class_)


def marker(shape: str, x: float, y: float, size: float, class_: str) -> str:
    """A point mark: circle, square, diamond or triangle of about the same area, `size` its radius."""
    if shape == "circle":
        return tag("circle", cx=x, cy=y, r=size, class_=class_)
    if shape == "square":
        half = size * 0.88
        return box(x - half, y - half, 2 * half, 2 * half, class_, round_=1)
    corners = {
        "diamond": ((0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)),
        "triangle": ((0.0, -1.2), (1.15, 0.85), (-1.15, 0.85)),
    }[shape]
    outline = "L".join(f"{_short(x + dx * size)} {_short(y + dy * size)}" for dx, dy in corners)
    return tag("path", d=f"M{outline}Z", class_=class_)


def width_of(content: str, size: float) -> float:
    """About how wide a text of font size `size` comes out."""
    return len(content) * size * CHARACTER_WIDTH


def shorten(content: str, characters: int) -> str:
    """The text, or its start and end around an ellipsis when it is longer than `characters`."""
    if len(content) <= characters:
        return content
    head = characters // 2
    return f"{content[:head]}…{content[len(content) - (characters - 1 - head) :]}"


def _short(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
