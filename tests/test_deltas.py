"""What the tensors of a file mean, judged by LyCORIS: its modules and these formulas get the same tensors."""

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lycoris import modules as lycoris
from torch import Tensor, nn

from loratory.adapters.deltas import complete_kind, delta, needs_base
from loratory.adapters.forms import Form, make_form
from loratory.adapters.roles import ALPHA, DORA_SCALE
from loratory.adapters.targets import Target
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError

logging.getLogger("lycoris").setLevel(logging.ERROR)
# (LyCORIS' module, its settings, ours): alpha is 3 and the rank 4 unless they say otherwise.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "locon": ("locon.LoConModule", {}, {"network_type": "locon"}),
    "locon-tucker": ("locon.LoConModule", {"use_tucker": True}, {"network_type": "locon", "use_tucker": True}),
    "locon-scalar": ("locon.LoConModule", {"use_scalar": True}, {"network_type": "locon", "use_scalar": True}),
    "dora": ("locon.LoConModule", {"weight_decompose": True}, {"network_type": "dora"}),
    "dora-inputs": (
        "locon.LoConModule",
        {"weight_decompose": True, "wd_on_out": False},
        {"network_type": "dora", "wd_on_output": False},
    ),
    "loha": ("loha.LohaModule", {}, {"network_type": "loha"}),
    "loha-tucker": ("loha.LohaModule", {"use_tucker": True}, {"network_type": "loha", "use_tucker": True}),
    "loha-scalar": ("loha.LohaModule", {"use_scalar": True}, {"network_type": "loha", "use_scalar": True}),
    "loha-dora-inputs": (
        "loha.LohaModule",
        {"weight_decompose": True, "wd_on_out": False},
        {"network_type": "loha", "dora_wd": True, "wd_on_output": False},
    ),
    "lokr": ("lokr.LokrModule", {"lora_dim": 2}, {"network_type": "lokr"}),
    "lokr-4": (
        "lokr.LokrModule",
        {"factor": 4, "lora_dim": 2},
        {"network_type": "lokr", "factor": 4},
    ),
    "lokr-tucker": (
        "lokr.LokrModule",
        {"factor": 4, "lora_dim": 2, "use_tucker": True},
        {"network_type": "lokr", "factor": 4, "use_tucker": True},
    ),
    "lokr-both": (
        "lokr.LokrModule",
        {"decompose_both": True, "lora_dim": 1},
        {"network_type": "lokr", "decompose_both": True},
    ),
    "lokr-whole": (
        "lokr.LokrModule",
        {"full_matrix": True, "factor": 8},
        {"network_type": "lokr", "full_matrix": True, "factor": 8},
    ),
    "lokr-large": ("lokr.LokrModule", {"lora_dim": 100}, {"network_type": "lokr"}),
    "lokr-scalar": (
        "lokr.LokrModule",
        {"use_scalar": True, "factor": 2},
        {"network_type": "lokr", "use_scalar": True, "factor": 2},
    ),
    "lokr-dora": (
        "lokr.LokrModule",
        {"weight_decompose": True, "factor": 2},
        {"network_type": "lokr", "dora_wd": True, "factor": 2},
    ),
    "glora": ("glora.GLoRAModule", {}, {"network_type": "glora"}),
    "full": ("full.FullModule", {}, {"network_type": "full"}),
    "ia3": ("ia3.IA3Module", {}, {"network_type": "ia3"}),
    "ia3-inputs": ("ia3.IA3Module", {"train_on_input": True}, {"network_type": "ia3"}),
    "diag-oft": ("diag_oft.DiagOFTModule", {}, {"network_type": "diag-oft"}),
    "diag-oft-limit": (
        "diag_oft.DiagOFTModule",
        {"constraint": 0.01, "rescaled": True},
        {"network_type": "diag-oft", "constraint": 0.01, "rescaled": True},
    ),
    "boft": ("boft.ButterflyOFTModule", {"lora_dim": 12}, {"network_type": "boft"}),
    "boft-limit": (
        "boft.ButterflyOFTModule",
        {"lora_dim": 12, "constraint": 0.01, "rescaled": True},
        {"network_type": "boft", "constraint": 0.01, "rescaled": True},
    ),
}
LAYERS = {
    "linear": lambda: nn.Linear(24, 40),
    "1x1": lambda: nn.Conv2d(24, 40, 1),
    "3x3": lambda: nn.Conv2d(24, 40, 3, padding=1),
    "strided": lambda: nn.Conv2d(40, 24, 3, stride=2, padding=1),
}
# What LyCORIS cannot load of its own files. iA3: it calls itself with the wrong number of arguments. LoKr with a Tucker
# core: it takes a width for the rank. DoRA per input: it makes one per output.
UNLOADABLE = {"ia3", "ia3-inputs", "lokr-tucker", "dora-inputs", "loha-dora-inputs"}
every_case = pytest.mark.parametrize("case", CASES)
every_layer = pytest.mark.parametrize("name", LAYERS)


def layer_named(name: str) -> nn.Module:
    torch.manual_seed(5)
    return LAYERS[name]().requires_grad_(False)


def sample(layer: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    if isinstance(layer, nn.Conv2d):
        return torch.randn(2, layer.in_channels, 9, 8, generator=generator)
    return torch.randn(2, 5, layer.get_parameter("weight").shape[1], generator=generator)


def module_class(case: str) -> Any:
    file, _, name = CASES[case][0].partition(".")
    return getattr(getattr(lycoris, file), name)


def lycoris_module(case: str, layer: nn.Module, *, trained: bool = True) -> Any:
    module = module_class(case)("block", layer, 1.0, **({"lora_dim": 4, "alpha": 3} | CASES[case][1]))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if trained and name in ("dora_scale", "rescale"):
                parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
            elif trained:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def saved(case: str, module: Any) -> dict[str, Tensor]:
    """What LyCORIS' network writes of a module."""
    if case == "full":  # its own method wants the module put in its place first, and gives these differences
        return {"diff": module.weight.detach(), "diff_b": module.bias.detach()}
    own = module.custom_state_dict() if hasattr(module, "custom_state_dict") else None
    return {role: tensor.detach() for role, tensor in (own or module.state_dict()).items()}


def changed(layer: nn.Module, x: Tensor, state: dict[str, Tensor]) -> Tensor:
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    change = delta(state, weight)
    bias = bias if change.bias is None else bias + change.bias
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight + change.weight, bias, layer.stride, layer.padding)
    return F.linear(x, weight + change.weight, bias)


def difference(found: Tensor, expected: Tensor, base: Tensor) -> float:
    """The largest, relative to what the network changes."""
    return float((found - expected).abs().max() / (expected - base).abs().max())


@every_case
@every_layer
def test_the_change_is_that_of_lycoris(case: str, name: str) -> None:
    """Its forward pass is compared, not get_diff_weight: that has the scale twice for LoHa and LoKr (4.1.3)."""
    layer = layer_named(name)
    module, x = lycoris_module(case, layer), sample(layer)
    with torch.no_grad():
        found = changed(layer, x, saved(case, module))
        assert difference(found, module(x), layer(x)) < 1e-5


@pytest.mark.parametrize("layer", [nn.GroupNorm(4, 40), nn.LayerNorm(40)], ids=["group", "layer"])
def test_norms_are_those_of_lycoris(layer: nn.Module) -> None:
    torch.manual_seed(1)
    layer.requires_grad_(False)
    module = lycoris.norms.NormModule("block", layer).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 40)
    change = delta(saved("norm", module), layer.get_parameter("weight"))
    assert change.bias is not None
    expected = module(x)
    layer.get_parameter("weight").add_(change.weight)
    layer.get_parameter("bias").add_(change.bias)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-5)


def test_dylora_means_what_its_file_says() -> None:
    """LyCORIS trains DyLoRA at a scale that its file does not have; a file is alpha / rank, whoever wrote it."""
    layer = layer_named("3x3")
    module = lycoris.dylora.DyLoraModule("block", layer, lora_dim=8, alpha=2, block_size=4)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    state = saved("dylora", module)
    expected = (torch.cat([*module.up_list], 1) @ torch.cat([*module.down_list]) * 2 / 8).reshape(40, 24, 3, 3)
    assert torch.allclose(delta(state, layer.get_parameter("weight")).weight, expected, atol=1e-6)


def our_form(case: str, layer: nn.Module) -> Form:
    network = NetworkSettings(**CASES[case][2])
    path = "block.ff.net.2" if case == "ia3-inputs" else "block.attn1.to_k"
    is_conv = isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
    target = Target("unet", path, "block", CASES[case][1].get("lora_dim", 4), 3.0, is_conv)
    return make_form(layer, target, network)


@every_case
@every_layer
def test_files_have_the_tensors_of_lycoris(case: str, name: str) -> None:
    """The same roles and shapes, and the same alpha."""
    layer = layer_named(name)
    form = our_form(case, layer)
    ours: dict[str, Tensor] = form.to_file(form.initial(torch.Generator().manual_seed(1)))
    theirs = saved(case, lycoris_module(case, layer, trained=False))
    assert {role: tensor.shape for role, tensor in ours.items()} == {r: tensor.shape for r, tensor in theirs.items()}
    for role in (ALPHA, "on_input"):
        if role in ours:
            assert float(ours[role]) == pytest.approx(float(theirs[role]))


@every_case
@every_layer
def test_networks_start_as_in_lycoris(case: str, name: str) -> None:
    """The same spread of every tensor; averaged over a few draws."""
    layer = layer_named(name)
    form = our_form(case, layer)
    draws = [form.initial(torch.Generator().manual_seed(seed)) for seed in range(8)]
    modules: list[Any] = []
    for seed in range(8):
        torch.manual_seed(seed)
        modules.append(lycoris_module(case, layer, trained=False))
    for role in draws[0].keys() & saved(case, modules[0]).keys() - {"lora_up.weight", "hada_w1_a", "lokr_w1"}:
        ours = torch.stack([draw[role] for draw in draws])
        theirs = torch.stack([saved(case, module)[role].float() for module in modules])
        spread = float(theirs.square().mean().sqrt())
        if spread == 0:
            assert not ours.any(), role
        elif ours.numel() > 500:
            assert float(ours.square().mean().sqrt()) == pytest.approx(spread, rel=0.12), role


@every_case
@every_layer
def test_lycoris_loads_what_is_written(case: str, name: str) -> None:
    layer, x = layer_named(name), sample(layer_named(name))
    form = our_form(case, layer)
    generator = torch.Generator().manual_seed(4)
    tensors = {
        role: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
        for role, tensor in form.initial(generator).items()
    }
    state = form.to_file(tensors)
    kind = module_class(case)
    inputs = tuple(state.get(role) for role in kind.weight_list)
    with torch.no_grad():
        expected = changed(layer, x, state)
        if case in UNLOADABLE:
            if case != "lokr-tucker" or name in ("3x3", "strided"):
                with pytest.raises((TypeError, AttributeError, RuntimeError)):
                    kind.make_module_from_state_dict("block", layer, *inputs)
            return
        module = kind.make_module_from_state_dict("block", layer, *inputs).eval()
        assert difference(module(x), expected, layer(x)) < 1e-5


# -- on its own


def test_types_and_places() -> None:
    state = {"lora_down.weight": torch.randn(2, 6), "lora_up.weight": torch.randn(4, 2), ALPHA: torch.tensor(1.0)}
    weight = torch.randn(4, 6)
    exact = delta({role: tensor.double() for role, tensor in state.items()}, weight).weight
    assert exact.dtype == torch.float64
    half = {role: tensor.half() for role, tensor in state.items()}
    assert delta(half, weight.bfloat16()).weight.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(delta(state, weight).weight.double(), exact, atol=1e-6)
    # Where the values of the weight do not matter, there need not be any.
    assert torch.equal(delta(state, weight.to("meta")).weight, delta(state, weight).weight)
    del state[ALPHA]
    assert torch.allclose(delta(state, weight).weight.double(), 2 * exact, atol=1e-6)


def test_which_kinds_need_the_base() -> None:
    assert not needs_base({"lora_up.weight", "lora_down.weight", ALPHA})
    assert not needs_base({"hada_w1_a", "diff", "w_norm", "lokr_w1"})
    for roles in ({"lora_up.weight", DORA_SCALE}, {"a1.weight"}, {"weight", "on_input"}, {"oft_blocks", ALPHA}):
        assert needs_base(roles)


def test_glora_with_a_core() -> None:
    """LyCORIS names bm.weight, and has never been able to write one; its formula is that of a Tucker LoCon."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"a1": (6, 2, 1, 1), "a2": (2, 6, 1, 1), "b1": (4, 2, 1, 1), "b2": (2, 6, 1, 1), "bm": (2, 2, 3, 3)}
    state = {f"{role}.weight": torch.randn(shape, generator=generator) for role, shape in shapes.items()}
    weight = torch.randn(4, 6, 3, 3, generator=generator)
    through = torch.einsum("oikl,ir,rj->ojkl", weight, state["a1.weight"][..., 0, 0], state["a2.weight"][..., 0, 0])
    locon = {
        "lora_up.weight": state["b1.weight"],
        "lora_mid.weight": state["bm.weight"],
        "lora_down.weight": state["b2.weight"],
    }
    assert torch.allclose(delta(state, weight).weight, through + delta(locon, weight).weight, atol=1e-5)


def test_channels_of_nothing_stay_finite() -> None:
    """A row of zeros has the norm 0, and with it the magnitude: there DoRA gives 0, not NaN."""
    weight = torch.randn(3, 4)
    weight[1] = 0
    state = {
        "lora_down.weight": torch.randn(2, 4),
        "lora_up.weight": torch.zeros(3, 2),
        DORA_SCALE: weight.norm(dim=1, keepdim=True),
    }
    assert not delta(state, weight).weight.any()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({}, "none at all"),
        ({"foo": (1,)}, "no known kind of network: foo"),
        ({"lora_down.weight": (2, 6)}, r"kind lora has no lora_up\.weight"),
        ({"hada_w1_a": (4, 2), "hada_w1_b": (2, 6), "hada_w2_a": (4, 2)}, "has no hada_w2_b"),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (2, 1)}, "has no lokr_w2"),
        ({"lora_down.weight": (2, 6), "lora_up.weight": (4, 2), "hada_t1": (1,)}, "the unknown tensor hada_t1"),
        ({"lora_down.weight": (2, 5), "lora_up.weight": (4, 2)}, r"lora_down\.weight has the shape \[2, 5\]"),
        ({"lora_down.weight": (2, 6), "lora_up.weight": (4, 3)}, r"lora_up\.weight has the shape \[4, 3\]"),
        ({"lora_down.weight": (), "lora_up.weight": (4, 2)}, "1 dimensions or more"),
        ({"lora_down.weight": (0, 6), "lora_up.weight": (4, 0), ALPHA: ()}, "it is empty"),
        ({"lokr_w1": (3, 2), "lokr_w2": (2, 3)}, "3 x 2 blocks, which do not divide"),
        ({"diff": (4, 5)}, r"diff has the shape \[4, 5\]"),
        ({"diff": (4, 6), "diff_b": (6,)}, r"diff_b has the shape \[6\]"),
        ({"weight": (6,), "on_input": ()}, r"weight has the shape \[6\]; it must be \[4\]"),
        ({"oft_blocks": (3, 2, 2)}, "no rotation of 4 outputs"),
        ({"oft_blocks": (2, 2)}, "no rotation of 4 outputs"),
        ({"oft_blocks": (9, 2, 2, 2)}, "no rotation of 4 outputs"),
        ({"lora_down.weight": (2, 6), "lora_up.weight": (4, 2), DORA_SCALE: (5, 1)}, r"dora_scale has the shape"),
        ({"weight": (4,), "on_input": (0,)}, r"on_input has the shape \[0\]; it must be one number"),
        ({"oft_blocks": (2, 2, 2), ALPHA: (2,)}, r"alpha has the shape \[2\]; it must be one number"),
        ({"lora_down.weight": (2, 6), "lora_up.weight": (4, 2), ALPHA: (2,)}, "it must be one number"),
        ({"w_norm": (3,)}, r"w_norm has the shape \[3\]"),
    ],
)
def test_what_does_not_fit_is_named(state: dict[str, tuple[int, ...]], says: str) -> None:
    with pytest.raises(LoratoryError, match=says):
        delta({role: torch.zeros(shape) for role, shape in state.items()}, torch.randn(4, 6))


def test_a_norm_has_no_low_rank() -> None:
    for state in ({"lora_down.weight": (2, 4), "lora_up.weight": (4, 2)}, {"weight": (4,), "on_input": ()}):
        with pytest.raises(LoratoryError, match="fits linear layers and convolutions"):
            delta({role: torch.zeros(shape) for role, shape in state.items()}, torch.randn(4))


def test_complete_kinds() -> None:
    assert complete_kind({"lokr_w1_a", "lokr_w1_b", "lokr_w2", ALPHA}).name == "lokr"
    with pytest.raises(LoratoryError, match="unknown tensor lokr_w1"):
        complete_kind({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2"})
