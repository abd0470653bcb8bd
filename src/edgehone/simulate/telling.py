"""What every simulation tells alike: its phases, what devices saw, the alarms of their watches, and what the core does.

    teller = Teller(nodes, news, scenario, story)
    teller.begin_phase()        # before the row `teller.row` of every node
    teller.look()               # now and then

Whatever has a name and a status is a node here, and whatever gives `News` is a core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from edgehone.service.dashboard.readings import as_picture
from edgehone.simulate.scenario import Scenario
from edgehone.simulate.story import Story
from edgehone.simulate.streams import Seen

ALARM = 2  # level of the watch: 1 false alarm in 100,000 readings
_SHOWN = 10  # readings of a phase that the report shows


class News(NamedTuple):
    """Something that the core did; see `Story.event`."""

    what: str
    words: str
    mark: str = ""


class Node(Protocol):
    """What is told of a node: its name, and what it says of its task, of which the watch's level is read."""

    @property
    def name(self) -> str:
        """For people."""

    def status(self) -> Mapping[str, Any]:
        """As `edgehone_agent.node.Node.status`. Raises HostError when it does not answer."""


class Teller:
    """Tells a story.

    Args:
        nodes: in the order of their numbers.
        news: what the core did since it was last asked.
        scenario: that is played.
        story: is told.

    Attributes:
        row: of each node, that comes next.
        labels: given so far.
        alarmed: names of nodes that have raised an alarm of level `ALARM` or more.
    """

    def __init__(
        self, nodes: Sequence[Node], news: Callable[[], Iterable[News]], scenario: Scenario, story: Story
    ) -> None:
        self._nodes, self._news, self._scenario, self._story = nodes, news, scenario, story
        self._levels: dict[str, int] = {}
        self._phase = ""
        self._kept: list[bytes] = []  # of the phase, to be shown
        self.row = 0
        self.labels = 0
        self.alarmed: set[str] = set()

    def begin_phase(self) -> bool:
        """Tell of the phase that the next row is in; False when it is not a new one."""
        phase, _ = self._scenario.phase_at(self.row)
        if phase.name == self._phase:
            return False
        self._story.event("phase", phase.name, mark=phase.name if self._phase else "")
        self._phase, self._kept = phase.name, []
        return True

    def keep(self, number: int, seen: Seen) -> None:
        """Show the first readings of a phase, of the first node that it is about."""
        phase, _ = self._scenario.phase_at(self.row)
        touched = (node for node in range(len(self._nodes)) if phase.touches(node, self._scenario.cohort(node)))
        if number != next(touched, 0) or len(self._kept) >= _SHOWN:
            return
        picture = as_picture(seen.x)
        self._kept += [picture] if picture is not None else []
        if len(self._kept) == _SHOWN:
            self._story.show(f"{self._nodes[number].name}, {phase.name}", self._kept)

    def count_labels(self, given: int) -> None:
        """A person has given so many more labels."""
        if given and not self.labels:
            self._story.event("labels", "the first labels are given", mark="a person begins to label")
        self.labels += given

    def look(self) -> None:
        """Tell of new alarms and of what the core did. Raises HostError when a node or the core does not answer."""
        for node in self._nodes:
            level = int((node.status().get("watch") or {}).get("level") or 0)
            if level > self._levels.get(node.name, 0):
                is_first = level >= ALARM and not self.alarmed
                mark = f"the watch of {node.name} raises an alarm" if is_first else ""
                self._story.event("alarm", f"the watch of {node.name} is at level {level}", mark=mark)
                if level >= ALARM:
                    self.alarmed.add(node.name)
            self._levels[node.name] = level
        for one in self._news():
            self._story.event(one.what, one.words, mark=one.mark)
