"""Going on from an adapter file: the same network to begin with, ranks from it, and refusals of what does not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adapter_models import tiny_models
from loratory.adapters.files import save_adapter
from loratory.adapters.inject import inject
from loratory.adapters.keys import diffusers_module_key
from loratory.adapters.network_weights import refuse_misfit, sizes_from_weights
from loratory.adapters.targets import find_targets
from loratory.config.schema import Config, NetworkSettings
from loratory.errors import LoratoryError
from loratory.training.plan import make_plan
from material import make_set
from training_runs import engine_of, go_on_from, same_bytes, saved, small_config, train

pytestmark = pytest.mark.usefixtures("one_thread")

State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"1_fox": 2})


def config_of(folder: Path, family: str = "sd1", **tables: dict[str, Any]) -> Config:
    return small_config(folder, family, **({"optimizer": {"learning_rate": 1e-2}} | tables))


def trained(folder: Path, network: dict[str, Any], family: str = "sd1", precision: str = "float") -> Path:
    """The file of a short run."""
    output = {"output_name": "first", "save_precision": precision}
    assert train(config_of(folder, family, network=network, output=output))[0].status == "done"
    return folder / "output" / "first.safetensors"


def start(folder: Path, network: dict[str, Any], family: str = "sd1") -> State:
    """The network that a run begins with, as files hold it."""
    return engine_of(config_of(folder, family, network=network)).adapter.kohya_state_dict()


def with_other_ranks(state: State) -> State:
    """The same names with ranks from 1 to 5 and alphas of their own; every seventh module is left out."""
    generator = torch.Generator().manual_seed(0)
    changed: State = {}
    for number, key in enumerate(sorted({name.partition(".")[0] for name in state})):
        if number % 7 == 6:
            continue
        down, up = state[f"{key}.lora_down.weight"], state[f"{key}.lora_up.weight"]
        rank = 1 + number % 5
        changed[f"{key}.lora_down.weight"] = torch.randn(rank, *down.shape[1:], generator=generator) * 0.1
        changed[f"{key}.lora_up.weight"] = torch.randn(up.shape[0], rank, *up.shape[2:], generator=generator) * 0.1
        changed[f"{key}.alpha"] = torch.tensor(0.5 + number % 3)
    return changed


def ranks(state: State) -> dict[str, tuple[int, float]]:
    return {
        key: (len(state[f"{key}.lora_down.weight"]), float(state[f"{key}.alpha"]))
        for key in {name.partition(".")[0] for name in state}
    }


@pytest.mark.parametrize(
    ("family", "network"),
    [
        ("sd1", {"network_type": "lora"}),
        ("sd2", {"network_type": "locon", "conv_dim": 2}),
        ("sdxl", {"network_type": "dora", "conv_dim": 2}),
    ],
)
def test_a_run_begins_with_what_the_file_holds(tmp_path: Path, family: str, network: dict[str, Any]) -> None:
    path = trained(tmp_path, network, family)
    begun = start(tmp_path, {**network, "network_weights": str(path)}, family)
    assert same_bytes(begun, load_file(path))
    assert not same_bytes(begun, start(tmp_path, network, family))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_and_another_alpha_keep_the_function(tmp_path: Path, precision: str) -> None:
    state = load_file(trained(tmp_path, {}, precision=precision))
    begun = start(tmp_path, {"network_alpha": 8, "network_weights": "output/first.safetensors"})
    for key in {name.partition(".")[0] for name in state}:
        assert (float(state[f"{key}.alpha"]), float(begun[f"{key}.alpha"])) == (2.0, 8.0)
        up = state[f"{key}.lora_up.weight"].float()
        torch.testing.assert_close(begun[f"{key}.lora_up.weight"], up / 4)
        assert torch.equal(begun[f"{key}.lora_down.weight"], state[f"{key}.lora_down.weight"].float())


@pytest.mark.parametrize("dim_from_weights", [False, True])
def test_sdxl_blocks_may_be_named_as_diffusers_does(tmp_path: Path, dim_from_weights: bool) -> None:
    state = load_file(trained(tmp_path, {}, "sdxl"))
    targets = make_plan(config_of(tmp_path, "sdxl")).targets
    other = {t.key: diffusers_module_key(t.component, t.path, "sdxl") for t in targets}
    renamed = {other[name.partition(".")[0]] + "." + name.partition(".")[2]: each for name, each in state.items()}
    assert renamed.keys() != state.keys()
    save_file(renamed, tmp_path / "renamed.safetensors")
    network = {"network_weights": "renamed.safetensors", "dim_from_weights": dim_from_weights}
    assert same_bytes(start(tmp_path, network, "sdxl"), state)


@pytest.mark.parametrize("network_type", ["lora", "locon"])
def test_ranks_and_alphas_come_from_the_file(tmp_path: Path, network_type: str) -> None:
    network = {"network_type": network_type, "network_dim": 16, "network_alpha": 16.0}
    state = with_other_ranks(start(tmp_path, network))
    save_file(state, tmp_path / "odd.safetensors")
    network |= {"network_weights": "odd.safetensors", "dim_from_weights": True}
    assert same_bytes(start(tmp_path, network), state)
    config = config_of(tmp_path, network=network)
    plan = make_plan(config)
    assert sum(part.parameters for part in plan.parts) == sum(v.numel() for n, v in state.items() if "alpha" not in n)
    train(config)
    result = saved(config)
    assert ranks(result) == ranks(state)
    assert not any(torch.equal(result[name], state[name]) for name in state if "alpha" not in name)


@pytest.mark.parametrize("alpha", [0.0, float("nan"), float("inf")])
def test_an_alpha_of_0_is_the_rank_and_one_that_is_no_number_is_refused(tmp_path: Path, alpha: float) -> None:
    state = with_other_ranks(start(tmp_path, {}))
    name = min(name for name in state if name.endswith(".alpha"))
    save_file(state | {name: torch.tensor(alpha)}, tmp_path / "odd.safetensors")
    network = NetworkSettings(network_weights=tmp_path / "odd.safetensors", dim_from_weights=True)
    if alpha == 0:
        key = name.removesuffix(".alpha")
        rank = len(state[f"{key}.lora_down.weight"])
        sizes = sizes_from_weights(network, "sd1")
        assert sizes is not None and sizes[key] == (rank, rank)
        begun = start(tmp_path, {"network_weights": "odd.safetensors", "dim_from_weights": True})
        assert same_bytes(begun, state | {name: torch.tensor(float(rank))})
        return
    with pytest.raises(LoratoryError, match=rf"network_weights: {name} in .*odd\.safetensors is {alpha}"):
        sizes_from_weights(network, "sd1")


def test_dora_takes_its_convolutions_from_the_file(tmp_path: Path) -> None:
    path = trained(tmp_path, {"network_type": "dora", "conv_dim": 3, "conv_alpha": 2.0})
    network = {"network_type": "dora", "network_weights": str(path), "dim_from_weights": True}
    assert same_bytes(start(tmp_path, network), load_file(path))


def test_a_file_of_the_unet_trains_the_unet(tmp_path: Path) -> None:
    path = trained(tmp_path, {"network_train_unet_only": True})
    plan = make_plan(config_of(tmp_path, network={"network_weights": str(path), "dim_from_weights": True}))
    assert {target.component for target in plan.targets} == {"unet"}


def test_a_resumed_run_goes_on_from_its_state(tmp_path: Path) -> None:
    trained(tmp_path, {})
    config = config_of(
        tmp_path,
        network={"network_weights": "output/first.safetensors"},
        training={"ema_decay": 0.5},
        output={"state_every_n_steps": 1},
    )
    _, run, _ = train(config)
    whole, average = saved(config), saved(config, "-ema")
    go_on_from(config, run, 1)
    assert same_bytes(saved(config), whole)
    assert same_bytes(saved(config, "-ema"), average)


def test_metadata_says_what_the_ranks_are(tmp_path: Path) -> None:
    path = trained(tmp_path, {"network_dim": 3})
    for network, said in (({"network_dim": 3}, "3"), ({"dim_from_weights": True}, "Dynamic")):
        config = config_of(tmp_path, network={"network_weights": str(path)} | network)
        train(config)
        with safe_open(config.output.output_dir / "fox.safetensors", "pt") as file:
            assert file.metadata()["ss_network_dim"] == said
        (config.output.output_dir / "fox.safetensors").unlink()


def test_an_alpha_that_means_nothing_and_sizes_of_one_do_no_harm(tmp_path: Path) -> None:
    network: dict[str, Any] = {"network_type": "full", "network_dim": None, "network_alpha": None}
    state = {name: torch.full_like(each, 1e-3) for name, each in start(tmp_path, network).items()}
    other = {name: each[:, :, None, None] if each.dim() == 2 else each for name, each in state.items()}
    alphas = {f"{name.partition('.')[0]}.alpha": torch.tensor(4.0) for name in state}
    save_file(other | alphas, tmp_path / "other.safetensors")
    network |= {"network_weights": "other.safetensors"}
    make_plan(config_of(tmp_path, network=network))
    assert same_bytes(start(tmp_path, network), state)


@pytest.mark.parametrize(
    ("made", "asked", "sentence"),
    [
        ({}, {"network_weights": "gone.safetensors"}, r"there is no file .*gone\.safetensors"),
        ({"network_dim": 2}, {}, "has rank 2 in lora_.*; network_dim makes it 4"),
        ({}, {"network_type": "dora"}, 'holds no DoRA; network_type is "dora"'),
        ({"network_type": "dora"}, {}, 'holds a DoRA; network_type is "lora"'),
        ({"network_type": "locon"}, {}, "modules that are not part of this network, e.g. lora_unet_"),
        ({}, {"network_type": "locon"}, "no values for .* modules of this network, e.g. lora_unet_"),
        ({"network_type": "loha", "conv_dim": 4}, {}, "holds a network of the kind loha; network_type is .lora."),
        ({}, {"network_type": "loha"}, "holds a network of the kind lora; network_type is .loha."),
        ({}, {"network_train_unet_only": True}, "also changes the text encoder, which this run does not train"),
        ({"network_train_unet_only": True}, {}, "has no network for the text encoder"),
    ],
)
def test_the_plan_refuses_what_does_not_fit(
    tmp_path: Path, made: dict[str, Any], asked: dict[str, Any], sentence: str
) -> None:
    save_file(start(tmp_path, made), tmp_path / "first.safetensors")
    config = config_of(tmp_path, network={"network_weights": "first.safetensors"} | asked)
    with pytest.raises(LoratoryError, match=r"network\.network_weights: .*" + sentence):
        make_plan(config)


@pytest.mark.parametrize(
    ("held", "asked", "sentence"),
    [
        (
            {"network_type": "loha", "network_dim": 2},
            {"network_type": "lora", "network_dim": 2},
            "the kind loha; .*lora",
        ),
        (
            {"network_type": "loha", "network_dim": 2},
            {"network_type": "lokr", "network_dim": 2},
            "the kind loha; .*lokr",
        ),
        ({"network_type": "full"}, {"network_type": "ia3"}, "the kind full; .*ia3"),
        (
            {"network_type": "diag-oft", "network_dim": 2},
            {"network_type": "boft", "network_dim": 2},
            "holds another network: .* has oft_blocks of the shape",
        ),
        (
            {"network_type": "loha", "network_dim": 2, "lycoris_preset": "attn-mlp"},
            {"network_type": "loha", "network_dim": 2},
            "no values for .* modules of this network",
        ),
    ],
)
def test_a_type_goes_on_from_files_of_its_own_kind(
    tmp_path: Path, held: dict[str, Any], asked: dict[str, Any], sentence: str
) -> None:
    unet, encoders = tiny_models()
    network = NetworkSettings.model_validate(held)
    adapter = inject(unet, encoders, "sd1", network, seed=1, train_unet=True, train_text_encoder=True)
    path = tmp_path / "first.safetensors"
    save_adapter(path, adapter.kohya_state_dict(), {}, "float")
    unet, encoders = tiny_models()
    models = {"unet": unet, "te1": encoders[0]}

    def refuse(settings: dict[str, Any]) -> None:
        network = NetworkSettings.model_validate(settings | {"network_weights": path})
        targets = find_targets(unet, encoders, "sd1", network, train_unet=True, train_text_encoder=True)
        refuse_misfit(network, targets, models, "sd1")

    refuse(held)
    with pytest.raises(LoratoryError, match=sentence) as told:
        refuse(asked)
    assert told.value.hint and "dim_from_weights" not in told.value.hint


def test_the_plan_refuses_files_for_other_models(tmp_path: Path) -> None:
    save_file(start(tmp_path, {}, "sdxl"), tmp_path / "sdxl.safetensors")
    with pytest.raises(LoratoryError, match="is for SDXL models"):
        make_plan(config_of(tmp_path, network={"network_weights": "sdxl.safetensors", "dim_from_weights": True}))
    state = {
        name: tensor[:, :7] if "attn2_to_k.lora_down" in name else tensor
        for name, tensor in start(tmp_path, {}).items()
    }
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "narrow.safetensors")
    for ranks_too in (False, True):
        network = {"network_weights": "narrow.safetensors", "dim_from_weights": ranks_too}
        with pytest.raises(LoratoryError, match="was trained on a base model of other sizes"):
            make_plan(config_of(tmp_path, network=network))
