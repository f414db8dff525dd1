"""Settings whose machinery does not exist yet. A run that asks for one is refused rather than run without it."""

from collections.abc import Iterator
from typing import Any

from loratory.config.describe import show
from loratory.config.fields import FIELDS, TABLES
from loratory.config.schema import Config, changed
from loratory.errors import LoratoryError

_BUILT_VALUES: dict[str, tuple[frozenset[str], str]] = {
    "network.network_type": (frozenset({"lora", "locon", "dora"}), 'use "lora", "locon" or "dora"'),
    "network.lycoris_preset": (
        frozenset({"full"}),
        "the network type decides which layers are trained, and network_train_unet_only leaves the text encoder out",
    ),
}
"""Settings of which some values work: those, and the nearest thing to the others."""

_DROPOUT = "use network_dropout, rank_dropout or scale_weight_norms against overfitting"
_ONE_SIZE = "every block gets network_dim and network_alpha, or conv_dim and conv_alpha"
_ONE_RATE = "every block learns at unet_lr"

_UNBUILT: dict[str, str] = {
    "network.use_tucker": "leave it out; convolutions get a plain adapter of rank conv_dim",
    "network.use_scalar": "leave it out; the adapter starts at zero without it",
    "network.wd_on_output": "leave it at true: one magnitude per output",
    "network.train_norm": "leave it out; linear layers and convolutions are trained",
    "network.bypass_mode": "leave it out; it changes speed, not the result",
    "network.rank_dropout_scale": _DROPOUT,
    "network.block_dims": _ONE_SIZE,
    "network.block_alphas": _ONE_SIZE,
    "network.conv_block_dims": _ONE_SIZE,
    "network.conv_block_alphas": _ONE_SIZE,
    "network.down_lr_weight": _ONE_RATE,
    "network.mid_lr_weight": _ONE_RATE,
    "network.up_lr_weight": _ONE_RATE,
    "network.block_lr_zero_threshold": _ONE_RATE,
}
"""Settings that do not work at all yet, each with the nearest thing that does."""


UNBUILT_NAMES = frozenset(_UNBUILT)
"""The settings of which no value but the default works."""


def unbuilt_settings(config: Config) -> list[str]:
    """One sentence for each setting that this version cannot carry out, with the nearest thing that works."""
    return list(_sentences(config))


def refuse_unbuilt(config: Config) -> None:
    """Raises LoratoryError naming every setting that this version cannot carry out."""
    sentences = unbuilt_settings(config)
    if sentences:
        raise LoratoryError("\n".join(sentences))


def _sentences(config: Config) -> Iterator[str]:
    for name in FIELDS:
        table, _, key = name.rpartition(".")
        if table not in TABLES:
            continue
        settings: Any = getattr(config, table)
        value = getattr(settings, key)
        if name in _UNBUILT and changed(settings, key):
            yield _sentence(name, value, _UNBUILT[name])
        elif name in _BUILT_VALUES and value not in _BUILT_VALUES[name][0]:
            yield _sentence(name, value, _BUILT_VALUES[name][1])


def _sentence(name: str, value: object, nearest: str) -> str:
    return f"{name} = {show(value)} is not built yet: {nearest}."
