"""Ranks and alphas of networks, as sd-scripts and LyCORIS read them."""

from loratory.config.kohya.report import Given
from loratory.config.kohya.settings import SETTING_OF
from loratory.config.kohya.translation import Translation
from loratory.config.kohya.values import number, whole
from loratory.config.schema.network import USED_BY

LARGEST_DIM = 4096

_OF_EACH_LAYER = "Dynamic"
"""What the metadata of a file says whose layers have ranks and alphas of their own."""


def fill_in_convolutions(kind: str, items: dict[str, Given], arguments: dict[str, Given]) -> None:
    """LyCORIS gives convolutions the network's own rank and alpha where it is told one of the two alone, and DyLoRA of
    sd-scripts the network's alpha always; here `conv_alpha` has a default of its own, and does nothing without a rank.
    """
    for name, other, source in (
        ("conv_dim", "conv_alpha", "network_dim"),
        ("conv_alpha", "conv_dim", "network_alpha"),
    ):
        if name not in items and other in items and source in arguments and kind in USED_BY[name]:
            items[name] = Given("", arguments[source].value)


def translate_sizes(kind: str, items: dict[str, Given], arguments: dict[str, Given], to: Translation) -> None:
    """Ranks and alphas, which are taken out of `items` and `arguments`."""
    linear, conv = arguments.pop("network_dim", None), items.pop("conv_dim", None)
    is_whole = kind == "lokr" and _is_huge(linear) and (conv is None or _is_huge(conv))
    for name, each in (("network_dim", linear), ("conv_dim", conv)):
        if each is None:
            continue
        rank = size(each)
        if str(each.value) == _OF_EACH_LAYER:
            to.drop(each, "each layer had its own, as in the file that the run began with")
        elif rank is None or rank <= LARGEST_DIM:
            to.put(each, f"network.{name}")
        elif is_whole:
            to.put(each, "network.full_matrix", True, "a rank this large keeps LoKr's factors whole")
        elif kind == "lokr":
            to.put(each, f"network.{name}", LARGEST_DIM, "a rank this large keeps LoKr's factors whole all the same")
        else:
            is_read = kind in USED_BY["network_dim"]
            to.refuse(each, f"at most {LARGEST_DIM}", setting=f"network.{name}", important=is_read)
            to.settings[f"network.{name}"] = LARGEST_DIM
    conv_rank = to.settings.get("network.conv_dim")
    if conv_rank and "conv_alpha" in items and _is_zero(items["conv_alpha"]):
        to.put(items.pop("conv_alpha"), "network.conv_alpha", float(conv_rank), "0 means the rank")
    alpha = arguments.pop("network_alpha", None)
    if alpha is None:
        return
    if str(alpha.value) == _OF_EACH_LAYER:
        to.drop(alpha, "each layer had its own, as in the file that the run began with")
    elif is_whole:
        to.drop(alpha, "whole factors have no alpha")
    elif _is_zero(alpha):
        to.drop(alpha, "0 means the rank, as when it is left out")
    else:
        to.put(alpha, SETTING_OF["network_alpha"])


def size(each: Given) -> int | None:
    """The rank that is given; None for what is no whole number."""
    try:
        return whole(each.value)
    except ValueError:
        return None


def _is_huge(each: Given | None) -> bool:
    return each is not None and (size(each) or 0) > LARGEST_DIM


def _is_zero(each: Given) -> bool:
    try:
        return number(each.value) == 0
    except ValueError:
        return False
