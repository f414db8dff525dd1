import pytest
import torch
from torch.utils.checkpoint import checkpoint

from adapter_models import fill, tiny_models, token_ids, unet_inputs
from loratory.adapters.inject import inject
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError


def injected(family="sd1", *, seed=5, train_unet=True, train_text_encoder=True, **network):
    unet, encoders = tiny_models(family)
    settings = NetworkSettings(**{"network_type": "lora", "network_dim": 4, "network_alpha": 2, **network})
    adapter = inject(
        unet, encoders, family, settings, seed=seed, train_unet=train_unet, train_text_encoder=train_text_encoder
    )
    return unet, encoders, adapter


@torch.no_grad()
def unet_output(unet, family="sd1"):
    return unet(**unet_inputs(family)).sample


@torch.no_grad()
def text_output(encoder):
    return encoder(input_ids=token_ids(), output_hidden_states=True).hidden_states[-1]


def first_layer(adapter, suffix):
    return next(layer for layer in adapter.layers if layer.target.path.endswith(suffix))


def contribution(layer, x):
    """What the adapter of one module adds to the module's output."""
    peft_layer = layer.peft_layer
    return peft_layer(x) - peft_layer.get_base_layer()(x)


def merge_into_base(adapter, unet, encoders, state):
    """Adds every module's change to the weights of fresh models, from the names and numbers of a file alone."""
    models = {"unet": unet, "te1": encoders[0], "te2": encoders[-1]}
    for target in adapter.targets:
        weight = models[target.component].get_submodule(target.path).weight
        down, up, alpha = (state[f"{target.key}.{role}"] for role in ("lora_down.weight", "lora_up.weight", "alpha"))
        change = (up.flatten(1) @ down.flatten(1)) * (alpha / down.shape[0])
        merged = weight.data + change.reshape(weight.shape)
        scale = state.get(f"{target.key}.dora_scale")
        if scale is not None:
            norm = merged.flatten(1).norm(dim=1).reshape(scale.shape)
            merged = merged * (scale / norm)
        weight.data = merged


CASES = [
    ("sd1", {}),
    ("sd1", {"network_type": "locon", "conv_dim": 2, "conv_alpha": 1}),
    ("sd1", {"rs_lora": True}),
    ("sd1", {"network_type": "dora", "conv_dim": 2}),
    ("sd2", {"network_type": "locon"}),
    ("sdxl", {"network_type": "locon"}),
]


@pytest.mark.parametrize(("family", "network"), CASES)
def test_an_untrained_adapter_changes_nothing(family, network):
    unet, encoders = tiny_models(family)
    expected = unet_output(unet, family), [text_output(encoder) for encoder in encoders]
    unet, encoders, _ = injected(family, **network)
    assert torch.equal(unet_output(unet, family), expected[0])
    for encoder, hidden in zip(encoders, expected[1], strict=True):
        assert torch.equal(text_output(encoder), hidden)


@pytest.mark.parametrize(("family", "network"), CASES)
def test_the_adapter_computes_what_its_file_says(family, network):
    unet, encoders, adapter = injected(family, **network)
    fill(adapter)
    plain_unet, plain_encoders = tiny_models(family)
    base = unet_output(plain_unet, family)
    merge_into_base(adapter, plain_unet, plain_encoders, adapter.kohya_state_dict())
    expected = unet_output(plain_unet, family)
    assert (expected - base).abs().max() > 1e-2
    assert torch.allclose(unet_output(unet, family), expected, atol=1e-5)
    for encoder, plain in zip(encoders, plain_encoders, strict=True):
        assert torch.allclose(text_output(encoder), text_output(plain), atol=1e-5)


@pytest.mark.parametrize(("family", "network"), CASES)
def test_disabled_and_strength_zero_give_the_base_model(family, network):
    base = unet_output(tiny_models(family)[0], family)
    unet, _, adapter = injected(family, **network)
    fill(adapter)
    trained = unet_output(unet, family)
    with adapter.disabled():
        assert torch.equal(unet_output(unet, family), base)
    assert torch.equal(unet_output(unet, family), trained)
    adapter.multiplier = 0.0
    assert torch.equal(unet_output(unet, family), base)
    adapter.multiplier = 1.0
    assert torch.equal(unet_output(unet, family), trained)


@pytest.mark.parametrize(("family", "network"), CASES)
def test_every_trained_tensor_gets_a_gradient(family, network):
    unet, encoders, adapter = injected(family, **network)
    fill(adapter)
    loss = unet(**unet_inputs(family)).sample.square().mean()
    for encoder in encoders:
        loss = loss + encoder(input_ids=token_ids()).last_hidden_state.square().mean()
    loss.backward()
    for component in ("unet", "te1", "te2"):
        for name, parameter in adapter.named_parameters(component):
            assert parameter.grad is not None and parameter.grad.any(), name


def test_disabled_leaves_requires_grad_as_the_loop_set_it():
    _, _, adapter = injected()
    frozen = adapter.parameters("te1")[0].requires_grad_(False)
    with adapter.disabled():
        pass
    assert not frozen.requires_grad
    assert adapter.parameters("unet")[0].requires_grad


@pytest.mark.parametrize("network_type", ["locon", "dora"])
@pytest.mark.parametrize(("suffix", "shape"), [("attn1.to_q", (2, 9, 16)), ("resnets.0.conv1", (2, 16, 4, 4))])
def test_strength_scales_the_output_change_of_a_module(network_type, suffix, shape):
    _, _, adapter = injected(network_type=network_type, conv_dim=2)
    fill(adapter)
    layer = first_layer(adapter, suffix)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full = contribution(layer, x)
        adapter.multiplier = 0.5
        assert adapter.multiplier == 0.5
        half = contribution(layer, x)
    assert full.abs().max() > 0.1
    assert torch.allclose(half, full / 2, atol=1e-6)


def test_the_adapter_takes_over_the_mode_of_the_model():
    unet, _, adapter = injected()
    assert not any(module.training for layer in adapter.layers for module in layer.peft_layer.modules())
    unet.train()
    assert all(layer.peft_layer.training for layer in adapter.layers if layer.target.component == "unet")


def test_only_the_adapter_is_trained_and_in_float32():
    unet, encoders = tiny_models()
    unet.to(torch.bfloat16).requires_grad_(True)
    adapter = inject(
        unet,
        encoders,
        "sd1",
        NetworkSettings(network_type="locon", network_dim=4),
        seed=1,
        train_unet=True,
        train_text_encoder=True,
    )
    trained = {id(parameter) for name in ("unet", "te1") for parameter in adapter.parameters(name)}
    models = [unet, *encoders]
    assert {id(p) for model in models for p in model.parameters() if p.requires_grad} == trained
    assert {p.dtype for p in adapter.parameters("unet")} == {torch.float32}
    assert len(trained) == 2 * len(adapter.targets)
    assert adapter.parameters("te2") == []


def test_components_that_are_not_trained_are_left_alone():
    _, encoders, adapter = injected(train_text_encoder=False)
    assert {target.component for target in adapter.targets} == {"unet"}
    assert not any("lora" in name for name, _ in encoders[0].named_modules())
    assert not any(parameter.requires_grad for parameter in encoders[0].parameters())


def test_initial_values_depend_on_seed_and_name_alone():
    everything = injected()[2].kohya_state_dict()
    torch.manual_seed(99)
    unet_only = injected(train_text_encoder=False)[2].kohya_state_dict()
    assert all(torch.equal(value, everything[name]) for name, value in unet_only.items())
    other_seed = injected(seed=6)[2].kohya_state_dict()
    downs = [name for name in everything if name.endswith("lora_down.weight")]
    assert not any(torch.equal(everything[name], other_seed[name]) for name in downs)
    assert len({float(everything[name].flatten()[0]) for name in downs}) == len(downs)
    for name in downs:
        bound = everything[name][0].numel() ** -0.5
        assert 0.5 * bound < everything[name].abs().max() <= bound
    assert not any(value.any() for name, value in everything.items() if name.endswith("lora_up.weight"))


def test_injecting_does_not_touch_the_global_random_state():
    unet, encoders = tiny_models()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    settings = NetworkSettings(network_type="dora", conv_dim=2)
    inject(unet, encoders, "sd1", settings, seed=1, train_unet=True, train_text_encoder=True)
    assert torch.equal(torch.rand(1), expected)


def test_a_second_injection_is_a_defect():
    unet, encoders, _ = injected()
    with pytest.raises(RuntimeError):
        inject(unet, encoders, "sd1", NetworkSettings(), seed=1, train_unet=True, train_text_encoder=True)


# -- half precision


@pytest.mark.parametrize("network", [{}, {"network_type": "dora", "conv_dim": 2}])
def test_half_precision_base_under_autocast(network):
    unet, _, adapter = injected(**network)
    fill(adapter)
    expected = unet_output(unet)
    unet.to(torch.bfloat16)
    for parameter in adapter.parameters("unet"):
        parameter.data = parameter.data.float()
    with torch.autocast("cpu", torch.bfloat16):
        output = unet_output(unet)
    assert output.dtype == torch.bfloat16
    assert (output.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_inputs_stay_in_half_precision_under_autocast():
    unet, _, adapter = injected()
    unet.to(torch.bfloat16)
    module = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    for parameter in adapter.parameters("unet"):
        parameter.data = parameter.data.float()
    seen = []
    module.lora_A["default"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    x = torch.randn(1, 4, 32, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        module(x)
    module(x)
    assert seen == [torch.bfloat16, torch.float32]


def test_dora_is_the_base_model_at_first_also_in_half_precision():
    base_unet = tiny_models()[0].to(torch.bfloat16)
    unet, encoders = tiny_models()
    unet.to(torch.bfloat16)
    settings = NetworkSettings(network_type="dora", network_dim=4, conv_dim=4)
    inject(unet, encoders, "sd1", settings, seed=1, train_unet=True, train_text_encoder=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(unet_output(unet), unet_output(base_unet))


# -- dropouts


MODULES = [("attn1.to_q", (64, 9, 16)), ("time_emb_proj", (64, 64)), ("resnets.0.conv1", (64, 16, 4, 4))]


@pytest.mark.parametrize(("suffix", "shape"), MODULES)
def test_rank_dropout_drops_ranks_of_whole_samples(suffix, shape):
    _, _, adapter = injected(network_type="locon", network_dim=4, conv_dim=4, rank_dropout=0.25)
    fill(adapter)
    layer = first_layer(adapter, suffix)
    layer.peft_layer.train()
    seen = []
    layer.peft_layer.lora_B["default"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    with torch.no_grad():
        layer.peft_layer(x)
        layer.peft_layer.eval()
        layer.peft_layer(x)
    dropped, whole = (ranks if ranks.dim() == 4 else ranks.reshape(64, -1, 4, 1).transpose(1, 2) for ranks in seen)
    kept = (dropped != 0).flatten(2).any(dim=2)
    assert kept.shape == (64, 4)
    assert 0.6 < kept.float().mean() < 0.9
    expected = torch.where(kept[:, :, None, None], whole / 0.75, torch.zeros(()))
    assert torch.allclose(dropped, expected, atol=1e-6)


def test_network_dropout_acts_in_rank_space_and_keeps_the_mean():
    _, _, adapter = injected(network_dropout=0.5)
    fill(adapter)
    layer = first_layer(adapter, "attn1.to_q")
    x = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = contribution(layer, x)
        layer.peft_layer.train()
        torch.manual_seed(0)
        many = contribution(layer, x.expand(4000, 1, 16))
    assert torch.linalg.matrix_rank(many[:, 0]) <= 4
    assert torch.unique((many[:, 0] * 1000).round(), dim=0).shape[0] == 2**4
    assert torch.allclose(many.mean(dim=0), whole[0], atol=0.1 * float(whole.abs().max()))


def test_module_dropout_skips_modules_and_leaves_them_without_gradient():
    unet, _, adapter = injected(module_dropout=0.5)
    fill(adapter)
    unet.train()
    torch.manual_seed(0)
    unet(**unet_inputs()).sample.sum().backward()
    layers = [layer for layer in adapter.layers if layer.target.component == "unet"]
    skipped = [layer for layer in layers if not layer.down.grad.any()]
    assert all(layer.up.grad.any() == layer.down.grad.any() for layer in layers)
    assert 0.2 < len(skipped) / len(layers) < 0.8


def test_a_pass_that_skips_every_module_still_goes_back():
    unet, _, adapter = injected(module_dropout=0.999999)
    fill(adapter)
    unet.train()
    unet(**unet_inputs()).sample.sum().backward()
    assert not any(parameter.grad.any() for parameter in adapter.parameters("unet"))


@pytest.mark.parametrize("dropout", ["network_dropout", "rank_dropout", "module_dropout"])
def test_dropouts_act_only_in_training_and_follow_the_seed(dropout):
    unet, _, adapter = injected(**{dropout: 0.5})
    fill(adapter)
    plain = injected()
    fill(plain[2])
    expected = unet_output(plain[0])
    assert torch.equal(unet_output(unet), expected)
    unet.train()
    torch.manual_seed(3)
    first = unet_output(unet)
    second = unet_output(unet)
    torch.manual_seed(3)
    assert torch.equal(unet_output(unet), first)
    assert not torch.equal(first, second)
    assert not torch.equal(first, expected)


def test_gradient_checkpointing_replays_the_dropouts():
    def gradients(checkpointed):
        unet, _, adapter = injected(network_dropout=0.3, rank_dropout=0.3, module_dropout=0.3)
        fill(adapter)
        unet.train()
        if checkpointed:
            unet.enable_gradient_checkpointing(lambda function, *args: checkpoint(function, *args, use_reentrant=False))
        torch.manual_seed(11)
        inputs = unet_inputs()
        unet(**inputs).sample.square().sum().backward()
        return {name: parameter.grad for name, parameter in adapter.named_parameters("unet")}

    plain, replayed = gradients(False), gradients(True)
    assert sum(not gradient.any() for gradient in plain.values()) > 0
    for name, gradient in plain.items():
        assert torch.allclose(replayed[name], gradient, atol=1e-6)


# -- state


@pytest.mark.parametrize(("family", "network"), CASES)
def test_the_file_state_restores_the_function(family, network):
    unet, _, adapter = injected(family, **network)
    fill(adapter)
    state = adapter.kohya_state_dict()
    assert all(value.dtype == torch.float32 and value.is_contiguous() for value in state.values())
    other_unet, _, other = injected(family, seed=77, **network)
    other.load_kohya_state_dict(state)
    assert torch.equal(unet_output(other_unet, family), unet_output(unet, family))
    again = other.kohya_state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in state.items())


def test_shapes_in_files():
    state = injected("sd2", network_type="dora", network_dim=4, conv_dim=2)[2].kohya_state_dict()
    block = "lora_unet_down_blocks_0_attentions_0"
    assert state[f"{block}_proj_in.lora_down.weight"].shape == (4, 16, 1, 1)
    assert state[f"{block}_proj_in.lora_up.weight"].shape == (16, 4, 1, 1)
    assert state[f"{block}_transformer_blocks_0_attn1_to_q.lora_down.weight"].shape == (4, 16)
    assert state[f"{block}_transformer_blocks_0_attn1_to_q.dora_scale"].shape == (16, 1)
    assert state["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"].shape == (2, 16, 3, 3)
    assert state["lora_unet_down_blocks_0_resnets_0_conv1.dora_scale"].shape == (16, 1, 1, 1)
    assert state["lora_unet_down_blocks_0_resnets_0_conv1.alpha"].shape == ()


def test_loading_accepts_both_shapes_of_sd2_projections():
    unet, _, adapter = injected("sd2")
    fill(adapter)
    state = {
        name: value.flatten(1) if "_proj_" in name and value.dim() == 4 else value
        for name, value in adapter.kohya_state_dict().items()
    }
    other_unet, _, other = injected("sd2", seed=8)
    other.load_kohya_state_dict(state)
    assert torch.equal(unet_output(other_unet), unet_output(unet))


def test_loading_accepts_diffusers_block_names_for_sdxl():
    unet, _, adapter = injected("sdxl")
    fill(adapter)
    state = adapter.kohya_state_dict()
    renamed = {
        name.replace(target.key, "lora_unet_" + target.path.replace(".", "_")): state[name]
        for target in adapter.targets
        for name in state
        if target.component == "unet" and name.startswith(target.key + ".")
    }
    renamed |= {name: value for name, value in state.items() if name.startswith("lora_te")}
    assert renamed.keys() != state.keys()
    other_unet, _, other = injected("sdxl", seed=8)
    other.load_kohya_state_dict(renamed)
    assert torch.equal(unet_output(other_unet, "sdxl"), unet_output(unet, "sdxl"))


def test_loading_a_file_of_another_alpha_keeps_its_function():
    unet, _, adapter = injected(network_alpha=1)
    fill(adapter)
    other_unet, _, other = injected(network_alpha=4)
    other.load_kohya_state_dict(adapter.kohya_state_dict())
    assert torch.allclose(unet_output(other_unet), unet_output(unet), atol=1e-6)
    without_alpha = {name: v for name, v in other.kohya_state_dict().items() if not name.endswith("alpha")}
    third_unet, _, third = injected(network_alpha=2)
    third.load_kohya_state_dict(without_alpha)
    assert torch.allclose(unet_output(third_unet), unet_output(unet), atol=1e-6)


def test_loading_another_network_is_an_error_that_names_tensors():
    _, _, adapter = injected()
    before = adapter.kohya_state_dict()
    state = injected(seed=9)[2].kohya_state_dict()
    name = next(name for name in state if name.endswith("lora_up.weight"))
    with pytest.raises(LoratoryError, match=name):
        adapter.load_kohya_state_dict({key: value for key, value in state.items() if key != name})
    with pytest.raises(LoratoryError, match="lora_unet_extra"):
        adapter.load_kohya_state_dict({**state, "lora_unet_extra.lora_up.weight": torch.zeros(1)})
    with pytest.raises(LoratoryError, match="shape"):
        adapter.load_kohya_state_dict(injected(network_dim=8)[2].kohya_state_dict())
    assert all(torch.equal(value, before[key]) for key, value in adapter.kohya_state_dict().items())


@pytest.mark.parametrize("network", [{}, {"network_type": "dora", "conv_dim": 2}])
def test_raw_state_is_exact_and_complete(network):
    _, _, adapter = injected(**network)
    fill(adapter)
    state = adapter.raw_state()
    parameters = [parameter for name in ("unet", "te1") for parameter in adapter.parameters(name)]
    assert len(state) == len(parameters)
    _, _, other = injected(seed=1, **network)
    other.load_raw_state(state)
    again = other.raw_state()
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    name, parameter = next(adapter.named_parameters("unet"))
    with torch.no_grad():
        parameter.add_(1)
    assert not torch.equal(state[name], adapter.raw_state()[name])
    state.pop(name)
    with pytest.raises(LoratoryError, match="another network"):
        other.load_raw_state(state)
