"""`edgehone simulate` from end to end: in memory and on processes, told twice the same, refused, and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import edgehone
from edgehone.simulate.fake import DAY_S, FakeWorld
from edgehone.simulate.scenario import load_scenario

pytestmark = pytest.mark.slow

Once = Callable[[str, Callable[[Path], object]], Path]
DEVICE = "nrf52840"  # its latency is estimated, which takes no time
EXAMPLES = Path(__file__).parents[2] / "examples" / "simulate"
WORLD = """
name = "drifting"
about = "the amplifiers of one cohort have drifted"
task = "pump.py"
nodes = 6
[annotator]
share = 0.8
[[phases]]
name = "normal"
rows = 96
[[phases]]
name = "drifted"
rows = 768
effect = "gain"
strength = 0.12
cohort = "north"
"""
SHORT = """
name = "short"
about = "nothing happens"
task = "pump.py"
nodes = 1
rows_per_s = 30
[[phases]]
name = "normal"
rows = 60
"""


@pytest.fixture(scope="session")
def place(once: Once) -> Path:
    """A folder with a family, its task, and two worlds."""

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "pump.py").write_text((EXAMPLES / "pump.py").read_text())
        (folder / "world.toml").write_text(WORLD)
        (folder / "short.toml").write_text(SHORT)
        edgehone.optimize(str(folder / "pump.py"), members=1, output=folder / "family", device=DEVICE)

    return once("pump", make)


@pytest.fixture(scope="session")
def played(place: Path, once: Once) -> Path:
    """A folder with three days, with training, and what was printed about them."""

    def make(folder: Path) -> None:
        folder.mkdir()
        world = [str(place / "world.toml"), "--study", str(place / "family"), "--fake", "--days", "3", "--seed", "1"]
        done = simulate([*world, "--json", "-o", str(folder / "played")], timeout_s=500)
        assert done.returncode == 0, done.stderr
        assert not processes_about(folder)
        (folder / "told.json").write_text(done.stdout)

    return once("played", make)


def simulate(arguments: Sequence[str], *, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgehone.cli.main", "simulate", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def processes_about(folder: Path) -> list[str]:
    """Command lines of processes that name a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_a_fleet_in_memory_shows_what_has_changed_and_trains(played: Path) -> None:
    told = json.loads((played / "told.json").read_text())
    assert told["life_s"] == pytest.approx(3 * DAY_S, rel=0.01)
    assert told["readings"] == 6 * 864 and told["labels"] > 500
    assert told["speed_up"] > 10
    words = [f"{one['what']}: {one['words']}" for one in told["moments"]]
    order = [
        "core: 6 nodes enrolled", "serves: version 1 answers on 6 of 6 nodes", "phase: drifted",
        "labels: the first labels are given", "round: train (running)",
    ]  # fmt: skip
    assert [words.index(one) for one in order] == sorted(words.index(one) for one in order)
    rounds = [one for one in words if one.startswith("round: ")]  # trained, and judged by its figures
    assert rounds[1].startswith(("round: observe (running)", "round: gate (refused): int8: "))
    drifted_s = next(one["at_s"] for one in told["moments"] if one["words"] == "drifted")

    def accuracy(cohort: str, from_s: float, to_s: float) -> float:
        mine = [one for one in told["accuracy"][cohort] if from_s < one["at_s"] <= to_s]
        return float(sum(one["right"] for one in mine) / sum(one["rows"] for one in mine))

    assert accuracy("north", drifted_s, 1e9) < accuracy("north", 0, drifted_s) - 0.1
    assert accuracy("south", drifted_s, 1e9) > accuracy("south", 0, drifted_s) - 0.05
    page = (played / "played" / "report.html").read_text()
    assert "drifting: the amplifiers" in page and page.count("<svg") == 2


def test_the_same_seed_tells_the_same_story(played: Path, place: Path, tmp_path: Path) -> None:
    """In another process, in another folder, byte by byte: with the training and every decision."""
    scenario = load_scenario(str(place / "world.toml"))
    scenario = replace(scenario, rows_per_s=scenario.rows / (3 * DAY_S))
    with FakeWorld(tmp_path, place / "family", scenario, seed=1) as world:
        world.set_up()
        world.play()
        world.story.write(tmp_path, "again")
    assert (tmp_path / "story.json").read_bytes() == (played / "played" / "story.json").read_bytes()


def test_without_training_decisions_are_recorded(place: Path, tmp_path: Path) -> None:
    scenario = load_scenario(str(place / "world.toml"))
    with FakeWorld(tmp_path, place / "family", scenario, seed=2, training=False) as world:
        world.set_up()
        world.play()
        moments = world.story.moments
    assert any(one.what == "decision" and one.words.startswith("retrain: ") for one in moments)
    rounds = [one.words for one in moments if one.what == "round"]
    assert rounds and all(words.endswith(": no training in this simulation") for words in rounds)
    assert not (tmp_path / "core" / "rounds").exists()
    assert {node.version for node in world.nodes} == {1}


def test_ctrl_c_ends_the_training_and_keeps_what_was_told(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    arguments = [str(place / "world.toml"), "--study", str(place / "family"), "--fake", "--days", "3", "-o", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "edgehone.cli.main", "simulate", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if "train (running)" in line:
                break
        assert any("loop.worker" in line for line in processes_about(out))
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130, rest
    assert "nothing is left running" in rest
    until = time.monotonic() + 10
    while processes_about(out) and time.monotonic() < until:
        time.sleep(0.05)
    assert not processes_about(out)
    story = json.loads((out / "story.json").read_text())
    assert "train (running)" in [one["words"] for one in story["moments"]]


def test_processes_play_a_short_world(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "short"
    done = simulate([str(place / "short.toml"), "--study", str(place / "family"), "--json", "-o", str(out)])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["rows"] >= 60
    assert json.loads((out / "story.json").read_text())["moments"] == told["moments"]
    assert [one["words"] for one in told["moments"] if one["what"] == "release"] == [
        "version 1 (int8) answers on all nodes"
    ]
    assert (out / "report.html").is_file()
    assert not processes_about(out)
