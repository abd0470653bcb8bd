"""One scenario from beginning to end on real processes: what `edgehone simulate` does.

Order: core → policy and cohorts → release of a study's member → nodes → the scenario's phases. At a core that already
runs only the nodes and the phases are ours.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgehone.errors import HostError, InputError
from edgehone.fleet import rollouts
from edgehone.fleet.cohorts import put_cohort
from edgehone.fleet.rollout import RolloutPlan
from edgehone.loop.policy import read_policy, save_policy
from edgehone.report.study_file import read
from edgehone.simulate.joined import Guests
from edgehone.simulate.live import Live
from edgehone.simulate.nodes import LiveNode, Processes, wait_for
from edgehone.simulate.scenario import Scenario
from edgehone.simulate.story import Story
from edgehone.simulate.streams import Pool, load_pool

INTERVAL_S = 1.0
_PATIENCE_S = 180.0  # of a core that already runs, whose heartbeats are a minute apart
_FIRST = RolloutPlan(shadow_rows=0, stages=(1.0,), soak_s=1.0, patience_s=20.0)
_CAREFUL = {"shadow_rows": 40, "shadow_s": 20.0, "soak_s": 4.0, "patience_s": 20.0, "stages": [1.0]}
_POLICY: dict[str, Any] = {
    "approve": "auto", "min_labels": 600, "min_labels_per_class": 3, "cool_down_s": 60.0, "corrections": 0,
    "epochs": 3.0, "label_error": 0.1, "flip_limit": 0.1, "rollout": _CAREFUL,
}  # fmt: skip


@dataclass(frozen=True)
class Cast:
    """What a scenario is played with: the processes, the nodes, the examples and the task of the core."""

    site: Processes
    nodes: Sequence[LiveNode]
    pool: Pool
    task: str


def set_up(site: Processes, study: Path, scenario: Scenario, story: Story) -> Cast:
    """Start everything and let a member of the study answer on all nodes.

    Args:
        site: nothing runs yet.
        study: a finished one, of the scenario's task.
        scenario: says how many nodes and which cohorts.
        story: is told.

    Raises:
        InputError: the study is of another task.
        HostError: a process does not start.
    """
    record = read(study)
    task, members = record.task["name"], [member.name for member in record.members]
    pool = load_pool(scenario.task)
    if tuple(record.task["labels"]) != pool.labels or not members:
        raise InputError(f"the study is of {task!r}", where=str(study), do=f"give one of {scenario.task}")
    member = members[min(1, len(members) - 1)]
    site.start_core(task, interval_s=INTERVAL_S)
    bundle = site.folder / f"{member}.bundle"
    _build(study / "members" / member, bundle, scenario.task)
    site.publish([bundle])
    values = {**_POLICY, "source": scenario.task, "study": str(study.absolute()), "members": [member]}
    with site.database.write() as conn:
        for cohort in scenario.cohorts:
            put_cohort(conn, cohort, task, tags={"site": cohort}, actor="core", now_s=time.time())
        save_policy(conn, read_policy(task, values), actor="core", now_s=time.time())
    nodes = [
        site.add_node(task, f"node-{number}", {"site": scenario.cohort(number)}) for number in range(scenario.nodes)
    ]
    story.event("core", f"{site.address}, {len(nodes)} nodes enrolled")
    rollouts.start(site.database, task, 1, now_s=time.time(), actor="core", plan=_FIRST)
    for node in nodes:
        wait_for(partial(_is_ready, node), f"version 1 on {node.name}", node.log, node.process)
    story.event("release", f"version 1 ({member}) answers on all nodes")
    return Cast(site, nodes, pool, task)


def join(site: Guests, scenario: Scenario, story: Story) -> Cast:
    """Bring nodes to a core that already runs, and wait until its release answers on all of them.

    Args:
        site: at that core; no node runs yet.
        scenario: says how many nodes and which tags; its task has the name that it has at the core.
        story: is told.

    Raises:
        InputError: no such task, the core lets no node in, or its release answers with other classes.
        HostError: a node does not start, gets no release, or its release does not take readings of this task.
    """
    from edgehone.data.load import load_task

    pool, task = load_pool(scenario.task), load_task(scenario.task).name
    nodes = [site.add_node(task, site.name(n), {"site": scenario.cohort(n)}) for n in range(scenario.nodes)]
    story.event("core", f"{site.address}, {len(nodes)} nodes enrolled as {site.name(0)} and on")
    until = time.monotonic() + _PATIENCE_S
    for node in nodes:
        limit_s = max(1.0, until - time.monotonic())
        try:
            wait_for(partial(_is_ready, node), f"a release of {task} on {node.name}", node.log, node.process, limit_s)
        except HostError as error:
            do = f"roll one out: edgehone fleet rollout start {task} VERSION --core CORE; or read the log"
            raise HostError(error.what, where=error.where, do=do) from error
        answered = node.ask(pool.x[0])
        if answered.answer >= len(pool.labels):
            raise InputError(
                f"the core's release of {task!r} has more classes than {len(pool.labels)}", where=scenario.task,
                do="play a scenario of the core's own task",
            )  # fmt: skip
        story.event("release", f"version {answered.version} answers on {node.name}")
    return Cast(site, nodes, pool, task)


def play(
    cast: Cast, scenario: Scenario, story: Story, *, seed: int, at: Callable[[int], None] = lambda _: None
) -> Live:
    """Play all phases, and tell each cohort's accuracy in each phase. Raises HostError.

    Args:
        at: called every second with the row that was reached.
    """
    live = Live(cast.site, cast.nodes, scenario, cast.pool, story, seed=seed)
    end = 0
    for phase in scenario.phases:
        end += phase.rows
        from_s = story.now_s
        live.run(partial(_has_played, live, end, at))
        for cohort in scenario.cohorts:
            found = story.accuracy(cohort, from_s, story.now_s)
            if found is not None:
                story.event("accuracy", f"{cohort}, {phase.name}: {100 * found:.1f} %")
    return live


def _is_ready(node: LiveNode) -> bool:
    return bool(node.status().get("ready"))


def _has_played(live: Live, end: int, at: Callable[[int], None]) -> bool:
    at(min(live.row, end))
    return live.row >= end


def _build(member: Path, bundle: Path, task: str) -> None:
    command = [sys.executable, "-m", "edgehone.cli.main", "bundle", "build", str(member), "-o", str(bundle)]
    done = subprocess.run([*command, "--version", "1", "--task", task], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError(f"the bundle cannot be built: {done.stderr.strip()[-300:]}", where=str(member))
