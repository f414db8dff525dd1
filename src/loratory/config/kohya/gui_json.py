"""A configuration file of the kohya_ss GUI as the arguments that the GUI makes of it.

The GUI's own rules: a field that is 0, false or empty is not passed on, so that sd-scripts' default holds; each type of
LoRA passes its own list of network arguments; some fields gate others.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from loratory.config.kohya.command_line import read_options
from loratory.config.kohya.report import Given
from loratory.config.kohya.settings import (
    GUI_CONVERTED,
    GUI_DEFAULTS,
    GUI_NAMES,
    IGNORED,
    REFUSED,
    SD_DEFAULTS,
    SETTING_OF,
)
from loratory.config.kohya.translation import Translation
from loratory.config.kohya.values import is_empty, number
from loratory.errors import LoratoryError


class Arguments(NamedTuple):
    """Arguments of sd-scripts, and the items of its `--network_args`."""

    arguments: dict[str, Given]
    network: dict[str, Given]


class _Type(NamedTuple):
    module: str
    algorithm: str
    passes: frozenset[str]


_BLOCKS = (
    "down_lr_weight mid_lr_weight up_lr_weight block_lr_zero_threshold block_dims block_alphas conv_block_dims "
    "conv_block_alphas rank_dropout module_dropout"
)
_CONV = "conv_dim conv_alpha"
_COMMON = f"LyCORIS_preset {_CONV} rank_dropout module_dropout train_norm"
_DORA = f"{_COMMON} bypass_mode dora_wd use_scalar rank_dropout_scale"
_OFT = f"{_COMMON} use_tucker use_scalar rank_dropout_scale constrain constraint rescaled"

_TYPES = {
    name: _Type(module, algorithm, frozenset(passes.split()))
    for name, module, algorithm, passes in (
        ("Standard", "networks.lora", "", _BLOCKS),
        ("Kohya LoCon", "networks.lora", "", f"{_BLOCKS} {_CONV}"),
        ("Kohya DyLoRA", "networks.dylora", "", f"{_BLOCKS} {_CONV} unit"),
        ("Kohya LoHa", "networks.loha", "", f"{_BLOCKS} {_CONV} use_tucker"),
        ("Kohya LoKr", "networks.lokr", "", f"{_BLOCKS} {_CONV} use_tucker factor"),
        ("LoRA-FA", "networks.lora_fa", "", _BLOCKS),
        ("LoCon", "lycoris.kohya", "locon", f"{_DORA} use_tucker"),
        ("LyCORIS/LoCon", "lycoris.kohya", "locon", f"{_DORA} use_tucker"),
        ("LyCORIS/LoHa", "lycoris.kohya", "loha", f"{_DORA} use_tucker"),
        ("LyCORIS/LoKr", "lycoris.kohya", "lokr", f"{_DORA} factor use_cp decompose_both"),
        ("LyCORIS/DyLoRA", "lycoris.kohya", "dylora", f"{_COMMON} use_tucker unit"),
        ("LyCORIS/GLoRA", "lycoris.kohya", "glora", f"{_COMMON} rank_dropout_scale"),
        ("LyCORIS/iA3", "lycoris.kohya", "ia3", "LyCORIS_preset"),
        ("LyCORIS/Diag-OFT", "lycoris.kohya", "diag-oft", _OFT),
        ("LyCORIS/BOFT", "lycoris.kohya", "boft", _OFT),
        (
            "LyCORIS/Native Fine-Tuning",
            "lycoris.kohya",
            "full",
            "LyCORIS_preset rank_dropout module_dropout use_tucker use_scalar rank_dropout_scale train_norm",
        ),
    )
}
_NETWORK_KEYS = frozenset().union(*(each.passes for each in _TYPES.values())) | {"use_cp", "full_matrix"}
_OFFSET = frozenset({"noise_offset", "adaptive_noise_scale", "noise_offset_random_strength"})
_MULTIRES = frozenset({"multires_noise_iterations", "multires_noise_discount"})
_ONLY_SDXL = frozenset({"sdxl_no_half_vae", "sdxl_cache_text_encoder_outputs"})
_OTHER_MODELS = re.compile(
    r"(flux|sd3|t5|clip_[gl]$|ae$|lumina|anima|hunyuan|gemma|qwen|chroma|discrete_flow|model_prediction_type$|"
    r"timestep_sampling$|logit_|mode_scale$|weighting_scheme$|split_|train_(blocks|t5|double|single)|mem_eff_save|"
    r"apply_t5|guidance_scale$|blocks_to_swap|single_blocks|double_blocks|img_|txt_|sigmoid_|in_dims|"
    r"save_(clip|t5)|(pos_emb|enable_scaled_pos)|use_(clip|t5)|system_prompt|sample_batch_size|attn_mode)"
)
_SPECIAL = frozenset({"LoRA_type", "epoch", "lr_warmup", "lr_warmup_steps", "noise_offset_type", "sample_prompts"})

KNOWN_KEYS = frozenset(SETTING_OF) | set(GUI_NAMES) | set(GUI_CONVERTED) | _NETWORK_KEYS | set(IGNORED) | set(REFUSED)
"""Keys by which a file is recognised."""


def gui_arguments(document: Mapping[str, Any], to: Translation) -> Arguments:
    """What the GUI would pass to sd-scripts for a file of its own; what it would not is reported in `to`."""
    fields = {key: Given(key, value) for key, value in document.items()}
    if "use_8bit_adam" in fields and "optimizer" not in fields:
        fields["optimizer"] = Given("", "")
    for key, default in GUI_DEFAULTS.items():
        fields.setdefault(key, Given("", default))
    for alias, name in GUI_NAMES.items():
        if alias in fields and name in fields:
            if fields[name].key:
                to.drop(fields.pop(alias), f"{name} decides")
            else:
                del fields[name]
    arguments, network = _network(fields, to)
    is_sdxl = _is_on(fields.get("sdxl"))
    gate = str(fields["noise_offset_type"].value or "Original")
    if "LoRA_type" not in document:
        to.hints.append(
            "The file names no type of LoRA (the GUI's other tabs save such files): a plain one is trained."
        )
    closed = _OFFSET if gate.lower().startswith("multires") else _MULTIRES
    to.drop(fields.pop("noise_offset_type"), "decides which of the noise settings are used")
    _length(fields, arguments, to)
    _schedule(fields, arguments, to)
    _rates(fields, to)
    _prompts(fields, arguments, to)
    extra = fields.pop("additional_parameters", Given("", ""))
    for key, field in fields.items():
        name = GUI_NAMES.get(key, key)
        if key in closed:
            to.drop(field, f'noise_offset_type is "{gate}"')
        elif key in _ONLY_SDXL and not is_sdxl:
            to.drop(field, "is for SDXL models")
        elif _OTHER_MODELS.match(key):
            _other_model(field, to)
        elif key == "dynamo_backend" and str(field.value).lower() in ("no", "none", ""):
            to.drop(field, "off")
        elif key == "dynamo_backend":
            arguments["torch_compile"] = Given("", True)
            arguments[name] = field
        elif key == "xformers":
            chosen = "xformers" if field.value is True else field.value or "none"
            arguments[name] = Given(key, chosen, written=field.value)
        elif _passes_on(name, field, to):
            arguments[name] = field
    _extra_parameters(extra, arguments, network, to)
    return Arguments(arguments, network)


def _network(fields: dict[str, Given], to: Translation) -> Arguments:
    """Module and network arguments of the type of LoRA; what the type does not pass on is reported."""
    named = fields.pop("LoRA_type")
    name = str(named.value).strip() or "Standard"
    chosen = _TYPES.get(name)
    if chosen is None:
        to.refuse(named, "no such adapter for Stable Diffusion 1, 2 and XL here; a plain LoRA is trained")
        chosen = _TYPES["Standard"]
    if name == "LoRA-FA":
        to.refuse(named, "LoRA-FA freezes half of the adapter; a plain LoRA is trained", setting="network.network_type")
    arguments = {"network_module": named._replace(value=chosen.module, written=named.value)}
    network: dict[str, Given] = {}
    if chosen.algorithm:
        network["algo"] = named._replace(value=chosen.algorithm, written=named.value)
    for key in [key for key in fields if key in _NETWORK_KEYS]:
        field = fields.pop(key)
        item = "preset" if key == "LyCORIS_preset" else key
        if key not in chosen.passes:
            to.drop(field, f"not used by the type {name}")
        elif _passes_on(item, field, to):
            network[item] = field
    return Arguments(arguments, network)


def _passes_on(name: str, field: Given, to: Translation) -> bool:
    """Whether the GUI gives a field to sd-scripts. It leaves out what is 0, and sd-scripts' default holds."""
    value = field.value
    if is_empty(value):
        to.drop(field, "empty")
        return False
    is_zero = not isinstance(value, bool) and value in (0, "0", "0.0") and name in _NONZERO
    if name in _UNSET_BY_ZERO and value in (0, "0"):
        to.drop(field, _UNSET_BY_ZERO[name])
        return False
    if not is_zero:
        return True
    setting = SETTING_OF[name]
    default = _NONZERO[name]
    to.note(field, "changed", setting, default, f"the GUI leaves a 0 out, so sd-scripts uses {default}")
    return False


_NONZERO: dict[str, object] = {
    "max_grad_norm": 1.0,
    "prior_loss_weight": 1.0,
    "huber_c": 0.1,
    "huber_scale": 1.0,
    "lr_scheduler_power": 1.0,
    "multires_noise_discount": 0.3,
    "network_alpha": SD_DEFAULTS["network_alpha"],
    "network_dim": SD_DEFAULTS["network_dim"],
    "train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_bucket_reso": 1024,
    "min_bucket_reso": 256,
    "bucket_reso_steps": 64,
}
"""Arguments whose default in sd-scripts is not 0."""

_UNSET_BY_ZERO = {"seed": "0 means a random seed", "vae_batch_size": "not set", "max_timestep": "not set"}


def _length(fields: dict[str, Given], arguments: dict[str, Given], to: Translation) -> None:
    """max_train_epochs, else max_train_steps, else `epoch`, which the GUI turns into steps by a formula that leaves
    out the last partial batch of each bucket and doubles with a regularization set."""
    epoch = fields.pop("epoch")
    for key in ("max_train_epochs", "max_train_steps"):
        field = fields.get(key)
        if field is not None and not is_empty(field.value) and field.value not in (0, "0"):
            to.drop(epoch, f"{key} decides")
            return
    if not epoch.key:
        to.hints.append("The file does not say how long the run is; the GUI's own default is 1 epoch.")
    reason = "trained in full; the GUI makes steps of it, by a formula that comes out short"
    arguments["max_train_epochs"] = Given(epoch.key, epoch.value, reason, epoch.value)
    for key in ("max_train_epochs", "max_train_steps"):
        if key in fields:
            to.drop(fields.pop(key), "not set: epoch decides")


def _schedule(fields: dict[str, Given], arguments: dict[str, Given], to: Translation) -> None:
    """Warmup and cycles."""
    warmup, steps = fields.pop("lr_warmup"), fields.pop("lr_warmup_steps", None)
    if steps is not None and not is_empty(steps.value) and steps.value not in (0, "0"):
        arguments["lr_warmup_steps"] = steps
        to.drop(warmup, "lr_warmup_steps decides")
    else:
        if steps is not None:
            to.drop(steps, "not set: lr_warmup decides")
        try:
            percent = 0.0 if is_empty(warmup.value) else number(warmup.value)
        except ValueError as problem:
            to.refuse(warmup, str(problem), setting="optimizer.lr_warmup_steps")
        else:
            value = f"{percent:g}%" if percent else 0
            reason = "a per cent of the steps" if percent else ""
            arguments["lr_warmup_steps"] = Given(warmup.key, value, reason, warmup.value)
    cycles = fields.get("lr_scheduler_num_cycles")
    epochs = arguments.get("max_train_epochs") or fields.get("max_train_epochs")
    if cycles is not None and is_empty(cycles.value):
        del fields["lr_scheduler_num_cycles"]
        if epochs is not None and "restarts" in str(fields["lr_scheduler"].value):
            reason = "empty: the GUI takes the number of epochs"
            arguments["lr_scheduler_num_cycles"] = Given(cycles.key, epochs.value, reason, cycles.value)
        else:
            to.drop(cycles, "empty")


def _rates(fields: dict[str, Given], to: Translation) -> None:
    """Both parts at 0 means that learning_rate holds for both; one at 0 is not trained."""
    rates = [fields["unet_lr"], fields["text_encoder_lr"]]
    try:
        are_zero = all(number(0 if is_empty(rate.value) else rate.value) == 0 for rate in rates)
    except ValueError:  # reported where the rate itself is read
        return
    if are_zero:
        for key in ("unet_lr", "text_encoder_lr"):
            to.drop(fields.pop(key), "both are 0: learning_rate holds for both")


def _prompts(fields: dict[str, Given], arguments: dict[str, Given], to: Translation) -> None:
    field = fields.pop("sample_prompts", None)
    if field is None:
        return
    lines = [line.strip() for line in str(field.value).splitlines()] if isinstance(field.value, str) else []
    prompts = [line for line in lines if line and not line.startswith("#")]
    if prompts:
        arguments["prompts"] = Given(field.key, prompts, "one item for each line", field.value)
    elif is_empty(field.value) or isinstance(field.value, str):
        to.drop(field, "empty")
    else:
        to.refuse(field, "must be text, a prompt on each line", important=False)


def _other_model(field: Given, to: Translation) -> None:
    if field.key.endswith("_checkbox") and _is_on(field):
        to.refuse(field, "only Stable Diffusion 1, 2 and XL are trained here")
    else:
        to.drop(field, "is for models other than Stable Diffusion 1, 2 and XL")


def _extra_parameters(field: Given, arguments: dict[str, Given], network: dict[str, Given], to: Translation) -> None:
    """The free text that the GUI puts behind its own arguments, which win over the file's."""
    if is_empty(field.value):
        to.drop(field, "empty")
        return
    try:
        options = read_options(str(field.value))
    except LoratoryError as error:
        to.refuse(field, error.message)
        return
    for name, value in options.arguments.items():
        if name in arguments:
            to.drop(arguments.pop(name), "additional_parameters decides")
        arguments[name] = Given(f"{field.key}.--{name}", value.value)
    for name, value in options.network.items():
        if name in network:
            to.drop(network.pop(name), "additional_parameters decides")
        network[name] = Given(f"{field.key}.{value.key}", value.value)
    if not options.arguments and not options.network:
        to.refuse(field, "holds no option of sd-scripts")


def _is_on(field: Given | None) -> bool:
    return field is not None and str(field.value).strip().lower() in ("true", "1")
