"""Scripted worlds: the same for the same seed, disturbed as they say, and refused when they say what cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgehone.errors import InputError
from edgehone.simulate.effects import EFFECTS, apply
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


@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_an_effect_does_nothing_at_zero_and_more_at_one_than_at_a_half(name: str) -> None:
    x = pool().x[0]
    moved = [
        float(np.abs(apply(name, x, strength, top=12.0, rng=np.random.default_rng(1)) - x).sum())
        for strength in (0.0, 0.5, 1.0)
    ]
    assert moved[0] == 0 < moved[1] < moved[2]


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
