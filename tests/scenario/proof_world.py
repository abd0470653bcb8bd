"""A small family for a core that learns by itself, tasks that share it under other names, and worlds that move."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parent))
from loop_world import LABELS, SOURCE, TASK, draw
from quick_core import quick

from edgehone.loop.policy import LoopPolicy, save_policy
from edgehone.loop.rounds import FAMILY
from edgehone.records.database import Database
from edgehone.records.tables import setting
from edgehone.simulate.nodes import Processes
from edgehone.testing.sites import Site
from edgehone_agent.model import open_model

MEMBER = "int8"
QUICK = {"shadow_rows": 0, "soak_s": 0.0, "patience_s": 60.0, "stages": [1.0]}
WAIT_S = 240.0  # for what takes seconds: the machine may be busy with other tests


def make_families(folder: Path, names: Sequence[str], gas_family: Path) -> None:
    """FOLDER/NAME/task.py, and a finished study of it in FOLDER/NAME/family: copies of one under other names."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "task.py").write_text(SOURCE.replace(f'name="{TASK}"', f'name="{name}"'))
        shutil.copytree(gas_family / "family", folder / name / "family")
        path = folder / name / "family" / "study.json"
        record = json.loads(path.read_text())
        record["task"]["name"] = name
        path.write_text(json.dumps(record))


class QuickProcesses(Processes):
    """A core that does all that it does by itself four times as often, and nodes."""

    def _start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        return super()._start(quick(command), log)


class QuickSite(QuickProcesses, Site):
    """The same with a core and agents that a test kills and starts again."""


def release_first(site: Site, folder: Path, name: str) -> Path:
    """Sign version 1 of a task's family; the bundle's path."""
    from edgehone.bundle.build import Wishes, build
    from edgehone.report.study_file import read

    study = folder / name / "family"
    path = site.folder / f"{name}-1.bundle"
    path.write_bytes(build(read(study), MEMBER, study, Wishes(1), draw(300, 3, 0.0)[0]))
    site.publish([path])
    return path


def set_policy(site: Site, folder: Path, name: str, **values: Any) -> None:
    """Let the loop train a task by itself."""
    chosen: dict[str, Any] = {
        "cool_down_s": 0.0, "approve": "auto", "rollout": QUICK, "latency_ratio": 5.0, "epochs": 2.0,
        "rounds_per_week": 10_000, "epsilon_pp": 5.0, "flip_limit": 0.2, "least_gain_pp": 0.0,
    } | values  # fmt: skip
    policy = LoopPolicy(name, str(folder / name / "task.py"), str(folder / name / "family"), (MEMBER,), **chosen)
    with site.database.write() as conn:
        save_policy(conn, policy, actor="test", now_s=time.time())


def moved(count: int, seed: int, towards: int, size: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Readings in a world that has moved by `size` in a direction of its own, and their classes."""
    x, y = draw(count, seed, 0.0)
    direction = np.random.default_rng(10_000 + towards).normal(size=x.shape[1])
    return (x + size * direction / np.linalg.norm(direction)).astype(np.float32), y


def hard_world(model: Path, seed: int, size: float) -> int:
    """The direction, of twelve that a seed gives, in which a model errs most once the world has moved there."""
    directions = range(100 * seed, 100 * seed + 12)
    return min(directions, key=lambda towards: accuracy(model, *moved(200, 7, towards, size)))


def served_model(database: Database, folder: Path, name: str) -> Path:
    """The model file that the last promoted round has left, or the family's own."""
    with database.read() as conn:
        found = conn.execute(select(setting.c.value).where(setting.c.key == FAMILY + name)).scalar_one_or_none()
    study = Path(found["study"]) if found else folder / name / "family"
    return study / "members" / MEMBER / "model.tflite"


def accuracy(model: Path, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """Share of right answers."""
    with open_model(model) as opened:
        return float((opened.predict(x).argmax(1) == y).mean())


def until(
    found: Callable[[], Any], what: str | Callable[[], str], limit_s: float = WAIT_S, pause_s: float = 0.05
) -> Any:
    """Ask until the answer is true; what it was."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        value = found()
        if value:
            return value
        time.sleep(pause_s)
    raise AssertionError(f"{what if isinstance(what, str) else what()}: not within {limit_s:g} s")


def event(id: str, prediction: str, label: int, **more: Any) -> Mapping[str, Any]:
    """A correction of an answer of the uniform share."""
    return {
        "id": id, "prediction_id": prediction, "kind": "correct", "label": LABELS[label], "share": "uniform",
        "time": time.time(), **more,
    }  # fmt: skip
