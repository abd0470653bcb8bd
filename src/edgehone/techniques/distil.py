"""Recover a cut network by imitating its teacher: soft targets and labels together (Hinton, Vinyals, Dean 2015,
arXiv:1503.02531). With weight 0 it is plain fine-tuning.

With `attention` above 0 the student also looks where its teacher looks: the maps of how strong the activations are at
each place, taken at the last tensor of every size in space, come closer (attention transfer, Zagoruyko and Komodakis
2017, arXiv:1612.03928, section 3.1; hints of inner layers as in FitNets, Romero et al. 2015, arXiv:1412.6550). A map
has no channels, so widths may differ and nothing is added to the network.

When to use it: after every cut; it costs one more forward pass of the teacher per step. When not: the teacher is wrong
more often than the labels are. Attention needs tensors with places, and keeps the teacher's answers from being reused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf, prod

from torch import Tensor, nn

from edgehone.errors import RecipeError, TaskError
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.recipe import NUMBER, RECOVERY, Step
from edgehone.task import Training
from edgehone.techniques import Context, Result
from edgehone.train.loop import Run, fit
from edgehone.train.losses import attention_loss, task_loss

Penalty = Callable[[nn.Module, float], Tensor]


@dataclass(frozen=True)
class DistilSettings:
    """How to recover.

    Attributes:
        training: epochs, rates and penalties.
        weight: of the teacher's answers in the loss, 0 to 1; the labels have the rest.
        temperature: softens both answers.
        attention: weight of the distance between attention maps, added to the loss; 0 for none, 10 to 1000 is usual.
    """

    training: Training = field(default_factory=Training)
    weight: float = 0.9
    temperature: float = 4.0
    attention: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise RecipeError(f"weight is {self.weight}", where="distil", do="give a share from 0 to 1")
        if not 0 < self.temperature < inf:
            raise RecipeError(f"temperature is {self.temperature}", where="distil", do="give a number above 0")
        if not 0 <= self.attention < inf:
            raise RecipeError(f"attention is {self.attention}", where="distil", do="give 0 or more")


class Distil:
    """The technique."""

    Settings = DistilSettings
    identity = None
    order = RECOVERY

    def supports(self, graph: Graph) -> Sequence[str]:
        """Every training graph can be trained."""
        return () if any(True for _ in graph.weighted()) else ("the network has no weights to train",)

    def step(self, settings: DistilSettings) -> Step:
        """Labelled like "distil-3": epochs; "distil-3-attention-100" with attention maps."""
        looks = f"-attention-{settings.attention:g}" if settings.attention else ""
        return Step("distil", asdict(settings), f"distil-{settings.training.epochs:g}{looks}")

    def from_label(self, label: str) -> DistilSettings | None:
        """The inverse of the label; None for a label of another technique."""
        found = re.fullmatch(rf"distil-({NUMBER})(?:-attention-({NUMBER}))?", label)
        if found is None:
            return None
        return DistilSettings(epochs_of(found[1], "distil"), attention=float(found[2] or 0))

    def apply(self, graph: Graph, settings: DistilSettings, context: Context) -> Result:
        """Train the graph against teacher and labels; the last epoch counts.

        Raises:
            RecipeError: the network has no weights, or attention is asked for and there is nothing to look at.
            DataError: the loss stopped being finite.
        """
        for reason in self.supports(graph):
            raise RecipeError(reason, where="distil", do="leave this step out")
        teacher = context.teacher and replace(context.teacher, weight=settings.weight, temperature=settings.temperature)
        context = replace(context, teacher=teacher)
        if not settings.attention:
            return train(graph, settings.training, context)
        pupil, master = GraphNetwork(graph), teacher and teacher.network
        if not isinstance(master, GraphNetwork) or teacher is None:
            raise RecipeError(
                "attention needs a teacher whose layers can be seen", where="distil", do="set attention to 0"
            )
        stages = matched_stages(graph, master.graph)
        if not stages:
            raise RecipeError(
                "teacher and student have no tensor of one size in space", where="distil", do="set attention to 0"
            )
        seen = _Watched(pupil, [mine for mine, _ in stages]), _Watched(master, [theirs for _, theirs in stages])
        context = replace(context, teacher=replace(teacher, network=seen[1], answers=None))

        def apart(network: nn.Module, share: float) -> Tensor:  # noqa: ARG001  one signature for all penalties
            return settings.attention * attention_loss(seen[0].seen, seen[1].seen)

        return train(graph, settings.training, context, apart, (pupil, seen[0]))


def train(
    graph: Graph,
    training: Training,
    context: Context,
    penalty: Penalty | None = None,
    pupil: tuple[GraphNetwork, nn.Module] | None = None,
) -> Result:
    """Train a graph with everything a context says, for any technique that trains.

    Args:
        graph: a training graph; it stays as it was.
        training: epochs, rates and penalties.
        context: data, seed, teacher, and whom to tell.
        penalty: a term of the loss, see `Run.penalty`.
        pupil: the network of the graph and what stands around it while it is trained, where that is not the network.

    Raises:
        DataError: the loss stopped being finite.
    """
    task = context.prepared.task
    network, around = pupil if pupil is not None else (own := GraphNetwork(graph), own)
    if training.dropout is not None:
        network.set_dropout(training.dropout)
    run = Run(
        data=context.prepared.train,
        training=training,
        loss=task_loss(task, training.label_smoothing),
        seed=context.seed,
        augment=task.augment,
        precision=context.precision,
        teacher=context.teacher,
        validate=context.validate,
        report=context.report,
        checkpoint=context.checkpoint,
        penalty=penalty,
    )
    curve = fit(around, run)
    trained = network.cpu().to_graph()
    return Result(graph.with_nodes(graph.nodes, params=trained.params), curve=curve)


def matched_stages(student: Graph, teacher: Graph) -> tuple[tuple[str, str], ...]:
    """Pairs of tensors to compare: the last of every size in space (above one place) that both networks have."""
    mine, theirs = _stages(student), _stages(teacher)
    return tuple((name, theirs[size]) for size, name in mine.items() if size in theirs)


def _stages(graph: Graph) -> dict[tuple[int, ...], str]:
    """Size in space → the last tensor of it, without the input and what only moves values."""
    sizes = ((node, graph.shapes[node.output]) for node in graph.nodes if node.op not in ("slice", "pad", "reshape"))
    return {shape[2:]: node.output for node, shape in sizes if len(shape) > 2 and prod(shape[2:]) > 1}


class _Watched(nn.Module):
    """A network that keeps some of the tensors of its last forward pass."""

    def __init__(self, network: GraphNetwork, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self._names = network, tuple(names)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input) → (N, *output), as the network answers."""
        values = self.network.activations(x)
        self.seen = [values[name] for name in self._names]
        return values[self.network.graph.output]


def epochs_of(text: str, where: str) -> Training:
    """A training of that many epochs, as a label tells it.

    Raises:
        RecipeError: no number above 0.
    """
    try:
        return Training(epochs=float(text))
    except (ValueError, TaskError):
        raise RecipeError(f"epochs is {text}", where=where, do="choose a number above 0") from None


technique = Distil()
