"""Scripted worlds: the same for the same seed, disturbed as they say, and refused when they say what cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgehone.errors import InputError
from edgehone.simulate.effects import EFFECTS, RANDOM, Readings, Span, disturb, span_of
from edgehone.simulate.people import SimulatedPerson
from edgehone.simulate.scenario import Annotator, Phase, Scenario, load_scenario, read_scenario, ready_scenarios
from edgehone.simulate.streams import Pool, Stream

LABELS = ("a", "b", "c")


def pool(count: int = 300) -> Pool:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    x = rng.uniform(0, 4, (count, 1, 8, 8)).astype(np.float32)
    x[np.arange(count), 0, y * 2] += 8  # a bright row tells the class
    return Pool(x, y, LABELS)


def world(**values: Any) -> Scenario:
    return Scenario("test", "for a test", "digits", **values)


def accuracy(stream: Stream, start: int, stop: int) -> float:
    seen = [stream.reading(row) for row in range(start, stop)]
    right = [int(np.argmax([one.x[0, 2 * k].sum() - 60 for k in range(3)] + [0.0])) == one.y for one in seen]
    return float(np.mean(right))


def test_a_stream_is_a_function_of_seed_node_and_row() -> None:
    scenario = world(phases=(Phase("noisy", 50, "noise", 0.5),))
    first = [Stream(scenario, pool(), seed=3, node=1).reading(row) for row in range(50)]
    again = [Stream(scenario, pool(), seed=3, node=1).reading(row) for row in reversed(range(50))][::-1]
    other = [Stream(scenario, pool(), seed=4, node=1).reading(row) for row in range(50)]
    assert all(np.array_equal(one.x, two.x) and one.y == two.y for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one.x, two.x) for one, two in zip(first, other, strict=True))


def test_a_phase_touches_its_cohort_alone_and_costs_a_small_model_accuracy() -> None:
    scenario = world(phases=(Phase("normal", 200), Phase("dark", 200, "darkening", 0.7, cohort="north")))
    north, south = (Stream(scenario, pool(), seed=0, node=node) for node in (0, 1))
    assert accuracy(north, 0, 200) > 0.9
    assert accuracy(north, 200, 400) < accuracy(north, 0, 200) - 0.1
    assert accuracy(south, 200, 400) > 0.9
    assert south.reading(300).strength == 0.0


def test_a_ramp_grows_and_then_stays() -> None:
    phase = Phase("fading", 100, "darkening", 0.8, ramp=0.5)
    assert [phase.strength_at(row) for row in (0, 24, 49, 99)] == pytest.approx([0.016, 0.4, 0.8, 0.8])


def test_a_block_is_the_same_readings_many_at_a_time() -> None:
    phases = (Phase("normal", 70), Phase("noisy", 30, "noise", 0.5), Phase("dark", 90, "darkening", 0.7, ramp=0.5))
    one, other = (Stream(world(phases=phases), pool(), seed=3, node=0) for _ in range(2))
    block = one.block(50, 130)  # three phases, three chunks
    rows = [other.reading(row) for row in range(50, 180)]
    assert np.array_equal(block.x, np.stack([row.x for row in rows]))
    assert block.y.tolist() == [row.y for row in rows]
    assert block.phases == tuple(row.phase for row in rows)
    assert block.strengths.tolist() == [row.strength for row in rows]


def test_a_block_says_where_the_example_alone_makes_the_reading() -> None:
    phases = (Phase("dark", 40, "darkening", 0.7, ramp=0.5), Phase("noisy", 30, "noise", 0.5, cohort="north"))
    north, south = (Stream(world(phases=phases), pool(), seed=3, node=node).block(0, 70) for node in (0, 1))
    assert set(north.effects[:19]) == {None}  # still growing
    assert set(north.effects[20:40]) == {("darkening", 0.7)}
    assert set(north.effects[40:]) == {None}
    assert set(south.effects[40:]) == {("", 0.0)}
    assert np.array_equal(south.x[40:], pool().x[south.numbers[40:]])


SHAPES = [(1, 8, 8), (6,), (2, 10)]


def drawn(shape: tuple[int, ...], count: int = 200) -> Readings:
    return np.random.default_rng(2).uniform(1, 12, (count, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_an_effect_does_nothing_at_zero_and_more_at_one_than_at_a_half(name: str, shape: tuple[int, ...]) -> None:
    if name == "blur" and len(shape) == 1:
        pytest.skip("a table has no neighbours that belong together")
    x = drawn(shape)
    strengths = np.tile([0.0, 0.5, 1.0], 67)[:200]
    seen = disturb(name, x, strengths, span=span_of(x), rng=np.random.default_rng(1))
    moved = [float(np.abs(seen - x)[strengths == one].mean()) for one in (0.0, 0.5, 1.0)]
    assert moved[0] < 1e-6 < moved[1] < moved[2]
    assert seen.shape == x.shape and seen.dtype == np.float32


def test_what_is_random_says_so() -> None:
    x = drawn((6,))
    for name in EFFECTS:
        strength = np.full(len(x), 0.5)
        seen = [disturb(name, x, strength, span=span_of(x), rng=np.random.default_rng(n)) for n in (1, 2)]
        assert np.array_equal(*seen) == (name not in RANDOM)


def test_the_sensors_of_a_table_each_have_a_span_of_their_own() -> None:
    x = np.random.default_rng(0).normal((20.0, -3000.0, 0.1), (1.0, 100.0, 0.01), (4000, 3)).astype(np.float32)
    span = span_of(x)
    assert span.wide == pytest.approx((4.65, 465.0, 0.0465), rel=0.1)
    one = np.ones(len(x))
    noisy = disturb("noise", x, 0.2 * one, span=span, rng=np.random.default_rng(1)) - x
    assert noisy.std(0) == pytest.approx(0.1 * span.wide, rel=0.1)
    hangs = disturb("stuck", x, 0.4 * one, span=span, rng=np.random.default_rng(1))
    assert np.array_equal(hangs[:, :2], x[:, :2])
    assert np.unique(hangs[:, 2]) == pytest.approx(0.1, abs=0.003)


def test_a_lens_out_of_focus_is_the_mean_of_a_window() -> None:
    x = np.zeros((1, 1, 9, 9), np.float32)
    x[0, 0, 4, 4] = 9.0
    seen = disturb(
        "blur",
        x,
        np.array([0.25]),
        span=Span(np.zeros(1, np.float32), np.ones(1, np.float32)),
        rng=np.random.default_rng(0),
    )
    assert seen[0, 0, 3:6, 3:6] == pytest.approx(1.0)
    assert seen.sum() == pytest.approx(9.0)


def test_a_mix_hides_a_class_and_makes_another_common() -> None:
    scenario = world(phases=(Phase("mix", 600, mix={"a": 0.0, "b": 3.0}),))
    stream = Stream(scenario, pool(), seed=0, node=0)
    classes = np.bincount([stream.reading(row).y for row in range(600)], minlength=3)
    assert classes[0] == 0
    assert classes[1] > 2 * classes[2]


def test_a_person_errs_as_often_as_told_and_says_the_same_again() -> None:
    person = SimulatedPerson(Annotator(share=0.5, error_rate=0.1, malicious_nodes=(2,)), LABELS, seed=1)
    said = [person.says(0, f"p{n}", n % 3) for n in range(4000)]
    given = [(label, n % 3) for n, label in enumerate(said) if label is not None]
    assert len(given) == pytest.approx(2000, abs=130)
    assert np.mean([label != LABELS[truth] for label, truth in given]) == pytest.approx(0.1, abs=0.03)
    assert said == [person.says(0, f"p{n}", n % 3) for n in range(4000)]
    lies = [person.says(2, f"p{n}", n % 3) for n in range(100)]
    assert all(label != LABELS[n % 3] for n, label in enumerate(lies) if label is not None)


def test_the_ready_scenarios_can_be_read() -> None:
    assert {"darkening", "fading", "blur", "noise", "stuck-sensor", "class-mix", "new-class"} <= set(ready_scenarios())


GOOD: dict[str, Any] = {"name": "n", "about": "a", "task": "digits", "phases": [{"name": "p", "rows": 5}]}


@pytest.mark.parametrize(
    "change",
    [
        {"phases": []},
        {"phases": [{"name": "p"}]},
        {"phases": [{"name": "p", "rows": 0}]},
        {"phases": [{"name": "p", "rows": True}]},
        {"phases": [{"name": "p", "rows": 5, "effect": "rain"}]},
        {"phases": [{"name": "p", "rows": 5, "strength": 1.5}]},
        {"phases": [{"name": "p", "rows": 5, "cohort": "west"}]},
        {"phases": [{"name": "p", "rows": 5, "mix": {"a": -1}}]},
        {"phases": ["p"]},
        {"nodes": 2.5},
        {"cohorts": []},
        {"colour": "red"},
        {"annotator": {"share": "half"}},
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any]) -> None:
    assert read_scenario(GOOD).rows == 5
    with pytest.raises(InputError):
        read_scenario({**GOOD, **change})


def test_an_unknown_scenario_or_class_is_refused() -> None:
    with pytest.raises(InputError, match="no scenario"):
        load_scenario("../pyproject")
    with pytest.raises(InputError, match="no class"):
        Stream(world(phases=(Phase("mix", 5, mix={"z": 1.0}),)), pool(), seed=0, node=0)
