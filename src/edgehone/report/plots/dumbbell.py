"""Two values per class joined by a bar: the original's and the member's accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from edgehone.record import ClassRecord
from edgehone.report import svg
from edgehone.report.figures import minus
from edgehone.report.scales import fit
from edgehone.report.theme import member_class, member_shape

ROW = 22.0
WORST, BEST = 18, 6


def chosen(classes: Sequence[ClassRecord]) -> list[ClassRecord]:
    """Classes by change, the greatest loss first; of many, those that lost most and those that gained most."""
    ranked = sorted(classes, key=lambda c: c.member - c.original)
    return ranked if len(ranked) <= WORST + BEST else ranked[:WORST] + ranked[-BEST:]


def dumbbell(classes: Sequence[ClassRecord], index: int, width: int) -> str:
    """The picture, one row per class in the order given."""
    longest = 13 if width < 500 else 24
    names = [svg.shorten(c.label, longest) for c in classes]
    left = 12 + max(svg.width_of(name, 12.0) for name in names)
    right = width - 52.0
    top, bottom = 26.0, 26.0 + len(classes) * ROW
    x = fit([100 * v for c in classes for v in (c.original, c.member)], left, right, margin=0.06)
    parts = []
    for value in x.ticks(4 if width < 500 else 6):
        parts.append(svg.line(x(value), top - 4, x(value), bottom, "grid"))
        parts.append(svg.text(f"{value:g} %", x(value), 14, anchor="middle", class_="tick"))
    for row, (entry, name) in enumerate(zip(classes, names, strict=True)):
        parts.append(_row(entry, name, top + row * ROW + ROW / 2, x(100 * entry.original), x(100 * entry.member), left,
                          width, index))  # fmt: skip
    worst = min(classes, key=lambda c: c.member - c.original)
    label = f"Accuracy of {len(classes)} classes, original and member; {worst.label} changed most: {_change(worst)}"
    return svg.picture(label, width, bottom + 4, svg.group(*parts, class_=member_class(index)))


def _row(
    entry: ClassRecord, name: str, y: float, before: float, after: float, left: float, width: int, index: int
) -> str:
    return svg.group(
        svg.box(0, y - ROW / 2, width, ROW, "touch"),
        svg.text(name, left - 10, y + 4, anchor="end", class_="tick dark"),
        svg.line(before, y, after, y, "bar"),
        svg.marker("circle", before, y, 4, "before"),
        svg.marker(member_shape(index), after, y, 4.2, "mark"),
        svg.text(_change(entry), width - 2, y + 4, anchor="end", class_="tick"),
        title=f"{entry.label}: {100 * entry.original:.1f} % → {100 * entry.member:.1f} % of {entry.n}",
    )


def _change(entry: ClassRecord) -> str:
    change = 100 * (entry.member - entry.original)
    return minus(f"{change:+.1f}" if round(change, 1) else "0.0")
