"""Fewer inputs for a network of rows: principal components, or the features that matter, chosen by scikit-learn.

    pca   the directions of largest variance (Hotelling 1933; Jolliffe 2002, Principal Component Analysis, chapter 6)
    rfe   recursive feature elimination with a linear model (Guyon et al. 2002, Machine Learning 46, section 2.5)

Either becomes a linear layer in front, so the exported file still takes the whole row; the first linear layers behind
it are fitted again in closed form to answer as before: exactly for pca, which at full rank changes nothing but rounding
(W' = W P^T, b' = b + W m), and by least squares over the training split for rfe. Fixed scaling in front of the first
linear layer (preprocessing) stays where it is and is reduced behind.

When to use it: many inputs that say the same, a wide first layer, at most three layers. When not: a deep network finds
its own features, and a linear reduction in front takes what it would have found; a note says so. It saves work only
where keep * (inputs + width) is below the width of the first layer: the notes tell the work before and after.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from edgehone.errors import CutError, RecipeError
from edgehone.graph._edit import Edit
from edgehone.graph.cost import macs
from edgehone.graph.ir import Graph, Node
from edgehone.graph.network import GraphNetwork
from edgehone.recipe import Order, Step
from edgehone.techniques import Context, Result

Rows = NDArray[np.float64]

DEEP = 3
"""Weighted layers above which the literature advises against it."""

_EXAMPLES = 20_000
_METHODS = ("pca", "rfe")


@dataclass(frozen=True)
class ReduceInputsSettings:
    """How many inputs stay, and how they are chosen.

    Attributes:
        method: "pca" or "rfe", see the module docstring.
        keep: share of the inputs that stays, above 0 and at most 1; 1 changes nothing.
    """

    method: Literal["pca", "rfe"] = "pca"
    keep: float = 0.5

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            known = ", ".join(_METHODS)
            raise RecipeError(f"method is {self.method!r}", where="reduce-inputs", do=f"choose one of: {known}")
        if not 0 < self.keep <= 1:
            raise RecipeError(f"keep is {self.keep}", where="reduce-inputs", do="give a share above 0 and at most 1")


class ReduceInputs:
    """The technique."""

    Settings = ReduceInputsSettings
    identity = ReduceInputsSettings(keep=1.0)
    order = Order(first="reduce inputs first: what comes later is made for the layers it leaves")

    def supports(self, graph: Graph) -> Sequence[str]:
        """Only rows of at least two numbers that go into linear layers, whatever scales them first, can be reduced."""
        if len(graph.input_shape) != 2:
            return ("its input is no row of numbers",)
        place = _place(graph)
        if place is None:
            return ("its input goes into something else than linear layers",)
        return () if graph.shapes[place][1] > 1 else ("its input is a single number",)

    def step(self, settings: ReduceInputsSettings) -> Step:
        """Labelled like "reduce-inputs-pca-50": method, percent of the inputs that stay."""
        label = f"reduce-inputs-{settings.method}-{round(settings.keep * 100)}"
        return Step("reduce-inputs", asdict(settings), label)

    def from_label(self, label: str) -> ReduceInputsSettings | None:
        """The inverse of the label; None for a label of another technique."""
        found = re.fullmatch(r"reduce-inputs-(pca|rfe)-(\d+)", label)
        if found is None:
            return None
        method: Any = found[1]
        return ReduceInputsSettings(method, int(found[2]) / 100)

    def apply(self, graph: Graph, settings: ReduceInputsSettings, context: Context) -> Result:
        """Put the reduction in front and fit the layers behind it.

        Raises:
            CutError: the input is no row, or does not go into linear layers.
            RecipeError: rfe without targets to choose by.
        """
        if settings.keep == 1:
            return Result(graph)
        for reason in self.supports(graph):
            raise CutError(reason, where="reduce-inputs", do="leave this step out")
        place = _place(graph) or graph.input
        data = context.prepared.train.sample(_EXAMPLES, context.seed)
        kind = context.prepared.task.kind
        if settings.method == "rfe" and kind == "anomaly":
            raise RecipeError("rfe needs targets to choose by", where="reduce-inputs", do='use method = "pca"')
        with torch.no_grad():
            network = GraphNetwork(graph).eval()
            rows = np.concatenate([network.activations(x)[place].numpy() for x, _ in data.batches(500)])
        count = max(1, round(settings.keep * rows.shape[1]))
        matrix, mean = principal(rows, count) if settings.method == "pca" else chosen(rows, data.y.numpy(), count, kind)
        smaller = in_front(graph, place, matrix, mean, rows)
        return Result(smaller, notes=_notes(graph, smaller, count, context))


def principal(rows: NDArray[np.float32], count: int) -> tuple[Rows, Rows]:
    """The first principal components of rows (N, F): an orthonormal matrix (count, F), and the mean (F).

    Raises:
        RecipeError: there are fewer rows than components.
    """
    if len(rows) < count:
        raise RecipeError(f"{len(rows)} examples span no {count} directions", where="reduce-inputs", do="lower keep")
    from sklearn.decomposition import PCA

    found = PCA(count, svd_solver="full").fit(rows.astype(np.float64))
    return np.asarray(found.components_, np.float64), np.asarray(found.mean_, np.float64)


def chosen(rows: NDArray[np.float32], targets: NDArray[Any], count: int, kind: str) -> tuple[Rows, Rows]:
    """The features that recursive elimination with a linear model keeps: rows of the identity (count, F), and no mean.

    Features are compared at equal variance. A linear model per class or target; the weakest feature leaves each time.
    """
    from sklearn.feature_selection import RFE
    from sklearn.linear_model import Ridge, RidgeClassifier

    scaled = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-12)
    model = RidgeClassifier() if kind == "classification" else Ridge()
    mask = RFE(model, n_features_to_select=count).fit(scaled, targets).support_
    return np.eye(rows.shape[1])[np.asarray(mask)], np.zeros(rows.shape[1])


def in_front(graph: Graph, place: str, matrix: Rows, mean: Rows, rows: NDArray[np.float32]) -> Graph:
    """The graph with z = matrix (x - mean) computed from a tensor, and the linear layers that read it fitted to z.

    Args:
        graph: a training graph; only linear layers read `place`.
        place: the tensor x, (1, F).
        matrix: (k, F) with independent rows.
        mean: (F).
        rows: values of x, (N, F), that the fit is over.
    """
    edit = Edit(graph)
    readers = [node for node in graph.nodes if place in node.inputs]
    name = f"{place}_reduced"
    weight = edit.keep(f"{name}.weight", matrix.astype(np.float32))
    bias = edit.keep(f"{name}.bias", (-matrix @ mean).astype(np.float32))
    front = Node("linear", (place,), name, params={"weight": weight, "bias": bias}, module="reduce_inputs")
    edit.insert(front, (1, len(matrix)), readers[0].output)
    back, centre = _inverse(matrix, mean, rows)
    for node in readers:
        old = graph.params[node.params["weight"]].astype(np.float64)
        own = graph.param(node, "bias")
        shift = old @ centre + (0.0 if own is None else own)
        params = {
            "weight": edit.keep(f"{node.output}.reduced.weight", (old @ back).astype(np.float32)),
            "bias": edit.keep(f"{node.output}.reduced.bias", shift.astype(np.float32)),
        }
        edit.put(replace(node, inputs=(name,), params=params))
    return edit.graph()


def _inverse(matrix: Rows, mean: Rows, rows: NDArray[np.float32]) -> tuple[Rows, Rows]:
    """B (F, k) and c (F) such that x is about B z + c: exactly the transpose for orthonormal components of the rows."""
    centre = rows.mean(0, dtype=np.float64)
    z = (rows - centre) @ matrix.T
    if mean.any() or len(matrix) == matrix.shape[1]:  # components are uncorrelated, so least squares is the transpose
        return matrix.T, mean
    back, *_ = np.linalg.lstsq(z, rows - centre, rcond=None)
    return back.T, centre - back.T @ (matrix @ centre)


def _place(graph: Graph) -> str | None:
    """The tensor that only linear layers read, behind the fixed scaling of the input; None where there is none."""
    readers, tensor = graph.consumers(), graph.input
    while tensor != graph.output:
        found = readers[tensor]
        if found and all(node.op == "linear" for node in found):
            return tensor
        if len(found) != 1 or found[0].op not in ("add", "mul") or "value" not in found[0].params:
            return None
        if graph.shapes[found[0].output] != graph.shapes[tensor]:
            return None
        tensor = found[0].output
    return None


def _notes(graph: Graph, smaller: Graph, count: int, context: Context) -> tuple[str, ...]:
    before, after = macs(graph), macs(smaller)
    notes = [f"{graph.input_shape[1]} inputs became {count}; multiply-accumulates {before:,} → {after:,}"]
    layers = sum(1 for _ in graph.weighted())
    if layers > DEEP:
        notes.append(f"the network has {layers} weighted layers: deep networks choose their own features; compare")
    if context.latency_us is not None:
        one, two = context.latency_us(graph), context.latency_us(smaller)
        notes.append(f"latency {one:.1f} → {two:.1f} µs" + ("" if two < one else ": it is not faster"))
    elif after >= before:
        notes.append("it is no smaller: keep less, or leave this step out")
    return tuple(notes)


technique = ReduceInputs()
