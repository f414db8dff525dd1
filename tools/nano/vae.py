"""The VAE: 128 x 128 px to 16 x 16 x 4 and back, trained on crops, then on whole pictures.

In the end its decoder alone is trained on: the latents stay what they are, so that a denoiser of them loses nothing.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from loop import Schedule, is_fast_in_bfloat16, mixed, save_whole
from pictures import BACKGROUNDS, SIDE_PX, Pictures, on_background
from torch import nn
from torch.nn import functional as F

SCHEDULE = Schedule(steps=3000, rate=1e-3)
DECODER_SCHEDULE = Schedule(steps=2600, rate=1e-3, cool_down=0.6)
CROP_PX, CROPS, WHOLE = 64, 32, 8
_KL_WEIGHT = 5e-4
_COLOURS = np.array(list(BACKGROUNDS.values()), np.float32)


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE_PX,
    )


class VaeTask:
    def __init__(self, pictures: Pictures, device: torch.device) -> None:
        torch.manual_seed(0)
        vae = make_vae().to(device)
        if not is_fast_in_bfloat16(device):
            vae.to(memory_format=torch.channels_last)  # an eighth faster in float32, slower in bfloat16
        self.networks = nn.ModuleDict({"vae": vae})
        self._encode, self._decode = vae.encode, vae.decode
        self._pixels = pictures.pixels
        self._shown = np.flatnonzero(~pictures.held_back)
        self._device = device
        self.origin = f"{pictures.digest()} {CROPS} x {CROP_PX} px, {WHOLE}, {_KL_WEIGHT}"

    def loss(self, step: int, chance: torch.Generator) -> torch.Tensor:
        # In the end whole pictures: normalisation and attention work across the picture.
        whole = SCHEDULE.cools_down(step)
        count, side_px = (WHOLE, SIDE_PX) if whole else (CROPS, CROP_PX)
        x = _batch(self._pixels, self._shown, chance, count, side_px).to(self._device)
        with mixed(self._device):
            latents = self._encode(x).latent_dist
            noise = torch.randn(latents.mean.shape, generator=chance).to(self._device)
            y = self._decode(latents.mean + latents.std * noise).sample
        mean, logvar = latents.mean.float(), latents.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return _unlikeness(y.float(), x) + _KL_WEIGHT * kl


class DecoderTask:
    """Trains the decoder of `vae` on whole pictures; its encoder stays."""

    def __init__(self, pictures: Pictures, vae: AutoencoderKL, device: torch.device) -> None:
        decoding = {"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder}
        self.networks = nn.ModuleDict(decoding).train().requires_grad_(True)
        self._encode, self._decode = vae.encode, vae.decode
        self._pixels = pictures.pixels
        self._shown = np.flatnonzero(~pictures.held_back)
        self._device = device
        self.origin = f"{pictures.digest()} {_digest(vae)} {WHOLE}"

    def loss(self, step: int, chance: torch.Generator) -> torch.Tensor:
        x = _batch(self._pixels, self._shown, chance, WHOLE, SIDE_PX).to(self._device)
        with mixed(self._device):
            with torch.no_grad():
                latents = self._encode(x).latent_dist.mean
            y = self._decode(latents).sample
        return _unlikeness(y.float(), x)


def _batch(pixels: np.ndarray, shown: np.ndarray, chance: torch.Generator, count: int, side_px: int) -> torch.Tensor:
    """Pictures or parts of them [count, 3, side, side], mirrored, in other colours and on others now and then."""

    def below(limit: int) -> list[int]:
        return torch.randint(limit, (count,), generator=chance).tolist()

    chosen = shown[below(len(shown))]
    tops, lefts = below(SIDE_PX - side_px + 1), below(SIDE_PX - side_px + 1)
    crops = np.stack(
        [
            pixels[index, top : top + side_px, left : left + side_px]
            for index, top, left in zip(chosen, tops, lefts, strict=True)
        ]
    )
    for index, (mirror, recolour) in enumerate(zip(below(2), below(8), strict=True)):
        if mirror:
            crops[index] = crops[index, :, ::-1].copy()
        if not recolour:
            crops[index, ..., :3] = crops[index][..., torch.randperm(3, generator=chance).tolist()]
    colours = _COLOURS[below(len(_COLOURS))]
    for index, kind in enumerate(below(4)):
        if kind == 0:
            colours[index] = 255
        elif kind == 1:
            colours[index] = below(256)[:3]
    return on_background(crops, colours)


def _unlikeness(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return F.l1_loss(y, x) + 0.5 * F.mse_loss(y, x) + 0.5 * _edges(y, x)


def _edges(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Mean difference of the steps between neighbouring pixels."""
    return F.l1_loss(y.diff(dim=2), x.diff(dim=2)) + F.l1_loss(y.diff(dim=3), x.diff(dim=3))


def psnr_db(vae: AutoencoderKL, pictures: Pictures, chosen: np.ndarray, background: str = "white") -> float:
    """Mean peak signal-to-noise ratio of pictures that went there and back, in decibels: 8-bit levels, per picture."""
    x = on_background(pictures.pixels[chosen], np.array([BACKGROUNDS[background]] * len(chosen), np.float32))
    errors = (_levels(x) - _levels(there_and_back(vae, x))).square().mean((1, 2, 3))
    return sum(10 * math.log10(255**2 / max(error, 1e-9)) for error in errors.tolist()) / len(chosen)


@torch.no_grad()
def there_and_back(vae: AutoencoderKL, x: torch.Tensor) -> torch.Tensor:
    """What is left of pictures [n, 3, h, w] from -1 to 1 as latents."""
    parts = [vae.decode(vae.encode(part.to(vae.device)).latent_dist.mean).sample.cpu() for part in x.split(16)]
    return torch.cat(parts)


def _levels(x: torch.Tensor) -> torch.Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round()


@torch.no_grad()
def whiten(vae: AutoencoderKL, latents: torch.Tensor) -> None:
    """Folds mean and deviation of each latent channel into the 1x1 convolutions around the latent.

    Then latents times SD 1.5's factor 0.18215 have mean 0 and deviation 1. latents: [..., 4, h, w] of the VAE as it is.
    """
    flat = latents.movedim(-3, 0).flatten(1).double()
    mean, scale = flat.mean(1).float().to(vae.device), (flat.std(1) * vae.config.scaling_factor).float().to(vae.device)
    inner, outer = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    inner.weight[:channels] /= scale[:, None, None, None]
    inner.bias[:channels] = (inner.bias[:channels] - mean) / scale
    inner.bias[channels:] -= 2 * scale.log()  # the log of the variance
    outer.bias += outer.weight[:, :, 0, 0] @ mean
    outer.weight *= scale[None, :, None, None]


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: Pictures, chosen: np.ndarray, path: Path) -> torch.Tensor:
    """Latents [picture, background, 4, 16, 16] of the VAE, in half precision, kept in the file `path`."""
    origin = f"{pictures.digest()} {_digest(vae)} {chosen.tolist()} {BACKGROUNDS}"
    if path.exists():
        kept = torch.load(path, weights_only=True)
        if kept["origin"] == origin:
            return kept["latents"]
    latents = torch.empty(len(chosen), len(BACKGROUNDS), 4, SIDE_PX // 8, SIDE_PX // 8, dtype=torch.float16)
    for column, colour in enumerate(_COLOURS):
        for at in range(0, len(chosen), 32):
            part = chosen[at : at + 32]
            x = on_background(pictures.pixels[part], np.repeat(colour[None], len(part), 0)).to(vae.device)
            with mixed(vae.device):
                latents[at : at + 32, column] = vae.encode(x).latent_dist.mean.half().cpu()
    save_whole({"origin": origin, "latents": latents}, path)
    return latents


def _digest(vae: AutoencoderKL) -> str:
    weights = hashlib.sha256()
    for tensor in vae.state_dict().values():
        weights.update(tensor.cpu().numpy().tobytes())
    return weights.hexdigest()
