"""Which implementation of attention the UNet runs with (`training.cross_attention`)."""

from importlib.util import find_spec
from typing import Literal

from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from loratory.errors import LoratoryError

_INSTEAD = 'Set training.cross_attention = "sdpa", which is as fast; or install it with `pip install xformers`.'


def refuse_missing_attention(kind: str) -> None:
    """Raises LoratoryError for "xformers" where that package is not installed."""
    if kind == "xformers" and find_spec("xformers") is None:
        raise LoratoryError('training.cross_attention = "xformers": xformers is not installed.', hint=_INSTEAD)


def choose_attention(unet: UNet2DConditionModel, kind: Literal["sdpa", "xformers", "none"]) -> None:
    """Has every attention layer of the UNet, in place, compute by PyTorch's own function ("sdpa"), by xformers, or by
    the plain formula ("none"), which keeps the whole matrix of scores: batch x heads x pixels x tokens numbers.

    The results differ by rounding. Raises LoratoryError where xformers cannot be used.
    """
    if kind == "xformers":
        refuse_missing_attention(kind)
        try:
            unet.enable_xformers_memory_efficient_attention()
        except Exception as error:  # whatever its build for another PyTorch, or a machine without CUDA, makes of it
            raise LoratoryError(
                f'training.cross_attention = "xformers" cannot be used here: {error}', hint=_INSTEAD
            ) from error
    else:
        unet.set_attn_processor(AttnProcessor() if kind == "none" else AttnProcessor2_0())
