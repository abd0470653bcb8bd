"""In evaluation mode, an answer depends on its own example alone: no chance, no memory, no neighbours."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgehone.data.check import Finding
from edgehone.errors import NetworkError

_TOLERANCE = 1e-3  # of the largest answer: a batch of another size may be summed in another order, no more
_TORCH_FOLDER = str(Path(torch.__file__).parent)


def check_answers(network: nn.Module, x: Tensor) -> Iterator[Finding]:
    """Ask a network in evaluation mode three times.

    Args:
        network: raw reading in, answer out; in evaluation mode.
        x: (N, ...) readings.

    Raises:
        NetworkError: it raises, or answers something else than one float32 row per example.
    """
    stuck = [name or "network" for name, module in network.named_modules() if module.training]
    if stuck:
        do = "do not override train() or eval() so that they pass over a module"
        yield Finding("error", "the module stays in train mode after eval()", stuck[0], do)
        return
    neighbours = [n for n, m in network.named_modules() if isinstance(m, _BatchNorm) and m.running_mean is None]
    if neighbours:
        do = "use BatchNorm with track_running_stats=True"
        yield Finding("error", "it normalises by the batch at hand, in eval mode too", neighbours[0] or "network", do)
        return
    first, second = _answer(network, x), _answer(network, x)
    if not torch.isfinite(first).all():
        do = "check the weights, and divisions, roots and logs in forward and preprocess"
        yield Finding("error", "the network answers NaN or infinite values", "network", do)
    elif _differ(first, second):
        do = "F.dropout needs training=self.training; draw no random numbers in forward and keep no state"
        yield Finding("error", "two runs in eval mode on the same batch differ", "network", do)
    elif _differ(first[:1], _answer(network, x[:1])):
        do = "treat each example on its own: reduce over no batch axis in forward"
        yield Finding("error", "the answer to an example changes with the rest of its batch", "network", do)
    else:
        yield Finding("ok", "answers in eval mode are repeatable and do not depend on the batch", "network")


def _answer(network: nn.Module, x: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            answer = network(x.clone())
    except Exception as error:  # the user's own code may raise anything
        raise NetworkError(
            f"the network raised {type(error).__name__} on an input of shape {tuple(x.shape)}: {error}",
            where=_place(error) or "network",
            do="check that it takes a batch of raw readings of that shape, of any batch size",
        ) from error
    if not isinstance(answer, Tensor):
        do = "return the one tensor that is wanted at the edge"
        raise NetworkError(f"the network returns a {type(answer).__name__}, not one tensor", where="network", do=do)
    if answer.dtype != torch.float32 or not answer.ndim or len(answer) != len(x):
        dtype = str(answer.dtype).removeprefix("torch.")
        raise NetworkError(
            f"the network returns {tuple(answer.shape)} {dtype} for {len(x)} examples",
            where="network",
            do="return float32 values with one row per example; class ids are chosen after the network",
        )
    return answer


def _differ(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() > _TOLERANCE * max(float(first.abs().max()), 1e-6))


def _place(error: BaseException) -> str:
    """ "file, line n" of the user's code that was running, as deep as possible."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(_TORCH_FOLDER) and frame.filename != __file__]
    return f"{outside[-1].filename}, line {outside[-1].lineno}" if outside else ""
