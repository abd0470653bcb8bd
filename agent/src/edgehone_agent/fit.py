"""Whether a release suits this node: decided from values, before a byte of it is downloaded.

node = describe_node()
runtime = check_fit(release.fit, node)              # "litert", or UnfitError with the reason
release = choose(checked.releases, node)            # the first member of the newest version that fits

Memory is what the kernel can still give and what the process's control groups (a container, a systemd unit) still
allow, whichever is less; a group's cache counts as free, for it makes way.
"""

from __future__ import annotations

import importlib.util
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone_agent import __version__
from edgehone_agent.errors import BundleError, TrustError, UnfitError
from edgehone_agent.wire.manifest import Fit

if TYPE_CHECKING:
    from edgehone_agent.verify import Release

_MODULES = {"litert": "ai_edge_litert", "onnxruntime": "onnxruntime"}


@dataclass(frozen=True)
class NodeFacts:
    """What a node is.

    Attributes:
        machine: `platform.machine()`.
        runtimes: names of the runtimes that are installed.
        memory_bytes: memory that a model may take; None where that is not known.
        agent: version of the agent.
    """

    machine: str
    runtimes: tuple[str, ...]
    memory_bytes: int | None = None
    agent: str = __version__


def describe_node(*, memory_bytes: int | None = None) -> NodeFacts:
    """This machine, now. Nothing is imported for it.

    Args:
        memory_bytes: the most that a model may take; None for what the machine has available.
    """
    from edgehone_agent.runtimes import RUNTIMES

    names = RUNTIMES.names()
    found = tuple(name for name in names if importlib.util.find_spec(_MODULES.get(name, "edgehone_agent")) is not None)
    return NodeFacts(platform.machine(), found, available_bytes() if memory_bytes is None else memory_bytes)


def check_fit(fit: Fit, node: NodeFacts) -> str:
    """The runtime that this node should run a release on: the release's first that is installed.

    Raises:
        UnfitError: another machine, no runtime, too little memory, or an agent that is too old.
    """
    if fit.machines and node.machine not in fit.machines:
        raise UnfitError(
            f"it is for {', '.join(fit.machines)} and this machine is {node.machine}",
            do="publish a member for this kind of machine",
        )
    needed, own = _version(fit.agent), _version(node.agent)
    if own is None or needed is None or own < needed:
        raise UnfitError(
            f"it needs agent {fit.agent}, and this is {node.agent}", do="update edgehone-agent on this node"
        )
    runtime = next((name for name in fit.runtimes if name in node.runtimes), None)
    if runtime is None:
        wanted, here = " or ".join(fit.runtimes) or "nothing", " and ".join(node.runtimes) or "nothing"
        raise UnfitError(
            f"it runs on {wanted}, and here is {here}",
            do="install one of these runtimes, or publish a member for the one that is here",
        )
    if node.memory_bytes is not None and fit.memory_bytes > node.memory_bytes:
        raise UnfitError(
            f"it takes {fit.memory_bytes} bytes of memory and {node.memory_bytes} are to be had",
            do="publish a smaller member, or free memory on this node",
        )
    return runtime


def choose(releases: Iterable[Release], node: NodeFacts) -> Release:
    """The member of the newest version that this node should take.

    Args:
        releases: newest version first, in a version by rank, as `Verifier.check` gives them.
        node: what this node is.

    Raises:
        UnfitError: no member of the newest version fits (the reasons are said), or there is no release.
    """
    reasons: list[str] = []
    newest: int | None = None
    for release in releases:
        if newest is not None and release.version != newest:
            break
        newest = release.version
        try:
            check_fit(release.fit, node)
        except UnfitError as error:
            reasons.append(f"{release.member}: {error.what}")
        else:
            return release
    if newest is None:
        raise UnfitError("there is no release to take", do="publish one")
    raise UnfitError(
        f"no member of version {newest} fits this node; {'; '.join(reasons)}",
        do="publish a member that fits, or change the node as the reasons say",
    )


def read_fit(data: Any, where: str) -> Fit:
    """Fit from signed JSON; what is not stated has its default, and fields of a newer format are ignored.

    Raises:
        TrustError: a field is of another type or out of range.
    """
    try:
        return Fit.from_json(data)
    except BundleError as error:
        raise TrustError(
            f"the release says nothing readable about what it needs: {error.what}",
            where=where,
            do="publish it again with a current edgehone",
        ) from error


def _version(text: str) -> tuple[int, ...] | None:
    """Leading numbers of a version, without trailing zeros; None for what is no version."""
    found = re.match(r"\d{1,6}(\.\d{1,6}){0,3}(?![0-9])", text)
    if found is None:
        return None
    numbers = [int(number) for number in found[0].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process can still get, None where that is not known.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.max, memory.high) and cgroup-v1/memory.rst.

    Args:
        root: of the file system in which the kernel shows itself.
    """
    rooms = [_free_bytes(root / "proc/meminfo"), *(_room_bytes(group) for group in _groups(root))]
    return min((room for room in rooms if room is not None), default=None)


def _free_bytes(meminfo: Path) -> int | None:
    """What the machine can give, as the kernel estimates it."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    sizes_kb = {name: size for name, _, size in (line.partition(":") for line in lines)}
    size = sizes_kb.get("MemAvailable", "").split()
    return int(size[0]) * 1024 if size and size[0].isdigit() else None


def _groups(root: Path) -> list[Path]:
    """The control groups that bound this process's memory, of either kind: its own and all above.

    In a container the path may be that outside of it, while the folder that is mounted is the container's own: then
    that folder stands for it.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number == "0" and not kinds:
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "memory" in kinds.split(","):
            tops = [root / "sys/fs/cgroup/memory"]
        else:
            continue
        steps = [step for step in path.split("/") if step not in ("", "..")]
        found += [top.joinpath(*steps[:depth]) for top in tops for depth in range(len(steps) + 1)]
    return found


_LIMITS = (("memory.max", "memory.current", "inactive_file"), ("memory.high", "memory.current", "inactive_file"),
           ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))  # fmt: skip


def _room_bytes(group: Path) -> int | None:
    """What a control group still allows; None where it has no limit."""
    rooms = []
    for limit_name, used_name, cache_name in _LIMITS:
        limit, used = _number(group / limit_name), _number(group / used_name)
        if limit is not None and used is not None:
            rooms.append(max(0, limit - used + _cache_bytes(group / "memory.stat", cache_name)))
    return min(rooms, default=None)


def _number(file: Path) -> int | None:
    """A file's number; None where there is none, or a word such as "max"."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _cache_bytes(stat: Path, name: str) -> int:
    try:
        lines = stat.read_text().splitlines()
    except OSError:
        return 0
    found = next((line.split()[1] for line in lines if line.startswith(f"{name} ")), "0")
    return int(found) if found.isdecimal() else 0
