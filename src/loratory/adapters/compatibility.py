"""Which programs load an adapter file, and what they do with it: facts read in their source, or tried.

diffusers and LyCORIS are in reach of the tests, which try what the table says of them. What it says of the others was
read in their source; the files are named beside it.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from loratory.adapters.keys import Family
from loratory.adapters.layout import is_kernel_module
from loratory.adapters.roles import LORA_DOWN, LORA_UP
from loratory.adapters.summary import Module

Loader = Literal["diffusers", "sd-scripts", "AUTOMATIC1111", "ComfyUI", "Forge"]
LOADERS: tuple[Loader, ...] = get_args(Loader)

Feature = Literal[
    "lora",
    "loha",
    "lokr",
    "glora",
    "glora, old layout",
    "ia3",
    "ia3 on kernels",
    "diag-oft",
    "boft",
    "full",
    "norm",
    "norm without bias",
    "tucker core",
    "tucker core of LoKr",
    "matrices on kernels",
    "DoRA per output",
    "DoRA per input",
    "constraint",
    "rescaled diag-oft",
    "norms of text encoders",
    "parts of OpenCLIP's attention",
    "1x1 convolutions of SD 2.x",
]
"""What a file may have that some program does not take, or takes in its own way."""

Verdict = Literal["yes", "partly", "no"]


class Support(NamedTuple):
    """yes: gives what was trained. partly: loads, and gives something else or less. no: is refused, or has no effect.

    how: what to do for it, or what is lost; empty where there is nothing to say.
    """

    verdict: Verdict
    how: str = ""


_LYCORIS = Support("yes", "with `--network_module lycoris.kohya`, which needs the package lycoris-lora")
_REFUSED = Support("no", "it refuses the whole file")
_NOT_READ = Support("no", "it does not know this kind and leaves it out")
_BASE_NORM = Support(
    "partly",
    "it divides magnitudes per output by the norms of the base weight, not of the changed one: the further training "
    "went, the larger the difference",
)
_ENCODER_NORMS = Support("partly", "it leaves out the norms of the text encoders")

# What a loader is not told about here it reads as meant. Where a file has several features, the worst verdict counts.
SUPPORT: dict[Loader, dict[Feature, Support]] = {
    # diffusers 0.42.1, load_lora_weights. loaders/lora_pipeline.py (lora_state_dict) drops every dora_scale with a
    # warning; loaders/lora_conversion_utils.py (_convert_non_diffusers_lora_to_diffusers) takes lora_down, lora_up and
    # alpha, and raises ValueError when any other tensor is left. Its LoKr support is for other models and their names.
    "diffusers": {
        **dict.fromkeys(
            ("loha", "lokr", "glora", "glora, old layout", "ia3", "ia3 on kernels", "diag-oft", "boft", "full", "norm"),
            _REFUSED,
        ),
        "tucker core": _REFUSED,
        "tucker core of LoKr": _REFUSED,
        "matrices on kernels": Support("no", "lora_up of convolutions has two axes (LyCORIS' DyLoRA), it wants four"),
        "DoRA per output": Support("partly", "it drops the magnitudes and uses the rest as a LoRA: another network"),
        "DoRA per input": Support("partly", "it drops the magnitudes and uses the rest as a LoRA: another network"),
        "1x1 convolutions of SD 2.x": Support(
            "no", "it makes proj_in and proj_out linear, the file has 1x1 convolutions"
        ),
    },
    # sd-scripts: networks/lora.py knows LoRA and its convolutions. All else goes through lycoris-lora 4.1.3:
    # lycoris/kohya.py (create_network_from_weights) and make_module_from_state_dict in lycoris/modules: ia3.py takes
    # one tensor and is handed two (TypeError); locon.py, loha.py and lokr.py make room for magnitudes per output only;
    # glora.py knows the new layout only. sd-scripts' own networks/loha.py and lokr.py are for SDXL and newer models.
    "sd-scripts": {
        **dict.fromkeys(("loha", "glora", "diag-oft", "boft", "full", "norm", "tucker core"), _LYCORIS),
        "lokr": Support("yes", f"{_LYCORIS.how}; it guesses the factor from the shapes, a few of them wrong"),
        "tucker core of LoKr": Support("no", "LyCORIS guesses the factor of LoKr wrong where there is a tucker core"),
        "matrices on kernels": Support("no", "lora_up of convolutions has two axes (LyCORIS' DyLoRA), it wants four"),
        "DoRA per output": _LYCORIS,
        "DoRA per input": Support("no", "LyCORIS takes magnitudes per output only"),
        "ia3": Support("no", "LyCORIS cannot load its own iA3 files"),
        "ia3 on kernels": Support("no", "LyCORIS cannot load its own iA3 files"),
        "glora, old layout": Support("no", "LyCORIS takes the new layout only"),
    },
    # AUTOMATIC1111 stable-diffusion-webui 1.10, extensions-builtin/Lora. network.py (apply_weight_decompose) takes
    # norms per input, and a magnitude per output is spread over them without an error. network_glora.py multiplies in
    # the order of the old layout. network_ia3.py turns the numbers into a column or row of a matrix. network_norm.py
    # wants w_norm and b_norm; a module that no class takes is an assertion in networks.py (load_network). networks.py
    # maps text encoder names layer by layer, OpenCLIP's norms to names that it does not have, and changes OpenCLIP's
    # attention (network_apply_weights) only with all of q, k, v and out. network_oft.py reads constraint and rescale.
    "AUTOMATIC1111": {
        "DoRA per output": Support("no", "it takes magnitudes per output for magnitudes per input: a wrong picture"),
        "glora": Support("no", "it knows the old layout only"),
        "ia3 on kernels": Support("no", "it takes them for linear layers"),
        "norm without bias": _REFUSED,
        "norms of text encoders": Support("partly", "it leaves out norms of the text encoders"),
        "parts of OpenCLIP's attention": Support(
            "partly", "it leaves out the attention of the OpenCLIP text encoder, of which not all parts were trained"
        ),
    },
    # ComfyUI, comfy/lora.py (load_lora: LoRA, LoHa, LoKr, GLoRA of both layouts, OFT, BOFT, diff, w_norm; other tensors
    # are "lora key not loaded"; of text encoders the six linear layers, LORA_CLIP_MAP) and comfy/weight_adapter:
    # base.py (weight_decompose) norms the base weight for magnitudes per output; oft.py and boft.py multiply by the
    # strength twice, take alpha itself as the limit, not alpha times the outputs, and oft.py does not use rescale.
    "ComfyUI": {
        "ia3": _NOT_READ,
        "ia3 on kernels": _NOT_READ,
        "DoRA per output": _BASE_NORM,
        "diag-oft": Support("yes", "at strength 1; any other counts squared"),
        "boft": Support("yes", "at strength 1; any other counts twice"),
        "constraint": Support(
            "partly", "it holds rotations to a tighter constraint than the one they were trained with"
        ),
        "rescaled diag-oft": Support("partly", "it leaves out the factors of rescaled rotations"),
        "norms of text encoders": _ENCODER_NORMS,
    },
    # Forge, packages_3rdparty/comfyui_lora_collection/lora.py (as ComfyUI's load_lora, without OFT and BOFT) and
    # backend/patcher/lora.py (weight_decompose as ComfyUI's; GLoRA of both layouts; "TODO: OFT").
    "Forge": {
        "ia3": _NOT_READ,
        "ia3 on kernels": _NOT_READ,
        "diag-oft": _NOT_READ,
        "boft": _NOT_READ,
        "DoRA per output": _BASE_NORM,
        "norms of text encoders": _ENCODER_NORMS,
    },
}
_KINDS = frozenset[Feature](
    ("lora", "loha", "lokr", "glora", "glora, old layout", "ia3", "ia3 on kernels", "diag-oft", "boft", "full", "norm")
)
_ATTENTION_PART = re.compile(r"(lora_te2?_text_model_encoder_layers_\d+_self_attn)_(q|k|v|out)_proj")


def features(modules: Iterable[Module], family: Family | None) -> set[Feature]:
    """What in a file programs differ about. Modules that are incomplete, or of no component, count for nothing."""
    found: set[Feature] = set()
    attention: dict[str, set[str]] = {}
    for module in modules:
        if module.form is None or module.component is None:
            continue
        found |= _module_features(module, family)
        part = _ATTENTION_PART.fullmatch(module.key)
        # OpenCLIP, which has its three projections in one tensor, is the encoder of SD 2.x and the second of SDXL.
        if part and (module.component == "te2" or family == "sd2"):
            attention.setdefault(part[1], set()).add(part[2])
    if any(len(parts) < 4 for parts in attention.values()):
        found.add("parts of OpenCLIP's attention")
    return found


def _module_features(module: Module, family: Family | None) -> set[Feature]:
    form = module.form
    assert form is not None
    found: set[Feature] = set()
    match form.name:
        case "glora":
            found.add("glora, old layout" if form.old_layout else "glora")
        case "ia3":
            found.add("ia3 on kernels" if len(module.shapes["weight"]) > 1 else "ia3")
        case "norm":
            found.add("norm")
            if not form.on_bias:
                found.add("norm without bias")
            if module.component != "unet":
                found.add("norms of text encoders")
        case "lora" | "loha" | "lokr" | "diag-oft" | "boft" | "full" as name:
            found.add(name)
        case _:
            raise AssertionError(form.name)
    if form.tucker:
        found.add("tucker core of LoKr" if form.name == "lokr" else "tucker core")
    if form.name == "lora" and len(module.shapes[LORA_UP]) < len(module.shapes[LORA_DOWN]):
        found.add("matrices on kernels")
    if form.dora:
        found.add("DoRA per output" if form.dora == "output" else "DoRA per input")
    if form.block_size and module.alpha:
        found.add("constraint")
    if form.rescaled and form.name == "diag-oft":
        found.add("rescaled diag-oft")
    is_1x1 = len(form.weight) == 4 and not is_kernel_module(module.key)
    if family == "sd2" and form.name == "lora" and is_1x1 and module.key.endswith(("_proj_in", "_proj_out")):
        found.add("1x1 convolutions of SD 2.x")
    return found


def support(found: Iterable[Feature]) -> dict[Loader, Support]:
    """What each program does with a file that has these features."""
    known = sorted(found)
    return {
        # A kind that nothing is said about is read; what else a module has counts only where it makes a difference.
        loader: _together([rows.get(name, Support("yes")) for name in known if name in _KINDS or name in rows])
        for loader, rows in SUPPORT.items()
    }


def _together(each: list[Support]) -> Support:
    """One answer for a file of several features: where one is refused or misread, none of it is worth anything."""
    if not each:
        return Support("no", "nothing in the file is known")
    spoilt = next((given for given in each if given.verdict == "no" and given != _NOT_READ), None)
    if spoilt:
        return spoilt
    alike = all(given.verdict == each[0].verdict for given in each)
    verdict: Verdict = each[0].verdict if alike else "partly"
    return Support(verdict, "; ".join(dict.fromkeys(given.how for given in each if given.how)))


def spoken(given: Support) -> str:
    """`yes`, `yes, at strength 1; ...`, `no: it refuses the whole file` and so on."""
    separator = ", " if given.verdict == "yes" else ": "
    return given.verdict + (separator + given.how if given.how else "")
