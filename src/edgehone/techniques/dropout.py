"""Dropout before the last linear layers, at the rate that does best on the validation split (Srivastava et al. 2014,
Dropout, JMLR 15, section 4 and appendix A.4).

Every rate is tried in a short training from the same start with the same seed, no dropout (rate 0) among them, and the
network with the lowest validation loss is kept, trained. Dropout costs nothing on the device: it is gone once the
network is deployed.

When to use it: the training split is small for the network and the head is wide, that is the training loss falls while
the validation loss rises. When not: after a deep cut (the network has no room to spare), or without a linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from edgehone.errors import RecipeError
from edgehone.graph._edit import Edit
from edgehone.graph.ir import Graph, Node
from edgehone.graph.network import GraphNetwork
from edgehone.recipe import Step
from edgehone.task import Training
from edgehone.techniques import Context, Result
from edgehone.techniques.distil import train
from edgehone.train.losses import split_loss


@dataclass(frozen=True)
class DropoutSettings:
    """Which rates compete.

    Attributes:
        rates: to try, each 0 or more and below 1; rate 0 always competes. Without rates nothing is changed.
        layers: before how many linear layers, counted from the last one.
        training: of each rate; short, since all rates are trained.
    """

    rates: tuple[float, ...] = (0.25, 0.5)
    layers: int = 1
    training: Training = field(default_factory=lambda: Training(epochs=1.0, learning_rate=0.01))

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", tuple(self.rates))
        for rate in self.rates:
            if not 0 <= rate < 1:
                raise RecipeError(f"rates has {rate}", where="dropout", do="give rates from 0 up to, not at, 1")
        if self.layers < 1:
            raise RecipeError(f"layers is {self.layers}", where="dropout", do="give 1 or more")


class Dropout:
    """The technique."""

    Settings = DropoutSettings
    identity = DropoutSettings(rates=())

    def supports(self, graph: Graph) -> Sequence[str]:
        """A network without a linear layer has no head to drop from."""
        return () if _linear(graph) else ("there is no linear layer that dropout could stand before",)

    def step(self, settings: DropoutSettings) -> Step:
        """Labelled like "dropout-25-50": the rates in percent; "-before-2" where it is not one layer."""
        rates = "-".join(f"{100 * rate:g}" for rate in settings.rates) or "none"
        layers = f"-before-{settings.layers}" if settings.layers != 1 else ""
        return Step("dropout", asdict(settings), f"dropout-{rates}{layers}")

    def from_label(self, label: str) -> DropoutSettings | None:
        """The inverse of the label; None for a label of another technique."""
        found = re.fullmatch(r"dropout-(none|[\d.]+(?:-[\d.]+)*)(?:-before-(\d+))?", label)
        if found is None:
            return None
        rates = () if found[1] == "none" else tuple(float(rate) / 100 for rate in found[1].split("-"))
        return DropoutSettings(rates, int(found[2] or 1))

    def apply(self, graph: Graph, settings: DropoutSettings, context: Context) -> Result:
        """Train with every rate and keep the best; the notes tell what each came to.

        Raises:
            RecipeError: there is no linear layer.
            DataError: the loss stopped being finite.
        """
        if not settings.rates:
            return Result(graph)
        for reason in self.supports(graph):
            raise RecipeError(reason, where="dropout", do="leave this step out")
        tried: list[tuple[float, float, Result]] = []
        for rate in sorted({0.0, *settings.rates}):
            checkpoint = context.checkpoint and context.checkpoint.with_suffix(f".{100 * rate:g}.npz")
            result = train(with_dropout(graph, rate, settings.layers), settings.training,
                           replace(context, checkpoint=checkpoint))  # fmt: skip
            network = GraphNetwork(result.graph)
            loss = split_loss(network, context.prepared.validation, context.prepared.task)
            tried.append((loss, rate, result))
        best = min(tried, key=lambda item: item[:2])
        notes = tuple(f"dropout {rate:g}: validation loss {loss:.4g}" for loss, rate, _ in tried)
        return replace(best[2], notes=(*notes, f"dropout {best[1]:g} was kept"))


def with_dropout(graph: Graph, rate: float, layers: int = 1) -> Graph:
    """The graph with dropout of that rate before its last linear layers; a dropout that stands there gets the rate.

    Args:
        graph: a training graph.
        rate: 0 or more, below 1; 0 adds no node.
        layers: how many, from the last one; all where there are fewer.
    """
    edit = Edit(graph)
    for node in _linear(graph)[-layers:]:
        source = node.inputs[0]
        standing = edit.producer(source, "dropout")
        if standing is not None:
            edit.put(replace(standing, attrs={**standing.attrs, "rate": float(rate)}))
        elif rate:
            name = f"{node.output}_dropout"
            edit.insert(Node("dropout", (source,), name, {"rate": float(rate)}), edit.shapes[source], node.output)
            edit.put(replace(node, inputs=(name,)))
    return edit.graph()


def _linear(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "linear"]


technique = Dropout()
