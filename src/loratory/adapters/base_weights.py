"""Adapter files merged into a base model before training (`model.base_weights`)."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loratory.adapters.keys import Component, Family
from loratory.adapters.tools.checkpoints import layer_keys, model_layers
from loratory.adapters.tools.sources import AdapterSource
from loratory.errors import LoratoryError

_SETTING = "model.base_weights"


class _Place(NamedTuple):
    """A layer of the base model that files may hold a module for."""

    component: Component
    path: str
    layer: Any  # a linear layer, a convolution or a norm


def refuse_unmergeable(
    paths: Sequence[Path], unet: nn.Module, text_encoders: Sequence[nn.Module], family: Family
) -> None:
    """Raises LoratoryError unless every file is an adapter that fits these models, which may be on "meta".

    Reads headers, and of iA3 files the few numbers they hold.
    """
    known = _places(unet, text_encoders, family) if paths else {}
    for path in paths:
        with AdapterSource(path, _SETTING) as source:
            _refuse_misfits(source, known, family)


def _places(unet: nn.Module, text_encoders: Sequence[nn.Module], family: Family) -> dict[str, _Place]:
    components: tuple[Component, ...] = ("unet", "te1", "te2")
    return {
        key: _Place(component, path, model.get_submodule(path))
        for component, model in zip(components, (unet, *text_encoders), strict=False)
        for path, _, _ in model_layers(model)
        for key in layer_keys(component, path, family)
    }


def _refuse_misfits(source: AdapterSource, known: Mapping[str, _Place], family: Family) -> None:
    source.refuse_other_family(family)
    for key in source.roles:
        if key not in known:
            raise LoratoryError(
                f"{_SETTING}: {source.path} has a module that the base model has no layer for: {key}.",
                hint="An adapter works with models of its own family alone.",
            )
        layer = known[key].layer
        source.refuse_misfit(key, layer.weight.shape)
        if source.changes_bias(key) and layer.bias is None:
            raise LoratoryError(
                f"{_SETTING}: {source.path} changes the bias of {key}, which has none in the base model."
            )


@torch.no_grad()
def merge_base_weights(
    paths: Sequence[Path],
    multipliers: Sequence[float],
    unet: nn.Module,
    text_encoders: Sequence[nn.Module],
    family: Family,
) -> str:
    """Adds multiplier * weight change of every file to the weights, in place; returns a digest of it all.

    multipliers: one for each file; none mean 1. Every change is computed from the weights as they were. All files of a
    layer are added up in float32 and rounded once, to the format of its weight. Memory: one layer in float32, a few
    times. Raises LoratoryError as `refuse_unmergeable` does, before anything is changed, and for numbers that are not
    finite.
    """
    known = _places(unet, text_encoders, family)
    strengths = multipliers or [1.0] * len(paths)
    by_place: dict[_Place, list[tuple[AdapterSource, str, float]]] = {}
    digest = hashlib.sha256()
    with ExitStack() as stack:
        for path, strength in zip(paths, strengths, strict=True):
            source = stack.enter_context(AdapterSource(path, _SETTING))
            _refuse_misfits(source, known, family)
            digest.update(f"{strength!r} {source.sha256()}\n".encode())
            for key in source.roles:
                by_place.setdefault(known[key], []).append((source, key, strength))
        for place, found in by_place.items():
            weight, bias = place.layer.weight, place.layer.bias
            base = weight.float()
            total: Tensor = base
            total_bias: Tensor | None = None
            for source, key, strength in found:
                change = source.delta(key, base)
                total = total + strength * change.weight
                if change.bias is not None:
                    total_bias = (bias.float() if total_bias is None else total_bias) + strength * change.bias
            weight.copy_(total)
            if total_bias is not None:
                bias.copy_(total_bias)
    return digest.hexdigest()
