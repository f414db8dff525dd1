"""The scripts that make the embedded base model: what they train, they can go on with, and measure right."""

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "nano"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some_pictures(count: int = 6) -> Any:
    """Discs of one colour each, in both styles by turns."""
    from pictures import SIDE_PX, Pictures

    pixels = np.zeros((count, SIDE_PX, SIDE_PX, 4), np.uint8)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX] - SIDE_PX // 2
    for index in range(count):
        pixels[index, ..., index % 3] = 60 + 8 * index
        pixels[index, ..., 3] = 255 * (x**2 + y**2 < 40**2)
    return Pictures(
        pixels=pixels,
        style=("noto", "flat") * (count // 2),
        name=tuple(f"disc {index // 2}" for index in range(count)),
        category=("Objects",) * count,
        keywords=(("round", "disc 0"),) * count,
        subject=np.ones(count, np.bool_),
        held_back=np.zeros(count, np.bool_),
    )


class Line:
    """Learns to multiply by three."""

    origin = "multiply by three"

    def __init__(self) -> None:
        torch.manual_seed(1)
        layers = (nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 1))
        self.networks = nn.ModuleDict({"line": nn.Sequential(*layers)})

    def loss(self, step: int, chance: torch.Generator) -> torch.Tensor:
        x = torch.randn(8, 4, generator=chance)
        return (self.networks["line"](x) - 3 * x[:, :1]).square().mean()


def test_a_training_that_was_stopped_ends_in_the_same_weights(tmp_path: Path) -> None:
    from loop import Schedule, train

    schedule, never = Schedule(steps=60, rate=0.02, warm_up=5, average=0.9), float("inf")
    whole, halves = Line(), Line()
    assert train(whole, schedule, tmp_path / "whole.pt", never) == 60

    class Stopped(Line):
        def loss(self, step: int, chance: torch.Generator) -> torch.Tensor:
            if step == 30:
                raise KeyboardInterrupt
            return super().loss(step, chance)

    assert train(halves, schedule, tmp_path / "halves.pt", until=time.monotonic() - 1) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loop._SAVE_EVERY_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            train(Stopped(), schedule, tmp_path / "halves.pt", never)
    for again in range(2):  # the second time there is nothing to do
        halves = Line()
        assert train(halves, schedule, tmp_path / "halves.pt", never) == 60, again
    for one, other in zip(whole.networks.state_dict().values(), halves.networks.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert whole.loss(0, torch.Generator().manual_seed(5)) < 0.5 * Line().loss(0, torch.Generator().manual_seed(5))


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    from loop import Schedule, train

    class Briefly(Line):
        def loss(self, step: int, chance: torch.Generator) -> torch.Tensor:
            if step == 10:
                raise KeyboardInterrupt
            return super().loss(step, chance)

    schedule, never, path = Schedule(steps=20, rate=0.02, warm_up=5, cool_down=0.25), float("inf"), tmp_path / "x.pt"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("loop._SAVE_EVERY_S", 0.0)
        train(Briefly(), schedule, path, never)
    other = Line()
    other.origin = "divide by three"
    for task, changed in (
        (other, schedule),
        (Line(), replace(schedule, rate=0.01)),
        (Line(), replace(schedule, steps=12)),  # it would cool down by now
    ):
        with pytest.raises(RuntimeError, match=r"x\.pt was trained with another recipe"):
            train(task, changed, path, never)
    whole, longer = Line(), replace(schedule, steps=30)
    assert train(Line(), longer, path, never) == 30
    assert train(whole, longer, tmp_path / "whole.pt", never) == 30
    assert torch.load(path)["networks"].keys() == whole.networks.state_dict().keys()
    for name, tensor in torch.load(path)["average"].items():
        assert torch.equal(tensor, whole.networks.state_dict()[name])


def test_captions_say_what_is_in_the_picture() -> None:
    pictures, chance = some_pictures(), random.Random(3)
    captions = [pictures.caption(3, "blue", chance) for _ in range(200)]
    assert {caption.split(", ")[:2] == ["flat style", "disc 1"] for caption in captions} == {True}
    assert 150 < sum("blue background" in caption for caption in captions) < 200
    assert 20 < sum("round" in caption.split(", ") for caption in captions) < 100


def test_pictures_lie_on_the_colour_that_is_named() -> None:
    from judge import background_of
    from pictures import BACKGROUNDS, on_background

    pictures = some_pictures(10)
    colours = np.array(list(BACKGROUNDS.values()), np.float32)
    x = on_background(pictures.pixels, colours)
    assert background_of(x) == list(BACKGROUNDS)
    assert x.shape == (10, 3, 128, 128) and x.min() >= -1 and x.max() <= 1
    middle = ((x[:, :, 64, 64] + 1) * 127.5).numpy()
    assert np.allclose(middle, pictures.pixels[:, 64, 64, :3], atol=1e-3)


def test_whitened_latents_have_deviation_one_and_give_the_same_pictures(tmp_path: Path) -> None:
    from vae import encode_all, make_vae, psnr_db, whiten

    torch.manual_seed(0)
    vae = make_vae().eval().requires_grad_(False)
    pictures, chosen = some_pictures(), np.arange(6)
    before, there_and_back = encode_all(vae, pictures, chosen, tmp_path / "raw.pt"), psnr_db(vae, pictures, chosen)
    whiten(vae, before)
    after = encode_all(vae, pictures, chosen, tmp_path / "white.pt").float() * vae.config.scaling_factor
    assert after.mean((0, 1, 3, 4)).abs().max() < 0.02
    assert (after.std((0, 1, 3, 4)) - 1).abs().max() < 0.02
    assert psnr_db(vae, pictures, chosen) == pytest.approx(there_and_back, abs=0.01)
    # What is kept is taken while it is of the same network and pictures.
    kept = (tmp_path / "white.pt").stat().st_mtime_ns
    for which, path in ((chosen, "white.pt"), (chosen, "raw.pt"), (chosen[3:], "raw.pt")):
        again = encode_all(vae, pictures, which, tmp_path / path).float() * vae.config.scaling_factor
        assert torch.equal(again, after[which])
    assert (tmp_path / "white.pt").stat().st_mtime_ns == kept


def test_the_decoder_learns_on_while_the_latents_stay(tmp_path: Path) -> None:
    from loop import Schedule, train
    from vae import DecoderTask, make_vae

    torch.manual_seed(0)
    vae = make_vae().eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    task = DecoderTask(some_pictures(), vae, torch.device("cpu"))
    loss = task.loss(0, torch.Generator().manual_seed(1)).item()
    train(task, Schedule(steps=6, rate=1e-3, warm_up=1, average=0.1), tmp_path / "decoder.pt", float("inf"))
    changed = {name for name, tensor in vae.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.partition(".")[0] for name in changed} == {"decoder", "post_quant_conv"}
    assert task.loss(0, torch.Generator().manual_seed(1)).item() < 0.9 * loss


def test_every_network_takes_a_step_that_can_be_repeated() -> None:
    from denoiser import DenoiserTask
    from judge import JudgeTask
    from vae import SCHEDULE, DecoderTask, VaeTask

    pictures, chosen, cpu = some_pictures(), np.arange(6), torch.device("cpu")
    latents = torch.randn(6, 10, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    clip = ROOT / "src" / "loratory" / "models" / "assets" / "clip"
    denoiser = DenoiserTask(pictures, chosen, latents, clip, cpu)
    vae, judge = VaeTask(pictures, cpu), JudgeTask(pictures, chosen, cpu)
    decoder = DecoderTask(pictures, vae.networks["vae"], cpu)
    for task, step in ((denoiser, 0), (vae, 0), (vae, SCHEDULE.steps - 1), (decoder, 0), (judge, 0)):
        losses = []
        for _ in range(2):
            torch.manual_seed(3)
            losses.append(task.loss(step, torch.Generator().manual_seed(2)).item())
        assert np.isfinite(losses[0]) and losses[0] == losses[1]


def test_what_is_written_loads_as_the_embedded_model_does(tmp_path: Path) -> None:
    from denoiser import make_text_encoder, make_unet
    from export import write_folder, write_single_file
    from vae import make_vae

    from loratory.config.schema import ModelSettings, NoiseSettings
    from loratory.models.detect import detect_model
    from loratory.models.load import load_base_model

    torch.manual_seed(0)
    unet = make_unet()
    write_folder(tmp_path / "nano", make_vae(), unet, make_text_encoder())
    write_single_file(tmp_path / "nano", tmp_path / "nano.safetensors")
    for path in (tmp_path / "nano", tmp_path / "nano.safetensors"):
        settings = ModelSettings(pretrained_model_name_or_path=str(path))
        base = load_base_model(detect_model(settings, NoiseSettings()), settings)
        assert base.info.family == "sd1" and base.info.prediction_type == "epsilon"
        for name, tensor in unet.state_dict().items():
            assert torch.equal(base.unet.state_dict()[name].half(), tensor.half())
    size_bytes = sum(path.stat().st_size for path in (tmp_path / "nano").rglob("*") if path.is_file())
    clip = ROOT / "src" / "loratory" / "models" / "assets" / "clip"
    size_bytes += sum(path.stat().st_size for path in clip.iterdir())
    assert size_bytes < 39.9e6  # with its card, 40 MB in the package


def test_a_picture_is_most_like_itself_and_hearts_like_hearts() -> None:
    from adapted import heart_prompts, load_hearts, nearest
    from judge import JudgeTask
    from pictures import BACKGROUNDS, on_background

    pictures = some_pictures()
    judge = JudgeTask(pictures, np.arange(6), torch.device("cpu"))
    white = np.full((6, 3), 255, np.float32)
    x = on_background(pictures.pixels, white)
    assert nearest(judge, x, x.flip(0)).tolist() == [5, 4, 3, 2, 1, 0]
    hearts = load_hearts()
    assert hearts.shape == (24, 128, 128, 4) and hearts.dtype == np.uint8
    gallery = torch.cat([x, on_background(hearts, np.full((24, 3), 255, np.float32))])
    assert nearest(judge, gallery[6:], gallery).tolist() == list(range(6, 30))
    prompts = heart_prompts()
    assert len(prompts) == len({prompt for prompt, _ in prompts}) == 73
    assert {background for _, background in prompts} == {*BACKGROUNDS}
    assert all(prompt.endswith(f", {background} background") for prompt, background in prompts)


@pytest.mark.slow
def test_from_pictures_to_the_model_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, but for so few steps that nothing is learnt."""
    import adapted
    import denoiser
    import judge
    import make
    import measure
    from loop import Schedule

    short = Schedule(steps=2, rate=1e-4, warm_up=1)
    pictures = some_pictures(20)
    pictures.held_back[-2:] = True
    monkeypatch.setattr(make, "load_pictures", lambda work: pictures)
    for name in ("VAE_SCHEDULE", "DECODER_SCHEDULE", "JUDGE_SCHEDULE", "DENOISER_SCHEDULE"):
        monkeypatch.setattr(make, name, short)
    monkeypatch.setattr(judge, "_BATCH", 4)
    monkeypatch.setattr(measure, "STEPS", 1)
    monkeypatch.setattr(measure, "_PROMPTS", measure._PROMPTS[:2])
    monkeypatch.setattr(make, "DRAWN", 4)
    monkeypatch.setattr(make, "heart_prompts", lambda: adapted.heart_prompts()[:4])
    shorter = ("training.exposure=1", 'sample.prompts=["hrt --s 1"]')
    monkeypatch.setattr(make, "train_demo", lambda model, out: adapted.train_demo(model, out, *shorter))
    assert make.main([str(tmp_path), "--minutes", "0"]) == 0
    assert not (tmp_path / "nano").exists()
    assert make.main([str(tmp_path), "--so-far"]) == 0
    assert "| 20 on 10 backgrounds each | 0 |" in (tmp_path / "nano" / "NOTICE.md").read_text("utf-8")
    assert make.main([str(tmp_path)]) == 0
    card = (tmp_path / "nano" / "NOTICE.md").read_text("utf-8")
    assert "{" not in card and f"| 20 on 10 backgrounds each | 2 | {denoiser.BATCH} |" in card
    assert "| drawn with the LoRA | " in card
    assert (tmp_path / "samples.png").stat().st_size > 1000
    assert (tmp_path / "nano.safetensors").stat().st_size > 25e6
