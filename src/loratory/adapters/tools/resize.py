"""LoRA, LoCon and DoRA files at another rank, by the singular values of each module's weight change."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from loratory.adapters.files import DTYPES, SavePrecision, read_adapter
from loratory.adapters.roles import ALPHA, LORA_DOWN, LORA_MID, LORA_UP, kind_of, roles_by_module
from loratory.adapters.tools.low_rank import (
    CutModule,
    RankRule,
    cut,
    factors_of_product,
    halves,
    product_norm,
    rank_kept,
)
from loratory.adapters.tools.results import commented, precision_of, save_result, sizes_metadata
from loratory.adapters.tools.stream import Progress, all_finite, no_progress
from loratory.errors import LoratoryError

_LORA_HALVES = {LORA_DOWN, LORA_UP}


@dataclass(frozen=True)
class Resized:
    """A resized adapter. others: how many modules have no rank (norms, full differences) and were kept as they were."""

    state_dict: dict[str, Tensor]
    modules: tuple[CutModule, ...]
    others: int


@torch.no_grad()
def resize(
    state: Mapping[str, Tensor],
    rule: RankRule,
    conv_rule: RankRule,
    precision: SavePrecision,
    progress: Progress = no_progress,
) -> Resized:
    """The tensors of an adapter in kohya naming at the ranks that the rules give.

    rule: for linear layers and 1x1 convolutions; conv_rule: for larger kernels. Each module keeps its scale: the new
    alpha is old alpha / old rank * new rank. A module of which nothing is cut keeps its very tensors. A Tucker
    decomposition that is cut becomes a plain pair. DoRA magnitudes stay as they are. Nothing of the size out x in is
    formed. progress: in modules. Raises LoratoryError for other kinds of networks, which have no rank in this sense.
    """
    roles = roles_by_module(state)
    _refuse_other_kinds(roles)
    found: dict[str, Tensor] = {}
    modules: list[CutModule] = []
    for done, key in enumerate(roles):
        progress(done, len(roles))
        own = {role: state[f"{key}.{role}"] for role in sorted(roles[key])}
        if _LORA_HALVES & own.keys():
            kernel = own.get(LORA_MID, halves(own, key).down).shape[2:]
            own, module = resize_module(key, own, conv_rule if prod(kernel) > 1 else rule, DTYPES[precision])
            modules.append(module)
        found.update({f"{key}.{role}": tensor for role, tensor in own.items()})
    progress(len(roles), len(roles))
    return Resized(found, tuple(modules), len(roles) - len(modules))


def _refuse_other_kinds(roles: Mapping[str, set[str]]) -> None:
    for key, own in roles.items():
        kind = kind_of(own)
        if kind is None or kind.name not in ("lora", "full", "norm"):
            raise LoratoryError(
                f"{key} is {f'of the kind {kind.name}' if kind else 'of no known kind'}; only LoRA, LoCon and DoRA "
                "have a rank that singular values can choose.",
                hint="`loratory lora convert FILE -o OUT --bake lora --rank N` makes a LoRA of any kind.",
            )
    if not any(_LORA_HALVES & own for own in roles.values()):
        raise LoratoryError(
            "The file holds no LoRA module, so it has no rank to change.",
            hint="`loratory lora convert FILE -o OUT --bake lora --rank N` makes a LoRA of any kind.",
        )


def resize_module(
    key: str, own: Mapping[str, Tensor], rule: RankRule, dtype: torch.dtype
) -> tuple[dict[str, Tensor], CutModule]:
    """The tensors of one LoRA module, by role, at the rank that `rule` gives; see `resize`."""
    up, _, scale = halves(own, key)
    down = _flat_down(own)
    rank = down.shape[0]
    if not (all_finite(up) and all_finite(down)):
        raise LoratoryError(f"{key} holds NaN or infinite values, which have no singular values.")
    if rank <= 1 or (rule.method == "fixed" and rule.most is not None and rule.most >= rank):
        return dict(own), CutModule(key, rank, rank, abs(scale) * product_norm(up.flatten(1), down), 0.0)
    factors = factors_of_product(up.flatten(1), down)
    norm = abs(scale) * factors.squares**0.5
    kept = rank_kept(factors, rule)
    if kept >= rank:
        return dict(own), CutModule(key, rank, rank, norm, 0.0)
    pair = cut(factors, kept)
    rounded_up, rounded_down = pair.up.to(dtype), pair.down.to(dtype)
    error = product_norm(
        torch.cat([up.flatten(1).double(), -rounded_up.double()], 1),
        torch.cat([down.double(), rounded_down.double()], 0),
    )
    kernel = own[LORA_MID].shape[2:] if LORA_MID in own else own[LORA_DOWN].shape[2:]
    inputs = own[LORA_DOWN].shape[1]
    changed = {
        LORA_UP: rounded_up.reshape(up.shape[0], kept, *up.shape[2:]),
        LORA_DOWN: rounded_down.reshape(kept, inputs, *kernel),
        ALPHA: torch.tensor(scale * kept, dtype=torch.float32),
    }
    others = {role: tensor for role, tensor in own.items() if role not in changed and role != LORA_MID}
    return changed | others, CutModule(key, rank, kept, norm, abs(scale) * error)


def _flat_down(own: Mapping[str, Tensor]) -> Tensor:
    """The second factor of a module's weight change, (r, in * kernel): down, or mid and down of a Tucker one."""
    down = own[LORA_DOWN]
    if LORA_MID not in own:
        return down.flatten(1)
    mid = own[LORA_MID].double()
    return torch.einsum("rskl,si->rikl", mid, down.double().flatten(1)).flatten(1)


def resize_file(
    path: Path,
    output: Path,
    rule: RankRule,
    conv_rule: RankRule,
    precision: SavePrecision | None = None,
    progress: Progress = no_progress,
) -> Resized:
    """`resize` from file to file; precision: None keeps that of the file. The metadata says what was done.

    Raises LoratoryError as `read_adapter`, `resize` and `save_result` do.
    """
    adapter = read_adapter(path)
    chosen = precision or precision_of((name, tensor.dtype) for name, tensor in adapter.state_dict.items())
    try:
        resized = resize(adapter.state_dict, rule, conv_rule, chosen, progress)
    except LoratoryError as error:
        raise LoratoryError(f"{path} cannot be resized: {error.message}", hint=error.hint) from error
    metadata = _metadata(adapter.metadata, resized, rule, conv_rule)
    save_result(output, resized.state_dict, metadata, chosen)
    return resized


def _metadata(metadata: Mapping[str, str], resized: Resized, rule: RankRule, conv_rule: RankRule) -> dict[str, str]:
    """The metadata of a resized file: the sizes it has now, and in the comment what was done to it."""
    if all(module.rank == module.full_rank for module in resized.modules):
        return dict(metadata)
    conv = "" if conv_rule == rule else f"; convolutions: {conv_rule.spoken()}"
    old = Counter(module.full_rank for module in resized.modules).most_common(1)[0][0]
    state = resized.state_dict
    modules = [
        {role: state[f"{module.key}.{role}"] for role in (LORA_DOWN, ALPHA) if f"{module.key}.{role}" in state}
        for module in resized.modules
    ]
    told = commented(metadata, f"resized from rank {old}: {rule.spoken()}{conv}")
    return told | sizes_metadata(modules, metadata.get("ss_network_args", ""))
