"""Techniques: network in, smaller or faster network out. One technique is one file that defines `technique`.

A technique takes a graph and its own frozen `Settings`, leaves the graph as it was, and returns a `Result`. The same
graph, settings and seed give the same result. `supports` says in words why it cannot work on a graph; a technique
that is applied all the same raises the error it named.

What a technique may have besides: `from_label(label) -> Settings | None`, the inverse of the label that `step` gives,
for names of recipes; and `order`, an `edgehone.recipe.Order`, where not every place in a recipe makes sense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgehone.data.prepare import Prepared
from edgehone.graph.ir import Graph
from edgehone.graph.quantized import QuantizedGraph
from edgehone.plugins import Registry
from edgehone.recipe import Step
from edgehone.record import CurvePoint
from edgehone.train.loop import Report, Teacher, Validate
from edgehone.train.precision import Precision


@dataclass(frozen=True)
class Context:
    """What a technique may use besides the graph.

    Attributes:
        prepared: the task and its splits; the test split is not a technique's business.
        seed: of everything random.
        precision: arithmetic of training.
        teacher: what to distil from; None trains on labels alone.
        validate: the metric on the validation split, for the curve.
        report: told about progress.
        checkpoint: where training keeps its state.
        latency_us: what the int8 network of a training graph takes on the target, in microseconds, measured quickly;
            None where nothing can be measured. What is not faster is not kept.
    """

    prepared: Prepared
    seed: int = 0
    precision: Precision = "float32"
    teacher: Teacher | None = None
    validate: Validate | None = None
    report: Report | None = None
    checkpoint: Path | None = None
    latency_us: Callable[[Graph], float] | None = None


@dataclass(frozen=True)
class Result:
    """What a technique returns: a training graph, or the integers of a quantized one, and what training looked like.

    `notes` are sentences for people about what was found on the way.
    """

    graph: Graph
    quantized: QuantizedGraph | None = None
    curve: tuple[CurvePoint, ...] = ()
    notes: tuple[str, ...] = ()


class Technique(Protocol):
    """One way to make a network smaller or faster.

    Attributes:
        Settings: a frozen dataclass of plain values, see `step`.
        identity: settings that change nothing; None where there are none.
    """

    Settings: type[Any]
    identity: Any

    def supports(self, graph: Graph) -> Sequence[str]:
        """Reasons why it cannot work on this graph, in words; empty when it can."""

    def step(self, settings: Any) -> Step:
        """The recipe step that these settings are, with its label."""

    def apply(self, graph: Graph, settings: Any, context: Context) -> Result:
        """Apply it to a training graph.

        Raises:
            RecipeError: a setting out of range.
            CutError, DataError: see the technique.
        """


TECHNIQUES: Registry[Technique] = Registry("technique", package=__name__, group="edgehone.techniques")

__all__ = ["TECHNIQUES", "Context", "Result", "Technique"]
