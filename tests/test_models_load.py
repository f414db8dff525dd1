import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from loratory.config.schema import ModelSettings, NoiseSettings
from loratory.errors import LoratoryError
from loratory.models.components import Component, component_names, family_config
from loratory.models.detect import ModelInfo, detect_model
from loratory.models.export import export_single_file
from loratory.models.header import read_header
from loratory.models.load import (
    BaseModel,
    build_component,
    load_base_model,
    load_vae,
    meta_unet_and_text_encoders,
)
from loratory.models.names import original_name
from loratory.models.weights import weights_identity
from tiny_models import Family, shared_tiny_model, tiny_model

FAMILIES: list[Family] = ["sd1", "sd2", "sdxl"]


def load(path: Path, **settings: object) -> BaseModel:
    model = ModelSettings.model_validate({"pretrained_model_name_or_path": str(path), **settings})
    return load_base_model(detect_model(model, NoiseSettings()), model)


def load_as(path: Path, dtype: torch.dtype) -> BaseModel:
    model = ModelSettings(pretrained_model_name_or_path=str(path))
    return load_base_model(detect_model(model, NoiseSettings()), model, dtype=dtype)


@cache
def base_model(family: Family) -> BaseModel:
    return load(shared_tiny_model(family))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    """The shared tiny models as single files in the original layout; to be read only."""
    folder = tmp_path_factory.mktemp("files")
    for family in FAMILIES:
        export_single_file(base_model(family), folder / f"{family}.safetensors")
    return {family: folder / f"{family}.safetensors" for family in FAMILIES}


def modules(base: BaseModel) -> dict[str, nn.Module]:
    encoders = dict(zip(("text_encoder", "text_encoder_2"), base.text_encoders, strict=False))
    return {"unet": base.unet, "vae": base.vae, **encoders}


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def predict(unet: Any, family: Family) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    text = torch.randn(1, 77, unet.config["cross_attention_dim"], generator=generator)
    added = None
    if family == "sdxl":
        added = {"text_embeds": torch.randn(1, 64, generator=generator), "time_ids": torch.full((1, 6), 64.0)}
    with torch.no_grad():
        return unet(latents, torch.tensor([500]), text, added_cond_kwargs=added).sample


class TestFolders:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_computes_what_the_libraries_loaders_load(self, family: Family) -> None:
        folder, base = shared_tiny_model(family), base_model(family)
        unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        assert_same_weights(base.unet, unet)
        # Not bit for bit: the library leaves its weights in the mapped file, at addresses of another alignment.
        torch.testing.assert_close(predict(base.unet, family), predict(unet, family))
        assert_same_weights(base.vae, AutoencoderKL.from_pretrained(folder / "vae"))
        assert_same_weights(base.text_encoders[0], CLIPTextModel.from_pretrained(folder / "text_encoder"))
        if family == "sdxl":
            second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2")
            assert_same_weights(base.text_encoders[1], second)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_is_ready_to_be_trained_around(self, family: Family) -> None:
        base = base_model(family)
        for module in modules(base).values():
            assert not module.training
            tensors = [*module.parameters(), *module.buffers()]
            assert all(tensor.device.type == "cpu" and not tensor.requires_grad for tensor in tensors)
            assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
        assert base.vae_scale == (0.13025 if family == "sdxl" else 0.18215)
        assert len(base.tokenizers) == len(base.text_encoders)

    def test_half_precision_becomes_float32_exactly(self, tmp_path: Path) -> None:
        base = load(tiny_model(tmp_path / "half", dtype=torch.float16))
        stored = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
        assert stored["conv_in.weight"].dtype == torch.float16
        assert torch.equal(base.unet.conv_in.weight, stored["conv_in.weight"].float())

    def test_weights_outlive_the_file(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model")
        base = load(folder)
        before = base.unet.conv_in.weight.clone()
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
        assert torch.equal(base.unet.conv_in.weight, before)

    def test_shards(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model")
        expected = load(folder).unet
        whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(whole)
        names = sorted(tensors)
        whole.unlink()
        # The half-precision twin that folders often hold as well; its index must not be taken.
        (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors.index.json").write_text("{}")
        shards = {f"diffusion_pytorch_model-{i + 1:05}-of-00002.safetensors": names[i::2] for i in range(2)}
        for shard, members in shards.items():
            save_file({name: tensors[name] for name in members}, folder / "unet" / shard)
        weight_map = {name: shard for shard, members in shards.items() for name in members}
        index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        assert_same_weights(load(folder).unet, expected)

    def test_only_a_variant(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model")
        expected = load(folder).unet
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        other = tiny_model(tmp_path / "other", seed=1) / "unet" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
        other.rename(weights.with_name("diffusion_pytorch_model.fp16.non_ema.safetensors"))
        assert_same_weights(load(folder).unet, expected)

    def test_names_of_older_libraries(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model")
        expected = load(folder)
        vae_path = folder / "vae" / "diffusion_pytorch_model.safetensors"
        old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        renamed: dict[str, Tensor] = {}
        for name, tensor in load_file(vae_path).items():
            for new_part, old_part in old.items():
                name = name.replace(new_part, old_part)
            renamed[name] = tensor
        assert any(".proj_attn." in name for name in renamed)
        save_file(renamed, vae_path)
        encoder_path = folder / "text_encoder" / "model.safetensors"
        names = load_file(encoder_path)
        flat = {name.removeprefix("text_model."): tensor for name, tensor in names.items()}
        nested = {f"text_model.{name}": tensor for name, tensor in flat.items()}
        for layout in (flat, nested | {"text_model.embeddings.position_ids": torch.arange(77)[None]}):
            save_file(layout, encoder_path)
            base = load(folder)
            assert_same_weights(base.text_encoders[0], expected.text_encoders[0])
            assert_same_weights(base.vae, expected.vae)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda tensors: tensors.pop("conv_in.weight"), "lacks 1 tensors of the model: conv_in.weight."),
            (lambda tensors: tensors.update(extra=torch.zeros(1)), "1 tensors that the model has no place for: extra."),
            (
                lambda tensors: tensors.update({"conv_in.bias": torch.zeros(5)}),
                r"conv_in.bias has \[5\] where \[32\] is expected",
            ),
        ],
    )
    def test_weights_that_do_not_fit(self, change: Any, said: str, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model")
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        with pytest.raises(LoratoryError, match=said):
            load(folder)


class TestSingleFiles:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_round_trip_is_exact(self, family: Family, files: dict[Family, Path]) -> None:
        base, again = base_model(family), load(files[family])
        assert again.info.layout == "single_file"
        assert again.info.prediction_type == base.info.prediction_type
        for name, module in modules(base).items():
            assert_same_weights(modules(again)[name], module)
        assert torch.equal(predict(again.unet, family), predict(base.unet, family))
        assert again.identity == base.identity

    def test_round_trip_keeps_the_noise_schedule(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model", "sdxl", prediction_type="v_prediction", zero_terminal_snr=True)
        export_single_file(load(folder), tmp_path / "model.safetensors")
        info = load(tmp_path / "model.safetensors").info
        assert (info.prediction_type, info.zero_terminal_snr) == ("v_prediction", True)

    def test_names_no_folder_of_the_exporting_machine(self, files: dict[Family, Path]) -> None:
        metadata = read_header(files["sd1"]).metadata
        assert str(shared_tiny_model("sd1")) not in "".join(metadata.values())

    @pytest.mark.parametrize("family", FAMILIES)
    def test_diffusers_own_converters_agree(self, family: Family, files: dict[Family, Path]) -> None:
        checkpoint, base = load_file(files[family]), base_model(family)
        converted: dict[str, dict[str, Tensor]] = {
            "unet": convert_ldm_unet_checkpoint(dict(checkpoint), dict(base.unet.config)),
            "vae": convert_ldm_vae_checkpoint(dict(checkpoint), dict(base.vae.config)),
        }
        for name, tensors in converted.items():
            ours = modules(base)[name].state_dict()
            assert ours.keys() == tensors.keys()
            assert all(torch.equal(ours[key], tensors[key]) for key in ours)

    @pytest.mark.parametrize(
        ("family", "prefix"), [("sd2", "cond_stage_model.model."), ("sdxl", "conditioner.embedders.1.model.")]
    )
    def test_diffusers_own_open_clip_converter_agrees(
        self, family: Family, prefix: str, files: dict[Family, Path]
    ) -> None:
        encoder = base_model(family).text_encoders[-1]
        converted = convert_open_clip_checkpoint(encoder, load_file(files[family]), prefix)
        ours = {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}
        theirs = {name.removeprefix("text_model."): tensor for name, tensor in converted.items()}
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def test_tensors_without_use_are_left_out(self, files: dict[Family, Path], tmp_path: Path) -> None:
        harmless = {
            "model_ema.decay": torch.zeros(1),
            "alphas_cumprod": torch.zeros(1000),
            "cond_stage_model.model.logit_scale": torch.zeros(1),
            "cond_stage_model.model.text_projection": torch.zeros(64, 64),
            "cond_stage_model.model.transformer.resblocks.23.ln_1.bias": torch.zeros(64),
            "first_stage_model.loss.logvar": torch.zeros(1),
            "v_pred": torch.zeros(0),
        }
        metadata = dict(read_header(files["sd2"]).metadata)
        save_file({**load_file(files["sd2"]), **harmless}, tmp_path / "model.safetensors", metadata)
        assert_same_weights(load(tmp_path / "model.safetensors").unet, base_model("sd2").unet)

    def test_text_encoder_names_without_their_level(self, files: dict[Family, Path], tmp_path: Path) -> None:
        tensors = {name.replace(".text_model.", "."): tensor for name, tensor in load_file(files["sd1"]).items()}
        tensors["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None]
        save_file(tensors, tmp_path / "model.safetensors", dict(read_header(files["sd1"]).metadata))
        assert_same_weights(load(tmp_path / "model.safetensors").text_encoders[0], base_model("sd1").text_encoders[0])

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                lambda tensors: [tensors.pop(name) for name in list(tensors) if ".input_blocks.1.1." in name],
                r"model\.diffusion_model\.input_blocks\.1\.1\.norm\.bias, .* and ",
            ),
            (
                lambda tensors: tensors.update({"first_stage_model.extra": torch.zeros(1)}),
                "no place for: first_stage_model.extra",
            ),
            (
                lambda tensors: tensors.update({"lora_unet_x.alpha": torch.zeros(1)}),
                "belong to no component of the model: lora_unet_x.alpha",
            ),
            (
                lambda tensors: tensors.pop("cond_stage_model.transformer.text_model.final_layer_norm.bias"),
                "lacks 1 tensors of the model: cond_stage_model.transformer.text_model.final_layer_norm.bias",
            ),
        ],
    )
    def test_tensors_missing_or_left_over(
        self, change: Any, said: str, files: dict[Family, Path], tmp_path: Path
    ) -> None:
        tensors = load_file(files["sd1"])
        change(tensors)
        path = tmp_path / "model.safetensors"
        save_file(tensors, path, dict(read_header(files["sd1"]).metadata))
        with pytest.raises(LoratoryError, match=said):
            load(path)

    def test_other_widths_without_a_description(self, files: dict[Family, Path], tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        save_file(load_file(files["sd1"]), path)
        with pytest.raises(LoratoryError, match=r"tensors of other shapes|lacks"):
            load(path)

    def test_a_damaged_description(self, files: dict[Family, Path], tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        save_file(load_file(files["sd1"]), path, {"loratory.components": '{"unet": {}}'})
        with pytest.raises(LoratoryError, match=r"loratory\.components does not describe unet, vae, text_encoder"):
            load(path)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second SD 1.x model, whose VAE can replace the one of the first; to be read only."""
    return tiny_model(tmp_path_factory.mktemp("other") / "model", seed=1)


class TestSeparateVae:
    def expected(self, other: Path) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(other / "vae")

    @pytest.mark.parametrize("part", ["", "vae", "vae/diffusion_pytorch_model.safetensors"])
    def test_from_a_diffusers_folder(self, part: str, other: Path) -> None:
        base = load(shared_tiny_model("sd1"), vae=other / part)
        assert_same_weights(base.vae, self.expected(other))
        assert base.identity["vae"] != base_model("sd1").identity["vae"]
        assert base.identity["text_encoder"] == base_model("sd1").identity["text_encoder"]

    @pytest.mark.parametrize("prefix", ["first_stage_model.", ""])
    def test_from_a_file_with_original_names(self, prefix: str, other: Path, tmp_path: Path) -> None:
        export_single_file(load(other), tmp_path / "whole.safetensors")
        metadata = dict(read_header(tmp_path / "whole.safetensors").metadata)
        tensors = {
            prefix + name.removeprefix("first_stage_model."): tensor
            for name, tensor in load_file(tmp_path / "whole.safetensors").items()
            if name.startswith("first_stage_model.")
        }
        save_file(tensors, tmp_path / "vae.safetensors", metadata)
        assert_same_weights(load(shared_tiny_model("sd1"), vae=tmp_path / "vae.safetensors").vae, self.expected(other))

    def test_out_of_a_whole_checkpoint(self, other: Path, tmp_path: Path) -> None:
        export_single_file(load(other), tmp_path / "whole.safetensors")
        assert_same_weights(load_vae(tmp_path / "whole.safetensors", "sd1")[1], self.expected(other))

    def test_completes_a_checkpoint_without_one(self, other: Path, files: dict[Family, Path], tmp_path: Path) -> None:
        tensors = {
            name: tensor for name, tensor in load_file(files["sd1"]).items() if not name.startswith("first_stage_model")
        }
        path = tmp_path / "model.safetensors"
        save_file(tensors, path, dict(read_header(files["sd1"]).metadata))
        assert_same_weights(load(path, vae=other / "vae").vae, self.expected(other))

    def test_a_name_that_is_no_utf_8_is_told(self, other: Path, tmp_path: Path) -> None:
        path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
        export_single_file(load(other), tmp_path / "whole.safetensors")
        (tmp_path / "whole.safetensors").rename(path)
        with pytest.raises(LoratoryError, match="this name is not valid UTF-8"):
            load_vae(path, "sd1")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(LoratoryError, match="there is no file or folder"):
            load(shared_tiny_model("sd1"), vae=tmp_path / "vae.safetensors")

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        save_file({"lora_unet_x.alpha": torch.zeros(1)}, tmp_path / "lora.safetensors")
        with pytest.raises(LoratoryError, match="holds no VAE"):
            load(shared_tiny_model("sd1"), vae=tmp_path / "lora.safetensors")

    def test_of_another_family(self) -> None:
        with pytest.raises(LoratoryError, match=r"scales latents by 0\.13025, SD 1\.x models by 0\.18215"):
            load(shared_tiny_model("sd1"), vae=shared_tiny_model("sdxl"))

    @pytest.mark.parametrize(
        ("change", "said"),
        [({"latent_channels": 16}, "16 channels"), ({"_class_name": "AutoencoderTiny"}, "of the kind AutoencoderTiny")],
    )
    def test_of_another_kind(self, change: dict[str, object], said: str, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model") / "vae"
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(LoratoryError, match=said):
            load(shared_tiny_model("sd1"), vae=folder)


class TestIdentity:
    def test_changes_with_any_fine_tuning(self) -> None:
        config = family_config("sd1", "text_encoder")
        encoder = load(shared_tiny_model("sd1")).text_encoders[0]
        before = weights_identity(encoder, config)
        assert weights_identity(encoder, config) == before
        layer = encoder.get_parameter("encoder.layers.1.mlp.fc1.weight")
        layer.data.mul_(1.0001)
        assert weights_identity(encoder, config) != before

    def test_changes_with_what_the_config_makes_of_the_weights(self) -> None:
        encoder = base_model("sd1").text_encoders[0]
        config = family_config("sd1", "text_encoder")
        other = config | {"hidden_act": "gelu"}
        assert weights_identity(encoder, config) != weights_identity(encoder, other)


class TestFormats:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("layout", ["folder", "file"])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_as_if_cast_after_loading(
        self, family: Family, layout: str, dtype: torch.dtype, files: dict[Family, Path]
    ) -> None:
        path = files[family] if layout == "file" else shared_tiny_model(family)
        expected, found = load(path), load_as(path, dtype)
        assert found.identity == expected.identity == base_model(family).identity
        for name, module in modules(found).items():
            form = torch.float32 if name == "vae" else dtype
            tensors = module.state_dict()
            assert {tensor.dtype for tensor in tensors.values()} == {form}
            assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in tensors.values())
            assert_same_weights(module, modules(expected)[name].to(form))

    @pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_files(self, stored: torch.dtype, dtype: torch.dtype, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "half", "sdxl", dtype=stored)
        expected, found = load(folder), load_as(folder, dtype)
        assert found.identity == expected.identity
        for name in ("unet", "text_encoder", "text_encoder_2"):
            assert_same_weights(modules(found)[name], modules(expected)[name].to(dtype))

    def test_weights_have_memory_of_their_own(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "half", dtype=torch.float16)
        base = load_as(folder, torch.float16)
        before = base.unet.conv_in.weight.clone()
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
        assert torch.equal(base.unet.conv_in.weight, before)

    def test_identities_of_earlier_versions(self) -> None:
        """Caches are found by them: they must not change."""
        config = family_config("sd1", "text_encoder")
        module = nn.ModuleDict({"a": nn.Linear(90, 100), "text_model": nn.Linear(3, 2)})
        for index, parameter in enumerate(module.parameters()):
            parameter.data = (torch.arange(parameter.numel()) * (index + 1) / 7).reshape(parameter.shape)
        assert weights_identity(module, config) == "f95ddaf62661e4d1ea3283650cb087c19793b39303099be5f522f351b82a92c1"


class TestPublishedArchitectures:
    def info(self, family: Family, tmp_path: Path) -> ModelInfo:
        # Detection and counting read names only, so one tensor for each component is a checkpoint.
        keys = [original_name(family, name, first, family_config(family, name)).key for name, first in FIRST[family]]
        path = tmp_path / "model.safetensors"
        save_file({key: torch.zeros(4, 4) for key in keys}, path)
        return detect_model(ModelSettings(pretrained_model_name_or_path=str(path)), NoiseSettings())

    @pytest.mark.parametrize(
        ("family", "unet_millions", "encoder_millions"),
        [("sd1", 859.52, [123.06]), ("sd2", 865.91, [340.39]), ("sdxl", 2567.46, [123.06, 694.66])],
    )
    def test_sizes(self, family: Family, unet_millions: float, encoder_millions: list[float], tmp_path: Path) -> None:
        unet, encoders = meta_unet_and_text_encoders(self.info(family, tmp_path))
        sizes = [sum(p.numel() for p in module.parameters()) / 1e6 for module in (unet, *encoders)]
        assert sizes == pytest.approx([unet_millions, *encoder_millions], abs=0.005)
        assert {p.device.type for module in (unet, *encoders) for p in module.parameters()} == {"meta"}

    @pytest.mark.parametrize("family", FAMILIES)
    def test_original_names_of_every_tensor(self, family: Family) -> None:
        """Original names of the full-size models, turned back by diffusers' own converters."""
        for component, convert in (("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)):
            config = family_config(family, component)
            names = build_component(component, config).state_dict()
            original = {original_name(family, component, name, config).key: torch.zeros(1) for name in names}
            assert len(original) == len(names)
            built = dict(build_component(component, config).config)
            assert convert(original, built).keys() == names.keys()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_component_has_its_published_place(self, family: Family) -> None:
        for component in component_names(family):
            config = family_config(family, component)
            for name in build_component(component, config).state_dict():
                assert original_name(family, component, name, config).key.startswith(
                    ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.embedders.")
                )


FIRST: dict[Family, list[tuple[Component, str]]] = {
    "sd1": [
        ("unet", "time_embedding.linear_1.weight"),
        ("vae", "quant_conv.weight"),
        ("text_encoder", "final_layer_norm.weight"),
    ],
    "sd2": [
        ("unet", "time_embedding.linear_1.weight"),
        ("vae", "quant_conv.weight"),
        ("text_encoder", "final_layer_norm.weight"),
    ],
    "sdxl": [
        ("unet", "time_embedding.linear_1.weight"),
        ("vae", "quant_conv.weight"),
        ("text_encoder", "final_layer_norm.weight"),
        ("text_encoder_2", "text_model.final_layer_norm.weight"),
    ],
}
