"""Layer costs of published reference networks: what device profiles are calibrated on and checked with.

    MLPERF_TINY["ic"]      the four int8 models of the MLPerf Tiny closed division (kws, vww, ic, ad)
    PERSON_DETECTION       the person detector of TensorFlow Lite Micro: "vww" on grey pictures
    MOBILENETS["v1"]       MobileNet v1 and v2, width 1.0, 224x224, as timed by kernel libraries on Linux boards

The networks are written down from their definitions (github.com/mlcommons/tiny, benchmark/training; Howard et al. 2017
table 1; Sandler et al. 2018 table 2). int8: one byte per weight and per value, four per bias.
"""

from __future__ import annotations

from math import ceil

from edgehone.devices.estimate import LayerCost, LayerKind


class _Net:
    """Collects the layers of a chain; `size` and `channels` follow the tensor."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.height, self.width, self.channels = height, width, channels
        self.layers: list[LayerCost] = []

    def _values(self) -> int:
        return self.height * self.width * self.channels

    def _add(self, kind: LayerKind, macs_per_output: int, weights: int, before: int) -> None:
        outputs = self._values()
        self.layers.append(LayerCost(kind, macs_per_output * outputs, outputs, weights, before + outputs))

    def conv(self, channels: int, kernel: tuple[int, int] = (3, 3), stride: int = 1) -> _Net:
        before, area = self._values(), kernel[0] * kernel[1]
        inputs, self.channels = self.channels, channels
        self.height, self.width = ceil(self.height / stride), ceil(self.width / stride)
        kind: LayerKind = "conv" if area > 1 else "conv1x1"
        self._add(kind, area * inputs, area * inputs * channels + 4 * channels, before)
        return self

    def depthwise(self, stride: int = 1) -> _Net:
        before = self._values()
        self.height, self.width = ceil(self.height / stride), ceil(self.width / stride)
        self._add("depthwise", 9, 9 * self.channels + 4 * self.channels, before)
        return self

    def linear(self, features: int) -> _Net:
        before = self._values()
        self.height, self.width, self.channels = 1, 1, features
        self._add("linear", before, before * features + 4 * features, before)
        return self

    def elementwise(self, inputs: int = 1) -> _Net:
        """An operator over the whole tensor: add (two inputs), softmax."""
        self._add("elementwise", 0, 0, inputs * self._values())
        return self

    def pool(self) -> _Net:
        before = self._values()
        self.height, self.width = 1, 1
        self._add("elementwise", 0, 0, before)
        return self


def _keyword_spotting() -> list[LayerCost]:
    net = _Net(49, 10, 1).conv(64, (10, 4), stride=2)
    for _ in range(4):
        net.depthwise().conv(64, (1, 1))
    return net.pool().linear(12).elementwise().layers


def _visual_wake_words(colours: int = 3) -> list[LayerCost]:
    net = _Net(96, 96, colours).conv(8, stride=2)
    for channels, stride in (
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        *((128, 1),) * 5,
        (256, 2),
        (256, 1),
    ):
        net.depthwise(stride).conv(channels, (1, 1))
    return net.pool().linear(2).elementwise().layers


def _image_classification() -> list[LayerCost]:
    net = _Net(32, 32, 3).conv(16).conv(16).conv(16).elementwise(2)
    for channels in (32, 64):
        shortcut = _Net(net.height, net.width, net.channels).conv(channels, (1, 1), stride=2)
        net.conv(channels, stride=2).conv(channels)
        net.layers += shortcut.layers
        net.elementwise(2)
    return net.pool().linear(10).elementwise().layers


def _anomaly_detection() -> list[LayerCost]:
    net = _Net(1, 1, 640)
    for features in (128, 128, 128, 128, 8, 128, 128, 128, 128, 640):
        net.linear(features)
    return net.layers


def _mobilenet_v1() -> list[LayerCost]:
    net = _Net(224, 224, 3).conv(32, stride=2)
    for channels, stride in (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *((512, 1),) * 5,
        (1024, 2),
        (1024, 1),
    ):
        net.depthwise(stride).conv(channels, (1, 1))
    return net.pool().linear(1000).layers


def _mobilenet_v2() -> list[LayerCost]:
    net = _Net(224, 224, 3).conv(32, stride=2)
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, channels, repeats, first_stride in rows:
        for index in range(repeats):
            if expansion > 1:
                net.conv(net.channels * expansion, (1, 1))
            net.depthwise(first_stride if index == 0 else 1).conv(channels, (1, 1))
            if index > 0:
                net.elementwise(2)
    return net.conv(1280, (1, 1)).pool().linear(1000).layers


MLPERF_TINY: dict[str, tuple[LayerCost, ...]] = {
    "kws": tuple(_keyword_spotting()),
    "vww": tuple(_visual_wake_words()),
    "ic": tuple(_image_classification()),
    "ad": tuple(_anomaly_detection()),
}
PERSON_DETECTION: tuple[LayerCost, ...] = tuple(_visual_wake_words(colours=1))
MOBILENETS: dict[str, tuple[LayerCost, ...]] = {"v1": tuple(_mobilenet_v1()), "v2": tuple(_mobilenet_v2())}
