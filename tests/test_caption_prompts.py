"""Sample prompts taken from the captions of a training set."""

import random
from dataclasses import replace
from pathlib import Path

from loratory.config.load import load_config
from loratory.config.schema import CaptionSettings
from loratory.dataset.scan import TrainImage
from loratory.dataset.treatment import Treatment
from loratory.sampling.caption_prompts import caption_prompts, prompts_from_captions
from loratory.training.plan import make_plan
from material import make_set, write_config


def picture(folder: str, name: str, caption: str, is_reg: bool = False, **settings: object) -> TrainImage:
    treatment = Treatment(CaptionSettings.model_validate(settings))
    return TrainImage(Path(folder) / name, folder, "fox", 10, (64, 64), caption, None, is_reg, treatment)


def pictures(folder: str, count: int, is_reg: bool = False) -> list[TrainImage]:
    return [picture(folder, f"{index:03d}.png", f"{folder} {index}", is_reg) for index in range(count)]


FOXES, WOLVES = pictures("10_fox", 100), pictures("5_wolf", 3)


def test_concepts_take_turns() -> None:
    chosen = caption_prompts([*FOXES, *WOLVES], 8, 42)
    assert [text.split()[0] for text in chosen] == ["10_fox", "5_wolf"] * 3 + ["10_fox"] * 2
    assert len(set(chosen)) == 8


def test_the_seed_decides_and_nothing_else() -> None:
    mixed = [*FOXES, *WOLVES]
    random.Random(1).shuffle(mixed)
    assert caption_prompts(mixed, 6, 42) == caption_prompts([*FOXES, *WOLVES], 6, 42)
    assert caption_prompts(mixed, 6, 43) != caption_prompts(mixed, 6, 42)
    assert caption_prompts(FOXES, 3, 42) == caption_prompts(FOXES, 6, 42)[:3]


def test_no_more_than_there_are() -> None:
    assert sorted(caption_prompts(WOLVES, 10, 42)) == ["5_wolf 0", "5_wolf 1", "5_wolf 2"]
    assert caption_prompts([], 10, 42) == []
    assert caption_prompts(WOLVES, 0, 42) == []


def test_regularization_sets_and_empty_captions_give_none() -> None:
    empty = [picture("10_fox", "a.png", ""), picture("10_fox", "b.png", " \n "), picture("10_fox", "c.png", "fox")]
    assert caption_prompts([*empty, *pictures("1_dog", 5, is_reg=True)], 9, 42) == ["fox"]


def test_equal_captions_count_once() -> None:
    same = [picture(folder, f"{index}.png", "fox") for folder in ("10_fox", "5_fox") for index in range(4)]
    assert caption_prompts([*same, *WOLVES], 2, 42)[0] == "fox"
    assert caption_prompts(same, 5, 42) == ["fox"]


def test_captions_as_a_visit_reads_them_without_chance_to_lose_tags() -> None:
    dropping = {"caption_dropout_rate": 1.0, "caption_tag_dropout_rate": 1.0, "shuffle_caption": True}
    fenced = picture(
        "1_fox",
        "a.png",
        "fox ||| red, snow\nsecond line",
        caption_prefix="art,",
        keep_tokens_separator="|||",
        **dropping,
    )
    assert caption_prompts([fenced], 1, 42) == ["art, fox, red, snow"]
    wild = picture("1_fox", "a.png", "{red|blue} fox", enable_wildcard=True)
    assert caption_prompts([wild], 1, 42)[0] in ("red fox", "blue fox")


def test_flags_in_a_caption_are_words(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, sample={"width": 128, "seed": 7}))
    hostile = "fox --w 9 --zz [/b] \x1b[31m"
    (prompt,) = prompts_from_captions(config, [picture("1_fox", "a.png", hostile)], 2)
    assert prompt.text == hostile
    assert (prompt.width, prompt.height, prompt.seed) == (128, 64, 7)
    assert prompts_from_captions(config, [picture("1_fox", "a.png", "fox")], 0) == []


def test_a_plan_has_them_after_the_written_ones(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"10_fox": 3, "2_wolf": 2})
    sample = {"prompts": ["a fox --d 3"], "prompts_from_captions": 3, "sample_every_n_epochs": 1}
    plan = make_plan(load_config(write_config(tmp_path, sample=sample)))
    first, *others = plan.prompts
    assert (first.text, first.seed) == ("a fox", 3)
    assert [replace(each, text="") for each in others] == [replace(first, text="", seed=42)] * 3
    assert len({each.text for each in others}) == 3
    assert all("picture" in each.text for each in others)
