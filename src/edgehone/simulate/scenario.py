"""A scenario: what happens to whom and when, as data in a TOML file. docs/how-to/simulate.md has a commented one.

Rules:
- A name that is not known, or a value of another kind or out of range, is refused with the place where it stands.
- Phases follow one another. A phase lasts so many readings of each node, and its effect touches the nodes of one
  cohort, or the nodes whose numbers are listed, or all.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgehone.errors import InputError
from edgehone.simulate.effects import EFFECTS


@dataclass(frozen=True)
class Phase:
    """A stretch of a device's life.

    Attributes:
        name: for the timeline.
        rows: readings of each node.
        effect: of `effects.EFFECTS`; "" for none.
        strength: of the effect at the end, 0 to 1.
        ramp: share of the phase over which it grows to that; 0 for at once.
        cohort: whose nodes it touches; "" for all.
        nodes: numbers of the nodes that it touches, from 0; () for all of the cohort.
        mix: class → how much more often it comes than others, 0 for never; it holds for all that the phase touches.
    """

    name: str
    rows: int
    effect: str = ""
    strength: float = 0.0
    ramp: float = 0.0
    cohort: str = ""
    nodes: tuple[int, ...] = ()
    mix: Mapping[str, float] = field(default_factory=dict)

    def touches(self, node: int, cohort: str) -> bool:
        """Whether it is about this node."""
        return (not self.cohort or self.cohort == cohort) and (not self.nodes or node in self.nodes)

    def strength_at(self, row: int) -> float:
        """The effect's strength at one of its rows, counted from 0."""
        if not self.effect:
            return 0.0
        return self.strength if self.ramp <= 0 else self.strength * min(1.0, (row + 1) / (self.ramp * self.rows))


@dataclass(frozen=True)
class Annotator:
    """A simulated person.

    Attributes:
        share: of the uniform samples that get a label.
        error_rate: of the labels that are wrong.
        delay_rows: readings of a node between an answer and its label.
        malicious_nodes: numbers of nodes whose labels are all flipped.
    """

    share: float = 0.5
    error_rate: float = 0.1
    delay_rows: int = 20
    malicious_nodes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """A scripted world.

    Attributes:
        name, about: for people.
        task: a built-in name or a task file; one beside the scenario's own file is found by its name alone.
        nodes: how many.
        cohorts: names; node n belongs to the cohort n modulo their number.
        rows_per_s: readings of each node.
        phases: in order.
        annotator: the person.
    """

    name: str
    about: str
    task: str
    phases: tuple[Phase, ...]
    nodes: int = 3
    cohorts: tuple[str, ...] = ("north", "south")
    rows_per_s: float = 50.0
    annotator: Annotator = Annotator()

    def cohort(self, node: int) -> str:
        """Of a node."""
        return self.cohorts[node % len(self.cohorts)]

    @property
    def rows(self) -> int:
        """Readings of each node, all phases together."""
        return sum(phase.rows for phase in self.phases)

    def phase_at(self, row: int) -> tuple[Phase, int]:
        """The phase of a row and the row's number in it; the last phase goes on for ever."""
        for phase in self.phases[:-1]:
            if row < phase.rows:
                return phase, row
            row -= phase.rows
        return self.phases[-1], row


def ready_scenarios() -> dict[str, str]:
    """Name → what it is about, of those that come with edgehone."""
    found = [path for path in _folder().iterdir() if path.name.endswith(".toml")]
    return {path.name[:-5]: load_scenario(path.name[:-5]).about for path in sorted(found, key=lambda one: one.name)}


def load_scenario(spec: str) -> Scenario:
    """A scenario by name, or from the file that `spec` names.

    Raises:
        InputError: there is none, it cannot be read, or it says something that cannot be.
    """
    is_file = spec.endswith(".toml")
    path = Path(spec) if is_file else _folder() / f"{spec}.toml"
    if not is_file and (not spec.replace("-", "").isalnum() or not path.is_file()):
        raise InputError(f"there is no scenario {spec!r}", where="SCENARIO", do="see `edgehone simulate --list`")
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the scenario cannot be read: {error}", where=spec, do="give a TOML file") from error
    found = read_scenario(data, spec)
    beside = path.parent / found.task
    return replace(found, task=str(beside)) if found.task.endswith(".py") and beside.is_file() else found


def read_scenario(data: Mapping[str, Any], where: str = "scenario") -> Scenario:
    """A scenario from a table. Raises InputError."""
    values = _values(Scenario, data, where)
    phases = values.get("phases", [])
    if not phases:
        raise InputError("there are no phases", where=where, do="write at least one [[phases]]")
    values["phases"] = tuple(
        Phase(**_values(Phase, one, f"{where} phases[{number}]")) for number, one in enumerate(phases)
    )
    if "annotator" in values:
        values["annotator"] = Annotator(**_values(Annotator, values["annotator"], f"{where} annotator"))
    for phase in values["phases"]:
        if phase.effect and phase.effect not in EFFECTS:
            raise InputError(
                f"there is no effect {phase.effect!r}", where=where, do=f"use one of: {', '.join(sorted(EFFECTS))}"
            )
    cohorts = values.get("cohorts", ("north", "south"))
    strange = {phase.cohort for phase in values["phases"]} - {"", *cohorts}
    if strange or not cohorts:
        raise InputError(f"there is no cohort {', '.join(sorted(strange))}", where=where, do="name it in cohorts")
    return Scenario(**values)


_KINDS: dict[str, tuple[type, ...]] = {
    "float": (int, float), "int": (int,), "str": (str,), "tuple[int, ...]": (list,), "tuple[str, ...]": (list,),
    "tuple[Phase, ...]": (list,), "Annotator": (dict,), "Mapping[str, float]": (dict,),
}  # fmt: skip
_RANGES = {
    "rows": (1, 1e9), "strength": (0, 1), "ramp": (0, 1), "share": (0, 1), "error_rate": (0, 1), "nodes": (1, 1e6),
    "rows_per_s": (0.001, 1e6), "delay_rows": (0, 1e9),
}  # fmt: skip
_ITEMS: dict[str, tuple[type, ...]] = {
    "tuple[int, ...]": (int,), "tuple[str, ...]": (str,), "tuple[Phase, ...]": (dict,),
}  # fmt: skip


def _values(kind: type[Any], data: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {one.name: one for one in fields(kind)}
    found: dict[str, Any] = {}
    for name, value in data.items():
        if name not in known:
            raise InputError(f"there is no field {name!r}", where=where, do=f"use {', '.join(known)}")
        hint = str(known[name].type)
        fits = isinstance(value, _KINDS[hint]) and not isinstance(value, bool)
        if fits and isinstance(value, list):
            fits = all(isinstance(item, _ITEMS[hint]) and not isinstance(item, bool) for item in value)
        if fits and isinstance(value, dict) and hint == "Mapping[str, float]":
            fits = all(isinstance(item, int | float) and item >= 0 for item in value.values())
        low, high = _RANGES.get(name, (float("-inf"), float("inf")))
        if fits and isinstance(value, int | float):
            fits = low <= value <= high
        if not fits:
            raise InputError(f"{value!r} cannot be", where=f"{where} {name}", do=f"give a {hint} in range")
        found[name] = tuple(value) if isinstance(value, list) and hint != "tuple[Phase, ...]" else value
    missing = [name for name in ("name", "about", "task", "rows") if name in known and name not in found]
    if missing:
        raise InputError(f"{', '.join(missing)} is missing", where=where, do="write it")
    return found


def _folder() -> Path:
    return Path(str(files("edgehone.simulate") / "scenarios"))
