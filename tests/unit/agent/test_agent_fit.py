"""Which release suits which node: pure decisions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgehone_agent.errors import TrustError, UnfitError
from edgehone_agent.fit import NodeFacts, available_bytes, check_fit, choose, describe_node, read_fit
from edgehone_agent.verify import Release
from edgehone_agent.wire.manifest import Fit

NODE = NodeFacts("aarch64", ("litert",), 100_000_000, "0.3.1")
FIT = Fit(("aarch64", "x86_64"), ("onnxruntime", "litert"), 1_000_000, 500.0, "0.2.0")


def release(version: int, rank: int, **fit: object) -> Release:
    return Release("gauge", "path", version, f"m{rank}", "0" * 64, 5, rank, replace(FIT, **fit))  # type: ignore[arg-type]


def test_the_first_runtime_that_is_here_is_chosen() -> None:
    assert check_fit(FIT, NODE) == "litert"
    assert check_fit(FIT, replace(NODE, runtimes=("litert", "onnxruntime"))) == "onnxruntime"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"machines": ("riscv64",)}, "it is for riscv64 and this machine is aarch64"),
        ({"runtimes": ("onnxruntime",)}, "it runs on onnxruntime, and here is litert"),
        ({"runtimes": ()}, "it runs on nothing, and here is litert"),
        ({"memory_bytes": 100_000_001}, "it takes 100000001 bytes of memory and 100000000 are to be had"),
        ({"agent": "0.3.2"}, "it needs agent 0.3.2, and this is 0.3.1"),
        ({"agent": "0.10"}, "it needs agent 0.10, and this is 0.3.1"),
        ({"agent": "new"}, "it needs agent new, and this is 0.3.1"),
    ],
)
def test_each_reason_is_said(change: dict[str, object], reason: str) -> None:
    with pytest.raises(UnfitError) as caught:
        check_fit(replace(FIT, **change), NODE)  # type: ignore[arg-type]
    assert caught.value.what == reason and caught.value.do


@pytest.mark.parametrize(
    "change",
    [{"machines": ()}, {"memory_bytes": 100_000_000}, {"agent": "0.3.1"}, {"agent": "0.3.1.0"}, {"agent": "0"},
     {"latency_us": None}, {"latency_us": 0.001}],
    ids=str,
)  # fmt: skip
def test_what_is_just_enough_fits(change: dict[str, object]) -> None:
    assert check_fit(replace(FIT, **change), NODE) == "litert"  # type: ignore[arg-type]


def test_memory_that_is_not_known_refuses_nothing() -> None:
    assert check_fit(replace(FIT, memory_bytes=1 << 60), replace(NODE, memory_bytes=None)) == "litert"


def test_the_first_member_of_the_newest_version_that_fits_is_taken() -> None:
    releases = [release(3, 0, machines=("riscv64",)), release(3, 1), release(3, 2), release(2, 0)]
    assert choose(releases, NODE) == releases[1]


def test_an_older_version_is_not_taken_instead() -> None:
    releases = [release(3, 0, machines=("riscv64",)), release(3, 1, runtimes=("onnxruntime",)), release(2, 0)]
    with pytest.raises(UnfitError) as caught:
        choose(releases, NODE)
    for words in ("no member of version 3 fits", "m0: it is for riscv64", "m1: it runs on onnxruntime"):
        assert words in caught.value.what


def test_no_release_is_said() -> None:
    with pytest.raises(UnfitError, match="there is no release to take"):
        choose([], NODE)


def test_fit_is_read_from_signed_json() -> None:
    data = {
        "machines": ["aarch64"],
        "runtimes": ["litert"],
        "memory_bytes": 5,
        "latency_us": 7,
        "agent": "1.2",
        "x": {},
    }
    assert read_fit(data, "here") == Fit(("aarch64",), ("litert",), 5, 7.0, "1.2")
    assert read_fit({}, "here") == Fit()


@pytest.mark.parametrize(
    "data",
    [[], None, {"machines": "x86_64"}, {"machines": [1]}, {"runtimes": {}}, {"memory_bytes": True},
     {"memory_bytes": -1}, {"memory_bytes": "5"}, {"latency_us": "5"}, {"latency_us": -5}, {"latency_us": 10**400},
     {"latency_us": True},
     {"agent": 1}, {"agent": "1" * 99}],
    ids=lambda data: str(data)[:40],
)  # fmt: skip
def test_fit_that_makes_no_sense_is_refused(data: object) -> None:
    with pytest.raises(TrustError, match="says nothing readable about"):
        read_fit(data, "here")


def test_this_node() -> None:
    node = describe_node()
    assert node.machine == platform.machine()
    assert "litert" in node.runtimes
    assert node.memory_bytes is not None and 1_000_000 < node.memory_bytes < 1 << 50
    assert describe_node(memory_bytes=5).memory_bytes == 5


MEMINFO = "MemTotal: 900 kB\nMemAvailable:   800000 kB\n"
MB = 1_000_000


def kernel(root: Path, files: dict[str, object]) -> Path:
    """What a kernel shows, below a folder."""
    for name, content in {"proc/meminfo": MEMINFO, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    return root


def second(group: str, limit: object, used: int, cache: int = 0, high: object = "max") -> dict[str, object]:
    stat = f"anon 5\ninactive_file {cache}\nactive_file 7"
    return {
        f"{group}/memory.max": limit, f"{group}/memory.high": high, f"{group}/memory.current": used,
        f"{group}/memory.stat": stat,
    }  # fmt: skip


def first(group: str, limit: int, used: int, cache: int = 0) -> dict[str, object]:
    stat = f"inactive_file 1\ntotal_inactive_file {cache}"
    return {
        f"{group}/memory.limit_in_bytes": limit, f"{group}/memory.usage_in_bytes": used, f"{group}/memory.stat": stat
    }  # fmt: skip


TOP, OLD = "sys/fs/cgroup", "sys/fs/cgroup/memory"
NO_LIMIT = 9223372036854771712  # what version 1 shows


@pytest.mark.parametrize(
    ("files", "bytes_"),
    [
        ({}, 819_200_000),
        ({"proc/self/cgroup": "0::/"}, 819_200_000),
        ({"proc/self/cgroup": "0::/a/b", **second(f"{TOP}/a/b", 100 * MB, 30 * MB, 10 * MB)}, 80 * MB),
        ({"proc/self/cgroup": "0::/a/b", **second(f"{TOP}/a/b", "max", 30 * MB),
          **second(f"{TOP}/a", 50 * MB, 40 * MB)}, 10 * MB),
        ({"proc/self/cgroup": "0::/a", **second(f"{TOP}/a", 100 * MB, 30 * MB, high=60 * MB)}, 30 * MB),
        ({"proc/self/cgroup": "0::/a", **second(f"{TOP}/a", 100 * MB, 130 * MB)}, 0),
        ({"proc/self/cgroup": "0::/a", **second(f"{TOP}/a", 10**12, 0)}, 819_200_000),
        ({"proc/self/cgroup": "0::/../..", **second(TOP, 64 * MB, 4 * MB)}, 60 * MB),
        ({"proc/self/cgroup": "0::/out/side", **second(TOP, 64 * MB, 4 * MB)}, 60 * MB),
        ({"proc/self/cgroup": "4:memory:/docker/x\n0::/", **first(f"{OLD}/docker/x", 70 * MB, 20 * MB, 5 * MB)},
         55 * MB),
        ({"proc/self/cgroup": "4:cpu,memory:/docker/x", **first(OLD, 70 * MB, 20 * MB)}, 50 * MB),
        ({"proc/self/cgroup": "4:memory:/x", **first(f"{OLD}/x", NO_LIMIT, 20 * MB), **first(OLD, NO_LIMIT, 1)},
         819_200_000),
        ({"proc/self/cgroup": "nonsense\n0::/a\n:", **second(f"{TOP}/a", "soon", 1)}, 819_200_000),
        ({"proc/meminfo": "MemFree: 3 kB", "proc/self/cgroup": "0::/a", **second(f"{TOP}/a", 9 * MB, MB)}, 8 * MB),
        ({"proc/meminfo": ""}, None),
    ],
)  # fmt: skip
def test_memory_is_what_machine_and_control_groups_leave(
    files: dict[str, object], bytes_: int | None, tmp_path: Path
) -> None:
    assert available_bytes(kernel(tmp_path, files)) == bytes_


def test_a_kernel_that_shows_nothing(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None


def own_group() -> Path | None:
    """A new control group with a limit of 300 MB, below this process's own; None where none can be had."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, kinds, path = line.split(":", 2)
        is_second = number == "0" and not kinds and Path("/sys/fs/cgroup/cgroup.controllers").exists()
        if not is_second and kinds != "memory":
            continue
        top = Path("/sys/fs/cgroup") if is_second else Path("/sys/fs/cgroup/memory")
        for above in (top / path.lstrip("/"), top):
            group = above / f"edgehone-test-{os.getpid()}"
            try:
                group.mkdir()
            except OSError:
                continue
            try:
                (group / ("memory.max" if is_second else "memory.limit_in_bytes")).write_text(str(300 * MB))
                return group
            except OSError:
                group.rmdir()
    return None


def test_a_process_in_a_real_control_group_sees_its_limit() -> None:
    group = own_group()
    if group is None:
        pytest.skip("a control group with a memory limit cannot be made here")
    program = f"""
import os, pathlib
pathlib.Path({str(group / "cgroup.procs")!r}).write_text(str(os.getpid()))
from edgehone_agent.fit import describe_node
held = bytearray(100_000_000)
print(describe_node().memory_bytes)
"""
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert 0 < int(done.stdout) < 200 * MB
    finally:
        group.rmdir()
