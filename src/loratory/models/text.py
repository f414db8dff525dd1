"""Captions to text-encoder outputs, as Stable Diffusion front ends and sd-scripts compute them.

Shapes: B captions, K chunks of 75 tokens, C channels, T = 77 for one chunk and 75 K + 2 for more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loratory.errors import LoratoryError
from loratory.models.load import BaseModel
from loratory.models.tokens import END_TOKEN, caption_ids, count_tokens, overflow, weighted_caption_ids

__all__ = [
    "TextConditioning",
    "count_tokens",
    "encode_ids",
    "encode_text",
    "overflow",
    "sdxl_time_ids",
    "tokenize",
    "tokenize_weighted",
]


@dataclass
class TextConditioning:
    """hidden: (B, T, C), what the UNet attends to. pooled: (B, 1280), the projection width, for SDXL only."""

    hidden: Tensor
    pooled: Tensor | None


def tokenize(base: BaseModel, captions: Sequence[str], max_token_length: int) -> list[Tensor]:
    """Token ids for each text encoder, int64 of shape (B, K, 77) with K = max_token_length / 75.

    max_token_length: 75, 150 or 225. Longer captions are cut there (`overflow` says what is lost).
    """
    return [
        torch.tensor([caption_ids(tokenizer, caption, max_token_length) for caption in captions])
        for tokenizer in base.tokenizers
    ]


def tokenize_weighted(
    base: BaseModel, captions: Sequence[str], max_token_length: int
) -> tuple[list[Tensor], list[Tensor]]:
    """As `tokenize`, with brackets read as emphasis (`loratory.models.emphasis`): the ids, and the weight of each
    token, float32 of the same shape."""
    ids: list[Tensor] = []
    weights: list[Tensor] = []
    for tokenizer in base.tokenizers:
        pairs = [weighted_caption_ids(tokenizer, caption, max_token_length) for caption in captions]
        ids.append(torch.tensor([caption_chunks for caption_chunks, _ in pairs]))
        weights.append(torch.tensor([caption_weights for _, caption_weights in pairs]))
    return ids, weights


def encode_text(
    base: BaseModel,
    captions: Sequence[str],
    *,
    clip_skip: int | None,
    max_token_length: int,
    weighted_captions: bool = False,
) -> TextConditioning:
    """Text conditioning of captions, on the text encoders' device; see `encode_ids`.

    weighted_captions: brackets are read as emphasis (`loratory.models.emphasis`).
    """
    if weighted_captions:
        ids, weights = tokenize_weighted(base, captions, max_token_length)
        return encode_ids(base, ids, clip_skip=clip_skip, weights=weights)
    return encode_ids(base, tokenize(base, captions, max_token_length), clip_skip=clip_skip)


def encode_ids(
    base: BaseModel, ids: Sequence[Tensor], *, clip_skip: int | None, weights: Sequence[Tensor] = ()
) -> TextConditioning:
    """Text conditioning of token ids (B, K, 77), one tensor for each text encoder; differentiable.

    SD 1.x and 2.x: the last layer, or with clip_skip n (from 1) the n-th from the end, through the final
    layer norm; 1 equals None. SDXL ignores clip_skip: the layer before the last of both encoders, without
    the norm, joined along C; pooled is the projection of the last layer at the first end token of the first
    chunk. More than one chunk: the begin token of the first, 75 of each, the end token of the last.
    weights: of each token, shaped as ids; hidden is multiplied by them, as in sd-scripts without bringing it back to
    its mean afterwards, and pooled is left as it is. None given: every token weighs 1.
    Raises LoratoryError when the text encoder has fewer layers than clip_skip.
    """
    if base.info.family == "sdxl":
        first, _ = _run(base.text_encoders[0], ids[0], clip_skip=None, penultimate=True)
        second, pooled = _run(base.text_encoders[1], ids[1], clip_skip=None, penultimate=True)
        if weights:
            first, second = _weighted(first, weights[0]), _weighted(second, weights[1])
        return TextConditioning(torch.cat([first, second], dim=-1), pooled)
    hidden, _ = _run(base.text_encoders[0], ids[0], clip_skip=clip_skip, penultimate=False)
    return TextConditioning(_weighted(hidden, weights[0]) if weights else hidden, None)


def _run(encoder: Any, ids: Tensor, *, clip_skip: int | None, penultimate: bool) -> tuple[Tensor, Tensor | None]:
    captions, chunks, length = ids.shape
    device = next(encoder.parameters()).device
    flat = ids.reshape(captions * chunks, length).to(device)
    # CLIPTextModelWithProjection keeps the text model one level down; CLIPTextModel lost that level in
    # transformers 5.6. Run without the projection, which only SDXL needs and at a place of its own.
    text_model = getattr(encoder, "text_model", encoder)
    output = text_model(input_ids=flat, output_hidden_states=True)
    if penultimate:
        hidden = output.hidden_states[-2]
    elif clip_skip is None:
        hidden = output.last_hidden_state
    else:
        layers = len(output.hidden_states) - 1
        if not 1 <= clip_skip <= layers:
            raise LoratoryError(f"model.clip_skip is {clip_skip}, but the text encoder has {layers} layers.")
        hidden = text_model.final_layer_norm(output.hidden_states[-clip_skip])
    pooled = None
    if hasattr(encoder, "text_projection"):
        first_chunk = output.last_hidden_state.reshape(captions, chunks, length, -1)[:, 0]
        end = (ids[:, 0].to(device) == END_TOKEN).int().argmax(dim=-1)
        pooled = encoder.text_projection(first_chunk[torch.arange(captions, device=device), end])
    return _join_chunks(hidden.reshape(captions, chunks, length, -1)), pooled


def _weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    """hidden (B, T, C) times weights (B, K, 77), in the dtype of hidden."""
    return hidden * _join_chunks(weights[..., None]).to(hidden)


def _join_chunks(hidden: Tensor) -> Tensor:
    """(B, K, 77, C) -> (B, 75 K + 2, C)."""
    inner = hidden[:, :, 1:-1].flatten(1, 2)
    return torch.cat([hidden[:, 0, :1], inner, hidden[:, -1, -1:]], dim=1)


def sdxl_time_ids(original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Size conditioning of SDXL, fp32 of shape (6,), in pixels.

    original: (width, height) of the picture before resizing. crop: (left, top) cut away after resizing.
    target: (width, height) trained at. The order is the UNet's: heights before widths, top before left
    (SDXL, arXiv 2307.01952, section 2.2).
    """
    (width, height), (left, top), (target_width, target_height) = original, crop, target
    return torch.tensor([height, width, top, left, target_height, target_width], dtype=torch.float32)
