"""The blocks of the UNet: their numbers, ranks, alphas and learning rates, as sd-scripts understands the settings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import Parameter

from adapter_models import real_size_models, tiny_models
from loratory.adapters.blocks import block_factors, block_of, block_sizes
from loratory.adapters.targets import find_targets, rate_factors
from loratory.config.schema import NetworkSettings, OptimizerSettings
from loratory.errors import LoratoryError
from loratory.models.names import original_unet_name
from loratory.training.optimizers import Optimizers, refuse_block_rates, trained_parts
from loratory.training.plan import make_plan
from material import make_set
from training_runs import engine_of, go_on_from, same_bytes, saved, small_config, train

SD_BLOCKS, SDXL_BLOCKS = 25, 23


def network(**settings: Any) -> NetworkSettings:
    return NetworkSettings(**{"network_type": "locon", "network_dim": 8, "network_alpha": 4} | settings)


def targets_of(family: str = "sd1", **settings: Any):
    models = tiny_models(family)
    return find_targets(*models, family, network(**settings), train_unet=True, train_text_encoder=True)


# -- numbers


def original_block(path: str, family: str) -> int:
    """The number by sd-scripts' rule, which reads the names of the original release."""
    layout = {"layers_per_block": 2, "up_block_types": ["CrossAttnUpBlock2D"] * 4}
    part, number = (original_unet_name(f"{path}.weight", layout) + ".0").split(".")[:2]
    if family == "sdxl":
        return {"input_blocks": 1, "middle_block": 10, "output_blocks": 13, "out": 22}.get(part, 0) + (
            int(number) if part.endswith(("blocks", "block")) else 0
        )
    if part == "middle_block":
        return 12
    return {"input_blocks": 0, "output_blocks": 13, "out": 24}.get(part, 0) + (
        int(number) if part.endswith("blocks") else 0
    )


@pytest.mark.parametrize(("family", "total"), [("sd1", SD_BLOCKS), ("sdxl", SDXL_BLOCKS)])
def test_every_module_of_a_unet_has_the_number_of_its_original_block(family: str, total: int) -> None:
    unet, _ = real_size_models(family)
    every = NetworkSettings(network_type="loha", train_norm=True)
    found = find_targets(unet, [], family, every, train_unet=True, train_text_encoder=False)
    assert {t.path: block_of(t.path, family) for t in found} == {t.path: original_block(t.path, family) for t in found}
    assert {block_of(target.path, family) for target in found} == set(range(total))


@pytest.mark.parametrize(
    ("path", "sd", "sdxl"),
    [
        ("time_embedding.linear_1", 0, 0),
        ("conv_in", 0, 1),
        ("down_blocks.0.resnets.0.conv1", 1, 2),
        ("down_blocks.0.downsamplers.0.conv", 3, 4),
        ("down_blocks.1.attentions.1.proj_in", 5, 6),
        ("mid_block.resnets.0.conv1", 12, 10),
        ("mid_block.attentions.0.proj_in", 12, 11),
        ("mid_block.resnets.1.conv1", 12, 12),
        ("up_blocks.0.resnets.0.conv1", 13, 13),
        ("up_blocks.0.upsamplers.0.conv", 15, 15),
        ("up_blocks.2.attentions.2.proj_in", 21, 21),
        ("conv_out", 24, 22),
    ],
)
def test_numbers_of_some_modules(path: str, sd: int, sdxl: int) -> None:
    assert (block_of(path, "sd1"), block_of(path, "sd2"), block_of(path, "sdxl")) == (sd, sd, sdxl)


def test_a_module_of_no_block_is_refused() -> None:
    with pytest.raises(ValueError, match="controlnet"):
        block_of("controlnet.conv", "sd1")


# -- ranks and alphas


@pytest.mark.parametrize("network_type", ["lora", "locon", "dora", "loha", "lokr", "dylora", "glora"])
@pytest.mark.parametrize(("family", "total"), [("sd1", SD_BLOCKS), ("sdxl", SDXL_BLOCKS)])
def test_each_block_has_its_rank_and_alpha(family: str, total: int, network_type: str) -> None:
    more = {"block_size": 1} if network_type == "dylora" else {}
    dims, alphas = [*range(1, total + 1)], [0.5 + n for n in range(total)]
    found = targets_of(family, network_type=network_type, block_dims=dims, block_alphas=alphas, **more)
    unet = [target for target in found if target.component == "unet"]
    assert len({target.rank for target in unet}) > 5
    for target in unet:
        number = block_of(target.path, family)
        assert (target.rank, target.alpha) == (1 + number, 0.5 + number)
    assert {(target.rank, target.alpha) for target in found if target.component != "unet"} == {(8, 4)}


def test_rank_zero_leaves_a_block_out() -> None:
    dims = [8] * SD_BLOCKS
    dims[1] = dims[12] = 0
    blocks = {block_of(target.path, "sd1") for target in targets_of(block_dims=dims) if target.component == "unet"}
    assert blocks == {2, 3, 4, 5, *range(13, 19)}
    assert {block_of(t.path, "sd1") for t in targets_of() if t.component == "unet"} == blocks | {1, 12}


def test_convolutions_have_lists_of_their_own() -> None:
    dims, conv_dims = [4] * SD_BLOCKS, [2] * SD_BLOCKS
    conv_dims[12], conv_dims[4] = 0, 6
    found = [t for t in targets_of(block_dims=dims, conv_block_dims=conv_dims) if t.component == "unet"]
    assert {(target.rank, target.alpha) for target in found if not target.is_conv} == {(4, 4.0)}
    by_block = {block_of(target.path, "sd1"): (target.rank, target.alpha) for target in found if target.is_conv}
    assert 12 not in by_block and by_block[4] == (6, 1.0) and by_block[13] == (2, 1.0)


@pytest.mark.parametrize(
    ("settings", "conv"),
    [
        ({"block_dims": [4] * 25, "block_alphas": [2.0] * 25}, (4, 2.0)),
        ({"block_dims": [4] * 25, "conv_dim": 3}, (3, 1.0)),
        ({"block_dims": [4] * 25, "conv_dim": 3, "conv_alpha": 1.5}, (3, 1.5)),
        ({"conv_dim": 3, "conv_block_alphas": [2.5] * 25}, (3, 2.5)),
        ({"conv_block_alphas": [2.5] * 25}, (8, 2.5)),
        ({"conv_block_dims": [5] * 25, "conv_block_alphas": [0.0] * 25}, (5, 5.0)),
        ({"conv_block_dims": [4] * 25, "conv_block_alphas": [1.0] * 25, "rs_lora": True}, (4, 2.0)),
    ],
)
def test_what_is_left_out_comes_from_the_settings_for_all_blocks(
    settings: dict[str, Any], conv: tuple[int, float]
) -> None:
    sizes = block_sizes(network(**settings), "sd1", convolutions=True)
    assert {block.conv for block in sizes} == {conv}


def test_only_alphas_by_block() -> None:
    sizes = block_sizes(network(block_alphas=[*range(25)]), "sd1", convolutions=False)
    assert [block.linear for block in sizes] == [(8, 8.0), *((8, float(n)) for n in range(1, 25))]
    assert {block.conv for block in sizes} == {None}


def test_dora_trains_convolutions_where_they_have_ranks_by_block() -> None:
    def convolutions(**settings: Any) -> bool:
        return any(target.is_conv for target in targets_of(network_type="dora", **settings))

    assert not convolutions(block_dims=[4] * 25)
    assert convolutions(conv_block_dims=[4] * 25)


@pytest.mark.parametrize("key", ["block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"])
@pytest.mark.parametrize(("family", "total"), [("sd1", 25), ("sd2", 25), ("sdxl", 23)])
def test_a_list_of_another_length_is_refused(key: str, family: str, total: int) -> None:
    block_sizes(network(**{key: [4] * total}), family, convolutions=True)
    for count in (total - 1, total + 1):
        with pytest.raises(LoratoryError, match=rf"{key} has {count} values.* has {total} blocks"):
            block_sizes(network(**{key: [4] * count}), family, convolutions=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"block_dims": [-1] * 25}, "-1 cannot be used; a rank is 0 to 4096"),
        ({"conv_block_dims": [4097] * 25}, "4097 cannot be used"),
        ({"block_alphas": [-0.5] * 25}, "-0.5 cannot be used; an alpha is 0 or more"),
    ],
)
def test_values_that_are_no_ranks_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(LoratoryError, match=said):
        block_sizes(network(**settings), "sd1", convolutions=True)


def test_ranks_by_block_do_not_go_with_ranks_from_a_file() -> None:
    unet, encoders = tiny_models()
    settings = network(block_dims=[4] * 25)
    with pytest.raises(LoratoryError, match="dim_from_weights"):
        find_targets(unet, encoders, "sd1", settings, train_unet=True, train_text_encoder=True, sizes={"x": (1, 1.0)})


# -- learning rates


def factors(family: str, **settings: Any) -> tuple[float, ...]:
    made = block_factors(network(**settings), family)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]),
        ("reverse_linear", [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]),
        # sin(n pi / 16)
        ("sine", [0, 0.195090, 0.382683, 0.555570, 0.707107, 0.831470, 0.923880, 0.980785, 1]),
        ("cosine", [1, 0.980785, 0.923880, 0.831470, 0.707107, 0.555570, 0.382683, 0.195090, 0]),
        ("zeros", [0] * 9),
    ],
)
def test_shapes_of_rates(shape: str, expected: list[float]) -> None:
    assert factors("sdxl", down_lr_weight=shape) == pytest.approx([1, *expected, *[1] * 13], abs=1e-6)
    assert factors("sdxl", up_lr_weight=shape) == pytest.approx([*[1] * 13, *expected, 1], abs=1e-6)
    added = factors("sdxl", up_lr_weight=f"{shape}+.25")
    assert added == pytest.approx([*[1] * 13, *(factor + 0.25 for factor in expected), 1], abs=1e-6)


def test_lists_of_rates() -> None:
    down, up = [n / 10 for n in range(1, 13)], [n / 20 for n in range(1, 13)]
    assert factors("sd1", down_lr_weight=down, mid_lr_weight=0.5, up_lr_weight=up) == (*down, 0.5, *up)
    assert factors("sd2", mid_lr_weight=2.0) == (*[1.0] * 12, 2.0, *[1.0] * 12)
    assert factors("sdxl", down_lr_weight=down[:9], mid_lr_weight=0.5, up_lr_weight=up[:9]) == (
        *(1.0, *down[:9]),
        *(0.5, 0.5, 0.5),
        *(*up[:9], 1.0),
    )
    assert block_factors(network(), "sd1") is None
    with pytest.raises(ValidationError, match="block_lr_zero_threshold: does nothing"):
        network(block_lr_zero_threshold=0.5)


def test_factors_not_above_the_threshold_are_zero() -> None:
    given = {"down_lr_weight": "linear", "mid_lr_weight": 0.25, "block_lr_zero_threshold": 0.25}
    assert factors("sdxl", **given) == (1, 0, 0, 0, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 0, 0, 0, *[1] * 10)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"down_lr_weight": [1.0] * 9}, "down_lr_weight has 9 values; the UNet of SD 1.x has 12 down blocks"),
        ({"up_lr_weight": [1.0] * 13}, "up_lr_weight has 13 values; .* 12 up blocks"),
        ({"up_lr_weight": [-1.0] * 12}, "up_lr_weight: -1.0 cannot be used"),
        ({"up_lr_weight": "parabola"}, 'up_lr_weight = "parabola" is no shape'),
        ({"down_lr_weight": "cosine+much"}, "is no shape"),
        ({"down_lr_weight": "cosine+-1"}, "is no shape"),
        ({"down_lr_weight": "cosine+nan"}, "is no shape"),
    ],
)
def test_rates_that_cannot_be_meant_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(LoratoryError, match=said):
        block_factors(network(**settings), "sd1")


def test_blocks_without_a_rate_get_no_network() -> None:
    whole = targets_of()
    found = targets_of(down_lr_weight="linear", mid_lr_weight=0.0, block_lr_zero_threshold=0.3)
    expected = [
        target
        for target in whole
        if target.component != "unet" or block_of(target.path, "sd1") in {4, 5, *range(13, 25)}
    ]
    assert found == expected != whole
    by_key = rate_factors(found, network(down_lr_weight="linear"), "sd1")
    assert set(by_key) == {target.key for target in found if target.component == "unet"}
    assert by_key["lora_unet_down_blocks_1_resnets_0_conv1"] == pytest.approx(4 / 11)
    assert by_key["lora_unet_up_blocks_0_resnets_0_conv1"] == 1
    nothing = network(down_lr_weight="zeros", mid_lr_weight=0.0, up_lr_weight="zeros")
    with pytest.raises(LoratoryError, match="Nothing to train"):
        find_targets(*tiny_models(), "sd1", nothing, train_unet=True, train_text_encoder=False)


# -- optimizers

NAMED = [
    (f"{key}.{half}.weight", Parameter(torch.full((4,), 3.0)))
    for key in ("a", "b", "c")
    for half in ("lora_down", "lora_up")
]


def rates_of(parts: list, *, reported: bool | None = None) -> dict[str, float]:
    return {part.name: part.base_lr for part in parts if reported is None or part.is_reported == reported}


def test_modules_of_the_same_factor_learn_together() -> None:
    parts = trained_parts("unet", NAMED, 0.5, OptimizerSettings(), {"a": 0.5, "c": 0.25, "z": 9.0})
    assert rates_of(parts) == {"unet": 0.5, "unet x0.5": 0.25, "unet x0.25": 0.125}
    assert rates_of(parts, reported=True) == {"unet": 0.5}
    assert [[id(p) for p in part.parameters] for part in parts] == [
        [id(parameter) for key, parameter in NAMED if key[0] == module] for module in "bac"
    ]


def test_the_largest_factor_is_told_where_none_is_one() -> None:
    parts = trained_parts("unet", NAMED, 0.5, OptimizerSettings(), {"a": 0.5, "b": 0.5, "c": 0.25})
    assert rates_of(parts) == {"unet": 0.25, "unet x0.25": 0.125}
    assert rates_of(parts, reported=True) == {"unet": 0.25}
    (one,) = trained_parts("unet", NAMED, 0.5, OptimizerSettings(), dict.fromkeys("abc", 0.5))
    assert (one.name, one.base_lr, one.is_reported) == ("unet", 0.25, True)


def test_the_upper_halves_of_lora_plus_keep_their_ratio() -> None:
    parts = trained_parts("unet", NAMED, 0.5, OptimizerSettings(loraplus_lr_ratio=4.0), {"a": 0.5})
    assert rates_of(parts) == {"unet": 0.5, "unet x0.5": 0.25, "unet_up": 2.0, "unet_up x0.5": 1.0}
    assert rates_of(parts, reported=True) == {"unet": 0.5, "unet_up": 2.0}


def test_each_group_moves_at_its_rate_and_one_rate_is_told() -> None:
    settings = OptimizerSettings(optimizer_type="AdamW", learning_rate=1e-2, optimizer_args="weight_decay=0")
    named = [(key, Parameter(torch.full((4,), 3.0))) for key in ("a.w", "b.w")]
    optimizers = Optimizers(trained_parts("unet", named, 1e-2, settings, {"b": 0.25}), settings)
    assert len(optimizers.all) == 1
    optimizers.set_multiplier(0.5)
    for _, parameter in named:
        parameter.grad = torch.ones(4)
    optimizers.all[0].step()
    moved = [float(3 - parameter.detach()[0]) for _, parameter in named]
    assert moved == pytest.approx([5e-3, 1.25e-3], rel=1e-3)
    assert optimizers.rates() == optimizers.effective_rates() == {"unet": 5e-3}


def test_prodigy_has_an_instance_for_each_rate() -> None:
    settings = OptimizerSettings(optimizer_type="Prodigy", learning_rate=1.0, optimizer_args="d0=1e-2")
    named = [(key, Parameter(torch.full((4,), 3.0))) for key in ("a.w", "b.w")]
    optimizers = Optimizers(trained_parts("unet", named, 1.0, settings, {"b": 0.25}), settings)
    assert len(optimizers.all) == 2
    for _ in range(3):
        for _, parameter in named:
            parameter.grad = parameter.detach().clone()
        for optimizer in optimizers.all:
            optimizer.step()
    sizes = optimizers.step_sizes()
    assert sizes is not None and sizes.shape == (1,)
    assert optimizers.rates() == {"unet": 1.0}
    assert optimizers.effective_rates() == {"unet": pytest.approx(float(sizes[0]))}
    moved = [float(3 - parameter.detach()[0]) for _, parameter in named]
    assert moved[1] == pytest.approx(moved[0] / 4, rel=0.2)


def test_an_optimizer_that_sets_its_rate_itself_cannot_have_factors() -> None:
    own = OptimizerSettings(optimizer_type="AdaFactor", lr_scheduler="adafactor")
    with pytest.raises(LoratoryError, match="AdaFactor sets its learning rate itself"):
        refuse_block_rates(network(down_lr_weight="cosine"), own, "sd1")
    refuse_block_rates(network(down_lr_weight="zeros"), own, "sd1")
    refuse_block_rates(network(down_lr_weight="cosine"), OptimizerSettings(), "sd1")


# -- runs


@pytest.fixture
def pictures(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"1_fox": 2})


PER_BLOCK = {
    "network_type": "locon",
    "network_dim": 4,
    "network_alpha": 2,
    "block_dims": [2, 3, 4, 5, 6] * 5,
    "conv_block_dims": [1, 2, 3, 4, 0] * 5,
    "down_lr_weight": "cosine",
    "mid_lr_weight": 0.5,
    "up_lr_weight": "linear+0.1",
}


@pytest.mark.usefixtures("pictures")
def test_presets_without_text_encoders_leave_them_out(tmp_path: Path) -> None:
    for preset, parts in (
        ("attn-mlp", ["unet", "text_encoder"]),
        ("transformer-only", ["unet"]),
        ("unet-only", ["unet"]),
    ):
        config = small_config(tmp_path, network={"network_type": "locon", "lycoris_preset": preset})
        plan = make_plan(config)
        assert [part.name for part in plan.trained] == parts
        assert config.trains_text_encoder == (len(parts) == 2) != config.caches_text
        assert {target.component for target in plan.targets} == {"unet", "te1"} - ({"te1"} if len(parts) < 2 else set())
    with pytest.raises(LoratoryError, match="nothing would be trained"):
        small_config(tmp_path, network={"lycoris_preset": "unet-only", "network_train_text_encoder_only": True})


@pytest.mark.usefixtures("one_thread", "pictures")
@pytest.mark.parametrize("optimizer", ["AdamW", pytest.param("Prodigy", marks=pytest.mark.slow)])
def test_a_run_with_rates_by_block_goes_on_exactly(tmp_path: Path, optimizer: str) -> None:
    config = small_config(
        tmp_path,
        network=PER_BLOCK,
        optimizer={"optimizer_type": optimizer, "learning_rate": 1.0 if optimizer == "Prodigy" else 1e-3},
        output={"state_every_n_steps": 1},
    )
    finished, run, events = train(config)
    assert finished.status == "done"
    steps = [event for event in events if type(event).__name__ == "Step"]
    assert {tuple(step.lr) for step in steps} == {("unet", "text_encoder")} == {tuple(s.effective_lr) for s in steps}
    whole = saved(config)
    go_on_from(config, run, 1)
    assert same_bytes(whole, saved(config))
    assert any(bool(value.any()) for name, value in whole.items() if name.endswith("lora_up.weight"))


@pytest.mark.usefixtures("one_thread", "pictures")
def test_a_plan_counts_what_the_blocks_have_and_rates_reach_the_optimizer(tmp_path: Path) -> None:
    config = small_config(tmp_path, network=PER_BLOCK)
    plan, engine = make_plan(config), engine_of(config)
    parts = {part.name: part for part in plan.parts}
    parameters = sum(parameter.numel() for parameter in engine.adapter.parameters("unet"))
    assert parts["unet"].parameters == parameters
    assert parts["unet"].modules == sum(target.component == "unet" for target in plan.targets)
    groups = {group["name"]: group["lr"] for group in engine.optimizers.all[0].param_groups}
    of_blocks = rate_factors(plan.targets, config.network, "sd1")
    rates = {rate for name, rate in groups.items() if name.startswith("unet")}
    assert len(set(of_blocks.values())) > 4
    assert rates == {1e-3 * factor for factor in of_blocks.values()}
    uneven = small_config(tmp_path, network=PER_BLOCK | {"down_lr_weight": [1.0] * 9})
    with pytest.raises(LoratoryError, match="12 down blocks"):
        make_plan(uneven)


@pytest.mark.usefixtures("one_thread", "pictures")
def test_lycoris_types_and_norms_have_the_ranks_and_rates_of_their_blocks(tmp_path: Path) -> None:
    settings = {"network_type": "loha", "network_dim": 4, "train_norm": True, "block_dims": [1, 2, 3, 4, 0] * 5}
    config = small_config(tmp_path, network={**settings, "mid_lr_weight": 0.5, "down_lr_weight": "zeros+0.25"})
    engine = engine_of(config)
    ranks = {name: p.shape[1] for name, p in engine.adapter.named_parameters("unet") if name.endswith("hada_w1_a")}
    by_path = {target.key: target.path for target in engine.plan.targets}
    assert {name: settings["block_dims"][block_of(by_path[name.partition(".")[0]], "sd1")] for name in ranks} == ranks
    assert set(ranks.values()) == {1, 2, 3, 4}
    groups = {group["name"]: {id(p) for p in group["params"]} for group in engine.optimizers.all[0].param_groups}
    of_block = {1: "unet x0.25", 12: "unet x0.5", 13: "unet"}
    for name, parameter in engine.adapter.named_parameters("unet"):
        group = of_block.get(block_of(by_path[name.partition(".")[0]], "sd1"))
        assert group is None or id(parameter) in groups[group], name
    assert sum(name.endswith(".w_norm") for name, _ in engine.adapter.named_parameters("unet")) > 10
