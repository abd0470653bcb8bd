"""Losses by task kind, and the distillation term."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgehone.task import LOSSES, Task

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
