"""Captions follow their pictures: from beside the original to beside what was made of it, with the tags that tell what
was done.

What prepare would write if nobody edited anything is `carried` in the manifest. A change of it goes through the journal
as such, so that the journal merges it with whatever somebody made of the file meanwhile.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loratory.config.toml_files import read_toml
from loratory.dataset.listing import CAPTION_EXTENSIONS, parse_folder_name, stem
from loratory.errors import LoratoryError
from loratory.preparation.caption_steps import CaptionSteps, merged
from loratory.preparation.lines import encode as encode_json
from loratory.preparation.manifest import Manifest
from loratory.preparation.places import STATE, safe_name
from loratory.preparation.record import Carried, Record, bytes_of, read_captions, spelled, text_of
from loratory.tags.edits import Add, Remove
from loratory.tags.files import read_caption_bytes
from loratory.tags.journal import Change, Journal, Outcome
from loratory.tags.text import EMPTY, decode, encode, split_tags
from loratory.wording import typed

# What is true of a sheet of several figures, and not of one cut out of it.
SHEET_TAGS = ("multiple views", "reference sheet", "model sheet", "character sheet", "turnaround")
TRANSPARENT_TAGS = ("transparent background",)


@dataclass(frozen=True)
class Wanted:
    """What the captions of one original should come to.

    source: the caption beside the original, None for none. outputs: paths of the pictures made of it, below the root.
    added, removed: tags that tell what was done. gone: the original is, and will not come back. tokens: those that the
    pictures are said to be of, the instance and the class, () where nobody said.
    """

    source: bytes | None
    outputs: tuple[str, ...]
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    gone: bool = False
    tokens: tuple[str, ...] = ()


@dataclass
class CaptionPlan:
    """Changes of captions, and what the manifest will tell of them once they are written: `[[folder, name], captions]`
    of each record as JSON, which takes a fifth of the memory that the same as objects does."""

    changes: Sequence[Change] = ()
    carried: list[bytes] = field(default_factory=list[bytes])


def caption_extension(root: Path) -> str:
    """The extension that the dataset at `root` gives captions. Raises LoratoryError for settings beyond reading."""
    path = root / STATE / "dataset.toml"
    if not path.exists():
        return ".txt"
    caption = read_toml(path).get("caption", {})
    return str(caption.get("caption_extension", ".txt")) if isinstance(caption, dict) else ".txt"


def caption_of(picture: Path, extension: str) -> bytes | None:
    """The caption beside a picture, None where there is none. Raises OSError for one that cannot be read."""
    return read_caption_bytes(caption_file(picture, extension))


def caption_file(picture: Path, extension: str) -> Path:
    """The caption file of a picture: the first that trainers look for, or where it would be."""
    return next(iter(caption_files(picture, extension)), picture.with_name(stem(picture.name) + extension))


def caption_files(picture: Path, extension: str) -> list[Path]:
    """The caption files beside a picture, the one in use first."""
    endings = dict.fromkeys((extension, *CAPTION_EXTENSIONS))
    paths = [picture.with_name(stem(picture.name) + ending) for ending in endings]
    # os.path: Path.is_file raises for a name that gets too long with its ending.
    return [path for path in paths if os.path.isfile(path)]  # noqa: PTH113


def opening_tags(folder_name: str, said: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The instance and class tokens in a concept folder's name: "10_fox, mammal" and "10_fox mammal" have both.

    said: tokens that are known; where the folder has its name from them, they are what it means.
    """
    words = parse_folder_name(folder_name)[1]
    if said and words == safe_name(" ".join(said)):
        return said
    tags = split_tags(words)
    if len(tags) != 1:
        return tuple(tags[:2])
    return tuple(re.split(r"\s+", tags[0], maxsplit=1))


def rendered(wanted: Wanted, folder_name: str) -> bytes | None:
    """The caption of a picture as nobody has edited it yet.

    The original's, byte for byte where no tag is to be added or removed. Without one, and with tags to add, it begins
    with the tokens of the folder. Raises LoratoryError where its encoding lacks a character of a tag.
    """
    source, added = wanted.source, wanted.added
    if source is None:
        return encode(Add((*opening_tags(folder_name, wanted.tokens), *added)).apply(EMPTY)) if added else None
    before = decode(source)
    after = before if not wanted.removed else Remove(wanted.removed).apply(before)
    after = after if not added else Add(added).apply(after)
    return source if after == before else encode(after)


def plan_captions(
    root: Path,
    wishes: Iterable[tuple[Record, Callable[[], Wanted | None]]],
    extension: str,
    known: Collection[Record],
) -> tuple[CaptionPlan, list[tuple[Path, str]]]:
    """What becomes of the captions of records, and those that cannot be told, with the reason.

    wishes: records, with what is to become of their captions; None leaves them as they are. known: every record of the
    manifest.
    """
    plan, steps = CaptionPlan(), CaptionSteps(root, known)
    failed: list[tuple[Path, str]] = []
    for record, wish in wishes:
        try:
            wanted = wish()
            if wanted is not None:
                _plan_one(plan, steps, record, wanted, extension)
        except LoratoryError as error:
            failed.append((root / next(iter(record.captions), record.name), error.message))
        except OSError as error:
            path = Path(error.filename or root / next(iter(record.captions), record.name))
            failed.append((path, f"A caption cannot be made of it: {error.strerror}."))
    plan.changes = steps.changes()
    return plan, failed


def _plan_one(plan: CaptionPlan, steps: CaptionSteps, record: Record, wanted: Wanted, extension: str) -> None:
    root = steps.root
    names = {_caption_path(root, output, record.captions, extension): output for output in wanted.outputs}
    leaving = {path: carried for path, carried in record.captions.items() if path not in names}
    inherited = next(iter(leaving.items()), None)
    carried: dict[str, Carried] = {}
    for path in names:
        text = rendered(wanted, Path(path).parent.name)
        was, written = record.captions.get(path), None
        if was is not None and was.kept is None and wanted.source is None and was.is_from_source:
            # What was carried over stays when the caption beside the original is gone.
            carried[path] = was
            continue
        if was is not None and was.kept is not None:
            steps.enter(record, path, text, merged(bytes_of(was.text), text, bytes_of(was.kept)))
        elif was is not None:
            written = was.written
            if text != bytes_of(was.text):
                steps.stay(path, bytes_of(was.text), text)
        elif inherited is not None:
            # Edits of the caption that this one takes the place of go on in it.
            edited = merged(bytes_of(inherited[1].text), text, _now(root, *inherited))
            steps.enter(record, path, text, edited)
            written = None if edited == text else text_of(edited)
        elif text is not None:
            steps.enter(record, path, text, text)
        if text is not None or was is not None or written is not None:
            carried[path] = Carried(text_of(text), None, wanted.source is not None, written)
    for index, (path, old) in enumerate(leaving.items()):
        if old.kept is not None:
            # It is gone since long; a file of that name would be of another picture.
            if not names and not wanted.gone:
                carried[path] = old
            continue
        disk = read_caption_bytes(root / path)
        # Nobody has edited it since; else only what goes on in another file may go, or is kept here.
        ours = disk in (bytes_of(old.text), bytes_of(old.written))
        goes_on = index == 0 if names else not wanted.gone
        if disk is not None:
            before = disk if ours or goes_on else bytes_of(old.text)
            is_made = ours and not old.is_from_source
            steps.leave(record, path, before, bytes_of(old.text), wanted.source, is_made=is_made)
        if not names and not wanted.gone:
            carried[path] = replace(old, kept=text_of(disk))
    if carried != dict(record.captions):
        plan.carried.append(encode_json([record.key, spelled(carried)]))


def commit(root: Path, manifest: Manifest, plan: CaptionPlan, label: str) -> Outcome | None:
    """Writes a plan through the journal, and into the manifest what was written; None where nothing changes.

    A caption that was skipped stays as it was told before, so that the next run tries it again. Raises LoratoryError
    as the journal does.
    """
    if not plan.carried and not plan.changes:
        return None
    journal, outcome = Journal(root), None
    if plan.changes:
        batches = journal.batches()
        after = ((_below(change.path, root), text_of(change.after)) for change in plan.changes)
        # The names of captions may change hands: who does not know that they have would take one for another.
        later_than = batches[-1].id if batches else 0
        manifest.expect(label, later_than, plan.carried, after)
        outcome = journal.commit(label, plan.changes)
    skipped = {path for path, _ in outcome.skipped} if outcome else set[Path]()
    _note(root, manifest, (json.loads(told) for told in plan.carried), skipped)
    return outcome


def recover(root: Path, manifest: Manifest) -> None:
    """Ends what a process that died had begun to write of captions, and notes what it wrote.

    Raises LoratoryError where a batch of another kind is to be recovered first.
    """
    expected, journal = manifest.expected, Journal(root)
    pending = journal.pending()
    if pending is not None:
        if expected is None or pending.id <= expected["later_than"] or pending.label != expected["label"]:
            raise LoratoryError(
                f"A batch of {pending.count} captions in {root} was cut short ({pending.label}); nothing was changed.",
                hint=f"`loratory tag recover {typed(root)} --finish` completes it, `--roll-back` takes it back.",
            )
        journal.finish()
    if expected is None:
        return
    later = [one for one in journal.batches() if one.id > expected["later_than"] and one.label == expected["label"]]
    if later and later[0].state == "done":
        written = {change.path for change in journal.changes(later[0].id)}
        skipped = {
            root / path
            for path, after in expected["after"].items()
            if root / path not in written and read_caption_bytes(root / path) != bytes_of(after)
        }
        _note(root, manifest, expected["carried"], skipped)
    else:
        manifest.expect_nothing()


def _note(root: Path, manifest: Manifest, carried: Iterable[Any], skipped: set[Path]) -> None:
    """carried: of `CaptionPlan`, decoded."""
    for (folder, name), told in carried:
        record = manifest.records.get((str(folder), str(name)))
        captions = read_captions(told)
        if record is not None:
            kept = {path: one for path, one in record.captions.items() if root / path in skipped}
            now = {path: one for path, one in captions.items() if root / path not in skipped}
            manifest.put(replace(record, captions={**now, **kept}))
    if manifest.is_expecting:
        manifest.expect_nothing()


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _caption_path(root: Path, output: str, known: Mapping[str, Carried], extension: str) -> str:
    """The caption file of an output, below the root: the one it had, one that lies there, else a new one."""
    base = (root / output).parent / stem(Path(output).name)
    below = str(Path(output).parent / base.name)
    candidates = [below + ending for ending in dict.fromkeys((extension, *CAPTION_EXTENSIONS))]
    for candidate in candidates:
        if candidate in known:
            return candidate
    return next((one for one in candidates if os.path.exists(root / one)), candidates[0])  # noqa: PTH110 - as above


def _now(root: Path, path: str, carried: Carried) -> bytes | None:
    return read_caption_bytes(root / path) if carried.kept is None else bytes_of(carried.kept)
