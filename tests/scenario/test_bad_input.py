"""What people hand in wrong: every case ends in a message that says what, where and what to do, and its exit code.

What is wrong in a task or an option runs in this process; what is wrong with a disk in one of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
Command = Callable[..., subprocess.CompletedProcess[str]]

HEAD = """
import numpy as np, torch
from torch import nn
from edgehone import Task
rng = np.random.default_rng(0)
x = rng.normal(size=(80, 3, 8, 8)).astype("float32"); y = np.arange(80) % 2
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
"""

CASES = {
    "a missing task file": (None, 4, "no_such.py", "→"),
    "a file without a task": ("x = 1", 4, "task", "→"),
    "a syntax error": ("def broken(:", 4, "line 1", ""),
    "NaN in the data": (HEAD + "x[3, 0, 0, 0] = np.nan\nt = Task('t', net, (x, y), (x, y))", 4, "NaN", "→"),
    "a label out of range": (
        HEAD + "y[0] = 7\nt = Task('t', net, (x, y), (x, y), labels=('a', 'b'))", 4, "label 7", "→"
    ),
    "one class only": (HEAD + "t = Task('t', net, (x, y * 0), (x, y))", 4, "nothing to tell apart", "→"),
    "an empty split": (HEAD + "t = Task('t', net, (x, y), (x[:0], y[:0]))", 4, "no examples", "→"),
    "splits of two shapes": (HEAD + "t = Task('t', net, (x, y), (x[:, :, :4], y))", 4, "shape", "→"),
    "a network for another shape": (
        HEAD + "t = Task('t', nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), (x, y), (x, y))", 5, "192", "→"
    ),
    "control flow that depends on data": (
        HEAD
        + "class Net(nn.Module):\n    def __init__(self):\n        super().__init__(); self.n = net\n"
        + "    def forward(self, x):\n        if x.sum() > 0:\n            return self.n(x)\n"
        + "        return self.n(-x)\n"
        + "t = Task('t', Net(), (x, y), (x, y))", 5, "task.py:", "→"
    ),
    "an unknown operator": (
        HEAD
        + "class Net(nn.Module):\n    def __init__(self):\n        super().__init__(); self.n = net\n"
        + "    def forward(self, x):\n        return self.n(torch.cumsum(x, 1))\n"
        + "t = Task('t', Net(), (x, y), (x, y))", 5, "cumsum", "→"
    ),
    "an impossible name": (HEAD + "t = Task('a/b', net, (x, y), (x, y))", 4, "name", ""),
}  # fmt: skip


def optimize(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgehone.cli.main", "optimize", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_task_ends_in_words(
    case: str, edgehone_here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, code, told, advice = CASES[case]
    name = "no_such.py" if source is None else "task.py"
    if source is not None:
        (tmp_path / name).write_text(source)
    monkeypatch.chdir(tmp_path)
    done = edgehone_here("optimize", name, "-o", "out", "--epochs", "0.1")
    assert done.returncode == code, done.stderr
    assert told in done.stderr and advice in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--max-latency", "2 parsecs", "not a latency"),
        ("--max-latency", "0ms", "nothing can be that small"),
        ("--max-size", "many", "not a size"),
        ("--max-drop", "120pp", "more than all of it"),
        ("--time", "0s", "no time is left"),
        ("--members", "99", "1 to 12"),
        ("--criterion", "vibes", "there is no criterion called 'vibes'"),
        ("--device", "toaster", "toaster"),
    ],
)
def test_a_wrong_option_ends_in_words_and_writes_nothing(
    option: str, value: str, told: str, edgehone_here: Command, tmp_path: Path
) -> None:
    done = edgehone_here("optimize", "digits", option, value, "-o", str(tmp_path / "out"))
    assert done.returncode == 4, done.stderr
    assert told in done.stderr and "→" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written(small_task: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = optimize(str(small_task), "-o", str(tmp_path / "file" / "out"), cwd=tmp_path)
    assert done.returncode == 6 and "folder" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a full disk needs root")
def test_a_full_disk_keeps_what_was_finished(small_task: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        if os.environ.get("CI"):
            pytest.skip("this container may not mount a tmpfs")
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        done = optimize(str(small_task), "-o", str(disk / "out"), cwd=tmp_path)
        assert done.returncode == 6 and "disk is full" in done.stderr and "Traceback" not in done.stderr
        assert not list((disk / "out").rglob("*.partial"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_folder(small_task: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() == 0:
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a tmpfs is not allowed here")
    else:
        disk.chmod(0o555)
    try:
        done = optimize(str(small_task), "-o", str(disk / "out"), cwd=tmp_path)
        assert done.returncode == 6 and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(disk)], check=True)
