"""One round of the loop as a state machine without files or a clock of its own.

    data → train → compress → gate → sign → rollout → observe → done

Rules:
- The states are running and waiting (for a person, in the phase sign); done, refused, failed and aborted are ends.
- A phase is passed only from itself, in this order; sign may go back to compress, when its version was taken meanwhile.
- A round of the kind re-baseline makes drift references, and no model: it passes train at once.
- What ends a round says why. Nothing that has ended changes any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

from edgehone_agent.errors import InputError, StateError

Kind = Literal["retrain", "re-baseline"]
Phase = Literal["data", "train", "compress", "gate", "sign", "rollout", "observe", "done"]
State = Literal["running", "waiting", "done", "refused", "failed", "aborted"]
End = Literal["refused", "failed", "aborted"]
PHASES: tuple[Phase, ...] = get_args(Phase)
ENDS: tuple[State, ...] = ("done", "refused", "failed", "aborted")


@dataclass(frozen=True)
class Round:
    """A round.

    Attributes:
        id, task: which.
        kind: a new model, or the same one with new drift references.
        trigger: that began it.
        policy: of the task when it began (JSON): a later change is for later rounds.
        study: folder of the family that it starts from.
        started_s, phase_since_s, ended_s: times.
        phase, state: where it is.
        why: it began; at the end, why it ended; while it waits, what for.
        began: why it began.
        cohorts: that get a new reference in a re-baseline.
        contexts: cohort → readings that its own reference is made of.
        dataset: digest of the version that it learns from.
        version: that its release gets.
        parent: digest of the bundle that its members follow, by member.
        members: that passed the gate.
        verdicts: of the gate.
        figures: of the gate, by member: `Refreshed` as JSON.
        attempts: starts of the training process.
        approved_by: who let it be signed.
        rollout: id of its rollout.
        progress: what the training says it does now.
    """

    id: str
    task: str
    trigger: str
    policy: Mapping[str, Any]
    study: str
    started_s: float
    phase_since_s: float
    phase: Phase = "data"
    state: State = "running"
    ended_s: float | None = None
    why: str = ""
    began: str = ""
    kind: Kind = "retrain"
    cohorts: tuple[str, ...] = ()
    contexts: Mapping[str, int] = field(default_factory=dict)
    dataset: str | None = None
    version: int | None = None
    parent: Mapping[str, str] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    verdicts: tuple[Mapping[str, Any], ...] = ()
    figures: tuple[Mapping[str, Any], ...] = ()
    attempts: int = 0
    approved_by: str = ""
    rollout: str | None = None
    progress: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDS

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read one back; fields it does not know are dropped. Raises StateError."""
        known = {one.name for one in fields(cls)}
        try:
            values: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in data.items() if name in known
            }
            found = cls(**values)
        except (TypeError, AttributeError) as error:
            raise StateError(
                "what is stored of a round cannot be read", where="round", do="restore a backup"
            ) from error
        is_known = found.phase in PHASES and found.state in get_args(State) and found.kind in get_args(Kind)
        if not is_known:
            raise StateError(f"a {found.kind} round in {found.phase}, {found.state} is not known", where=found.id)
        return found


def passed(round: Round, phase: Phase, now_s: float, **found: Any) -> Round:
    """The round behind a phase, with what that has found.

    Raises:
        InputError: it is not in this phase, or has ended.
    """
    _check(round, phase)
    following = PHASES[PHASES.index(phase) + 1]
    after = replace(round, phase=following, state="running", phase_since_s=now_s, progress="", **found)
    return replace(after, state="done", ended_s=now_s) if following == "done" else after


def back_to_compress(round: Round, version: int, now_s: float) -> Round:
    """The same round with another version, to be bundled anew. Raises InputError."""
    _check(round, "sign")
    return replace(round, phase="compress", state="running", phase_since_s=now_s, version=version, attempts=0)


def ended(round: Round, how: End, why: str, now_s: float) -> Round:
    """The round, over. Raises InputError when it is already."""
    _check(round, round.phase)
    return replace(round, state=how, why=why, ended_s=now_s, progress="")


def waiting(round: Round, why: str) -> Round:
    """The round, waiting for a person to approve. Raises InputError."""
    _check(round, "sign")
    return replace(round, state="waiting", why=why, approved_by="")


def approved(round: Round, actor: str, now_s: float) -> Round:
    """The round, approved. Raises InputError when it does not wait."""
    if round.state != "waiting":
        raise InputError(
            f"this round does not wait for anybody: it is {round.state} in the phase {round.phase}",
            where=round.id,
            do="look at `edgehone loop status`",
        )
    return replace(round, state="running", approved_by=actor, why=round.began, phase_since_s=now_s)


def _check(round: Round, phase: Phase) -> None:
    if round.ended or round.phase != phase or phase == "done":
        raise InputError(
            f"the round is {round.state} in the phase {round.phase}, not in {phase}",
            where=round.id,
            do="look at `edgehone loop status`",
        )
