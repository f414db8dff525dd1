"""The form that a layer gets for a type of network."""

from collections.abc import Callable

from torch import nn

from loratory.adapters.forms.base import AddedForm, Form
from loratory.adapters.forms.decomposed import Decomposed
from loratory.adapters.forms.full import Full, Norm
from loratory.adapters.forms.glora import GLora
from loratory.adapters.forms.ia3 import IA3
from loratory.adapters.forms.loha import LoHa
from loratory.adapters.forms.lokr import LoKr
from loratory.adapters.forms.low_rank import DyLora, LowRank
from loratory.adapters.forms.rotation import Boft, DiagOft
from loratory.adapters.targets import Target
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

_DECOMPOSABLE: dict[str, Callable[[nn.Module, Target, NetworkSettings], AddedForm]] = {
    "lora": LowRank,
    "locon": LowRank,
    "dora": LowRank,
    "loha": LoHa,
    "lokr": LoKr,
}
_OTHERS: dict[str, Callable[[nn.Module, Target, NetworkSettings], Form]] = {
    "dylora": DyLora,
    "glora": GLora,
    "ia3": IA3,
    "diag-oft": DiagOft,
    "boft": Boft,
    "full": Full,
}


def make_form(base: nn.Module, target: Target, network: NetworkSettings) -> Form:
    """How `base` is trained: a Linear, a Conv2d, or a GroupNorm or LayerNorm with weights, which is trained whole.

    Raises LoratoryError for layers that the type cannot adapt, saying which and what to do.
    """
    if isinstance(base, nn.GroupNorm | nn.LayerNorm):
        return Norm(base, target, network)
    if isinstance(base, nn.Conv2d) and (base.groups != 1 or base.padding_mode != "zeros"):
        raise LoratoryError(f"{target.path} is a convolution with groups or special padding, which cannot be adapted.")
    make = _DECOMPOSABLE.get(network.network_type)
    if make is None:
        return _OTHERS[network.network_type](base, target, network)
    form = make(base, target, network)
    return Decomposed(form) if network.decomposes else form
