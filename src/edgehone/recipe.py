"""A recipe: ordered techniques with their settings, as data. Its name decodes.

Rules:
- A recipe in TOML is a list of tables, one per step; what a table leaves out has its default. Reading is strict: an
  unknown technique, setting or type is refused, never passed over.
- `name` joins the labels of the steps; `parse_name` is its exact inverse for every technique that can read its own
  labels (`from_label`). A label tells the strength of a step; what it does not tell has its default.
- An order that makes no sense is refused with the reason. A technique says where it may stand (`order`).

    steps = read_recipe(Path("small.toml").read_text(), TECHNIQUES)
    name(steps)                                                        "prune-l2-global-40 + distil-3 + int8"
    parse_name("prune-l2-global-40 + distil-3 + int8", TECHNIQUES)     steps of the same name

docs/formats/recipe.md describes the format for people.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgehone.errors import EdgehoneError, RecipeError
from edgehone.plugins import Registry

JOINT = " + "
NUMBER = r"[\d.]+(?:e[+-]?\d+)?"
"""Pattern of a number as labels write it, with ":g"."""

_CUTS = ("prune", "shorten", "decompose")
_TRAINERS = ("distil", "regularise", "dropout", "tune")


@dataclass(frozen=True)
class Step:
    """One technique with its settings; `label` is the part of the recipe's name that stands for it."""

    technique: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object: {"technique": ..., its settings}."""
        return {"technique": self.technique, **self.settings}


@dataclass(frozen=True)
class Order:
    """Where a technique may stand in a recipe. A technique without one may stand anywhere.

    Attributes:
        first: why no other technique may stand before it; "" where one may.
        last: why nothing may stand after it; "" where something may.
        never_before: technique → why that one must not come after this one.
        recovers: techniques of which, where the recipe has any, one must have come before; see `why`.
        why: the reason of `recovers`.
    """

    first: str = ""
    last: str = ""
    never_before: Mapping[str, str] = field(default_factory=dict)
    recovers: tuple[str, ...] = ()
    why: str = ""


RECOVERY = Order(recovers=_CUTS, why="put it after the cut: it recovers what a cut took")
"""The order of what trains a network after something was taken from it."""

ORDERS: Mapping[str, Order] = {
    "quantize": Order(last="quantize last: integers cannot be trained or cut"),
    "decompose": Order(),
    "prune": Order(never_before={"decompose": "decompose first: the rank of a cut layer says less about its worth"}),
    "shorten": Order(never_before={"decompose": "decompose what stays: its work on a branch that leaves is lost"}),
    **{
        name: Order(
            never_before=dict.fromkeys(_CUTS, f"cut first: what {name} arranged in the weights would be lost")
            | dict.fromkeys(_TRAINERS, f"train first: training moves the weights that {name} arranged")
        )
        for name in ("sparsify", "cluster")
    },
}
"""Orders of techniques that bring none (`order`). That factors come before cut channels is AIMET's experience."""


def name(steps: Sequence[Step]) -> str:
    """The recipe's name, from the labels of its steps in order."""
    return JOINT.join(step.label or step.technique for step in steps)


def parse_name(text: str, techniques: Registry[Any]) -> tuple[Step, ...]:
    """The steps that a name stands for; `name` of them is the text again.

    Raises:
        RecipeError: a label that no technique reads, or a wrong order.
    """
    steps = tuple(_decoded(label, techniques) for label in text.split(JOINT)) if text else ()
    check_order(steps, techniques)
    return steps


def _decoded(label: str, techniques: Registry[Any]) -> Step:
    for known in techniques.names():
        technique = techniques.get(known)
        read = getattr(technique, "from_label", None)
        try:
            settings = None if read is None else read(label)
        except (EdgehoneError, ValueError) as error:
            what = error.what if isinstance(error, EdgehoneError) else str(error)
            raise RecipeError(what, where=f"label {label!r}", do=f"see the settings of {known}") from None
        if settings is not None:
            step: Step = technique.step(settings)
            if step.label == label:
                return step
    heads = [n for n in techniques.names() if hasattr(techniques.get(n), "from_label")]
    raise RecipeError(
        f"no technique reads the label {label!r}",
        where="the recipe's name",
        do=f"join labels with {JOINT!r}; these can be read from a name: {', '.join(heads)}",
    )


def read_recipe(text: str, techniques: Registry[Any], source: str = "recipe") -> tuple[Step, ...]:
    """The steps of a recipe in TOML, each with all its settings and its label.

    Args:
        text: the file's content.
        techniques: the registry of techniques.
        source: name of the file, for messages.

    Raises:
        RecipeError: not TOML, a field, technique, setting or type that is not known, a setting out of range, or a
            wrong order; with the line.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"this is not TOML: {error}", where=source, do="see docs/formats/recipe.md") from None
    for key in data:
        if key != "step":
            raise RecipeError(
                f"a recipe has no field {key!r}", where=source, do="write one [[step]] table for every technique"
            )
    tables = data.get("step", [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise RecipeError("there is no step", where=source, do='begin with [[step]] and technique = "prune"')
    lines = _Lines(text, source)
    steps = tuple(_step(table, techniques, lines, index) for index, table in enumerate(tables))
    check_order(steps, techniques, source)
    return steps


def settings_of(step: Step, techniques: Registry[Any], where: str = "") -> Any:
    """The `Settings` of the step's technique.

    Raises:
        RecipeError: a technique, setting or type that is not known, or a setting out of range.
    """
    return _settings(step.technique, step.settings, techniques, lambda _: where or f"step {step.technique!r}")


def check_order(steps: Sequence[Step], techniques: Registry[Any], source: str = "recipe") -> None:
    """Refuse steps in an order that makes no sense.

    Raises:
        RecipeError: with the two steps, and why.
    """
    used = [step.technique for step in steps]
    for index, here in enumerate(used):
        order, before = _order(here, techniques), used[:index]
        others = [other for other in before if other != here]
        if order.first and others:
            raise _misplaced(here, f"comes after {others[-1]!r}", order.first, source, index)
        for place, other in enumerate(used[index + 1 :], index + 1):
            reason = order.last or order.never_before.get(other, "")
            if reason:
                raise _misplaced(other, f"comes after {here!r}", reason, source, place)
        cuts = [other for other in used if other in order.recovers]
        if cuts and not set(cuts) & set(before):
            raise _misplaced(here, f"comes before {cuts[0]!r}", order.why, source, index)


def _misplaced(technique: str, what: str, why: str, source: str, index: int) -> RecipeError:
    return RecipeError(f"{technique!r} {what}", where=f"{source}, step {index + 1}", do=why)


def _order(technique: str, techniques: Registry[Any]) -> Order:
    own = getattr(techniques.get(technique), "order", None)
    return own if isinstance(own, Order) else ORDERS.get(technique, Order())


class _Lines:
    """Where steps and their settings stand in a TOML text; tomllib tells values without places."""

    def __init__(self, text: str, source: str) -> None:
        self._lines, self._source = text.splitlines(), source
        self._starts = [n for n, line in enumerate(self._lines) if re.match(r"\s*\[\[\s*step\s*\]\]", line)]

    def place(self, index: int, key: str = "") -> str:
        """Like "small.toml, line 7, step 2", of a setting where it can be found."""
        if index >= len(self._starts):  # steps written in one line, as a list
            return f"{self._source}, step {index + 1}"
        start = self._starts[index]
        end = self._starts[index + 1] if index + 1 < len(self._starts) else len(self._lines)
        last = re.escape(key.rpartition(".")[2])
        found = (n for n in range(start, end) if key and re.match(rf'\s*([\w.-]+\.)?"?{last}"?\s*=', self._lines[n]))
        return f"{self._source}, line {next(found, start) + 1}, step {index + 1}"


def _step(table: Mapping[str, Any], techniques: Registry[Any], lines: _Lines, index: int) -> Step:
    technique = table.get("technique")
    if not isinstance(technique, str):
        raise RecipeError("the step names no technique", where=lines.place(index), do='write technique = "prune"')
    given = {key: value for key, value in table.items() if key != "technique"}
    settings = _settings(technique, given, techniques, lambda key: lines.place(index, key))
    step: Step = techniques.get(technique).step(settings)
    return step


def _settings(technique: str, given: Mapping[str, Any], techniques: Registry[Any], place: Any) -> Any:
    known = techniques.names()
    if technique not in known:
        raise RecipeError(
            f"there is no technique called {technique!r}",
            where=place("technique"),
            do=f"{_nearest(technique, known)}known: {', '.join(known)}",
        )
    return _build(techniques.get(technique).Settings, given, place, "")


def _build(kind: Any, given: Mapping[str, Any], place: Any, path: str) -> Any:
    """A dataclass of plain values from a table."""
    hints = get_type_hints(kind)
    known = [item.name for item in fields(kind)]
    values = {}
    for key, value in given.items():
        full = f"{path}{key}"
        if key not in known:
            do = f"{_nearest(key, known)}known: {', '.join(known) or '(it has none)'}"
            raise RecipeError(f"there is no setting called {full!r}", where=place(full), do=do)
        values[key] = _value(hints[key], value, place, full)
    try:
        return kind(**values)
    except EdgehoneError as error:
        named = next((key for key in given if error.what.startswith(key)), "")
        raise RecipeError(error.what, where=place(f"{path}{named}" if named else ""), do=error.do) from None


def _value(hint: Any, value: Any, place: Any, path: str) -> Any:
    """A value of the type that a setting has.

    Raises:
        RecipeError: it is of another type.
    """
    if isinstance(hint, type) and is_dataclass(hint):
        if isinstance(value, Mapping):
            return _build(hint, value, place, f"{path}.")
    elif get_origin(hint) in (Union, UnionType):
        return _either(hint, value, place, path)
    elif get_origin(hint) is tuple:
        if isinstance(value, list | tuple):
            return tuple(_value(get_args(hint)[0], item, place, path) for item in value)
    elif isinstance(get_origin(hint), type) and issubclass(get_origin(hint), Mapping):
        if isinstance(value, Mapping):
            return {key: _value(get_args(hint)[1], item, place, path) for key, item in value.items()}
    elif get_origin(hint) is Literal:
        if any(value == choice and type(value) is type(choice) for choice in get_args(hint)):
            return value
        near = _nearest(str(value), [str(choice) for choice in get_args(hint)])
        choices = ", ".join(map(str, get_args(hint)))
        raise RecipeError(f"{path} is {value!r}", where=place(path), do=f"{near}choose one of: {choices}")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint in (int, str, bool, NoneType) and type(value) is hint:
        return value
    raise RecipeError(f"{path} is {value!r}", where=place(path), do=f"give {_kind(hint)}")


def _either(hint: Any, value: Any, place: Any, path: str) -> Any:
    for choice in get_args(hint):
        try:
            return _value(choice, value, place, path)
        except RecipeError:
            if isinstance(value, Mapping):
                raise  # a table that is wrong inside
    raise RecipeError(f"{path} is {value!r}", where=place(path), do=f"give {_kind(hint)}")


_WORDS: Mapping[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _kind(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return ", or ".join(_kind(choice) for choice in get_args(hint) if choice is not NoneType)
    if get_origin(hint) is tuple:
        return f"a list; each item is {_kind(get_args(hint)[0])}"
    return _WORDS.get(hint, "a table")


def _nearest(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""
