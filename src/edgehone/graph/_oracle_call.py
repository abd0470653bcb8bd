"""One node on its way through the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgehone.graph.fixed_point import Integers
from edgehone.graph.ir import Node
from edgehone.graph.quantized import QuantParams

Levels = NDArray[np.int8]


@dataclass(frozen=True)
class Call:
    """A node with everything its kernel needs.

    Attributes:
        node: the node.
        inputs: levels of its inputs, a constant operand last.
        params: of the inputs.
        output: parameters of its output.
    """

    node: Node
    inputs: Sequence[Levels]
    params: Sequence[QuantParams]
    output: QuantParams

    def centred(self, position: int = 0) -> Integers:
        """An input minus its zero point."""
        return self.inputs[position].astype(np.int64) - self.params[position].zero_point
