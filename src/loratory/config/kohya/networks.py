"""Network modules and their arguments as `[network]`."""

from collections.abc import Mapping

from loratory.config.kohya.report import Given
from loratory.config.kohya.settings import NETWORK_ARGS, SETTING_OF
from loratory.config.kohya.translation import Translation
from loratory.config.kohya.values import is_empty, number, whole, writable
from loratory.config.schema import network as schema

LARGEST_DIM = 4096

OWN_NETWORK = "a LyCORIS type of Loratory"
"""The module of an adapter that Loratory wrote for loaders as one of LyCORIS."""

LYCORIS = frozenset({"lycoris.kohya", "lycoris.locon", "locon.locon_kohya"})
_NATIVE = {"networks.lora": "lora", "networks.dylora": "dylora", "networks.loha": "loha", "networks.lokr": "lokr"}
_ALGORITHMS = {"lora": "locon"} | {
    name: name for name in ("locon", "loha", "lokr", "dylora", "glora", "ia3", "diag-oft", "boft", "full")
}
_PRESETS = ("full", "attn-mlp", "attn-only", "unet-only")
_LOCON_DIFFERS = "LyCORIS also trains conv_in, conv_out and the time embedding, which LoCon here leaves alone"


def translate_network(
    arguments: dict[str, Given], network: Mapping[str, Given], to: Translation, *, with_defaults: bool
) -> None:
    """The kind of adapter, from module, algorithm and DoRA flag; its sizes and other arguments.

    arguments: `network_module`, `network_dim` and `network_alpha` are taken out of it. network: the items of
    `--network_args`.
    """
    items: dict[str, Given] = {}
    for name, each in network.items():
        if is_empty(each.value):
            to.drop(each, "empty")
        elif not writable(each.value):
            to.refuse(each, "is not valid text")
        else:
            items[name] = each
    module = arguments.pop("network_module", Given("", "networks.lora"))
    is_lycoris = str(module.value).strip() in LYCORIS | {OWN_NETWORK}
    kind = _lycoris_type(module, items, to) if is_lycoris else _native_type(module, items, to)
    to.settings["network.network_type"] = kind
    if is_lycoris and with_defaults:
        _fill_in_convolutions(kind, items, arguments)
    if kind == "dylora" and not is_lycoris:
        items.setdefault("unit", Given("", 1))
    _translate_sizes(kind, items, arguments, to)
    for name, each in items.items():
        if name == "preset":
            _translate_preset(each, kind, to)
        elif name not in NETWORK_ARGS:
            to.refuse(each, "not known here", important=False)
        elif name.startswith("loraplus") and str(each.value) in ("0", "0.0"):
            to.drop(each, "off")
        else:
            to.put(each, NETWORK_ARGS[name])


def _native_type(module: Given, items: dict[str, Given], to: Translation) -> str:
    name = str(module.value).strip()
    kind = _NATIVE.get(name, "lora")
    if kind == "lora" and "conv_dim" in items and _size(items["conv_dim"]) != 0:
        kind = "locon"
    if name == "networks.lora_fa":
        to.refuse(
            module, "LoRA-FA freezes half of the adapter; a plain LoRA is trained", setting="network.network_type"
        )
    elif name not in _NATIVE:
        to.refuse(module, f"no such network here; {kind} is trained", setting="network.network_type")
    else:
        to.note(module, "changed" if module.reason else "mapped", "network.network_type", kind, module.reason)
    if kind == "lora" and "conv_dim" in items:
        to.drop(items.pop("conv_dim"), "no convolutions are trained")
        if "conv_alpha" in items:
            to.drop(items.pop("conv_alpha"), "no convolutions are trained")
    return kind


def _lycoris_type(module: Given, items: dict[str, Given], to: Translation) -> str:
    algorithm = items.pop("algo", Given("", "lora"))
    kind = _ALGORITHMS.get(str(algorithm.value).strip().lower(), "")
    if not kind:
        to.refuse(algorithm, "no such algorithm here; locon is trained", setting="network.network_type")
        kind = "locon"
    reason = ""
    if kind == "locon":
        dora = items.pop("dora_wd", None)
        if dora is not None and to.is_on(dora):
            kind = "dora"
            to.note(dora, "changed", "network.network_type", kind, "DoRA is a network type of its own")
        elif dora is not None:
            to.drop(dora, "off")
        selection = str(items["preset"].value) if "preset" in items else "full"
        reason = _LOCON_DIFFERS if selection == "full" and module.value != OWN_NETWORK else ""
        if kind == "locon" and "conv_dim" in items and _size(items["conv_dim"]) == 0:
            kind = "lora"
            to.drop(items.pop("conv_dim"), "LyCORIS trains no convolutions with 0")
            if "conv_alpha" in items:
                to.drop(items.pop("conv_alpha"), "no convolutions are trained")
    elif "dora_wd" in items:
        dora = items.pop("dora_wd")
        if to.is_on(dora):
            to.refuse(dora, f"weights are decomposed (DoRA) in LoCon alone; a plain {kind} is trained")
        else:
            to.drop(dora, "off")
    for each in (algorithm, module):
        to.note(each, "changed" if reason else "mapped", "network.network_type", kind, reason)
    return kind


def _fill_in_convolutions(kind: str, items: dict[str, Given], arguments: dict[str, Given]) -> None:
    """LyCORIS gives convolutions the network's own rank and alpha where it is not told otherwise; so does locon here,
    and the other types have to be told."""
    if kind == "lora" or kind not in schema.USED_BY["conv_dim"] or (kind == "locon" and "conv_dim" not in items):
        return
    for name, source in (("conv_dim", "network_dim"), ("conv_alpha", "network_alpha")):
        if name not in items and source in arguments:
            items[name] = Given("", arguments[source].value)


def _translate_sizes(kind: str, items: dict[str, Given], arguments: dict[str, Given], to: Translation) -> None:
    for name in ("network_dim", "conv_dim"):
        source = arguments if name == "network_dim" else items
        each = source.pop(name, None)
        if each is None:
            continue
        size = _size(each)
        if size is None or size <= LARGEST_DIM:
            to.put(each, f"network.{name}")
        elif kind == "lokr":
            to.put(each, f"network.{name}", LARGEST_DIM, "a rank this large keeps LoKr's factors whole")
            to.settings["network.full_matrix"] = True
        else:
            to.refuse(each, f"at most {LARGEST_DIM}", setting=f"network.{name}", important=kind in _ranked())
            to.settings[f"network.{name}"] = LARGEST_DIM
    alpha = arguments.pop("network_alpha", None)
    if alpha is not None:
        if _is_zero(alpha):
            to.drop(alpha, "0 means the rank, as when it is left out")
        else:
            to.put(alpha, SETTING_OF["network_alpha"])


def _ranked() -> frozenset[str]:
    return schema.USED_BY["network_dim"]


def _translate_preset(each: Given, kind: str, to: Translation) -> None:
    name = str(each.value).strip()
    if name in _PRESETS:
        to.put(each, "network.lycoris_preset", name)
    elif name in ("unet-transformer-only", "transformer-only"):
        to.put(each, "network.lycoris_preset", "transformer-only", "the UNet's transformer blocks")
        to.settings["network.network_train_unet_only"] = True
        to.settings.pop("network.network_train_text_encoder_only", None)
    elif name == "ia3" and kind == "ia3":
        to.drop(each, "the network type decides")
    else:
        to.refuse(each, f"no such selection of layers here; they are {', '.join(_PRESETS)}, transformer-only")


def _size(each: Given) -> int | None:
    try:
        return whole(each.value)
    except ValueError:
        return None


def _is_zero(each: Given) -> bool:
    try:
        return number(each.value) == 0
    except ValueError:
        return False
