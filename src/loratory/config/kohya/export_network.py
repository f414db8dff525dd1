"""`[network]` as the network module and the network arguments of sd-scripts."""

from typing import Any, NamedTuple

from loratory.config.kohya.settings import NETWORK_ARGS, OTHER_PRESETS, SD_DEFAULTS
from loratory.config.schema import Config, NetworkSettings, changed
from loratory.config.schema.network import OF_BLOCKS, USED_BY, WITHOUT_CONVOLUTIONS

_NATIVE_TYPES = ("lora", "locon")
_LYCORIS_OPTIONS = ("use_tucker", "use_scalar", "train_norm")
_WITH_RS_LORA = ("locon", "loha", "lokr")
_ALGORITHMS = {"lora": "locon", "dora": "locon"}
_PLAIN = (
    "network_dropout",
    "scale_weight_norms",
    "network_train_unet_only",
    "network_train_text_encoder_only",
    "network_weights",
)
_SPELLED_OUT = frozenset(
    {"network_type", "network_dropout", "lycoris_preset", "dora_wd", "conv_dim", "conv_alpha", "rs_lora", "block_size"}
)
_ITEMS = (
    frozenset(setting.removeprefix("network.") for setting in NETWORK_ARGS.values() if "network." in setting)
    - _SPELLED_OUT
)
_LORA_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")

_MORE_LAYERS = "LyCORIS also trains conv_in, conv_out and the time embedding with preset=full."
_IA3_PRESET = (
    "ia3: LyCORIS 4.1's own preset ia3 names layers in a way that matches none; where it trains nothing, give it a "
    "preset file with .*to_k$, .*to_v$ and .*ff.net.2$."
)
_IA3_OTHER_PRESET = "ia3: LyCORIS scales every layer of a preset other than ia3, not the three kinds of it alone."
_DYLORA_STRENGTH = (
    "dylora: LyCORIS scales each block of ranks by its own size, so files of blocks larger than 1 come out that much "
    "too weak."
)


class NetworkArguments(NamedTuple):
    """A network as sd-scripts and LyCORIS name it.

    dim, alpha: None for types without. items: those of `--network_args`, as text, with what LyCORIS itself has no
    argument for.
    """

    module: str
    dim: int | None
    alpha: float | None
    items: dict[str, str]


def described_network(config: Config) -> NetworkArguments:
    """The module of a network, its sizes and arguments.

    lora and locon are sd-scripts' own networks.lora, which adapts the same layers; the other types, and what only
    LyCORIS has, are LyCORIS'.
    """
    network = config.network
    kind = network.network_type
    is_native = _is_native(network)
    scales = network.rs_lora and (is_native or _ALGORITHMS.get(kind, kind) not in _WITH_RS_LORA)
    items: dict[str, Any] = {}
    if not is_native:
        preset = OTHER_PRESETS.get(network.lycoris_preset, network.lycoris_preset)
        preset = "ia3" if kind == "ia3" and preset == "full" else preset
        items = {"algo": _ALGORITHMS.get(kind, kind), "preset": preset}
        if network.decomposes:
            items["dora_wd"] = True
        if network.rs_lora and not scales:
            items["rs_lora"] = True
    items |= _convolutions(network, is_native=is_native, scales=scales)
    if kind == "dylora":
        items["block_size"] = network.block_size
    items |= {
        key: getattr(network, key) for key in NetworkSettings.model_fields if key in _ITEMS and changed(network, key)
    }
    items |= {key: getattr(config.optimizer, key) for key in _LORA_PLUS if changed(config.optimizer, key)}
    return NetworkArguments(
        "networks.lora" if is_native else "lycoris.kohya",
        network.network_dim if kind in USED_BY["network_dim"] else None,
        _alpha(network.network_alpha, network.network_dim, scales) if kind in USED_BY["network_alpha"] else None,
        {key: _text(value) for key, value in items.items()},
    )


def network_arguments(config: Config, remarks: list[str]) -> dict[str, Any]:
    """The arguments of the network; what has no equivalent is added to `remarks`."""
    network = config.network
    described = described_network(config)
    arguments: dict[str, Any] = {"network_module": described.module}
    for key in _PLAIN:
        if changed(network, key):
            value = getattr(network, key)
            arguments[key] = value if isinstance(value, bool | float | int) else str(value)
    if network.dim_from_weights:
        arguments["dim_from_weights"] = True
    for key, value in (("network_dim", described.dim), ("network_alpha", described.alpha)):
        if value is not None and value != SD_DEFAULTS[key]:
            arguments[key] = value
    if network.rs_lora and "rs_lora" not in described.items:
        remarks.append(f"rs_lora: written as network_alpha = {described.alpha:g}, which does the same.")
    items = described.items
    if described.module != "networks.lora":
        remarks += _lycoris_remarks(network)
        for key in [key for key in items if key in OF_BLOCKS]:
            del items[key]
            remarks.append(f"{key}: LyCORIS has no such argument; it trains every block alike.")
    if items:
        arguments["network_args"] = [f"{key}={value}" for key, value in items.items()]
    return arguments


def _is_native(network: NetworkSettings) -> bool:
    has_options = any(getattr(network, key) for key in _LYCORIS_OPTIONS) or network.lycoris_preset != "full"
    return network.network_type in _NATIVE_TYPES and not network.decomposes and not has_options


def _lycoris_remarks(network: NetworkSettings) -> list[str]:
    kind = network.network_type
    remarks: list[str] = []
    if kind in ("lora", "locon", "dora") and network.lycoris_preset == "full":
        remarks.append(f"{kind}: {_MORE_LAYERS}")
    if network.rank_dropout_scale:
        remarks.append("rank_dropout_scale: LyCORIS 4.1 reads it and does not pass it on to its modules.")
    if kind == "ia3":
        remarks.append(_IA3_PRESET if network.lycoris_preset == "full" else _IA3_OTHER_PRESET)
    if kind == "dylora" and network.block_size > 1:
        remarks.append(_DYLORA_STRENGTH)
    return remarks


def _convolutions(network: NetworkSettings, *, is_native: bool, scales: bool) -> dict[str, Any]:
    """LyCORIS gives convolutions the network's own size unless it is told another or 0; networks.lora trains none
    unless it is told a rank."""
    if network.conv_dim is not None:
        return {"conv_dim": network.conv_dim, "conv_alpha": _alpha(network.conv_alpha, network.conv_dim, scales)}
    if is_native:
        alpha = _alpha(network.network_alpha, network.network_dim, scales)
        return {"conv_dim": network.network_dim, "conv_alpha": alpha} if network.network_type == "locon" else {}
    could_have = network.network_type != "ia3" and network.lycoris_preset not in WITHOUT_CONVOLUTIONS
    is_without = could_have and not network.has_convolutions and not network.network_train_text_encoder_only
    return {"conv_dim": 0} if is_without else {}


def _alpha(alpha: float, rank: int, scales: bool) -> float:
    """Alpha as it is written; `scales`: with the square root of the rank that rs_lora means."""
    return alpha * rank**0.5 if scales else alpha


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(str(each) for each in value)
    return str(value)
