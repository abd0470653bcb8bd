"""Whatever ends a simulation ends its core and its nodes, too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, time
from pathlib import Path
from edgehone.simulate.nodes import Processes
with Processes(Path(sys.argv[1])) as site:
    site.start_core("gestures", interval_s=1.0)
    nodes = [site.add_node("gestures", f"n{n}", {}) for n in range(2)]
    print(" ".join(str(one.pid) for one in site._running), flush=True)
    time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("signal", ["KILL", "INT"])
def test_nothing_is_left(signal: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as simulator:
        assert simulator.stdout is not None
        pids = [int(word) for word in simulator.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(is_alive, pids))
        os.kill(simulator.pid, {"KILL": 9, "INT": 2}[signal])
        until = time.monotonic() + 5
        while any(map(is_alive, pids)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(is_alive, pids))
