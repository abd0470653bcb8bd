"""A scenario on real processes: feed the nodes, label what they send up, and tell what the core makes of it.

live = Live(site, nodes, scenario, pool, story, seed=0)
live.run(until=lambda: live.row >= scenario.rows)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sqlalchemy import select

from edgehone.errors import HostError
from edgehone.records.tables import decision, rollout_event, sample
from edgehone.records.tables import round as round_table
from edgehone.service.dashboard.readings import as_picture
from edgehone.simulate.nodes import LiveNode, Processes
from edgehone.simulate.people import SimulatedPerson
from edgehone.simulate.scenario import Scenario
from edgehone.simulate.story import Story
from edgehone.simulate.streams import Pool, Seen, Stream

LOOK_S = 1.0
ALARM = 2  # level of the watch: 1 false alarm in 100,000 readings
_MOST_LABELS = 32  # at one look, so that feeding goes on
_SHOWN = 10  # readings of a phase that the report shows


class Live:
    """Drives a scenario, one row of every node at a time.

    Attributes:
        row: of each node, that comes next.
        labels: given so far.
        alarmed: names of nodes that have raised an alarm of level 2 or more.
        labelling: whether the person looks at samples; set it when you like, by default the first alarm does.
    """

    def __init__(
        self, site: Processes, nodes: Sequence[LiveNode], scenario: Scenario, pool: Pool, story: Story, *, seed: int
    ) -> None:
        self._site, self._nodes, self._scenario, self._story = site, nodes, scenario, story
        self._pool = pool
        self._streams = [Stream(scenario, pool, seed=seed, node=number) for number in range(len(nodes))]
        self._person = SimulatedPerson(scenario.annotator, pool.labels, seed=seed)
        self._truth: dict[str, tuple[int, int, int]] = {}  # prediction → node, row, class
        self._asked: set[str] = set()
        self._seen: dict[str, int | str] = {}
        self._levels: dict[str, int] = {}
        self._versions: dict[str, int] = {}
        self._phase = ""
        self._kept: list[bytes] = []  # of the phase, to be shown
        self._looked_s = 0.0
        self.row = 0
        self.labels = 0
        self.alarmed: set[str] = set()
        self.labelling = False

    def run(self, until: Callable[[], bool], *, limit_s: float = float("inf")) -> bool:
        """Feed until something holds; False when the time is over first.

        Raises:
            HostError: a process has ended.
        """
        end_s = time.monotonic() + limit_s
        pause_s = 1.0 / self._scenario.rows_per_s
        due_s = time.monotonic()
        while time.monotonic() < end_s:
            self._feed()
            if time.monotonic() - self._looked_s >= LOOK_S:
                self._looked_s = time.monotonic()
                self._site.check()
                self._look()
                if self.labelling:
                    self._label()
                if until():
                    return True
            due_s = max(due_s + pause_s, time.monotonic() - 1.0)
            time.sleep(max(0.0, due_s - time.monotonic()))
        return False

    def _feed(self) -> None:
        for number, (node, stream) in enumerate(zip(self._nodes, self._streams, strict=True)):
            seen = stream.reading(self.row)
            if number == 0 and seen.phase != self._phase:
                self._story.event("phase", seen.phase, mark=seen.phase if self._phase else "")
                self._phase, self._kept = seen.phase, []
            self._keep(number, seen)
            try:
                answered = node.ask(seen.x)
            except HostError:  # busy or swapping; a device would lose this reading, too
                continue
            self._truth[answered.id] = (number, self.row, seen.y)
            self._story.answer(
                self._scenario.cohort(number), is_right=answered.answer == seen.y, latency_us=answered.latency_us
            )
            if self._versions.get(node.name) != answered.version:
                self._versions[node.name] = answered.version
                self._story.event("serves", f"{node.name} answers with version {answered.version}")
        self.row += 1

    def _keep(self, number: int, seen: Seen) -> None:
        """Show the first readings of a phase, of the first node that it is about."""
        phase, _ = self._scenario.phase_at(self.row)
        touched = (node for node in range(len(self._nodes)) if phase.touches(node, self._scenario.cohort(node)))
        if number != next(touched, 0) or len(self._kept) >= _SHOWN:
            return
        picture = as_picture(seen.x)
        self._kept += [picture] if picture is not None else []
        if len(self._kept) == _SHOWN:
            self._story.show(f"{self._nodes[number].name}, {phase.name}", self._kept)

    def _label(self) -> None:
        """The person looks through what nodes have sent up."""
        query = select(sample.c.id).where(sample.c.share == "uniform").order_by(sample.c.received_s.desc()).limit(500)
        with self._site.database.read() as conn:
            ids = [id for id in conn.execute(query).scalars() if id not in self._asked and id in self._truth]
        given = 0
        for id in ids:
            number, row, truth = self._truth[id]
            if self.row - row < self._scenario.annotator.delay_rows or given >= _MOST_LABELS:
                continue
            self._asked.add(id)
            label = self._person.says(number, id, truth)
            if label is None:
                continue
            self._nodes[number].feedback(f"label-{id}", id, label=label, time_s=time.time())
            given += 1
        if given and not self.labels:
            self._story.event("labels", "the first labels are given", mark="a person begins to label")
        self.labels += given

    def _look(self) -> None:
        for node in self._nodes:
            level = int((node.status().get("watch") or {}).get("level") or 0)
            if level > self._levels.get(node.name, 0):
                is_first = level >= ALARM and not self.alarmed
                mark = f"the watch of {node.name} raises an alarm" if is_first else ""
                self._story.event("alarm", f"the watch of {node.name} is at level {level}", mark=mark)
                if level >= ALARM:
                    self.alarmed.add(node.name)
                    self.labelling = True
            self._levels[node.name] = level
        with self._site.database.read() as conn:
            for one in conn.execute(
                select(decision).where(decision.c.id > int(self._seen.get("decision", 0))).order_by(decision.c.id)
            ):
                self._seen["decision"] = one.id
                self._story.event("decision", f"{one.answer}: {one.why}")
            rounds = conn.execute(select(round_table).order_by(round_table.c.started_s)).all()
            for one in rounds:
                now = f"{one.phase} {one.state}"
                if self._seen.get(one.id) != now:
                    self._seen[one.id] = now
                    words = f"{one.phase} ({one.state})" + (f": {one.why}" if one.state != "running" else "")
                    self._story.event("round", words, mark=_ROUND_MARKS.get(now, ""))
            for one in conn.execute(
                select(rollout_event)
                .where(rollout_event.c.id > int(self._seen.get("event", 0)))
                .order_by(rollout_event.c.id)
            ):
                self._seen["event"] = one.id
                words = f"{one.what}: {one.detail.get('words', '')}"
                self._story.event("rollout", words, mark=_rollout_mark(words) if rounds else "")


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
