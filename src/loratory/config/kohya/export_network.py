"""`[network]` as the network module and the network arguments of sd-scripts."""

from typing import Any

from loratory.config.describe import show
from loratory.config.kohya.settings import NETWORK_ARGS, SD_DEFAULTS
from loratory.config.schema import Config, NetworkSettings, changed

_NATIVE = ("lora", "locon")
_WITHOUT_SIZES = ("ia3", "full")
_PLAIN = (
    "network_dropout",
    "scale_weight_norms",
    "network_train_unet_only",
    "network_train_text_encoder_only",
    "network_weights",
)
_ITEMS = frozenset(setting.removeprefix("network.") for setting in NETWORK_ARGS.values() if "network." in setting)
_PRESETS = {"transformer-only": "unet-transformer-only"}


def network_arguments(config: Config, remarks: list[str]) -> dict[str, Any]:
    """The arguments of the network; what has no equivalent is added to `remarks`.

    lora and locon are sd-scripts' own networks.lora, which adapts the same layers; the other types are LyCORIS'.
    """
    network = config.network
    is_native = network.network_type in _NATIVE
    arguments: dict[str, Any] = {"network_module": "networks.lora" if is_native else "lycoris.kohya"}
    for key in _PLAIN:
        if changed(network, key):
            value = getattr(network, key)
            arguments[key] = value if isinstance(value, bool | float | int) else str(value)
    if network.dim_from_weights:
        arguments["dim_from_weights"] = True
    scale = network.network_dim**0.5 if is_native and network.rs_lora else 1.0
    if network.network_type not in _WITHOUT_SIZES:
        arguments |= _unless_default("network_dim", network.network_dim)
        arguments |= _unless_default("network_alpha", network.network_alpha * scale)
    items = _items(network, is_native=is_native)
    if network.network_type == "dora":
        remarks.append("dora: LyCORIS also trains conv_in, conv_out and the time embedding with preset=full.")
    if scale != 1.0:
        remarks.append(f"rs_lora: written as network_alpha = {network.network_alpha * scale:g}, which does the same.")
    if not is_native and network.lycoris_preset == "transformer-only" and not network.network_train_unet_only:
        remarks.append("lycoris_preset: LyCORIS' unet-transformer-only leaves the text encoder out.")
    if network.lycoris_preset != "full" and is_native:
        remarks.append(f"lycoris_preset = {show(network.lycoris_preset)}: networks.lora trains all layers.")
    for key in ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio"):
        ratio = getattr(config.optimizer, key)
        if ratio is not None:
            items[key] = ratio
    if items:
        arguments["network_args"] = [f"{key}={_text(value)}" for key, value in items.items()]
    return arguments


def _unless_default(name: str, value: float) -> dict[str, float]:
    return {} if value == SD_DEFAULTS[name] else {name: value}


def _items(network: NetworkSettings, *, is_native: bool) -> dict[str, Any]:
    kind = network.network_type
    items: dict[str, Any] = {}
    if not is_native:
        items = {"algo": "locon" if kind == "dora" else kind}
        items["preset"] = _PRESETS.get(network.lycoris_preset, network.lycoris_preset)
        if kind == "dora":
            items["dora_wd"] = True
    if kind == "locon" or (not is_native and kind not in _WITHOUT_SIZES):
        items |= _convolutions(network)
    for key in NetworkSettings.model_fields:
        is_item = key in _ITEMS and key not in ("network_type", "network_dropout", "conv_dim", "conv_alpha")
        if is_item and key != "lycoris_preset" and changed(network, key) and not (is_native and key == "rs_lora"):
            items[key] = getattr(network, key)
    if kind == "dylora":
        items["block_size"] = network.block_size
    return items


def _convolutions(network: NetworkSettings) -> dict[str, Any]:
    """LyCORIS gives convolutions the network's rank unless it is told 0; networks.lora trains none unless it is told
    a rank. Both scale with rs_lora by a rank of their own."""
    dim, alpha = network.conv_dim, network.conv_alpha
    if dim is None and network.network_type == "locon":
        dim, alpha = network.network_dim, network.network_alpha
    if dim is None:
        return {"conv_dim": 0}
    scale = dim**0.5 if network.rs_lora and network.network_type == "locon" else 1.0
    return {"conv_dim": dim, "conv_alpha": alpha * scale}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(str(each) for each in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(value)
