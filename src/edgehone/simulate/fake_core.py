"""The core of a simulation without processes: the real rules on a real database, driven by a clock that is passed in.

    core = FakeCore(folder, "digits", now_s=START_S, training_s=3600.0)
    core.publish([content], now_s)
    core.tick(now_s)                 # rollouts and the loop go on
    core.close()

Rules:
- A training is a real process. For the clock it lasts `training_s`, however long it takes: until then the loop waits,
  and when that time has come, the simulation waits for the process. So what happens does not depend on this machine.
- Ids that the core draws come from the seed while the simulation runs: they choose canaries and seed trainings. No
  secret is drawn that way, and there is no network here.
- Readings are kept in memory; those of a dataset version are written to the core's folder for its training.
- Without training a round ends where it would begin to train: what the loop decides is recorded.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgehone.fleet import releases, rollouts
from edgehone.loop import rounds
from edgehone.loop.process import Workers
from edgehone.loop.rounds import Site
from edgehone.loop.tick import Loop
from edgehone.records.blobs import Blobs, is_digest, open_blobs
from edgehone.records.database import Database, open_database
from edgehone.service.settings import Place, Settings, write_settings
from edgehone_agent.errors import RegistryError

START_S = datetime(2026, 1, 5, tzinfo=UTC).timestamp()  # a Monday; when a simulation begins has no meaning
_PAUSE_S = 0.05
_ID_BYTES = 8


class _Trainings(Workers):
    """The training process of the simulation.

    Args:
        blobs: of the core, in memory.
        folder: where the process finds those that it needs.
        is_real: whether one is started at all.
    """

    def __init__(self, blobs: Blobs, folder: str, *, is_real: bool) -> None:
        super().__init__()
        self.began: Path | None = None
        self._blobs, self._folder, self._is_real = blobs, folder, is_real

    def start(self, folder: Path, spec: Mapping[str, Any]) -> int:
        """See `Workers`."""
        self.began = folder
        if not self._is_real:
            return 0
        manifest = self._blobs.get(spec["dataset"])
        named = sorted(_digests(json.loads(manifest)) - {spec["dataset"]})
        open_blobs(self._folder).put_many([manifest, *(self._blobs.get(one) for one in named if self._blobs.has(one))])
        return super().start(folder, {**spec, "blobs": self._folder})


class FakeCore:
    """A core without processes that serve. Close it.

    Args:
        folder: new or empty.
        task: that releases are published for.
        now_s: when it is made.
        training_s: how long a training lasts for the clock; None for no training.
        online_s: how long after its last heartbeat a node counts as online.
        waiting: called again and again while a training is waited for.
    """

    def __init__(
        self, folder: Path, task: str, *, now_s: float, training_s: float | None, online_s: float,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        from edgehone.registry.create import create, load_anchor
        from edgehone.registry.keys import KeyRing, Passphrases
        from edgehone.registry.store import Store

        place = Place(folder.absolute(), Settings())
        folder.mkdir(parents=True)
        ring = KeyRing([place.keys], Passphrases([secrets.token_urlsafe(18)]))  # nobody needs it afterwards
        self._store = Store(place.registry)
        create(self._store, ring, [task], datetime.fromtimestamp(now_s, UTC), approve="auto", online_plain=True)
        self._anchor = load_anchor(ring)
        write_settings(place)
        self.task, self.place = task, place
        self.site = Site(
            open_database(place.database_url, create=True), open_blobs("memory://"), "memory://",
            place.folder / "rounds", place.registry, place.keys,
        )  # fmt: skip
        self._loop = Loop(self.site)
        self._trainings = _Trainings(self.site.blobs, place.blobs_url, is_real=training_s is not None)
        self._loop.workers = self._trainings
        self._training_s, self._online_s, self._waiting = training_s, online_s, waiting
        self._due_s: float | None = None  # when the training that runs has lasted long enough

    @property
    def database(self) -> Database:
        """The core's database."""
        return self.site.database

    def publish(self, files: Sequence[Path], now_s: float) -> None:
        """Sign releases and let the core know them. Raises EdgehoneError."""
        from edgehone.registry.publish import publish

        publish(self._store, self.site.ring(), files, [], datetime.fromtimestamp(now_s, UTC), anchor=self._anchor)
        releases.sync(self.database, self._store, now_s, anchor=self._anchor)

    def bundle(self, version: int, member: str) -> Path:
        """The file of a release that the registry has signed.

        Raises:
            RegistryError: there is none.
        """
        from edgehone.registry.names import blob_path, role_of
        from edgehone.registry.state import read
        from edgehone_agent.releases import read_releases

        targets = read(self._store, self._anchor).roles[role_of(self.task)].signed.targets
        for one in read_releases(self.task, targets):
            if (one.version, one.member) == (version, member):
                return self._store.fetch(blob_path(one.path, one.sha256), self.place.folder)
        raise RegistryError(f"there is no version {version} of {member}", where=self.task)

    def tick(self, now_s: float, *, is_looking: bool = True) -> None:
        """Rollouts go on, and with `is_looking` the loop. Raises StateError, HostError."""
        rollouts.advance(self.database, now_s, online_s=self._online_s)
        if not is_looking:
            return
        if self._due_s is not None:
            if now_s < self._due_s:
                return
            self._wait()
        self._loop.tick(now_s)
        began, self._trainings.began = self._trainings.began, None
        self._due_s = None if began is None or self._training_s is None else now_s + self._training_s
        if began is not None and self._training_s is None:
            why = "no training in this simulation"
            rounds.abort(self.site, began.name, actor="core", now_s=now_s, why=why)

    def close(self) -> None:
        """End the training that runs, and close the database."""
        self._loop.close()
        self.database.close()

    def _wait(self) -> None:
        """Until no training of the task runs."""
        with self.database.read() as conn:
            found = rounds.current(conn, self.task)
        while found is not None and self._trainings.is_alive(self.site.rounds / found.id):
            self._waiting()
            time.sleep(_PAUSE_S)


def _digests(found: Any) -> set[str]:
    """Everything in JSON values that may be the digest of a blob."""
    if isinstance(found, Mapping):
        return set().union(*map(_digests, found.values()))
    if isinstance(found, list):
        return set().union(*map(_digests, found))
    return {found} if isinstance(found, str) and is_digest(found) else set()


@contextmanager
def ids_from(seed: int) -> Iterator[None]:
    """Let the ids of the core come from a seed, in this process."""
    before, numbers = secrets.token_hex, itertools.count()

    def token_hex(size: int | None = None) -> str:
        if size != _ID_BYTES:  # no id, and nothing that happens depends on it
            return before(size)
        return sha256(f"{seed} {next(numbers)}".encode()).hexdigest()[: 2 * _ID_BYTES]

    setattr(secrets, "token_hex", token_hex)  # noqa: B010  a function of a module, which mypy keeps as it is
    try:
        yield
    finally:
        setattr(secrets, "token_hex", before)  # noqa: B010
