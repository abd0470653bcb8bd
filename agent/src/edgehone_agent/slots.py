"""The two slots of a task on disk: a bundle goes in beside the one that serves, is tried, and takes over or is dropped.

Order of calls: `Slots(folder, task)` → `start()` once per process → `load()` → `install(bundle)` any number of times,
`settle()` a minute after a swap or start, `roll_back()`, `stop()` when the process ends by itself. One process at a
time; `edgehone_agent.agent` holds the lock.

    FOLDER/current.json       the pointer and what `slot_rules` keeps; written whole, so a step happened or it did not
    FOLDER/a  FOLDER/b        bundle.zip, the base of the next delta, and files/, its unpacked parts
    FOLDER/incoming           a bundle on trial; a leftover is removed

`install` puts nothing at risk: the last good bundle makes room only once the new one has answered its probe on this
machine within its latency bound. Whatever fails before the pointer is written leaves all as it was. A full or
read-only disk is a StateError: what serves goes on serving from memory.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from edgehone_agent import durable
from edgehone_agent.bundle import Bundle, open_bundle
from edgehone_agent.errors import (
    BundleError,
    EdgehoneError,
    HostError,
    InputError,
    StateError,
    UnfitError,
)
from edgehone_agent.loading import Loaded, load_bundle
from edgehone_agent.runtimes._files import check_threads
from edgehone_agent.slot_rules import Decision, Event, Placed, SlotState, decide
from edgehone_agent.wire.manifest import Manifest, Part

BUNDLE, FILES = "bundle.zip", "files"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
# A second name for a file is not to be had: another disk, or a file system that knows no such thing.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}


class Slots:
    """The slots of one task.

    Args:
        folder: of the task; made when something is written.
        task: its name; a bundle of another task is refused.
        threads: of each session.
        sessions: how many callers may be answered at the same time.
        is_writer: this process holds the folder's lock; without it nothing is written and nothing installed.
        clock: Unix time; only written down.
        boot: names the machine's present run; None to ask the kernel.
    """

    def __init__(
        self,
        folder: Path,
        task: str,
        *,
        threads: int = 1,
        sessions: int = 1,
        is_writer: bool = True,
        clock: Callable[[], float] = time.time,
        boot: str | None = None,
    ) -> None:
        self.folder = folder
        self.task = task
        self.fault: str | None = None
        self._is_writer = is_writer
        self._boot = _boot_id() if boot is None else boot
        self._threads, self._sessions, self._clock = threads, sessions, clock
        self._pointer = folder / "current.json"
        check_threads(threads)
        self._unread: StateError | None = None
        self.state = self._on_disk = self._read()

    @property
    def is_writer(self) -> bool:
        """Whether this process holds the folder's lock. One that comes to hold it looks at what others wrote before."""
        return self._is_writer

    @is_writer.setter
    def is_writer(self, value: bool) -> None:
        if value and not self._is_writer:
            found = self._read()
            if found != self._on_disk:
                self.state = self._on_disk = found
        self._is_writer = value

    def start(self) -> None:
        """Count this start against a bundle on trial, and drop or roll back one that killed the process twice.

        A disk that cannot be written does not keep the node from serving: `fault` says so.
        """
        if not self.is_writer or self._unread is not None:
            return
        decision = self._decide(Event("started", boot=self._boot))
        try:
            self._write(decision)
            _remove(self.folder / "incoming")
        except StateError as error:
            self.state, self.fault = decision.state, str(error)

    def load(self) -> Loaded | None:
        """What serves, in memory and proven by its probe; None when there is nothing.

        A bundle that is damaged or answers wrong gives way to the last good one.

        Raises:
            HostError: it can neither be loaded now nor blamed: no memory, no runtime, unreadable disk.
        """
        self._read_again()
        tried: set[str] = set()
        while (current := self.state.current or self._rescued(tried)) is not None:
            tried.add(current.digest)
            try:
                return self._load_slot(current)
            except _DamagedError as error:
                event = Event("lost", current.digest, current.version, why=str(error))
            except InputError as error:
                event = Event("failed", current.digest, current.version, why=error.what)
            self.fault = f"version {current.version}: {event.why}"
            decision = self._decide(event)
            try:
                self._write(decision)
            except StateError:
                self.state = decision.state  # what is written down later is decided again, from the same files
        return None

    def install(self, bundle: Path) -> Loaded:
        """Try a verified bundle file beside what serves and, when it passes, make it current on disk.

        The caller then swaps its reference and closes the old sessions. The file at `bundle` stays.

        Raises:
            UnfitError: it failed here before, serves already, is older than what serves, or is too slow here.
            BundleError: damaged, of another task, or its model answers its probe wrongly.
            ModelFileError: no runtime here takes its model.
            HostError: disk, memory or a missing runtime; nothing is remembered and it may be tried again.
        """
        self._check_writer()
        self._read_again()
        if not bundle.is_file():
            raise BundleError("there is no such file", where=str(bundle), do="give the path of a bundle")
        with _host_errors(self.folder), open_bundle(bundle) as opened:
            return self._install(bundle, opened)

    def _install(self, path: Path, bundle: Bundle) -> Loaded:
        manifest, digest = bundle.manifest, bundle.digest
        if manifest.task != self.task:
            raise BundleError(
                f"a bundle of task {manifest.task!r}", where=self.task, do="publish it under its own task"
            )
        arrived = self._decide(Event("arrived", digest, manifest.version, manifest.member, boot=self._boot))
        if arrived.action == "refuse":
            raise UnfitError(arrived.why, where=f"{self.task} version {manifest.version}", do="publish another version")
        incoming = self.folder / "incoming"
        _remove(incoming)
        loaded: Loaded | None = None
        try:
            with _host_errors(self.folder):
                self._unpack(path, bundle, incoming)
                self._write(arrived)
                loaded = self._load(digest, manifest, incoming / FILES, measure=True)
                slot = self._place(loaded, incoming)
        except HostError as error:
            self._give_up(loaded, Event("interrupted", digest, manifest.version, why=error.what))
            raise
        except InputError as error:
            cause = error.__cause__
            if isinstance(cause, OSError):  # the disk did not give the bundle's bytes, which says nothing about it
                self._give_up(loaded, Event("interrupted", digest, manifest.version, why=error.what))
                raise durable.state_error(cause, path) from error
            self._give_up(loaded, Event("failed", digest, manifest.version, why=error.what))
            raise
        self.fault = None
        return replace(loaded, folder=slot / FILES)

    def roll_back(self, why: str = "") -> Loaded:
        """Make the last good bundle current; what served is not tried again.

        Raises:
            UnfitError: there is none, or it does not answer as it should; nothing has changed.
            HostError: it cannot be loaded or the pointer not be written; nothing has changed.
        """
        self._check_writer()
        self._read_again()
        decision = self._decide(Event("undone", why=why))
        if decision.action == "refuse" or decision.state.current is None:
            raise UnfitError(decision.why, where=self.task, do="publish a newer version instead")
        try:
            loaded = self._load_slot(decision.state.current)
        except (InputError, _DamagedError) as error:
            raise UnfitError(
                f"the last good bundle is no longer good: {error}", where=self.task, do="publish a newer version"
            ) from error
        try:
            self._write(decision)
        except StateError:
            loaded.close()
            raise
        return loaded

    def disown(self, highest: int) -> None:
        """The registry's owner, who has replaced keys, knows of no release above a version: such a one may be replaced
        by an older one, and is not gone back to.

        Raises:
            StateError: that could not be written; nothing has changed.
        """
        self._check_writer()
        self._write(self._decide(Event("disowned", version=highest)))

    def settle(self) -> None:
        """The process has lived long enough with what serves: it is no longer on trial.

        Raises:
            StateError: that could not be written; it stays on trial.
        """
        self._write(self._decide(Event("settled")))

    def stop(self) -> None:
        """The process ends by itself, which is no death.

        Raises:
            StateError: that could not be written.
        """
        self._write(self._decide(Event("stopped")))

    def bundle_file(self) -> Path | None:
        """The file of what serves, the base of a delta; None when there is none."""
        return None if self.state.current is None else self.folder / self.state.current.slot / BUNDLE

    def _check_writer(self) -> None:
        if not self.is_writer:
            raise StateError(
                "another process writes this folder, or nobody can", where=str(self.folder), do="ask the running agent"
            )

    def _read_again(self) -> None:
        """Read a pointer that could not be read before: what is not known must not be written over.

        Raises:
            StateError: it still cannot be read.
        """
        if self._unread is not None:
            self.state = self._on_disk = self._read()
        if self._unread is not None:
            raise self._unread

    def _decide(self, event: Event) -> Decision:
        return decide(self.state, event, self._clock())

    def _write(self, decision: Decision) -> None:
        if self.is_writer and self._unread is None and decision.state != self._on_disk:
            durable.write_bytes(self._pointer, json.dumps(decision.state.to_json(), indent=1).encode())
            self._on_disk = decision.state
        self.state = decision.state

    def _read(self) -> SlotState:
        """The state on disk. A damaged one is made again from the slots: each holds only what once passed."""
        self._unread = None
        try:
            return SlotState.from_json(json.loads(self._pointer.read_bytes()))
        except FileNotFoundError:
            return SlotState()
        except OSError as error:
            self._unread = durable.state_error(error, self._pointer)
            self.fault = str(self._unread)
            return SlotState()
        except (ValueError, RecursionError, StateError):
            self.fault = "the pointer to the slots was damaged; the newest bundle in them serves"
        found = self._found()
        return SlotState(found[0] if found else None, found[1] if len(found) > 1 else None)

    def _rescued(self, tried: set[str]) -> Placed | None:
        """A bundle in a slot that the pointer does not name, the last resort when nothing it names can be loaded."""
        for placed in self._found():
            if placed.digest not in tried and self.state.failure(placed.digest, placed.version) is None:
                self.state = replace(self.state, current=placed)
                return placed
        return None

    def _found(self) -> list[Placed]:
        """The sound bundles in the slots, newest first."""
        found: list[Placed] = []
        for slot in ("a", "b"):
            try:
                with open_bundle(self.folder / slot / BUNDLE) as bundle:
                    found.append(Placed(slot, bundle.digest, bundle.manifest.version, bundle.manifest.member))
            except (EdgehoneError, OSError):
                continue  # an empty or damaged slot is what is being sorted out here
        return sorted(found, key=lambda placed: -placed.version)

    def _unpack(self, path: Path, bundle: Bundle, folder: Path) -> None:
        (folder / FILES).mkdir(parents=True)
        # A second name is enough for a file of the node's own; what belongs to others is copied, they may change it.
        if not (path.resolve().is_relative_to(self.folder.parents[1].resolve()) and _link(path, folder / BUNDLE)):
            shutil.copyfile(path, folder / BUNDLE)
        with (folder / BUNDLE).open("rb") as file:
            os.fsync(file.fileno())
        bundle.unpack(folder / FILES)
        durable.sync_folder(folder)
        durable.sync_folder(self.folder)

    def _place(self, loaded: Loaded, incoming: Path) -> Path:
        """Move a bundle that passed into the free slot, let the pointer point there, and return the slot's folder."""
        slot = self.folder / self.state.free()
        self._write(self._decide(Event("cleared")))
        _remove(slot)
        durable.replace(incoming, slot)
        manifest = loaded.manifest
        passed = Event(
            "passed", loaded.digest, manifest.version, manifest.member, boot=self._boot, latency_us=loaded.latency_us
        )  # fmt: skip
        self._write(self._decide(passed))
        return slot

    def _give_up(self, loaded: Loaded | None, event: Event) -> None:
        if loaded is not None:
            loaded.close()
        self.fault = f"version {event.version}: {event.why}"
        decision = self._decide(event)
        try:
            self._write(decision)
            _remove(self.folder / "incoming")
        except StateError:
            self.state = decision.state  # remembered until the process ends; then it is tried once more

    def _load_slot(self, placed: Placed) -> Loaded:
        """A slot's bundle, its files checked against its digest and mended from it.

        Raises:
            _DamagedError: the bundle file is not the one that was placed.
        """
        slot = self.folder / placed.slot
        with _host_errors(slot):
            try:
                with open_bundle(slot / BUNDLE) as bundle:
                    if bundle.digest != placed.digest:
                        raise _DamagedError("the bundle in the slot is not the one that was put there")
                    manifest = bundle.manifest
                    if not all(_intact(slot / FILES / part.path, bundle, part) for part in manifest.parts):
                        self._mend(slot, bundle)
            except (BundleError, FileNotFoundError) as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                    raise durable.state_error(cause, slot) from error  # unreadable now, which is not damaged
                raise _DamagedError(f"the bundle in the slot is damaged: {error}") from error
            loaded = self._load(placed.digest, manifest, slot / FILES, measure=False)
            return replace(loaded, latency_us=placed.latency_us)

    def _mend(self, slot: Path, bundle: Bundle) -> None:
        self._check_writer()
        _remove(slot / FILES)
        bundle.unpack(slot / FILES)

    def _load(self, digest: str, manifest: Manifest, folder: Path, *, measure: bool) -> Loaded:
        return load_bundle(digest, manifest, folder, threads=self._threads, sessions=self._sessions, measure=measure)


class _DamagedError(Exception):
    """The files of a slot are not what was put there."""


def _intact(file: Path, bundle: Bundle, part: Part) -> bool:
    """Whether an unpacked file still holds what the bundle says."""
    return file.is_file() and file.stat().st_size == part.size_bytes and file.read_bytes() == bundle.read(part)


def _link(path: Path, second: Path) -> bool:
    """Give a file a second name; whether that can be had here."""
    try:
        os.link(path, second)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    return True


def _boot_id() -> str:
    """The kernel's name for the machine's present run, empty where it does not tell."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


@contextlib.contextmanager
def _host_errors(folder: Path) -> Iterator[None]:
    """Name what this machine lacks: disk, permission or memory."""
    try:
        yield
    except OSError as error:
        raise durable.state_error(error, folder) from error
    except MemoryError as error:
        raise StateError("there is not enough memory", where=str(folder), do="free some; it is tried again") from error


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise durable.state_error(error, folder) from error
