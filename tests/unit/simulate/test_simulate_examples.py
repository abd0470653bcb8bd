"""The worlds of examples/simulate can be played: their files, the task beside them, and a short life of two nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgehone.simulate.effects import EFFECTS
from edgehone.simulate.fake import FakeWorld
from edgehone.simulate.scenario import load_scenario
from edgehone.simulate.streams import Pool, Stream, load_pool
from edgehone.testing.studies import write_record, write_study

WORLDS = sorted((Path(__file__).parents[3] / "examples" / "simulate").glob("*.toml"))


@pytest.fixture(scope="module")
def pool() -> Pool:
    return load_pool(load_scenario(str(WORLDS[0])).task)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, pool: Pool) -> Path:
    """Of the pump, with a network that has learnt nothing."""
    folder = tmp_path_factory.mktemp("pump")
    record = write_study(folder, shape=(8,), task="pump")
    write_record(folder, replace(record, task={**record.task, "labels": pool.labels}))
    return folder


def test_there_are_worlds() -> None:
    assert {path.stem for path in WORLDS} == {"gain-drift", "sensor-noise", "stuck-sensor"}


@pytest.mark.parametrize("path", WORLDS, ids=lambda path: path.stem)
def test_a_world_changes_what_it_says_and_no_other(path: Path, pool: Pool) -> None:
    scenario = load_scenario(str(path))
    assert scenario.name == path.stem
    last = scenario.phases[-1]
    assert scenario.phases[0].effect == "" and last.effect in EFFECTS
    for node in range(2):
        block = Stream(scenario, pool, seed=0, node=node).block(scenario.rows - 32, 32)
        moved = np.abs(block.x - pool.x[block.numbers]).max()
        assert (moved > 0.1) == last.touches(node, scenario.cohort(node))


def test_all_of_them_are_played_one_after_the_other(study: Path, tmp_path: Path) -> None:
    scenarios = [load_scenario(str(path)) for path in WORLDS]
    phases = tuple(
        replace(phase, name=f"{phase.name} {scenario.name}", rows=64)
        for scenario in scenarios
        for phase in scenario.phases
    )
    scenario = replace(scenarios[0], nodes=2, phases=phases, rows_per_s=1.0)
    with FakeWorld(tmp_path, study, scenario, training=False) as world:
        world.set_up()
        played = world.play()
        moments = world.story.moments
    assert played.readings == 2 * 64 * len(phases)
    assert [one.words for one in moments if one.what == "phase"] == [phase.name for phase in phases]
    told = [one.words.partition(": ")[0] for one in moments if one.what == "accuracy"]
    assert told == [f"{cohort}, {phase.name}" for phase in phases for cohort in scenario.cohorts]
