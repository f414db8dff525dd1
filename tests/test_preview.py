"""Preview pictures: prompts with flags, the same picture for the same seed, and no trace left in the run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from loratory.adapters.inject import inject
from loratory.config.load import load_config
from loratory.config.schema import Config, ModelSettings, NetworkSettings, NoiseSettings
from loratory.errors import LoratoryError
from loratory.models.detect import detect_model
from loratory.models.load import BaseModel, load_base_model
from loratory.runs.events import Sampled
from loratory.sampling.preview import draw
from loratory.sampling.prompts import (
    Prompt,
    parameters_text,
    parse_prompt,
    prompt_line,
    prompt_of_parameters,
    prompts_of,
)
from loratory.sampling.sheet import contact_sheet
from material import make_set, write_config
from test_training import of_kind, train
from tiny_models import shared_tiny_model, tiny_model

DEFAULTS = Prompt("", "", 64, 64, 1, 2, 5.0)


def load_model(path: Path) -> BaseModel:
    settings = ModelSettings(pretrained_model_name_or_path=str(path))
    return load_base_model(detect_model(settings, NoiseSettings()), settings)


def pixels(base: BaseModel, *prompts: Prompt) -> list[np.ndarray]:
    cpu = torch.device("cpu")
    pictures = draw(base, prompts, clip_skip=None, max_token_length=75, device=cpu, dtype=torch.float32)
    return [np.asarray(picture) for picture in pictures]


def test_kohya_flags() -> None:
    line = "a fox, --weird name, snow --n blurry, bad --W 128 --h 192 --d 7 --s 20 --l 4.5 --ss K_Euler_A"
    with pytest.raises(LoratoryError, match="--weird is not known"):
        parse_prompt(line, DEFAULTS)
    prompt = parse_prompt(line.replace("--weird", "well-known"), DEFAULTS)
    assert prompt == Prompt("a fox, well-known name, snow", "blurry, bad", 128, 192, 7, 20, 4.5, "euler_a")
    assert parse_prompt("[/b] fox", DEFAULTS) == Prompt("[/b] fox", "", 64, 64, 1, 2, 5.0)


@pytest.mark.parametrize("flags", ["--w wide", "--w 100", "--s 0", "--d", "--ss plms", "--ss"])
def test_bad_flags_are_named(flags: str) -> None:
    with pytest.raises(LoratoryError, match="sample prompt “fox"):
        parse_prompt(f"fox {flags}", DEFAULTS)


def test_prompt_file_and_defaults(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"1_fox": 1})
    (tmp_path / "prompts.txt").write_text("\ufeff# comment\n\nfox --d 9\n  # too\ncat --ss heun\n", "utf-8")
    sample = {"sample_prompts": "prompts.txt", "steps": 3, "height": 128, "sample_sampler": "k_dpm_2"}
    config = load_config(write_config(tmp_path, sample=sample))
    first, second = prompts_of(config)
    assert first == Prompt("fox", "", 64, 128, 9, 3, 7.5, "dpm_2")
    assert (second.seed, second.sampler) == (42, "heun")
    (tmp_path / "prompts.txt").write_text("fox\n\ncat --cn x.png\n")
    with pytest.raises(LoratoryError, match=r"prompts\.txt, line 3 .*--cn is not known"):
        prompts_of(config)
    (tmp_path / "prompts.txt").unlink()
    with pytest.raises(LoratoryError, match=r"sample_prompts.*prompts\.txt"):
        prompts_of(config)


def test_a_prompt_is_told_and_read_back() -> None:
    prompts = [
        Prompt("fox [/b], snow", "bad, --x", 128, 192, 7, 20, 4.5, "dpmsolver++"),
        Prompt("", "", 64, 64, 0, 1, 12.0, "euler_a"),
    ]
    for prompt in prompts:
        assert prompt_of_parameters(parameters_text(prompt, "fox at step 3")) == prompt
    plain = replace(prompts[0], negative="bad")
    assert parse_prompt(prompt_line(plain), DEFAULTS) == plain
    assert parse_prompt(prompt_line(prompts[1]), DEFAULTS) == prompts[1]
    assert prompt_of_parameters("Steps: many") is None and prompt_of_parameters("") is None


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_pictures_depend_on_seed_and_prompt_alone(family: str) -> None:
    base = load_model(shared_tiny_model(family))
    fox, other_seed, wide = DEFAULTS, parse_prompt("--d 2", DEFAULTS), parse_prompt("fox --w 128", DEFAULTS)
    together = pixels(base, fox, other_seed, wide)
    alone = pixels(base, fox)[0]
    # A batch of another size rounds differently in the last bit of a value, at most one level of a pixel.
    assert np.abs(together[0].astype(int) - alone).max() <= 1
    assert not np.array_equal(together[0], together[1])
    assert together[2].shape == (64, 128, 3)
    assert np.array_equal(pixels(base, fox)[0], alone)


def test_a_zero_terminal_model_is_sampled_with_its_own_schedule(tmp_path: Path) -> None:
    plain = load_model(tiny_model(tmp_path / "plain", "sd2"))
    rescaled = load_model(tiny_model(tmp_path / "rescaled", "sd2", zero_terminal_snr=True))
    assert rescaled.info.zero_terminal_snr and not plain.info.zero_terminal_snr
    assert not np.array_equal(pixels(plain, DEFAULTS)[0], pixels(rescaled, DEFAULTS)[0])


def test_an_untrained_or_disabled_adapter_draws_what_the_base_draws() -> None:
    base = load_model(shared_tiny_model("sd1"))
    before = pixels(base, DEFAULTS)[0]
    network = NetworkSettings(network_dim=4, network_dropout=0.5)
    adapter = inject(base.unet, base.text_encoders, "sd1", network, seed=1, train_unet=True, train_text_encoder=True)
    assert np.array_equal(pixels(base, DEFAULTS)[0], before)
    for parameter in adapter.parameters("unet"):
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(3))
    changed = pixels(base, DEFAULTS)[0]
    assert not np.array_equal(changed, before)
    adapter.multiplier = 0.0
    assert np.array_equal(pixels(base, DEFAULTS)[0], before)


def test_modules_come_back_as_they_were() -> None:
    base = load_model(shared_tiny_model("sd1"))
    base.unet.train()
    pixels(base, DEFAULTS)
    assert base.unet.training and not base.vae.training


def test_drawing_does_not_disturb_the_run(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"2_fox": 3})

    def run(name: str, **sample: object) -> tuple[Config, list]:
        config = load_config(
            write_config(tmp_path, sample=sample, output={"output_name": name}, network={"network_dropout": 0.3})
        )
        _, directory, events = train(config)
        return directory, events

    run("quiet")
    prompts = ["fox --s 2 --d 5", "[/b] --s 1 --n bad"]
    directory, events = run("drawing", prompts=prompts, sample_every_n_steps=2, sample_at_first=True)
    sampled = of_kind(events, Sampled)
    assert [event.step for event in sampled] == [0, 0, 2, 2, 4, 4, 6, 6]
    with Image.open(directory.path / sampled[0].path) as picture:
        assert picture.size == (64, 64)
        assert "Sampler: DDIM, CFG scale: 7.5, Seed: 5" in picture.info["parameters"] and picture.info[
            "parameters"
        ].startswith("fox\n")
    quiet, drawing = (load_file(tmp_path / "output" / f"{name}.safetensors") for name in ("quiet", "drawing"))
    assert all(torch.equal(quiet[key], drawing[key]) for key in quiet)


def test_contact_sheet_holds_every_picture() -> None:
    red, blue = (Image.new("RGB", (8, 8), color) for color in ("#ff0000", "#0000ff"))
    sheet = contact_sheet(
        [("without", [red, red]), ("with [/b]", [blue, blue])], ["fox", "x" * 200], cell_px=64, title="t"
    )
    colors = np.asarray(sheet).reshape(-1, 3)
    assert (colors == (255, 0, 0)).all(1).sum() == (colors == (0, 0, 255)).all(1).sum() == 2 * 64 * 64
