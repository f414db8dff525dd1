"""Adapter files merged into the base model: the same model as base plus adapter, and what cannot be merged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapter_models import fill, tiny_models, token_ids, unet_inputs
from loratory.adapters.adapter import Adapter
from loratory.adapters.base_weights import merge_base_weights, refuse_unmergeable
from loratory.adapters.files import save_adapter
from loratory.adapters.inject import inject
from loratory.adapters.keys import diffusers_module_key
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError
from loratory.training.plan import make_plan
from material import make_set
from training_runs import engine_of, go_on_from, small_config, train


def adapted(family: str, network_type: str, **settings: Any) -> tuple[Any, list[Any], Adapter]:
    """Tiny models with a trained adapter of rank 4 and alpha 2 in them."""
    unet, encoders = tiny_models(family)
    network = NetworkSettings(network_type=network_type, network_dim=4, network_alpha=2, **settings)
    adapter = inject(unet, encoders, family, network, seed=1, train_unet=True, train_text_encoder=True)
    fill(adapter)
    unet.eval()
    for encoder in encoders:
        encoder.eval()
    return unet, encoders, adapter


def written(path: Path, adapter: Adapter, precision: str = "float") -> Path:
    save_adapter(path, adapter.kohya_state_dict(), {}, precision)
    return path


@torch.no_grad()
def outputs(unet: Any, encoders: list[Any], family: str) -> list[torch.Tensor]:
    return [unet(**unet_inputs(family)).sample, *(encoder(token_ids()).last_hidden_state for encoder in encoders)]


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("network_type", ["lora", "locon", "dora", "loha", "lokr", "glora"])
def test_a_merged_model_computes_what_base_and_adapter_do(tmp_path: Path, family: str, network_type: str) -> None:
    unet, encoders, adapter = adapted(family, network_type)
    path = written(tmp_path / "a.safetensors", adapter)
    plain = outputs(*tiny_models(family), family)
    adapter.multiplier = 0.7
    expected = outputs(unet, encoders, family)
    unet, encoders = tiny_models(family)
    merge_base_weights([path], [0.7], unet, encoders, family)
    for merged, reference, before in zip(outputs(unet, encoders, family), expected, plain, strict=True):
        torch.testing.assert_close(merged, reference, rtol=1e-4, atol=2e-5)
        assert (reference - before).abs().max() > 1e-3


def test_sdxl_blocks_may_be_named_as_diffusers_does(tmp_path: Path) -> None:
    _, _, adapter = adapted("sdxl", "lora")
    renamed = {t.key: diffusers_module_key(t.component, t.path, "sdxl") for t in adapter.targets}
    state = {
        f"{renamed[key]}.{role}": v
        for n, v in adapter.kohya_state_dict().items()
        for key, _, role in [n.partition(".")]
    }
    save_file(state, tmp_path / "diffusers.safetensors")
    results = []
    for path in (written(tmp_path / "a.safetensors", adapter), tmp_path / "diffusers.safetensors"):
        unet, encoders = tiny_models("sdxl")
        merge_base_weights([path], [], unet, encoders, "sdxl")
        results.append(outputs(unet, encoders, "sdxl"))
    assert set(renamed.values()) != set(renamed)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_convolution_in_tucker_decomposition(tmp_path: Path) -> None:
    unet, encoders = tiny_models()
    layer = unet.down_blocks[0].resnets[0].conv1
    down, mid = torch.nn.Conv2d(16, 3, 1, bias=False), torch.nn.Conv2d(3, 3, 3, padding=1, bias=False)
    up = torch.nn.Conv2d(3, 16, 1, bias=False)
    key = "lora_unet_down_blocks_0_resnets_0_conv1"
    roles = {"lora_down": down, "lora_mid": mid, "lora_up": up}
    state = {f"{key}.{role}.weight": module.weight.detach() for role, module in roles.items()}
    save_file(state | {f"{key}.alpha": torch.tensor(1.5)}, tmp_path / "tucker.safetensors")
    pixels = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        expected = layer(pixels) + 0.5 * up(mid(down(pixels)))
        merge_base_weights([tmp_path / "tucker.safetensors"], [], unet, encoders, "sd1")
        torch.testing.assert_close(layer(pixels), expected, rtol=1e-4, atol=1e-5)


def test_several_files_are_added_up_before_the_weight_is_rounded(tmp_path: Path) -> None:
    key, paths = "lora_te_text_model_encoder_layers_0_mlp_fc1", []
    for name in ("one", "two"):
        up, down = torch.full((128, 1), 0.7 * 2**-8), torch.ones(1, 32)
        save_file({f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}, tmp_path / f"{name}.safetensors")
        paths.append(tmp_path / f"{name}.safetensors")
    unet, (encoder,) = tiny_models()
    weight = encoder.to(torch.bfloat16).get_submodule("encoder.layers.0.mlp.fc1").weight
    with torch.no_grad():
        weight.fill_(1.0)
    merge_base_weights(paths, [], unet, [encoder], "sd1")
    # bfloat16 has steps of 2^-7 above 1. 0.7 of half a step vanishes when it is added alone; twice that does not.
    assert set(weight.flatten().tolist()) == {1 + 2**-7}


def half_a_loha(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{next(iter(state)).partition('.')[0]}.hada_w1_a": torch.ones(2, 2)}


def other_width(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(n for n in state if n.endswith("lora_down.weight"))
    return {**state, name: torch.zeros(4, 7)}


def other_layer(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("down_blocks_0", "down_blocks_7"): tensor for name, tensor in state.items()}


def half_a_pair(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(n for n in state if n.endswith("lora_up.weight"))
    return {n: tensor for n, tensor in state.items() if n != name}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (half_a_loha, "has no hada_w1_b in lora_"),
        (other_width, "was trained on a base model of other sizes"),
        (other_layer, "has a module that the base model has no layer for: lora_unet_down_blocks_7"),
        (half_a_pair, "has no lora_up.weight in lora_"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], sentence: str
) -> None:
    state = change(adapted("sd1", "lora")[2].kohya_state_dict())
    save_file(state, tmp_path / "odd.safetensors")
    unet, encoders = tiny_models()
    before = outputs(unet, encoders, "sd1")
    for attempt in (refuse_unmergeable, lambda *given: merge_base_weights(given[0], [1.0], *given[1:])):
        with pytest.raises(LoratoryError, match=r"model\.base_weights: ") as caught:
            attempt([tmp_path / "odd.safetensors"], unet, encoders, "sd1")
        assert sentence in caught.value.message
    assert all(torch.equal(one, other) for one, other in zip(before, outputs(unet, encoders, "sd1"), strict=True))


def test_other_families_are_refused(tmp_path: Path) -> None:
    sdxl = written(tmp_path / "sdxl.safetensors", adapted("sdxl", "lora")[2])
    for path, sentence in ((sdxl, "is for SDXL models"), (tmp_path / "x", "there is no file")):
        with pytest.raises(LoratoryError, match=sentence):
            refuse_unmergeable([path], *tiny_models(), "sd1")


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """An adapter trained for the small model."""
    make_set(tmp_path / "set", {"2_fox": 2})
    config = small_config(tmp_path, optimizer={"learning_rate": 1e-2}, output={"output_name": "style"})
    assert train(config)[0].status == "done"
    return tmp_path / "output" / "style.safetensors"


@pytest.mark.usefixtures("one_thread")
def test_a_run_trains_on_the_merged_model(tmp_path: Path, style: Path) -> None:
    def first_latents_and_text(**model: Any) -> tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]:
        config = small_config(tmp_path, model=model, network={"network_train_unet_only": True})
        engine = engine_of(config)
        assert engine.maker.texts is not None
        batch = engine.maker.make(engine.plan.order.batches(1)[0], 1, 0)
        assert batch.text is not None
        with torch.no_grad():
            return engine.maker.texts.prefix, batch.latents, batch.text.hidden, engine.losses(batch).total

    prefix, latents, hidden, loss = first_latents_and_text()
    merged = first_latents_and_text(base_weights=[str(style)])
    assert merged[0] != prefix
    assert torch.equal(merged[1], latents)
    assert not torch.equal(merged[2], hidden) and not torch.equal(merged[3], loss)
    weaker = first_latents_and_text(base_weights=[str(style)], base_weights_multiplier=[0.0])
    assert weaker[0] not in (prefix, merged[0])
    assert torch.equal(weaker[2], hidden) and torch.equal(weaker[3], loss)


@pytest.mark.usefixtures("one_thread")
def test_a_run_cannot_go_on_with_another_file(tmp_path: Path, style: Path) -> None:
    config = small_config(tmp_path, model={"base_weights": [str(style)]}, output={"state_every_n_steps": 2})
    _, run, _ = train(config)
    events = go_on_from(config, run, 2)
    assert events[-1].status == "done"
    state = load_file(style)
    save_file({name: tensor * 1.5 for name, tensor in state.items()}, style)
    with pytest.raises(LoratoryError, match=r"because model\.base_weights changed"):
        go_on_from(config, run, 2)


def test_the_plan_refuses_a_file_that_does_not_fit(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"2_fox": 2})
    with pytest.raises(LoratoryError, match=r"model\.base_weights: there is no file"):
        make_plan(small_config(tmp_path, model={"base_weights": ["gone.safetensors"]}))
