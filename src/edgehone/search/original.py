"""The first step of a study: the untouched network as a graph, trained if it is not yet, and how fast training goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from edgehone.data.prepare import Prepared
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.trace import trace
from edgehone.record import CurvePoint, from_json, to_json
from edgehone.search.judge import Judge
from edgehone.search.progress import Progress
from edgehone.search.version import ORIGINAL
from edgehone.search.workspace import Workspace
from edgehone.techniques import Context
from edgehone.techniques.distil import DistilSettings
from edgehone.techniques.distil import technique as distil
from edgehone.train.precision import Precision, fastest_precision

_TIMED_STEPS = 6


@dataclass(frozen=True)
class Original:
    """The trained original.

    Attributes:
        graph: its training graph.
        curve, seconds: of its training, empty when it came trained.
        precision: the arithmetic that trains it fastest here.
    """

    graph: Graph
    curve: tuple[CurvePoint, ...]
    seconds: float
    precision: Precision


def original_network(prepared: Prepared, judge: Judge, workspace: Workspace, seed: int, progress: Progress) -> Original:
    """Trace, choose the arithmetic, and train if the task says so; what is finished already is read back."""
    done, graph = workspace.read(ORIGINAL), workspace.graph(ORIGINAL)
    if done is not None and graph is not None:
        curve = tuple(from_json(CurvePoint, point) for point in done["curve"])
        return Original(graph, curve, done["seconds"], done["precision"])
    progress.stage("reading the network")
    x = next(iter(prepared.train.batches(2)))[0]
    graph = _graph(prepared, x)
    training = prepared.task.training
    batch = (training or prepared.task.recovery or DistilSettings().training).batch_size
    precision = _precision(workspace, graph, next(iter(prepared.train.batches(batch, seed=seed)))[0])
    curve, seconds = (), 0.0
    if training is not None:
        progress.stage(f"training {prepared.task.name}", 1.0)
        started = time.monotonic()
        context = Context(
            prepared,
            seed,
            precision,
            validate=judge.network_metric,
            report=lambda step, total, loss: progress.at(step / total, f"loss {loss:.3f}"),
            checkpoint=workspace.checkpoint(ORIGINAL),
        )
        result = distil.apply(graph, DistilSettings(training), context)
        graph, curve, seconds = result.graph, result.curve, time.monotonic() - started
    workspace.keep_graph(ORIGINAL, graph)
    workspace.write(ORIGINAL, {"curve": [to_json(p) for p in curve], "seconds": seconds, "precision": precision})
    return Original(graph, curve, seconds, precision)


def _graph(prepared: Prepared, x: torch.Tensor) -> Graph:
    """The training graph, as it was read where the network came from a file."""
    if isinstance(prepared.network, GraphNetwork) and prepared.task.preprocess is None:
        return prepared.network.to_graph()
    return trace(prepared.end_to_end(), x)


def _precision(workspace: Workspace, graph: Graph, x: torch.Tensor) -> Precision:
    """Measured once and kept: it changes the numbers, so a resumed study must not choose again."""
    kept = workspace.read("precision")
    if kept is not None:
        found: Precision = kept["precision"]
        return found
    precision = fastest_precision(GraphNetwork(graph), x)
    workspace.write("precision", {"precision": precision})
    return precision


def epoch_seconds(graph: Graph, context: Context, batch_size: int) -> float:
    """Wall time of one recovery epoch of a graph with its teacher: the fastest of a few steps, times their number.

    The fastest, because two training threads slow down tenfold for as long as something else runs beside them.
    """
    data = context.prepared.train
    batch = data.subset(list(range(min(len(data), batch_size))))
    training = replace(DistilSettings().training, epochs=1, batch_size=batch_size, learning_rate=1e-6)
    quiet = replace(context, validate=None, report=None, checkpoint=None)
    step = replace(quiet, prepared=replace(context.prepared, train=batch))
    fastest = float("inf")
    for _ in range(_TIMED_STEPS):
        started = time.monotonic()
        distil.apply(graph, DistilSettings(training), step)
        fastest = min(fastest, time.monotonic() - started)
    return fastest * len(data) / len(batch)
