"""What tools write: where it may go, its format, and the metadata that says what was done."""

import json
import shutil
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from loratory.adapters.files import ALWAYS_FLOAT, SavePrecision, save_adapter, stored_dtype
from loratory.adapters.keys import Family
from loratory.adapters.roles import ALPHA, LORA_DOWN
from loratory.adapters.summary import json_object
from loratory.adapters.tools.stream import all_finite, rounded
from loratory.atomic import leftovers_of
from loratory.errors import LoratoryError

BASE_VERSIONS: dict[Family, str] = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
"""What `ss_base_model_version` is for a family, as sd-scripts writes it."""

_COMMENT = "ss_training_comment"


def refuse_unwritable(output: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """Raises LoratoryError unless `output` is a .safetensors name in an existing folder that no input has.

    force: an existing file may be replaced; an input never.
    """
    if output.suffix.lower() != ".safetensors":
        raise LoratoryError(f"{output} does not end in .safetensors, the only format that is written.")
    if not output.parent.is_dir():
        raise LoratoryError(f"There is no folder {output.parent} to write {output.name} to.")
    if output.is_dir():
        raise LoratoryError(f"{output} is a folder.", hint="Name a file in it.")
    for source in inputs:
        if output.exists() and source.exists() and output.samefile(source):
            raise LoratoryError(f"{output} is what is read; it is not written over.", hint="Name another output.")
    if output.exists() and not force:
        raise LoratoryError(f"{output} is there already.", hint="Name another output, or replace it with --force.")


def remove_leftovers(out: Path) -> None:
    """Removes what a killed process has left of `out` half written, file or folder."""
    for leftover in leftovers_of(out.parent, [out.name]):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def precision_of(dtypes: Iterable[tuple[str, torch.dtype | None]]) -> SavePrecision:
    """The narrowest precision that holds all weights of files, of which names and formats are given.

    Those that are float32 in every file do not count, nor what is no fraction, such as a switch.
    """
    found = {
        dtype
        for name, dtype in dtypes
        if not name.endswith(ALWAYS_FLOAT) and (dtype is None or dtype.is_floating_point)
    }
    return "fp16" if found == {torch.float16} else "bf16" if found == {torch.bfloat16} else "float"


def save_result(
    path: Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str], precision: SavePrecision
) -> None:
    """`save_adapter` for finite numbers alone.

    Raises LoratoryError, before anything is written, for tensors that are not finite, or would not be in that
    precision, naming the first.
    """
    rounded_state: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        what = f"{path} was not written: {name}"
        if not all_finite(tensor):
            raise LoratoryError(
                f"{what} holds NaN or infinite values.",
                hint="`loratory lora verify` on the file that was read shows whether it is damaged.",
            )
        rounded_state[name] = rounded(tensor, stored_dtype(name, precision), what)
    save_adapter(path, rounded_state, metadata, precision)


def commented(metadata: Mapping[str, str], told: str) -> dict[str, str]:
    """The metadata with `told` before the comment that front ends show."""
    earlier = metadata.get(_COMMENT, "")
    return dict(metadata) | {_COMMENT: f"{told}; {earlier}" if earlier not in ("", "None") else told}


def sizes_metadata(modules: Iterable[Mapping[str, Tensor]], arguments: str = "") -> dict[str, str]:
    """`ss_network_dim`, `ss_network_alpha` and `ss_network_args` of LoRA modules, given as tensors by role.

    arguments: the `ss_network_args` there were, of which all but the sizes is kept.
    """
    ranks: dict[bool, set[float]] = {False: set(), True: set()}
    alphas: dict[bool, set[float]] = {False: set(), True: set()}
    for own in modules:
        if LORA_DOWN in own:
            is_conv, rank = prod(own[LORA_DOWN].shape[2:]) > 1, own[LORA_DOWN].shape[0]
            ranks[is_conv].add(rank)
            alphas[is_conv].add(float(own[ALPHA]) if ALPHA in own else rank)
    conv = {"conv_dim": _common(ranks[True]), "conv_alpha": _common(alphas[True])} if ranks[True] else {}
    kept = {name: value for name, value in json_object(arguments).items() if name not in ("conv_dim", "conv_alpha")}
    return {
        "ss_network_dim": _common(ranks[False] or ranks[True]),
        "ss_network_alpha": _common(alphas[False] or alphas[True]),
        "ss_network_args": json.dumps(kept | conv),
    }


def _common(values: set[float]) -> str:
    # "Dynamic" is what sd-scripts' own resizing writes where modules differ.
    return f"{next(iter(values)):g}" if len(values) == 1 else "Dynamic"
