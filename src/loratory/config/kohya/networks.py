"""Network modules and their arguments as `[network]`."""

from collections.abc import Mapping
from typing import get_args

from loratory.config.kohya.network_sizes import fill_in_convolutions, size, translate_sizes
from loratory.config.kohya.report import Given
from loratory.config.kohya.settings import NETWORK_ARGS, OTHER_PRESETS, REFUSED_ARGS, SUPERFLUOUS_ARGS, is_unused
from loratory.config.kohya.translation import Translation
from loratory.config.kohya.values import is_empty, is_off, writable
from loratory.config.schema.network import OF_BLOCKS, USED_BY, WITHOUT_CONVOLUTIONS, LycorisPreset

OWN_NETWORK = "a LyCORIS type of Loratory"
"""The module of an adapter that Loratory wrote for loaders as one of LyCORIS."""

LYCORIS = frozenset({"lycoris.kohya", "lycoris.locon", "locon.locon_kohya"})
_NATIVE = {"networks.lora": "lora", "networks.dylora": "dylora", "networks.loha": "loha", "networks.lokr": "lokr"}
_ALGORITHMS = {"lora": "locon"} | {
    name: name for name in ("locon", "loha", "lokr", "dylora", "glora", "ia3", "diag-oft", "boft", "full")
}
_SELECTIONS: tuple[str, ...] = get_args(LycorisPreset)
_OTHER_SELECTIONS = {theirs: (ours, "") for ours, theirs in OTHER_PRESETS.items()} | {
    "full-lin": ("attn-mlp", "without convolutions")
}
_LOCON_DIFFERS = "LyCORIS also trains conv_in, conv_out and the time embedding, which LoCon here leaves alone"
_NATIVE_DIFFERS = "trained here as in LyCORIS: conv_in, conv_out and the time embedding too"
_NO_CONVOLUTIONS = "without 3x3 convolutions the transformer blocks are trained"
_IA3_LAYERS = "iA3 has a list of layers of its own here, that of LyCORIS' preset ia3"
_IA3_ALONE = f'without a preset LyCORIS takes "full", which scales all layers; {_IA3_LAYERS}'
_IA3_FEWER = f"LyCORIS scales all of these layers; {_IA3_LAYERS}"

_ONLY_THERE: dict[tuple[str, str], str] = {
    ("full", "rank_dropout"): "full has no ranks to leave out here; module_dropout leaves out whole layers",
    ("glora", "use_tucker"): "GLoRA has plain convolutions here",
    ("glora", "use_scalar"): "GLoRA starts from zeroed weights here",
}
"""What LyCORIS has for a type and Loratory has not, by type and item."""


def translate_network(arguments: dict[str, Given], network: Mapping[str, Given], to: Translation) -> None:
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
    name = str(module.value).strip()
    is_lycoris = name in LYCORIS | {OWN_NETWORK}
    _without_unused(name, items, arguments, to)
    kind = _lycoris_type(module, items, to) if is_lycoris else _native_type(module, items, to)
    to.settings["network.network_type"] = kind
    if is_lycoris:
        fill_in_convolutions(kind, items, arguments)
    else:
        _native_defaults(kind, items, arguments)
    _translate_layers(kind, items, to, is_own=name == OWN_NETWORK)
    translate_sizes(kind, items, arguments, to)
    for key, each in items.items():
        _translate_item(key, each, kind, to)


def _without_unused(module: str, items: dict[str, Given], arguments: dict[str, Given], to: Translation) -> None:
    """Takes out what the module knows nothing of, so that it does nothing here either."""
    for name in list(items):
        if is_unused(name, module):
            to.drop(items.pop(name), f"{module} does not use it")
        elif name in OF_BLOCKS and module in LYCORIS:
            to.drop(items.pop(name), "LyCORIS has no such argument")
    if module == "networks.dylora" and "network_dropout" in arguments:
        to.drop(arguments.pop("network_dropout"), f"{module} does not use it")


def _native_type(module: Given, items: dict[str, Given], to: Translation) -> str:
    name = str(module.value).strip()
    kind = _NATIVE.get(name, "lora")
    has_blocks = any(key in items for key in ("block_dims", "down_lr_weight", "mid_lr_weight", "up_lr_weight"))
    has_convolutions = "conv_dim" in items and size(items["conv_dim"]) != 0
    has_convolutions |= name == "networks.lora" and "conv_block_dims" in items and has_blocks
    if kind == "lora" and has_convolutions:
        kind = "locon"
    if name == "networks.lora_fa":
        to.refuse(
            module, "LoRA-FA freezes half of the adapter; a plain LoRA is trained", setting="network.network_type"
        )
    elif name not in _NATIVE:
        to.refuse(module, f"no such network here; {kind} is trained", setting="network.network_type")
    else:
        differs = _NATIVE_DIFFERS if has_convolutions and kind not in ("lora", "locon") else ""
        reason = "; ".join(filter(None, (module.reason, differs)))
        to.note(module, "changed" if reason else "mapped", "network.network_type", kind, reason)
    if kind == "lora":
        _without_conv_items(items, to, "no convolutions are trained")
    return kind


def _lycoris_type(module: Given, items: dict[str, Given], to: Translation) -> str:
    algorithm = items.pop("algo", Given("", "lora"))
    kind = _ALGORITHMS.get(str(algorithm.value).strip().lower(), "")
    if not kind:
        to.refuse(algorithm, "no such algorithm here; locon is trained", setting="network.network_type")
        kind = "locon"
    reason = ""
    if kind == "locon":
        selection = str(items["preset"].value) if "preset" in items else "full"
        reason = _LOCON_DIFFERS if selection == "full" and module.value != OWN_NETWORK else ""
        needs_locon = any(to.is_on(items.get(name)) for name in ("use_scalar", "train_norm"))
        if "conv_dim" in items and size(items["conv_dim"]) == 0 and not needs_locon:
            kind = _without_convolutions(items, to)
    if "dora_wd" in items and kind not in USED_BY["dora_wd"]:
        to.drop(items.pop("dora_wd"), f"LyCORIS does not decompose the weights of {kind} either")
    if kind == "ia3" and module.value != OWN_NETWORK and not ("preset" in items and items["preset"].key):
        to.refuse(algorithm, _IA3_ALONE)
    for each in (algorithm, module):
        to.note(each, "changed" if reason else "mapped", "network.network_type", kind, reason)
    if "rs_lora" in items and kind == "dylora":
        to.drop(items.pop("rs_lora"), "LyCORIS does not use it for dylora")
    return kind


def _without_convolutions(items: dict[str, Given], to: Translation) -> str:
    """LyCORIS' LoCon whose convolutions have rank 0: a plain LoRA, or a DoRA."""
    _without_conv_items(items, to, "LyCORIS trains no convolutions with 0")
    if not to.is_on(items.get("dora_wd")):
        return "lora"
    to.note(items.pop("dora_wd"), "mapped", "network.network_type", "dora")
    return "dora"


def _without_conv_items(items: dict[str, Given], to: Translation, reason: str) -> None:
    for name in ("conv_dim", "conv_alpha"):
        if name in items:
            to.drop(items.pop(name), reason)


def _native_defaults(kind: str, items: dict[str, Given], arguments: dict[str, Given]) -> None:
    """What sd-scripts' own modules do without being told, or always, and the types here do not."""
    if kind in ("lora", "locon"):
        return
    items.setdefault("conv_dim", Given("", 0))
    if kind == "dylora":
        items.setdefault("unit", Given("", 1))
        fill_in_convolutions(kind, items, arguments)
    elif "rank_dropout" in items:
        items.setdefault("rank_dropout_scale", Given("", True))


def _translate_layers(kind: str, items: dict[str, Given], to: Translation, *, is_own: bool) -> None:
    """Which layers are trained: LyCORIS' preset, and no 3x3 convolutions where `conv_dim` is 0."""
    if "preset" in items:
        _translate_preset(items.pop("preset"), kind, to, is_own=is_own)
    if kind in ("lora", "ia3") or "conv_dim" not in items or size(items["conv_dim"]) != 0:
        return
    selection = to.settings.get("network.lycoris_preset", "full")
    if selection not in WITHOUT_CONVOLUTIONS:
        transformers = "transformer-only" if selection == "unet-only" else "attn-mlp"
        to.put(items["conv_dim"], "network.lycoris_preset", transformers, _NO_CONVOLUTIONS)
    _without_conv_items(items, to, "no 3x3 convolutions are trained")


def _translate_preset(each: Given, kind: str, to: Translation, *, is_own: bool) -> None:
    name = str(each.value).strip()
    fewer = _IA3_FEWER if kind == "ia3" and not is_own else ""
    if kind == "ia3" and name == "ia3":
        to.drop(each, "the network type decides")
    elif kind == "ia3" and name == "full":
        to.refuse(each, _IA3_LAYERS)
    elif name in _SELECTIONS:
        to.put(each, "network.lycoris_preset", name, fewer)
    elif name in _OTHER_SELECTIONS:
        ours, differs = _OTHER_SELECTIONS[name]
        to.put(each, "network.lycoris_preset", ours, fewer or differs)
    else:
        to.refuse(each, f"no such selection of layers here; they are {', '.join(_SELECTIONS)}")


def _translate_item(name: str, each: Given, kind: str, to: Translation) -> None:
    if name in SUPERFLUOUS_ARGS:
        to.drop(each, SUPERFLUOUS_ARGS[name])
    elif name in REFUSED_ARGS and is_off(each.value):
        to.drop(each, "off")
    elif name in REFUSED_ARGS:
        to.refuse(each, REFUSED_ARGS[name])
    elif name not in NETWORK_ARGS:
        to.refuse(each, "not known here", important=False)
    elif name.startswith("loraplus") and is_off(each.value):
        to.drop(each, "off")
    elif (kind, name) in _ONLY_THERE and not is_off(each.value):
        to.refuse(each, _ONLY_THERE[kind, name])
    else:
        to.put(each, NETWORK_ARGS[name])
