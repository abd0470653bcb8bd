"""The manifest of a bundle: what is inside, what goes in and comes out, what was measured, where it comes from.

JSON in and out. Fields that this version does not know are kept and written back, so a newer core and an older node
understand each other. Reading refuses what is missing, of another type, or out of range: see `Manifest.from_json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from math import prod
from typing import Any, Literal, get_args

from edgehone_agent.errors import BundleError
from edgehone_agent.wire._fields import Fields
from edgehone_agent.wire.strict_json import read_json

SCHEMA = 1
NAME = "manifest.json"
Role = Literal["model", "card", "probe", "sbom", "provenance", "notes"]
MAX_PART_BYTES = 1 << 30
MAX_PARTS = 64
MAX_PATH = 200

_KINDS = ("classification", "regression", "anomaly")
_TASK = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,7}")
_MAX_VALUES = 1 << 26
_MAX_LABELS = 10_000


@dataclass(frozen=True)
class Part:
    """One file of a bundle.

    Attributes:
        path: inside the archive, with forward slashes, relative.
        role: what it is.
        sha256: digest of its bytes, hex.
        size_bytes: of the unpacked file.
        runtime: for a model file, the runtime it is for ("litert", "onnxruntime"); else None.
    """

    path: str
    role: Role
    sha256: str
    size_bytes: int
    runtime: str | None = None


@dataclass(frozen=True)
class Values:
    """What goes in or comes out, per example, in torch order (C, H, W), (C, L) or (F).

    Attributes:
        name: of the tensor for people ("picture", "scores").
        shape: of one example, without the batch.
        dtype: numpy name of the values a caller handles; "float32".
        unit: of a value ("1", "degC", "g"); "" when there is none.
        low, high: the range that validation data had; None when not known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    unit: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Fit:
    """What a node must have to take the bundle; checked before anything is downloaded.

    Attributes:
        machines: accepted `platform.machine()` names; empty for any.
        runtimes: runtimes that the bundle has a model file for, best first.
        memory_bytes: working memory and model file together.
        latency_us: the slowest median that the node may measure before it refuses the bundle; None for no bound.
        agent: the lowest agent version that understands the bundle.
    """

    machines: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    memory_bytes: int = 0
    latency_us: float | None = None
    agent: str = "0.1.0"

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Fit:
        """Read one back; fields it does not know are ignored.

        Raises:
            BundleError: a field is of another type or out of range.
        """
        fields = Fields(data, f"{NAME}: fit")
        latency_us = fields.optional_number("latency_us")
        if latency_us is not None and latency_us <= 0:
            raise fields.refuse("latency_us", "is not above 0")
        return cls(
            machines=fields.texts("machines", [], most=32),
            runtimes=fields.texts("runtimes", [], most=32),
            memory_bytes=fields.whole("memory_bytes", 0, 1 << 50, 0),
            latency_us=latency_us,
            agent=fields.text("agent", "0.1.0", longest=32),
        )


@dataclass(frozen=True)
class Manifest:
    """A bundle's manifest.

    Attributes:
        task: name of the task; lower case letters, digits, ".", "_" and "-".
        kind: "classification", "regression" or "anomaly".
        version: of the release, counts up from 1 within a task.
        member: name of the family member ("w22-int8").
        created: UTC, ISO 8601.
        parts: every file but the manifest itself.
        input, output: what a caller hands over and gets.
        labels: names of the classes, in the order of the output; empty for other kinds.
        fit: what a node must have.
        measured: figures as `Measurement` JSON by name: "latency_us litert", "accuracy test", "drop_pp test", ...
        recipe: name of the recipe.
        dataset: digests of the splits by name.
        parent: digest of the bundle that this one follows, or None.
        schema: version of this format.
        unknown: top-level fields of a newer format, kept as they are.
    """

    task: str
    kind: str
    version: int
    member: str
    created: str
    parts: tuple[Part, ...]
    input: Values
    output: Values
    labels: tuple[str, ...] = ()
    fit: Fit = Fit()
    measured: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    dataset: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    schema: int = SCHEMA
    unknown: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field, those of a newer format included."""
        known = {name: value for name, value in asdict(self).items() if name != "unknown"}
        return {**self.unknown, **known}

    def to_bytes(self) -> bytes:
        """The text of `manifest.json`; the same manifest gives the same bytes."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """Read the text of `manifest.json`.

        Raises:
            BundleError: no JSON, or as `from_json`.
        """
        return cls.from_json(read_json(content, NAME))

    @classmethod
    def from_json(cls, data: Any) -> Manifest:
        """Read one back.

        Raises:
            BundleError: a field is missing, of another type, or out of range; two parts share a path; or the format is
                newer than this version reads.
        """
        fields = Fields(data, NAME)
        schema = fields.whole("schema", 1, 1 << 16)
        if schema > SCHEMA:
            raise BundleError(
                f"has format {schema}, this version reads up to {SCHEMA}", where=NAME, do="update the agent"
            )
        parts = tuple(_part(item, i) for i, item in enumerate(fields.items("parts", most=MAX_PARTS)))
        if len({part.path for part in parts} | {NAME}) != len(parts) + 1:
            raise fields.refuse("parts", "name a path twice")
        kind = fields.text("kind")
        if kind not in _KINDS:
            raise fields.refuse("kind", f"is none of {', '.join(_KINDS)}")
        dataset = fields.mapping("dataset", {}, most=16)
        if not all(isinstance(value, str) and len(value) <= 128 for value in dataset.values()):
            raise fields.refuse("dataset", "holds something that is no digest")
        return cls(
            task=matching(fields, "task", _TASK),
            kind=kind,
            version=fields.whole("version", 1, 1 << 31),
            member=matching(fields, "member", _MEMBER),
            created=_moment(fields, "created"),
            parts=parts,
            input=_values(data.get("input"), "input"),
            output=_values(data.get("output"), "output"),
            labels=fields.texts("labels", [], most=_MAX_LABELS),
            fit=Fit.from_json(data.get("fit", {})),
            measured=_figures(fields.mapping("measured", {}, most=200)),
            recipe=fields.text("recipe", ""),
            dataset=dataset,
            parent=matching(fields, "parent", _DIGEST) if data.get("parent") is not None else None,
            schema=schema,
            unknown=fields.rest(cls.__dataclass_fields__.keys() - {"unknown"}),
        )

    def part(self, role: Role, runtime: str | None = None) -> Part:
        """The first part with a role, and for a runtime where one is named.

        Raises:
            BundleError: there is none.
        """
        for part in self.parts:
            if part.role == role and (runtime is None or part.runtime == runtime):
                return part
        wanted = f"{role} for {runtime}" if runtime else role
        raise BundleError(f"the bundle holds no {wanted}", where=self.task, do="build the bundle again")


def matching(fields: Fields, name: str, pattern: re.Pattern[str]) -> str:
    """A text of a given form. Raises BundleError when it has another."""
    value = fields.text(name, longest=MAX_PATH)
    if not pattern.fullmatch(value):
        raise fields.refuse(name, f"is {value[:80]!r}, which is not a name that may stand there")
    return value


def _moment(fields: Fields, name: str) -> str:
    value = fields.text(name, longest=40)
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise fields.refuse(name, f"is {value!r}, no date of ISO 8601") from None
    return value


def _figures(data: dict[str, Any]) -> dict[str, Any]:
    """Figures by name: each has a value, and maybe an interval. What else one says is kept as it is."""
    for name, figure in data.items():
        fields = Fields(figure, f"{NAME}: measured {name[:80]!r}")
        if len(name) > 100 or not name.isprintable() or fields.optional_number("value") is None:
            raise fields.refuse("value", "is missing, or the figure has no proper name")
        for bound in ("low", "high"):
            fields.optional_number(bound)
    return data


def _part(data: Any, index: int) -> Part:
    fields = Fields(data, f"{NAME}: part {index + 1}")
    role = fields.text("role")
    if role not in get_args(Role):
        raise fields.refuse("role", f"is none of {', '.join(get_args(Role))}")
    return Part(
        path=matching(fields, "path", _PATH),
        role=role,  # type: ignore[arg-type]  # checked above
        sha256=matching(fields, "sha256", _DIGEST),
        size_bytes=fields.whole("size_bytes", 0, MAX_PART_BYTES),
        runtime=fields.optional_text("runtime"),
    )


def _values(data: Any, where: str) -> Values:
    fields = Fields(data, f"{NAME}: {where}")
    shape = tuple(fields.items("shape", most=8))
    if not shape or not all(type(n) is int and n > 0 for n in shape) or prod(shape) > _MAX_VALUES:
        raise fields.refuse("shape", f"is no shape of at most {_MAX_VALUES} values")
    low, high = fields.optional_number("low"), fields.optional_number("high")
    if low is not None and high is not None and low > high:
        raise fields.refuse("low", f"is {low}, above high, {high}")
    return Values(
        name=fields.text("name"),
        shape=shape,
        dtype=fields.text("dtype", "float32"),
        unit=fields.text("unit", ""),
        low=low,
        high=high,
    )
