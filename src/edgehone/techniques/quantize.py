"""Integers instead of floats: 8-bit weights and activations by the TFLite scheme (Jacob et al. 2018,
arXiv:1712.05877).

Post-training quantization chooses ranges from a few hundred training examples. What it loses is repaired without
training (`repair`): cross-layer equalisation and bias correction (Nagel et al. 2019, arXiv:1906.04721, sections 4.1 and
4.2), then AdaRound (Nagel et al. 2020, arXiv:2004.10568, section 3). Quantization-aware training (`qat_epochs` above 0)
goes on to train the network as it rounds; use it where all this loses more than the noise.

Weights of 4 bits (`bits`) make files smaller and never faster: a runtime unpacks them. Use them where flash is short.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any, Literal, get_args

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
from edgehone.techniques._bits import narrow_all, narrow_to_fit, narrow_within
from edgehone.techniques._judge import Judge, split
from edgehone.techniques._repair import CHAIN, repair
from edgehone.train.loop import Run, fit
from edgehone.train.losses import task_loss

Repair = Literal["none", "auto", "equalize", "bias", "round"]
Bits = Literal[8, 4, "mixed"]

_LABEL = re.compile(
    r"(?:int(?P<whole>[48])|mixed-(?:(?P<bytes>[1-9]\d*)|e(?P<error>[\d.e-]+)))"
    r"(?:-(?P<repair>repaired|equalize|bias|round))?(?:-qat-(?P<epochs>[\d.]+))?"
)
_QAT_RATE = 1e-3  # a network with folded batch norms diverges at the rates it was trained with


@dataclass(frozen=True)
class QuantizeSettings:
    """How to quantize.

    Attributes:
        observer: how ranges are chosen, a name of `edgehone.graph.observers.OBSERVERS`.
        examples: training examples to calibrate on; with `repair` or mixed bits a quarter of them judges.
        qat_epochs: epochs of quantization-aware training; 0 for none.
        repair: "auto" tries all repairs in turn and keeps those that show; the name of one tries that one.
        bits: of weights: 8, 4 for every convolution, or "mixed", which chooses convolutions for 4.
        weight_bytes: of mixed bits: what all weights and biases may take in the file; 0 for no such budget.
        max_error: of mixed bits without a budget: the squared error of the output, over its variance, that 4 bits may
            lead to before repair.
    """

    observer: str = "minmax"
    examples: int = 256
    qat_epochs: float = 0.0
    repair: Repair = "none"
    bits: Bits = 8
    weight_bytes: int = 0
    max_error: float = 0.01

    def __post_init__(self) -> None:
        if self.examples < 1 or not 0 <= self.qat_epochs < inf:
            raise RecipeError("calibration needs at least 1 example and epochs of 0 or more", where="quantize")
        for name, value, known in (("repair", self.repair, get_args(Repair)), ("bits", self.bits, get_args(Bits))):
            if value not in known:
                raise RecipeError(
                    f"{name} is {value!r}", where="quantize", do=f"choose one of: {', '.join(map(str, known))}"
                )
        if self.weight_bytes < 0 or not 0 < self.max_error < inf:
            raise RecipeError("weight_bytes must be 0 or more and max_error above 0", where="quantize")


class Quantize:
    """The technique."""

    Settings = QuantizeSettings
    identity = None

    def supports(self, graph: Graph) -> Sequence[str]:  # noqa: ARG002  one signature for all techniques
        """Every graph can be quantized."""
        return ()

    def step(self, settings: QuantizeSettings) -> Step:
        """Labelled "int8", "int4", "mixed-60000" with a budget in bytes or "mixed-e0.01" with an error.

        "-repaired" follows for all repairs or "-round" for one of them, "-qat-1" for epochs of training.
        """
        limit = str(settings.weight_bytes) if settings.weight_bytes else f"e{settings.max_error:g}"
        parts = [f"mixed-{limit}" if settings.bits == "mixed" else f"int{settings.bits}"]
        parts += [] if settings.repair == "none" else ["repaired" if settings.repair == "auto" else settings.repair]
        parts += [f"qat-{settings.qat_epochs:g}"] if settings.qat_epochs else []
        return Step("quantize", asdict(settings), "-".join(parts))

    def from_label(self, label: str) -> QuantizeSettings | None:
        """The inverse of the label; None for a label of another technique."""
        found = _LABEL.fullmatch(label)
        if found is None:
            return None
        repair: Any = {None: "none", "repaired": "auto"}.get(found["repair"], found["repair"])
        return QuantizeSettings(
            qat_epochs=float(found["epochs"] or 0),
            repair=repair,
            bits="mixed" if found["whole"] is None else 4 if found["whole"] == "4" else 8,
            weight_bytes=int(found["bytes"] or 0),
            max_error=float(found["error"] or QuantizeSettings.max_error),
        )

    def apply(self, graph: Graph, settings: QuantizeSettings, context: Context) -> Result:
        """Deploy, calibrate, choose bits, repair, train if asked for, and return the integers.

        Raises:
            RecipeError: an unknown observer, or a budget that no choice of bits meets.
            DataError: the examples cannot be calibrated on, or the loss of training stopped being finite.
        """
        data = context.prepared.train.sample(settings.examples, context.seed)
        twin = Twin(deploy(graph), settings.observer)
        twin.calibrate(inputs(data))
        if settings.bits == 4:
            narrow_all(twin)
        if settings.bits == "mixed" or settings.repair != "none":
            twin = self._repaired(twin, data, settings, context.seed)
        curve = self._train(twin, settings, context) if settings.qat_epochs else ()
        return Result(graph, twin.to_quantized(), curve)

    def _repaired(self, twin: Twin, data: Examples, settings: QuantizeSettings, seed: int) -> Twin:
        """Mixed bits and repairs: what is asked of the float network's answers alone."""
        parts = split(twin.network.graph, inputs(data))
        judge = Judge(twin.network.graph, parts.judge)
        if settings.bits == "mixed" and settings.weight_bytes:
            narrow_to_fit(twin, judge, settings.weight_bytes)
        elif settings.bits == "mixed":
            narrow_within(twin, judge, settings.max_error)
        names = {"none": (), "auto": CHAIN}.get(settings.repair, (settings.repair,))
        return repair(twin, judge, parts, names, seed)

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
