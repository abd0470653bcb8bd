"""Training that keeps a network on a set: after every step its weights are put back where they must be.

The last thing that happens to the weights is `after_step`, so what it promises holds for the result. State that must
survive an interruption belongs into buffers of the network: checkpoints hold those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.task import Task, Training
from edgehone.techniques import Context, Result
from edgehone.train.loop import Run, fit
from edgehone.train.losses import task_loss

AfterStep = Callable[[nn.Module, float], None]


def training_of(task: Task, epochs: float, learning_rate: float) -> Training:
    """How the task's networks are recovered, for that long and at that peak rate."""
    return replace(task.recovery or task.training or Training(), epochs=epochs, learning_rate=learning_rate)


def train_projected(
    graph: Graph, network: GraphNetwork, training: Training, context: Context, after_step: AfterStep
) -> Result:
    """Train the network of a graph with everything a context says; the graph stays as it was.

    Raises:
        DataError: the loss stopped being finite.
    """
    task = context.prepared.task
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
        after_step=after_step,
    )
    curve = fit(network, run)
    return Result(graph.with_nodes(graph.nodes, params=network.cpu().to_graph().params), curve=curve)
