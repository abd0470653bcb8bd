"""The manifest of a bundle: what is inside, what goes in and comes out, what was measured, where it comes from.

JSON in and out. Fields that this version does not know are kept and written back, so a newer core and an older node
understand each other. Reading refuses what is missing, of another type, or out of range: see `Manifest.from_json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgehone_agent.errors import BundleError

SCHEMA = 1
Role = Literal["model", "card", "probe", "sbom", "provenance", "notes"]


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
        measured: figures as `Measurement` JSON by name: "latency_us", "accuracy", "drop_pp", ...
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
