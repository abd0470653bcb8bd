"""Which arithmetic trains this network fastest on this machine: measured, not assumed.

bfloat16 autocast halves the time of plain convolutions on CPUs that have it and makes depthwise ones slower, so the
choice depends on both the network and the machine. It is taken once per study and recorded: it changes the results.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16"]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context a forward pass runs in."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def training_device() -> torch.device:
    """The GPU when torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fastest_precision(network: nn.Module, x: Tensor, steps: int = 3) -> Precision:
    """Time forward and backward passes in both precisions and return the faster one.

    Args:
        network: left as it was; a copy of its statistics is restored.
        x: one batch of raw readings, (N, ...).
        steps: timed passes in each precision, interleaved; the fastest of each counts, so a disturbance hurts little.
    """
    device = training_device()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    was_training = network.training
    lay_out(network, device).train()
    x = channels_last(x.to(device))
    best: dict[Precision, float] = {"float32": float("inf"), "bfloat16": float("inf")}
    for step in range(steps + 1):
        for precision in best:
            start = time.perf_counter()
            with autocast(precision, device):
                output = network(x)
            output.float().square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if step > 0:  # the first pass of each warms up
                best[precision] = min(best[precision], time.perf_counter() - start)
    network.load_state_dict(state)
    network.zero_grad(set_to_none=True)
    network.train(was_training)
    return min(best, key=lambda precision: best[precision])


def lay_out(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, its weights in the layout convolutions run fastest in."""
    for parameter in network.to(device).parameters():
        parameter.data = channels_last(parameter.data)
    return network


def channels_last(x: Tensor) -> Tensor:
    """The layout convolutions run fastest in; other ranks stay as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
