"""Write layers as products of smaller ones: low-rank factors (spatial SVD, Jaderberg et al. 2014, arXiv:1405.3866,
section 2.2; Tucker-2, Kim et al. 2016, arXiv:1511.06530, section 3; ranks by VBMF, Nakajima et al. 2013, JMLR 14).

When to use it: wide convolutions (32 channels and more) and large linear layers, whose weights have far less rank than
room. When not: narrow networks. Two layers have two layers' overhead, and what saves multiply-accumulates may cost
time; that is why each layer is kept in factors only where that pays:

    with `latency_us` in the context     the int8 network is measured faster by a share of `margin`
    without                              its multiply-accumulates fall by that share: no promise about time
    with `for_size`                      its bytes fall, whatever its time

A linear layer becomes two. A convolution becomes kh x 1 and 1 x kw ("spatial"), or 1x1, kh x kw and 1x1 ("tucker"), or
whichever of both pays more ("either"); a 1x1 convolution is a linear layer at every place. Grouped and depthwise ones
stay. Nothing stands between the factors, a batch norm behind the layer stays behind the last. At full rank the network
answers as before. Batch-norm statistics are re-estimated; recover with `distil` afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Literal, get_args

from edgehone.errors import CutError, RecipeError
from edgehone.graph.cost import macs, parameter_bytes
from edgehone.graph.factor import chain, divisible, factored
from edgehone.graph.ir import FloatArray, Graph, Shape
from edgehone.recipe import NUMBER, Step
from edgehone.techniques import Context, Result
from edgehone.techniques._low_rank import SPATIAL, TUCKER, Form, Ranks, energy_rank, full, vbmf_rank
from edgehone.techniques.prune import technique as prune

FormName = Literal["spatial", "tucker", "either"]
By = Literal["energy", "vbmf", "share"]

_FORMS = "|".join(get_args(FormName))
_NONE = "no layer of this network can be a product of two, as linear layers and convolutions without groups can"
_STEP = 8  # int8 kernels work on blocks of it
_LAYER_BYTES = 300  # of a layer in a .tflite file besides its integers: tensors, operator, names
_CHANNEL_BYTES = 12  # scale and zero point of an output channel


@dataclass(frozen=True)
class DecomposeSettings:
    """What becomes factors, and of which rank.

    Attributes:
        form: of a convolution with more than one place: "spatial", "tucker" or "either".
        by: what sets a rank: "energy" keeps that share of the squared singular values, "share" takes the highest rank
            that leaves the layer that share of its multiply-accumulates, "vbmf" drops what looks like noise.
        keep: the share of "energy" or "share", above 0 and at most 1; 1 changes nothing. "vbmf" does not use it.
        margin: share by which the network must get faster (or its multiply-accumulates or bytes fall) for a layer to
            stay in factors, 0 or more and below 1.
        for_size: keep what has fewer bytes, measured faster or not.
    """

    form: FormName = "spatial"
    by: By = "energy"
    keep: float = 0.9
    margin: float = 0.005
    for_size: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("form", self.form, get_args(FormName)), ("by", self.by, get_args(By))):
            if value not in known:
                do = f"choose one of: {', '.join(known)}"
                raise RecipeError(f"{name} {value!r} is not known", where="decompose", do=do)
        if not 0 < self.keep <= 1:
            raise RecipeError(f"keep is {self.keep}", where="decompose", do="give a share above 0 and at most 1")
        if not 0 <= self.margin < 1:
            raise RecipeError(f"margin is {self.margin}", where="decompose", do="give 0 or more, and less than 1")


class Decompose:
    """The technique."""

    Settings = DecomposeSettings
    identity = DecomposeSettings(keep=1.0)

    def supports(self, graph: Graph) -> Sequence[str]:
        """A network needs a linear layer or a convolution without groups, of two channels or more on either side."""
        return () if _keys(graph) else (_NONE,)

    def step(self, settings: DecomposeSettings) -> Step:
        """Labelled like "decompose-spatial-energy-90" or "decompose-tucker-vbmf", with "-size" for size."""
        share = "" if settings.by == "vbmf" else f"-{settings.keep * 100:g}"
        size = "-size" if settings.for_size else ""
        return Step("decompose", asdict(settings), f"decompose-{settings.form}-{settings.by}{share}{size}")

    def from_label(self, label: str) -> DecomposeSettings | None:
        """The inverse of the label; None for a label of another technique."""
        found = re.fullmatch(rf"decompose-({_FORMS})-(?:(vbmf)|(energy|share)-({NUMBER}))(-size)?", label)
        if found is None:
            return None
        form, vbmf, by, percent, size = found.groups()
        keep = DecomposeSettings.keep if vbmf else round(float(percent) / 100, 6)
        return DecomposeSettings(form, vbmf or by, keep, for_size=size is not None)  # type: ignore[arg-type]

    def apply(self, graph: Graph, settings: DecomposeSettings, context: Context) -> Result:
        """Factor layer by layer, keep what pays, and re-estimate batch-norm statistics.

        The layer with the most multiply-accumulates to lose comes first. Where no layer pays, the network comes back
        as it was.

        Raises:
            CutError: the network has no layer for it.
        """
        if settings.keep == 1 and settings.by != "vbmf":
            return Result(graph)
        for reason in self.supports(graph):
            raise CutError(reason, where="decompose", do="use prune instead")
        cost = _cost(settings, context)
        now, kept, tries = cost(graph), 0, self.candidates(graph, settings)
        for candidates in tries:
            trials = [(cost(trial), trial) for trial in (factored(graph, key, weights) for key, weights in candidates)]
            best, trial = min(trials, key=lambda found: found[0])
            if best < now * (1 - settings.margin):
                now, graph, kept = best, trial, kept + 1
        told = f"{kept} of {len(tries)} layers that could gain stay in factors"
        return replace(prune.recalibrate(graph, context) if kept else Result(graph), notes=(told,))

    def candidates(self, graph: Graph, settings: DecomposeSettings) -> list[list[tuple[str, list[FloatArray]]]]:
        """For every weight that is worth a try, its key with its factors in each form, best layer first.

        Worth a try is what loses multiply-accumulates, or for size bytes: nothing else can get faster or smaller.
        """
        found: list[tuple[int, list[tuple[str, list[FloatArray]]]]] = []
        for key in _keys(graph):
            weight, work = graph.params[key], _Work(graph, key)
            forms = []
            for form in _forms(weight, settings.form):
                ranks = _ranks(form, weight, work, settings)
                if ranks is None:
                    continue
                shapes = form.shapes(weight.shape, ranks)
                smaller = sum(prod(shape) for shape in shapes) < weight.size
                if smaller if settings.for_size else work.of(shapes) < work.whole:
                    forms.append((work.whole - work.of(shapes), (key, form.factors(weight, ranks))))
            if forms:
                found.append((max(saved for saved, _ in forms), [candidate for _, candidate in forms]))
        return [candidates for _, candidates in sorted(found, key=lambda one: -one[0])]


class _Work:
    """Multiply-accumulates of all layers that use one weight; `whole` is what they are now."""

    def __init__(self, graph: Graph, key: str) -> None:
        self._graph = graph
        self._nodes = [node for node in graph.weighted() if node.params["weight"] == key]
        self.whole = self.of([graph.params[key].shape])

    def of(self, shapes: Sequence[Shape]) -> int:
        """With the weight as factors of these shapes."""
        return sum(link.macs for node in self._nodes for link in chain(self._graph, node, shapes))


def _keys(graph: Graph) -> list[str]:
    """Weights that can be factored, in order, each once."""
    keys: dict[str, bool] = {}
    for node in graph.weighted():
        key = node.params["weight"]
        fits = divisible(node) and min(graph.params[key].shape[:2]) > 1
        keys[key] = keys.get(key, True) and fits
    return [key for key, fits in keys.items() if fits]


def _forms(weight: FloatArray, asked: FormName) -> list[Form]:
    """The forms to try; a linear layer and a 1x1 convolution have only one."""
    if weight.ndim == 2 or weight[0, 0].size == 1:
        return [SPATIAL]
    return {"spatial": [SPATIAL], "tucker": [TUCKER], "either": [SPATIAL, TUCKER]}[asked]


def _ranks(form: Form, weight: FloatArray, work: _Work, settings: DecomposeSettings) -> Ranks | None:
    """The ranks that the settings ask for, multiples of 8 where they are 8 or more; None where there are none."""
    sides = form.sides(weight)
    most = full(sides)
    if settings.by == "vbmf":
        return tuple(_up(vbmf_rank(side), limit) for side, limit in zip(sides, most, strict=True))
    if settings.by == "energy":
        return tuple(_up(energy_rank(side, settings.keep), limit) for side, limit in zip(sides, most, strict=True))
    for step in range(max(most), 0, -1):  # all sides shrink alike
        ranks = tuple(_down(-(-limit * step // max(most)), limit) for limit in most)
        if work.of(form.shapes(weight.shape, ranks)) <= settings.keep * work.whole:
            return ranks
    return None


def _up(rank: int, most: int) -> int:
    return rank if rank < _STEP else min(most, -(-rank // _STEP) * _STEP)


def _down(rank: int, most: int) -> int:
    return rank if rank < _STEP or rank == most else rank // _STEP * _STEP


def _cost(settings: DecomposeSettings, context: Context) -> Callable[[Graph], float]:
    """What must fall for a layer to stay in factors."""
    if settings.for_size:
        return _bytes
    return context.latency_us or macs


def _bytes(graph: Graph) -> float:
    """What the layers of the int8 file of a training graph take, roughly."""
    outputs = [len(graph.params[node.params["weight"]]) for node in graph.weighted()]
    return parameter_bytes(graph) + _LAYER_BYTES * len(outputs) + _CHANNEL_BYTES * sum(outputs)


technique = Decompose()
