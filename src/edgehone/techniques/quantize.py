"""Integers instead of floats: 8-bit weights and activations by the TFLite scheme (Jacob et al. 2018,
arXiv:1712.05877).

Post-training quantization chooses ranges from a few hundred training examples. Quantization-aware training
(`qat_epochs` above 0) goes on to train the network as it rounds; use it where the former loses more than the noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf

from torch import Tensor

from edgehone.data.examples import Examples
from edgehone.errors import RecipeError
from edgehone.graph.fold import deploy
from edgehone.graph.ir import Graph
from edgehone.graph.twin import Twin
from edgehone.recipe import Step
from edgehone.record import CurvePoint
from edgehone.task import Training
from edgehone.techniques import Context, Result
from edgehone.train.loop import Run, fit
from edgehone.train.losses import task_loss

_QAT_RATE = 1e-3  # a network with folded batch norms diverges at the rates it was trained with


@dataclass(frozen=True)
class QuantizeSettings:
    """How to quantize.

    Attributes:
        observer: how ranges are chosen, a name of `edgehone.graph.observers.OBSERVERS`.
        examples: training examples to calibrate on.
        qat_epochs: epochs of quantization-aware training; 0 for none.
    """

    observer: str = "minmax"
    examples: int = 256
    qat_epochs: float = 0.0

    def __post_init__(self) -> None:
        if self.examples < 1 or not 0 <= self.qat_epochs < inf:
            raise RecipeError("calibration needs at least 1 example and epochs of 0 or more", where="quantize")


class Quantize:
    """The technique."""

    Settings = QuantizeSettings
    identity = None

    def supports(self, graph: Graph) -> Sequence[str]:  # noqa: ARG002  one signature for all techniques
        """Every graph can be quantized."""
        return ()

    def step(self, settings: QuantizeSettings) -> Step:
        """Labelled "int8", or like "int8-qat-1" with the epochs of quantization-aware training."""
        label = f"int8-qat-{settings.qat_epochs:g}" if settings.qat_epochs else "int8"
        return Step("quantize", asdict(settings), label)

    def apply(self, graph: Graph, settings: QuantizeSettings, context: Context) -> Result:
        """Deploy, calibrate, train if asked for, and return the integers."""
        data = context.prepared.train.sample(settings.examples, context.seed)
        twin = Twin(deploy(graph), settings.observer)
        twin.calibrate(inputs(data))
        curve = self._train(twin, settings, context) if settings.qat_epochs else ()
        return Result(graph, twin.to_quantized(), curve)

    def _train(self, twin: Twin, settings: QuantizeSettings, context: Context) -> tuple[CurvePoint, ...]:
        task = context.prepared.task
        training = Training(epochs=settings.qat_epochs, learning_rate=_QAT_RATE, weight_decay=0.0)
        checkpoint = context.checkpoint and context.checkpoint.with_suffix(".qat.npz")
        run = Run(
            data=context.prepared.train,
            training=replace(training, batch_size=(task.recovery or task.training or training).batch_size),
            loss=task_loss(task),
            seed=context.seed,
            augment=task.augment,
            teacher=context.teacher,
            validate=context.validate,
            report=context.report,
            checkpoint=checkpoint,
            keep_checkpoint=True,
        )
        return fit(twin, run)


def inputs(data: Examples, batch_size: int = 64) -> Iterator[Tensor]:
    """The readings of a split, in order."""
    return (x for x, _ in data.batches(batch_size))


technique = Quantize()
