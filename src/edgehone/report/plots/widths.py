"""Layer widths before and after: a skyline with one bar per layer, what was cut left as an outline."""

from __future__ import annotations

from collections.abc import Sequence

from edgehone.record import LayerRecord
from edgehone.report import svg
from edgehone.report.figures import count
from edgehone.report.scales import fit
from edgehone.report.theme import member_class

HEIGHT = 132


def widths(layers: Sequence[LayerRecord], index: int, tallest: int, width: int) -> str:
    """The picture of one member. Bars reach `tallest`, the same for all members so that they compare; a wider layer is
    drawn as tall as there is room, with a gap to say so."""
    left, right, top, bottom = 32.0, width - 4.0, 8.0, HEIGHT - 22.0
    y = fit([0, max(1, tallest)], bottom, top, margin=0.0)
    band = (right - left) / len(layers)
    gap = min(3.0, band * 0.22)
    parts = [svg.line(left, bottom, right, bottom, "base")]
    for value in y.ticks(3)[1:]:
        parts.append(svg.line(left, y(value), right, y(value), "grid"))
        parts.append(svg.text(f"{value:g}", left - 6, y(value) + 4, anchor="end", class_="tick"))
    for number, layer in enumerate(layers):
        x = left + number * band + gap / 2
        before, after = (y(min(w, tallest)) for w in (layer.width_before, layer.width_after))
        parts.append(
            svg.group(
                svg.box(x, top, band - gap, bottom - top, "touch"),
                svg.box(x, before, band - gap, bottom - before, "gone"),
                svg.box(x, after, band - gap, bottom - after, "kept"),
                svg.box(x - 1, top + 8, band - gap + 2, 3, "break") if layer.width_after > tallest else "",
                title=f"{layer.name} ({layer.op}): {layer.width_before} → {layer.width_after} wide, "
                f"{count(layer.macs)} MACs",
            )
        )
    parts.append(svg.text("input", left, HEIGHT - 6, class_="hint"))
    parts.append(svg.text("output", right, HEIGHT - 6, anchor="end", class_="hint"))
    parts.append(svg.text(f"{len(layers)} layers", (left + right) / 2, HEIGHT - 6, anchor="middle", class_="hint"))
    before, after = sum(layer.width_before for layer in layers), sum(layer.width_after for layer in layers)
    label = f"Width of {len(layers)} layers before and after: {before} channels became {after}"
    return svg.picture(label, width, HEIGHT, svg.group(*parts, class_=member_class(index)))
