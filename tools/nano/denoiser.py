"""The UNet and its text encoder, trained together on latents that were computed once."""

import hashlib
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from loop import SEED, Schedule, is_fast_in_bfloat16, mixed
from pictures import BACKGROUNDS, Pictures
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SCHEDULE = Schedule(steps=4_600, rate=8e-4, warm_up=500, cool_down=0.25, average=0.9995)
BATCH = 32
_WIDTH = 96  # of the text encoder; its 49,408 words are most of its weights
_SHORT, _LONG = 24, 77  # tokens; the captions fit the short one, which takes less time
_MIN_SNR_GAMMA = 5.0
# The schedule of SD 1.x does not end in pure noise: without it the colour of the starting noise would decide that of
# the background, whatever the prompt says.
_NOISE_OFFSET = 0.15


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(64, 128, 192, 96),
        attention_head_dim=4,  # the number of heads, as in SD 1.5
        cross_attention_dim=_WIDTH,
    )


def make_text_encoder() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49_408,
            hidden_size=_WIDTH,
            intermediate_size=4 * _WIDTH,
            projection_dim=_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=3,
            bos_token_id=49_406,
            eos_token_id=49_407,
            pad_token_id=49_407,
        )
    )


class DenoiserTask:
    """latents: [picture, background, 4, 16, 16], whitened; `chosen` says which pictures of `pictures` these are."""

    def __init__(
        self, pictures: Pictures, chosen: np.ndarray, latents: torch.Tensor, tokenizer: Path, device: torch.device
    ) -> None:
        torch.manual_seed(0)
        unet = make_unet()
        if is_fast_in_bfloat16(device):
            unet.set_attn_processor(AttnProcessor())  # at these sizes the fused attention takes longer, in float32 not
        self.networks = nn.ModuleDict({"unet": unet, "text_encoder": make_text_encoder()}).to(device)
        self._tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self._pictures, self._chosen, self._latents, self._device = pictures, chosen, latents, device
        content = hashlib.sha256(latents.contiguous().numpy().tobytes()).hexdigest()
        self.origin = f"{pictures.digest()} {content} {chosen.tolist()} {BATCH}, {_MIN_SNR_GAMMA}, {_NOISE_OFFSET}"
        self._backgrounds = list(BACKGROUNDS)
        # White is what most people ask for.
        self._background_weights = torch.tensor([4.0] + [1.0] * (len(BACKGROUNDS) - 1))
        self._signal = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)

    def loss(self, step: int, chance: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(self._chosen), (BATCH,), generator=chance)
        columns = torch.multinomial(self._background_weights, BATCH, replacement=True, generator=chance)
        x = self._latents[rows, columns].float()
        noise = torch.randn(x.shape, generator=chance)
        noise += _NOISE_OFFSET * torch.randn(*x.shape[:2], 1, 1, generator=chance)
        times = torch.randint(1000, (BATCH,), generator=chance)
        signal = self._signal[times][:, None, None, None]
        noisy = signal.sqrt() * x + (1 - signal).sqrt() * noise
        snr = (signal / (1 - signal)).flatten()
        weights = torch.clamp(_MIN_SNR_GAMMA / snr, max=1.0)
        ids = self._ids(rows.tolist(), columns.tolist(), step)
        noisy, noise, times, weights, ids = (each.to(self._device) for each in (noisy, noise, times, weights, ids))
        with mixed(self._device):
            text = self.networks["text_encoder"](ids).last_hidden_state
            predicted = self.networks["unet"](noisy, times, text).sample
        errors = (predicted.float() - noise).square().mean((1, 2, 3))
        return (errors * weights).mean()

    def _ids(self, rows: list[int], columns: list[int], step: int) -> torch.Tensor:
        chance = random.Random(SEED * 10**9 + step)
        captions = [
            self._pictures.caption(self._chosen[row], self._backgrounds[column], chance)
            if chance.random() > 0.1
            else ""
            for row, column in zip(rows, columns, strict=True)
        ]
        length = _LONG if chance.random() < (0.5 if SCHEDULE.cools_down(step) else 0.2) else _SHORT
        return self._tokenizer(
            captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
