"""Inference runtimes behind one small protocol. One runtime is one file that defines `runtime`.

Order of calls: `Runtime.load(path)` → `Session.run(...)` any number of times → `Session.close()`. A session belongs to
one thread at a time. `run` takes and returns arrays in the file's own dtype and layout and checks nothing but what the
library checks: it is the fast path. `edgehone_agent.model` converts between real values and a file's arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from edgehone_agent.plugins import Registry

Layout = Literal["channels_last", "channels_first"]


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a file.

    Attributes:
        name: as in the file.
        shape: with the file's batch (1 where the batch is free).
        dtype: numpy name, "float32", "int8" or (files of other makers) "uint8".
        scale, zero_point: quantization of an integer tensor, real = scale * (q - zero_point); None for float32, and
            where the file keeps them to itself.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


class Session(Protocol):
    """A loaded model: one input, an answer, and maybe an embedding.

    Attributes:
        input, output: what goes in, and the answer: the first output of the file.
        embedding: the second output of the file; None when it has one only.
    """

    input: TensorInfo
    output: TensorInfo
    embedding: TensorInfo | None
    layout: Layout

    def run(self, x: NDArray[Any]) -> NDArray[Any]:
        """Answer for one input, batch included, in the file's dtype and layout. The result is the caller's to keep.

        Raises:
            InputError: the library refuses the shape or dtype, or the session is closed.
        """

    def run_with_embedding(self, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The answer as `run` gives it, and the embedding of the same call in the file's dtype and layout.

        Raises:
            InputError: as `run`, or the file has no embedding.
        """

    def describe(self) -> dict[str, Any]:
        """Runtime name and version, threads, input, output, embedding, and what accelerates it; JSON-able."""

    def close(self) -> None:
        """Free what it holds. Calling it twice is fine."""


class Runtime(Protocol):
    """Loads files of one format."""

    name: str
    suffixes: tuple[str, ...]

    def version(self) -> str:
        """Version of the library. Raises MissingExtraError when it is not installed."""

    def load(self, path: Path, *, threads: int = 1) -> Session:
        """Open a model file.

        Raises:
            ModelFileError: no such file, unreadable, corrupt, too many inputs or outputs, or not this format.
            InputError: `threads` is not between 1 and the number of cores this process may use.
            MissingExtraError: the library is not installed.
        """


RUNTIMES: Registry[Runtime] = Registry("runtime", package="edgehone_agent.runtimes", group="edgehone.runtimes")

__all__ = ["RUNTIMES", "Layout", "Runtime", "Session", "TensorInfo"]
