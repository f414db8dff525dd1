"""A build from beginning to end: look, choose what is open, make, and let the captions follow."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
from loratory.preparation.look import look_at
from loratory.preparation.manifest import Look, Manifest, Record, Stamp, stamp_of
from loratory.preparation.naming import natural_name
from loratory.preparation.places import STATE, Original
from loratory.preparation.plan import Plan, duplicates, no_longer_true, take_turns
from loratory.preparation.planner import Planner
from loratory.preparation.shelf import Shelf, follow_renamed

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
    plans: list[Plan] = field(default_factory=list[Plan])
    stamps: dict[str, Stamp] = field(default_factory=dict[str, Stamp])
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
    arranged = Arranged(shelf, unreadable=[*shelf.unreadable])
    if shelf.problem is not None:
        raise shelf.problem
    records = manifest.of_folder(shelf.key)
    chosen_ones = [one for one in shelf.originals.values() if names is None or one.name in names]
    if shelf.adopted:
        plain = {one.name for one in chosen_ones if one.name in records and shelf.book.recipe_of(one.name) == Recipe()}
        arranged.released = [(records[name], shelf.originals[name]) for name in sorted(plain)]
        # Given back by a process that died before their captions were done.
        arranged.released += [
            (record, Original(name, shelf.folder / name, (manifest.root / name).parent))
            for name, record in sorted(records.items())
            if name not in shelf.originals and record.done == adopt.AS_IT_IS and (names is None or name in names)
        ]
        chosen_ones = [one for one in chosen_ones if one.name not in plain]
    finished = {record.name for record, _ in arranged.released}
    arranged.gone = [
        record
        for name, record in records.items()
        if name not in shelf.originals
        and name not in finished
        and (names is None or name in names)
        # Whether they are gone is not known where the folder cannot be read.
        and not any((shelf.folder / name).is_relative_to(folder) for folder, _ in shelf.unreadable)
    ]
    recipes = dict(shelf.book.recipes)
    looks: dict[str, Look] = {}
    to_see: dict[Path, str] = {}
    for original in chosen_ones:
        record, stamp = records.get(original.name), stamp_of(original.path)
        if record is not None and record.stamp == stamp and record.look.format:
            looks[original.name], arranged.stamps[original.name] = record.look, record.stamp
        elif shelf.book.recipe_of(original.name).skip:
            looks[original.name] = record.look if record is not None else _UNSEEN
            arranged.stamps[original.name] = stamp or (0, 0, 0)
        else:
            to_see[original.path] = original.name
    for number, (path, seen) in enumerate(mapped(look_at, to_see, workers=options.workers, stop=stop), 1):
        name = to_see[path]
        looking(number, len(to_see), name)
        if isinstance(seen, Failure):
            arranged.unreadable.append((path, seen.reason))
        elif isinstance(seen, str):
            arranged.unreadable.append((path, seen))
        else:
            looks[name], arranged.stamps[name] = seen
    ready = [one for one in chosen_ones if one.name in looks]
    if options.dedupe:
        arranged.doubles = duplicates(ready, recipes, looks)
        recipes |= {name: replace(shelf.book.recipe_of(name), skip=True) for name in arranged.doubles}
    arranged.chosen = take_turns(ready, recipes, looks, shelf.book.defaults)
    recipes |= arranged.chosen
    planner = Planner(manifest, shelf, recipes)
    for original in ready:
        recipe = recipes.get(original.name) or Recipe()
        try:
            plan, name = planner.plan(original, recipe, looks[original.name])
        except LoratoryError as error:
            arranged.unreadable.append((original.path, error.message))
            continue
        if name:
            # Written down, so that pictures that come later take no name away.
            arranged.chosen[original.name] = replace(recipe, name=name)
            plan = replace(plan, recipe=arranged.chosen[original.name])
            if original.name not in planner.named:
                taken = recipe.name or natural_name(original)
                arranged.notes.append(
                    f"{shown(original.name)} becomes {shown(name)}: another picture is called {shown(taken)}."
                )
        arranged.plans.append(plan)
    return arranged


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
                remove_leftovers(arranged.plans)
                build.run(arranged.plans, arranged.stamps, progress, stop, options.workers)
                _note_formats(arranged, report)
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
    lost = {
        record.name: record
        for record in manifest.records.values()
        if record.folder != shelf.key and not record.folder.startswith(STATE) and not (root / record.folder).is_dir()
    }
    for name, record in lost.items():
        original = shelf.originals.get(name)
        if original is not None and (shelf.key, name) not in manifest.records:
            stamp = stamp_of(original.path)
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


def _note_formats(arranged: Arranged, report: Report) -> None:
    made = set(report.made)
    now = [plan for plan in arranged.plans if made.intersection(plan.targets)]
    if any(plan.look.format == "WEBP" and plan.format != "WEBP" for plan in now):
        report.notes.append("WebP became PNG or JPEG; trainers of today read WebP too (--format keep leaves it).")
    moving = sum(plan.look.frames > 1 for plan in now)
    if moving:
        report.notes.append(f"Of {pictures(moving)} that move, or have several pages, the first frame was taken.")


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
    root: Path, manifest: Manifest, done: Iterable[tuple[Arranged, Build]], options: Options, report: Report
) -> None:
    """Brings the captions of everything that was built in line, as one batch."""
    extension = caption_extension(root)
    plans = {(arranged.shelf.key, plan.original.name): plan for arranged, _ in done for plan in arranged.plans}
    released = {record.key: original for arranged, _ in done for record, original in arranged.released}
    gone = {record.key for arranged, _ in done for record in arranged.gone} if options.prune else set[tuple[str, str]]()

    def wanted_of(record: Record) -> Wanted | None:
        if record.key in gone:
            there = any((root / output.path).exists() for output in record.outputs)
            return None if there else Wanted(None, (), gone=True)
        outputs = tuple(output.path for output in record.outputs)
        if record.key in released:
            is_back = record.done == adopt.AS_IT_IS
            return Wanted(caption_of(released[record.key].path, extension), outputs) if is_back else None
        plan = plans.get(record.key)
        if plan is None or dict(record.done) != dict(plan.done):
            return None
        source = caption_of(plan.original.path, extension)
        return Wanted(source, outputs, record.tags, no_longer_true(plan))

    keys = [*plans, *released, *gone]
    records = [manifest.records[key] for key in keys if key in manifest.records]
    plan, failed = plan_captions(root, records, wanted_of, extension, manifest.records.values())
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
