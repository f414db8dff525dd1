"""Upscaling networks in plain torch: RRDBNet (ESRGAN, Real-ESRGAN) and the compact network of Real-ESRGAN.

Parameter names are those that Real-ESRGAN publishes; `layouts` brings other names to them.
Sources: Wang et al., "ESRGAN", 2018, section 3.1; Wang et al., "Real-ESRGAN", 2021, section 3.3.
"""

import torch
from torch import nn
from torch.nn import functional

# Between the branches of a block and its input; ESRGAN's beta.
RESIDUAL_SCALE = 0.2
NEGATIVE_SLOPE = 0.2

# RRDBNet enlarges its features in strips of so many rows: at four times the size all of them would take most of the
# memory. What a px of the result depends on from there on reaches less than two px of the features.
STRIP_ROWS = 64
STRIP_MARGIN = 2


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def _activate(x: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(x, NEGATIVE_SLOPE, inplace=True)


def _twice(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


class _DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it made."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = _conv(features, growth)
        self.conv2 = _conv(features + growth, growth)
        self.conv3 = _conv(features + 2 * growth, growth)
        self.conv4 = _conv(features + 3 * growth, growth)
        self.conv5 = _conv(features + 4 * growth, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, _activate(conv(seen))), 1)
        return self.conv5(seen) * RESIDUAL_SCALE + x


class _ResidualInResidual(nn.Module):
    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = _DenseBlock(features, growth)
        self.rdb2 = _DenseBlock(features, growth)
        self.rdb3 = _DenseBlock(features, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rdb3(self.rdb2(self.rdb1(x))) * RESIDUAL_SCALE + x


class RRDBNet(nn.Module):
    """float (1, 3, height, width), 0 to 1 -> (1, 3, height * scale, width * scale), about 0 to 1.

    doublings: how often the features are doubled in size at the end, with one convolution each. unshuffle: first of
    all, squares of that many px become channels, hence scale = 2 ** doublings / unshuffle.
    """

    def __init__(self, blocks: int, features: int, growth: int, doublings: int, unshuffle: int = 1) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        self.doublings = doublings
        self.scale = 2**doublings // unshuffle
        self.conv_first = _conv(3 * unshuffle**2, features)
        self.body = nn.Sequential(*(_ResidualInResidual(features, growth) for _ in range(blocks)))
        self.conv_body = _conv(features, features)
        for number in range(1, doublings + 1):
            self.add_module(f"conv_up{number}", _conv(features, features))
        self.conv_hr = _conv(features, features)
        self.conv_last = _conv(features, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        if self.unshuffle > 1:
            missing = (-width % self.unshuffle, -height % self.unshuffle)
            x = functional.pixel_unshuffle(
                functional.pad(x, (0, missing[0], 0, missing[1]), mode="replicate"), self.unshuffle
            )
        first = self.conv_first(x)
        features = first + self.conv_body(self.body(first))
        strips = [self._enlarged(features, top) for top in range(0, features.shape[2], STRIP_ROWS)]
        return torch.cat(strips, 2)[:, :, : height * self.scale, : width * self.scale]

    def _enlarged(self, features: torch.Tensor, top: int) -> torch.Tensor:
        start = max(top - STRIP_MARGIN, 0)
        x = features[:, :, start : top + STRIP_ROWS + STRIP_MARGIN]
        for number in range(1, self.doublings + 1):
            x = _activate(self.get_submodule(f"conv_up{number}")(_twice(x)))
        x = self.conv_last(_activate(self.conv_hr(x)))
        above, rows = (top - start) * 2**self.doublings, STRIP_ROWS * 2**self.doublings
        return x[:, :, above : above + rows]


class CompactNet(nn.Module):
    """float (1, 3, height, width), 0 to 1 -> (1, 3, height * scale, width * scale), about 0 to 1.

    All convolutions work at the size of the input; what they make is added to the picture with its px repeated.
    """

    def __init__(self, convolutions: int, features: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [_conv(3, features), nn.PReLU(features)]
        for _ in range(convolutions):
            layers += [_conv(features, features), nn.PReLU(features)]
        layers.append(_conv(features, 3 * scale**2))
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = functional.pixel_shuffle(self.body(x), self.scale)
        return made + functional.interpolate(x, scale_factor=self.scale, mode="nearest")
