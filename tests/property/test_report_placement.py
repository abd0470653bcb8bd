"""Ticks and label placement hold their promises for any values."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edgehone.report.scales import linear_ticks, log_ticks, spread, staircase
from edgehone.report.svg import shorten

finite = st.floats(-1e9, 1e9)
positive = st.floats(1e-6, 1e12)


@given(finite, st.floats(1e-3, 1e9), st.integers(2, 10))
def test_linear_ticks_lie_inside_and_are_evenly_spaced(low: float, span: float, count: int) -> None:
    ticks = linear_ticks(low, low + span, count)
    assert len(ticks) <= count + 2
    slack = 1e-6 * (abs(low) + span)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)
    steps = [b - a for a, b in pairwise(ticks)]
    assert all(abs(step - steps[0]) <= slack for step in steps)


@given(positive, st.floats(1.01, 1e6), st.integers(3, 10))
def test_log_ticks_lie_inside_and_rise(low: float, ratio: float, count: int) -> None:
    ticks = log_ticks(low, low * ratio, count)
    assert len(ticks) <= count + 2
    assert all(low * (1 - 1e-6) <= tick <= low * ratio * (1 + 1e-6) for tick in ticks)
    assert list(ticks) == sorted(set(ticks))


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_spread_labels_keep_their_distance_and_order(wanted: list[float]) -> None:
    placed = spread(wanted, 15, 0, 300)
    ranked = sorted(zip(wanted, placed, strict=True))
    assert all(b - a >= 15 - 1e-6 for a, b in pairwise(sorted(placed)))
    assert all(a[1] <= b[1] + 1e-6 for a, b in pairwise(ranked) if a[0] < b[0])
    assert all(-1e-6 <= place <= 300 + 1e-6 for place in placed)


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=12))
def test_no_point_lies_above_the_staircase(points: list[tuple[float, float]]) -> None:
    corners = staircase(points)
    for cost, gain in points:
        assert gain <= max(g for c, g in corners if c <= cost)


@given(st.text(max_size=60), st.integers(3, 30))
def test_shortened_text_fits_and_keeps_its_ends(content: str, room: int) -> None:
    short = shorten(content, room)
    assert len(short) <= room
    if len(content) > room:
        head, _, tail = short.partition("…") if "…" not in content else (content[: room // 2], "", "")
        assert content.startswith(head)
        assert content.endswith(tail)
    else:
        assert short == content
