"""What scenarios share: a task that trains in a second, its family made once for all workers, folders in memory.

Who kills a process at its n-th call takes `kill_points(calls, N)`: N of them on every day, the first and the last among
them, and all of them with EDGEHONE_KILLS=all.
"""

from __future__ import annotations

import fcntl
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from edgehone.testing.agents import Field

sys.path.insert(0, str(Path(__file__).parent))
from loop_world import prepare_world

SMALL_TASK = '''
"""Eight by eight digits, a small convolutional network, one short training."""
from dataclasses import replace

from edgehone.data.builtin.digits import task as digits
from edgehone.task import Training

small = replace(
    digits(), name="small",
    training=Training(epochs=6, batch_size=64, learning_rate=0.1),
    recovery=Training(epochs=2, batch_size=64, learning_rate=0.05),
)
'''
ROOM_BYTES = 1 << 30

Once = Callable[[str, Callable[[Path], object]], Path]
KillPoints = Callable[[int, int], list[int]]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once(name, make)` is a folder that `make` filled, by whichever worker came first. Nobody may write into it."""
    base = tmp_path_factory.getbasetemp()
    common = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    common.mkdir(exist_ok=True)

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, made = common / name, common / f"{name}.made"
        with (common / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when a worker dies
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                made.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def small_task(once: Once) -> Path:
    """Path of a task file."""

    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "small_task.py").write_text(SMALL_TASK)

    return once("task", write) / "small_task.py"


@pytest.fixture(scope="session")
def small_family(small_task: Path, once: Once) -> Path:
    """Folder of the finished study of the small task with up to three members. Copy it to change it."""
    import edgehone
    from edgehone.report.study_file import read

    def make(folder: Path) -> None:
        study = edgehone.optimize(str(small_task), members=3, output=folder)
        assert read(folder) == study.record  # what was written reads back

    return once("family", make)


@pytest.fixture(scope="session")
def gas_family(once: Once) -> Path:
    """A folder with `gas_task.py` and a finished study of it, `family`. Copy it to make a world in it."""
    return once("gas", prepare_world)


@pytest.fixture(scope="session")
def edgehone_here() -> Command:
    """`edgehone_here("optimize", ...)` runs the command in this process, which has what it imports already."""
    from edgehone.cli.main import main

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        out, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(errors), warnings.catch_warnings():
            warnings.simplefilter("default")
            code = main(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())

    return run


def _memory() -> Path | None:
    """A file system in memory with room; None where there is none, and the usual one must do."""
    place = Path("/dev/shm")
    if not place.is_dir() or not os.access(place, os.W_OK):
        return None
    return place if shutil.disk_usage(place).free >= ROOM_BYTES else None


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory, where a sync takes no time: for tests of what is written, when, and what a kill leaves.

    Its name is short, as the names of sockets must be.
    """
    folder = Path(tempfile.mkdtemp(prefix="eh-", dir=_memory()))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def field(memory_path: Path) -> Iterator[Field]:
    """A registry and an agent beside it, which a test starts."""
    field = Field(memory_path)
    yield field
    field.close()


@pytest.fixture(scope="session")
def kill_points() -> KillPoints:
    """`kill_points(calls, everyday)` are numbers from 1 to `calls`, in order; the same ones every time."""

    def points(calls: int, everyday: int) -> list[int]:
        every = range(1, calls + 1)
        if calls <= everyday or os.environ.get("EDGEHONE_KILLS") == "all":
            return list(every)
        return sorted({1, calls, *random.Random(calls).sample(every[1:-1], everyday - 2)})

    return points
