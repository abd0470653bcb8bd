"""Pictures put things where the values say, read back from the SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from edgehone.record import ClassRecord, FlipRecord, LayerRecord
from edgehone.report.plots import COLUMN, PHONE, both
from edgehone.report.plots.curves import Line, curves
from edgehone.report.plots.dumbbell import BEST, WORST, chosen, dumbbell
from edgehone.report.plots.front import Axes, Point, front
from edgehone.report.plots.heat import flips, magnitudes
from edgehone.report.plots.widths import widths

AXES = Axes("latency", "accuracy", lambda v: f"{v:g} µs", lambda v: f"{v:g} %")
WIDTHS = pytest.mark.parametrize("width", [PHONE, COLUMN])


def marks(svg: str, class_: str) -> list[ET.Element]:
    return [element for element in ET.fromstring(svg).iter() if class_ in element.get("class", "").split()]


@WIDTHS
def test_points_lie_left_when_faster_and_up_when_better(width: int) -> None:
    svg = front([Point("original", 0, 300, 92.6), Point("int8", 1, 80, 92.5), Point("w30", 5, 20, 92.0)], AXES, width)
    centres = [(float(m.get("cx")), float(m.get("cy"))) for m in marks(svg, "touch")]  # type: ignore[arg-type]
    (ox, oy), (ix, iy), (wx, wy) = centres
    assert ox > ix > wx
    assert oy < iy < wy
    # equal ratios, equal lengths: 300/80 = 3.75 against 80/20 = 4
    assert (ix - wx) / (ox - ix) == pytest.approx(1.386294 / 1.321756, rel=0.02)


def test_a_member_beaten_in_both_is_off_the_line() -> None:
    svg = front([Point("a", 1, 10, 90), Point("bad", 2, 20, 80), Point("b", 3, 30, 95)], AXES, COLUMN)
    (line,) = marks(svg, "front")
    assert len(re.findall(r"[ML]", line.get("d", ""))) == 3  # a, the corner, b


def test_less_can_be_better() -> None:
    axes = Axes("latency", "error", lambda v: f"{v:g}", lambda v: f"{v:g}", more_is_better=False)
    svg = front([Point("a", 1, 10, 5), Point("bad", 2, 20, 8), Point("b", 3, 30, 2)], axes, COLUMN)
    (line,) = marks(svg, "front")
    assert len(re.findall(r"[ML]", line.get("d", ""))) == 3


def test_the_budget_is_drawn_at_its_limits() -> None:
    axes = Axes("latency", "accuracy", AXES.write_x, AXES.write_y, x_limit=80, y_limit=92.5)
    svg = front([Point("original", 0, 300, 92.6), Point("int8", 1, 80, 92.5)], axes, COLUMN)
    (room,) = marks(svg, "room")
    x, y, w, h = (float(room.get(name, "nan")) for name in ("x", "y", "width", "height"))
    point = marks(svg, "touch")[1]
    assert x + w == pytest.approx(float(point.get("cx", "nan")), abs=0.2)
    assert y + h == pytest.approx(float(point.get("cy", "nan")), abs=0.2)


def test_estimated_points_and_the_original_are_hollow() -> None:
    svg = front([Point("o", 0, 300, 92), Point("m", 1, 80, 91), Point("e", 2, 70, 90, estimated=True)], AXES, COLUMN)
    assert len(marks(svg, "hollow")) == 2


@WIDTHS
@pytest.mark.parametrize("count", [2, 4, 7])
def test_names_do_not_lie_on_each_other(width: int, count: int) -> None:
    points = [Point(f"w{90 - 9 * i}-int8", i, 300 * 0.6**i, 92.6 - 0.15 * i**1.5) for i in range(count)]
    names = marks(front(points, AXES, width), "name")
    assert len(names) == count
    boxes = [(float(n.get("x", "nan")), float(n.get("y", "nan")), len(n.text or "") * 6.0) for n in names]
    for i, (x, y, w) in enumerate(boxes):
        for x2, y2, w2 in boxes[:i]:
            assert x >= x2 + w2 or x2 >= x + w or abs(y - y2) >= 11, (names[i].text, boxes)


@WIDTHS
def test_curves_fall_where_loss_falls_and_names_keep_apart(width: int) -> None:
    lines = [Line(f"member {i}", i, ((1.0, 2.0), (2.0, 0.5 + 0.001 * i))) for i in range(6)]
    svg = curves(lines, "loss", lambda v: f"{v:.2f}", width)
    first = marks(svg, "curve")[0].get("d", "")
    (x1, y1), (x2, y2) = [tuple(map(float, p.split())) for p in first[1:].split("L")]
    assert x2 > x1
    assert y2 > y1  # down on the page
    heights = sorted(float(name.get("y", "nan")) for name in marks(svg, "name"))
    assert all(b - a >= 14.9 for a, b in pairwise(heights))


def test_a_curve_of_one_point_is_a_dot() -> None:
    svg = curves([Line("int8", 1, ((1.0, 0.3),))], "loss", str, PHONE)
    assert marks(svg, "curve") == []
    assert len(marks(svg, "mark")) == 1


@WIDTHS
def test_bars_are_as_tall_as_the_layers_are_wide(width: int) -> None:
    layers = [LayerRecord("a", "conv2d", 64, 32, 1), LayerRecord("b", "conv2d", 64, 8, 1)]
    svg = widths(layers, 1, 64, width)
    gone, kept = ([float(m.get("height", "nan")) for m in marks(svg, c)] for c in ("gone", "kept"))
    assert [k / g for k, g in zip(kept, gone, strict=True)] == pytest.approx([0.5, 0.125], abs=0.01)
    assert "a (conv2d): 64 → 32 wide" in svg


def test_a_layer_beyond_the_scale_is_cut_with_a_gap() -> None:
    svg = widths([LayerRecord("a", "conv2d", 16, 16, 1), LayerRecord("fc", "linear", 1000, 1000, 1)], 1, 16, PHONE)
    assert len(marks(svg, "break")) == 1
    assert len({m.get("height") for m in marks(svg, "kept")}) == 1


def test_cells_are_darker_where_more_nodes_lie() -> None:
    svg = magnitudes([LayerRecord("a", "conv2d", 16, 16, 1, (8, 0, 0, 0, 7, 0, 0, 0, 0, 1))], PHONE)
    assert len(marks(svg, "h7")) == 1
    assert len(marks(svg, "h6")) == 1
    assert len(marks(svg, "h1")) == 1
    assert "8 below a tenth" in svg
    row = marks(svg, "h0")[0]
    nothing_near_one = marks(svg, "h1")[0].get("d", "")
    left, wide = float(row.get("x", "nan")), float(row.get("width", "nan"))
    assert float(nothing_near_one[1:].split()[0]) == pytest.approx(left + 0.9 * wide, abs=0.2)


def test_of_a_long_network_every_nth_layer_is_shown() -> None:
    layers = [LayerRecord(f"l{i}", "conv2d", 8, 8, 1, (1,) * 10) for i in range(200)]
    assert len(marks(magnitudes(layers, PHONE), "small")) == 50


@WIDTHS
def test_flips_stand_in_the_row_of_the_original_answer(width: int) -> None:
    svg = flips([FlipRecord("cat", "dog", 9), FlipRecord("dog", "bird", 1)], ["cat", "dog", "bird"], width)
    diagonal = [(float(m.get("x", "nan")), float(m.get("y", "nan"))) for m in marks(svg, "same")]
    cell = marks(svg, "h7")[0]
    assert (float(cell.get("x", "nan")), float(cell.get("y", "nan"))) == (diagonal[1][0], diagonal[0][1])
    assert "cat → dog: 9" in svg


def test_classes_are_ranked_by_loss_and_the_middle_of_many_is_left_out() -> None:
    many = [ClassRecord(f"c{i}", 10, 0.9, 0.9 - (i % 97) / 1000) for i in range(1000)]
    few = chosen(many)
    changes = [c.member - c.original for c in few]
    assert len(few) == WORST + BEST
    assert changes == sorted(changes)
    assert changes[0] == pytest.approx(-0.096)


@WIDTHS
def test_a_class_that_lost_has_its_member_left_of_the_original(width: int) -> None:
    svg = dumbbell([ClassRecord("shirt", 100, 0.8, 0.7), ClassRecord("bag", 100, 0.9, 0.95)], 1, width)
    before = [float(m.get("cx", "nan")) for m in marks(svg, "before")]
    after = [float(m.get("cx", "nan")) for m in marks(svg, "mark")]
    assert after[0] < before[0] < before[1] < after[1]
    assert "−10.0" in svg
    assert "+5.0" in svg


def test_both_draws_for_the_phone_and_for_the_column() -> None:
    drawn: list[int] = []
    html = both(lambda width: drawn.append(width) or "<svg/>")  # type: ignore[func-returns-value]
    assert drawn == [PHONE, COLUMN]
    assert html == '<div class="narrow"><svg/></div><div class="wide"><svg/></div>'
