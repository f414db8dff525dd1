"""A folder of concept folders, in the layout of sd-scripts, as plain data; what is odd about it becomes
findings."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from loratory.config.schema import CaptionSettings, DatasetSettings, SubsetSettings
from loratory.dataset.companions import find_masks, read_captions
from loratory.dataset.findings import Finding, shown
from loratory.dataset.listing import (
    IMAGE_EXTENSIONS,
    Listing,
    count_images,
    extension,
    is_text,
    list_folder,
    parse_folder_name,
    pictures,
    some_names,
    stem,
)
from loratory.dataset.renaming import recover_renaming
from loratory.dataset.root import find_root
from loratory.dataset.treatment import Treatment, treatment_of
from loratory.errors import LoratoryError
from loratory.imaging.pixels import UnreadablePicture, picture_size

# Pictures people do put into such folders, and that no trainer of this family reads.
_OTHER_PICTURES = frozenset({".gif", ".tif", ".tiff", ".jxl", ".heic", ".heif", ".jfif", ".psd", ".svg"})

_ERRORS_SHOWN = 20
# More is a mistake (a date before the underscore), and would fill the memory with one epoch.
_MOST_REPEATS = 10_000


@dataclass(frozen=True)
class TrainImage:
    """One picture of a concept folder.

    folder: name of its folder, e.g. "10_fox". class_tokens: the folder's name after the first underscore.
    size: (width, height) in px, upright. caption: the lines of its caption file, or class_tokens where it has
    none. mask_path: its mask picture, where there is one.
    """

    path: Path
    folder: str
    class_tokens: str
    repeats: int
    size: tuple[int, int]
    caption: str
    caption_path: Path | None
    is_reg: bool
    treatment: Treatment
    mask_path: Path | None = None


@dataclass(frozen=True)
class ConceptFolder:
    """A folder `N_name`: each of its pictures is visited N times an epoch. Pictures are sorted by file name.

    name: that of the folder, made unique among all.
    """

    path: Path
    name: str
    repeats: int
    class_tokens: str
    is_reg: bool
    images: tuple[TrainImage, ...]
    treatment: Treatment


@dataclass(frozen=True)
class Dataset:
    """Concept folders sorted by name, training before regularization, folders from elsewhere last; what was found."""

    folders: tuple[ConceptFolder, ...]
    findings: tuple[Finding, ...]

    @cached_property
    def images(self) -> tuple[TrainImage, ...]:
        """All pictures, folder by folder: the order that indices into the dataset refer to."""
        return tuple(image for folder in self.folders for image in folder.images)


def scan_dataset(dataset: DatasetSettings, caption: CaptionSettings) -> Dataset:
    """Reads `train_data_dir`, `reg_data_dir` and `subsets`: names, picture headers and captions, no pixels.

    Pictures that cannot be read are left out and reported as error findings; `refuse_errors` turns those into
    an error. Raises LoratoryError when a folder cannot be used at all or there is nothing to train.
    """
    scan = _Scan(dataset, caption, _subsets_by_folder(dataset))
    train_dir, reg_dir = dataset.train_data_dir, dataset.reg_data_dir
    folders = [] if train_dir is None else _scan_root(train_dir, "train_data_dir", False, scan)
    if reg_dir is not None:
        if train_dir is not None and reg_dir.resolve() == train_dir.resolve():
            raise LoratoryError(
                f"dataset.reg_data_dir and dataset.train_data_dir are the same folder, {reg_dir}.",
                hint="Give regularization pictures a folder of their own, or leave reg_data_dir out.",
            )
        folders += _scan_root(reg_dir, "reg_data_dir", True, scan)
    known = {folder.path.resolve() for folder in folders}
    roots = {root.resolve() for root in (train_dir, reg_dir) if root is not None}
    for number, subset in enumerate(dataset.subsets, start=1):
        if subset.image_dir.resolve() in roots:
            raise LoratoryError(
                f"dataset.subsets[{number}].image_dir: {subset.image_dir} holds the concept folders.",
                hint="Name one of them there; what goes for all stands in [dataset] and [caption].",
            )
        if subset.image_dir.resolve() not in known:
            if not subset.image_dir.is_dir():
                raise LoratoryError(
                    f"dataset.subsets[{number}].image_dir: {subset.image_dir} is not a folder.",
                    hint="Check the spelling; a relative path counts from the folder of the settings file.",
                )
            folders.append(_scan_concept(subset.image_dir, False, scan))
    if not any(folder.images for folder in folders if not folder.is_reg):
        _refuse(scan.found)
        raise LoratoryError(
            "No picture to train was found: every folder is a regularization set, or empty.",
            hint="Give the pictures in dataset.train_data_dir or dataset.subsets.",
        )
    return Dataset(tuple(_told_apart(folders)), tuple(scan.found))


def _told_apart(folders: Sequence[ConceptFolder]) -> list[ConceptFolder]:
    """The folders, those with the same name as an earlier one named with the folder they lie in, or numbered."""
    apart: list[ConceptFolder] = []
    taken: set[str] = set()
    for folder in folders:
        name, number = folder.name, 1
        if name in taken:
            name = f"{folder.path.parent.name}/{folder.name}"
        while name in taken:
            number += 1
            name = f"{folder.path.parent.name}/{folder.name} ({number})"
        taken.add(name)
        apart.append(
            folder
            if name == folder.name
            else replace(folder, name=name, images=tuple(replace(image, folder=name) for image in folder.images))
        )
    return apart


def _subsets_by_folder(dataset: DatasetSettings) -> dict[Path, SubsetSettings]:
    by_folder: dict[Path, SubsetSettings] = {}
    for number, subset in enumerate(dataset.subsets, start=1):
        if by_folder.setdefault(subset.image_dir.resolve(), subset) is not subset:
            raise LoratoryError(
                f"dataset.subsets[{number}].image_dir: {subset.image_dir} has a subset already.",
                hint="Give each folder one [[dataset.subsets]] table.",
            )
    return by_folder


@dataclass
class _Scan:
    """What reading the folders needs, and what was found on the way. subsets: by resolved folder."""

    dataset: DatasetSettings
    caption: CaptionSettings
    subsets: dict[Path, SubsetSettings]
    found: list[Finding] = field(default_factory=list[Finding])


def refuse_errors(dataset: Dataset) -> None:
    """Raises one LoratoryError that lists the error findings of `dataset`, if it has any."""
    _refuse(dataset.findings)


def _refuse(findings: Iterable[Finding]) -> None:
    errors = [finding.message for finding in findings if finding.severity == "error"]
    if not errors:
        return
    lines = errors if len(errors) <= _ERRORS_SHOWN else errors[: _ERRORS_SHOWN - 1]
    if len(lines) < len(errors):
        lines = [*lines, f"and {len(errors) - len(lines)} more"]
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    raise LoratoryError(
        f"The dataset has {count}:\n" + "\n".join(f"  {line}" for line in lines),
        hint="Mend or remove these files, then start again.",
    )


def _scan_root(root: Path, key: str, is_reg: bool, scan: _Scan) -> list[ConceptFolder]:
    recover_renaming(find_root(root))  # a folder that is parked under another name would not be trained
    listing, found = _list_root(root, key), scan.found
    concepts: list[os.DirEntry[str]] = []
    ignored: list[str] = []
    for entry in listing.directories:
        if entry.name.startswith("."):
            continue
        _, _, problem = parse_folder_name(entry.name)
        if problem is None or Path(entry.path).resolve() in scan.subsets:
            concepts.append(entry)
            continue
        ignored.append(entry.name)
        count = count_images(entry)
        lost = f"; its {pictures(count)} will not be trained" if count else ""
        reason = (
            f"{shown(entry.name)}: ignored, because {problem}{lost}. Concept folders are named like 10_fox "
            "(repeats, underscore, token)."
        )
        found.append(Finding("folder-name", "warning" if count else "note", Path(entry.path), reason))
    if not concepts:
        raise _no_concepts(root, key, listing, ignored)
    if listing.images:
        names = some_names([entry.name for entry in listing.images])
        reason = (
            f"{root}: {pictures(len(listing.images))} directly inside ({names}) will not be trained: only "
            "those in concept folders are."
        )
        found.append(Finding("loose-images", "warning", root, reason))
    before = len(found)
    folders = [_scan_concept(Path(entry.path), is_reg, scan) for entry in concepts]
    if not any(folder.images for folder in folders):
        _refuse(found[before:])
        names = some_names([entry.name for entry in concepts])
        raise LoratoryError(
            f"No picture found in the concept folders of {root} ({names}).",
            hint="Put png, jpg, webp, bmp or avif files directly inside them.",
        )
    return folders


def _list_root(root: Path, key: str) -> Listing:
    try:
        return list_folder(root)
    except FileNotFoundError as error:
        raise LoratoryError(
            f"dataset.{key}: {root} does not exist.",
            hint="Check the spelling; a relative path counts from the folder of the settings file.",
        ) from error
    except NotADirectoryError as error:
        raise LoratoryError(
            f"dataset.{key}: {root} is a file.", hint="Give the folder that holds the concept folders."
        ) from error
    except OSError as error:
        raise LoratoryError(
            f"dataset.{key}: {root} cannot be read ({error.strerror}).", hint="Check its permissions."
        ) from error


def _no_concepts(root: Path, key: str, listing: Listing, ignored: Sequence[str]) -> LoratoryError:
    name = root.resolve().name
    if listing.images and parse_folder_name(name)[2] is None:
        return LoratoryError(
            f"dataset.{key}: {root} is itself a concept folder ({pictures(len(listing.images))}).",
            hint=f"Give the folder that holds it: {root.resolve().parent}",
        )
    message = f"No concept folder found in {root}. Expected folders named like 10_fox (repeats, underscore, token)."
    if ignored:
        message += f" Found folders with other names: {some_names(ignored)}."
    if listing.images:
        message += f" Found {pictures(len(listing.images))} directly inside."
        return LoratoryError(message, hint=f"Move them into a folder like {root / '10_fox'}.")
    return LoratoryError(message, hint=f"Make a folder like {root / '10_fox'} and put the pictures into it.")


def _scan_concept(path: Path, is_reg: bool, scan: _Scan) -> ConceptFolder:
    where, found = shown(path.name), scan.found
    subset = scan.subsets.get(path.resolve())
    repeats, class_tokens, problem = parse_folder_name(path.name)
    if problem is not None:  # a subset's folder may have any name
        repeats, class_tokens = 1, path.name if is_text(path.name) else ""
    if subset is not None:
        repeats = subset.num_repeats or repeats
        class_tokens = class_tokens if subset.class_tokens is None else subset.class_tokens
        is_reg = is_reg if subset.is_reg is None else subset.is_reg
    treatment = treatment_of(path.name, scan.dataset, scan.caption, subset)
    try:
        listing = list_folder(path)
    except OSError as error:
        reason = f"{where}: cannot be read ({error.strerror}). Check its permissions."
        found.append(Finding("folder-unreadable", "error", path, reason))
        return ConceptFolder(path, path.name, repeats, class_tokens, is_reg, (), treatment)
    if repeats > _MOST_REPEATS:
        change = "Rename the folder" if subset is None or subset.num_repeats is None else "Lower num_repeats"
        reason = f"{where}: asks for {repeats} repeats of each picture. {change}; 1 to 100 is usual."
        found.append(Finding("repeats", "error", path, reason))
    found.extend(_folder_findings(path, listing))

    sizes: dict[str, tuple[int, int]] = {}
    for image in listing.images:
        # Names go into events and metadata, which are UTF-8: better refused here than hours later.
        if not is_text(image.name):
            reason = f"{where}/{shown(image.name)}: its name is not valid UTF-8. Rename it."
            found.append(Finding("file-name", "error", Path(image.path), reason))
            continue
        try:
            sizes[image.name] = picture_size(Path(image.path))
        except UnreadablePicture as error:
            reason = f"{where}/{shown(image.name)}: {error.reason}."
            found.append(Finding("image-unreadable", "error", Path(image.path), reason))
    names = frozenset(listing.names)
    # A regularization set needs no captions: its class is what it is there for.
    notes: list[Finding] = []
    captions = read_captions(path, class_tokens, list(sizes), names, treatment.caption, notes)
    found.extend(note for note in notes if not (is_reg and class_tokens and note.rule == "caption-missing"))
    masks = find_masks(path, sizes, treatment.masks, is_reg, found)
    images = tuple(
        TrainImage(
            path / name, path.name, class_tokens, repeats, size, text, caption_path, is_reg, treatment, masks.get(name)
        )
        for (name, size), (caption_path, text) in zip(sizes.items(), captions, strict=True)
    )
    return ConceptFolder(path, path.name, repeats, class_tokens, is_reg, images, treatment)


def _folder_findings(path: Path, listing: Listing) -> Iterator[Finding]:
    """What the names in one concept folder tell."""
    where = shown(path.name)
    if not listing.images:
        reason = f"{where}: no picture directly inside. Put png, jpg, webp, bmp or avif files there."
        yield Finding("empty-folder", "warning", path, reason)
    others = [name for name in listing.names if extension(name) in _OTHER_PICTURES]
    if others:
        reason = (
            f"{where}: {pictures(len(others))} of another format ({some_names(others)}) will not be "
            "trained. Convert to PNG, JPEG or WebP."
        )
        yield Finding("image-format", "warning", path, reason)
    for directory in listing.directories:
        count = 0 if directory.name.startswith(".") else count_images(directory)
        if count:
            reason = (
                f"{where}/{shown(directory.name)}: {pictures(count)} will not be trained, because folders "
                f"inside a concept folder are not read. Move them up into {where}."
            )
            yield Finding("nested-folder", "warning", Path(directory.path), reason)
        elif extension(directory.name) in IMAGE_EXTENSIONS:
            reason = (
                f"{where}/{shown(directory.name)}: is no picture, as its name says, but a folder. Get the picture anew."
            )
            yield Finding("nested-folder", "warning", Path(directory.path), reason)
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for image in listing.images:
        by_stem[stem(image.name)].append(image.name)
    for shared, names in by_stem.items():
        if len(names) > 1:
            reason = (
                f"{where}: {' and '.join(map(shown, names))} share one caption file, {shown(shared)}.*. Rename "
                "all but one of them."
            )
            yield Finding("stem-clash", "warning", path / names[1], reason)
