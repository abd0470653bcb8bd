"""Draws: exact sizes, shares kept within one example, nothing twice."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from edgehone.data.splits import draw, hold_out

CLASSES = st.lists(st.integers(0, 6), min_size=2, max_size=80).map(lambda values: torch.tensor(values))


@given(CLASSES, st.integers(0, 100), st.integers(0, 3))
def test_a_draw_keeps_shares(classes: torch.Tensor, n: int, seed: int) -> None:
    places = draw(classes, n, seed)
    wanted = min(n, len(classes))
    assert len(places) == wanted
    assert places.tolist() == sorted(set(places.tolist()))
    drawn = classes[places].bincount(minlength=7)
    exact = classes.bincount(minlength=7) * wanted / len(classes)
    assert (drawn - exact).abs().max() < 1
    assert torch.equal(places, draw(classes, n, seed))


@given(CLASSES, st.floats(0.01, 0.99), st.integers(0, 3))
def test_holding_out_is_a_partition(classes: torch.Tensor, fraction: float, seed: int) -> None:
    kept, held = hold_out(classes, fraction, seed)
    assert len(kept) >= 1 and len(held) >= 1
    assert abs(len(held) - fraction * len(classes)) <= 1
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(classes)))


def test_seeds_differ() -> None:
    classes = torch.arange(200) % 4
    assert not torch.equal(draw(classes, 40, 0), draw(classes, 40, 1))
