"""What the tensors of an adapter file are: their module and role, and which kind of network has which roles."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from loratory.errors import LoratoryError

LORA_DOWN = "lora_down.weight"
LORA_UP = "lora_up.weight"
LORA_MID = "lora_mid.weight"
ALPHA = "alpha"
DORA_SCALE = "dora_scale"
RESCALE = "rescale"


@dataclass(frozen=True)
class NetworkKind:
    """One kind of network: the roles each of its modules must have (any one of the sets), and those it may have."""

    name: str
    required: tuple[frozenset[str], ...]
    optional: frozenset[str]


def _kind(name: str, *required: str, optional: str = "") -> NetworkKind:
    return NetworkKind(name, tuple(frozenset(roles.split()) for roles in required), frozenset(optional.split()))


# Role names: LyCORIS' module files and sd-scripts' networks.
KINDS = (
    _kind("lora", f"{LORA_DOWN} {LORA_UP}", optional=f"{LORA_MID} {ALPHA} {DORA_SCALE}"),
    _kind("loha", "hada_w1_a hada_w1_b hada_w2_a hada_w2_b", optional="hada_t1 hada_t2 alpha dora_scale"),
    _kind(
        "lokr",
        "lokr_w1 lokr_w2",
        "lokr_w1 lokr_w2_a lokr_w2_b",
        "lokr_w1_a lokr_w1_b lokr_w2",
        "lokr_w1_a lokr_w1_b lokr_w2_a lokr_w2_b",
        optional="lokr_t2 alpha dora_scale",
    ),
    _kind("glora", "a1.weight a2.weight b1.weight b2.weight", optional="bm.weight alpha"),
    _kind("oft", "oft_blocks", optional="rescale alpha"),
    _kind("full", "diff", optional="diff_b alpha"),
    _kind("norm", "w_norm", optional="b_norm"),
    _kind("ia3", "weight on_input", optional=""),
)
_KNOWN_ROLES = frozenset(role for kind in KINDS for roles in (*kind.required, kind.optional) for role in roles)
# Roles that are common words in base models say nothing by themselves.
_TELLING_ROLES = _KNOWN_ROLES - {"weight", "on_input", ALPHA, "a1.weight", "a2.weight", "b1.weight", "b2.weight"}
_DIFFUSERS_MARKS = (
    *(".lora_A.", ".lora_B.", ".lora.down.", ".lora.up.", "_lora.down.", "_lora.up.", ".lora_linear_layer."),
    ".processor.",
)


def split_name(name: str) -> tuple[str, str]:
    """Module key and role of a tensor: `lora_unet_x.lora_up.weight` -> (`lora_unet_x`, `lora_up.weight`).

    A name that tells no role, `x` or `x.`, is all key, with the role "".
    """
    key, _, role = name.partition(".")
    return (key, role) if role else (name, "")


def roles_by_module(names: Iterable[str]) -> dict[str, set[str]]:
    modules: dict[str, set[str]] = {}
    for name in names:
        key, role = split_name(name)
        modules.setdefault(key, set()).add(role)
    return modules


def kind_of(roles: set[str]) -> NetworkKind | None:
    """The kind of network that one module belongs to, complete or not; None when no role is known."""
    best: NetworkKind | None = None
    most = 0
    for kind in KINDS:
        shared = len(roles & frozenset().union(*kind.required))
        if shared > most:
            best, most = kind, shared
    return best


class Parts(NamedTuple):
    """What one module has. kind: None where no role is known. missing: what its kind needs beside; unknown: what is no
    part of it, told where nothing is missing."""

    kind: NetworkKind | None
    missing: list[str]
    unknown: list[str]


def parts_of(roles: Collection[str]) -> Parts:
    """The kind of network of one module, and whether it is complete and nothing else."""
    given = set(roles)
    kind = kind_of(given)
    if kind is None:
        return Parts(None, [], sorted(given))
    whole = [required for required in kind.required if required <= given]
    if not whole:
        return Parts(kind, sorted(min((required - given for required in kind.required), key=len)), [])
    return Parts(kind, [], sorted(given - max(whole, key=len) - kind.optional))


def refuse_other_files(path: Path, names: Iterable[str]) -> None:
    """Raises LoratoryError, naming what the file is, unless some tensor has a name of an adapter in kohya naming."""
    found = list(names)
    if any(name.startswith("lora_") and split_name(name)[1] in _KNOWN_ROLES for name in found):
        return
    if any(mark in name for name in found for mark in _DIFFUSERS_MARKS):
        raise LoratoryError(
            f"{path} is an adapter in diffusers naming, not in kohya naming.",
            hint="`loratory lora convert FILE -o OUT --to kohya` turns one into the other.",
        )
    if any(name.startswith(("model.diffusion_model.", "conditioner.", "cond_stage_model.")) for name in found):
        raise LoratoryError(f"{path} is a base model, not an adapter.", hint="An adapter has keys like lora_unet_….")
    if any(split_name(name)[1] in _TELLING_ROLES for name in found):
        raise LoratoryError(
            f"{path} is an adapter for another kind of model: its keys do not start with lora_unet_ or lora_te.",
            hint="Loratory knows adapters for SD 1.x, SD 2.x and SDXL.",
        )
    shown = f" Its first tensor is {found[0]}." if found else " It holds no tensor."
    raise LoratoryError(f"{path} is not an adapter.{shown}")
