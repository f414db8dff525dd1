"""What is trained on: regularization sets, subsets, masks, augmentation, held-back pictures, output preservation."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from loratory.config.schema import Config
from loratory.dataset.captions import draw_caption
from loratory.errors import LoratoryError
from loratory.runs.events import Notice, Saved, Started, Step, Validated
from loratory.training import batches
from loratory.training.cache import LatentCache, LatentEncoder, Picture
from loratory.training.engine import Engine
from loratory.training.plan import Plan, make_plan
from loratory.training.validate import validate
from material import make_set
from training_runs import engine_of, go_on_from, of_kind, same_bytes, saved, small_config, train

pytestmark = pytest.mark.usefixtures("one_thread")

UNET_ONLY = {"network_train_unet_only": True}


def draw_noise_pictures(folder: Path, sizes: list[tuple[int, int]], mode: str = "RGB") -> None:
    random = np.random.default_rng(11)
    folder.mkdir(parents=True, exist_ok=True)
    for index, (width, height) in enumerate(sizes):
        shape = (height, width, 3) if mode == "RGB" else (height, width)
        pixels = random.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).convert("RGB").save(folder / f"{index:02d}.png")


def pictures_of(step: Step) -> list[str]:
    return [sample.image for sample in step.samples]


def folders_of(step: Step) -> list[str]:
    return [name.partition("/")[0] for name in pictures_of(step)]


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The captions of every batch that is made while the text encoder is trained."""
    seen: list[list[str]] = []
    tokenize = batches.tokenize

    def spy(base: Any, texts: list[str], length: int) -> list[torch.Tensor]:
        seen.append(texts)
        return tokenize(base, texts, length)

    monkeypatch.setattr(batches, "tokenize", spy)
    return seen


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """Every picture whose latents a batch asks for."""
    seen: list[Picture] = []
    get = LatentCache.get
    monkeypatch.setattr(LatentCache, "get", lambda self, picture: (seen.append(picture), get(self, picture))[1])
    return seen


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """Every picture that goes through the VAE."""
    seen: list[Picture] = []
    encode = LatentEncoder.encode
    monkeypatch.setattr(LatentEncoder, "encode", lambda self, many: (seen.extend(many), encode(self, many))[1])
    return seen


def batches_of(engine: Engine, epoch: int = 1) -> Iterator[tuple[str, batches.Batch]]:
    """Each visit of an epoch as a batch of its own, with the name of its picture."""
    for visits in engine.plan.order.batches(epoch):
        for visit in visits:
            yield engine.maker.name(visit), engine.maker.make([visit], epoch, step=0)


# -- regularization sets


def reg_config(folder: Path, **tables: Any) -> Config:
    """3 pictures twice; the sets have 2 pictures once and 2 pictures twice, without caption files."""
    if not (folder / "set").exists():
        make_set(folder / "set", {"2_fox": 3})
        make_set(folder / "reg", {"1_animal": 2, "2_plant": 2})
        for caption in (folder / "reg").rglob("*.txt"):
            caption.unlink()
    dataset = {"reg_data_dir": "reg"} | tables.pop("dataset", {})
    return small_config(folder, dataset=dataset, **tables)


def test_a_regularization_set_alternates_and_weighs_what_it_is_told(tmp_path: Path, captions: list[list[str]]) -> None:
    config = reg_config(tmp_path, loss={"prior_loss_weight": 0.25}, training={"max_train_epochs": 2})
    assert make_plan(config).steps_per_epoch == 12
    _, _, events = train(config)
    steps = of_kind(events, Step)
    assert [step.epoch for step in steps] == [1] * 12 + [2] * 12
    regs = [folders_of(step)[0] in ("1_animal", "2_plant") for step in steps]
    assert regs == [index % 2 == 1 for index in range(24)]
    for step, reg in zip(steps, regs, strict=True):
        assert step.loss == pytest.approx(step.samples[0].loss * (0.25 if reg else 1), rel=1e-6)
    # A round of the sets is as long as an epoch here: each picture comes as often as its folder says.
    visits = Counter(name for step in steps for name in pictures_of(step))
    expected = {"1_animal": 2, "2_plant": 4, "2_fox": 4}
    assert all(count == expected[name.partition("/")[0]] for name, count in visits.items()) and len(visits) == 7
    classes = {"1_animal": "animal", "2_plant": "plant"}
    assert len(captions) == 24
    for step, (caption,) in zip(steps, captions, strict=True):
        folder = folders_of(step)[0]
        assert caption == classes[folder] if folder in classes else caption.startswith("fox, animal, red fur")


def test_a_regularization_set_of_weight_0_does_not_learn(tmp_path: Path) -> None:
    config = reg_config(
        tmp_path, loss={"prior_loss_weight": 0.0}, training={"max_train_epochs": None, "max_train_steps": 2}
    )
    steps = of_kind(train(config)[2], Step)
    assert [step.loss > 0 for step in steps] == [True, False]
    assert steps[1].samples[0].loss > 0 and steps[1].grad_norm == 0


def test_a_captioned_regularization_set_keeps_its_captions(tmp_path: Path, captions: list[list[str]]) -> None:
    config = reg_config(tmp_path)
    (tmp_path / "reg" / "1_animal" / "00.txt").write_text("a hare")
    list(batches_of(engine_of(config)))
    assert {caption for (caption,) in captions} >= {"a hare", "animal", "plant"}


def used_sets(plan: Plan, epoch: int) -> Counter[str]:
    images = (plan.images[visit.image] for visit in plan.order.reg_visits(epoch))
    return Counter(f"{image.folder}/{image.path.name}" for image in images)


def test_compatible_choice_of_regularization_pictures_never_changes(tmp_path: Path) -> None:
    """3 visits: sd-scripts takes both animals and the first plant, with both of its repeats; never the second one."""
    subsets = [{"image_dir": "set/2_fox", "num_repeats": 1}]
    config = reg_config(tmp_path, dataset={"subsets": subsets}, training={"max_train_epochs": 2})
    compatible = config.model_copy(update={"compatibility": "kohya"})
    fixed = Counter({"1_animal/00.png": 1, "1_animal/01.png": 1, "2_plant/00.png": 2})
    plan = make_plan(compatible)
    assert [used_sets(plan, epoch) for epoch in range(1, 5)] == [fixed] * 4
    seen = Counter(name for step in of_kind(train(compatible)[2], Step) for name in pictures_of(step))
    assert {name: count for name, count in seen.items() if not name.startswith("2_fox")} == {
        name: 2 * count for name, count in fixed.items()
    }
    plan = make_plan(config)
    fair = sum((used_sets(plan, epoch) for epoch in range(1, 5)), Counter[str]())  # two rounds of 6 visits
    assert fair == {"1_animal/00.png": 2, "1_animal/01.png": 2, "2_plant/00.png": 4, "2_plant/01.png": 4}


def uneven_config(folder: Path, **output: Any) -> Config:
    """Two buckets and batches of two: which regularization pictures an epoch sees decides how many batches it has."""
    if not (folder / "set").exists():
        draw_noise_pictures(folder / "set" / "1_fox", [(64, 64), (64, 64), (96, 64)])
        draw_noise_pictures(folder / "reg" / "1_animal", [(64, 64), (96, 64), (96, 64), (96, 64)])
    return small_config(
        folder,
        dataset={"reg_data_dir": "reg", "resolution": [96, 64], "min_bucket_reso": 64, "bucket_reso_steps": 32},
        training={"train_batch_size": 2, "max_train_epochs": 4},
        network={"network_dropout": 0.2},
        output={"save_every_n_epochs": 1, "state_every_n_steps": 1, "state_keep": 100} | output,
    )


def test_epochs_of_different_length_end_where_they_end_and_resume_exactly(tmp_path: Path) -> None:
    config = uneven_config(tmp_path)
    plan = make_plan(config)
    counts = [plan.order.batch_count(epoch) for epoch in range(1, 5)]
    assert len(set(counts)) > 1
    ends = [sum(counts[: index + 1]) for index in range(4)]
    assert list(plan.length.epoch_ends) == ends
    _, run, events = train(config)
    steps = of_kind(events, Step)
    assert [step.epoch for step in steps] == [epoch for epoch, count in enumerate(counts, 1) for _ in range(count)]
    assert [(event.step, Path(event.path).stem) for event in of_kind(events, Saved)] == [
        *((end, f"fox-{epoch:06d}") for epoch, end in enumerate(ends[:-1], 1)),
        (ends[-1], "fox"),
    ]
    whole = saved(config)
    for step in (ends[0] + 1, ends[1]):  # inside an epoch, and at the end of one
        again = go_on_from(config, run, step)
        assert of_kind(again, Started)[-1].from_step == step
        assert same_bytes(whole, saved(config))
        assert again[-1].status == "done"
        losses = [event.loss for event in of_kind(again, Step)][-(ends[-1] - step) :]
        assert losses == [event.loss for event in steps[step:]]


# -- subsets


def test_a_subset_has_effect_on_its_folder_alone(
    tmp_path: Path, captions: list[list[str]], looked_up: list[Picture]
) -> None:
    make_set(tmp_path / "set", {"2_fox": 2, "1_cat": 2})
    make_set(tmp_path / "elsewhere", {"drawings": 2})
    for name in ("set/2_fox", "elsewhere/drawings"):
        (tmp_path / name / "00.txt").unlink()
    fox = {"image_dir": "set/2_fox", "flip_aug": True, "shuffle_caption": True, "keep_tokens": 1}
    drawings = {"image_dir": "elsewhere/drawings", "caption_prefix": "drawing,"}
    subsets = [fox | {"num_repeats": 3, "class_tokens": "vixen"}, drawings]
    config = small_config(tmp_path, dataset={"subsets": subsets}, training={"max_train_epochs": 6})
    engine = engine_of(config)
    names = [name for epoch in range(1, 7) for name, _ in batches_of(engine, epoch)]
    assert Counter(name.partition("/")[0] for name in names) == {"2_fox": 36, "1_cat": 12, "drawings": 12}
    assert [f"{picture.image.folder}/{picture.image.path.name}" for picture in looked_up] == names
    flips = {folder: Counter() for folder in ("2_fox", "1_cat", "drawings")}
    said: dict[str, set[str]] = {}
    for name, picture, (caption,) in zip(names, looked_up, captions, strict=True):
        flips[picture.image.folder][picture.flipped] += 1
        said.setdefault(name, set()).add(caption)
    assert min(flips["2_fox"][True], flips["2_fox"][False]) > 8
    assert flips["1_cat"][True] == flips["drawings"][True] == 0
    assert said["2_fox/00.png"] == {"vixen"} and said["drawings/00.png"] == {"drawing, drawings"}
    assert said["1_cat/01.png"] == {"fox, animal, red fur, sitting, [/b], white background, picture 1"}
    shuffled = said["2_fox/01.png"]
    assert len(shuffled) > 5 and all(caption.startswith("fox, ") for caption in shuffled)
    assert len({tuple(sorted(caption.split(", "))) for caption in shuffled}) == 1


def test_folders_from_elsewhere_alone_are_a_dataset(tmp_path: Path) -> None:
    make_set(tmp_path / "elsewhere", {"drawings": 2, "animals": 1})
    subsets = [{"image_dir": "elsewhere/drawings"}, {"image_dir": "elsewhere/animals", "is_reg": True}]
    config = small_config(
        tmp_path, dataset={"train_data_dir": None, "subsets": subsets}, loss={"prior_loss_weight": 0.5}
    )
    finished, _, events = train(config)
    steps = of_kind(events, Step)
    assert finished.status == "done" and [folders_of(step)[0] for step in steps] == ["drawings", "animals"] * 2
    assert [step.loss / step.samples[0].loss for step in steps] == pytest.approx([1, 0.5] * 2, rel=1e-6)


def test_a_shuffled_subset_is_read_anew_while_captions_are_cached(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"1_fox": 1, "1_cat": 1})
    subsets = [{"image_dir": "set/1_fox", "shuffle_caption": True}]
    config = small_config(tmp_path, dataset={"subsets": subsets}, network=UNET_ONLY, training={"max_train_epochs": 3})
    engine = engine_of(config)
    hidden: dict[str, list[torch.Tensor]] = {}
    for epoch in (1, 2, 3):
        for name, batch in batches_of(engine, epoch):
            assert batch.text is not None and not batch.ids
            hidden.setdefault(name, []).append(batch.text.hidden)
    assert all(torch.equal(hidden["1_cat/00.png"][0], other) for other in hidden["1_cat/00.png"][1:])
    assert not torch.equal(hidden["1_fox/00.png"][0], hidden["1_fox/00.png"][1])


# -- masks


def masked_config(folder: Path, **tables: Any) -> Config:
    """One picture whose left half counts."""
    if not (folder / "set").exists():
        make_set(folder / "set", {"1_fox": 1})
        mask = np.zeros((64, 64), np.uint8)
        mask[:, :32] = 255
        (folder / "masks" / "1_fox").mkdir(parents=True)
        Image.fromarray(mask).save(folder / "masks" / "1_fox" / "00.png")
    dataset = {"conditioning_data_dir": "masks"} | tables.pop("dataset", {})
    return small_config(folder, dataset=dataset, loss={"masked_loss": True} | tables.pop("loss", {}), **tables)


LEFT = torch.cat([torch.ones(1, 1, 8, 4), torch.zeros(1, 1, 8, 4)], dim=-1)


def gradients(engine: Engine, batch: batches.Batch) -> tuple[float, torch.Tensor]:
    engine.optimizers.zero_grad()
    losses = engine.losses(batch)
    losses.total.backward()
    return losses.total.item(), torch.cat([p.grad.flatten() for p in engine.parameters if p.grad is not None])


@pytest.mark.parametrize("loss_type", ["l2", "l1", "huber", "smooth_l1"])
def test_what_the_mask_hides_does_not_move_the_gradient(tmp_path: Path, loss_type: str) -> None:
    engine = engine_of(masked_config(tmp_path, loss={"loss_type": loss_type}))
    ((_, batch),) = batches_of(engine)
    assert torch.equal(batch.masks, LEFT)
    # The same input; what is to be predicted differs under the mask only.
    batch = dataclasses.replace(batch, added_noise=batch.noise)
    hidden = dataclasses.replace(batch, noise=batch.noise + 3 * (1 - LEFT))
    shown = dataclasses.replace(batch, noise=batch.noise + 3 * LEFT)
    loss, gradient = gradients(engine, batch)
    assert gradient.abs().sum() > 0
    for other, same in ((hidden, True), (shown, False)):
        its_loss, its_gradient = gradients(engine, other)
        assert (its_loss == loss) is same and torch.equal(its_gradient, gradient) is same
    unmasked = [dataclasses.replace(b, masks=None) for b in (batch, hidden)]
    assert gradients(engine, unmasked[0])[0] != gradients(engine, unmasked[1])[0]
    halves = [gradients(engine, dataclasses.replace(batch, masks=mask))[0] for mask in (LEFT, 1 - LEFT)]
    assert sum(halves) == pytest.approx(gradients(engine, unmasked[0])[0], rel=1e-5)


def test_a_mask_follows_its_mirrored_picture(tmp_path: Path, looked_up: list[Picture]) -> None:
    engine = engine_of(masked_config(tmp_path, dataset={"flip_aug": True}, training={"max_train_epochs": 8}))
    masks = [batch.masks for epoch in range(1, 9) for _, batch in batches_of(engine, epoch)]
    assert {picture.flipped for picture in looked_up} == {False, True}
    for picture, mask in zip(looked_up, masks, strict=True):
        assert torch.equal(mask, LEFT.flip(3) if picture.flipped else LEFT)


def test_a_picture_without_a_mask_counts_as_a_whole_and_is_named(tmp_path: Path) -> None:
    config = masked_config(tmp_path, training={"train_batch_size": 2})
    draw_noise_pictures(tmp_path / "set" / "1_fox", [(64, 64)] * 2)
    _, _, events = train(config)
    said = [notice.message for notice in of_kind(events, Notice)]
    assert any("1 of 2 pictures without a mask" in message and "01.png" in message for message in said)
    engine = engine_of(config)
    (visits,) = engine.plan.order.batches(1)
    batch = engine.maker.make(visits, 1, 0)
    for name, mask in zip(batch.images, batch.masks, strict=True):
        assert torch.equal(mask, LEFT[0] if name == "1_fox/00.png" else torch.ones(1, 8, 8))


def test_transparency_is_a_mask_where_it_is_asked_for(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"1_fox": 2, "1_cat": 1})
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:, :32] = 255
    for path in ("1_fox/00.png", "1_cat/00.png"):
        picture = Image.open(tmp_path / "set" / path).convert("RGBA")
        picture.putalpha(Image.fromarray(alpha))
        picture.save(tmp_path / "set" / path)
    config = small_config(tmp_path, dataset={"subsets": [{"image_dir": "set/1_fox", "alpha_mask": True}]})
    masks = {name: batch.masks for name, batch in batches_of(engine_of(config))}
    assert torch.equal(masks["1_fox/00.png"], LEFT)
    assert masks["1_fox/01.png"] is None and masks["1_cat/00.png"] is None


def test_a_mask_picture_stands_above_transparency(tmp_path: Path) -> None:
    config = masked_config(tmp_path, dataset={"alpha_mask": True})
    picture = Image.open(tmp_path / "set" / "1_fox" / "00.png").convert("RGBA")
    picture.putalpha(0)
    picture.save(tmp_path / "set" / "1_fox" / "00.png")
    ((_, batch),) = batches_of(engine_of(config))
    assert torch.equal(batch.masks, LEFT)


def test_a_mask_of_nothing_gives_no_loss(tmp_path: Path) -> None:
    config = masked_config(tmp_path)
    Image.new("L", (64, 64)).save(tmp_path / "masks" / "1_fox" / "00.png")
    (step,) = of_kind(train(config)[2], Step)
    assert step.loss == step.samples[0].loss == step.grad_norm == 0


def test_a_random_crop_and_its_mask_show_the_same_place(tmp_path: Path, looked_up: list[Picture]) -> None:
    draw_noise_pictures(tmp_path / "set" / "1_fox", [(96, 64)], mode="L")
    (tmp_path / "masks").mkdir()
    (tmp_path / "set" / "1_fox").rename(tmp_path / "masks" / "1_fox")
    draw_noise_pictures(tmp_path / "set" / "1_fox", [(96, 64)], mode="L")  # the picture is its own mask
    config = masked_config(tmp_path, dataset={"random_crop": True, "flip_aug": True}, training={"max_train_epochs": 9})
    engine = engine_of(config)
    masks = [batch.masks for epoch in range(1, 10) for _, batch in batches_of(engine, epoch)]
    assert len({picture.placement.crop_left_top for picture in looked_up}) > 4
    assert {picture.flipped for picture in looked_up} == {False, True}
    for picture, mask in zip(looked_up, masks, strict=True):
        pixels = (picture.pixels((255, 255, 255), None, kohya_compatible=False)[:1] + 1) / 2
        torch.testing.assert_close(mask[0], torch.nn.functional.avg_pool2d(pixels, 8), atol=1e-5, rtol=0)


# -- augmentation


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("kind", ["color_aug", "random_crop"])
def test_varied_pictures_are_encoded_at_each_visit_and_others_once(
    tmp_path: Path, isolated: Path, encoded: list[Picture], kind: str, where: str
) -> None:
    make_set(tmp_path / "set", {"2_fox": 2, "3_cat": 2})
    dataset = {"subsets": [{"image_dir": "set/2_fox", kind: True}], "cache_latents_to_disk": where == "disk"}
    config = small_config(tmp_path, dataset=dataset, training={"max_train_epochs": 2})
    train(config)
    assert Counter(picture.image.folder for picture in encoded) == {"2_fox": 8, "3_cat": 2}
    assert len(list((isolated / "cache" / "latents").rglob("*.safetensors"))) == (2 if where == "disk" else 0)
    first = saved(config)
    again = config.model_copy(update={"output": config.output.model_copy(update={"output_name": "again"})})
    train(again)
    assert same_bytes(first, saved(again))
    assert Counter(picture.image.folder for picture in encoded)["3_cat"] == (2 if where == "disk" else 4)


@pytest.mark.parametrize("kind", ["color_aug", "random_crop"])
def test_varied_pictures_have_other_latents_at_each_visit(tmp_path: Path, kind: str) -> None:
    draw_noise_pictures(tmp_path / "set" / "1_fox", [(96, 64)])
    draw_noise_pictures(tmp_path / "set" / "1_cat", [(96, 64)])
    subsets = [{"image_dir": "set/1_fox", kind: True}]
    # There the draw from the posterior is the same at each visit: what differs comes from the picture.
    config = small_config(tmp_path, dataset={"subsets": subsets}, training={"max_train_epochs": 12})
    engine = engine_of(config.model_copy(update={"compatibility": "kohya"}))
    latents: dict[str, list[bytes]] = {}
    for epoch in range(1, 13):
        for name, batch in batches_of(engine, epoch):
            latents.setdefault(name, []).append(batch.latents.numpy().tobytes())
    assert len(set(latents["1_cat/00.png"])) == 1
    # A third of the visits changes colour; crops have 33 places.
    assert len(set(latents["1_fox/00.png"])) > (2 if kind == "color_aug" else 8)


def test_sdxl_is_told_where_a_random_crop_lies(tmp_path: Path, looked_up: list[Picture]) -> None:
    draw_noise_pictures(tmp_path / "set" / "1_fox", [(96, 64)])
    draw_noise_pictures(tmp_path / "set" / "1_cat", [(64, 96)])
    dataset = {"random_crop": True, "flip_aug": True, "bucket_reso_steps": 64}
    config = small_config(tmp_path, "sdxl", dataset=dataset, network=UNET_ONLY, training={"max_train_epochs": 8})
    engine = engine_of(config)
    ids = [batch.time_ids[0].tolist() for epoch in range(1, 9) for _, batch in batches_of(engine, epoch)]
    assert len({tuple(each) for each in ids}) > 10
    for picture, (height, width, top, left, *target) in zip(looked_up, ids, strict=True):
        assert ((width, height), target) == (picture.image.size, [64, 64])
        cut_left, cut_top = picture.placement.crop_left_top
        assert 0 <= cut_left <= width - 64 and 0 <= cut_top <= height - 64
        assert (left, top) == (width - 64 - cut_left if picture.flipped else cut_left, cut_top)


def test_a_run_of_varied_pictures_is_resumed_exactly(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"2_fox": 2})
    config = small_config(
        tmp_path,
        dataset={"color_aug": True, "random_crop": True, "flip_aug": True, "validation_split": 0.5},
        training={"max_train_epochs": 2},
        output={"state_every_n_steps": 1, "state_keep": 9},
    )
    _, run, _ = train(config)
    whole = saved(config)
    for step in (1, 3):
        go_on_from(config, run, step)
        assert same_bytes(whole, saved(config))


# -- held-back pictures


def validated_config(folder: Path, **tables: Any) -> Config:
    if not (folder / "set").exists():
        make_set(folder / "set", {"1_fox": 4, "2_cat": 2})
    dataset = {"validation_split": 0.5, "validation_seed": 1} | tables.pop("dataset", {})
    return small_config(folder, dataset=dataset, **tables)


def test_held_back_pictures_are_measured_and_never_trained(tmp_path: Path) -> None:
    config = validated_config(tmp_path)
    plan = make_plan(config)
    held_back = {f"{image.folder}/{image.path.name}" for image in plan.held_back}
    assert Counter(name.partition("/")[0] for name in held_back) == {"1_fox": 2, "2_cat": 1}
    _, _, events = train(config)
    trained = {name for step in of_kind(events, Step) for name in pictures_of(step)}
    assert not trained & held_back and len(trained) == 3
    (measured,) = of_kind(events, Validated)
    assert (measured.step, measured.epoch) == (4, 1)
    assert Counter(sample.image for sample in measured.samples) == dict.fromkeys(held_back, 4)
    assert {sample.timestep for sample in measured.samples} == {200, 400, 600, 800}
    assert measured.loss == pytest.approx(sum(sample.loss for sample in measured.samples) / 12, rel=1e-6)


def test_measuring_disturbs_nothing_and_repeats(tmp_path: Path) -> None:
    """A run that measures after every step trains and measures what one does that measures at its end."""
    dropouts = {"network_dropout": 0.3, "rank_dropout": 0.1, "module_dropout": 0.1}
    runs = []
    for name, every in (("end", 100), ("often", 1)):
        config = validated_config(
            tmp_path,
            network=dropouts,
            caption={"shuffle_caption": True, "caption_dropout_rate": 0.5},
            dataset={"flip_aug": True, "color_aug": True, "random_crop": True},
            training={"validate_every_n_steps": every, "max_train_epochs": 2},
            output={"output_name": name},
        )
        _, _, events = train(config)
        runs.append((saved(config), [step.loss for step in of_kind(events, Step)], of_kind(events, Validated)))
    (weights, losses, once), (same_weights, same_losses, often) = runs
    assert losses == same_losses and same_bytes(weights, same_weights)
    assert [event.step for event in once] == [8] and [event.step for event in often] == list(range(1, 9))
    assert once[-1] == often[-1]
    assert len({event.loss for event in often}) > 4


def test_the_same_picture_is_measured_alike_under_any_seed(tmp_path: Path) -> None:
    """With weights that stay as they are, what is measured is a property of the base model and the picture."""
    # Output-zero adapters at a rate that changes nothing to speak of.
    optimizer = {"learning_rate": 1e-30, "optimizer_args": "weight_decay=0"}
    measured = []
    for seed in (1, 2):
        config = validated_config(
            tmp_path,
            optimizer=optimizer,
            training={"seed": seed, "validate_every_n_steps": 2},
            output={"output_name": f"seed{seed}"},
        )
        _, _, events = train(config)
        measured.append(of_kind(events, Validated))
    assert [event.step for event in measured[0]] == [2, 4]
    samples = [event.samples for events in measured for event in events]
    assert all(
        [s.loss for s in each] == pytest.approx([s.loss for s in samples[0]], rel=1e-6)
        and [(s.image, s.timestep) for s in each] == [(s.image, s.timestep) for s in samples[0]]
        for each in samples
    )


def test_dropouts_take_no_part_in_a_measurement(tmp_path: Path) -> None:
    measured = []
    for network in ({}, {"network_dropout": 0.5, "rank_dropout": 0.3, "module_dropout": 0.3}):
        engine = engine_of(validated_config(tmp_path, network=network))
        with torch.no_grad():
            for parameter in engine.parameters:
                parameter.add_(0.05)
        for seed in (1, 2):
            torch.manual_seed(seed)
            measured.append(list(validate(engine, 1, 1))[-1])
        assert engine.base.unet.training
    assert all(event == measured[0] for event in measured)


def test_a_measurement_can_be_cut_short_and_comes_when_it_is_asked_for(tmp_path: Path) -> None:
    training = {"max_validation_steps": 2, "validate_every_n_epochs": 2, "max_train_epochs": 5}
    _, _, events = train(validated_config(tmp_path, training=training))
    measured = of_kind(events, Validated)
    assert [(event.step, event.epoch) for event in measured] == [(8, 2), (16, 4), (20, 5)]
    assert all(len(event.samples) == 8 for event in measured)


def test_a_folder_can_have_a_share_of_its_own_and_regularization_has_none(tmp_path: Path) -> None:
    make_set(tmp_path / "reg", {"1_animal": 4})
    subsets = [{"image_dir": "set/1_fox", "validation_split": 0.0}]
    plan = make_plan(validated_config(tmp_path, dataset={"subsets": subsets, "reg_data_dir": "reg"}))
    assert [image.folder for image in plan.held_back] == ["2_cat"]
    assert sum(image.is_reg for image in plan.images) == 4


def test_a_held_back_picture_has_its_mask_and_plain_caption(tmp_path: Path, captions: list[list[str]]) -> None:
    make_set(tmp_path / "set", {"1_fox": 2})
    for index in range(2):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, :32] = 255
        (tmp_path / "masks" / "1_fox").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / "1_fox" / f"0{index}.png")
    config = masked_config(
        tmp_path,
        dataset={"validation_split": 0.5, "flip_aug": True, "random_crop": True},
        caption={"shuffle_caption": True, "caption_dropout_rate": 1.0, "caption_prefix": "photo,"},
    )
    engine = engine_of(config)
    batch = engine.maker.make_validation(0, [100, 900])
    (image,) = engine.plan.held_back
    expected = f"photo, {image.caption}"
    assert captions[-1] == [expected] * 2
    plain = config.caption.model_copy(update={"shuffle_caption": False, "caption_dropout_rate": 0.0})
    assert expected == draw_caption(image.caption, plain, seed=0, epoch=1, visit=(0,), step=0, max_steps=1)
    assert all(torch.equal(mask, LEFT[0]) for mask in batch.masks)
    assert torch.equal(batch.latents[0], batch.latents[1]) and not torch.equal(batch.noise[0], batch.noise[1])


# -- output preservation


def preserving_config(folder: Path, **tables: Any) -> Config:
    if not (folder / "set").exists():
        make_set(folder / "set", {"1_vixen fox": 2})
    loss = {"diff_output_preservation": True} | tables.pop("loss", {})
    optimizer = {"learning_rate": 1e-2} | tables.pop("optimizer", {})
    return small_config(folder, loss=loss, optimizer=optimizer, **tables)


@pytest.mark.parametrize(
    ("family", "network"), [("sd1", {}), ("sd1", UNET_ONLY), ("sd2", UNET_ONLY), ("sdxl", {}), ("sdxl", UNET_ONLY)]
)
def test_twins_stay_with_the_base_model(tmp_path: Path, family: Any, network: dict[str, Any]) -> None:
    make_set(tmp_path / "set", {"1_vixen fox": 2})
    loss = {"diff_output_preservation": True, "prior_loss_weight": 0.5}
    config = small_config(
        tmp_path,
        family,
        loss=loss,
        network=network,
        optimizer={"learning_rate": 1e-2},
        training={"train_batch_size": 2, "max_train_epochs": 3},
    )
    engine = engine_of(config)
    (visits,) = engine.plan.order.batches(1)
    batch = engine.maker.make(visits, 1, 0, total=2)
    assert batch.preserved is not None and batch.preserved.tolist() == [2, 3]
    assert (len(batch.latents), batch.total, batch.weights.tolist()) == (4, 4, [1, 1, 0.5, 0.5])
    assert batch.images == [engine.maker.name(visit) for visit in visits]
    assert torch.equal(batch.latents[:2], batch.latents[2:]) and torch.equal(batch.noise[:2], batch.noise[2:])
    assert batch.timesteps[:2].tolist() == batch.timesteps[2:].tolist()
    unweighted = engine.losses(batch).unweighted
    # The adapter is zero: what remains is that a batch of two and one of four round differently.
    assert unweighted[2:].max() < 1e-9 < unweighted[:2].min()
    _, _, events = train(config)
    steps = of_kind(events, Step)
    assert all(len(step.samples) == 2 for step in steps)

    def twins(step: Step) -> float:
        """The sum of what the twins add to the loss of a step."""
        return step.loss * 4 - sum(sample.loss for sample in step.samples)

    assert twins(steps[0]) == pytest.approx(0, abs=1e-5)
    assert twins(steps[-1]) > 1e-4


def test_every_caption_is_encoded_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text encoders are put away then."""
    make_set(tmp_path / "reg", {"1_animal": 1})
    (tmp_path / "reg" / "1_animal" / "00.txt").unlink()
    for index, (dataset, caption) in enumerate(
        (
            ({"validation_split": 0.5}, {"caption_dropout_rate": 0.5}),
            ({"reg_data_dir": "reg"}, {"caption_prefix": "my"}),
        )
    ):
        config = preserving_config(
            tmp_path,
            network=UNET_ONLY,
            dataset=dataset,
            caption=caption,
            training={"max_train_epochs": 8},
            output={"output_name": f"run{index}"},
        )
        engine = engine_of(config)
        assert engine.maker.texts is not None
        monkeypatch.setattr(engine.maker.texts, "encode", lambda text: pytest.fail(f"{text} is encoded late"))
        for epoch in range(1, 9):
            assert all(batch.text is not None for _, batch in batches_of(engine, epoch))
        if engine.plan.held_back:
            engine.maker.make_validation(0, [100])


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(("chosen", "expected"), [("", "fox"), ("animal", "animal")])
def test_twins_are_captioned_with_their_class(
    tmp_path: Path, captions: list[list[str]], cached: bool, chosen: str, expected: str
) -> None:
    loss = {"diff_output_preservation_class": chosen} if chosen else {}
    config = preserving_config(tmp_path, loss=loss, network=UNET_ONLY if cached else {})
    engine = engine_of(config)
    made = [batch for _, batch in batches_of(engine)]
    if not cached:
        assert [texts[1] for texts in captions] == [expected] * 2
        assert all("red fur" in texts[0] for texts in captions)
        return
    assert engine.maker.texts is not None and not captions
    for batch in made:
        assert batch.text is not None
        assert torch.equal(batch.text.hidden[1], engine.maker.texts.get(expected).hidden)
        assert not torch.equal(batch.text.hidden[0], batch.text.hidden[1])


def test_a_regularization_set_takes_the_place_of_twins(tmp_path: Path) -> None:
    loss = {"diff_output_preservation": True, "prior_loss_weight": 0.5}
    config = reg_config(tmp_path, loss=loss, optimizer={"learning_rate": 1e-2})
    engine = engine_of(config)
    kinds = [(name.partition("/")[0], batch) for name, batch in batches_of(engine)]
    assert all(len(batch.latents) == 1 for _, batch in kinds)
    assert all((batch.preserved is None) == (folder == "2_fox") for folder, batch in kinds)
    _, _, events = train(config)
    steps = of_kind(events, Step)
    assert [folders_of(step)[0] == "2_fox" for step in steps] == [True, False] * 6
    assert all(0 < step.samples[0].loss < 0.5 * steps[0].loss for step in steps[1::2])
    assert all(step.loss == pytest.approx(0.5 * step.samples[0].loss, rel=1e-6) for step in steps[1::2])


def test_twins_without_weight_leave_half_the_loss_of_training_without(tmp_path: Path) -> None:
    common = {"optimizer": {"max_grad_norm": 0.0}, "training": {"max_train_epochs": 2}}
    with_twins = preserving_config(tmp_path, loss={"prior_loss_weight": 0.0}, output={"output_name": "twins"}, **common)
    without = small_config(
        tmp_path,
        output={"output_name": "plain"},
        **common | {"optimizer": common["optimizer"] | {"learning_rate": 1e-2}},
    )
    (twins, plain) = (of_kind(train(config)[2], Step) for config in (with_twins, without))
    assert twins[0].loss == pytest.approx(plain[0].loss / 2, rel=1e-6)
    assert twins[0].grad_norm == pytest.approx(plain[0].grad_norm / 2, rel=1e-4)
    # AdamW does not see the factor, so both go the same way.
    assert [step.loss for step in twins] == pytest.approx([step.loss / 2 for step in plain], rel=1e-3)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("network", [{}, UNET_ONLY])
def test_preservation_goes_with_checkpointing_and_dropouts(
    tmp_path: Path, network: dict[str, Any], precision: str
) -> None:
    dropouts = {"network_dropout": 0.3, "rank_dropout": 0.1, "module_dropout": 0.1}
    weights, losses = [], []
    for checkpointing in (False, True):
        config = preserving_config(
            tmp_path,
            network=network | dropouts,
            training={"mixed_precision": precision, "gradient_checkpointing": checkpointing, "max_train_epochs": 2},
            output={"output_name": f"checkpointing-{checkpointing}"},
        )
        _, _, events = train(config)
        weights.append(saved(config))
        losses.append([step.loss for step in of_kind(events, Step)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if precision == "no" else 2e-2)
    assert any(value.any() for name, value in weights[0].items() if name.endswith("lora_up.weight"))
    if precision == "no":
        for name, value in weights[0].items():
            torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)


def test_preservation_gives_a_gradient_in_half_precision(tmp_path: Path) -> None:
    """What the base model predicts is computed first, in the same autocast: nothing of it may stay without gradient."""
    found = {}
    for precision in ("no", "bf16"):
        config = preserving_config(tmp_path, training={"mixed_precision": precision})
        engine = engine_of(config)
        with torch.no_grad():
            for parameter in engine.parameters:
                parameter.add_(0.02)
        (batch, *_) = [batch for _, batch in batches_of(engine)]
        only_twins = dataclasses.replace(batch, weights=torch.tensor([0.0, 1.0]))
        found[precision] = gradients(engine, only_twins)[1]
    assert found["no"].norm() > 0
    assert torch.equal(found["no"] != 0, found["bf16"] != 0)
    assert torch.nn.functional.cosine_similarity(found["no"], found["bf16"], dim=0) > 0.8


def test_a_run_with_twins_is_resumed_exactly(tmp_path: Path) -> None:
    config = preserving_config(
        tmp_path,
        network={"network_dropout": 0.2},
        caption={"shuffle_caption": True},
        training={"max_train_epochs": 2, "gradient_accumulation_steps": 2},
        output={"state_every_n_steps": 1},
    )
    _, run, events = train(config)
    assert len(of_kind(events, Step)) == 2
    whole = saved(config)
    go_on_from(config, run, 1)
    assert same_bytes(whole, saved(config))


def test_a_mask_goes_for_the_twin_too(tmp_path: Path) -> None:
    config = masked_config(tmp_path, loss={"diff_output_preservation": True})
    ((_, batch),) = batches_of(engine_of(config))
    assert torch.equal(batch.masks, torch.cat([LEFT, LEFT]))


def test_a_folder_that_is_not_there_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"1_fox": 1})
    with pytest.raises(LoratoryError, match=r"dataset\.subsets\[1\]\.image_dir: .*gone is not a folder"):
        train(small_config(tmp_path, dataset={"subsets": [{"image_dir": "set/gone"}]}))
