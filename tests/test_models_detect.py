import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loratory.config.schema import ModelSettings, NoiseSettings
from loratory.errors import FAILED, LoratoryError
from loratory.models.detect import ModelInfo, detect_model
from tiny_models import Family, shared_tiny_model, tiny_model


def detect(path: Path | str, *, zero_terminal_snr: bool | None = None, **settings: object) -> ModelInfo:
    model = ModelSettings.model_validate({"pretrained_model_name_or_path": str(path), **settings})
    return detect_model(model, NoiseSettings(zero_terminal_snr=zero_terminal_snr))


def refusal(path: Path | str, **settings: object) -> LoratoryError:
    with pytest.raises(LoratoryError) as caught:
        detect(path, **settings)
    return caught.value


SD1_KEYS = {
    "model.diffusion_model.input_blocks.0.0.weight": (32, 4, 3, 3),
    "first_stage_model.encoder.conv_in.weight": (32, 3, 3, 3),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": (32,),
}
SD2_KEYS = {
    "model.diffusion_model.input_blocks.0.0.weight": (32, 4, 3, 3),
    "first_stage_model.encoder.conv_in.weight": (32, 3, 3, 3),
    "cond_stage_model.model.ln_final.weight": (32,),
}
SDXL_KEYS = {
    "model.diffusion_model.input_blocks.0.0.weight": (32, 4, 3, 3),
    "first_stage_model.encoder.conv_in.weight": (32, 3, 3, 3),
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (32,),
    "conditioner.embedders.1.model.ln_final.weight": (32,),
}
KEYS: dict[Family, dict[str, tuple[int, ...]]] = {"sd1": SD1_KEYS, "sd2": SD2_KEYS, "sdxl": SDXL_KEYS}


def checkpoint(path: Path, keys: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file with tensors of these names and shapes: enough to be recognised, not to be loaded."""
    save_file({name: torch.zeros(shape) for name, shape in keys.items()}, path, metadata)
    return path


class TestRecognition:
    @pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
    def test_a_diffusers_folder_of_any_width(self, family: Family) -> None:
        info = detect(shared_tiny_model(family))
        assert (info.family, info.layout) == (family, "diffusers")
        assert info.prediction_type == ("v_prediction" if family == "sd2" else "epsilon")
        assert not info.zero_terminal_snr
        assert len(info.reasons) == 3 and all(reason.endswith(".") for reason in info.reasons)

    @pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
    def test_a_single_file_by_its_structure(self, family: Family, tmp_path: Path) -> None:
        info = detect(checkpoint(tmp_path / "model.safetensors", KEYS[family]))
        assert (info.family, info.layout, info.path) == (family, "single_file", tmp_path / "model.safetensors")

    @pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2")])
    def test_published_widths_decide_in_a_folder(self, width: int, family: Family, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model", "sd1" if family == "sd2" else "sd2")
        config = json.loads((folder / "unet" / "config.json").read_text())
        (folder / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": width}))
        assert detect(folder).family == family

    def test_the_embedded_model(self) -> None:
        info = detect("nano")
        assert (info.source, info.family, info.prediction_type) == ("nano", "sd1", "epsilon")
        assert (info.path / "unet" / "config.json").is_file()

    def test_needs_no_torch(self, tmp_path: Path) -> None:
        path = checkpoint(tmp_path / "model.safetensors", SDXL_KEYS)
        program = (
            "import sys\n"
            "from loratory.config.schema import ModelSettings, NoiseSettings\n"
            "from loratory.models.detect import detect_model\n"
            f"detect_model(ModelSettings(pretrained_model_name_or_path={str(path)!r}), NoiseSettings())\n"
            "print(*(name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules))"
        )
        finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert finished.stdout.strip() == ""


class TestPredictionType:
    @pytest.mark.parametrize(
        ("family", "metadata", "expected"),
        [
            ("sd1", {}, "epsilon"),
            ("sdxl", {}, "epsilon"),
            ("sd2", {}, "v_prediction"),
            ("sd1", {"modelspec.prediction_type": "v"}, "v_prediction"),
            ("sdxl", {"modelspec.prediction_type": "v_prediction"}, "v_prediction"),
            ("sd2", {"modelspec.prediction_type": "epsilon"}, "epsilon"),
            ("sd2", {"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon"),
            ("sd2", {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
        ],
    )
    def test_of_a_file(self, family: Family, metadata: dict[str, str], expected: str, tmp_path: Path) -> None:
        info = detect(checkpoint(tmp_path / "model.safetensors", KEYS[family], metadata))
        assert info.prediction_type == expected
        # What was not read from the file is called an assumption.
        assert ("assumed" in info.reasons[1]) == (not metadata)

    def test_keys_of_a_v_prediction_checkpoint(self, tmp_path: Path) -> None:
        info = detect(checkpoint(tmp_path / "model.safetensors", SDXL_KEYS | {"v_pred": (0,), "ztsnr": (0,)}))
        assert (info.prediction_type, info.zero_terminal_snr) == ("v_prediction", True)
        assert "v_pred" in info.reasons[1] and "ztsnr" in info.reasons[2]

    def test_of_a_folder(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "v", "sd1", prediction_type="v_prediction", zero_terminal_snr=True)
        info = detect(folder)
        assert (info.prediction_type, info.zero_terminal_snr) == ("v_prediction", True)

    def test_a_folder_without_scheduler_is_assumed(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model", "sd2")
        (folder / "scheduler" / "scheduler_config.json").unlink()
        info = detect(folder)
        assert info.prediction_type == "v_prediction" and "assumed" in info.reasons[1]

    def test_settings_overrule_the_file_and_say_so(self, tmp_path: Path) -> None:
        path = checkpoint(tmp_path / "model.safetensors", SDXL_KEYS | {"v_pred": (0,), "ztsnr": (0,)})
        info = detect(path, v_parameterization=False, zero_terminal_snr=False)
        assert (info.prediction_type, info.zero_terminal_snr) == ("epsilon", False)
        assert "although" in info.reasons[1] and "although" in info.reasons[2]
        agreeing = detect(path, v_parameterization=True, zero_terminal_snr=True)
        assert "although" not in agreeing.reasons[1] + agreeing.reasons[2]

    def test_an_unknown_prediction_type_is_refused(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model", "sd1", prediction_type="sample")
        assert "prediction_type sample" in refusal(folder).message


class TestFamilySetting:
    def test_agreeing(self) -> None:
        assert detect(shared_tiny_model("sd2"), family="sd2").family == "sd2"

    def test_contradicting_says_what_the_file_shows(self) -> None:
        error = refusal(shared_tiny_model("sdxl"), family="sd1")
        assert "model.family is sd1" in error.message and "is SDXL: " in error.message
        assert '"sdxl"' in error.hint


class TestFilesThatAreNoModel:
    def test_missing_file_suggests_near_names(self, tmp_path: Path) -> None:
        checkpoint(tmp_path / "animagine-xl.safetensors", SDXL_KEYS)
        error = refusal(tmp_path / "animagin-xl.safetensors")
        assert "no model animagin-xl.safetensors" in error.message
        assert "Did you mean animagine-xl.safetensors?" in error.hint

    def test_missing_folder(self, tmp_path: Path) -> None:
        error = refusal(tmp_path / "nowhere" / "deep" / "model.safetensors")
        assert f"{tmp_path} does" in error.message

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").touch()
        assert "is empty (0 bytes)" in refusal(tmp_path / "model.safetensors").message

    def test_truncated_says_both_sizes(self, tmp_path: Path) -> None:
        path = checkpoint(tmp_path / "model.safetensors", SD1_KEYS)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1000])
        message = refusal(path).message
        assert f"{len(whole):,} bytes" in message and f"{len(whole) - 1000:,}" in message

    def test_truncated_inside_the_header(self, tmp_path: Path) -> None:
        path = checkpoint(tmp_path / "model.safetensors", SD1_KEYS)
        path.write_bytes(path.read_bytes()[:100])
        assert "cut short" in refusal(path).message

    def test_longer_than_described(self, tmp_path: Path) -> None:
        path = checkpoint(tmp_path / "model.safetensors", SD1_KEYS)
        path.write_bytes(path.read_bytes() + b"more")
        assert "damaged" in refusal(path).message

    @pytest.mark.parametrize(
        "header",
        [
            b'{"a": 1}',
            b"{broken}",
            b'{"a": {"dtype": "F32"}}',
            b'{"__metadata__": 3',
            b'{"__metadata__": ["a"]}',
            b'{"__metadata__": {"a": 1}}',
            b'{"a": {"dtype": "U8", "shape": ["x"], "data_offsets": [0, 0]}}',
            b'{"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 0]}}',
            b'{"a": {"dtype": "U8", "shape": [0], "data_offsets": ["0", "0"]}}',
            b'{"a": {"dtype": "U8", "shape": [0], "data_offsets": [0]}}',
            b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        ],
        ids=range(11),
    )
    def test_damaged_header(self, header: bytes, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        assert "header is damaged" in refusal(tmp_path / "model.safetensors").message

    @pytest.mark.parametrize(
        ("start", "kind"),
        [
            (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG picture"),
            (b"\n<!DOCTYPE html><html>Log in", "a web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git LFS pointer"),
            (b"PK\x03\x04" + bytes(60), "a pickle checkpoint"),
            (b"\x80\x02}q\x00(X" + bytes(60), "a pickle checkpoint"),
            (b"GGUF" + bytes(60), "a quantized GGUF file"),
            (b"hello, I am text", "not a safetensors file"),
            (b"short", "not a safetensors file"),
        ],
    )
    def test_another_kind_of_file(self, start: bytes, kind: str, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(start)
        assert kind in refusal(tmp_path / "model.safetensors").message

    @pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "pytorch_model.bin"])
    def test_pickles_are_refused_unopened(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(b"anything")
        error = refusal(tmp_path / name)
        assert "pickle" in error.message and ".safetensors" in error.hint


class TestSafetensorsThatAreNoBaseModel:
    @pytest.mark.parametrize(
        ("keys", "kind"),
        [
            ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 8)}, "a LoRA or LyCORIS file"),
            ({"unet.mid_block.attentions.0.proj_in.lora_A.weight": (4, 8)}, "a LoRA or LyCORIS file"),
            ({"lycoris_unet_mid.lokr_w1": (4, 8)}, "a LoRA or LyCORIS file"),
            ({"encoder.conv_in.weight": (4, 3, 3, 3), "decoder.conv_in.weight": (4, 4, 3, 3)}, "a VAE"),
            ({"first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3)}, "a VAE"),
            ({"text_model.final_layer_norm.weight": (8,)}, "a text encoder"),
            ({"control_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, "a ControlNet"),
            ({"controlnet_cond_embedding.conv_in.weight": (4, 3, 3, 3)}, "a ControlNet"),
            ({"emb_params": (4, 768)}, "a textual inversion embedding"),
            ({"clip_l": (4, 768), "clip_g": (4, 1280)}, "a textual inversion embedding"),
            ({"down_blocks.0.motion_modules.0.weight": (4,)}, "an AnimateDiff motion module"),
            ({"image_proj.proj.weight": (4, 4), "ip_adapter.1.to_k_ip.weight": (4, 4)}, "an IP-Adapter"),
            ({"down_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3)}, "only a UNet"),
            ({"double_blocks.0.img_attn.qkv.weight": (4, 4)}, "a Flux model"),
            ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (4, 4)}, "a Flux model"),
            ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4, 4)}, "a Stable Diffusion 3 model"),
            ({"layer.weight": (4, 4)}, "not a Stable Diffusion 1.x, 2.x or SDXL checkpoint"),
            ({}, "holds no tensors"),
            (SD1_KEYS | {"control_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, "a ControlNet"),
            (SDXL_KEYS | {"edm_mean": (4,), "edm_std": (4,)}, "an EDM model"),
            (SD1_KEYS | {"model.diffusion_model.input_blocks.0.0.weight": (32, 9, 3, 3)}, "an inpainting model"),
            (SD1_KEYS | {"model.diffusion_model.input_blocks.0.0.weight": (32, 8, 3, 3)}, "InstructPix2Pix"),
            (
                {
                    "model.diffusion_model.input_blocks.0.0.weight": (32, 4, 3, 3),
                    "conditioner.embedders.0.model.ln_final.weight": (32,),
                },
                "an SDXL refiner",
            ),
            ({"model.diffusion_model.input_blocks.0.0.weight": (32, 4, 3, 3)}, "not the text encoders"),
        ],
    )
    def test_is_named(self, keys: dict[str, tuple[int, ...]], kind: str, tmp_path: Path) -> None:
        assert kind in refusal(checkpoint(tmp_path / "file.safetensors", keys)).message

    def test_a_checkpoint_without_vae_needs_one(self, tmp_path: Path) -> None:
        keys = {name: shape for name, shape in SD1_KEYS.items() if not name.startswith("first_stage")}
        path = checkpoint(tmp_path / "model.safetensors", keys)
        error = refusal(path)
        assert "has no VAE" in error.message and "model.vae" in error.hint
        assert detect(path, vae=tmp_path / "vae.safetensors").family == "sd1"


class TestFolders:
    def test_without_a_unet(self, tmp_path: Path) -> None:
        assert "is not a model" in refusal(tmp_path).message

    def test_of_checkpoints_lists_them(self, tmp_path: Path) -> None:
        checkpoint(tmp_path / "one.safetensors", SD1_KEYS)
        assert "one.safetensors" in refusal(tmp_path).hint

    @pytest.mark.parametrize(
        ("pipeline", "kind"),
        [("FluxPipeline", "a Flux model"), ("WanPipeline", "WanPipeline without a UNet")],
    )
    def test_of_another_pipeline(self, pipeline: str, kind: str, tmp_path: Path) -> None:
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
        assert kind in refusal(tmp_path).message

    def test_incomplete(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model", "sdxl")
        (folder / "text_encoder_2").rename(tmp_path / "elsewhere")
        assert "without its subfolder text_encoder_2" in refusal(folder).message

    def test_with_pickles_only(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model")
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
        assert "pickle" in refusal(folder).message

    def test_with_truncated_weights(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model")
        weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
        error = refusal(folder)
        assert "cut short" in error.message and "vae" in error.message

    def test_with_a_broken_config(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model")
        (folder / "unet" / "config.json").write_text("{")
        assert "cannot be read as JSON" in refusal(folder).message

    def test_inpainting(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model")
        config = json.loads((folder / "unet" / "config.json").read_text())
        (folder / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 9}))
        assert "an inpainting model" in refusal(folder).message


class TestHub:
    @pytest.fixture
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        return tmp_path / "hub"

    def cached_model(self, cache: Path, family: Family = "sd1") -> Path:
        repository = cache / "models--somebody--model"
        commit = "0" * 40
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        (repository / "snapshots").mkdir()
        return tiny_model(repository / "snapshots" / commit, family)

    def forbid_network(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        import huggingface_hub

        local = huggingface_hub.snapshot_download

        def snapshot_download(repo_id: str, **arguments: object) -> str:
            if not arguments.get("local_files_only"):
                raise error
            return local(repo_id, **arguments)  # pyright: ignore

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)

    def test_a_cached_model_needs_no_network(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = self.cached_model(cache)
        self.forbid_network(monkeypatch, AssertionError("asked the network"))
        info = detect("somebody/model")
        assert (info.source, info.path, info.family) == ("somebody/model", folder, "sd1")

    def test_a_partly_cached_model_is_completed(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = self.cached_model(cache)
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.rename(cache / "unet")
        import huggingface_hub

        def snapshot_download(repo_id: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
            if not local_files_only:
                assert "unet/diffusion_pytorch_model.safetensors" in allow_patterns
                (cache / "unet").rename(weights)
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        assert detect("somebody/model").path == folder
        assert weights.is_file()

    def test_unreachable(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forbid_network(monkeypatch, ConnectionError("Name or service not known"))
        error = refusal("somebody/model")
        assert "Name or service not known" in error.message and error.exit_code == FAILED

    @pytest.mark.parametrize(
        ("kind", "said"), [("RepositoryNotFoundError", "no model of that name"), ("GatedRepoError", "licence")]
    )
    def test_refused_by_the_hub(self, kind: str, said: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import errors

        refused = getattr(errors, kind)
        self.forbid_network(monkeypatch, refused.__new__(refused, "404"))
        assert said in refusal("somebody/model").message

    def test_a_model_without_safetensors(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = self.cached_model(cache)
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))  # pyright: ignore
        assert "no unet" in refusal("somebody/model").message
