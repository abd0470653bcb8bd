"""Reference networks: small, of every common shape, seeded, in eval mode, with batch norms that are not the identity.

    NETWORKS["resnet20"]()          a network
    example_shape("resnet20")       the shape of one example with a batch of 1

Weights are random but tame: batch-norm scales and shifts are random, their statistics are those of random data, so that
activations keep their size through depth and folding a batch norm that was read wrongly shows. The global random state
is left alone. Every builder takes its widths as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]
IMAGE: Shape = (1, 3, 32, 32)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (over the stride) and its batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: 1x1 convolution, or strided slice padded with zero channels (option A).

    He et al. 2016, Deep Residual Learning, section 4.2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Literal["conv", "pad"]) -> None:
        super().__init__()
        self.conv1 = conv_bn(inputs, outputs, stride=stride)
        self.conv2 = conv_bn(outputs, outputs)
        self.stride, self.missing = stride, outputs - inputs
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if changes and shortcut == "conv" else None
        self.pads = changes and shortcut == "pad"

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.pads:
            before = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))
        return F.relu(y + x)


class ResNet(nn.Module):
    """The residual network for 32x32 pictures: one stage per width, `blocks` blocks each; 6 * blocks + 2 layers."""

    def __init__(
        self,
        blocks: int,
        widths: Sequence[int] = (16, 32, 64),
        shortcut: Literal["conv", "pad"] = "conv",
        channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.stem = conv_bn(channels, widths[0])
        layers: list[nn.Module] = []
        width = widths[0]
        for stage, outputs in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(width, outputs, stride, shortcut))
                width = outputs
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def mobilenet(
    widths: Sequence[int] = (16, 32, 64, 64, 128), strides: Sequence[int] = (1, 2, 1, 2), classes: int = 10
) -> nn.Sequential:
    """Depthwise separable convolutions (Howard et al. 2017): `widths[0]` is the stem, then one pair per stride."""
    layers: list[nn.Module] = [conv_bn(3, widths[0], stride=2), nn.ReLU(inplace=True)]
    for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True):
        layers += [conv_bn(inputs, inputs, stride=stride, groups=inputs), nn.ReLU(inplace=True)]
        layers += [conv_bn(inputs, outputs, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(widths[-1], classes)
    )


class SqueezeExcite(nn.Module):
    """Channel attention from the global mean (Hu et al. 2018)."""

    def __init__(self, width: int, reduction: int = 4, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width // reduction, 1)
        self.expand = nn.Conv2d(width // reduction, width, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.gate(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return x * weight  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """Expand, depthwise, (squeeze-excite,) project; residual where shapes allow.

    Sandler et al. 2018 (MobileNetV2), Howard et al. 2019 (MobileNetV3).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int = 1,
        expand: int = 4,
        kernel: int = 3,
        activation: type[nn.Module] = nn.ReLU6,
        squeeze: bool = False,
    ) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = [conv_bn(inputs, hidden, 1), activation()]
        layers += [conv_bn(hidden, hidden, kernel, stride, groups=hidden), activation()]
        if squeeze:
            layers.append(SqueezeExcite(hidden, gate=nn.Hardsigmoid))
        self.layers = nn.Sequential(*layers, conv_bn(hidden, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def mobilenet_v2(widths: Sequence[int] = (16, 16, 24, 24, 32), classes: int = 10) -> nn.Sequential:
    """Inverted residuals with ReLU6; the size halves where the width changes."""
    blocks = [InvertedResidual(a, b, stride=1 if a == b else 2) for a, b in pairwise(widths)]
    last = conv_bn(widths[-1], 4 * widths[-1], 1)
    head = [last, nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * widths[-1], classes)]
    return nn.Sequential(conv_bn(3, widths[0], stride=2), nn.ReLU6(), *blocks, *head)


def mobilenet_v3(widths: Sequence[int] = (16, 16, 24), classes: int = 10) -> nn.Sequential:
    """Inverted residuals with hard-swish, 5x5 kernels and squeeze-excite with a hard sigmoid."""
    blocks = [
        InvertedResidual(a, b, stride=1 if a == b else 2, kernel=5, activation=nn.Hardswish, squeeze=True)
        for a, b in pairwise(widths)
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 64), nn.Hardswish(), nn.Linear(64, classes)]
    return nn.Sequential(conv_bn(3, widths[0], stride=2), nn.Hardswish(), *blocks, *head)


class SENet(nn.Module):
    """Residual blocks with squeeze-excite, SiLU and a padded max pool in front."""

    def __init__(self, widths: Sequence[int] = (16, 32), classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, widths[0], stride=2), nn.SiLU(), nn.MaxPool2d(3, 2, 1))
        self.body = conv_bn(widths[0], widths[0])
        self.attention = SqueezeExcite(widths[0])
        self.last = conv_bn(widths[0], widths[1], stride=2)
        self.head = nn.Linear(widths[1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.silu(x + self.attention(self.body(x)))
        return self.head(F.silu(self.last(x)).mean((2, 3)))  # type: ignore[no-any-return]


def conv1d_net(channels: int = 6, widths: Sequence[int] = (16, 24, 32), classes: int = 5) -> nn.Sequential:
    """A network over a window of sensor readings: stride, dilation, depthwise, pooling in one dimension."""
    a, b, c = widths
    return nn.Sequential(
        *(nn.Conv1d(channels, a, 5, 2, 2), nn.BatchNorm1d(a), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(a, b, 3, padding="same", dilation=2), nn.BatchNorm1d(b), nn.LeakyReLU(0.1)),
        *(nn.Conv1d(b, b, 3, padding=1, groups=b), nn.BatchNorm1d(b), nn.ReLU(), nn.Conv1d(b, c, 1), nn.Tanh()),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(c, classes)),
    )


def mlp(widths: Sequence[int] = (20, 64, 32, 4)) -> nn.Sequential:
    """Linear layers with batch norm, ReLU and dropout; ends in a softmax."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]), nn.Softmax(dim=1))


class DenseLayer(nn.Module):
    """Batch norm and ReLU before the convolution; the result joins the input (Huang et al. 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def dense_net(width: int = 16, growth: int = 8, layers: int = 3, classes: int = 10) -> nn.Sequential:
    """Two dense blocks with a transition between them."""
    parts: list[nn.Module] = [nn.Conv2d(3, width, 3, 2, 1)]
    for block in range(2):
        parts += [DenseLayer(width + i * growth, growth) for i in range(layers)]
        width += layers * growth
        parts += [nn.BatchNorm2d(width), nn.ReLU()]
        if block == 0:
            parts += [nn.Conv2d(width, width // 2, 1), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class ShuffleUnit(nn.Module):
    """Split, transform one half, concatenate, shuffle the channels (Ma et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            *(conv_bn(half, half, 1), nn.ReLU(), conv_bn(half, half, groups=half)), *(conv_bn(half, half, 1), nn.ReLU())
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        x = torch.cat([kept, self.branch(changed)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffle_net(width: int = 24, units: int = 2, classes: int = 10) -> nn.Sequential:
    """Shuffle units with a grouped convolution between stem and head."""
    units_ = [ShuffleUnit(width) for _ in range(units)]
    grouped = [conv_bn(width, 2 * width, stride=2, groups=4), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes)]
    return nn.Sequential(conv_bn(3, width, stride=2), nn.ReLU(), *units_, *grouped, *head)


class UNet(nn.Module):
    """Two levels with bilinear up-sampling and skip connections by concatenation; one map per class."""

    def __init__(self, widths: Sequence[int] = (8, 16, 24), classes: int = 3) -> None:
        super().__init__()
        a, b, c = widths
        self.down1, self.down2, self.bottom = conv_bn(3, a), conv_bn(a, b), conv_bn(b, c)
        self.up2, self.up1 = conv_bn(c + b, b), conv_bn(b + a, a)
        self.head = nn.Conv2d(a, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.down1(x))
        two = F.relu(self.down2(F.max_pool2d(one, 2)))
        y = F.relu(self.bottom(F.max_pool2d(two, 2)))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        y = F.relu(self.up2(torch.cat([y, two], 1)))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(F.relu(self.up1(torch.cat([y, one], 1))))  # type: ignore[no-any-return]


def autoencoder(channels: int = 1, widths: Sequence[int] = (16, 8)) -> nn.Sequential:
    """Strided convolutions down, nearest up-sampling back; ends in a sigmoid."""
    a, b = widths
    return nn.Sequential(
        *(conv_bn(channels, a, stride=2), nn.ReLU(), conv_bn(a, b, stride=2), nn.ReLU()),
        *(nn.Upsample(scale_factor=2), conv_bn(b, a), nn.ReLU()),
        *(nn.Upsample(scale_factor=2), nn.Conv2d(a, channels, 3, padding=1), nn.Sigmoid()),
    )


_BUILDERS: dict[str, tuple[Shape, Callable[[], nn.Module]]] = {
    "resnet8": (IMAGE, lambda: ResNet(1)),
    "resnet20": (IMAGE, lambda: ResNet(3)),
    "resnet20-option-a": (IMAGE, lambda: ResNet(3, shortcut="pad")),
    "mobilenet": (IMAGE, mobilenet),
    "mobilenet-v2": (IMAGE, mobilenet_v2),
    "mobilenet-v3": (IMAGE, mobilenet_v3),
    "se-net": (IMAGE, SENet),
    "conv1d-net": ((1, 6, 64), conv1d_net),
    "mlp": ((1, 20), mlp),
    "dense-net": (IMAGE, dense_net),
    "shuffle-net": (IMAGE, shuffle_net),
    "u-net": ((1, 3, 24, 16), UNet),
    "autoencoder": ((1, 1, 28, 28), autoencoder),
}


def settle(network: nn.Module, shape: Shape, seed: int = 0) -> nn.Module:
    """Give every batch norm random scales and shifts and the statistics of random data, then eval mode.

    Args:
        network: changed in place and returned.
        shape: of one example with a batch of 1.
        seed: of scales, shifts and data.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(norm.bias, 0.0, 0.3, generator=generator)
        norm.reset_running_stats()
        norm.momentum = 1.0  # the statistics of the one batch below
    with torch.no_grad():
        network.train()(torch.randn((16, *shape[1:]), generator=generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()


def _seeded(shape: Shape, build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def seeded() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return settle(build(), shape)

    return seeded


NETWORKS: dict[str, Callable[[], nn.Module]] = {name: _seeded(*entry) for name, entry in _BUILDERS.items()}


def example_shape(name: str) -> Shape:
    """Shape of one example of a reference network, with a batch of 1. Raises KeyError for an unknown name."""
    return _BUILDERS[name][0]
