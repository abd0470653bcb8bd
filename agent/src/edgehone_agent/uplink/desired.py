"""What the core wants of a node, remembered: the last answer that counted, and when a later one does not.

Rules:
- `hear` is pure. What it gives is written to STATE/uplink/mind.json, so that a node that starts without its core goes
  on with what it was told.
- Every wish carries a serial number. One with a lower number than the last is old and is passed over. A core that was
  restored from a backup counts lower for good: after `PATIENCE` such answers in a row, each with a later time of the
  core's own clock, the lower number counts.
- A task that an answer does not name keeps its last wish.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgehone_agent import durable
from edgehone_agent.errors import BundleError, InputError
from edgehone_agent.learn import KINDS, Kind
from edgehone_agent.wire.uplink import Desired, HeartbeatAnswer, Wants, read, write

PATIENCE = 3
FIRST_INTERVAL_S = 60.0
_MAX_BYTES = 4 << 20

log = logging.getLogger("edgehone_agent.uplink")


@dataclass(frozen=True)
class Mind:
    """What counts of what the core said.

    Attributes:
        answer: the last answer, with the wishes that count; None before the first.
        older: answers in a row that had a lower serial number.
        older_s: the core's clock in the last of them.
    """

    answer: HeartbeatAnswer | None = None
    older: int = 0
    older_s: float = 0.0

    @property
    def nonce(self) -> str | None:
        """To bring with the next heartbeat."""
        return None if self.answer is None else self.answer.nonce

    @property
    def interval_s(self) -> float:
        """Between two heartbeats."""
        return FIRST_INTERVAL_S if self.answer is None else self.answer.interval_s

    @property
    def desired(self) -> Mapping[str, Desired]:
        """Task → what to run."""
        return {} if self.answer is None else self.answer.desired

    @property
    def policy(self) -> Mapping[str, Mapping[str, Any]]:
        """Task → what the owner allows and sets."""
        return {} if self.answer is None else self.answer.policy

    @property
    def wants(self) -> Mapping[str, Wants]:
        """Task → what to send up."""
        return {} if self.answer is None else self.answer.wants


@dataclass(frozen=True)
class Heard:
    """A mind after an answer.

    Attributes:
        mind: from now on.
        changed: tasks whose wish is another one now.
        flags: names of what is odd.
    """

    mind: Mind
    changed: tuple[str, ...] = ()
    flags: tuple[str, ...] = field(default=())


def hear(mind: Mind, answer: HeartbeatAnswer) -> Heard:
    """What an answer changes. Pure."""
    before = mind.desired
    older = {task for task, wish in answer.desired.items() if task in before and wish.serial < before[task].serial}
    count, older_s = mind.older, mind.older_s
    if not older:
        count, older_s = 0, 0.0
    elif answer.time_s > older_s:
        count, older_s = count + 1, answer.time_s
    is_set_back = count >= PATIENCE
    if is_set_back:
        older, count, older_s = set(), 0, 0.0
    counts = {task: wish for task, wish in answer.desired.items() if task not in older}
    desired = {**before, **counts}
    changed = tuple(task for task, wish in counts.items() if _differ(before.get(task), wish))
    flags = ("core_set_back",) if is_set_back else ("old_answer",) if older else ()
    return Heard(Mind(replace(answer, desired=desired), count, older_s), changed, flags)


def _differ(before: Desired | None, now: Desired) -> bool:
    return before is None or replace(before, serial=0, rollout=None) != replace(now, serial=0, rollout=None)


def learning_of(policy: Mapping[str, Any], learn: Kind | None, label_error: float) -> tuple[Kind | None, float]:
    """What a task may learn on the node, and the share of wrong labels. Pure.

    Args:
        policy: what the core says of the task; a word that this version does not know is none.
        learn, label_error: of the node's settings, which count where the core says nothing.
    """
    word, share = policy.get("learn"), policy.get("label_error")
    if isinstance(word, str):
        learn = next((kind for kind in KINDS if kind == word), None)
    if isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 0.5:
        label_error = float(share)
    return learn, label_error


def load_mind(file: Path) -> Mind:
    """What was remembered; an empty mind where the file is missing or of no use, for the core says it anew."""
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES)
        return Mind(read(HeartbeatAnswer, content))
    except FileNotFoundError:
        return Mind()
    except (OSError, InputError, BundleError) as error:
        log.warning("what the core said last cannot be read: %s", error)
        return Mind()


def save_mind(file: Path, mind: Mind) -> None:
    """Write it. Raises StateError."""
    if mind.answer is not None:
        durable.write_bytes(file, write(mind.answer))


def told(mind: Mind) -> dict[str, Any]:
    """The wishes, JSON-able, for the status."""
    return {task: asdict(wish) for task, wish in mind.desired.items()}
