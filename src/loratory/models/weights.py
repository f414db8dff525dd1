"""Weights from safetensors files into freshly built modules, with nothing missing and nothing left over."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from loratory.errors import LoratoryError
from loratory.models.header import Header, read_header
from loratory.models.names import Origin, canonical_name

# Tensors of published checkpoints that training has no use for: noise-schedule buffers (they follow from the
# schedule), averaged copies, positions 0..76, CLIP's contrastive scale, the projection of SD 1.x and 2.x text
# encoders, the last OpenCLIP layer of SD 2.x (its text encoder ends one layer earlier), and flags.
_HARMLESS = re.compile(
    r"model_ema\..*|denoiser\..*|v_pred|ztsnr|edm_.*|betas|alphas_.*|sqrt_.*|log_one_minus_.*|posterior_.*|logvar|"
    r"lvlb_weights|scale_factor|first_stage_model\.(loss|model_ema)\..*|embedding_manager\..*|"
    r"(.*\.)?position_ids|(.*\.)?logit_scale|(.*\.)?attn_mask|"
    r"cond_stage_model\.(model\.)?text_projection|cond_stage_model\.transformer\.text_projection\.weight|"
    r"conditioner\.embedders\.0\.transformer\.text_projection\.weight|"
    r"cond_stage_model\.model\.transformer\.resblocks\.23\..*"
)

# The VAE attention of folders published before diffusers 0.12.
_OLD_VAE_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def _named(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more


def folder_origin(component: str, name: str, present: Mapping[str, Any]) -> Origin:
    """Where the tensor `name` of a component lies in a diffusers-layout file that holds the names `present`.

    Accepts text encoders with and without the `text_model.` level, and the old names of the VAE attention.
    """
    candidates = [name]
    if component in ("text_encoder", "text_encoder_2"):
        candidates += [canonical_name(name), f"text_model.{canonical_name(name)}"]
    elif component == "vae":
        for new, old in _OLD_VAE_NAMES.items():
            candidates.append(name.replace(f".{new}.", f".{old}."))
    return Origin(next((candidate for candidate in candidates if candidate in present), name))


def _opened(path: Path) -> safe_open:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise LoratoryError(f"{path}: this name is not valid UTF-8.", hint="Rename the file or its folder.") from None
    return safe_open(path, framework="pt")


_SAMPLES_PER_TENSOR = 4096


class Sample(NamedTuple):
    """Some 4096 evenly spaced values of a tensor, in fp32, and the shape of the whole."""

    shape: tuple[int, ...]
    values: Tensor


Samples = dict[str, Sample]
"""By the names in the module's state dict."""


def _sample(tensor: Tensor) -> Sample:
    flat = tensor.detach().flatten()
    values = flat[:: max(1, flat.numel() // _SAMPLES_PER_TENSOR)]
    # A copy in any case: a view would keep the whole tensor alive.
    return Sample(tuple(tensor.shape), values.to("cpu", torch.float32, copy=True).contiguous())


def fill(
    module: nn.Module,
    paths: list[Path],
    origin: Callable[[str, Mapping[str, Any]], Origin],
    *,
    dtype: torch.dtype = torch.float32,
    scope: str = "",
    hint: str = "Download or export it again.",
) -> Samples:
    """Gives `module` (built without memory) its weights from the files `paths`, and returns samples of those in fp32.

    origin: name in the module's state dict and the names in the files -> where that tensor lies.
    dtype: what each tensor is cast to on its way. scope: only file tensors that start with it belong to the
    module; each of them must be used, except known harmless ones. Memory: the module in `dtype` and one tensor.
    Raises LoratoryError (with `hint`) naming missing tensors, tensors left over and differing shapes.
    """
    headers = [read_header(path) for path in paths]
    place: dict[str, Header] = {name: header for header in headers for name in header.tensors}
    used: set[str] = set()
    missing: list[str] = []
    misshapen: list[str] = []
    weights: dict[str, Tensor] = {}
    samples: Samples = {}
    where = paths[0] if len(paths) == 1 else paths[0].parent
    with ExitStack() as stack:
        files = {path: stack.enter_context(_opened(path)) for path in paths}
        for name, empty in module.state_dict().items():
            source = origin(name, place)
            header = place.get(source.key)
            if header is None:
                missing.append(source.key)
                continue
            used.add(source.key)
            tensor = _piece(files[header.path].get_tensor(source.key), source)
            if tensor.shape != empty.shape and not _same_but_for_ones(tensor.shape, empty.shape):
                misshapen.append(f"{source.key} has {list(tensor.shape)} where {list(empty.shape)} is expected")
                continue
            # A copy of its own: the file is memory-mapped, and may be replaced while a run goes on.
            weights[name] = tensor.to(dtype, copy=True).reshape(empty.shape).contiguous()
            # Of the file's values: one file has one identity, whatever it is rounded to.
            samples[name] = _sample(tensor.reshape(empty.shape))
    left_over = [
        name for name in place if name.startswith(scope) and name not in used and not _HARMLESS.fullmatch(name)
    ]
    if missing:
        raise LoratoryError(f"{where} lacks {len(missing)} tensors of the model: {_named(missing)}.", hint=hint)
    if misshapen:
        raise LoratoryError(f"{where} has tensors of other shapes: {_named(misshapen)}.", hint=hint)
    if left_over:
        raise LoratoryError(
            f"{where} has {len(left_over)} tensors that the model has no place for: {_named(left_over)}.",
            hint=hint,
        )
    module.load_state_dict(weights, assign=True)
    return samples


def refuse_strays(header: Header, scopes: tuple[str, ...]) -> None:
    """Raises LoratoryError when a checkpoint has tensors outside the components' prefixes that mean something."""
    strays = [name for name in header.tensors if not name.startswith(scopes) and not _HARMLESS.fullmatch(name)]
    if strays:
        raise LoratoryError(
            f"{header.path} has {len(strays)} tensors that belong to no component of the model: {_named(strays)}.",
            hint="Part of the model would be lost by leaving them out. Export it again without them.",
        )


def _piece(tensor: Tensor, source: Origin) -> Tensor:
    if source.third is not None:
        tensor = tensor.chunk(3)[source.third]
    return tensor.t() if source.transposed else tensor


def _same_but_for_ones(one: torch.Size, other: torch.Size) -> bool:
    # 1x1 convolutions and linear layers are the same weights: (out, in, 1, 1) and (out, in).
    return [size for size in one if size != 1] == [size for size in other if size != 1]


def weights_identity(module: nn.Module, config: Mapping[str, Any]) -> str:
    """`samples_identity` of a component in fp32 as it is in memory."""
    return samples_identity({name: _sample(tensor) for name, tensor in module.state_dict().items()}, config)


def samples_identity(samples: Samples, config: Mapping[str, Any]) -> str:
    """SHA-256 that names the weights of a component, for keys of caches.

    Over each tensor's name, shape and sample, and the settings of `config` that change what the weights
    compute. The same weights give the same name from a file or a folder; any fine-tuning changes some of the
    sampled values. Milliseconds instead of the seconds that all bytes take.
    """
    digest = hashlib.sha256()
    telling = {
        key: config.get(key) for key in ("hidden_act", "num_attention_heads", "norm_num_groups", "layer_norm_eps")
    }
    digest.update(json.dumps(telling, sort_keys=True).encode())
    for name, sample in sorted((canonical_name(name), sample) for name, sample in samples.items()):
        digest.update(f"{name}{list(sample.shape)}".encode())
        digest.update(sample.values.numpy().tobytes())
    return digest.hexdigest()
