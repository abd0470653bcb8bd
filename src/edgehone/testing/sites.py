"""A core and agents as processes that a test kills with -9 and starts again on the same address, state and database.

with Site(folder) as site:
    site.make_core(("gas",), interval_s=0.5)
    node = site.add_agent("one", ("gas",))
    site.kill_core(); site.run_core()
    site.kill_agent(node); site.run_agent(node)
    resident_bytes(site.core.pid)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import HostError
from edgehone.records.database import open_database
from edgehone.service.settings import write_settings
from edgehone.simulate.nodes import Answered, LiveNode, Processes, wait_for
from edgehone.testing.cores import make_core, new_token

_AGENT = (sys.executable, "-m", "edgehone_agent")
_CORE = (sys.executable, "-m", "edgehone.cli.main", "core", "start")


@dataclass(frozen=True)
class Agent:
    """An agent with one `LiveNode` for each task that it serves; all of them are the same process."""

    name: str
    state: Path
    log: Path
    tasks: dict[str, LiveNode]

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        return self._any.process.pid

    @property
    def is_running(self) -> bool:
        """Whether that process has not ended."""
        return self._any.process.poll() is None

    @property
    def _any(self) -> LiveNode:
        return next(iter(self.tasks.values()))

    def ask(self, task: str, x: NDArray[np.float32]) -> Answered:
        """Answer one reading. Raises HostError when it does not."""
        return self.tasks[task].ask(x)

    def version(self, task: str) -> int | None:
        """Which version answers; None while none does, or the agent is away."""
        with suppress(HostError):
            found = self.tasks[task].status().get("version")
            return None if found is None else int(found)
        return None


class Site(Processes):
    """The processes of one test; what is killed is started again by the test, or ends with the context."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.agents: list[Agent] = []
        self.core: subprocess.Popen[bytes]

    def make_core(self, tasks: Sequence[str], *, interval_s: float) -> None:
        """Make a core that may sign for the tasks by itself, and start it. Raises HostError."""
        from edgehone.simulate.nodes import _free_address

        place = make_core(self.folder / "core", interval_s=interval_s, tasks=tuple(tasks))
        place = replace(place, settings=replace(place.settings, listen=(_free_address(),)))
        write_settings(place)
        self._place, self._database = place, open_database(place.database_url)
        self.address = f"https://{place.settings.listen[0]}"
        self.run_core()

    @property
    def port(self) -> int:
        """Of the core, on 127.0.0.1."""
        return int(self.address.rpartition(":")[2])

    def run_core(self) -> None:
        """Start the core, and return once it serves. Raises HostError."""
        log = self.folder / "logs" / "core.log"
        said = log.read_text().count('"ready"') if log.exists() else 0
        self.core = self._start([*_CORE, str(self.place.folder), "--json"], log)
        wait_for(lambda: log.read_text().count('"ready"') > said, "the core", log, self.core)

    def kill_core(self) -> None:
        """As a power cut would."""
        self._kill(self.core)

    def add_agent(self, name: str, tasks: Sequence[str], tags: dict[str, str] | None = None) -> Agent:
        """Enrol an agent and start it. Raises HostError."""
        state = self._states / name
        command = [*_AGENT, "enrol", "-", "--core", self.address, "--state", str(state), "--name", name]
        command += [part for task in tasks for part in ("--task", task)]
        done = subprocess.run(
            command, input=f"{new_token(self.place, tags=tags)}\n", capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise HostError(f"a node cannot be enrolled: {done.stderr.strip()[-500:]}", where=name)
        log = self.folder / "logs" / f"{name}.log"
        process = self._start_agent(state, log)
        agent = Agent(name, state, log, {task: LiveNode(name, task, state, process, log) for task in tasks})
        self.agents.append(agent)
        self.nodes += agent.tasks.values()
        wait_for((state / "agent.sock").exists, name, log, process)
        return agent

    def run_agent(self, agent: Agent) -> None:
        """Start an agent that was killed. Raises HostError."""
        (agent.state / "agent.sock").unlink(missing_ok=True)  # what a killed one leaves would look as if it were there
        process = self._start_agent(agent.state, agent.log)
        for node in agent.tasks.values():
            node.process = process
        wait_for((agent.state / "agent.sock").exists, agent.name, agent.log, process)

    def kill_agent(self, agent: Agent) -> None:
        """As a crash would."""
        for node in agent.tasks.values():
            node.close()
        self._kill(next(iter(agent.tasks.values())).process)

    def _start_agent(self, state: Path, log: Path) -> subprocess.Popen[bytes]:
        return self._start([*_AGENT, "run", "--state", str(state), "--listen", "127.0.0.1:0", "--poll", "2"], log)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        with suppress(ValueError):
            self._running.remove(process)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own: resident, without pages of files."""
    resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def settled_bytes(pid: int, *, looks: int = 5, pause_s: float = 0.05) -> int:
    """The least of several looks at the memory of a process that is at work."""
    found = []
    for _ in range(looks):
        found.append(resident_bytes(pid))
        time.sleep(pause_s)
    return min(found)
