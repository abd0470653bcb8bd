"""What a core does, read from its database: decisions, rounds and rollouts, and the samples that nodes sent up."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, select

from edgehone.records.database import Database
from edgehone.records.tables import decision, rollout_event, sample
from edgehone.records.tables import round as round_table
from edgehone.simulate.telling import News

_MOST_SAMPLES = 500


class CoreNews:
    """Call it for what is new since the last call."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._decision = self._event = 0
        self._rounds: dict[str, str] = {}

    def __call__(self) -> list[News]:
        """In order: decisions, rounds, rollouts. Raises StateError."""
        with self._database.read() as conn:
            return [*self._decisions(conn), *self._of_rounds(conn), *self._of_rollouts(conn)]

    def _decisions(self, conn: Connection) -> Iterator[News]:
        query = select(decision).where(decision.c.id > self._decision).order_by(decision.c.id)
        for one in conn.execute(query):
            self._decision = one.id
            yield News("decision", f"{one.answer}: {one.why}")

    def _of_rounds(self, conn: Connection) -> Iterator[News]:
        for one in conn.execute(select(round_table).order_by(round_table.c.started_s)):
            now = f"{one.phase} {one.state}"
            if self._rounds.get(one.id) != now:
                self._rounds[one.id] = now
                words = f"{one.phase} ({one.state})" + (f": {one.why}" if one.state != "running" else "")
                yield News("round", words, _ROUND_MARKS.get(now, ""))

    def _of_rollouts(self, conn: Connection) -> Iterator[News]:
        query = select(rollout_event).where(rollout_event.c.id > self._event).order_by(rollout_event.c.id)
        for one in conn.execute(query):
            self._event = one.id
            words = f"{one.what}: {one.detail.get('words', '')}"
            yield News("rollout", words, _rollout_mark(words) if self._rounds else "")


def drawn_samples(database: Database) -> list[str]:
    """Predictions whose samples of the uniform share were sent up, the newest first, 500 at most."""
    query = select(sample.c.id).where(sample.c.share == "uniform").order_by(sample.c.received_s.desc())
    with database.read() as conn:
        return list(conn.execute(query.limit(_MOST_SAMPLES)).scalars())


_ROUND_MARKS = {
    "train running": "the core trains the next version", "gate refused": "the round is refused",
    "done done": "the round is done",
}  # fmt: skip


def _rollout_mark(words: str) -> str:
    """What of a rollout stands at the picture."""
    what, _, rest = words.partition(": ")
    if what == "started":
        return f"{rest.partition(' of ')[0]} answers in the shadow"
    if "canary begins" in rest:
        return "a canary answers with it"
    if what in ("rolled back", "aborted"):
        return "it is rolled back"
    return ""
