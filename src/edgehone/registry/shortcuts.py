"""Shorter ways to a new release: deltas from the last live versions, made and tried out while it is published.

Rules:
- From each of the last versions, newest first, in the order of the new members. An old bundle leads to one new one: the
  one of the same member. A new member without a namesake starts from the most preferred old bundle that is left.
- A delta counts only when it was applied here and made the new bundle.
- What is too long, fails, or finds no time or room is left out. A release never waits for its deltas, or fails by them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgehone.errors import HostError
from edgehone.registry.names import blob_path
from edgehone.registry.objects import Objects
from edgehone.registry.release import Listed, NewBundle, NewDelta
from edgehone_agent.errors import BundleError

VERSIONS = 3
BUDGET_S = 60.0
WORTH = 0.6  # of the new bundle: a longer delta is not worth a node's work

Make = Callable[[Path, Path, float], bytes | None]
Step = Callable[[int, str], None]
Watch = Callable[[int], AbstractContextManager[Step]]


@contextmanager
def _unwatched(total: int) -> Iterator[Step]:  # noqa: ARG001  nobody looks
    yield lambda *_: None


@dataclass(frozen=True)
class Wanted:
    """Which deltas to make.

    Attributes:
        make: a delta from (old, new, longest share of the new one); None when it would be longer.
        versions: how many of the last live versions they start from.
        budget_s: none is begun that would not be ready within this time, seconds.
        watch: is given how many there are, and wraps the making; what it gives is told which one begins.
        clock: seconds.
    """

    make: Make
    versions: int = VERSIONS
    budget_s: float = BUDGET_S
    watch: Watch = _unwatched
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Pair:
    """A live bundle, and the new one that nodes which have it will get."""

    old: Listed
    new: NewBundle

    def __str__(self) -> str:
        return f"{self.new.member} from version {self.old.version}"


@dataclass(frozen=True)
class LeftOut:
    """A delta that was not made, and why."""

    member: str
    from_version: int
    from_member: str
    why: str


@dataclass(frozen=True)
class Made:
    """Deltas with their files, and those that were left out."""

    deltas: Mapping[NewDelta, Path]
    left_out: tuple[LeftOut, ...]


def pairs(live: Sequence[Listed], bundles: Sequence[NewBundle], versions: int) -> tuple[Pair, ...]:
    """What to make deltas between.

    Args:
        live: bundles that the role lists.
        bundles: of the new release, most preferred first.
        versions: how many of the last live ones to start from.
    """
    found: list[Pair] = []
    for version in sorted({bundle.version for bundle in live}, reverse=True)[:versions]:
        left = sorted((bundle for bundle in live if bundle.version == version), key=lambda bundle: bundle.rank)
        names = {bundle.member: bundle for bundle in left}
        chosen = {new.member: names[new.member] for new in bundles if new.member in names}
        left = [bundle for bundle in left if bundle not in chosen.values()]
        for new in bundles:
            old = chosen.get(new.member) or (left.pop(0) if left else None)
            if old is not None:
                found.append(Pair(old, new))
    return tuple(found)


def make(
    store: Objects, wanted: Wanted, among: Sequence[Pair], files: Mapping[str, Path], room: int, scratch: Path
) -> Made:
    """Make the deltas, and try each out.

    Args:
        store: has the old bundles.
        wanted: how.
        among: the pairs, the most useful ones first.
        files: new bundles by sha256.
        room: how many the release can still list.
        scratch: a folder for old bundles and deltas, which must live as long as they are needed.

    Raises:
        HostError: there is no room in `scratch`.
        RegistryError: an old bundle cannot be read.
    """
    made: dict[NewDelta, Path] = {}
    left_out: list[LeftOut] = []
    begun_s, bytes_done = wanted.clock(), 0
    with wanted.watch(len(among)) as step:
        for number, pair in enumerate(among):
            step(number, str(pair))
            size_bytes = pair.old.size_bytes + pair.new.size_bytes
            spent_s = wanted.clock() - begun_s
            needed_s = spent_s / bytes_done * size_bytes if bytes_done else 0.0
            if len(made) >= room:
                found: tuple[NewDelta, Path] | str = "the release lists as many files as it may"
            elif spent_s + needed_s >= wanted.budget_s:
                found = f"it would not be ready within {wanted.budget_s:g} s"
            else:
                found = _one(store, wanted, pair, files[pair.new.sha256], scratch / f"{number}.delta")
                bytes_done += size_bytes
            if isinstance(found, str):
                left_out.append(LeftOut(pair.new.member, pair.old.version, pair.old.member, found))
            else:
                made[found[0]] = found[1]
        step(len(among), "")
    return Made(made, tuple(left_out))


def _one(store: Objects, wanted: Wanted, pair: Pair, new: Path, delta: Path) -> tuple[NewDelta, Path] | str:
    """A delta that was seen to work, or why there is none."""
    from edgehone_agent.delta import apply_delta

    blob = blob_path(pair.old.path, pair.old.sha256)
    if not store.holds(blob, pair.old.sha256):
        return "the old bundle is missing or altered"
    old = store.fetch(blob, delta.parent)
    tried = delta.with_suffix(".made")
    try:
        content = wanted.make(old, new, WORTH)
        if content is None:
            return f"it would be longer than {100 * WORTH:.0f} % of the bundle"
        delta.write_bytes(content)
        apply_delta(old, delta, tried, pair.new.sha256)
    except BundleError as error:
        return error.what
    except OSError as error:
        raise HostError(error.strerror or str(error), where=str(delta), do="free space there") from error
    finally:
        tried.unlink(missing_ok=True)
        if old.parent == delta.parent:
            old.unlink(missing_ok=True)
    digest = hashlib.sha256(content).hexdigest()
    return NewDelta(pair.old.sha256, pair.new.sha256, digest, len(content)), delta
