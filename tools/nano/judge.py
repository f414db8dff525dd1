"""A small classifier of emoji, which says how many drawn pictures show what they were asked to."""

from itertools import pairwise

import numpy as np
import torch
from loop import Schedule, mixed
from pictures import BACKGROUNDS, Pictures, on_background
from torch import nn
from torch.nn import functional as F

SCHEDULE = Schedule(steps=1500, rate=2e-3, average=0.995)
_BATCH = 64
_SIDE_PX = 64
_COLOURS = np.array(list(BACKGROUNDS.values()), np.float32)


class Judge(nn.Module):
    """Pictures [n, 3, 64, 64] from -1 to 1 to logits of their subject [n, subjects] and of their style [n, 2]."""

    def __init__(self, subjects: int, styles: int) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 144, 192)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2))
        inner = widths[-1] * (_SIDE_PX // 2 ** (len(widths) - 1)) ** 2
        self.subject, self.style = nn.Linear(inner, subjects), nn.Linear(inner, styles)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(x)
        return self.subject(features), self.style(features)


class JudgeTask:
    """Learns `chosen` of `pictures`, turned, moved, resized, blurred and in noise, on all backgrounds."""

    def __init__(self, pictures: Pictures, chosen: np.ndarray, device: torch.device) -> None:
        torch.manual_seed(0)
        self.subjects = sorted({pictures.name[index] for index in chosen})
        self.styles = sorted(set(pictures.style))
        self.networks = nn.ModuleDict({"judge": Judge(len(self.subjects), len(self.styles))}).to(device)
        self._pixels, self._chosen, self._device = pictures.pixels, chosen, device
        self.origin = f"{pictures.digest()} {chosen.tolist()} {_BATCH}"
        self._subject = torch.tensor([self.subjects.index(pictures.name[index]) for index in chosen])
        self._style = torch.tensor([self.styles.index(pictures.style[index]) for index in chosen])

    def batch(self, chance: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pictures, the numbers of their subjects, and those of their styles."""
        rows = torch.randint(len(self._chosen), (count,), generator=chance)
        colours = _COLOURS[torch.randint(len(_COLOURS), (count,), generator=chance).tolist()]
        x = altered(on_background(self._pixels[self._chosen[rows.tolist()]], colours), chance)
        return x, self._subject[rows], self._style[rows]

    def loss(self, step: int, chance: torch.Generator) -> torch.Tensor:
        x, subject, style = (each.to(self._device) for each in self.batch(chance, _BATCH))
        with mixed(self._device):
            subjects, styles = self.networks["judge"](x)
        return F.cross_entropy(subjects.float(), subject, label_smoothing=0.1) + F.cross_entropy(styles.float(), style)


def altered(x: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Pictures of 64 px made of larger ones, a little turned, moved, resized, blurred, noisy and in other light."""
    count = len(x)

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=chance)

    angle, size, mirror = between(-0.25, 0.25), between(0.85, 1.25), torch.where(between(0, 1) < 0.5, -1.0, 1.0)
    turn = torch.stack([angle.cos() * mirror, -angle.sin(), angle.sin() * mirror, angle.cos()], 1).view(-1, 2, 2)
    shift = torch.stack([between(-0.12, 0.12), between(-0.12, 0.12)], 1)
    places = torch.cat([turn * size[:, None, None], shift[:, :, None]], 2)
    grid = F.affine_grid(places, [count, 3, _SIDE_PX, _SIDE_PX], align_corners=False)
    small = F.grid_sample(smaller(x), grid, padding_mode="border", align_corners=False)
    blurred = F.avg_pool2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blur = between(0, 1)[:, None, None, None]
    noise = torch.randn(small.shape, generator=chance) * between(0, 0.1)[:, None, None, None]
    brightness, contrast = between(-0.15, 0.15)[:, None, None, None], between(0.8, 1.2)[:, None, None, None]
    return ((1 - blur) * small + blur * blurred) * contrast + brightness + noise


def smaller(x: torch.Tensor) -> torch.Tensor:
    """Pictures [n, 3, h, w] at the size that the judge looks at."""
    return F.interpolate(x, (_SIDE_PX, _SIDE_PX), mode="area")


def background_of(x: torch.Tensor) -> list[str]:
    """The named colour nearest to the corners of each picture."""
    corners = torch.cat([x[..., :6, :6], x[..., :6, -6:], x[..., -6:, :6], x[..., -6:, -6:]], -1)
    means = (corners.flatten(2).median(-1).values + 1) * 127.5
    distances = (means[:, None] - torch.from_numpy(_COLOURS)[None]).square().sum(-1)
    return [list(BACKGROUNDS)[index] for index in distances.argmin(1).tolist()]
