"""A build from beginning to end: look, choose what is open, make, and let the captions follow."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event

from loratory.dataset.findings import shown
from loratory.dataset.listing import pictures
from loratory.errors import LoratoryError
from loratory.imaging.recipe import Recipe
from loratory.imaging.workers import Failure, mapped
from loratory.preparation import adopt, captions
from loratory.preparation.build import Build, Progress, Report, preparing, remove_leftovers
from loratory.preparation.captions import Wanted, caption_extension, caption_of, commit, plan_captions
from loratory.preparation.look import look_at_original
from loratory.preparation.manifest import Manifest
from loratory.preparation.naming import natural_name
from loratory.preparation.places import STATE, Original
from loratory.preparation.plan import duplicates, no_longer_true, take_turns
from loratory.preparation.planner import Looks, Planner, Plans
from loratory.preparation.record import Key, Look, Record, Stamp, stamp_of
from loratory.preparation.shelf import Shelf, follow_renamed, tokens_said

_UNSEEN = Look("", "", (1, 1))


@dataclass(frozen=True)
class Options:
    """force: what was changed by hand is made anew. prune: what was made of originals that are gone is removed. dedupe:
    of originals of the same bytes only the first is taken. workers: processes, None for one each core."""

    force: bool = False
    prune: bool = False
    dedupe: bool = False
    workers: int | None = None


@dataclass
class Arranged:
    """What is to be done with a shelf.

    chosen: recipes in which something open was chosen. doubles: name -> the first of the same bytes. unreadable:
    originals and why. released: adopted ones without a recipe by now. gone: what was made of originals that are not
    there any more.
    """

    shelf: Shelf
    plans: Plans
    chosen: dict[str, Recipe] = field(default_factory=dict[str, Recipe])
    doubles: dict[str, str] = field(default_factory=dict[str, str])
    unreadable: list[tuple[Path, str]] = field(default_factory=list[tuple[Path, str]])
    released: list[tuple[Record, Original]] = field(default_factory=list[tuple[Record, Original]])
    gone: list[Record] = field(default_factory=list[Record])
    notes: list[str] = field(default_factory=list[str])


def arrange(
    shelf: Shelf, manifest: Manifest, names: set[str] | None, options: Options, looking: Progress, stop: Event
) -> Arranged:
    """Looks at the originals of `names` (None: all) and settles what is open. Nothing is written."""
    if shelf.problem is not None:
        raise shelf.problem
    unreadable, notes = [*shelf.unreadable], list[str]()
    released: list[tuple[Record, Original]] = []
    records = manifest.of_folder(shelf.key)
    chosen_ones = [one for one in shelf.originals.values() if names is None or one.name in names]
    if shelf.adopted:
        plain = {one.name for one in chosen_ones if one.name in records and shelf.book.recipe_of(one.name) == Recipe()}
        released = [(records[name], shelf.originals[name]) for name in sorted(plain)]
        # Given back by a process that died before their captions were done.
        released += [
            (record, Original(name, shelf.folder, (manifest.root / name).parent))
            for name, record in sorted(records.items())
            if name not in shelf.originals and record.done == adopt.AS_IT_IS and (names is None or name in names)
        ]
        chosen_ones = [one for one in chosen_ones if one.name not in plain]
    finished = {record.name for record, _ in released}
    gone = [
        records[name]
        for name in records
        if name not in shelf.originals
        and name not in finished
        and (names is None or name in names)
        # Whether they are gone is not known where the folder cannot be read.
        and not any((shelf.folder / name).is_relative_to(folder) for folder, _ in shelf.unreadable)
    ]
    recipes = dict(shelf.book.recipes)
    seen: dict[str, tuple[Look, Stamp]] = {}
    to_see: list[Original] = []
    for original in chosen_ones:
        record, stamp = records.get(original.name), stamp_of(original.path)
        if record is not None and record.stamp == stamp and record.look.format:
            continue
        if shelf.book.recipe_of(original.name).skip:
            seen[original.name] = record.look if record is not None else _UNSEEN, stamp or (0, 0, 0)
        else:
            to_see.append(original)
    unseen = {original.name for original in to_see}
    for number, (original, look) in enumerate(mapped(look_at_original, to_see, workers=options.workers, stop=stop), 1):
        looking(number, len(to_see), original.name)
        if isinstance(look, Failure):
            unreadable.append((original.path, look.reason))
        elif isinstance(look, str):
            unreadable.append((original.path, look))
        else:
            seen[original.name] = look
            unseen.discard(original.name)
    ready = [one for one in chosen_ones if one.name not in unseen]
    looks = Looks(records, seen)
    doubles: dict[str, str] = {}
    if options.dedupe:
        doubles = duplicates(ready, recipes, looks.look)
        recipes |= {name: replace(shelf.book.recipe_of(name), skip=True) for name in doubles}
    chosen = take_turns(ready, recipes, looks.look, shelf.book.defaults)
    recipes |= chosen
    planner = Planner(manifest, shelf, recipes)
    plans = Plans(planner, recipes, looks)
    for original in ready:
        recipe = recipes.get(original.name) or Recipe()
        try:
            _, name = planner.plan(original, recipe, looks.look(original.name))
        except LoratoryError as error:
            unreadable.append((original.path, error.message))
            continue
        if name:
            # Written down, so that pictures that come later take no name away.
            recipes[original.name] = chosen[original.name] = replace(recipe, name=name)
            if planner.recorded_name(original.name) is None:
                taken = recipe.name or natural_name(original)
                notes.append(f"{shown(original.name)} becomes {shown(name)}: another picture is called {shown(taken)}.")
        plans.originals.append(original)
    return Arranged(shelf, plans, chosen, doubles, unreadable, released, gone, notes)


def work(
    root: Path,
    manifest: Manifest,
    shelves: Sequence[tuple[Shelf, set[str] | None]],
    options: Options,
    progress: Progress,
    looking: Progress,
    stop: Event,
) -> Report:
    """Builds the named originals of each shelf (None: all) into the dataset at `root`.

    Failures of single pictures are in the report. Raises LoratoryError where the dataset or the recipes cannot be
    written, or the disk is full; what was made by then stays.
    """
    report = Report()
    with preparing(root):
        manifest.read()
        follow_renamed(root, manifest)
        captions.recover(root, manifest)
        adopt.recover(root, manifest)
        done: list[tuple[Arranged, Build]] = []
        try:
            for shelf, names in shelves:
                _take_over(root, manifest, shelf)
                arranged = arrange(shelf, manifest, names, options, looking, stop)
                if stop.is_set():
                    report.stopped = True
                    break
                _write_choices(arranged, report)
                build = Build(root, manifest, shelf.key, options.force, report)
                done.append((arranged, build))
                remove_leftovers(arranged.plans, arranged.plans.originals)
                build.run(arranged.plans, progress, stop, options.workers)
                _give_back(root, manifest, arranged, build)
                if options.prune:
                    for record in arranged.gone:
                        build.remove(record)
                else:
                    report.gone += [root / output.path for record in arranged.gone for output in record.outputs]
        except BaseException:
            # Also after a full disk or a defect captions are to tell of the pictures that are there; what went wrong
            # first is what is told.
            with suppress(OSError, LoratoryError):
                _follow(root, manifest, done, options, report)
                manifest.compact()
            raise
        _follow(root, manifest, done, options, report)
        manifest.compact()
    return report


def _take_over(root: Path, manifest: Manifest, shelf: Shelf) -> None:
    """Has pictures whose folder of originals was renamed or moved belong to the one that now has them."""
    folders = {folder for folder, _ in manifest.records if folder != shelf.key and not folder.startswith(STATE)}
    moved = {folder for folder in folders if not (root / folder).is_dir()}
    lost = {name: folder for folder, name in manifest.records if folder in moved}
    for name, folder in lost.items():
        original = shelf.originals.get(name)
        if original is not None and (shelf.key, name) not in manifest.records:
            record, stamp = manifest.records[folder, name], stamp_of(original.path)
            if stamp is not None and stamp[1:2] == record.stamp[1:2]:
                manifest.put(replace(record, folder=shelf.key))
                manifest.drop(record.key)


def _write_choices(arranged: Arranged, report: Report) -> None:
    book = arranged.shelf.book
    if arranged.doubles:
        skipped = {name: replace(book.recipe_of(name), skip=True) for name in arranged.doubles}
        book.change(f"leave out {pictures(len(skipped))} that are there twice", skipped)
        report.notes += [
            f"{shown(name)} is left out: the same as {shown(first)}." for name, first in arranged.doubles.items()
        ]
    book.settle(arranged.chosen, with_the_change=arranged.shelf.adopted)
    report.failed += arranged.unreadable
    report.notes += arranged.notes


def _give_back(root: Path, manifest: Manifest, arranged: Arranged, build: Build) -> None:
    for record, original in arranged.released:
        target = original.folder / original.path.name
        for output in record.outputs:
            if root / output.path != target:
                build.remove(replace(record, outputs=(output,)))
        try:
            why = adopt.give_back(root, manifest, record, original)
        except OSError as error:
            build.report.failed.append((original.path, f"cannot be moved back ({error.strerror})"))
            continue
        if why:
            build.report.left_alone.append((target, why))
        elif record.done != adopt.AS_IT_IS:
            build.report.made.append(target)


def _follow(
    root: Path, manifest: Manifest, done: Sequence[tuple[Arranged, Build]], options: Options, report: Report
) -> None:
    """Brings the captions of everything that was built in line, as one batch."""
    extension = caption_extension(root)
    released = {record.key: original for arranged, _ in done for record, original in arranged.released}
    gone = {record.key for arranged, _ in done for record in arranged.gone} if options.prune else set[Key]()
    tokens = {arranged.shelf.key: tokens_said(arranged.shelf.book) for arranged, _ in done}

    def of_made(record: Record, plans: Plans, original: Original) -> Wanted | None:
        plan = plans.of(original)
        if dict(record.done) != dict(plan.done):
            return None
        source = caption_of(original.path, extension)
        return Wanted(source, _paths(record), record.tags, no_longer_true(plan), tokens=tokens[record.folder])

    def of_released(record: Record, original: Original) -> Wanted | None:
        is_back = record.done == adopt.AS_IT_IS
        return Wanted(caption_of(original.path, extension), _paths(record)) if is_back else None

    def of_gone(record: Record) -> Wanted | None:
        there = any((root / output.path).exists() for output in record.outputs)
        return None if there else Wanted(None, (), gone=True)

    def wishes() -> Iterator[tuple[Record, Callable[[], Wanted | None]]]:
        for arranged, _ in done:
            for original in arranged.plans.originals:
                record = manifest.records.get((arranged.shelf.key, original.name))
                if record is not None:
                    yield record, partial(of_made, record, arranged.plans, original)
        for key, original in released.items():
            if (record := manifest.records.get(key)) is not None:
                yield record, partial(of_released, record, original)
        for key in gone:
            if (record := manifest.records.get(key)) is not None:
                yield record, partial(of_gone, record)

    plan, failed = plan_captions(root, wishes(), extension, manifest.records.values())
    report.failed += failed
    label = f"prepare {pictures(len(report.made))}" if report.made else "captions follow their originals"
    report.captions = commit(root, manifest, plan, label)
    for key, original in released.items():
        record = manifest.records.get(key)
        if record is not None and record.done == adopt.AS_IT_IS and not original.path.exists():
            adopt.forget(root, manifest, record, original, extension)
    for key in gone:
        record = manifest.records.get(key)
        if record is not None and not any((root / output.path).exists() for output in record.outputs):
            manifest.drop(key)


def _paths(record: Record) -> tuple[str, ...]:
    return tuple(output.path for output in record.outputs)
