"""`loratory grid`: what is drawn and what is not drawn again, strengths, what is missing, and what the sheets say."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from loratory.adapters.files import read_adapter, save_adapter
from loratory.cli.grid import grid
from loratory.config.load import dump_config, load_config
from loratory.config.schema import Config
from loratory.errors import LoratoryError
from loratory.models.detect import detect_model
from loratory.runs.events import Saved
from loratory.runs.store import EventWriter, RunDirectory
from loratory.sampling.grid import make_grid, read_cell, saved_files, waiting_cells
from loratory.sampling.hints import Look, conclusions, look_at, remark
from loratory.sampling.painter import Painter
from loratory.sampling.prompts import Prompt, prompts_of
from loratory.sampling.sheet import contact_sheet
from material import make_set, write_config
from training_runs import small_model

CPU = torch.device("cpu")
PROMPTS = ["[/b] fox --d 5", "cat --ss euler_a --d 6"]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run as training leaves it: a file after each of two epochs, after a step, and the last one."""
    make_set(tmp_path / "set", {"1_fox": 1})
    config = load_config(
        write_config(
            tmp_path,
            model={"pretrained_model_name_or_path": str(small_model())},
            sample={"prompts": PROMPTS, "steps": 2, "guidance_scale": 3.0},
        )
    )
    directory = RunDirectory.create(tmp_path / "runs", "fox", dump_config(config))
    writer = EventWriter(directory.events)
    for epoch, (name, step) in enumerate((("fox-000001", 3), ("fox-step00000005", 5), ("fox", 6)), start=1):
        path = tmp_path / "output" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        write_adapter(config, path, 0.2 * epoch)
        writer.write(Saved(step, min(epoch, 2), str(path), path.stat().st_size, 0.0))
    writer.close()
    return directory


def write_adapter(config: Config, path: Path, size: float) -> None:
    painter = Painter(config, detect_model(config.model, config.noise), CPU, torch.float32)
    adapter = painter.adapter
    generator = torch.Generator().manual_seed(3)
    for component in ("unet", "te1"):
        for parameter in adapter.parameters(component):
            parameter.data.normal_(std=size, generator=generator)
    save_adapter(path, adapter.kohya_state_dict(), {}, "float")


def invoke(run: RunDirectory, *options: str) -> Any:
    return CliRunner().invoke(grid, [str(run.path), *options], catch_exceptions=False)


def told(run: RunDirectory, *options: str) -> dict[str, Any]:
    return json.loads(invoke(run, "--json", *options).stdout)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, float, str]]:
    """What is drawn from now on."""
    calls: list[tuple[str | None, float, str]] = []
    draw: Callable[..., Image.Image] = Painter.draw

    def note(self: Painter, file: Path | None, strength: float, prompt: Prompt) -> Image.Image:
        calls.append((file.stem if file else None, strength, prompt.text))
        return draw(self, file, strength, prompt)

    monkeypatch.setattr(Painter, "draw", note)
    return calls


def test_every_file_at_every_strength_and_nothing_twice(
    run: RunDirectory, drawn: list[tuple[str | None, float, str]]
) -> None:
    found = told(run, "--strengths", "0,0.5,1")
    files = ["fox-000001", "fox-step00000005", "fox"]
    texts = ["[/b] fox", "cat"]
    assert drawn[:2] == [(None, 0.0, text) for text in texts]
    assert drawn[2:] == [(file, strength, text) for file in files for strength in (0.5, 1.0) for text in texts]
    assert [adapter["label"] for adapter in found["adapters"]] == ["epoch 1", "step 5", "last (epoch 2)"]
    assert len(found["pictures"]) == 12 and len(found["sheets"]) == 2
    with Image.open(found["sheets"][0]) as sheet:
        assert sheet.info["parameters"].startswith("[/b] fox\n")
        about = json.loads(sheet.info["loratory-grid"])
        assert about["strengths"] == [0.0, 0.5, 1.0] and len(about["pictures"]) == 6
        assert "--d 5" in about["prompt"]
    drawn.clear()
    assert told(run, "--strengths", "0,0.5,1")["sheets"] == found["sheets"]
    assert drawn == []
    told(run, "--strengths", "1,0.7", "--epochs", "1", "--columns", "epochs")
    assert drawn == [("fox-000001", 0.7, text) for text in texts]
    # The same file name with other weights is another file.
    config = load_config(run.config)
    write_adapter(config, Path(found["adapters"][0]["path"]), 0.01)
    drawn.clear()
    assert len(told(run, "--strengths", "1")["pictures"]) == 6
    assert drawn == [("fox-000001", 1.0, text) for text in texts]


def test_strength_scales_what_the_file_adds(run: RunDirectory) -> None:
    config = load_config(run.config)
    painter = Painter(config, detect_model(config.model, config.noise), CPU, torch.float32)
    prompt = prompts_of(config)[0]
    file = saved_files(run).there[0].path
    base = np.asarray(painter.draw(None, 0.0, prompt)).astype(int)
    looks = [np.asarray(painter.draw(file, strength, prompt)).astype(int) for strength in (0.0, 0.5, 1.0)]
    assert np.array_equal(looks[0], base)
    assert 0 < np.abs(looks[1] - base).mean() < np.abs(looks[2] - base).mean()
    # After a file was drawn with, the base model alone is still the base model.
    assert np.array_equal(np.asarray(painter.draw(None, 0.0, prompt)).astype(int), base)
    # A file with half the weights in one factor is the whole one at half its strength.
    half = file.with_name("half.safetensors")
    tensors = read_adapter(file).state_dict
    save_adapter(half, {key: t * 0.5 if key.endswith("up.weight") else t for key, t in tensors.items()}, {}, "float")
    assert np.abs(np.asarray(painter.draw(half, 1.0, prompt)).astype(int) - looks[1]).max() <= 1


def test_what_was_drawn_is_kept_when_it_is_broken_off(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, drawn: list[tuple[str | None, float, str]]
) -> None:
    draw = Painter.draw

    def stop(self: Painter, file: Path | None, strength: float, prompt: Prompt) -> Image.Image:
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw(self, file, strength, prompt)

    with monkeypatch.context() as patched:
        patched.setattr(Painter, "draw", stop)
        result = CliRunner().invoke(grid, [str(run.path), "--strengths", "1"])
        assert result.exit_code != 0
    assert "the same command goes on" in result.stderr
    assert len(drawn) == 4
    # A picture that was cut short by something else is drawn again.
    cells = sorted((run.path / "grids" / "cells").glob("*.png"))
    cells[0].write_bytes(cells[0].read_bytes()[:50])
    drawn.clear()
    told(run, "--strengths", "1")
    assert len(drawn) == 8 - 4 + 1


def test_files_removed_meanwhile_are_left_out_and_named(run: RunDirectory) -> None:
    there = saved_files(run).there
    there[1].path.unlink()
    result = invoke(run, "--strengths", "1", "--prompt", "fox --s 1", "--json")
    assert json.loads(result.stdout)["left_out"] == [str(there[1].path)]
    assert "fox-step00000005.safetensors was removed meanwhile" in result.stderr
    for file in there:
        file.path.unlink(missing_ok=True)
    with pytest.raises(LoratoryError, match="no adapter file saved that is still there"):
        invoke(run)


def test_prompts_seeds_and_names(run: RunDirectory, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# mine\n\nfox \x1b]0;x\x07 --s 1\nfox --s 1 --w 128\n")
    out = tmp_path / "mine.png"
    options = ("--prompts", str(prompts), "--seed", "9", "-o", str(out), "--strengths", "1", "--epochs", "1")
    result = invoke(run, *options)
    assert [tmp_path / "mine-00.png", tmp_path / "mine-01.png"] == [Path(line) for line in result.stdout.splitlines()]
    assert all(prompt["seed"] == 9 for prompt in told(run, *options)["prompts"])
    invoke(run, "--prompt", "fox --s 1", "-o", str(out), "--strengths", "1", "--epochs", "1")
    assert Image.open(out).size[0] > 128


def test_without_prompts_captions_are_drawn(run: RunDirectory) -> None:
    options = ("--strengths", "1", "--epochs", "1")
    text = run.config.read_text()
    run.config.write_text(text.replace(text[text.index("prompts = [") :].split("]\n")[0] + "]\n", ""))
    caption = next(Path(load_config(run.config).dataset.train_data_dir, "1_fox").glob("*.txt")).read_text().strip()
    (prompt,) = told(run, *options)["prompts"]
    assert prompt["text"] == caption and prompt["steps"] == 2
    shutil.rmtree(load_config(run.config).dataset.train_data_dir)
    with pytest.raises(LoratoryError, match="no prompts, and no caption of its training set can be read"):
        invoke(run, *options)


def test_it_is_said_why_captions_are_left_out(run: RunDirectory) -> None:
    config = load_config(run.config)
    sample = config.sample.model_copy(update={"prompts_from_captions": 2})
    run.config.write_text(dump_config(config.model_copy(update={"sample": sample})))
    shutil.rmtree(config.dataset.train_data_dir)
    result = invoke(run, "--strengths", "1", "--epochs", "1", "--json")
    assert "No captions as prompts: " in result.stderr and str(config.dataset.train_data_dir) in result.stderr
    assert len(json.loads(result.stdout)["prompts"]) == len(config.sample.prompts)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--strengths", "1,x"], "--strengths 1,x"),
        (["--strengths", "0"], "base model alone"),
        (["--strengths", "99"], "from -10 to 10"),
        (["--epochs", "first"], "--epochs first"),
        (["--epochs", "7"], "in epoch 7"),
        (["--prompt", "fox --q 1"], "--q is not known"),
        (["--prompts", "nowhere.txt"], "cannot read nowhere.txt"),
        (["-o", "sheet.jpg"], "does not end in .png"),
        (["--prompt", "fox --ss pndm --s 2"], "pndm works with 4"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(run: RunDirectory, options: list[str], sentence: str) -> None:
    with pytest.raises(LoratoryError, match=sentence):
        invoke(run, *options)


def test_a_missing_base_model_and_too_little_memory_are_sentences(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*given: object, **named: object) -> list[Image.Image]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("loratory.sampling.painter.draw", no_memory)
        with pytest.raises(LoratoryError, match="Not enough graphics memory to draw 64x64"):
            invoke(run)
    text = run.config.read_text("utf-8")
    run.config.write_text(text.replace(str(small_model()), str(run.path / "gone")), "utf-8")
    with pytest.raises(LoratoryError, match="no model gone"):
        invoke(run)


def test_cells_are_told_apart_by_all_that_they_hang_on(run: RunDirectory) -> None:
    config = load_config(run.config)
    info = detect_model(config.model, config.noise)
    prompts, files = prompts_of(config), saved_files(run).there
    plan = make_grid(config, info, run, prompts, files, [0.0, 1.0])
    assert len({cell.path for cell in plan.cells.values()}) == len(plan.cells) == 2 + 3 * 2
    assert waiting_cells(plan) == list(plan.cells.values())
    assert read_cell(plan.cell(prompts[0], files[0], 0.0)) is None
    assert plan.cell(prompts[0], files[0], 0.0) == plan.cell(prompts[0], files[1], 0.0)
    other = config.model_copy(update={"model": config.model.model_copy(update={"clip_skip": 2})})
    paths = {cell.path for cell in make_grid(other, info, run, prompts, files, [1.0]).cells.values()}
    assert not paths & {cell.path for cell in plan.cells.values()}


def picture(*colours: tuple[int, int, int]) -> Image.Image:
    """Stripes of equal height."""
    return Image.fromarray(np.repeat(np.array(colours, dtype=np.uint8)[:, None], 8, axis=1))


def test_hints() -> None:
    base = picture((100, 120, 110), (120, 90, 100))
    assert remark(look_at(base, base)) == "as the base"
    vivid = look_at(picture((60, 200, 110), (220, 50, 100)), base)
    assert vivid.colour > 3 and remark(vivid) == "strong colours"
    burnt = look_at(picture((255, 10, 0), (120, 90, 100)), base)
    assert burnt.clipped == 0.5 and "burnt" in remark(burnt)
    white = look_at(picture((255, 255, 250), (0, 0, 3)), base)  # a background, and a line drawing
    assert white.clipped == 0 and remark(white) == "pale"
    assert look_at(base, picture((9, 9, 9), (9, 9, 9))).colour == 1.0

    said = conclusions([("epoch 1", 1.0, [look_at(base, base)]), ("epoch 9", 1.0, [vivid, vivid, look_at(base, base)])])
    assert len(said) == 2
    assert "epoch 1" in said[0] and "Too little was learned" in said[0]
    assert "epoch 9" in said[1] and "epoch 1" not in said[1]
    middling = Look(distance=0.2, chroma=0.3, base_chroma=0.3, clipped=0.1, base_clipped=0.1)
    assert conclusions([("epoch 1", 1.0, [middling])]) == [] and remark(middling) == ""


def test_a_sheet_keeps_proportions_and_takes_any_text() -> None:
    red, blue = Image.new("RGB", (64, 32), "#ff0000"), Image.new("RGB", (32, 64), "#0000ff")
    rows = [("epoch 1\x1b[2J", [red, blue])]
    plain = contact_sheet(rows, ["a", "\ud800 b" * 50], cell_px=64, title="[/b]\n" * 40)
    full = contact_sheet(
        rows, ["a", "b"], cell_px=64, title="t", under=[["1% away", "\x07"]], footer=["A sentence. " * 20]
    )
    for sheet in (plain, full):
        pixels = np.asarray(sheet).reshape(-1, 3)
        assert (pixels == (255, 0, 0)).all(1).sum() == (pixels == (0, 0, 255)).all(1).sum() == 64 * 32


def test_a_long_remark_goes_on_below() -> None:
    rows = [("a", [Image.new("RGB", (64, 64), "#ff0000")])]
    short, long = (contact_sheet(rows, ["a"], cell_px=64, title="t", under=[[text]]) for text in ("b", "bbbbbb " * 6))
    assert long.height > short.height and long.width == short.width
    right_margin = np.asarray(long)[:, -8:]
    assert (right_margin == right_margin[0, 0]).all()  # nothing reaches the edge, let alone beyond
