"""Pictures that lie in a training folder already: their originals are put aside when their first recipe is written, and
come back, byte for byte, when it is gone.

The original is linked, not moved, where the disk can do that: what is built takes its place later, and until then the
folder is as it was. The caption is copied beside it, as it is at that moment.
"""

import errno
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from loratory.atomic import replacing, write_bytes
from loratory.dataset.listing import stem
from loratory.errors import FAILED, LoratoryError
from loratory.preparation.captions import caption_file, caption_files
from loratory.preparation.look import look_at
from loratory.preparation.manifest import Manifest
from loratory.preparation.places import ORIGINALS, STATE, Original, find_pictures, recipe_name
from loratory.preparation.record import Carried, Look, Output, Record, digest_if_readable, stamp_of, text_of
from loratory.tags.files import read_caption_bytes

_NOTHING_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

# `Record.done` of what is still as it was.
AS_IT_IS = {"as it is": True}


def adopt(root: Path, manifest: Manifest, picture: Path, extension: str) -> str:
    """Puts the original of a picture of the dataset at `root` aside; its name in the recipes.

    Nothing happens to one that is aside already. Raises OSError for a picture with which it cannot be done, and
    LoratoryError for a disk that takes nothing more.
    """
    below = picture.relative_to(root)
    name = recipe_name(below.parent.as_posix() if below.parent.parts else "", below.name)
    if (ORIGINALS, name) in manifest.records:
        return name
    original = root / ORIGINALS / below
    try:
        original.parent.mkdir(parents=True, exist_ok=True)
        _put_aside(picture, original)
        carried = _carry(root, manifest, caption_file(picture, extension), original)
        stamp = stamp_of(original) or (0, 0, 0)
        look = _look(original)
        path = below.as_posix()
        outputs = (Output(path, look.digest, stamp_of(picture) or stamp),)
        manifest.put(Record(ORIGINALS, name, stamp, look, AS_IT_IS, outputs, captions=carried))
    except OSError as error:
        if error.errno not in _NOTHING_MORE:
            raise
        raise LoratoryError(
            f"The original of {picture} cannot be put aside in {root / STATE} ({error.strerror}); it was not changed.",
            hint="Check the permissions of the folder and the space on the disk.",
            exit_code=FAILED,
        ) from error
    return name


def recover(root: Path, manifest: Manifest) -> None:
    """Ends what a process left that died before the manifest told of an original it put aside."""
    aside = root / ORIGINALS
    if not aside.is_dir():
        return
    for below, original in list(find_pictures(aside)):
        picture = root / below / original.name
        if (ORIGINALS, recipe_name(below, original.name)) in manifest.records:
            continue
        with suppress(OSError):
            if not os.path.lexists(picture):
                original.replace(picture)
            elif _are_one(picture, original) or (digest_if_readable(picture) == digest_if_readable(original) != ""):
                original.unlink()


def give_back(root: Path, manifest: Manifest, record: Record, original: Original) -> str:
    """Moves an original back to its place; "" when it is there, else why it is not.

    What was made of it has to be gone from there, or ours. The record stays, as one whose picture is as it is, until
    its caption is done and `forget` is called. Raises OSError as the disk does.
    """
    target = original.folder / original.path.name
    path = target.relative_to(root).as_posix()
    if not os.path.lexists(original.path):
        return ""
    known = {output.path: output for output in record.outputs}
    disk = digest_if_readable(target)
    was = known.get(path)
    if os.path.lexists(target) and disk != record.look.digest and not (was and disk in (was.digest, *was.earlier)):
        return "another picture is in its place"
    stamp = stamp_of(original.path) or (0, 0, 0)
    earlier = (disk,) if disk else ()
    outputs = (Output(path, record.look.digest, stamp, earlier),)
    manifest.put(replace(record, done=AS_IT_IS, outputs=outputs, tags=()))
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target) and _are_one(original.path, target):
        original.path.unlink()  # a rename between two names of one file does nothing
    else:
        original.path.replace(target)
    return ""


def forget(root: Path, manifest: Manifest, record: Record, original: Original, extension: str) -> None:
    """Ends the adoption of a picture that was given back: its copied caption and its record go."""
    for caption in caption_files(original.path, extension):
        sharing = [
            other
            for other in original.path.parent.iterdir()
            if stem(other.name) == stem(original.path.name) and other.suffix != caption.suffix
        ]
        if not sharing:
            caption.unlink(missing_ok=True)
    manifest.drop(record.key)
    folder = original.path.parent
    while folder != root / STATE:
        with suppress(OSError):  # not empty, or gone
            folder.rmdir()
        folder = folder.parent


def _carry(root: Path, manifest: Manifest, caption: Path, original: Path) -> dict[str, Carried]:
    """Copies the caption of a picture beside its original; what the record tells of it."""
    path = caption.relative_to(root).as_posix()
    aside = original.with_name(caption.name)
    data = read_caption_bytes(caption)
    if data is None:
        return {}
    names = {other.name for other in original.parent.iterdir() if stem(other.name) == stem(original.name)}
    below = original.parent.relative_to(root / ORIGINALS).as_posix()
    sharing = [
        record
        for name in sorted(names - {original.name})
        if (record := manifest.records.get((ORIGINALS, recipe_name("" if below == "." else below, name)))) is not None
    ]
    # Of another picture with the same caption, which tells by now what was done to the other one.
    told = next((record.captions[path] for record in sharing if path in record.captions), None)
    if told is not None and not told.is_from_source:
        return {}
    if sharing and (copied := read_caption_bytes(aside)) is not None:
        return {path: Carried(text_of(copied) if told is None else told.text, is_from_source=True)}
    write_bytes(aside, data)
    return {path: Carried(text_of(data), is_from_source=True)}


def _put_aside(picture: Path, original: Path) -> None:
    if os.path.lexists(original):
        if _are_one(picture, original) or digest_if_readable(picture) == digest_if_readable(original) != "":
            return  # a process died between this and the line in the manifest
        raise OSError(errno.EEXIST, "another original of this name is there already", str(original))
    if picture.is_symlink():
        # Seen from where it lies now, a relative target would be another.
        original.symlink_to(os.path.join(os.path.dirname(picture), os.readlink(picture)))  # noqa: PTH115, PTH118, PTH120
        return
    try:
        os.link(picture, original)
    except OSError:
        try:
            with replacing(original) as temporary:
                shutil.copy2(picture, temporary)
        except PermissionError:
            picture.replace(original)  # it may not even be read, but the folder may be written


def _look(original: Path) -> Look:
    seen = look_at(original)
    return Look(digest_if_readable(original), "", (1, 1)) if isinstance(seen, str) else seen[0]


def _are_one(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except OSError:
        return False
