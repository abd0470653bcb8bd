"""What happens to a task's two slots: pure rules from a state and an event to the next state and an action.

Rules:
- One slot holds what serves, the other the last good one. A candidate is tried beside both and takes the place of the
  last good one only when it has passed.
- Before a candidate is loaded, an attempt is written down. A process that dies twice in one has killed itself by it:
  the candidate is dropped at the next start.
- What has taken over is on trial until its process has lived a minute; after that no death is ever blamed on it.
  A process that dies twice in a row on trial goes back to the last good one at its next start.
- What counts as a death: the process is gone without having stopped by itself, and the machine has not been started
  anew since. A process that stops when it is told to shows that it lives: the count begins again. Where the machine
  went down too, power or a plug is the likelier reason, so that takes five in a row; it is counted all the same, for a
  model that hangs the machine must not do so for ever.
- With no last good one to go back to, giving up leaves nothing that serves, so that takes five deaths.
- What failed is remembered by digest and version and never tried again. What was merely lost (a damaged file, a full
  disk, no memory) is not remembered: it may come again.
- An older version than the one that serves is refused; going back is what `rolled back` is for. The one exception is
  what serves and was disowned (see `updates`): anything may take its place, and nobody goes back to it.

A state is one JSON file, so that every step is one write that happens or does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from edgehone_agent.errors import StateError

SETTLED_AFTER_S = 60.0
MAX_DEATHS = 2
MAX_DEATHS_ALONE = 5  # where there is nothing to go back to
MAX_RESETS = 5  # of the whole machine
MAX_REMEMBERED = 32  # failures kept per task, newest last
MAX_WHY = 500  # characters that are kept of a reason

Slot = Literal["a", "b"]
Kind = Literal[
    "started",
    "arrived",
    "cleared",
    "passed",
    "failed",
    "interrupted",
    "settled",
    "stopped",
    "lost",
    "undone",
    "disowned",
]
Action = Literal["serve", "try", "swap", "drop", "roll back", "refuse", "none"]


@dataclass(frozen=True)
class Placed:
    """A bundle in a slot.

    Attributes:
        slot: "a" or "b".
        digest: sha256 of the bundle file, hex.
        version: of the release.
        member: name of the family member.
        since_s: when it was put there, Unix time of this node's clock.
        disowned: the registry's owner has replaced the keys that signed it and knows of no such release.
        latency_us: median that was measured when it was tried; None where it was not.
    """

    slot: Slot
    digest: str
    version: int
    member: str = ""
    since_s: float = 0.0
    disowned: bool = False
    latency_us: float | None = None


@dataclass(frozen=True)
class Failure:
    """A bundle that is not tried again, and why; `at_s` is Unix time of this node's clock."""

    digest: str
    version: int
    why: str
    at_s: float = 0.0


@dataclass(frozen=True)
class Trial:
    """A bundle that has not proven itself.

    Attributes:
        digest, version: of the bundle.
        deaths: how often the process died meanwhile, in a row.
        resets: how often the machine went down with it, in a row.
        stopped: nothing is going on that a death could be blamed on, so the next start is none.
        boot: names the run of the machine in which the process was last seen; empty where that is not known.
    """

    digest: str
    version: int
    deaths: int = 0
    resets: int = 0
    stopped: bool = False
    boot: str = ""

    def after_start(self, boot: str) -> Trial:
        """With what a start is the sign of: a death, or the machine's, or neither."""
        if self.stopped:
            return replace(self, boot=boot)
        if self.boot and boot and self.boot != boot:
            return replace(self, resets=self.resets + 1, boot=boot)
        return replace(self, deaths=self.deaths + 1, boot=boot)

    def verdict(self, max_deaths: int) -> str:
        """Why it is given up, empty when it is not."""
        if self.deaths >= max_deaths:
            return f"the process died {self.deaths} times"
        return f"the machine went down {self.resets} times" if self.resets >= MAX_RESETS else ""


@dataclass(frozen=True)
class SlotState:
    """The slots of one task.

    Attributes:
        current: what serves.
        previous: the last good one.
        trial: of what serves, until it has proven itself.
        attempt: of a candidate that is being tried, or was when the process died.
        failed: what is not tried again.
    """

    current: Placed | None = None
    previous: Placed | None = None
    trial: Trial | None = None
    attempt: Trial | None = None
    failed: tuple[Failure, ...] = ()

    def free(self) -> Slot:
        """The slot that a bundle on trial goes to: the one that does not serve."""
        return "b" if self.current is not None and self.current.slot == "a" else "a"

    def failure(self, digest: str, version: int) -> Failure | None:
        """Why this very bundle is not tried again, or None."""
        return next((found for found in self.failed if (found.digest, found.version) == (digest, version)), None)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field; `from_json` reads it back. The first four fields are the pointer."""
        found = asdict(self)
        pointer = found.pop("current") or {"slot": None}
        return {**pointer, **found}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SlotState:
        """Read a state; fields it does not know are dropped.

        Raises:
            StateError: it is not a state.
        """
        try:
            return cls(
                current=_read(Placed, data) if data["slot"] is not None else None,
                previous=_read(Placed, data["previous"]) if data.get("previous") else None,
                trial=_read(Trial, data["trial"]) if data.get("trial") else None,
                attempt=_read(Trial, data["attempt"]) if data.get("attempt") else None,
                failed=tuple(_read(Failure, item) for item in data.get("failed", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"the pointer to the slots is damaged: {error!r}") from error


def _read(kind: type[Any], data: Mapping[str, Any]) -> Any:
    known = {name: data[name] for name in kind.__dataclass_fields__ if name in data}
    found = kind(**known)
    if not isinstance(found.digest, str) or type(found.version) is not int:
        raise ValueError("a digest or version of another type")
    if isinstance(found, Placed) and found.slot not in ("a", "b"):
        raise ValueError(f"slot {found.slot!r}")
    if isinstance(found, Trial) and not (type(found.deaths) is type(found.resets) is int):
        raise ValueError("deaths that are no number")
    if isinstance(found, Trial) and not isinstance(found.boot, str):
        raise ValueError("a run of the machine without a name")
    return found


@dataclass(frozen=True)
class Event:
    """Something that happened to a task; `digest` and `version` say to which bundle.

    started      the process begins            stopped      it ends by itself
    arrived      a bundle is here to be tried  settled      the process has lived a minute since
    passed       it answered as it should      failed       it did not, or what serves does not any more
    cleared      the free slot is to be emptied
    interrupted  trying it could not be finished: disk, memory, a missing runtime
    lost         the files of what serves are damaged
    undone       a person wants the last good one back
    disowned     the registry's owner knows of no release above `version`, whatever keys that were replaced had signed

    `boot` names the machine's present run, where that is known; `latency_us` is what a bundle that passed took.
    """

    kind: Kind
    digest: str = ""
    version: int = 0
    member: str = ""
    why: str = ""
    boot: str = ""
    latency_us: float | None = None


@dataclass(frozen=True)
class Decision:
    """The next state, what to do, and why where there is something to tell."""

    state: SlotState
    action: Action
    why: str = field(default="", compare=False)


def decide(state: SlotState, event: Event, now_s: float) -> Decision:
    """What an event means for a task's slots. Pure.

    Args:
        state: as last written.
        event: what happened.
        now_s: Unix time of this node's clock; only written down, never compared.
    """
    match event.kind:
        case "started":
            return _started(state, event.boot, now_s)
        case "arrived":
            return _arrived(state, event)
        case "cleared":
            return Decision(replace(state, previous=None), "none")
        case "passed":
            new = Placed(
                state.free(), event.digest, event.version, event.member, now_s, latency_us=event.latency_us
            )  # fmt: skip
            trial = Trial(event.digest, event.version, boot=event.boot)
            last_good = None if state.current is None or state.current.disowned else state.current
            return Decision(replace(state, current=new, previous=last_good, trial=trial, attempt=None), "swap")
        case "failed" if state.current is not None and state.current.digest == event.digest:
            return _roll_back(state, event.why, now_s, remember=True)
        case "failed":
            return Decision(_remember(replace(state, attempt=None), event, event.why, now_s), "drop", event.why)
        case "interrupted":
            return Decision(replace(state, attempt=None), "drop", event.why)
        case "lost":
            return _roll_back(state, event.why, now_s, remember=False)
        case "undone" if state.previous is None:
            return Decision(state, "refuse", "there is no last good bundle to go back to")
        case "undone":
            return _roll_back(state, event.why or "rolled back by hand", now_s, remember=True)
        case "settled":
            return Decision(replace(state, trial=None), "none")
        case "stopped":
            return Decision(_stopped(state), "none")
        case "disowned":
            return Decision(_disowned(state, event.version), "none")
    return Decision(state, "none")


def _started(state: SlotState, boot: str, now_s: float) -> Decision:
    attempt = state.attempt and state.attempt.after_start(boot)
    trial = state.trial
    if attempt is not None and not attempt.stopped:  # a death during an attempt is blamed on that alone
        state = replace(state, trial=trial and replace(trial, boot=boot))
        why = attempt.verdict(MAX_DEATHS)
        if why:
            why = f"{why} while it was tried"
            return Decision(_remember(replace(state, attempt=None), attempt, why, now_s), "drop", why)
        return Decision(replace(state, attempt=replace(attempt, stopped=True)), "serve")
    if trial is None:
        return Decision(state, "serve")
    trial = trial.after_start(boot)
    why = trial.verdict(MAX_DEATHS_ALONE if state.previous is None else MAX_DEATHS)
    if why:
        return _roll_back(state, f"{why} within a minute of its start", now_s, remember=True)
    return Decision(replace(state, trial=replace(trial, stopped=False)), "serve")


def _stopped(state: SlotState) -> SlotState:
    trial = state.trial and replace(state.trial, stopped=True, deaths=0, resets=0)
    attempt = state.attempt and replace(state.attempt, stopped=True)  # that it stops says nothing about what was tried
    return replace(state, trial=trial, attempt=attempt)


def _arrived(state: SlotState, event: Event) -> Decision:
    failure = state.failure(event.digest, event.version)
    if failure is not None:
        return Decision(state, "refuse", f"it failed here before: {failure.why}")
    if state.current is not None:
        if state.current.digest == event.digest:
            return Decision(state, "refuse", "it serves already")
        if event.version < state.current.version and not state.current.disowned:
            return Decision(state, "refuse", f"version {event.version} is older than {state.current.version}")
    known = state.attempt  # it was being tried when the process died: that counts on
    before = known if known is not None and known.digest == event.digest else Trial(event.digest, event.version)
    return Decision(replace(state, attempt=replace(before, stopped=False, boot=event.boot)), "try")


def _disowned(state: SlotState, highest: int) -> SlotState:
    """With all above a version marked: what serves goes on until something takes over, the last good one is none."""
    current, previous = state.current, state.previous
    if current is not None and current.version > highest:
        current = replace(current, disowned=True)
    return replace(state, current=current, previous=None if previous and previous.version > highest else previous)


def _roll_back(state: SlotState, why: str, now_s: float, *, remember: bool) -> Decision:
    back = replace(state, current=state.previous, previous=None, trial=None)
    if remember and state.current is not None:
        back = _remember(back, state.current, why, now_s)
    return Decision(back, "roll back", why)


def _remember(state: SlotState, bundle: Placed | Trial | Event, why: str, now_s: float) -> SlotState:
    kept = [found for found in state.failed if found.digest != bundle.digest]
    failed = (*kept, Failure(bundle.digest, bundle.version, why[:MAX_WHY], now_s))[-MAX_REMEMBERED:]
    return replace(state, failed=failed)
