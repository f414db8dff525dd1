"""Reading folders with settings of their own: which are taken, as what, and what is refused."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loratory.config.load import load_config
from loratory.config.schema import CaptionSettings, DatasetSettings
from loratory.dataset.scan import ConceptFolder, Dataset, refuse_errors, scan_dataset
from loratory.dataset.treatment import Treatment
from loratory.dataset.validation import split_validation
from loratory.errors import LoratoryError
from material import make_set, write_config


def make(root: Path, *names: str) -> Path:
    """Creates files by their names: pictures get pixels, captions the text "a, b"."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue() if path.suffix == ".png" else b"a, b")
    return root


def scan(root: Path | None, *subsets: dict[str, Any], caption: dict[str, Any] | None = None, **dataset: Any) -> Dataset:
    settings = DatasetSettings.model_validate({"train_data_dir": root, "subsets": list(subsets), **dataset})
    return scan_dataset(settings, CaptionSettings.model_validate(caption or {}))


def by_name(dataset: Dataset) -> dict[str, ConceptFolder]:
    return {folder.path.name: folder for folder in dataset.folders}


def test_a_concept_folder_gets_its_settings_and_others_keep_theirs(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "2_fox/a.png", "3_cat/a.png")
    fox = {"image_dir": root / "2_fox", "num_repeats": 7, "class_tokens": "vixen", "flip_aug": True, "keep_tokens": 2}
    dataset = scan(root, fox, caption={"shuffle_caption": True, "keep_tokens": 1}, color_aug=True)
    folders = by_name(dataset)
    fox_folder, cat = folders["2_fox"], folders["3_cat"]
    assert [folder.path.name for folder in dataset.folders] == ["2_fox", "3_cat"]
    assert (fox_folder.repeats, fox_folder.class_tokens, fox_folder.is_reg) == (7, "vixen", False)
    assert (cat.repeats, cat.class_tokens, cat.is_reg) == (3, "cat", False)
    caption = CaptionSettings(shuffle_caption=True, keep_tokens=1)
    assert cat.treatment == Treatment(caption, color_aug=True)
    assert fox_folder.treatment == Treatment(
        caption.model_copy(update={"keep_tokens": 2}), flip_aug=True, color_aug=True
    )
    (image,) = fox_folder.images
    assert (image.repeats, image.caption, image.class_tokens) == (7, "vixen", "vixen")
    assert image.treatment == fox_folder.treatment


def test_a_subset_can_switch_off_what_all_folders_have(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png", "1_cat/a.png")
    off = {"flip_aug": False, "shuffle_caption": False, "validation_split": 0.0, "caption_prefix": ""}
    dataset = scan(
        root,
        {"image_dir": root / "1_fox"} | off,
        caption={"shuffle_caption": True, "caption_prefix": "photo"},
        flip_aug=True,
        validation_split=0.5,
    )
    fox, cat = by_name(dataset)["1_fox"].treatment, by_name(dataset)["1_cat"].treatment
    assert (fox.flip_aug, fox.validation_split, fox.caption) == (False, 0.0, CaptionSettings())
    assert (cat.flip_aug, cat.validation_split, cat.caption.shuffle_caption) == (True, 0.5, True)


@pytest.mark.parametrize(
    ("name", "subset", "repeats", "tokens"),
    [
        ("drawings", {}, 1, "drawings"),
        ("drawings", {"num_repeats": 4, "class_tokens": "sketch"}, 4, "sketch"),
        ("drawings", {"class_tokens": ""}, 1, ""),
        ("5_owl", {}, 5, "owl"),
        ("5_owl", {"num_repeats": 2}, 2, "owl"),
        ("0_owl", {}, 1, "0_owl"),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_subset_may_have_any_name_and_lie_anywhere(
    tmp_path: Path, name: str, subset: dict[str, Any], repeats: int, tokens: str, inside: bool
) -> None:
    root = make(tmp_path / "train", "1_fox/a.png", "1_fox/a.txt")
    where = make(root if inside else tmp_path / "elsewhere", f"{name}/a.png", f"{name}/b.png", f"{name}/b.txt") / name
    dataset = scan(root, {"image_dir": where} | subset)
    folder = by_name(dataset)[name]
    assert len(dataset.folders) == 2 and (folder.repeats, folder.class_tokens) == (repeats, tokens)
    assert [image.caption for image in folder.images] == [tokens, "a, b"]
    assert {image.folder for image in folder.images} == {name}
    assert "folder-name" not in {finding.rule for finding in dataset.findings}


def test_folders_from_elsewhere_come_last_in_the_order_they_are_given(tmp_path: Path) -> None:
    train = make(tmp_path / "train", "2_b/x.png", "1_a/x.png")
    reg = make(tmp_path / "reg", "1_animal/x.png")
    make(tmp_path, "z/x.png", "c/x.png")
    dataset = scan(train, {"image_dir": tmp_path / "z"}, {"image_dir": tmp_path / "c"}, reg_data_dir=reg)
    assert [image.folder for image in dataset.images] == ["1_a", "2_b", "1_animal", "z", "c"]
    assert [image.is_reg for image in dataset.images] == [False, False, True, False, False]


def test_a_subset_says_whether_it_is_a_regularization_set(tmp_path: Path) -> None:
    train = make(tmp_path / "train", "1_fox/x.png", "1_animal/x.png")
    reg = make(tmp_path / "reg", "1_plant/x.png", "1_owl/x.png")
    dataset = scan(
        train,
        {"image_dir": train / "1_animal", "is_reg": True},
        {"image_dir": reg / "1_owl", "is_reg": False},
        {"image_dir": reg / "1_plant", "num_repeats": 3},
        reg_data_dir=reg,
    )
    assert {name: folder.is_reg for name, folder in by_name(dataset).items()} == {
        "1_fox": False,
        "1_animal": True,
        "1_plant": True,
        "1_owl": False,
    }
    assert [image.is_reg for image in dataset.images] == [folder.is_reg for folder in dataset.folders]
    # Its pictures need no caption: the class is what they are there for.
    said = {finding.path.name: finding.rule for finding in dataset.findings if finding.path}
    assert said == {"1_fox": "caption-missing", "1_owl": "caption-missing"}


def test_a_dataset_of_subsets_alone(tmp_path: Path) -> None:
    make(tmp_path, "drawings/x.png", "drawings/x.txt", "photos/x.png", "photos/x.txt")
    dataset = scan(None, *({"image_dir": tmp_path / name} for name in ("drawings", "photos")))
    assert [image.folder for image in dataset.images] == ["drawings", "photos"] and not dataset.findings


def test_captions_of_a_subset_have_an_ending_of_their_own(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png", "1_fox/a.caption", "1_cat/a.png", "1_cat/a.txt")
    dataset = scan(root, {"image_dir": root / "1_fox", "caption_extension": ".caption"})
    assert [image.caption for image in dataset.images] == ["a, b", "a, b"] and not dataset.findings


def test_a_wildcard_subset_may_have_lines(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png", "1_cat/a.png")
    for name in ("1_fox", "1_cat"):
        (root / name / "a.txt").write_text("one\ntwo")
    (finding,) = scan(root, {"image_dir": root / "1_fox", "enable_wildcard": True}).findings
    assert (finding.rule, finding.path) == ("caption-lines", root / "1_cat")


# -- refused


def failure(*arguments: Any, **dataset: Any) -> LoratoryError:
    with pytest.raises(LoratoryError) as caught:
        scan(*arguments, **dataset)
    return caught.value


@pytest.mark.parametrize("what", ["nothing", "a file"])
def test_a_subset_that_is_no_folder(tmp_path: Path, what: str) -> None:
    root = make(tmp_path / "train", "1_fox/a.png")
    gone = tmp_path / "gone"
    if what == "a file":
        gone.write_text("")
    error = failure(root, {"image_dir": root / "1_fox"}, {"image_dir": gone})
    assert error.message == f"dataset.subsets[2].image_dir: {gone} is not a folder."
    assert "relative path counts from the folder of the settings file" in error.hint


def test_two_subsets_of_one_folder(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png")
    subset = {"image_dir": root / "1_fox"}
    for same in (root / "1_fox", root / ".." / "train" / "1_fox"):
        error = failure(root, subset, {"image_dir": same, "num_repeats": 2})
        assert error.message == f"dataset.subsets[2].image_dir: {same} has a subset already."
        assert "one [[dataset.subsets]] table" in error.hint


def test_a_link_to_a_folder_is_that_folder(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png")
    link = tmp_path / "link"
    link.symlink_to(root / "1_fox")
    (folder,) = scan(root, {"image_dir": link, "num_repeats": 5}).folders
    assert (folder.path.name, folder.repeats) == ("1_fox", 5)
    assert "has a subset already" in failure(root, {"image_dir": link}, {"image_dir": root / "1_fox"}).message


def test_the_same_table_twice_is_two_subsets(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png")
    assert "has a subset already" in failure(root, {"image_dir": root / "1_fox"}, {"image_dir": root / "1_fox"}).message


def test_regularization_alone_is_nothing_to_train(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png")
    error = failure(root, {"image_dir": root / "1_fox", "is_reg": True})
    assert error.message.startswith("No picture to train was found: every folder is a regularization set, or empty.")
    (tmp_path / "empty").mkdir()
    assert "No picture to train" in failure(None, {"image_dir": tmp_path / "empty"}).message


def test_a_damaged_picture_is_named_before_the_lack_of_others(tmp_path: Path) -> None:
    make(tmp_path, "drawings/notes.txt")
    (tmp_path / "drawings" / "a.png").write_bytes(b"")
    error = failure(None, {"image_dir": tmp_path / "drawings"})
    assert "drawings/a.png: the file is empty (0 bytes)" in error.message


def test_more_repeats_than_any_set_needs(tmp_path: Path) -> None:
    make(tmp_path, "drawings/a.png", "drawings/a.txt")
    dataset = scan(None, {"image_dir": tmp_path / "drawings", "num_repeats": 20_000})
    with pytest.raises(LoratoryError, match="drawings: asks for 20000 repeats"):
        refuse_errors(dataset)


def test_relative_folders_count_from_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_set(tmp_path / "set", {"1_fox": 1})
    make_set(tmp_path / "more", {"drawings": 1})
    subset = {"image_dir": "more/drawings", "conditioning_data_dir": "masks"}
    path = write_config(tmp_path, dataset={"subsets": [subset]}, loss={"masked_loss": True})
    (tmp_path / "masks").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    config = load_config(path)
    assert config.dataset.subsets[0].image_dir == tmp_path / "more" / "drawings"
    dataset = scan_dataset(config.dataset, config.caption)
    assert by_name(dataset)["drawings"].treatment.masks == tmp_path / "masks"


# -- masks


def test_masks_are_found_by_folder_and_name(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png", "1_fox/b.png", "1_cat/a.png")
    masks = make(tmp_path / "masks", "1_fox/a.png", "1_fox/b.png", "1_fox/c.png", "of cats/a.png")
    own = {"image_dir": root / "1_cat", "conditioning_data_dir": masks / "of cats"}
    dataset = scan(root, own, conditioning_data_dir=masks)
    assert {(image.folder, image.path.name): image.mask_path for image in dataset.images} == {
        ("1_fox", "a.png"): masks / "1_fox" / "a.png",
        ("1_fox", "b.png"): masks / "1_fox" / "b.png",
        ("1_cat", "a.png"): masks / "of cats" / "a.png",
    }
    assert all(folder.treatment.is_masked for folder in dataset.folders)
    assert {finding.rule for finding in dataset.findings} == {"caption-missing"}


def test_a_mask_has_the_stem_of_its_picture_and_any_ending(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png", "1_fox/a.txt")
    (tmp_path / "masks" / "1_fox").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "masks" / "1_fox" / "a.webp")
    (image,) = scan(root, conditioning_data_dir=tmp_path / "masks").images
    assert image.mask_path == tmp_path / "masks" / "1_fox" / "a.webp"


def test_missing_masks_are_named(tmp_path: Path) -> None:
    names = [f"1_fox/{number}.{ending}" for number in range(8) for ending in ("png", "txt")]
    root = make(tmp_path / "train", *names)
    masks = make(tmp_path / "masks", "1_fox/3.png")
    dataset = scan(root, conditioning_data_dir=masks)
    (finding,) = dataset.findings
    assert (finding.rule, finding.severity) == ("mask-missing", "warning")
    assert "7 of 8 pictures without a mask" in finding.message and "0.png, 1.png" in finding.message
    assert "they count as a whole" in finding.message
    refuse_errors(dataset)
    assert [image.mask_path is not None for image in dataset.images].count(True) == 1


def test_a_folder_of_masks_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png", "1_fox/a.txt", "1_cat/a.png", "1_cat/a.txt")
    masks = make(tmp_path / "masks", "1_fox/a.png")
    dataset = scan(root, conditioning_data_dir=masks)
    (finding,) = dataset.findings
    assert (finding.rule, finding.severity, finding.path) == ("masks-unreadable", "error", masks / "1_cat")
    with pytest.raises(LoratoryError, match=r"1_cat: the folder of its masks, .*1_cat, cannot be read"):
        refuse_errors(dataset)


def test_a_damaged_mask_is_an_error_before_training(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png", "1_fox/a.txt")
    masks = make(tmp_path / "masks", "1_fox/a.png")
    (masks / "1_fox" / "a.png").write_bytes(b"")
    (masks / "1_fox" / "other.png").write_bytes(b"")  # of no picture
    (finding,) = scan(root, conditioning_data_dir=masks).findings
    assert (finding.rule, finding.severity, finding.path) == ("mask-unreadable", "error", masks / "1_fox" / "a.png")
    assert "1_fox: its mask" in finding.message and "0 bytes" in finding.message


def test_a_regularization_set_needs_no_masks_but_may_have_them(tmp_path: Path) -> None:
    root = make(tmp_path / "train", "1_fox/a.png", "1_fox/a.txt")
    reg = make(tmp_path / "reg", "1_animal/a.png", "1_plant/a.png")
    masks = make(tmp_path / "masks", "1_fox/a.png", "1_plant/a.png")
    dataset = scan(root, reg_data_dir=reg, conditioning_data_dir=masks)
    assert not dataset.findings
    found = {image.folder: image.mask_path for image in dataset.images}
    assert found == {"1_fox": masks / "1_fox/a.png", "1_animal": None, "1_plant": masks / "1_plant/a.png"}


# -- held back


def test_each_folder_gives_its_own_share(tmp_path: Path) -> None:
    def pictures(name: str, count: int) -> list[str]:
        return [f"{name}/{index:02d}.png" for index in range(count)]

    names = {"1_fox": 10, "1_cat": 4, "1_owl": 1, "1_hen": 3}
    root = make(tmp_path / "train", *(path for name, count in names.items() for path in pictures(name, count)))
    reg = make(tmp_path / "reg", *pictures("1_animal", 8))
    own = [
        {"image_dir": root / "1_cat", "validation_split": 0.5},
        {"image_dir": root / "1_hen", "validation_split": 0.99},
    ]
    dataset = scan(root, *own, reg_data_dir=reg, validation_split=0.25)
    train, held_back = split_validation(dataset.folders, seed=3)
    counts = {name: [image.folder for image in held_back].count(name) for name in (*names, "1_animal")}
    # 2.5 rounds up; one picture stays to be trained.
    assert counts == {"1_fox": 3, "1_cat": 2, "1_owl": 0, "1_hen": 2, "1_animal": 0}
    assert sorted(image.path for image in (*train, *held_back)) == sorted(image.path for image in dataset.images)
    order = {image.path: position for position, image in enumerate(dataset.images)}
    for part in (train, held_back):
        assert [order[image.path] for image in part] == sorted(order[image.path] for image in part)
    assert split_validation(dataset.folders, seed=3) == (train, held_back)
    assert any(split_validation(dataset.folders, seed=seed)[1] != held_back for seed in range(4, 8))


def test_one_folder_does_not_disturb_the_choice_in_another(tmp_path: Path) -> None:
    root = make(tmp_path / "train", *(f"1_fox/{index}.png" for index in range(9)), "1_owl/a.png", "1_owl/b.png")
    whole = split_validation(scan(root, validation_split=0.4).folders, seed=1)[1]
    alone = split_validation(scan(None, {"image_dir": root / "1_fox"}, validation_split=0.4).folders, seed=1)[1]
    assert [image.path.name for image in alone] == [image.path.name for image in whole if image.folder == "1_fox"]


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for root in ("set", "more", "reg"):
        make_set(tmp_path / root, {"2_fox": 2})
    dataset = DatasetSettings.model_validate(
        {
            "train_data_dir": str(tmp_path / "set"),
            "reg_data_dir": str(tmp_path / "reg"),
            "subsets": [{"image_dir": str(tmp_path / "more" / "2_fox")}],
        }
    )
    found = scan_dataset(dataset, CaptionSettings())
    assert [folder.name for folder in found.folders] == ["2_fox", "reg/2_fox", "more/2_fox"]
    assert len({(image.folder, image.path.name) for image in found.images}) == 6


def test_a_mask_of_another_shape_is_named(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"2_fox": 1})
    (tmp_path / "masks" / "2_fox").mkdir(parents=True)
    Image.new("L", (30, 64)).save(tmp_path / "masks" / "2_fox" / "00.png")
    settings = {"train_data_dir": str(tmp_path / "set"), "conditioning_data_dir": str(tmp_path / "masks")}
    found = scan_dataset(DatasetSettings.model_validate(settings), CaptionSettings()).findings
    assert [finding.rule for finding in found] == ["mask-shape"]
    assert "30x64 px" in found[0].message


def test_a_subset_is_not_the_folder_of_folders(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"2_fox": 1})
    settings = {"train_data_dir": str(tmp_path / "set"), "subsets": [{"image_dir": str(tmp_path / "set")}]}
    with pytest.raises(LoratoryError, match="holds the concept folders"):
        scan_dataset(DatasetSettings.model_validate(settings), CaptionSettings())
