"""Heat maps: how strong the nodes of each layer are, and which answers turned into which."""

from __future__ import annotations

from collections.abc import Sequence

from edgehone.record import FlipRecord, LayerRecord
from edgehone.report import svg

ROW = 16.0
SMALL = 11.0
LEVELS = 7
MOST_ROWS = 64


def magnitudes(layers: Sequence[LayerRecord], width: int) -> str:
    """One row per layer, ten columns from zero to the layer's largest norm, darker where more channels lie.

    Long networks show every n-th layer so that the picture stays readable.
    """
    shown = [layer for layer in layers if layer.magnitudes]
    shown = shown[:: -(-len(shown) // MOST_ROWS)]
    longest = 17 if width < 500 else 30
    left = 10 + max(svg.width_of(svg.shorten(layer.name, longest), SMALL) for layer in shown)
    top = 22.0
    parts = [
        svg.text("near zero", left, 13, class_="hint"),
        svg.text("the layer's strongest", width - 4.0, 13, anchor="end", class_="hint"),
    ]
    for row, layer in enumerate(shown):
        y = top + row * ROW
        total, weak = sum(layer.magnitudes), layer.magnitudes[0]
        name = svg.text(svg.shorten(layer.name, longest), left - 7, y + 11, anchor="end", class_="tick small")
        says = f"{layer.name}: {total} channels, {weak} below a tenth of the strongest"
        parts.append(svg.group(name, _cells(layer.magnitudes, left, y, width - 4.0 - left), title=says))
    weak, nodes = sum(layer.magnitudes[0] for layer in shown), sum(sum(layer.magnitudes) for layer in shown)
    label = f"Channels by relative norm in {len(shown)} layers: {weak} of {nodes} lie below a tenth of the strongest"
    return svg.picture(label, width, top + len(shown) * ROW + 2, *parts)


def _cells(counts: Sequence[int], left: float, y: float, width: float) -> str:
    """One row of cells on a light ground; cells that hold nothing are not drawn."""
    cell, total = width / len(counts), max(1, sum(counts))
    squares: dict[int, list[tuple[float, float]]] = {}
    for column, number in enumerate(counts):
        if number > 0:
            squares.setdefault(_level(number / total), []).append((left + column * cell, y))
    ground = svg.box(left, y, width, ROW - 2, "h0")
    return ground + "".join(svg.boxes(at, cell, ROW - 2, f"h{level}") for level, at in sorted(squares.items()))


def _level(share: float) -> int:
    """0 for none, then up to `LEVELS`; half of a layer's channels in one bin is as dark as it gets."""
    return 0 if share <= 0 else min(LEVELS, 1 + int(share / 0.5 * (LEVELS - 1)))


def flips(flipped: Sequence[FlipRecord], labels: Sequence[str], width: int) -> str:
    """A square of answers: rows what the original said, columns what the member says; only changed answers count."""
    counts = {(flip.original, flip.member): flip.count for flip in flipped}
    longest = 9 if width < 500 else 16
    names = [svg.shorten(label, longest) for label in labels]
    widest = max(svg.width_of(name, SMALL) for name in names)
    left, top = 10 + widest, max(30.0, 12 + widest * 0.72)
    # the last column's slanted name reaches past the square by the same 0.72 (cosine of 45 degrees)
    cell = min(38.0, (width - left - widest * 0.72) / (len(labels) - 0.5))
    side = len(labels) * cell
    parts = [svg.box(left, top, side, side, "h0")]
    for place, name in enumerate(names):
        middle = place * cell + cell / 2
        parts.append(svg.text(name, left - 7, top + middle + 4, anchor="end", class_="tick small"))
        parts.append(svg.text(name, left + middle + 2, top - 6, class_="tick small", turn=-45))
        parts.append(svg.box(left + place * cell, top + place * cell, cell, cell, "same"))
    order = {label: place for place, label in enumerate(labels)}
    most = max(counts.values())
    for (before, after), number in counts.items():
        x, y = left + order[after] * cell, top + order[before] * cell
        parts.append(_flip(number, f"{before} → {after}: {number}", x, y, cell, most))
    for place in range(1, len(labels)):
        parts.append(svg.line(left + place * cell, top, left + place * cell, top + side, "gap"))
        parts.append(svg.line(left, top + place * cell, left + side, top + place * cell, "gap"))
    ranked = sorted(counts.items(), key=lambda item: -item[1])[:5]
    label = "Changed answers, rows the original's and columns the member's; the most: " + ", ".join(
        f"{before} to {after} {number}" for (before, after), number in ranked
    )
    return svg.picture(label, width, top + side + 2, *parts)


def _flip(number: int, says: str, x: float, y: float, cell: float, most: int) -> str:
    level = 1 + round((LEVELS - 1) * number / most)
    parts = [svg.box(x, y, cell, cell, f"h{level}")]
    if cell >= 17:
        shade = "deep" if level > 4 else "light"
        parts.append(svg.text(str(number), x + cell / 2, y + cell / 2 + 4, anchor="middle", class_=f"in {shade}"))
    return svg.group(*parts, title=says)
