"""The difference of two base models as an adapter: a LoRA by singular values, or the whole difference."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from loratory.adapters.files import DTYPES, SavePrecision
from loratory.adapters.keys import Family
from loratory.adapters.layout import FAMILY_NAMES
from loratory.adapters.tools.checkpoints import Checkpoint, Layer, Part
from loratory.adapters.tools.low_rank import CutModule, RankRule, approximate, frobenius, low_rank_module
from loratory.adapters.tools.results import BASE_VERSIONS, save_result, sizes_metadata
from loratory.adapters.tools.stream import (
    Planned,
    Progress,
    all_finite,
    no_progress,
    planned,
    rounded,
    tensor_bytes,
    write_tensors,
)
from loratory.errors import LoratoryError


@dataclass(frozen=True)
class Extraction:
    """How a difference becomes a LoRA.

    conv_rule: for kernels larger than 1x1; None leaves all convolution blocks out. exact: never randomised.
    clamp_quantile: see `low_rank.clamp`. min_difference: layers in which no weight differs by more are left out.
    """

    rule: RankRule
    conv_rule: RankRule | None
    exact: bool = False
    clamp_quantile: float | None = None
    min_difference: float = 0.0


@dataclass(frozen=True)
class Extracted:
    """What came of it. unchanged: layers the models share. rest: the norm of the difference in everything that the
    adapter has no module for: biases, norms, embeddings of time and size, the first and last convolution."""

    modules: tuple[CutModule, ...]
    unchanged: int
    rest: float


class _Pair(NamedTuple):
    base: Layer
    tuned: Layer


def is_selected(component: str, path: str, *, with_convolutions: bool) -> bool:
    """Whether a LoCon (or, without convolutions, a LoRA) has a module for this linear layer or convolution.

    The selection of sd-scripts' networks.lora: the transformer blocks and, with convolutions, what is in the resnets,
    downsamplers and upsamplers of the UNet; attention and MLP of the text encoders.
    """
    if component != "unet":
        return ".self_attn." in path or ".mlp." in path
    convolutions = (".resnets.", ".downsamplers.", ".upsamplers.")
    return ".attentions." in path or (with_convolutions and any(block in path for block in convolutions))


def _pairs(base: Checkpoint, tuned: Checkpoint) -> list[_Pair]:
    if base.family != tuned.family:
        raise LoratoryError(
            f"{tuned.info.path} is an {FAMILY_NAMES[tuned.family]} model, {base.info.path} an "
            f"{FAMILY_NAMES[base.family]} model: their difference means nothing.",
            hint="Name the base model that the tuned one was made from.",
        )
    others = {(layer.component, layer.path): layer for layer in tuned.layers}
    pairs = [_Pair(layer, other) for layer in base.layers if (other := others.get((layer.component, layer.path)))]
    if not pairs or len(pairs) != len(base.layers):
        raise LoratoryError(f"{tuned.info.path} lacks layers that {base.info.path} has.")
    for one, other in pairs:
        if one.weight.shape != other.weight.shape and not _same_but_for_ones(one.weight.shape, other.weight.shape):
            raise LoratoryError(
                f"The models differ in size: {one.component} {one.path} is {list(one.weight.shape)} in "
                f"{base.info.path} and {list(other.weight.shape)} in {tuned.info.path}.",
                hint="Name the base model that the tuned one was made from.",
            )
    return pairs


def _same_but_for_ones(one: Sequence[int], other: Sequence[int]) -> bool:
    return [size for size in one if size != 1] == [size for size in other if size != 1]


def _difference(base: Checkpoint, tuned: Checkpoint, one: Part, other: Part, device: str) -> Tensor:
    """tuned - base, float32; LoratoryError where that is not finite."""
    before = base.read(one).to(device).float()
    difference = tuned.read(other).to(device).float().reshape(before.shape) - before
    if not all_finite(difference):
        raise LoratoryError(
            f"{base.info.path} or {tuned.info.path} holds NaN or infinite weights in {one.name}: it is damaged.",
            hint="Download or copy it again.",
        )
    return difference


@torch.no_grad()
def extract_lora(
    base_path: Path | str,
    tuned_path: Path | str,
    output: Path,
    extraction: Extraction,
    precision: SavePrecision = "fp16",
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Extracted:
    """Writes tuned - base, of the UNet and the text encoders, as a LoRA or LoCon whose alpha is its rank.

    progress: in weights. Memory: the result, and the largest layer in float32 about six times over. Raises
    LoratoryError when the models are of different families or sizes, do not differ, or hold what is not finite.
    """
    found: dict[str, dict[str, Tensor]] = {}
    modules: list[CutModule] = []
    unchanged = 0
    rest_squares = 0.0
    with Checkpoint(base_path) as base, Checkpoint(tuned_path) as tuned:
        pairs = _pairs(base, tuned)
        total = sum(_size(layer.weight.shape) for layer, _ in pairs)
        done = 0
        for one, other in pairs:
            progress(done, total)
            done += _size(one.weight.shape)
            if one.bias is not None and other.bias is not None:
                rest_squares += frobenius(_difference(base, tuned, one.bias, other.bias, device)) ** 2
            difference = _difference(base, tuned, one.weight, other.weight, device)
            rule = _rule(one, extraction)
            if rule is None:
                rest_squares += frobenius(difference) ** 2
            elif float(difference.abs().max()) <= extraction.min_difference:
                unchanged += 1
            else:
                own, module = _approximated(one, difference, rule, extraction, base.family, DTYPES[precision])
                found[one.key] = own
                modules.append(module)
        progress(total, total)
        if not modules:
            by = f" by more than {extraction.min_difference:g}" if extraction.min_difference else ""
            both = f"{base.info.path} and {tuned.info.path}"
            raise LoratoryError(f"{both} do not differ{by} in any layer that an adapter has a module for.")
        metadata = _common_metadata(base, tuned, _told(extraction)) | {
            "ss_network_module": "networks.lora",
            **sizes_metadata(found.values()),
        }
    state = {f"{key}.{role}": tensor for key, own in found.items() for role, tensor in own.items()}
    save_result(output, state, metadata, precision)
    return Extracted(tuple(modules), unchanged, rest_squares**0.5)


def _size(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()


def _rule(layer: Layer, extraction: Extraction) -> RankRule | None:
    selected = is_selected(layer.component, layer.path, with_convolutions=extraction.conv_rule is not None)
    if layer.kind == "norm" or not selected:
        return None
    return extraction.conv_rule if _size(layer.weight.shape[2:]) > 1 else extraction.rule


def _approximated(
    layer: Layer, difference: Tensor, rule: RankRule, extraction: Extraction, family: Family, dtype: torch.dtype
) -> tuple[dict[str, Tensor], CutModule]:
    pair, module = approximate(
        layer.key, difference.flatten(1), rule, dtype, exact=extraction.exact, quantile=extraction.clamp_quantile
    )
    kernel = layer.weight.shape[2:]
    if family == "sd2" and layer.component == "unet" and layer.path.endswith(("proj_in", "proj_out")):
        kernel = (1, 1)  # linear layers in diffusers, 1x1 convolutions in sd-scripts and so in files
    return low_rank_module(pair, kernel, float(module.rank)), module


def _told(extraction: Extraction) -> str:
    """What was done, for the metadata."""
    parts = [extraction.rule.spoken()]
    if extraction.conv_rule is None:
        parts.append("convolution blocks left out")
    elif extraction.conv_rule != extraction.rule:
        parts.append(f"convolutions: {extraction.conv_rule.spoken()}")
    if extraction.clamp_quantile is not None:
        parts.append(f"values clamped at the quantile {extraction.clamp_quantile:g}")
    if extraction.min_difference:
        parts.append(f"layers that differ by at most {extraction.min_difference:g} left out")
    parts.append("exact SVD" if extraction.exact else "randomised SVD where it is faster, seed 0")
    return "; ".join(parts)


def _common_metadata(base: Checkpoint, tuned: Checkpoint, told: str) -> dict[str, str]:
    return {
        "ss_v2": str(base.family == "sd2"),
        "ss_base_model_version": BASE_VERSIONS[base.family],
        "ss_sd_model_name": base.info.path.name,
        "ss_training_comment": f"difference {tuned.info.path.name} - {base.info.path.name}: {told}",
    }


# --------------------------------------------------------------------------------------- the whole difference


class _Written(NamedTuple):
    plan: Planned
    one: Part
    other: Part


@torch.no_grad()
def extract_full(
    base_path: Path | str,
    tuned_path: Path | str,
    output: Path,
    precision: SavePrecision = "fp16",
    progress: Progress = no_progress,
) -> int:
    """Writes tuned - base whole: weights, biases and norms of the UNet and the text encoders, of what differs at all.

    Returns how many tensors were written. progress: in layers compared, then in bytes written. Memory: one layer three
    times over in float32. Raises LoratoryError as `extract_lora` does.
    """
    dtype = DTYPES[precision]
    with Checkpoint(base_path) as base, Checkpoint(tuned_path) as tuned:
        pairs = _pairs(base, tuned)
        differing: dict[str, _Written] = {}
        for done, pair in enumerate(pairs):
            progress(done, len(pairs))
            parts = list(_full_parts(pair, dtype))
            # A module is written whole: a bias without its weight is nothing that loaders know.
            if any(_difference(base, tuned, part.one, part.other, "cpu").any() for part in parts):
                differing |= {part.plan.name: part for part in parts}
        if not differing:
            raise LoratoryError(f"{base.info.path} and {tuned.info.path} do not differ in UNet and text encoders.")

        def content(name: str) -> Iterator[memoryview]:
            part = differing[name]
            values = _difference(base, tuned, part.one, part.other, "cpu")
            yield tensor_bytes(rounded(values, dtype, f"The difference in {name}"))

        metadata = _common_metadata(base, tuned, "whole") | {
            "ss_network_module": "lycoris.kohya",
            "ss_network_args": json.dumps({"algo": "full"}),
        }
        hashes = ("sshs_model_hash", "sshs_legacy_hash")
        plans = [part.plan for part in sorted(differing.values(), key=lambda part: part.plan.name)]
        write_tensors(output, plans, metadata, content, progress, hashes=hashes)
    return len(differing)


def _full_parts(pair: _Pair, dtype: torch.dtype) -> Iterator[_Written]:
    one, other = pair
    weight, bias = ("w_norm", "b_norm") if one.kind == "norm" else ("diff", "diff_b")
    yield _Written(planned(f"{one.key}.{weight}", dtype, one.weight.shape), one.weight, other.weight)
    if one.bias is not None and other.bias is not None:
        yield _Written(planned(f"{one.key}.{bias}", dtype, one.bias.shape), one.bias, other.bias)
