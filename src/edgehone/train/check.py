"""Run a task through once, before hours are spent on it, and say in plain words what is wrong or suspicious.

Order: the task opens (`prepare`) → the splits (`edgehone.data.check`) → the network as handed in → its answers in
evaluation mode → its output against the targets → one step of training on a copy → the metric → the trace. A stage
whose ground is missing is left out. The task is not changed; the test split is read but never goes through the network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from edgehone.data.check import Finding, check_splits
from edgehone.data.examples import Examples
from edgehone.data.prepare import Prepared, prepare
from edgehone.errors import EdgehoneError, NetworkError, TaskError
from edgehone.graph.trace import trace
from edgehone.task import Task
from edgehone.train._check_answers import check_answers
from edgehone.train._check_metric import check_metric
from edgehone.train.losses import task_loss

_BATCH = 8


def check_task(task: Task, seed: int = 0) -> list[Finding]:
    """Everything that a quick look at a task finds, in the order it was found.

    Args:
        task: what the user handed in; it is not changed.
        seed: for the split that is held out and the batch that is tried.

    Returns:
        Findings; those of level "error" must be fixed first. It raises nothing for a wrong task.
    """
    try:
        prepared = prepare(task, seed)
    except EdgehoneError as error:
        return [_from_error(error)]
    return [*check_splits(prepared), *_check_network(prepared, seed)]


def _check_network(prepared: Prepared, seed: int) -> Iterator[Finding]:
    yield from _check_as_handed_in(prepared)
    try:
        network = copy.deepcopy(prepared.end_to_end()).cpu().eval()
    except (RuntimeError, TypeError, AttributeError) as error:
        do = "keep open files, locks and computed tensors out of the module"
        yield Finding("error", f"the network cannot be copied: {error}", "network", do)
        return
    sample = prepared.train.sample(_BATCH, seed)
    x, _ = next(sample.batches(_BATCH))
    types = list(_check_types(network))
    yield from types
    if types:
        return
    try:
        answers = list(check_answers(network, x))
        yield from answers
        if not _any_error(answers):
            yield from _check_answered(prepared, network, sample, seed)
        yield from _check_augment(prepared, x)
    except EdgehoneError as error:  # of check_answers, the loss or the augmentation: the user's own code failed
        yield _from_error(error)


def _check_answered(prepared: Prepared, network: nn.Module, sample: Examples, seed: int) -> Iterator[Finding]:
    """What can be asked of a network that answers repeatably."""
    x, y = next(sample.batches(_BATCH))
    with torch.no_grad():
        shapes = list(_check_output(prepared, network(x), x, y))
    yield from shapes
    if not _any_error(shapes):
        yield from _check_step(prepared, network, x, y, seed)
        if prepared.task.training is None:
            yield from check_metric(prepared, network, seed)
    try:
        graph = trace(network, x if len(x) > 1 else torch.cat([x, x]))
    except NetworkError as error:
        yield _from_error(error)
    else:
        what = f"traced into {len(graph.nodes)} operations with {graph.parameter_count():,} parameters"
        yield Finding("ok", what, "network")


def _check_as_handed_in(prepared: Prepared) -> Iterator[Finding]:
    network = prepared.task.network
    if isinstance(network, nn.Module) and network.training and prepared.task.training is None:
        yield Finding(
            "warning",
            "the network is in train mode; edgehone judges and exports it in eval mode",
            "network",
            "call network.eval(), and compare only with figures that you measured in that mode",
        )
    frozen = [name for name, parameter in prepared.network.named_parameters() if not parameter.requires_grad]
    if frozen:
        do = "set requires_grad to True where edgehone may tune them after a cut"
        yield Finding("warning", f"{len(frozen)} parameters are frozen, like {frozen[0]}", "network", do)


def _check_types(network: nn.Module) -> Iterator[Finding]:
    tensors = {name: t for name, t in (*network.named_parameters(), *network.named_buffers()) if t.is_floating_point()}
    other = {name: str(t.dtype).removeprefix("torch.") for name, t in tensors.items() if t.dtype != torch.float32}
    if other:
        name, dtype = next(iter(other.items()))
        what = f"{len(other)} parameters are {dtype}, not float32, like {name}"
        yield Finding("error", what, "network", "call network.float()")
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        yield Finding("error", f"{broken[0]} holds NaN or infinite values", "network", "load weights that are whole")


def _check_output(prepared: Prepared, output: Tensor, x: Tensor, y: Tensor) -> Iterator[Finding]:
    """The output, (N, ...), fits the kind of the task."""
    shape, classes = tuple(output.shape[1:]), len(prepared.labels)
    if prepared.task.kind == "anomaly":
        if output[0].numel() != x[0].numel():
            what = f"the network answers {shape} to a reading of {tuple(x.shape[1:])}"
            yield Finding("error", what, "network", "an anomaly network gives back the raw reading, value for value")
        return
    if prepared.task.kind == "regression":
        if output.numel() != y.numel():
            what = f"the network answers {shape}, the targets are {tuple(y.shape[1:])}"
            yield Finding("error", what, "network", "let the network answer one number per target")
        return
    if len(shape) != 1 or shape[0] < classes:
        what = f"the network answers {shape}, but there are {classes} classes"
        yield Finding("error", what, "network", f"let it answer ({classes},) numbers, one logit per class")
    elif shape[0] > classes:
        what = f"the network knows {shape[0]} classes, the data and labels {classes}"
        yield Finding("warning", what, "network", "name all classes in the task's labels, in the order of their ids")
    looks_normalised = bool((output >= 0).all()) and torch.allclose(output.sum(-1), torch.ones(len(output)), atol=1e-4)
    if looks_normalised and not callable(prepared.task.loss):
        yield Finding(
            "warning",
            "the network ends in a softmax, and the cross-entropy applies another one",
            "network",
            "let the network answer logits, or give a loss that takes probabilities",
        )


def _check_step(prepared: Prepared, network: nn.Module, x: Tensor, y: Tensor, seed: int) -> Iterator[Finding]:
    """One step of training on a copy: the loss is finite and its gradient arrives everywhere."""
    student = copy.deepcopy(network).train()
    loss = _loss(prepared, student, x, y, seed)
    if not torch.isfinite(loss):
        do = "check the loss function and the range of the targets"
        yield Finding("error", f"the loss of a training batch is {float(loss.detach()):g}", "loss", do)
        return
    wanted = {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}
    if wanted and not loss.requires_grad:
        do = "keep .detach(), .numpy() and torch.no_grad() out of forward and loss"
        yield Finding("error", "no gradient reaches the network", "loss", do)
        return
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    value = float(loss.detach())
    missed = [name for name, parameter in wanted.items() if parameter.grad is None]
    broken = [name for name, p in wanted.items() if p.grad is not None and not torch.isfinite(p.grad).all()]
    if missed:
        what = f"no gradient reaches {len(missed)} parameters, like {missed[0]}"
        yield Finding("warning", what, "network", "use them in forward without .detach(), or remove them")
    if broken:
        what = f"the gradient of {broken[0]} is not finite"
        yield Finding("error", what, "network", "look for a division by zero or the root or log of zero")
    if not missed and not broken:
        yield Finding("ok", f"loss of a training batch {value:.3g}, its gradient reaches everything", "loss")


def _loss(prepared: Prepared, student: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            loss = task_loss(prepared.task)(student(x.clone()), y, x)
    except Exception as error:  # a loss of the user's own, or a forward that fails in train mode only
        do = "run one batch through the network in train mode and through the loss by hand"
        raise TaskError(f"a training step raised {type(error).__name__}: {error}", where="loss", do=do) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise TaskError("the loss is no single number", where="loss", do="return a scalar tensor, like a mean")
    return loss.squeeze()


def _check_augment(prepared: Prepared, x: Tensor) -> Iterator[Finding]:
    augment = prepared.task.augment
    if augment is None:
        return
    try:
        changed = augment(x.clone(), torch.Generator().manual_seed(0))
    except Exception as error:  # the user's own code may raise anything
        do = "write it as (batch, generator) → batch"
        raise TaskError(f"it raised {type(error).__name__}: {error}", where="augment", do=do) from error
    if not isinstance(changed, Tensor) or changed.shape != x.shape or not torch.isfinite(changed).all():
        shape = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        what = f"it makes {shape} of a batch of {tuple(x.shape)}, or values that are not finite"
        yield Finding("error", what, "augment", "return a finite batch of the same shape")


def _any_error(findings: list[Finding]) -> bool:
    return any(finding.level == "error" for finding in findings)


def _from_error(error: EdgehoneError) -> Finding:
    return Finding("error", error.what, error.where, error.do)
