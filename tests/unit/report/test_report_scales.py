"""Axes and label placement, against figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from edgehone.report.scales import Box, Scale, best_place, fit, linear_ticks, log_ticks, spread, staircase


def test_a_linear_scale_maps_its_ends_and_its_middle() -> None:
    scale = Scale(10, 20, 0, 100)
    assert [scale(v) for v in (10, 15, 20)] == [0, 50, 100]


def test_a_logarithmic_scale_gives_equal_ratios_equal_lengths() -> None:
    scale = Scale(1, 1000, 300, 0, log=True)
    assert [scale(v) for v in (1, 10, 100, 1000)] == pytest.approx([300, 200, 100, 0])


def test_linear_ticks_are_round() -> None:
    assert linear_ticks(91.4, 93.2, 5) == (91.5, 92.0, 92.5, 93.0)
    assert linear_ticks(0, 64, 3) == (0, 25, 50)
    assert linear_ticks(-0.3, 0.3, 4) == (-0.2, 0.0, 0.2)


def test_log_ticks_are_digits_times_powers() -> None:
    assert log_ticks(18, 330, 7) == (20, 30, 50, 100, 200, 300)
    assert log_ticks(0.5, 2e6, 7) == (1, 10, 100, 1e3, 1e4, 1e5, 1e6)


def test_log_ticks_of_a_short_span_fall_back_to_linear_ones() -> None:
    ticks = log_ticks(41, 43, 5)
    assert len(ticks) >= 2
    assert all(41 <= tick <= 43 for tick in ticks)


def test_fit_leaves_out_what_a_log_axis_cannot_show() -> None:
    scale = fit([0.0, -3.0, math.nan, 10.0, 1000.0], 0, 100, log=True, margin=0.0)
    assert (scale.low, scale.high) == pytest.approx((10, 1000))


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 5.0], [0.0], [math.nan]])
@pytest.mark.parametrize("log", [True, False])
def test_fit_never_gives_an_empty_span(values: list[float], log: bool) -> None:
    scale = fit(values, 0, 100, log=log)
    assert scale.high > scale.low
    assert math.isfinite(scale(scale.low))
    assert scale.ticks(5) == tuple(sorted(scale.ticks(5)))


def test_spread_moves_only_what_touches() -> None:
    assert spread([10, 50, 90], 15, 0, 100) == [10, 50, 90]
    assert spread([50, 50], 20, 0, 100) == [40, 60]
    assert spread([52, 48, 90], 10, 0, 100) == [55, 45, 90]


def test_spread_keeps_inside_the_frame() -> None:
    assert spread([0, 1], 10, 0, 100) == [0, 10]
    assert spread([99, 100], 10, 0, 100) == [90, 100]


def test_best_place_prefers_free_paper_in_the_frame() -> None:
    frame = Box(0, 0, 100, 100)
    candidates = [Box(95, 0, 115, 10), Box(0, 0, 20, 10), Box(40, 40, 60, 50)]
    assert best_place(candidates, [Box(0, 0, 30, 30)], [], frame) == 2
    assert best_place(candidates, [], [Box(0, 0, 30, 30)], frame) == 2
    assert best_place(candidates, [], [], frame) == 1


def test_staircase_keeps_the_most_gain_for_each_cost() -> None:
    # (4, 7) costs more and gains less than (3, 8)
    assert staircase([(3, 8), (1, 5), (4, 7), (6, 9)]) == [(1, 5), (3, 5), (3, 8), (6, 8), (6, 9)]
