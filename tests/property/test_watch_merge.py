"""Merging states: symmetric bit for bit, additive, and the same as having seen both in one place, where it can be."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehone.bundle.card import build_card
from edgehone_agent.watch import Watcher, merge
from edgehone_agent.watch.state import MAX_STATE_BYTES, Saved

RNG = np.random.default_rng(0)
X = RNG.standard_normal((900, 4)).astype(np.float32)
CARD = build_card(X, X[:, :1], None, kind="regression", model_digest="0f" * 32)

node = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 300), st.floats(-2, 2), st.integers(0, 2**32 - 1))


def state_of(seed: int, rows: int, shift: float, stream: int) -> bytes:
    x = np.random.default_rng(stream).standard_normal((rows, 4)).astype(np.float32) + np.float32(shift)
    watcher = Watcher(CARD, seed=seed)
    watcher.observe(x, x[:, :1])
    return watcher.to_bytes()


@settings(max_examples=60, deadline=None)
@given(node, node)
def test_merging_is_symmetric_bit_for_bit(a: tuple, b: tuple) -> None:
    first, second = state_of(*a), state_of(*b)
    merged = merge(first, second)
    assert merged == merge(second, first)
    assert len(merged) <= MAX_STATE_BYTES


@settings(max_examples=30, deadline=None)
@given(node, node, node)
def test_counts_and_rows_add_in_any_order(a: tuple, b: tuple, c: tuple) -> None:
    states = [state_of(*n) for n in (a, b, c)]
    one = Saved.from_bytes(merge(merge(states[0], states[1]), states[2]))
    two = Saved.from_bytes(merge(states[0], merge(states[2], states[1])))
    assert (one.state.counts == two.state.counts).all()
    assert one.state.rows == two.state.rows == a[1] + b[1] + c[1]
    assert one.state.nodes == two.state.nodes == 3
    assert one.state.levels.alarms == two.state.levels.alarms
    assert np.allclose(one.state.stakes, two.state.stakes, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(node, node)
def test_a_merged_state_can_be_looked_at_and_merged_again(a: tuple, b: tuple) -> None:
    merged = merge(state_of(*a), state_of(*b))
    watcher = Watcher(CARD, merged)
    evidence = watcher.evidence()
    assert evidence["rows"] == a[1] + b[1]
    assert evidence["nodes"] == 2
    assert evidence["index"] <= sum(Watcher(CARD, state_of(*n)).evidence()["index"] for n in (a, b)) * (1 + 1e-6)
    assert Watcher(CARD, merge(merged, merged)).evidence()["rows"] == 2 * evidence["rows"]


def test_evidence_over_all_rows_adds_up_over_nodes() -> None:
    """What makes a fleet faster than one node: the counts of all nodes are one stream to the tolerant bets."""
    nodes = [state_of(seed, 150, 0.3, seed) for seed in range(10)]
    together = nodes[0]
    for other in nodes[1:]:
        together = merge(together, other)
    alone = max(row["log_e_all_rows"] for n in nodes for row in Watcher(CARD, n).evidence()["channels"])
    fleet = max(row["log_e_all_rows"] for row in Watcher(CARD, together).evidence()["channels"])
    assert fleet > 3 * max(alone, 1.0)
