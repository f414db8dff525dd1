"""Adapters merged into base models: what is written is the sum, in every layout and kind."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from loratory.adapters.files import save_adapter
from loratory.adapters.inject import inject
from loratory.adapters.keys import Component, diffusers_module_key, module_key
from loratory.adapters.tools.checkpoints import Checkpoint
from loratory.adapters.tools.merge import merge_into_base
from loratory.adapters.tools.sources import Ingredient
from loratory.config.schema import NetworkSettings
from loratory.errors import LoratoryError
from loratory.models.header import read_header
from loratory.models.load import BaseModel
from merge_cases import (
    FAMILIES,
    KINDS,
    adapter,
    base_models,
    base_weights,
    compare,
    expected,
    layers,
    load,
    random,
    weights,
)
from tiny_models import Family, tiny_model


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    return base_models(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_added_to_the_weights(tmp_path: Path, bases: Any, kind: str) -> None:
    path = adapter(tmp_path / "a.safetensors", "sdxl", kind)
    merged = merge_into_base(bases["sdxl", "file"], [Ingredient(path, 0.7, -0.4)], tmp_path / "m.safetensors")
    compare(weights(tmp_path / "m.safetensors"), "sdxl", expected("sdxl", {kind: (0.7, -0.4)}), 1e-6)
    assert merged.layers == len(layers("sdxl"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_all_kinds_at_once_in_any_order(tmp_path: Path, bases: Any, family: Family, layout: str) -> None:
    strengths = {kind: (0.3 + 0.1 * n, 0.9 - 0.2 * n) for n, kind in enumerate(KINDS)}
    given = [Ingredient(adapter(tmp_path / f"{kind}.st", family, kind), *strengths[kind]) for kind in KINDS]
    changed = expected(family, strengths)
    for name, order in (("one", given), ("other", given[::-1])):
        out = tmp_path / (f"{name}.safetensors" if layout == "file" else name)
        merge_into_base(bases[family, layout], order, out)
        compare(weights(out), family, changed, 2e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_norms_and_biases(tmp_path: Path, bases: Any, family: Family, layout: str) -> None:
    norms: list[tuple[Component, str]] = [
        ("unet", "down_blocks.0.resnets.0.norm1"),
        ("unet", "conv_norm_out"),
        ("te1", "encoder.layers.1.layer_norm2"),
        ("te1", "final_layer_norm"),
    ]
    biased: list[tuple[Component, str]] = [
        ("unet", "mid_block.resnets.0.conv2"),
        ("te1", "encoder.layers.0.self_attn.v_proj"),
        ("te1", "encoder.layers.0.self_attn.q_proj"),
    ]
    if family == "sdxl":
        norms += [("te2", "final_layer_norm"), ("te2", "encoder.layers.0.layer_norm1")]
        biased += [("te2", "encoder.layers.0.self_attn.q_proj"), ("te2", "encoder.layers.0.mlp.fc2")]
    state: dict[str, Tensor] = {}
    changed: dict[tuple[Component, str], Tensor] = {}
    before = base_weights(family)
    for roles, places in ((("w_norm", "b_norm"), norms), (("diff", "diff_b"), biased)):
        for component, path in places:
            for role, part in zip(roles, ("weight", "bias"), strict=True):
                old = before[component, f"{path}.{part}"]
                change = random(*old.shape)
                state[f"{module_key(component, path, family)}.{role}"] = change
                changed[component, f"{path}.{part}"] = old.double() + 0.5 * change.double()
    save_file(state, tmp_path / "a.safetensors")
    out = tmp_path / ("m.safetensors" if layout == "file" else "m")
    merge_into_base(bases[family, layout], [Ingredient(tmp_path / "a.safetensors", 0.5, 0.5)], out)
    compare(weights(out), family, changed, 1e-6)


def test_half_precision_is_rounded_once(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "half", "sd1", dtype=torch.float16)
    paths = [adapter(tmp_path / f"{kind}.st", "sd1", kind) for kind in ("lora", "loha", "full")]
    merge_into_base(folder, [Ingredient(path, 1e-3, 1e-3) for path in paths], tmp_path / "m")
    before = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    for component, path in layers("sd1")[:9]:
        name = f"{path}.weight"
        weight = before[name].double()
        total = weight.clone()
        for kind in ("lora", "loha", "full"):
            make, change = KINDS[kind]
            total += 1e-3 * change({role: tensor.double() for role, tensor in make(weight).items()}, weight)
        assert component == "unet"
        # The nearest half, or at a tie that float32 sees differently, its neighbour.
        assert ((after[name] == total.half()).double().mean()) > 0.999
        assert (after[name].double() - total).abs().max() <= 0.5001 * 2**-11 * 2 * total.abs().max()


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_the_result_may_have_another_precision(tmp_path: Path, bases: Any, layout: str) -> None:
    path = adapter(tmp_path / "a.safetensors", "sdxl", "lora")
    out = tmp_path / ("m.safetensors" if layout == "file" else "m")
    merge_into_base(bases["sdxl", layout], [Ingredient(path)], out, "bf16")
    files = [out] if layout == "file" else [*(out / "unet").glob("*.safetensors"), *out.glob("text*/*.safetensors")]
    kinds = {entry.dtype for file in files for entry in read_header(file).tensors.values() if entry.shape != (0,)}
    assert kinds <= {"BF16", "I64"}
    changed = expected("sdxl", {"lora": (1.0, 1.0)})
    for place, tensor in weights(out).items():
        exact = changed.get(place, base_weights("sdxl")[place].double())
        assert torch.allclose(tensor.double(), exact, rtol=2**-8, atol=1e-6), place


def test_a_value_too_large_for_the_precision_is_refused(tmp_path: Path, bases: Any) -> None:
    key = "lora_unet_conv_in"
    save_file({f"{key}.diff": torch.full((32, 4, 3, 3), 1e5)}, tmp_path / "a.safetensors")
    with pytest.raises(LoratoryError, match=r"1e\+05, which F16 cannot hold"):
        merge_into_base(bases["sd1", "file"], [Ingredient(tmp_path / "a.safetensors")], tmp_path / "m.st", "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_both_namings_of_sdxl_are_the_same(tmp_path: Path, bases: Any) -> None:
    one = adapter(tmp_path / "one.st", "sdxl", "lokr")
    other = adapter(tmp_path / "other.st", "sdxl", "lokr", naming=diffusers_module_key)
    assert read_header(one).tensors.keys() != read_header(other).tensors.keys()
    for path in (one, other):
        merge_into_base(bases["sdxl", "file"], [Ingredient(path)], path.with_suffix(".safetensors"))
    results = [load_file(path.with_suffix(".safetensors")) for path in (one, other)]
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_a_component_at_0_stays_as_it_is(tmp_path: Path, bases: Any) -> None:
    path = adapter(tmp_path / "a.st", "sd1", "dora")
    merge_into_base(bases["sd1", "file"], [Ingredient(path, 0.0, 1.0)], tmp_path / "m.safetensors")
    changed = {place: t for place, t in expected("sd1", {"dora": (0.0, 1.0)}).items() if place[0] != "unet"}
    compare(weights(tmp_path / "m.safetensors"), "sd1", changed, 1e-6)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("network_type", ["lora", "locon", "dora", "loha", "lokr", "glora", "ia3", "diag-oft", "full"])
def test_the_merged_model_computes_what_base_and_adapter_do(
    tmp_path: Path, bases: Any, family: Family, network_type: str
) -> None:
    base = load(bases[family, "file"])
    rank = {} if network_type in ("ia3", "full") else {"network_dim": 4}
    network = NetworkSettings.model_validate({"network_type": network_type, **rank})
    given = inject(base.unet, base.text_encoders, family, network, seed=1, train_unet=True, train_text_encoder=True)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in given.layers:
            for tensor in layer.tensors().values():
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.05)
    save_adapter(tmp_path / "a.safetensors", given.kohya_state_dict(), {}, "float")
    for model in (base.unet, *base.text_encoders):
        model.eval()
    plain = outputs(load(bases[family, "file"]), family)
    reference = outputs(base, family)
    merge_into_base(bases[family, "file"], [Ingredient(tmp_path / "a.safetensors")], tmp_path / "m.safetensors")
    for one, other, before in zip(outputs(load(tmp_path / "m.safetensors"), family), reference, plain, strict=True):
        scale = float(other.abs().max())
        assert float((one - other).abs().max()) <= 1e-4 * scale
        assert float((other - before).abs().max()) > 1e-3 * scale


@torch.no_grad()
def outputs(base: BaseModel, family: Family) -> list[Tensor]:
    width = base.unet.config["cross_attention_dim"]
    added = None
    if family == "sdxl":
        added = {"text_embeds": random(1, 64), "time_ids": torch.full((1, 6), 64.0)}
    picture = base.unet(random(1, 4, 8, 8), 500, random(1, 7, width), added_cond_kwargs=added).sample
    ids = torch.tensor([[49406, 320, 1125, 539, 49407, 49407]])
    return [picture, *(encoder(ids).last_hidden_state for encoder in base.text_encoders)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"network_module": "locon"},
        {"network_module": "locon", "use_tucker": True},
        {"network_module": "locon", "weight_decompose": True},
        {"network_module": "loha"},
        {"network_module": "lokr", "factor": 4},
        {"network_module": "glora"},
        {"network_module": "diag-oft"},
        {"network_module": "boft"},
        {"network_module": "full", "train_norm": True},
    ],
    ids=lambda arguments: " ".join(map(str, arguments.values())),
)
def test_lycoris_merges_its_own_networks_to_the_same_weights(tmp_path: Path, bases: Any, arguments: Any) -> None:
    from lycoris import kohya

    kohya.LycorisNetworkKohya.apply_preset(
        {
            "enable_conv": True,
            "unet_target_module": ["Transformer2DModel", "ResnetBlock2D"],
            "unet_target_name": ["conv_in"],
            "text_encoder_target_module": [],
            "text_encoder_target_name": [],
            "module_algo_map": {},
            "name_algo_map": {},
            "use_fnmatch": False,
            "exclude_name": [],
        }
    )
    base = load(bases["sd1", "folder"])
    # Its merge applies the scale of LoHa and LoKr twice, its forward pass once: at a scale of 1 that is the same.
    alpha = 4 if arguments["network_module"] in ("loha", "lokr") else 2
    network = kohya.LycorisNetworkKohya(
        [],
        base.unet,
        1.0,
        lora_dim=4,
        alpha=alpha,
        conv_lora_dim=4,
        conv_alpha=alpha,
        warn_on_unmatched=False,
        **arguments,
    )
    network.apply_to([], base.unet, False, True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    network.save_weights(str(tmp_path / "a.safetensors"), torch.float32, {})
    network.restore()
    network.merge_to(None, base.unet, {"lora_unet_": None}, None, None)
    merge_into_base(bases["sd1", "folder"], [Ingredient(tmp_path / "a.safetensors")], tmp_path / "m")
    ours, before = weights(tmp_path / "m"), base_weights("sd1")
    moved = 0
    for name, theirs in base.unet.state_dict().items():
        scale = float(theirs.abs().max()) or 1.0
        assert float((ours["unet", name] - theirs).abs().max()) <= 2e-6 * scale, name
        moved += not torch.equal(theirs, before["unet", name])
    assert moved > 100


# ------------------------------------------------------------------------------------------------- folders


def test_the_old_folder_outlives_whatever_ends_the_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out, aside = tiny_model(tmp_path / "base", "sd1"), tmp_path / "m", tmp_path / ".m.replaced"
    ingredient = Ingredient(adapter(tmp_path / "a.safetensors", "sd1", "lora"))
    tiny_model(out, "sd1", seed=5)
    old = (out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()

    def is_old() -> bool:
        left = {path.name for path in tmp_path.iterdir()} - {"base", "a.safetensors"}
        return left == {"m"} and (out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == old

    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if target == out and path != aside:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", interrupted)
        merge_into_base(folder, [ingredient], out)
    assert is_old()
    # Killed between the renames, and begun again: at first the old one returns, in the end it is gone.
    out.rename(aside)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("loratory.adapters.tools.merge.shutil.copyfile", lambda *_: interrupted(out, out))
        merge_into_base(folder, [ingredient], out)
    assert is_old()
    shutil.copytree(out, aside)
    merge_into_base(folder, [ingredient], out)
    assert not is_old() and not aside.exists() and {path.name for path in tmp_path.glob("*m*")} == {"m"}


def test_a_link_to_a_folder_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    folder, real, out = tiny_model(tmp_path / "base", "sd1"), tmp_path / "models" / "real", tmp_path / "m"
    ingredient = Ingredient(adapter(tmp_path / "a.safetensors", "sd1", "lora"))
    real.parent.mkdir()
    tiny_model(real, "sd1", seed=5)
    out.symlink_to(real)
    for _ in range(2):
        merge_into_base(folder, [ingredient], out)
    assert out.is_symlink() and list(real.parent.iterdir()) == [real]
    assert {path.name for path in tmp_path.iterdir()} == {"base", "models", "m", "a.safetensors"}
    compare(weights(out), "sd1", expected("sd1", {"lora": (1.0, 1.0)}), 1e-6)


def test_a_folder_keeps_its_shards_and_what_belongs_to_it(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base", "sd1")
    unet = folder / "unet"
    whole = load_file(unet / "diffusion_pytorch_model.safetensors")
    names = sorted(whole)
    shards = {f"diffusion_pytorch_model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for shard, held in shards.items():
        save_file({name: whole[name] for name in held}, unet / shard, {"format": "pt"})
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": {n: shard for shard, held in shards.items() for n in held}}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (unet / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another form of the unchanged model")
    (folder / "v1-5-pruned.ckpt").write_bytes(b"another model")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "merges.txt").write_text("a b")
    path = adapter(tmp_path / "a.st", "sd1", "loha")
    merge_into_base(folder, [Ingredient(path)], tmp_path / "m", "bf16")
    made = {str(found.relative_to(tmp_path / "m")) for found in (tmp_path / "m").rglob("*") if found.is_file()}
    kept = {str(found.relative_to(folder)) for found in folder.rglob("*") if found.is_file()}
    assert kept - made == {"unet/diffusion_pytorch_model.fp16.safetensors", "v1-5-pruned.ckpt"}
    assert made < kept
    written = json.loads((tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert written == {**index, "metadata": {"total_size": sum(tensor.numel() * 2 for tensor in whole.values())}}
    changed = expected("sd1", {"loha": (1.0, 1.0)})
    for place, tensor in weights(tmp_path / "m").items():
        exact = changed.get(place, base_weights("sd1")[place].double())
        assert torch.allclose(tensor.double(), exact, rtol=2**-8, atol=1e-6), place


# ------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_finds_every_layer_in_both_layouts(bases: Any, family: Family) -> None:
    before = base_weights(family)
    for layout in ("file", "folder"):
        with Checkpoint(bases[family, layout]) as checkpoint:
            assert len({layer.key for layer in checkpoint.layers}) == len(checkpoint.layers)
            for layer in checkpoint.layers:
                path = layer.path.removeprefix("text_model.")
                assert torch.equal(checkpoint.read(layer.weight), before[layer.component, f"{path}.weight"])
                assert (layer.bias is None) == ((layer.component, f"{path}.bias") not in before)
                if layer.bias is not None:
                    assert torch.equal(checkpoint.read(layer.bias), before[layer.component, f"{path}.bias"])
