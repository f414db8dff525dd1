"""The types of network in one layer: each computes what its file means, in training and out of it."""

import contextlib
import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from loratory.adapters.adapted import Adapted
from loratory.adapters.deltas import delta, magnitudes
from loratory.adapters.forms import make_form
from loratory.adapters.roles import ALPHA, DORA_SCALE
from loratory.adapters.targets import Target
from loratory.config.factors import butterfly_size, butterfly_sizes, factors
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError
from loratory.training.frozen_layers import StoredWeight, freeze

RANK, ALPHA_VALUE = 4, 3.0

KINDS: dict[str, dict[str, Any]] = {
    "locon": {"network_type": "locon"},
    "locon-tucker": {"network_type": "locon", "use_tucker": True},
    "locon-scalar": {"network_type": "locon", "use_scalar": True},
    "dora": {"network_type": "dora"},
    "dora-inputs": {"network_type": "locon", "dora_wd": True, "wd_on_output": False},
    "loha": {"network_type": "loha"},
    "loha-tucker": {"network_type": "loha", "use_tucker": True},
    "loha-scalar": {"network_type": "loha", "use_scalar": True},
    "loha-dora": {"network_type": "loha", "dora_wd": True},
    "lokr": {"network_type": "lokr"},
    "lokr-4": {"network_type": "lokr", "factor": 4},
    "lokr-2-tucker": {"network_type": "lokr", "factor": 2, "use_tucker": True},
    "lokr-both": {"network_type": "lokr", "factor": 16, "decompose_both": True},
    "lokr-whole": {"network_type": "lokr", "factor": 4, "full_matrix": True},
    "lokr-scalar": {"network_type": "lokr", "factor": 2, "use_scalar": True},
    "lokr-dora-inputs": {"network_type": "lokr", "factor": 2, "dora_wd": True, "wd_on_output": False},
    "dylora": {"network_type": "dylora", "block_size": 2},
    "glora": {"network_type": "glora"},
    "ia3": {"network_type": "ia3"},
    "ia3-inputs": {"network_type": "ia3"},
    "diag-oft": {"network_type": "diag-oft"},
    "diag-oft-rescaled": {"network_type": "diag-oft", "rescaled": True, "constraint": 0.01},
    "boft": {"network_type": "boft"},
    "boft-rescaled": {"network_type": "boft", "rescaled": True, "constraint": 0.01},
    "full": {"network_type": "full"},
}
DECOMPOSED = {"dora", "dora-inputs", "loha-dora", "lokr-dora-inputs"}

# Which kinds read a dropout.
READS = {
    "network_dropout": ["locon", "locon-tucker", "dylora", "glora"],
    "rank_dropout": ["locon", "loha", "lokr-4", "dylora", "glora", "diag-oft", "boft"],
    "module_dropout": [kind for kind in KINDS if kind not in DECOMPOSED],
}

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(24, 40),
    "linear without bias": lambda: nn.Linear(40, 24, bias=False),
    "1x1": lambda: nn.Conv2d(24, 40, 1),
    "3x3": lambda: nn.Conv2d(24, 40, 3, padding=1),
    "strided": lambda: nn.Conv2d(40, 24, 3, stride=2, padding=1),
}
NORMS: dict[str, Callable[[], nn.Module]] = {
    "group norm": lambda: nn.GroupNorm(4, 40),
    "layer norm": lambda: nn.LayerNorm(24),
}


def layer_named(name: str) -> nn.Module:
    torch.manual_seed(5)
    layer = (LAYERS | NORMS)[name]().requires_grad_(False)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def target_of(layer: nn.Module, *, rank: int, on_input: bool = False) -> Target:
    is_conv = isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
    is_norm = isinstance(layer, nn.GroupNorm | nn.LayerNorm)
    path = "block.ff.net.2" if on_input else "block.attn1.to_k"
    return Target("unet", path, "lora_unet_block", rank, ALPHA_VALUE, is_conv, is_norm)


def adapted(kind: str, layer: nn.Module, *, rank: int | None = None, trained: bool = True, **settings: Any) -> Adapted:
    """A layer with a network of a kind; trained: away from where it starts."""
    if rank is None:
        rank = 10 if kind.startswith("boft") else RANK
    network = NetworkSettings(**(KINDS[kind] | settings))
    form = make_form(layer, target_of(layer, rank=rank, on_input=kind == "ia3-inputs"), network)
    module = Adapted(layer, form, form.initial(torch.Generator().manual_seed(7)))
    if trained:
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for name, tensor in module.tensors().items():
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
                if name == DORA_SCALE:
                    tensor.abs_()
    return module.eval()


def sample(layer: nn.Module, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    if isinstance(layer, nn.Conv2d | nn.GroupNorm):
        channels = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.num_channels
        return torch.randn(2, channels, 7, 6, generator=generator, dtype=dtype)
    weight = layer.get_parameter("weight")
    return torch.randn(2, 5, weight.shape[-1], generator=generator, dtype=dtype)


def with_weight(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, bias, layer.stride, layer.padding)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    return F.linear(x, weight, bias)


def by_definition(module: Adapted, x: Tensor, strength: float = 1.0) -> Tensor:
    """The layer with the change that its file describes."""
    layer = module.base_layer
    weight = layer.get_parameter("weight")
    bias: Tensor | None = layer.bias  # pyright: ignore[reportAssignmentType]
    change = delta(module.form.to_file(module.tensors()), weight)
    if bias is not None and change.bias is not None:
        bias = bias + strength * change.bias
    return with_weight(layer, x, weight + strength * change.weight, bias)


CASES = [
    *(pytest.param(kind, layer, id=f"{kind}-{layer}") for kind in KINDS for layer in LAYERS),
    *(pytest.param("full", layer, id=f"norm-{layer}") for layer in NORMS),
]
every_case = pytest.mark.parametrize(("kind", "name"), CASES)
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_case
def test_a_layer_computes_what_its_file_means(kind: str, name: str) -> None:
    module = adapted(kind, layer_named(name)).double()
    x = sample(module.base_layer)
    expected = by_definition(module, x)
    assert (module(x) - expected).abs().max() < 1e-12 * expected.abs().max()
    assert not torch.allclose(expected, module.base_layer(x), atol=1e-3)


@every_case
def test_the_network_changes_nothing_at_first(kind: str, name: str) -> None:
    module = adapted(kind, layer_named(name), trained=False)
    x = sample(module.base_layer, torch.float32)
    assert torch.equal(module(x), module.base_layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), module.base_layer(x))


@every_case
def test_half_precision_is_close(kind: str, name: str) -> None:
    module = adapted(kind, layer_named(name))
    x = sample(module.base_layer, torch.float32)
    expected = by_definition(module, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x)
    # Eight bits, rounded at a few places on the way.
    assert (found - expected).abs().max() < 0.04 * expected.abs().max()


@every_case
def test_files_bring_the_network_back(kind: str, name: str) -> None:
    module = adapted(kind, layer_named(name))
    state = module.form.to_file(module.tensors())
    values = module.form.from_file({role: tensor.detach() for role, tensor in state.items()})
    assert {name: value.shape for name, value in values.items()} == {
        name: tensor.shape for name, tensor in module.tensors().items()
    }
    x = sample(module.base_layer, torch.float32)
    expected = module(x)
    with torch.no_grad():
        for tensor_name, tensor in module.tensors().items():
            tensor.copy_(values[tensor_name])
    assert (module(x) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", ["locon", "locon-scalar", "dora", "loha", "lokr-4", "lokr-both", "dylora", "glora"])
def test_a_file_keeps_its_function_whatever_its_alpha(kind: str) -> None:
    module = adapted(kind, layer_named("3x3"))
    state = {role: tensor.detach() for role, tensor in module.form.to_file(module.tensors()).items()}
    for alpha in (torch.tensor(1.5), torch.tensor(8.0), None):
        other = {role: tensor for role, tensor in state.items() if role != ALPHA}
        if alpha is not None:
            other[ALPHA] = alpha
        weight = module.base_layer.get_parameter("weight")
        ours = delta(module.form.to_file(module.form.from_file(other)), weight).weight
        theirs = delta(other, weight).weight
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_files_of_another_network_are_refused() -> None:
    form = adapted("locon", layer_named("3x3")).form
    state = form.to_file(form.initial(torch.Generator()))
    with pytest.raises(LoratoryError, match=r"lora_up\.weight is missing"):
        form.from_file({role: tensor for role, tensor in state.items() if role != "lora_up.weight"})
    with pytest.raises(LoratoryError, match="dora_scale is no part of this network"):
        form.from_file(state | {DORA_SCALE: torch.ones(40, 1, 1, 1)})
    with pytest.raises(LoratoryError, match=r"\[8, 24, 3, 3\]; this network needs \[4, 24, 3, 3\]"):
        form.from_file(state | {"lora_down.weight": torch.ones(8, 24, 3, 3)})
    inputs = adapted("ia3-inputs", layer_named("linear")).form
    with pytest.raises(LoratoryError, match="scales the outputs"):
        inputs.from_file({"weight": torch.ones(24), "on_input": torch.tensor(0)})


def test_constraints_of_files() -> None:
    """A rotation keeps its angle under another constraint, or is refused where that would cut it."""
    layer = layer_named("linear")
    tight = adapted("diag-oft", layer, constraint=0.01)
    state = {role: tensor.detach() for role, tensor in tight.form.to_file(tight.tensors()).items()}
    free = adapted("diag-oft", layer).form
    ours = delta(free.to_file(free.from_file(state)), layer.get_parameter("weight")).weight
    assert torch.allclose(ours, delta(state, layer.get_parameter("weight")).weight, atol=1e-6)
    with pytest.raises(LoratoryError, match="further than constraint"):
        tight.form.from_file(state | {ALPHA: torch.tensor(0.0)})


# -- gradients


def gradients(output: Tensor, module: Adapted, x: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(13)
    direction = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    inputs = {"x": x} | dict(module.tensors())
    found = torch.autograd.grad((output * direction).sum(), list(inputs.values()))
    return dict(zip(inputs, found, strict=True))


@every_case
def test_gradients_are_those_of_the_definition(kind: str, name: str) -> None:
    module = adapted(kind, layer_named(name)).double()
    x = sample(module.base_layer).requires_grad_()
    found = gradients(module(x), module, x)
    expected = gradients(by_constant_norm(module, x) if kind in DECOMPOSED else by_definition(module, x), module, x)
    for tensor_name, gradient in expected.items():
        assert gradient.abs().max() > 0
        assert (found[tensor_name] - gradient).abs().max() < 1e-11 * gradient.abs().max(), tensor_name


def by_constant_norm(module: Adapted, x: Tensor) -> Tensor:
    """DoRA by its definition, where the norm counts as a constant for gradients."""
    layer = module.base_layer
    weight = layer.get_parameter("weight")
    state = module.form.to_file(module.tensors())
    magnitude = state.pop(DORA_SCALE)
    changed = weight + delta(state, weight).weight
    norms = magnitudes(changed, magnitude.shape[0] == weight.shape[0]).detach()
    return with_weight(layer, x, changed * magnitude / norms, layer.bias)  # pyright: ignore[reportArgumentType]


@every_kind
def test_every_tensor_learns_from_the_first_steps_on(kind: str) -> None:
    """At least one of the tensors has a gradient at once; after a step of those, all of them have."""
    module = adapted(kind, layer_named("3x3"), trained=False).train()
    x = sample(module.base_layer, torch.float32)
    for _ in range(12 if kind == "dylora" else 4):
        module.zero_grad()
        (module(x) - 1.0).square().mean().backward()
        with torch.no_grad():
            for tensor in module.tensors().values():
                if tensor.grad is not None:
                    tensor.sub_(0.05 * tensor.grad)
    start = module.form.initial(torch.Generator().manual_seed(7))
    still = [name for name, tensor in module.tensors().items() if torch.equal(tensor, start[name])]
    assert not still


@pytest.mark.parametrize("kind", ["locon-tucker", "dylora", "loha", "lokr-4", "glora", "diag-oft", "boft", "full"])
def test_checkpointing_replays_dropouts_and_draws(kind: str) -> None:
    rates: dict[str, Any] = {setting: 0.3 for setting, kinds in READS.items() if kind in kinds}
    module = adapted(kind, layer_named("3x3"), **rates).train()
    for seed in range(6):
        found: list[dict[str, Tensor | None]] = []
        for recomputed in (False, True):
            module.zero_grad()
            x = sample(module.base_layer, torch.float32).requires_grad_()
            torch.manual_seed(seed)
            output: Tensor = checkpoint(module, x, use_reentrant=False) if recomputed else module(x)  # pyright: ignore[reportAssignmentType]
            output.square().sum().backward()
            found.append({"x": x.grad} | {name: tensor.grad for name, tensor in module.tensors().items()})
        for name, plain in found[0].items():
            again = found[1][name]
            assert plain is again is None or (plain is not None and again is not None and torch.equal(plain, again))


@every_case
def test_nothing_waits_for_the_device(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no values to wait for, and no tensor of another device fits."""

    def is_autocast_enabled(_: str) -> bool:
        return False

    def autocast(_: str, **__: Any) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()

    # Autocast does not know this device.
    monkeypatch.setattr(torch, "is_autocast_enabled", is_autocast_enabled)
    monkeypatch.setattr(torch, "autocast", autocast)
    module = adapted(kind, layer_named(name)).to("meta").train()
    x = sample(module.base_layer, torch.float32).to("meta").requires_grad_()
    output = module(x)
    assert output.shape == module.base_layer(x).shape
    output.sum().backward()
    assert module.form.shrink(module.tensors(), 1.0).is_meta


@every_case
def test_half_precision_throughout(kind: str, name: str) -> None:
    """full_bf16: base, network and activations in 16 bits, without autocast."""
    module = adapted(kind, layer_named(name))
    x = sample(module.base_layer, torch.float32)
    expected = by_definition(module, x)
    module.bfloat16()
    found = module(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    found.sum().backward()
    module.form.shrink(module.tensors(), 0.1)


# -- strength and being away


@every_case
def test_strength_lies_on_the_line_and_disabled_is_the_base(kind: str, name: str) -> None:
    module = adapted(kind, layer_named(name)).double()
    x = sample(module.base_layer)
    base, trained = module.base_layer(x), module(x)
    module.strength = 0.5
    half = by_definition(module, x, 0.5)
    assert (module(x) - half).abs().max() < 1e-12 * half.abs().max()
    assert torch.allclose(module(x), (base + trained) / 2)
    module.is_disabled = True
    assert torch.equal(module(x), base)


def test_it_stands_in_the_place_of_the_layer() -> None:
    module = adapted("locon", layer_named("3x3"))
    assert module.stride == (1, 1)
    assert module.in_channels == 24
    assert module.weight is module.base_layer.weight
    with pytest.raises(AttributeError):
        _ = module.nothing_of_the_kind
    twin = copy.deepcopy(module)
    x = sample(module.base_layer, torch.float32)
    assert torch.equal(twin(x), module(x))
    with torch.no_grad():
        for tensor in module.tensors().values():
            tensor.zero_()
    assert torch.equal(module(x), module.base_layer(x))
    assert not torch.equal(twin(x), module(x))


@pytest.mark.parametrize(
    "kind", ["locon-tucker", "dylora", "loha", "lokr-4", "diag-oft", "boft", "ia3", "dora", "glora"]
)
@pytest.mark.parametrize("name", ["linear", "3x3"])
def test_stored_base_weights(kind: str, name: str) -> None:
    """A base weight at rest in eight bits: the network is the same on what comes out of it."""
    layer = layer_named(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    module = adapted(kind, layer)
    x = sample(layer, torch.float32).requires_grad_()
    rounded = freeze(layer, "int8", torch.device("cpu"), torch.float32).fetch(torch.device("cpu"), torch.float32)
    weight = rounded + delta(module.form.to_file(module.tensors()), rounded).weight
    expected = with_weight(layer, x, weight, layer.bias)
    assert (module(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    module(x).sum().backward()
    assert all(tensor.grad is not None for tensor in module.tensors().values())


@pytest.mark.parametrize("kind", ["locon-tucker", "dylora", "loha", "lokr-4", "diag-oft"])
def test_stored_base_weights_are_not_fetched_for_norms(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_named("linear")
    assert isinstance(layer, nn.Linear)
    module = adapted(kind, layer)
    freeze(layer, "int8", torch.device("cpu"), torch.float32)
    expected = module.form.norm(module.tensors()).detach()

    def fetch(*_: object) -> Tensor:
        raise AssertionError("the base weight was fetched")

    monkeypatch.setattr(StoredWeight, "fetch", fetch)
    assert module.form.shrink(module.tensors(), float(expected) / 2) == expected


@pytest.mark.parametrize("kind", ["dora-inputs", "loha", "lokr-2-tucker", "glora", "diag-oft-rescaled", "boft", "full"])
def test_it_is_compiled_in_one_piece(kind: str) -> None:
    layer = layer_named("3x3")
    module = adapted(kind, layer)
    x = sample(layer, torch.float32)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x))


# -- dropouts


@pytest.mark.parametrize(("setting", "kind"), [(setting, kind) for setting, kinds in READS.items() for kind in kinds])
@pytest.mark.parametrize("name", ["linear", "3x3"])
def test_dropouts_act_in_training_alone(setting: str, kind: str, name: str) -> None:
    rate: dict[str, Any] = {setting: 0.5}
    module = adapted(kind, layer_named(name), **rate)
    x = sample(module.base_layer, torch.float32)
    assert torch.equal(module(x), adapted(kind, layer_named(name))(x))
    module.train()
    torch.manual_seed(3)
    outputs = [module(x) for _ in range(12)]
    torch.manual_seed(3)
    assert all(torch.equal(module(x), output) for output in outputs)
    assert len({float(output.sum().detach()) for output in outputs}) > 1


def test_a_dropped_module_still_has_a_graph() -> None:
    for kind in READS["module_dropout"]:
        module = adapted(kind, layer_named("linear"), module_dropout=0.999999).train()
        torch.manual_seed(0)
        output = module(sample(module.base_layer, torch.float32))
        assert torch.equal(output, module.base_layer(sample(module.base_layer, torch.float32)))
        output.sum().backward()
        assert all(tensor.grad is None or not tensor.grad.any() for tensor in module.tensors().values())


def test_dropouts_honour_their_probability() -> None:
    draws = 400
    module = adapted("loha", layer_named("linear"), module_dropout=0.25).train()
    x = sample(module.base_layer, torch.float32)
    base = module.base_layer(x)
    torch.manual_seed(1)
    dropped = sum(torch.equal(module(x), base) for _ in range(draws))
    assert abs(dropped / draws - 0.25) < 4 * math.sqrt(0.25 * 0.75 / draws)

    module = adapted("lokr-4", layer_named("3x3"), rank_dropout=0.25).train()
    x = sample(module.base_layer, torch.float32)
    base = module.base_layer(x)
    without = [(module(x) - base).abs().amax(dim=(0, 2, 3)) == 0 for _ in range(draws // 10)]
    share = float(torch.stack(without).float().mean())
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / (draws // 10 * 40))


@pytest.mark.parametrize("kind", ["loha", "lokr-4", "dylora", "glora"])
@pytest.mark.parametrize("is_scaled", [False, True])
def test_rank_dropout_scale_keeps_the_mean(kind: str, is_scaled: bool) -> None:
    module = adapted(kind, layer_named("linear"), rank_dropout=0.5, rank_dropout_scale=is_scaled, block_size=RANK)
    x = sample(module.base_layer, torch.float32)
    with torch.no_grad():
        base = module.base_layer(x)
        change = module(x) - base
        torch.manual_seed(2)
        module.train()
        mean = torch.stack([module(x) - base for _ in range(1500)]).mean(0)
    ratio = float((mean * change).sum() / change.square().sum())
    assert ratio == pytest.approx(1.0 if is_scaled else 0.5, rel=0.06)


# -- DyLoRA


def test_dylora_trains_one_block_with_those_before_it() -> None:
    module = adapted("dylora", layer_named("3x3"), rank=8).train()
    layer = module.base_layer
    x = sample(layer, torch.float32)
    tensors = module.tensors()
    seen: set[int] = set()
    for seed in range(20):
        module.zero_grad()
        torch.manual_seed(seed)
        drawn = int(torch.randint(4, ()))
        torch.manual_seed(seed)
        output = module(x)
        output.square().sum().backward()
        learning = {name for name, tensor in tensors.items() if tensor.grad is not None}
        assert learning == {f"lora_down.weight.{drawn}", f"lora_up.weight.{drawn}"}
        used = 2 * (drawn + 1)
        state = module.form.to_file(tensors)
        down, up = state["lora_down.weight"][:used], state["lora_up.weight"][:, :used].flatten(1)
        scale = ALPHA_VALUE / 8 * math.sqrt(8 / used)
        expected = layer(x) + F.conv2d(F.conv2d(x, down, padding=1), scale * up[..., None, None])
        assert torch.allclose(output, expected, atol=1e-4)
        seen.add(drawn)
    assert seen == {0, 1, 2, 3}


def test_dylora_needs_whole_blocks() -> None:
    with pytest.raises(LoratoryError, match=r"block\.attn1\.to_k has the rank 6.*block_size = 4"):
        adapted("dylora", layer_named("linear"), rank=6, block_size=4)


# -- scale_weight_norms


@every_case
def test_norms_are_brought_to_the_limit(kind: str, name: str) -> None:
    module = adapted(kind, layer_named(name)).double()
    form, tensors = module.form, module.tensors()
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def measured() -> float:
        state = form.to_file(tensors)
        if "oft_blocks" in state:
            return float(state["oft_blocks"].norm())
        state.pop(DORA_SCALE, None)
        return float(delta(state, module.base_layer.get_parameter("weight")).weight.norm())

    norm = measured()
    reported = form.shrink(tensors, norm * 1.01)
    assert float(reported) == pytest.approx(norm)
    assert reported.dtype == torch.float64
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    assert float(form.shrink(tensors, norm / 3)) == pytest.approx(norm)
    assert measured() == pytest.approx(norm / 3, rel=1e-9)


@pytest.mark.parametrize("kind", ["loha", "lokr-4", "diag-oft", "full"])
def test_norms_on_a_gpu_without_float64(kind: str) -> None:
    module = adapted(kind, layer_named("linear"))
    with FakeTensorMode():  # tensors of a device that need not be there
        tensors = {name: torch.empty(tensor.shape, device="mps") for name, tensor in module.tensors().items()}
        assert module.form.norm(tensors).dtype == torch.float32


# -- shapes


@given(width=st.integers(1, 20000), factor=st.integers(-1, 300).filter(bool))
@settings(max_examples=300, deadline=None)
def test_factors(width: int, factor: int) -> None:
    smaller, larger = factors(width, factor)
    assert smaller * larger == width
    assert smaller <= larger
    if factor > 0 and width % factor == 0:
        assert factor in (smaller, larger)
    elif factor > 0:
        assert smaller <= factor
    else:
        assert not any(width % number == 0 for number in range(smaller + 1, math.isqrt(width) + 1))


def test_factors_of_known_widths() -> None:
    """The table in LyCORIS' documentation."""
    table = {
        127: [(1, 127)] * 5,
        128: [(8, 16), (2, 64), (4, 32), (8, 16), (8, 16)],
        250: [(10, 25), (2, 125), (2, 125), (5, 50), (10, 25)],
        360: [(18, 20), (2, 180), (4, 90), (8, 45), (15, 24)],
        512: [(16, 32), (2, 256), (4, 128), (8, 64), (16, 32)],
    }
    for width, expected in table.items():
        assert [factors(width, factor) for factor in (-1, 2, 4, 8, 16)] == expected


@given(
    outputs=st.integers(1, 40),
    inputs=st.integers(1, 40),
    factor=st.sampled_from([-1, 1, 2, 3, 4, 8, 64]),
    rank=st.integers(1, 6),
    both=st.booleans(),
    kernel=st.sampled_from([0, 1, 3]),
    tucker=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_lokr_of_any_width(
    outputs: int, inputs: int, factor: int, rank: int, both: bool, kernel: int, tucker: bool
) -> None:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2) if kernel else nn.Linear(inputs, outputs)
    layer = layer.requires_grad_(False)
    module = adapted("lokr", layer, rank=rank, factor=factor, decompose_both=both, use_tucker=tucker).double()
    x = sample(layer)
    expected = by_definition(module, x)
    assert (module(x) - expected).abs().max() <= 1e-11 * expected.abs().max()


def test_boft_widths() -> None:
    assert butterfly_sizes(320) == [10, 20, 40, 80, 160, 320]
    assert butterfly_sizes(9) == []
    assert butterfly_size(320, 9) is None
    assert butterfly_size(1280, 32) == 20
    widths = (4, 320, 640, 768, 1024, 1280, 2048, 2560, 3072, 4096, 5120, 10240)  # every layer of SD 1.x, SD 2 and SDXL
    assert {width for width in widths if butterfly_size(width, 9) is None} == {320, 640, 1280, 2560, 5120, 10240}
    assert all(butterfly_size(width, 10) is not None for width in widths)


def test_rotations_that_cannot_be_are_refused() -> None:
    with pytest.raises(LoratoryError, match=r"block\.attn1\.to_k: its 40 outputs") as refused:
        adapted("boft", layer_named("linear"), rank=8)
    assert "10 or more" in str(refused.value.hint)
    with pytest.raises(LoratoryError, match="7 outputs"):
        adapted("boft", nn.Linear(4, 7), rank=8)
    with pytest.raises(LoratoryError, match="blocks of one"):
        adapted("diag-oft", layer_named("linear"), rank=1)
    # As large as the layer: the most even blocks instead of none.
    assert adapted("diag-oft", nn.Linear(4, 4), rank=4).tensors()["oft_blocks"].shape == (2, 2, 2)


def test_lokr_without_a_rank_has_no_alpha() -> None:
    for settings_, rank in (({"full_matrix": True}, 4), ({}, 4096)):
        module = adapted("lokr", layer_named("linear"), rank=rank, factor=4, **settings_)
        state = module.form.to_file(module.tensors())
        assert float(state[ALPHA]) == rank
        assert state.keys() == {ALPHA, "lokr_w1", "lokr_w2"}


def test_layers_that_cannot_be_adapted_are_refused() -> None:
    with pytest.raises(LoratoryError, match="groups"):
        adapted("locon", nn.Conv2d(8, 8, 3, groups=2))
