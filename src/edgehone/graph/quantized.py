"""The quantized graph: a deployed graph plus every integer an int8 file holds. Plain data, the exporters' only source.

The scheme is that of the TFLite 8-bit quantization specification: activations int8, per tensor, asymmetric
(real = scale * (q - zero_point), zero_point in -128..127); weights int8, per output channel, symmetric, -127..127, or
4 bits of the same kind, -7..7, where flash is short; bias int32 with scale = input scale * weight scale and zero point
0. Scales are float32 values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgehone.graph.ir import FloatArray, Graph


@dataclass(frozen=True)
class QuantParams:
    """Scale and zero point of one int8 tensor. `scale` is exactly representable as float32 and greater than 0."""

    scale: float
    zero_point: int

    def quantize(self, real: NDArray[np.floating]) -> NDArray[np.int8]:
        """Nearest int8 values (ties to even, saturating) of real ones; any shape."""
        levels = np.rint(np.asarray(real, np.float32) / np.float32(self.scale)) + self.zero_point
        quantized: NDArray[np.int8] = np.clip(levels, -128, 127).astype(np.int8)
        return quantized

    def dequantize(self, levels: NDArray[np.int8]) -> FloatArray:
        """Real values of int8 ones; any shape."""
        return (np.asarray(levels, np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True)
class QuantizedWeights:
    """Integers of one conv or linear node: values int8 in torch layout, scale float32 (O), bias int32 (O).

    `bits` is the width the values were rounded to; of 4 bits they lie in -7..7.
    """

    values: NDArray[np.int8]
    scale: FloatArray
    bias: NDArray[np.int32]
    bits: int = 8


@dataclass(frozen=True)
class QuantizedConstant:
    """The constant operand of an add or mul node: int8 values in torch layout and their parameters."""

    values: NDArray[np.int8]
    params: QuantParams


@dataclass(frozen=True)
class QuantizedGraph:
    """A deployed graph with its integers.

    Attributes:
        graph: the deployed graph; `requantize` nodes already stand where scales must change.
        tensors: quantization parameters of every tensor, by name.
        weights: by output name of the conv or linear node (a shared weight appears once per use).
        constants: by output name of the add or mul node.
    """

    graph: Graph
    tensors: Mapping[str, QuantParams]
    weights: Mapping[str, QuantizedWeights]
    constants: Mapping[str, QuantizedConstant]
