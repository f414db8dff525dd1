"""The files that go with the pictures of a folder: captions and masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from loratory.config.schema import CaptionSettings
from loratory.dataset.captions import CaptionFile, read_caption
from loratory.dataset.findings import Finding, shown
from loratory.dataset.listing import CAPTION_EXTENSIONS, list_folder, pictures, some_names, stem
from loratory.imaging.pixels import UnreadablePicture, picture_size


def read_captions(
    folder: Path,
    class_tokens: str,
    image_names: Sequence[str],
    names: frozenset[str],
    settings: CaptionSettings,
    found: list[Finding],
) -> list[tuple[Path | None, str]]:
    """(caption file or None, caption) of each picture of a folder; `names` are all files in it.

    What tends to be true of many files at once becomes one finding for the folder.
    """
    captions: list[tuple[Path | None, str]] = []
    missing: list[str] = []
    elsewhere: list[str] = []
    many_lines: list[str] = []
    instead = f"“{class_tokens}” from the folder's name" if class_tokens else "no text at all"
    for image_name in image_names:
        base = stem(image_name)
        name = base + settings.caption_extension
        if name not in names:
            others = [base + extension for extension in CAPTION_EXTENSIONS if base + extension in names]
            if others:
                elsewhere.append(others[0])
            else:
                missing.append(image_name)
            captions.append((None, class_tokens))
            continue
        path = folder / name
        where = f"{shown(folder.name)}/{shown(name)}"
        try:
            caption = read_caption(path)
        except OSError as error:
            reason = f"{where}: cannot be read ({error.strerror}). Check its permissions."
            found.append(Finding("caption-unreadable", "error", path, reason))
            captions.append((path, ""))
            continue
        captions.append((path, caption.text))
        if caption.problem is not None:
            found.append(_caption_finding(path, where, caption, instead))
        if "\n" in caption.text:
            many_lines.append(name)

    folder_name = shown(folder.name)
    if elsewhere:
        reason = (
            f"{folder_name}: {some_names(elsewhere)} {'exists' if len(elsewhere) == 1 else 'exist'} but "
            f"caption_extension is {settings.caption_extension}, so {pictures(len(elsewhere))} would be "
            f"trained on {instead}. Set caption.caption_extension."
        )
        found.append(Finding("caption-extension", "warning", folder, reason))
    if missing:
        reason = (
            f"{folder_name}: {len(missing)} of {pictures(len(image_names))} without a "
            f"{settings.caption_extension} file ({some_names(missing)}): trained on {instead}."
        )
        found.append(Finding("caption-missing", "note" if class_tokens else "warning", folder, reason))
    if many_lines and not settings.enable_wildcard:
        reason = (
            f"{folder_name}: {some_names(many_lines)} {'has' if len(many_lines) == 1 else 'have'} several "
            "lines, of which only the first is trained. Join them, or set caption.enable_wildcard to draw "
            "one line per visit."
        )
        found.append(Finding("caption-lines", "warning", folder, reason))
    return captions


def _caption_finding(path: Path, where: str, caption: CaptionFile, instead: str) -> Finding:
    if caption.problem == "nul":
        reason = f"{where}: has NUL bytes, so it is not a text file. Save it as UTF-8."
        return Finding("caption-nul", "error", path, reason)
    if caption.problem == "empty":
        reason = (
            f"{where}: is empty, so the picture is trained without text. Write its tags, or delete the file "
            f"to train on {instead}."
        )
        return Finding("caption-empty", "warning", path, reason)
    reason = (
        f"{where}: is not UTF-8 and was read as {caption.encoding}. Check its accented letters and save it as UTF-8."
    )
    return Finding("caption-encoding", "warning", path, reason)


def find_masks(
    path: Path, sizes: Mapping[str, tuple[int, int]], masks: Path | None, is_reg: bool, found: list[Finding]
) -> dict[str, Path]:
    """The mask picture of each picture that has one: of the same stem, in the folder `masks`.

    sizes: (width, height) of each picture by its name. A regularization set needs no masks: what it is there to keep
    is the whole picture.
    """
    names = list(sizes)
    if masks is None or (is_reg and not masks.exists()):
        return {}
    where = shown(path.name)
    try:
        listing = list_folder(masks)
    except OSError as error:
        reason = f"{where}: the folder of its masks, {masks}, cannot be read ({error.strerror})."
        found.append(Finding("masks-unreadable", "error", masks, reason))
        return {}
    by_stem = {stem(entry.name): Path(entry.path) for entry in listing.images}
    for name, mask in ((name, by_stem[stem(name)]) for name in names if stem(name) in by_stem):
        try:
            size = picture_size(mask)
        except UnreadablePicture as error:
            found.append(Finding("mask-unreadable", "error", mask, f"{where}: its mask {mask}: {error.reason}."))
            continue
        (width, height), (of_width, of_height) = size, sizes[name]
        if abs(width * of_height - of_width * height) > 0.02 * of_width * height:
            reason = (
                f"{where}/{shown(name)}: its mask is {width}x{height} px, another shape than the picture's "
                f"{of_width}x{of_height}, and is stretched onto it. Make it anew from the picture."
            )
            found.append(Finding("mask-shape", "warning", mask, reason))
    missing = [name for name in names if stem(name) not in by_stem]
    if missing:
        reason = (
            f"{where}: {len(missing)} of {pictures(len(names))} without a mask in {masks} ({some_names(missing)}): "
            "they count as a whole."
        )
        found.append(Finding("mask-missing", "warning", path, reason))
    return {name: by_stem[stem(name)] for name in names if stem(name) in by_stem}
