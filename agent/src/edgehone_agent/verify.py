"""What a node believes: python-tuf verifies, and this module closes what python-tuf leaves open on a node.

    verifier = Verifier(state, open_source(url), root)
    checked = verifier.check("gauge")       # releases, newest first; nothing to take where metadata is out of date
    verifier.download(release, path)
    verifier.raise_floor("gauge", release.version)

Rules:
- Every check starts from the embedded root. Local metadata that is damaged is thrown away.
- Metadata below a version that was seen before is refused, also when local metadata was wiped: floors are kept twice.
- Releases below the newest that this node took are not offered. When a task's key is replaced, that floor stays as far
  as the new key knows of the releases: its role says which version was the highest ever (where it does not, the highest
  it lists). A version above that was signed by somebody else with the old key; it holds nothing up. Who is offered what
  by a replay cannot use this: the new key's role knows of all that the owner had released when it was made.
- The root's floor goes with the registry. Another embedded root, which is not one that this node came by, is another
  registry: a person has put it there.
- Expiry is judged at max(clock, time floor). The floor is the latest of: the day this package was built, the day the
  embedded root was signed, and the newest timestamp's signing plus the time this node ran since it saw it. TUF has no
  signing dates. A registry states in its signed root how long each role holds, so signing = expiry - period; where it
  states nothing, the first two count alone. No clock of the network is asked.
- A clock behind the floor therefore neither stops updates nor opens an old state. A clock ahead makes metadata look out
  of date: no update, a flag, and the next check after the clock is right goes on. Neither is an error, for the node
  serves on.
- A publisher whose clock was far ahead leaves a floor in the future. A new online key ends that, for floors are bound
  to keys.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgehone_agent._floors import Floors, FloorStore, Mark, merge
from edgehone_agent._guards import raised, refuse_older, stated_period_s
from edgehone_agent.errors import RegistryError
from edgehone_agent.releases import Delta, Release, checked_task, highest_version, location, read_releases
from edgehone_agent.transport import Progress, Source

if TYPE_CHECKING:
    from edgehone_agent._tuf import Expired

__all__ = ["BUILT_S", "Checked", "Delta", "Flag", "Release", "Verifier", "location"]

BUILT_S = 1_795_478_400.0  # 2026-11-24 00:00 UTC; moved forward with each version
_UPTIME_RATE = 0.999  # no crystal is that slow, so counted time never runs ahead of the true one
_SKEW_S = 300.0  # a clock may be that far behind before it is said
_KEEP_EVERY_S = 3600.0  # how often the time floor goes to disk when nothing else changes
_DAY_S = 86400.0


@dataclass(frozen=True)
class Flag:
    """Something an operator should know though nothing is broken.

    Attributes:
        name: "stale_metadata", "clock_behind", "clock_ahead" or "unreachable".
        text: for people.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        releases: what may be taken, newest version first, in a version by rank; none where metadata is out of date.
        flags: what an operator should know.
        fresh: whether the registry's present state was verified just now.
        highest: the highest version that the present keys know to have been released; 0 when nothing was verified.
    """

    releases: tuple[Release, ...]
    flags: tuple[Flag, ...]
    fresh: bool
    highest: int = 0


class Verifier:
    """The trust of one node in one registry. May be used by several threads.

    Args:
        state: the node's folder; `tuf/`, `floor.json` and `floor.sqlite` in it belong to this class.
        source: the registry.
        root: the embedded root, the bytes of a root.json.
        clock: Unix time in seconds.
        uptime: seconds that only ever grow.

    Raises:
        TrustError: the embedded root is none.
        StateError: the floors cannot be read.
    """

    def __init__(
        self,
        state: Path,
        source: Source,
        root: bytes,
        *,
        clock: Callable[[], float] = time.time,
        uptime: Callable[[], float] = time.monotonic,
    ) -> None:
        from edgehone_agent._tuf import knows_root, read_root

        self._folder, self._source, self._root = state / "tuf", source, root
        self._clock, self._uptime = clock, uptime
        embedded = read_root(root)
        period_s = stated_period_s(embedded, "root")
        self._built_s = max(BUILT_S, embedded.expires.timestamp() - period_s if period_s else 0.0)
        self._store = FloorStore(state)
        self._floors, _ = self._store.load()
        self._anchor = hashlib.sha256(root).hexdigest()[:16]
        known = self._floors.roles.get("root")
        if known is not None and knows_root(self._folder, root):
            self._anchor = known.keys
        self._since_s = uptime()
        self._last: dict[str, Checked] = {}
        self._expired_seen: Mark | None = None
        self._synced: dict[str, Mark] = {}
        self._lock = threading.RLock()

    def check(self, task: str) -> Checked:
        """Ask the registry what a task may run.

        Raises:
            TrustError: metadata was refused; nothing of it is used.
            InputError: no name for a task, or the registry has no such task.
            RegistryError: it cannot be reached or is none.
            StateError: the node's folder cannot be read or written.
        """
        from edgehone_agent._tuf import Expired, refresh, sync

        checked_task(task)
        with self._lock:
            self._reload()
            now_s, floor_s = self._clock(), self.time_floor_s
            try:
                found = refresh(self._folder, self._root, self._source, task, max(now_s, floor_s))
                if isinstance(found, Expired) and self._is_rekeyed(found):
                    floor_s = self._built_floor_s
                    found = refresh(self._folder, self._root, self._source, task, max(now_s, floor_s))
            except RegistryError as error:
                self._remember(task, Flag("unreachable", error.what))
                raise
            if isinstance(found, Expired):
                return self._out_of_date(task, found, now_s, floor_s)
            marks = found.marks(self._anchor)
            refuse_older(self._floors, marks)
            floors = raised(self._floors, found, marks, floor_s)
            expired = [name for name, signed in found.signed() if floors.time_s >= signed.expires.timestamp()]
            if expired:
                text = f"{expired[0]} metadata is expired"
                return self._out_of_date(task, Expired(text, found.root, found.timestamp), now_s, floors.time_s)
            if marks != self._synced:
                sync(self._folder)
                self._synced = marks
            self._keep(floors)
            self._expired_seen = None
            floor = self.floor(task)
            releases = tuple(r for r in read_releases(task, found.role.targets) if r.version >= floor)
            checked = Checked(releases, _behind(now_s, floors.time_s), True, highest_version(found.role))
            self._last[task] = checked
            return checked

    def last(self, task: str) -> Checked | None:
        """What was verified last since the start, for status pages; its flags are of the last check."""
        return self._last.get(task)

    def download(self, item: Release | Delta, to: Path, progress: Progress | None = None) -> None:
        """Bring a file that a check offered, durably in its place on return; see `Source.download` for errors."""
        self._source.download(location(item), to, item.size_bytes, item.sha256, progress)

    def floor(self, task: str) -> int:
        """The release below which nothing is offered, 0 when there is none."""
        mark = self._floors.tasks.get(task)
        return mark.version if mark is not None else 0

    def raise_floor(self, task: str, version: int) -> None:
        """Take no release of a task below a version from now on; on disk, twice, on return.

        Raises:
            StateError: the disk is full or read-only.
        """
        with self._lock:
            if version <= self.floor(checked_task(task)):
                return
            role = self._floors.roles.get(f"task-{task}")
            mark = Mark(role.keys if role is not None else "", version)
            self._keep(replace(self._floors, tasks={**self._floors.tasks, task: mark}))

    @property
    def time_floor_s(self) -> float:
        """Unix time before which now cannot be."""
        return max(self._built_floor_s, self._floors.time_s + self._counted_s)

    @property
    def _built_floor_s(self) -> float:
        """The same from what this node was installed with, not from what the registry's online key signed."""
        return self._built_s + self._counted_s

    @property
    def _counted_s(self) -> float:
        return max(0.0, (self._uptime() - self._since_s) * _UPTIME_RATE)

    def _is_rekeyed(self, found: Expired) -> bool:
        """Whether the time floor comes from an online key that a newer root replaced, so that it does not count."""
        from edgehone_agent._tuf import TIMESTAMP, name_keys

        refuse_older(self._floors, {"root": Mark(self._anchor, found.root.version)})
        return self._floors.time_keys not in ("", name_keys(found.root.roles[TIMESTAMP]))

    def _reload(self) -> None:
        """Repair a copy of the floors that was lost or damaged since, and write down the time that passed."""
        on_disk, whole = self._store.load()
        known = merge(self._floors, on_disk)
        if known.time_s != self._floors.time_s:  # another process saw more
            self._since_s = self._uptime()
        if known.serial and not (whole and known == on_disk):
            self._store.save(known)
        self._floors = known
        if known.time_keys:
            self._keep(replace(known, time_s=max(known.time_s, self.time_floor_s)))

    def _keep(self, floors: Floors) -> None:
        """Remember floors, on disk where they changed by more than a little time."""
        now = replace(floors, time_s=self._floors.time_s) if _only_time(floors, self._floors) else floors
        if now == self._floors:
            return
        saved = replace(floors, serial=self._floors.serial + 1)
        self._store.save(saved)
        if saved.time_s != self._floors.time_s:
            self._since_s = self._uptime()
        self._floors = saved

    def _out_of_date(self, task: str, found: Expired, now_s: float, floor_s: float) -> Checked:
        """Flags for metadata that is past its date; where it is signed well, an older one is still a replay."""
        from edgehone_agent._tuf import TIMESTAMP, name_keys

        flags = list(_behind(now_s, floor_s))
        expired = found.timestamp or found.root
        days = (max(now_s, floor_s) - expired.expires.timestamp()) / _DAY_S
        ago = f", {days:.1f} days ago" if days > 0 else ""
        flags.insert(0, Flag("stale_metadata", f"{found.text}{ago}: no update until the registry is signed anew"))
        if found.timestamp is not None:
            mark = Mark(name_keys(found.root.roles[TIMESTAMP]), found.timestamp.version)
            refuse_older(self._floors, {TIMESTAMP: mark, "root": Mark(self._anchor, found.root.version)})
            known = self._expired_seen or self._floors.roles.get(TIMESTAMP)
            if now_s > floor_s and known is not None and known.keys == mark.keys and known.version < mark.version:
                text = "the registry signs anew and all is out of date by this node's clock, which may be ahead"
                flags.append(Flag("clock_ahead", text))
            else:
                self._expired_seen = self._expired_seen or mark
        self._remember(task, *flags)
        return Checked((), tuple(flags), False)

    def _remember(self, task: str, *flags: Flag) -> None:
        last = self._last.get(task)
        self._last[task] = Checked(last.releases if last is not None else (), flags, False)


def _only_time(new: Floors, old: Floors) -> bool:
    """Whether nothing but the time floor has grown, and that by little."""
    return replace(new, time_s=old.time_s) == old and 0 <= new.time_s - old.time_s < _KEEP_EVERY_S


def _behind(now_s: float, floor_s: float) -> tuple[Flag, ...]:
    if floor_s - now_s < _SKEW_S:
        return ()
    days = (floor_s - now_s) / _DAY_S
    return (Flag("clock_behind", f"this node's clock is at least {days:.1f} days behind; expiry is judged without it"),)
