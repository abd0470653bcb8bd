"""Which release suits which node: pure decisions."""

from __future__ import annotations

import platform
from dataclasses import replace

import pytest

from edgehone_agent.errors import TrustError, UnfitError
from edgehone_agent.fit import NodeFacts, check_fit, choose, describe_node, read_fit
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
