"""Findings about pictures: every rule with facts that it speaks about, and ones near them that it does not."""

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hostile_pictures import picture
from loratory.config.schema import CaptionSettings, DatasetSettings
from loratory.editing.checks.alike import best_first
from loratory.editing.checks.context import CheckContext
from loratory.editing.checks.dataset_pictures import check_pictures
from loratory.editing.checks.finding import CaptionFinding, RecipeFix
from loratory.editing.checks.folders import check_folders, read_layout, trained
from loratory.editing.checks.picture_context import PictureContext, Pictured
from loratory.editing.checks.pictures import check_picture
from loratory.editing.checks.recipe_fix import plan_recipes, take
from loratory.editing.checks.rules import PICTURE_RULES, RULES
from loratory.editing.items import Item, find_items
from loratory.editing.settings import read_settings
from loratory.imaging.facts import Ground, PictureFacts
from loratory.imaging.quality import BLOCKY, LITTLE_DETAIL, NOISY, TEXTURED
from loratory.imaging.recipe import Recipe
from loratory.preparation.desk import Desk
from loratory.tags.vocabulary.store import open_vocabulary
from preparation_sets import open_desk

GOOD = PictureFacts(size_bytes=100, digest="", format="PNG", mode="RGB", size=(512, 512), sharpness=0.6)
WHITE = Ground((255, 255, 255), "white", 1.0, 0.5, (10, 10, 500, 500))


def item(caption: str = "foxlora, anthro, solo", name: str = "a.png", folder: str = "10_foxlora", **known: Any) -> Item:
    directory, stem = Path("/set") / folder, name.rpartition(".")[0]
    tokens = folder.partition("_")[2]
    made = Item(directory, name, f"{stem}.txt", f"{folder}/{name}", tokens, known.get("is_reg", False))
    made.data = caption.encode()
    return made


def context(goal: str = "character", site: str = "danbooru", batch_size: int = 1, **dataset: Any) -> PictureContext:
    style = "natural" if site == "natural" else "tags"
    captions = CheckContext(open_vocabulary(site), CaptionSettings(), style=style, goal=goal)  # type: ignore[arg-type]
    settings = {"train_data_dir": "/set", "goal": goal, "max_bucket_reso": 1024} | dataset
    return PictureContext(captions, DatasetSettings.model_validate(settings), batch_size)


def one(
    facts: PictureFacts = GOOD, caption: Any = "foxlora, anthro, solo", name: Any = "a.png", **known: Any
) -> list[CaptionFinding]:
    """What is said of one picture."""
    usual = known.pop("usual_sharpness", 0.6)
    picture = Pictured(item(caption, name, is_reg=known.pop("is_reg", False)), facts)
    return check_picture(picture, replace(context(**known), usual_sharpness=usual))


def several(count: int, caption: str = "foxlora, anthro, solo", **facts: Any) -> list[Pictured]:
    """Good pictures that look nothing like each other."""
    noise = random.Random(3)
    return [
        Pictured(
            item(caption, f"{number:03}.png"),
            replace(
                GOOD,
                digest=str(number),
                hash=noise.getrandbits(64),
                mirrored_hash=noise.getrandbits(64),
                thumbnail=bytes(noise.randrange(256) for _ in range(64 * 64)),
                style=tuple(noise.random() for _ in range(16)),
                **facts,
            ),
        )
        for number in range(count)
    ]


def rules(found: Iterable[CaptionFinding]) -> set[str]:
    return {finding.rule for finding in found}


def only(rule: str, found: Sequence[CaptionFinding]) -> CaptionFinding:
    (finding,) = [finding for finding in found if finding.rule == rule]
    return finding


def changes(finding: CaptionFinding) -> dict[str, Any]:
    (fix, *_) = finding.fixes
    assert isinstance(fix.edit, RecipeFix)
    return dict(fix.edit.changes)


def test_a_good_picture_is_not_spoken_of() -> None:
    assert one() == []
    assert one(replace(GOOD, format="WEBP"), name="a.webp") == []  # trainers read it today
    assert one(replace(GOOD, format="MPO"), name="a.jpg") == []


@pytest.mark.parametrize(
    ("rule", "facts", "near", "fix"),
    [
        ("image-unreadable", {"problem": "truncated", "reason": "is cut off"}, {}, {"skip": True}),
        ("wrong-extension", {"format": "JPEG"}, {"format": "PNG"}, {"name": "a"}),
        ("image-format", {"format": "GIF"}, {"format": "PNG"}, {"format": "png"}),
        ("animated", {"frames": 3}, {"frames": 1}, {"format": "png"}),
        ("transparent", {"transparent_share": 0.3}, {"transparent_share": 0.0}, {"background": ""}),
        ("exif-rotated", {"orientation": 6}, {"orientation": 1}, {"format": "png"}),
        ("colour-mode", {"mode": "CMYK"}, {"mode": "P"}, {"format": "png"}),
        ("colour-mode", {"mode": "I;16"}, {"mode": "L"}, {"format": "png"}),
        ("colour-mode", {"has_profile": True}, {}, {"format": "png"}),
        ("low-resolution", {"size": (400, 400)}, {"size": (500, 500)}, {"upscale": "auto"}),
        ("too-large", {"size": (3001, 3001)}, {"size": (3000, 3000)}, {"max_side_px": 3000}),
        ("extreme-aspect", {"size": (1, 20_000)}, {"size": (512, 2000)}, {"skip": True}),
        (
            "empty-ground",
            {"ground": replace(WHITE, box=(100, 100, 300, 400)), "size": (900, 900)},
            {"ground": replace(WHITE, box=(10, 10, 890, 890)), "size": (900, 900)},
            {"crop": (74, 88, 326, 412), "upscale": "auto"},
        ),
        (
            "sheet",
            {"figures": ((0, 0, 9, 9), (20, 0, 30, 9))},
            {"figures": ()},
            {"split": ((0, 0, 9, 9), (20, 0, 30, 9))},
        ),
        ("enlarged", {"detail": LITTLE_DETAIL - 0.01}, {"detail": LITTLE_DETAIL}, {"clean": "downscale"}),
        ("compressed", {"blockiness": BLOCKY}, {"blockiness": BLOCKY - 0.01}, {"clean": "adverse"}),
        ("poison-hint", {"residual": NOISY}, {"residual": NOISY - 0.01}, {"clean": "upscale"}),
        ("poison-hint", {"residual": TEXTURED - 0.01}, {"residual": TEXTURED}, {"clean": "upscale"}),
    ],
)
def test_rules_of_one_picture(rule: str, facts: dict[str, Any], near: dict[str, Any], fix: dict[str, Any]) -> None:
    finding = only(rule, one(replace(GOOD, **facts)))
    assert finding.severity in RULES[rule].severities
    assert finding.item == "10_foxlora/a.png"
    assert changes(finding) == fix
    assert rule not in rules(one(replace(GOOD, **near)))


def test_what_a_guess_is_never_taken_unasked() -> None:
    guesses = {"figures": ((0, 0, 9, 9), (20, 0, 30, 9)), "detail": 0.5, "residual": 3.0}
    for finding in one(replace(GOOD, **guesses)):
        assert finding.automatic_fix is None, finding.rule


def test_a_picture_that_the_disk_refuses_is_not_set_aside() -> None:
    facts = PictureFacts(0, "", "unreadable", "cannot be opened (Permission denied)")
    finding = only("image-unreadable", one(facts))
    assert (finding.severity, finding.fixes) == ("error", ())


def test_nothing_else_is_said_of_a_damaged_picture() -> None:
    facts = replace(GOOD, problem="damaged", reason="is damaged", size=(9, 9), frames=4, transparent_share=0.5)
    assert rules(one(facts)) == {"image-unreadable"}


def test_hidden_colours_make_transparency_a_warning() -> None:
    found = [one(replace(GOOD, transparent_share=0.3, hides_colours=hides)) for hides in (False, True)]
    assert [only("transparent", each).severity for each in found] == ["note", "warning"]


@pytest.mark.parametrize(
    ("name", "severity", "to"),
    [("a\nb.png", "warning", "a b"), ("\x1b[31m.png", "warning", "[31m"), ("b\udcff.png", "error", "b?")],
)
def test_file_names(name: str, severity: str, to: str) -> None:
    finding = only("file-name", one(name=name))
    assert finding.severity == severity
    assert changes(finding) == {"name": to}
    assert finding.message.isprintable()


def test_endings_that_trainers_leave_out() -> None:
    assert only("image-format", one(replace(GOOD, format="TIFF"), name="a.tif")).severity == "warning"


def test_resolution_goes_by_the_settings() -> None:
    assert "low-resolution" in rules(one(resolution=768))
    assert only("low-resolution", one(replace(GOOD, size=(256, 256)))).severity == "warning"
    small = one(replace(GOOD, size=(256, 256)), bucket_no_upscale=True)
    assert "trained at 256x256 px" in only("low-resolution", small).message


def test_what_a_bucket_cuts_away() -> None:
    long = replace(GOOD, size=(2000, 330))
    wide = {"min_bucket_reso": 384, "max_bucket_reso": 640}
    assert "extreme-aspect" in rules(one(long, **wide))
    cut = only("crop-loss", one(replace(GOOD, size=(1600, 512)), **wide))
    assert cut.severity == "warning"
    assert "47%" in cut.message
    assert only("crop-loss", one(replace(GOOD, size=(640, 512)), enable_bucket=False)).severity == "note"
    assert one(replace(GOOD, size=(1024, 512))) == []


def test_a_crop_has_the_shape_of_its_bucket() -> None:
    wide = replace(GOOD, size=(256, 256), ground=replace(WHITE, box=(12, 70, 244, 170)))
    assert changes(only("empty-ground", one(wide))) == {"crop": (0, 61, 256, 179), "upscale": "auto"}
    # With a square bucket alone, cutting off the ground above would cut off the subject at its sides.
    only_square = {"resolution": 128, "min_bucket_reso": 128}
    assert "empty-ground" not in rules(one(wide, **only_square))
    left = replace(wide, ground=replace(WHITE, box=(4, 70, 104, 190)))
    assert changes(only("empty-ground", one(left, **only_square))) == {"crop": (0, 65, 130, 195)}
    # What the bucket would cut off all the same, is ground where it is cut off on purpose.
    tall = replace(GOOD, size=(80, 200), ground=replace(WHITE, box=(6, 66, 74, 134)))
    cut = only("crop-loss", one(tall, **only_square))
    assert "empty ground alone" in cut.message
    assert changes(cut) == {"crop": (3, 63, 77, 137), "upscale": "auto"}
    assert not only("crop-loss", one(replace(tall, ground=None), **only_square)).fixes
    # A small picture that is not enlarged gets no more px by it.
    assert "empty-ground" not in rules(one(wide, bucket_no_upscale=True))


def test_settings_without_any_bucket_say_nothing_here() -> None:
    none = {"resolution": 64, "min_bucket_reso": 64, "max_bucket_reso": 64, "bucket_reso_steps": 512}
    assert one(GOOD, **none) == []


@pytest.mark.parametrize(("site", "tag"), [("danbooru", "lowres"), ("e621", "low res")])
def test_too_small_to_upscale_well(site: str, tag: str) -> None:
    tiny = replace(GOOD, size=(100, 100))
    finding = only("low-res-untagged", one(tiny, site=site))
    assert finding.fixes[0].label == f"add “{tag}”"
    assert "low-res-untagged" not in rules(one(tiny, f"foxlora, {tag}", site=site))


def test_sheets_that_say_so_and_groups_are_no_sheets() -> None:
    sheet = replace(GOOD, figures=((0, 0, 9, 9), (20, 0, 30, 9)))
    for caption in ("foxlora, multiple views", "foxlora, reference_sheet", "foxlora, 2girls", "foxlora, duo"):
        assert "sheet" not in rules(one(sheet, caption)), caption
    assert "sheet" in rules(one(sheet, "foxlora, solo"))


def test_blurred_is_what_is_less_sharp_than_the_others() -> None:
    assert "blurred" in rules(one(replace(GOOD, sharpness=0.2)))
    assert "blurred" not in rules(one(replace(GOOD, sharpness=0.2), usual_sharpness=0.4))
    assert "blurred" not in rules(one(replace(GOOD, sharpness=0.2), "foxlora, blurry"))
    assert "blurred" not in rules(one(replace(GOOD, sharpness=0.0)))  # nothing in it has an edge


def test_poison_is_only_ever_a_maybe() -> None:
    finding = only("poison-hint", one(replace(GOOD, residual=3.0)))
    assert finding.severity == "note"
    assert "may be" in finding.message
    assert "grain" in finding.message
    assert [changes(replace(finding, fixes=(fix,)))["clean"] for fix in finding.fixes] == [
        "upscale",
        "downscale",
        "adverse",
    ]


def test_pictures_without_colours() -> None:
    grey = replace(GOOD, is_grey=True)
    finding = only("greyscale-untagged", one(grey))
    assert finding.fixes[0].label == "add “greyscale”"  # which says monochrome too
    assert finding.automatic_fix is not None
    assert only("greyscale-untagged", one(grey, "")).automatic_fix is None  # it would stand in for the folder's name
    for caption in ("fox, monochrome", "fox, greyscale", "fox, black_and_white"):
        assert "greyscale-untagged" not in rules(one(grey, caption)), caption
    assert only("greyscale-untagged", one(grey, site="natural")).fixes == ()
    assert one(grey, "A drawing in monochrome", site="natural") == []


def test_tags_are_spelled_as_the_caption_does() -> None:
    tiny = replace(GOOD, size=(100, 100))
    finding = only("low-res-untagged", one(tiny, "foxlora, blue_eyes, side_view", site="e621"))
    assert finding.fixes[0].label == "add “low_res”"


def test_regularization_is_judged_by_its_files_alone() -> None:
    facts = replace(GOOD, is_grey=True, residual=9.0, transparent_share=0.2, size=(100, 100))
    assert rules(one(facts, is_reg=True)) == {"transparent", "low-resolution"}


# --- the set ----------------------------------------------------------------------------------------------------------


def test_a_good_set_is_not_spoken_of() -> None:
    assert check_pictures(several(30), context()) == []


@pytest.mark.parametrize(
    ("goal", "count", "severity"),
    [
        ("character", 3, "warning"),
        ("character", 12, "note"),
        ("character", 30, None),
        ("character", 80, "note"),
        ("style", 30, "note"),
        ("style", 130, None),
    ],
)
def test_how_many_pictures(goal: str, count: int, severity: str | None) -> None:
    found = [each for each in check_pictures(several(count), context(goal)) if each.rule == "image-count"]
    assert [each.severity for each in found] == ([severity] if severity else [])


def test_backgrounds_that_nobody_tagged() -> None:
    pictures = several(20)
    white = [Pictured(each, replace(facts, ground=WHITE)) for each, facts in pictures[:12]]
    found = check_pictures([*white, *pictures[12:]], context())
    biased = [finding for finding in found if finding.rule == "background-bias"]
    assert {finding.item for finding in biased} == {each.name for each, _ in white}
    assert "60% of the pictures have a plain white background, 0% are tagged" in biased[0].message
    assert all(finding.automatic_fix for finding in biased)

    def tagged(number: int) -> list[Pictured]:
        tagged = [Pictured(item("fox, white background", each.image_name), facts) for each, facts in white[:number]]
        return [*tagged, *white[number:], *pictures[12:]]

    found = check_pictures(tagged(10), context())
    assert rules(found) == {"background-untagged"}
    assert len(found) == 2
    assert check_pictures(tagged(12), context()) == []


def test_a_few_backgrounds_are_no_bias() -> None:
    pictures = several(20)
    white = [Pictured(each, replace(facts, ground=WHITE)) for each, facts in pictures[:4]]
    assert check_pictures([*white, *pictures[4:]], context()) == []


def test_pictures_that_are_there_twice() -> None:
    pictures = several(20)
    same = replace(pictures[0].facts)
    copy = Pictured(item("foxlora", "copy.png"), same)
    elsewhere = Pictured(item("foxlora", "copy.png", "10_wolflora"), same)
    finding = only("same-picture", check_pictures([*pictures, copy], context()))
    assert (finding.severity, finding.item) == ("warning", "10_foxlora/copy.png")  # it has fewer tags
    assert finding.automatic_fix is not None
    finding = only("same-picture", check_pictures([*pictures, elsewhere], context()))
    assert (finding.severity, finding.automatic_fix) == ("note", None)


def test_the_better_of_two_is_kept() -> None:
    small, large = Pictured(item(name="a.png"), GOOD), Pictured(item(name="b.png"), replace(GOOD, size=(900, 900)))
    assert best_first([small, large]) == [large, small]


def test_pictures_that_are_nearly_the_same_or_mirrored() -> None:
    pictures = several(20)
    noise = random.Random(9)
    rows = [[noise.randrange(256) for _ in range(8)] for _ in range(64)]
    levels = [[row[x // 8] for x in range(64)] for row in rows]
    thumbnail = bytes(itertools.chain(*levels))
    mirrored = bytes(itertools.chain(*(reversed(row) for row in levels)))
    first = Pictured(item(name="x.png"), replace(GOOD, digest="x", hash=5, mirrored_hash=9, thumbnail=thumbnail))
    near = Pictured(item(name="y.png"), replace(first.facts, digest="y", sharpness=0.5))
    turned = Pictured(
        item(name="z.png"),
        replace(GOOD, digest="z", hash=9, mirrored_hash=5, thumbnail=mirrored, sharpness=0.5),
    )
    assert only("near-duplicate", check_pictures([*pictures, first, near], context())).item == near.item.name
    finding = only("mirrored-duplicate", check_pictures([*pictures, first, turned], context()))
    assert (finding.item, finding.severity, finding.automatic_fix) == (turned.item.name, "note", None)
    finding = only("mirrored-duplicate", check_pictures([*pictures, first, turned], context(asymmetric=True)))
    assert finding.severity == "warning"


def test_what_repeats_at_one_place() -> None:
    noise = random.Random(11)
    mark = [bytes(noise.randrange(256) for _ in range(12)) for _ in range(12)]
    marked: list[Pictured] = []
    for each, facts in several(20):
        levels = bytearray(facts.thumbnail)
        for number, row in enumerate(mark):
            levels[(48 + number) * 64 + 48 : (48 + number) * 64 + 60] = row
        marked.append(Pictured(each, replace(facts, thumbnail=bytes(levels))))
    found = [finding for finding in check_pictures(marked, context()) if finding.rule == "overlay-repeated"]
    assert len(found) == 20
    assert "bottom right corner of 20 pictures" in found[0].message
    assert found[0].automatic_fix is None
    ((left, top, right, bottom),) = changes(found[0])["erase"]
    assert 340 < left < 400 < 450 < right <= 512
    assert 340 < top < 400 < 450 < bottom <= 512


def test_looks_that_most_share() -> None:
    alike = [Pictured(each, replace(facts, style=(0.5,) * 16)) for each, facts in several(20)]
    assert "style-concentration" in rules(check_pictures(alike, context()))
    assert "style-concentration" not in rules(check_pictures(alike, context("style")))


def test_buckets_smaller_than_a_batch() -> None:
    pictures = several(16)
    odd = [*pictures[1:], Pictured(pictures[0].item, replace(pictures[0].facts, size=(900, 600)))]
    assert check_pictures(odd, context()) == []
    finding = only("bucket-small", check_pictures(odd, context(batch_size=4)))
    assert "1 of 2 buckets" in finding.message
    assert check_pictures(pictures, context(batch_size=4)) == []


def test_the_weakest_pictures() -> None:
    pictures = several(20)
    weak = [Pictured(each, replace(facts, detail=0.4)) for each, facts in pictures[:3]]
    weak[1] = Pictured(weak[1].item, replace(weak[1].facts, blockiness=0.9))
    finding = only("image-ranking", check_pictures([*weak, *pictures[3:]], context()))
    assert "the weakest are 10_foxlora/001.png, " in finding.message
    assert "image-ranking" not in rules(check_pictures([*weak[:2], *pictures[2:]], context()))


def test_a_rule_can_be_silenced() -> None:
    silent = context()
    silent = replace(silent, captions=silent.captions.keeping({"too-large": frozenset({"*"})}))
    assert check_picture(Pictured(item(), replace(GOOD, size=(4000, 4000))), silent) == []


# --- folders ----------------------------------------------------------------------------------------------------------


def fill(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        picture(16 + number, 16).save(folder / f"{number}.png")


def of_folders(root: Path, **dataset: Any) -> list[CaptionFinding]:
    settings = DatasetSettings.model_validate({"train_data_dir": str(root)} | dataset)
    return check_folders(read_layout(root, settings, CaptionSettings()), find_items(root, root), settings)


def test_folders_out_of_balance(tmp_path: Path) -> None:
    fill(tmp_path / "1_fox", 24)
    fill(tmp_path / "1_wolf", 10)
    finding = only("imbalance", of_folders(tmp_path))
    assert "Balanced repeats would be 1 for 1_fox, 2 for 1_wolf" in finding.message
    assert of_folders(tmp_path, goal="style") == []


def test_a_small_folder_that_may_overbake(tmp_path: Path) -> None:
    fill(tmp_path / "2_fox", 20)
    fill(tmp_path / "10_wolf", 4)
    assert "5 times as often" in only("small-folder", of_folders(tmp_path)).message


def test_regularization_sets(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "1_fox", 20)
    fill(tmp_path / "reg" / "1_dog", 3)
    found = of_folders(tmp_path / "set", reg_data_dir=str(tmp_path / "reg"))
    assert only("reg-count", found).severity == "warning"
    fill(tmp_path / "more" / "99_dog", 12)
    found = of_folders(tmp_path / "set", reg_data_dir=str(tmp_path / "more"))
    assert "60 epochs until all 12 were seen" in only("reg-coverage", found).message


def test_originals_beside_are_not_trained_and_no_mistake(tmp_path: Path) -> None:
    fill(tmp_path / "Raw", 3)
    fill(tmp_path / "1_fox", 20)
    assert of_folders(tmp_path) == []
    assert {each.folder for each in trained(find_items(tmp_path, tmp_path), tmp_path)} == {"1_fox"}
    fill(tmp_path / "more", 3)
    assert rules(of_folders(tmp_path)) == {"folder-name"}


def test_a_folder_without_concept_folders(tmp_path: Path) -> None:
    fill(tmp_path / "loose", 3)
    assert rules(of_folders(tmp_path)) == {"layout"}
    assert of_folders(tmp_path / "loose")[0].severity == "note"
    fill(tmp_path / "10_fox", 3)
    assert of_folders(tmp_path / "10_fox") == []


def test_a_subject_with_sides_that_a_folder_mirrors(tmp_path: Path) -> None:
    fill(tmp_path / "1_fox", 20)
    subset = {"image_dir": str(tmp_path / "1_fox"), "flip_aug": True}
    assert "1_fox" in only("asymmetric-flip", of_folders(tmp_path, asymmetric=True, subsets=[subset])).message
    assert of_folders(tmp_path, subsets=[subset]) == []


def test_every_rule_about_pictures_is_in_the_list() -> None:
    assert set(RULES) >= PICTURE_RULES
    assert {"image-unreadable", "background-bias", "imbalance"} <= PICTURE_RULES


# --- mending ----------------------------------------------------------------------------------------------------------


def found_in(root: Path, rule: str, **fix: Any) -> list[CaptionFinding]:
    from loratory.editing.checks.finding import Fix

    return [
        CaptionFinding(rule, "note", each.image, "", each.name, (), (Fix("", RecipeFix(fix)),))
        for each in find_items(root, root)
    ]


def test_recipes_are_changed_built_and_taken_back(tmp_path: Path) -> None:
    fill(tmp_path / "1_fox", 3)
    before = {path.name: path.read_bytes() for path in (tmp_path / "1_fox").iterdir()}
    items, desk = find_items(tmp_path, tmp_path), Desk(tmp_path)
    findings = found_in(tmp_path, "mirrored-duplicate", flip=True)
    plan = plan_recipes(desk, items, findings, "flip them", (512, 512))
    assert {change.told() for change in plan.changes} == {"flip = yes"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "1_fox").iterdir()} == before
    report = take(desk, plan)
    assert len(report.made) == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "1_fox").glob("*.png")} != before
    again = plan_recipes(Desk(tmp_path), items, findings, "flip them", (512, 512))
    assert (again.changes, again.unchanged) == ((), 3)
    desk = Desk(tmp_path)
    assert desk.undo() == "flip them"
    desk.build()
    assert {path.name: path.read_bytes() for path in (tmp_path / "1_fox").iterdir()} == before


def test_what_was_prepared_for_less_is_not_upscaled_by_a_recipe(tmp_path: Path) -> None:
    fill(tmp_path / "Raw", 2)
    train = tmp_path / "train"
    open_desk(tmp_path / "Raw", train, resolution=(64, 64)).build()
    assert read_settings(train).dataset_settings(train).resolution_wh == (64, 64)
    items, findings = find_items(train, train), found_in(train, "low-resolution", upscale="auto", flip=True)
    same = plan_recipes(Desk(train), items, findings, "x", (64, 64))
    assert ([change.told() for change in same.changes], same.refused) == (["flip = yes"] * 2, ())
    larger = plan_recipes(Desk(train), items, findings, "x", (768, 512))
    assert [change.told() for change in larger.changes] == ["flip = yes"] * 2
    assert {why for _, why in larger.refused} == {
        "it was prepared for 64x64 px: prepare the originals with --resolution 768x512"
    }
    (train / ".loratory" / "dataset.toml").write_text("[dataset]\nresolution = 256\n", "utf-8")
    assert read_settings(train).dataset_settings(train).resolution_wh == (256, 256)


def test_backgrounds_take_turns(tmp_path: Path) -> None:
    fill(tmp_path / "1_fox", 6)
    plan = plan_recipes(
        Desk(tmp_path), find_items(tmp_path, tmp_path), found_in(tmp_path, "x", background=""), "x", (64, 64)
    )
    assert [change.after.background for change in plan.changes] == ["white", "black", "blue", "green", "red", "white"]


def test_what_is_left_out_gets_no_other_change(tmp_path: Path) -> None:
    fill(tmp_path / "1_fox", 1)
    findings = [*found_in(tmp_path, "x", format="png"), *found_in(tmp_path, "y", skip=True)]
    (change,) = plan_recipes(Desk(tmp_path), find_items(tmp_path, tmp_path), findings, "x", (64, 64)).changes
    assert change.after == Recipe(skip=True)


def test_boxes_are_those_of_the_original(tmp_path: Path) -> None:
    fill(tmp_path / "1_fox", 1)
    items = find_items(tmp_path, tmp_path)

    def planned(**fix: Any) -> Any:
        desk = Desk(tmp_path)
        return desk, plan_recipes(desk, items, found_in(tmp_path, "x", **fix), "x", (64, 64))

    take(*planned(max_side_px=8))
    (change,) = planned(crop=(2, 2, 6, 6))[1].changes
    assert change.after.crop == (4, 4, 12, 12)
    take(*planned(crop=(2, 2, 6, 6), flip=True))
    assert Desk(tmp_path).recipe_of(Desk(tmp_path).entries[0]).crop == (4, 4, 12, 12)
    (change,) = planned(crop=(0, 0, 2, 8), background="")[1].changes
    assert change.after.crop == (10, 4, 12, 12)  # of what was made 8 px wide and mirrored
    desk = Desk(tmp_path)
    desk.change("not built", {desk.entries[0].name: Recipe(crop=(0, 0, 9, 9))})
    again = planned(crop=(1, 1, 2, 2), background="")[1]
    assert [change.told() for change in again.changes] == ["background = white"]
    assert "build it first" in again.refused[0][1]
    desk.change("split", {desk.entries[0].name: Recipe(split=((0, 0, 8, 16), (8, 0, 16, 16)))})
    desk.build()
    parts = find_items(tmp_path, tmp_path)
    assert len(parts) == 2
    refused = plan_recipes(Desk(tmp_path), parts, found_in(tmp_path, "x", crop=(1, 1, 2, 2)), "x", (64, 64)).refused
    assert {why for _, why in refused} == {"its recipe splits it: change that recipe instead"}


def test_a_larger_resolution_upscales_anew(tmp_path: Path) -> None:
    fill(tmp_path / "1_fox", 1)
    items, findings = find_items(tmp_path, tmp_path), found_in(tmp_path, "low-resolution", upscale="auto")
    for resolution, told in ((64, "upscale = auto"), (128, "upscaled anew, for another resolution")):
        desk = Desk(tmp_path)
        plan = plan_recipes(desk, items, findings, "x", (resolution, resolution))
        assert [change.told() for change in plan.changes] == [told]
        take(desk, plan)
        with Image.open(tmp_path / "1_fox" / "0.png") as made:
            assert made.size == (resolution, resolution)
    assert plan_recipes(Desk(tmp_path), items, findings, "x", (128, 128)).unchanged == 1
