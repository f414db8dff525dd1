"""Every network type trains on SD 1.x and SDXL, with and without convolutions and text encoders; it goes on exactly
where it was stopped, and its file gives the same output in our loader, in LyCORIS' own and, where it knows the type, in
diffusers'."""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapter_models import tiny_models
from loratory.adapters.adapter import Adapter
from loratory.adapters.files import save_adapter
from loratory.adapters.inject import inject
from loratory.adapters.self_check import compare_with_live
from loratory.config.schema import Config, NetworkSettings
from loratory.models import components
from loratory.models.detect import detect_model
from loratory.models.load import BaseModel, load_base_model
from loratory.runs.events import Saved, Started, Step
from material import make_set
from training_runs import go_on_from, of_kind, same_bytes, saved, small_config, train

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS, HALFWAY = 4, 2

TYPES: dict[str, dict[str, Any]] = {
    "lora": {"network_type": "lora"},
    "locon": {"network_type": "locon"},
    "locon-tucker": {"network_type": "locon", "use_tucker": True},
    "locon-scalar": {"network_type": "locon", "use_scalar": True},
    "locon-dora": {"network_type": "locon", "dora_wd": True},
    "dora": {"network_type": "dora"},
    "dora-inputs": {"network_type": "dora", "wd_on_output": False},
    "loha": {"network_type": "loha"},
    "loha-tucker": {"network_type": "loha", "use_tucker": True},
    "loha-dora": {"network_type": "loha", "dora_wd": True},
    "lokr": {"network_type": "lokr"},
    "lokr-8-whole": {"network_type": "lokr", "factor": 8, "full_matrix": True},
    "lokr-both": {"network_type": "lokr", "factor": 4, "decompose_both": True, "network_dim": 2},
    "lokr-dora": {"network_type": "lokr", "dora_wd": True},
    "dylora": {"network_type": "dylora", "block_size": 2},
    "glora": {"network_type": "glora"},
    "ia3": {"network_type": "ia3"},
    "diag-oft": {"network_type": "diag-oft"},
    "diag-oft-limited": {"network_type": "diag-oft", "constraint": 1e-3, "rescaled": True},
    "boft": {"network_type": "boft"},
    "boft-rescaled": {"network_type": "boft", "rescaled": True},
    "full": {"network_type": "full"},
    "full-norms": {"network_type": "full", "train_norm": True},
    "rs-loha": {"network_type": "loha", "rs_lora": True, "network_alpha": 2.0},
}
WITHOUT_CONVOLUTIONS = ("lora", "ia3")


def network_of(name: str, *, conv: bool) -> dict[str, Any]:
    """Settings of a small network of a type; without convolutions by the preset, where the type has them."""
    network = dict(TYPES[name])
    kind = network["network_type"]
    unread = {"ia3": ("network_dim", "network_alpha"), "full": ("network_dim", "network_alpha")}
    network |= dict.fromkeys(unread.get(kind, ("network_alpha",) if kind in ("diag-oft", "boft") else ()))
    if kind == "dora" and conv:
        network["conv_dim"] = 2
    elif kind not in ("lora", "dora", "ia3") and not conv and "use_tucker" not in network:
        network["lycoris_preset"] = "attn-mlp"
    return network


def config_in(folder: Path, family: Any, network: dict[str, Any], *, te: bool, **tables: Any) -> Config:
    if not (folder / "set").exists():
        make_set(folder / "set", {"1_fox": 3, "1_cat": 1})
    rate = 1e-2 if network["network_type"] == "ia3" else 1e-3
    optimizer = {"learning_rate": rate, "text_encoder_lr": rate if te else 0.0}
    output = {"state_every_n_steps": HALFWAY, "save_precision": "float"} | tables.pop("output", {})
    return small_config(folder, family, network=network, optimizer=optimizer, output=output, **tables)


@pytest.fixture(autouse=True, scope="module")
def one_tokenizer() -> Iterator[None]:
    """Built once instead of twice a run, which is a quarter of the time of these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "build_tokenizer", cache(components.build_tokenizer))
        yield


def base_of(config: Config) -> BaseModel:
    return load_base_model(detect_model(config.model, config.noise), config.model, dtype=None)


def injected(base: BaseModel, config: Config) -> Adapter:
    rates = config.text_encoder_rates(len(base.text_encoders))
    return inject(
        base.unet,
        base.text_encoders,
        base.info.family,
        config.network,
        seed=1,
        train_unet=config.trains_unet,
        train_text_encoder=[rate > 0 for rate in rates],
    )


@torch.no_grad()
def outputs(base: BaseModel) -> list[Tensor]:
    """What the UNet and the text encoders give for fixed inputs, in float32."""
    for model in (base.unet, *base.text_encoders):
        model.eval()
    generator = torch.Generator().manual_seed(3)
    width = base.unet.config["cross_attention_dim"]
    inputs: dict[str, Any] = {
        "sample": torch.randn(1, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, 7, width, generator=generator),
    }
    if base.info.family == "sdxl":
        pooled = base.text_encoders[1].config.projection_dim
        inputs["added_cond_kwargs"] = {
            "text_embeds": torch.randn(1, pooled, generator=generator),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]),
        }
    found = [base.unet(**inputs).sample]
    ids = torch.tensor([[49406, 5, 6, 7, 49407]])
    for encoder in base.text_encoders:
        found.append(encoder(ids, output_hidden_states=True).hidden_states[-1])
    return found


def filled(name: str) -> Adapter:
    """A network of a type on tiny models, with values as training might give them."""
    unet, encoders = tiny_models()
    settings = {"network_dim": 4, "network_alpha": 2} | network_of(name, conv=name not in WITHOUT_CONVOLUTIONS)
    network = NetworkSettings.model_validate({key: value for key, value in settings.items() if value is not None})
    adapter = inject(unet, encoders, "sd1", network, seed=1, train_unet=True, train_text_encoder=True)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for component in ("unet", "te1"):
            for key, parameter in adapter.named_parameters(component):
                noise = torch.randn(parameter.shape, generator=generator)
                if key.endswith(("dora_scale", "rescale")):
                    parameter.mul_(1 + 0.2 * noise)
                elif key.endswith("scalar"):
                    parameter.fill_(0.7)
                else:
                    parameter.copy_(0.2 * noise)
    return adapter


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))


# Of the variants of a type half of the matrix, in which every two of family, convolutions and text encoder meet.
PAIRS = {("sd1", False, False), ("sd1", True, True), ("sdxl", False, True), ("sdxl", True, False)}
CASES = [
    (name, family, conv, te)
    for name in TYPES
    for family in ("sd1", "sdxl")
    for conv in (False, True)
    for te in (False, True)
    if not (conv and TYPES[name]["network_type"] in WITHOUT_CONVOLUTIONS)
    if conv or "use_tucker" not in TYPES[name]
    if name == TYPES[name]["network_type"] or (family, conv, te) in PAIRS
]
# One case of each type always; the rest of the matrix takes minutes.
QUICK = {(name, "sd1", TYPES[name]["network_type"] not in WITHOUT_CONVOLUTIONS, True) for name in TYPES}


@pytest.mark.parametrize(
    ("name", "family", "conv", "te"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_every_type_trains_saves_and_goes_on(tmp_path: Path, name: str, family: str, conv: bool, te: bool) -> None:
    config = config_in(tmp_path, family, network_of(name, conv=conv), te=te)
    finished, run, events = train(config)
    assert (finished.status, finished.step) == ("done", STEPS), finished
    steps = of_kind(events, Step)
    assert all(math.isfinite(step.loss) and step.loss > 0 for step in steps)
    assert of_kind(events, Saved)[-1].max_difference < 1e-4
    whole = saved(config)
    assert any("lora_te" in key for key in whole) == te
    assert all(value.isfinite().all() for value in whole.values())

    base = base_of(config)
    plain = outputs(base)
    adapter = injected(base, config)
    assert difference(outputs(base), plain) < 2e-6  # a fresh network changes nothing
    adapter.load_kohya_state_dict(whole)
    trained = outputs(base)
    assert difference(trained, plain) > 1e-5
    assert all(torch.equal(value, whole[key]) for key, value in adapter.kohya_state_dict().items())
    adapter.multiplier = 0.0
    assert difference(outputs(base), plain) < 2e-6
    with adapter.disabled():
        assert difference(outputs(base), plain) == 0

    again = go_on_from(config, run, HALFWAY)
    assert of_kind(again, Started)[-1].from_step == HALFWAY
    assert [step.loss for step in of_kind(again, Step)[STEPS:]] == [step.loss for step in steps[HALFWAY:]]
    assert same_bytes(whole, saved(config))


@pytest.mark.parametrize("name", [name for name in TYPES if name not in ("lora", "dora")])
@pytest.mark.parametrize("harm", ["nan", "other", "scale", "missing"])
def test_a_file_that_is_not_the_network_is_noticed(tmp_path: Path, name: str, harm: str) -> None:
    adapter = filled(name)
    path = tmp_path / "a.safetensors"
    save_adapter(path, adapter.kohya_state_dict(), {}, "float")
    assert compare_with_live(path, adapter) < 1e-6
    layer = adapter.layers[len(adapter.layers) // 2]
    tensor = next(iter(layer.tensors().values()))
    with torch.no_grad():
        if harm == "nan":
            tensor.view(-1)[0] = math.nan
        elif harm == "other":
            tensor.view(-1)[0] += 0.5
        elif harm == "scale":
            tensor *= 1.01
    if harm == "missing":
        adapter = Adapter(adapter.layers[1:], adapter.family)
    assert not compare_with_live(path, adapter) < 2e-3


@pytest.mark.parametrize("name", [name for name in TYPES if name not in ("lora", "dora")])
@pytest.mark.parametrize("state", ["barely trained", "in bfloat16"])
def test_the_rounding_of_what_a_layer_computes_is_not_held_against_its_file(
    tmp_path: Path, name: str, state: str
) -> None:
    adapter = filled(name)
    for component in ("unet", "te1"):
        for key, parameter in adapter.named_parameters(component):
            if state == "in bfloat16":
                parameter.data = parameter.data.bfloat16()
            elif key.endswith(("diff", "diff_b", "w_norm", "b_norm")):
                parameter.data *= 1e-6
    path = tmp_path / "a.safetensors"
    save_adapter(path, adapter.kohya_state_dict(), {}, "float")
    assert compare_with_live(path, adapter) < 1e-5


@pytest.mark.parametrize("name", list(TYPES))
@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_the_norms_of_every_type_are_limited(name: str, limit: float) -> None:
    adapter = filled(name)
    before = adapter.kohya_state_dict()
    report = adapter.apply_max_norm(limit)
    after = adapter.kohya_state_dict()
    if limit > 1:
        assert report.keys_scaled == 0 and same_bytes(before, after)
    else:
        assert report.keys_scaled == len(adapter.layers) and not same_bytes(before, after)
        assert report.max_norm == pytest.approx(limit)
        assert adapter.apply_max_norm(limit).max_norm == pytest.approx(limit, rel=1e-4)
