"""Losses by task kind, the distillation terms, and the loss of a whole split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import starmap

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgehone.data.examples import Examples
from edgehone.task import LOSSES, Task
from edgehone.train.precision import channels_last, lay_out, training_device

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(output, target, input) → scalar; the input is what an anomaly task reconstructs."""

_REGRESSION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


def task_loss(task: Task, label_smoothing: float = 0.0) -> Loss:
    """The loss a task is trained with; outputs are taken in float32."""
    chosen = task.loss or LOSSES[task.kind][0]
    if not isinstance(chosen, str):
        function = chosen
        return lambda output, target, _: function(output.float(), target)
    if task.kind == "classification":
        return lambda output, target, _: F.cross_entropy(output.float(), target, label_smoothing=label_smoothing)
    measure = _REGRESSION[chosen]
    if task.kind == "regression":
        return lambda output, target, _: measure(output.float().reshape(target.shape), target)
    return lambda output, _, x: measure(output.float().flatten(1), x.float().flatten(1))


def distillation_loss(kind: str, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far a student's answers are from its teacher's.

    Classification: the Kullback-Leibler divergence of softened logits times T², so that its gradient keeps its size
    as T grows (Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2). Otherwise the mean squared error.

    Args:
        kind: the task's kind.
        student, teacher: (N, classes) logits, or outputs of one shape.
        temperature: T > 0.
    """
    if kind != "classification":
        return F.mse_loss(student.float(), teacher.float())
    log_student = F.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * torch.tensor(temperature**2)


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """How far a student's attention maps are from its teacher's, summed over stages.

    A map is the mean of the squared activations over the channels, as one vector of length 1; the distance of two is
    half of the squared distance of these vectors, from 0 to 1, the mean over the batch (Zagoruyko and Komodakis 2017,
    arXiv:1612.03928, equation 2 with p = 2, squared so that its gradient goes out smoothly).

    Args:
        student, teacher: tensors (N, C, *places) in pairs of equal N and places; channels may differ.
    """
    return torch.stack(list(starmap(_apart, zip(student, teacher, strict=True)))).sum()


def _apart(student: Tensor, teacher: Tensor) -> Tensor:
    mine, theirs = (F.normalize(t.float().square().mean(1).flatten(1), dim=1) for t in (student, teacher))
    return (mine - theirs).square().sum(1).mean() / 2


def split_loss(network: nn.Module, data: Examples, task: Task, batch_size: int = 250) -> float:
    """Mean loss of a network over a split, in evaluation mode; lower is better, whatever the metric.

    Of an anomaly task only the normal examples count: reconstructing the others well is no merit.

    Args:
        network: put into evaluation mode on the device that trains.
        data: a split of the task, not empty.
        task: says the loss.
        batch_size: examples at once.
    """
    loss, device = task_loss(task), training_device()
    if task.kind == "anomaly":
        data = data.subset(torch.nonzero(data.y == 0).flatten())
    lay_out(network, device).eval()
    total = 0.0
    with torch.no_grad():
        for x, y in data.batches(batch_size):
            x = channels_last(x.to(device))
            total += float(loss(network(x), y.to(device), x)) * len(y)
    return total / max(1, len(data))
