"""From a torch network to the training form of our graph, by way of `torch.export`.

1. The network runs once on the example, so that its own errors show as they are.
2. `torch.export` records it in evaluation mode; each recorded operator goes to its importer (`_import_*.py`).
3. `simplify` removes what does nothing and rewrites the slow spellings.
4. The graph runs beside the network on a batch one longer: same answers, or it is refused. This finds networks whose
   answer depends on the size or the other examples of the batch, or on chance.

The batch is the first axis of every tensor and stays there. Nothing is guessed: what the graph cannot say is refused.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import traceback
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from edgehone.errors import NetworkError, UntraceableError
from edgehone.graph._program import TORCH_FOLDER, read_program
from edgehone.graph.ir import Graph
from edgehone.graph.network import GraphNetwork
from edgehone.graph.rewrite import simplify

_RELATIVE_TOLERANCE = 1e-3  # of the largest output; wrong graphs are off by far more, rounding by far less


def trace(network: nn.Module, example: Tensor) -> Graph:
    """The training form of a network.

    Args:
        network: one float32 tensor in, batch first; one float32 tensor out, batch first. It is not changed.
        example: (N, C, H, W), (N, C, L) or (N, F) with N ≥ 2; the values do not matter.

    Returns:
        The graph, simplified, shapes with a batch of 1. Parameter keys are the names of the network's state dict
        where the values are those of the network.

    Raises:
        NetworkError: the network cannot run on the example, has several inputs or outputs, or answers differently
            in another batch.
        UntraceableError: its control flow depends on the data.
        UnsupportedOperatorError: an operator that the graph does not hold.
    """
    _check_example(example)
    device = next((p.device for p in network.parameters()), example.device)
    example = example.detach().to(device)
    longer = torch.cat([example, example[:1]])
    with _evaluation(network), torch.no_grad():
        _run(network, example)
        program = _export(network, example)
        graph = simplify(read_program(program, example.shape[0]))
        expected = _run(network, longer).cpu()
    with torch.no_grad():
        _compare(expected, GraphNetwork(graph).eval()(longer.cpu()))
    return graph


def _check_example(example: Tensor) -> None:
    if example.dtype != torch.float32 or example.dim() < 2 or example.shape[0] < 2:
        raise NetworkError(
            f"the example is {tuple(example.shape)} {str(example.dtype).removeprefix('torch.')}",
            where="trace",
            do="give a float32 tensor with at least 2 examples: (N, C, H, W), (N, C, L) or (N, F)",
        )


@contextlib.contextmanager
def _evaluation(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _run(network: nn.Module, x: Tensor) -> Tensor:
    """The network's answer, its buffers left alone."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        answer = torch.func.functional_call(network, buffers, (x.clone(),))
    except Exception as error:
        raise NetworkError(
            f"the network fails on an input of shape {tuple(x.shape)}: {_first_line(error)}",
            where=_user_place(error) or type(network).__name__,
            do="check that it takes one float32 tensor of that shape, of any batch size, and runs on its own",
        ) from error
    if not isinstance(answer, Tensor):
        raise NetworkError(
            f"the network returns a {type(answer).__name__}, not one tensor",
            where=type(network).__name__,
            do="wrap it so that forward returns the one tensor that is wanted at the edge",
        )
    if answer.dtype != torch.float32 or answer.dim() == 0 or answer.shape[0] != x.shape[0]:
        raise NetworkError(
            f"the network returns {tuple(answer.shape)} {str(answer.dtype).removeprefix('torch.')} "
            f"for {x.shape[0]} examples",
            where=type(network).__name__,
            do="return float32 values with one row per example; class ids are chosen after the network",
        )
    return answer


def _export(network: nn.Module, example: Tensor) -> ExportedProgram:
    # The non-strict mode runs forward as plain Python, so errors keep their line.
    torch_log = logging.getLogger("torch")
    level = torch_log.level
    try:
        with _silence(), _no_garbage_collection():
            torch_log.setLevel(logging.ERROR)
            return torch.export.export(network, (example,), strict=False)
    except Exception as error:
        from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # slow to import, loaded by now

        what = f"torch.export cannot record the network: {_first_line(error)}"
        if isinstance(error, GuardOnDataDependentSymNode):
            what = "the network chooses its path by the values it computes"
        raise UntraceableError(
            what,
            where=_user_place(error) or type(network).__name__,
            do="use the same operations for every input: no if, loop, .item() or .numpy() on computed values",
        ) from error
    finally:
        torch_log.setLevel(level)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What torch would tell its own developers."""
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The first export loads hundreds of modules, all of which stay: looking for garbage costs a fifth of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _compare(expected: Tensor, found: Tensor) -> None:
    # NaN in both is agreement: a broken weight is for the task check to report, not for the trace.
    largest = float(expected.nan_to_num().abs().max())
    if not torch.allclose(
        found, expected, rtol=_RELATIVE_TOLERANCE, atol=_RELATIVE_TOLERANCE * largest, equal_nan=True
    ):
        raise NetworkError(
            f"the network's answers change with the batch by up to {float((found - expected).abs().max()):.3g}",
            where="trace",
            do="let forward treat every example on its own and without chance: no batch size in a formula, "
            "no reduction over the batch, no random numbers",
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _user_place(error: BaseException) -> str:
    """ "file:line" of the user's code that was running when the error came up, as deep as possible."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if not f.filename.startswith((TORCH_FOLDER, "<")) and f.filename != __file__]
    return f"{outside[-1].filename}:{outside[-1].lineno}" if outside else ""
