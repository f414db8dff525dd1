"""Reading a dataset folder: what is taken, what is found, and what cannot be used at all."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from loratory.config.schema import CaptionSettings, DatasetSettings
from loratory.dataset.findings import Finding, shown
from loratory.dataset.scan import Dataset, refuse_errors, scan_dataset
from loratory.errors import LoratoryError


def png(width: int = 8, height: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def make(root: Path, *names: str) -> Path:
    """Creates files by their names: pictures get pixels, captions the text "a, b"."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a, b" if path.suffix in (".txt", ".caption", ".TXT") else png())
    return root


def scan(root: Path, reg: Path | None = None, **caption: Any) -> Dataset:
    return scan_dataset(DatasetSettings(train_data_dir=root, reg_data_dir=reg), CaptionSettings(**caption))


def only(dataset: Dataset) -> Finding:
    (finding,) = dataset.findings
    return finding


def test_a_clean_dataset(tmp_path: Path) -> None:
    make(tmp_path, "10_fox, animal/b.png", "10_fox, animal/b.txt", "10_fox, animal/a.PNG", "10_fox, animal/a.txt")
    (tmp_path / "10_fox, animal" / "b.png").write_bytes(png(30, 20))
    dataset = scan(tmp_path)
    assert dataset.findings == ()
    (folder,) = dataset.folders
    assert (folder.repeats, folder.class_tokens, folder.is_reg) == (10, "fox, animal", False)
    assert [image.path.name for image in dataset.images] == ["a.PNG", "b.png"]
    image = dataset.images[1]
    assert (image.folder, image.class_tokens, image.repeats) == ("10_fox, animal", "fox, animal", 10)
    assert (image.size, image.caption, image.is_reg) == ((30, 20), "a, b", False)
    assert image.path == tmp_path / "10_fox, animal" / "b.png"
    assert image.caption_path == tmp_path / "10_fox, animal" / "b.txt"


def test_every_extension_in_any_case(tmp_path: Path) -> None:
    names = ["a.png", "b.JPG", "c.jpeg", "d.WebP", "e.bmp", "f.AVIF", "g.Jpg"]
    make(tmp_path, *(f"1_x/{name}" for name in names), *(f"1_x/{name[0]}.txt" for name in names))
    assert [image.path.name for image in scan(tmp_path).images] == names


def test_order_is_by_bytes_and_training_comes_before_regularization(tmp_path: Path) -> None:
    train = make(tmp_path / "train", "2_b/ä.png", "2_b/Z.png", "2_b/a.png", "10_a/x.png", "2_B/x.png")
    reg = make(tmp_path / "reg", "1_animal/x.png")
    dataset = scan(train, reg)
    assert [(image.folder, image.path.name) for image in dataset.images] == [
        ("10_a", "x.png"),
        ("2_B", "x.png"),
        ("2_b", "Z.png"),
        ("2_b", "a.png"),
        ("2_b", "ä.png"),
        ("1_animal", "x.png"),
    ]
    assert [image.is_reg for image in dataset.images] == [False] * 5 + [True]
    assert [folder.is_reg for folder in dataset.folders] == [False] * 3 + [True]


@pytest.mark.parametrize(
    ("name", "repeats", "tokens"),
    [
        ("10_fox", 10, "fox"),
        ("1_charactertag, outfittag", 1, "charactertag, outfittag"),
        ("3_a_b_c", 3, "a_b_c"),
        ("07_fox", 7, "fox"),
        ("4_", 4, ""),
        ("4", 4, ""),
    ],
)
def test_folder_names(tmp_path: Path, name: str, repeats: int, tokens: str) -> None:
    (folder,) = scan(make(tmp_path, f"{name}/a.png")).folders
    assert (folder.repeats, folder.class_tokens) == (repeats, tokens)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fox", "whole number"),
        ("x_fox", "whole number"),
        ("1.5_fox", "whole number"),
        ("0_fox", "0 repeats"),
        ("-2_fox", "-2 repeats"),
    ],
)
def test_other_folders_are_ignored_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    dataset = scan(make(tmp_path, "1_x/a.png", "1_x/a.txt", f"{name}/a.png", f"{name}/b.png"))
    finding = only(dataset)
    assert (finding.rule, finding.severity, finding.path) == ("folder-name", "warning", tmp_path / name)
    assert reason in finding.message
    assert "2 pictures will not be trained" in finding.message
    assert len(dataset.images) == 1


def test_an_ignored_folder_without_pictures_is_only_a_note(tmp_path: Path) -> None:
    make(tmp_path, "1_x/a.png", "1_x/a.txt", "logs/notes.txt", ".cache/a.png")
    finding = only(scan(tmp_path))
    assert (finding.rule, finding.severity) == ("folder-name", "note")


def test_pictures_beside_and_below_concept_folders_are_reported(tmp_path: Path) -> None:
    make(tmp_path, "1_x/a.png", "1_x/a.txt", "loose.png", "1_x/more/b.png", "1_x/c.gif")
    dataset = scan(tmp_path)
    assert [image.path.name for image in dataset.images] == ["a.png"]
    messages = {finding.rule: finding.message for finding in dataset.findings}
    assert set(messages) == {"loose-images", "nested-folder", "image-format"}
    assert "1 picture directly inside (loose.png)" in messages["loose-images"]
    assert "1_x/more: 1 picture will not be trained" in messages["nested-folder"]
    assert "c.gif" in messages["image-format"]


def test_a_folder_with_the_name_of_a_picture_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "1_x/a.png", "1_x/a.txt")
    (tmp_path / "1_x" / "b.png").mkdir()
    finding = only(scan(tmp_path))
    assert (finding.rule, finding.severity, finding.path) == ("nested-folder", "warning", tmp_path / "1_x" / "b.png")
    assert finding.message.startswith("1_x/b.png: is no picture, as its name says, but a folder.")


def test_a_missing_caption_is_the_folder_name_and_one_note_a_folder(tmp_path: Path) -> None:
    make(tmp_path, *(f"1_fox/{number}.png" for number in range(8)), "1_fox/3.txt")
    dataset = scan(tmp_path)
    finding = only(dataset)
    assert (finding.rule, finding.severity) == ("caption-missing", "note")
    assert "7 of 8 pictures" in finding.message
    assert "0.png, 1.png, 2.png, 4.png, 5.png and 2 more" in finding.message
    assert dataset.images[0].caption == "fox"
    assert dataset.images[0].caption_path is None
    assert dataset.images[3].caption == "a, b"


def test_a_missing_caption_without_a_folder_name_is_a_warning(tmp_path: Path) -> None:
    dataset = scan(make(tmp_path, "1_/a.png"))
    assert only(dataset).severity == "warning"
    assert dataset.images[0].caption == ""


@pytest.mark.parametrize(("name", "extension"), [("001.caption", ".txt"), ("001.txt", ".caption"), ("001.TXT", ".txt")])
def test_captions_with_the_other_extension_are_pointed_out(tmp_path: Path, name: str, extension: str) -> None:
    dataset = scan(make(tmp_path, "1_fox/001.png", f"1_fox/{name}"), caption_extension=extension)
    finding = only(dataset)
    assert (finding.rule, finding.severity) == ("caption-extension", "warning")
    assert f"{name} exists but caption_extension is {extension}" in finding.message
    assert dataset.images[0].caption == "fox"


@pytest.mark.parametrize(
    ("data", "rule", "severity", "text"),
    [
        (b"", "caption-empty", "warning", ""),
        (b"caf\xe9", "caption-encoding", "warning", "café"),
        ("café".encode("utf-16"), "caption-encoding", "warning", "café"),
        (b"a\0b", "caption-nul", "error", "a\0b"),
    ],
)
def test_captions_that_need_attention(tmp_path: Path, data: bytes, rule: str, severity: str, text: str) -> None:
    make(tmp_path, "1_fox/a.png")
    path = tmp_path / "1_fox" / "a.txt"
    path.write_bytes(data)
    dataset = scan(tmp_path)
    finding = only(dataset)
    assert (finding.rule, finding.severity, finding.path) == (rule, severity, path)
    assert "1_fox/a.txt" in finding.message
    assert dataset.images[0].caption == text


def test_several_lines_are_a_finding_only_where_the_first_alone_is_trained(tmp_path: Path) -> None:
    make(tmp_path, "1_fox/a.png")
    (tmp_path / "1_fox" / "a.txt").write_text("one\ntwo\n")
    dataset = scan(tmp_path)
    assert (only(dataset).rule, only(dataset).severity) == ("caption-lines", "warning")
    assert dataset.images[0].caption == "one\ntwo"
    assert scan(tmp_path, enable_wildcard=True).findings == ()


def test_two_pictures_that_share_a_caption_file(tmp_path: Path) -> None:
    dataset = scan(make(tmp_path, "1_fox/a.png", "1_fox/a.jpg", "1_fox/a.txt"))
    finding = only(dataset)
    assert (finding.rule, finding.severity) == ("stem-clash", "warning")
    assert "a.jpg and a.png share" in finding.message
    assert len(dataset.images) == 2


def test_an_empty_concept_folder_is_a_finding(tmp_path: Path) -> None:
    make(tmp_path, "1_fox/a.png", "1_fox/a.txt")
    (tmp_path / "2_empty").mkdir()
    dataset = scan(tmp_path)
    assert (only(dataset).rule, only(dataset).path) == ("empty-folder", tmp_path / "2_empty")
    assert len(dataset.folders) == 2


def test_unreadable_pictures_are_errors_and_left_out(tmp_path: Path) -> None:
    make(tmp_path, "1_fox/ok.png", "1_fox/ok.txt")
    folder = tmp_path / "1_fox"
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("hello")
    (folder / "cut.png").write_bytes(png()[:20])
    (folder / "link.png").symlink_to(tmp_path / "nowhere.png")
    dataset = scan(tmp_path)
    assert [image.path.name for image in dataset.images] == ["ok.png"]
    assert {(finding.rule, finding.severity) for finding in dataset.findings} == {("image-unreadable", "error")}
    assert [finding.path.name for finding in dataset.findings if finding.path] == [
        "cut.png",
        "empty.png",
        "link.png",
        "text.jpg",
    ]
    with pytest.raises(LoratoryError) as caught:
        refuse_errors(dataset)
    message = caught.value.message
    assert "4 errors" in message
    assert all(name in message for name in ("empty.png", "text.jpg", "cut.png", "link.png"))
    assert "0 bytes" in message


def test_refusing_lists_at_most_twenty_lines(tmp_path: Path) -> None:
    def dataset_of(count: int) -> Dataset:
        return Dataset((), tuple(Finding("x", "error", None, f"file {number}") for number in range(count)))

    for count, lines in ((1, 1), (20, 20), (21, 20), (500, 20)):
        with pytest.raises(LoratoryError) as caught:
            refuse_errors(dataset_of(count))
        listed = caught.value.message.splitlines()[1:]
        assert len(listed) == lines
        assert (listed[-1].strip() == f"and {count - 19} more") == (count > 20)


def test_warnings_and_notes_are_not_refused(tmp_path: Path) -> None:
    dataset = scan(make(tmp_path, "1_fox/a.png", "1_fox/a.jpg"))
    assert dataset.findings
    refuse_errors(dataset)


def test_a_date_is_not_a_number_of_repeats(tmp_path: Path) -> None:
    finding = next(f for f in scan(make(tmp_path, "20240115_fox/a.png")).findings if f.severity == "error")
    assert finding.rule == "repeats"
    assert "20240115 repeats" in finding.message


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_text_are_errors(tmp_path: Path) -> None:
    make(tmp_path, "1_fox/a.png", "1_fox/a.txt")
    (tmp_path / "1_fox" / os.fsdecode(b"b\xff.png")).write_bytes(png())
    dataset = scan(tmp_path)
    assert len(dataset.images) == 1
    finding = only(dataset)
    assert (finding.rule, finding.severity) == ("file-name", "error")
    assert finding.message.encode()


def test_shown_names_are_one_printable_line() -> None:
    assert shown("狐 fox.png") == "狐 fox.png"
    assert shown("a\nb\x1b[31m.png") == "a\\nb\\x1b[31m.png"
    assert shown("\udcff") == "\\udcff"


def failure(root: Path, reg: Path | None = None) -> LoratoryError:
    with pytest.raises(LoratoryError) as caught:
        scan(root, reg)
    return caught.value


def test_loose_pictures_without_a_concept_folder(tmp_path: Path) -> None:
    root = make(tmp_path / "fox", "a.png", "b.png", "backup/c.png")
    error = failure(root)
    assert error.message == (
        f"No concept folder found in {root}. Expected folders named like 10_fox (repeats, underscore, token). "
        "Found folders with other names: backup. Found 2 pictures directly inside."
    )
    assert str(root / "10_fox") in error.hint


def test_an_empty_directory(tmp_path: Path) -> None:
    assert "No concept folder found" in failure(tmp_path).message


def test_a_concept_folder_given_instead_of_its_parent(tmp_path: Path) -> None:
    make(tmp_path, "10_fox/a.png")
    error = failure(tmp_path / "10_fox")
    assert "is itself a concept folder" in error.message
    assert str(tmp_path) in error.hint


def test_a_missing_directory_and_a_file(tmp_path: Path) -> None:
    assert "does not exist" in failure(tmp_path / "gone").message
    make(tmp_path, "a.png")
    assert "is a file" in failure(tmp_path / "a.png").message


def test_a_directory_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "1_fox/a.png", "1_owl/a.png", "1_owl/a.txt")
    # Refused by hand rather than by mode bits, which the superuser may ignore.
    listed = os.scandir
    closed = {tmp_path / "1_fox"}

    def scandir(path: Path) -> Any:
        if path in closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    finding = only(scan(tmp_path))
    assert (finding.rule, finding.severity) == ("folder-unreadable", "error")
    closed.add(tmp_path)
    assert "cannot be read (Permission denied)" in failure(tmp_path).message


def test_a_caption_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "1_fox/a.png", "1_fox/a.txt")

    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.suffix != ".txt":
            return read(path)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    finding = only(scan(tmp_path))
    assert (finding.rule, finding.severity) == ("caption-unreadable", "error")
    assert "1_fox/a.txt: cannot be read (Permission denied)" in finding.message


def test_concept_folders_without_a_picture(tmp_path: Path) -> None:
    (tmp_path / "1_fox").mkdir()
    assert "No picture found in the concept folders" in failure(tmp_path).message


def test_only_unreadable_pictures_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    make(tmp_path, "1_fox/notes.txt")
    (tmp_path / "1_fox" / "a.png").write_bytes(b"")
    assert "1_fox/a.png: the file is empty (0 bytes)" in failure(tmp_path).message


def test_regularization_errors_name_their_key(tmp_path: Path) -> None:
    train = make(tmp_path / "train", "1_fox/a.png")
    assert "dataset.reg_data_dir" in failure(train, tmp_path / "gone").message
    assert "same folder" in failure(train, train).message


def test_sizes_are_upright(tmp_path: Path) -> None:
    make(tmp_path, "1_fox/a.txt")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "1_fox" / "a.jpg", exif=exif)
    assert scan(tmp_path).images[0].size == (20, 40)


def test_no_pixel_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "1_fox/a.txt")
    noise = Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3))
    path = tmp_path / "1_fox" / "a.png"
    noise.save(path)
    path.write_bytes(path.read_bytes()[:200])

    def load(image: ImageFile.ImageFile) -> None:
        raise AssertionError(f"{image} was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert scan(tmp_path).images[0].size == (64, 64)
