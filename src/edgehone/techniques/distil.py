"""Recover a cut network by imitating its teacher: soft targets and labels together (Hinton, Vinyals, Dean 2015,
arXiv:1503.02531). With weight 0 it is plain fine-tuning.

When to use it: after every cut; it costs one more forward pass of the teacher per step. When not: the teacher is wrong
more often than the labels are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf

from edgehone.errors import RecipeError
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.recipe import Step
from edgehone.task import Training
from edgehone.techniques import Context, Result
from edgehone.train.loop import Run, fit
from edgehone.train.losses import task_loss


@dataclass(frozen=True)
class DistilSettings:
    """How to recover.

    Attributes:
        training: epochs, rates and penalties.
        weight: of the teacher's answers in the loss, 0 to 1; the labels have the rest.
        temperature: softens both answers.
    """

    training: Training = field(default_factory=Training)
    weight: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise RecipeError(f"weight is {self.weight}", where="distil", do="give a share from 0 to 1")
        if not 0 < self.temperature < inf:
            raise RecipeError(f"temperature is {self.temperature}", where="distil", do="give a number above 0")


class Distil:
    """The technique."""

    Settings = DistilSettings
    identity = None

    def supports(self, graph: Graph) -> Sequence[str]:
        """Every training graph can be trained."""
        return () if any(True for _ in graph.weighted()) else ("the network has no weights to train",)

    def step(self, settings: DistilSettings) -> Step:
        """Labelled like "distil-3": epochs."""
        return Step("distil", asdict(settings), f"distil-{settings.training.epochs:g}")

    def apply(self, graph: Graph, settings: DistilSettings, context: Context) -> Result:
        """Train the graph against teacher and labels; the last epoch counts.

        Raises:
            RecipeError: the network has no weights.
            DataError: the loss stopped being finite.
        """
        for reason in self.supports(graph):
            raise RecipeError(reason, where="distil", do="leave this step out")
        task = context.prepared.task
        network = GraphNetwork(graph)
        if settings.training.dropout is not None:
            network.set_dropout(settings.training.dropout)
        teacher = context.teacher and replace(context.teacher, weight=settings.weight, temperature=settings.temperature)
        run = Run(
            data=context.prepared.train,
            training=settings.training,
            loss=task_loss(task, settings.training.label_smoothing),
            seed=context.seed,
            augment=task.augment,
            precision=context.precision,
            teacher=teacher,
            validate=context.validate,
            report=context.report,
            checkpoint=context.checkpoint,
        )
        curve = fit(network, run)
        trained = network.cpu().to_graph()
        return Result(graph.with_nodes(graph.nodes, params=trained.params), curve=curve)


technique = Distil()
