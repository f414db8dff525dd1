"""The sections of the statistics as tables to look at."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loratory.config.schema.data import Goal
from loratory.dataset.goals import advised, judge_count
from loratory.dataset.stats import (
    BucketRow,
    Fused,
    Lean,
    Pair,
    Picture,
    Spread,
    TagCount,
)
from loratory.dataset.what_if import WhatIf
from loratory.tui.text import Glyphs
from loratory.tui.widgets.table import Column, Line, TableView

BALANCE = "Balance"
SECTIONS: tuple[str, ...] = (BALANCE, "Tags", "Pairs", "Exposure", "Buckets", "Sizes", "Bias", "Similar")

_PARTIAL = "a batch of fewer pictures weighs each of them more"


@dataclass(frozen=True)
class Group:
    """Pictures that belong together. what: why. pictures: their names."""

    what: str
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Figures:
    """All that the sections show, computed once for the set as it was.

    looked_at: pictures whose pixels were looked at, of so many. bucket_names: the pictures of each bucket, in the order
    of `buckets`.
    """

    pictures: tuple[Picture, ...] = ()
    tags: tuple[TagCount, ...] = ()
    pairs: tuple[Pair, ...] = ()
    fused: tuple[Fused, ...] = ()
    everywhere: tuple[str, ...] = ()
    buckets: tuple[BucketRow, ...] = ()
    bucket_names: tuple[tuple[str, ...], ...] = ()
    resolution: str = ""
    batch_size: int = 1
    sizes: tuple[Spread, ...] = ()
    leans: tuple[Lean, ...] = ()
    groups: tuple[Group, ...] = ()
    looked_at: int = 0
    with_tag: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


def balance_view(
    what_if: WhatIf, goal: Goal, folder_pictures: Mapping[str, tuple[str, ...]], glyphs: Glyphs
) -> TableView:
    """The concept folders with the repeats that are being tried, and what they would mean."""
    balance, epochs = what_if.balance, what_if.run_epochs
    columns = (
        Column("concept folder", "text"),
        Column("images"),
        Column("repeats"),
        Column("an epoch"),
        Column("share"),
        Column("", "bar"),
        Column(f"x {epochs} epochs"),
    )
    most = max(row.visits for row in balance.rows)
    lines: list[Line] = []
    for row in balance.rows:
        repeats = str(row.repeats) if row.repeats == row.before else f"{row.before} {glyphs.arrow} {row.repeats}"
        cells = (
            row.name,
            str(row.images),
            repeats,
            _spaced(row.visits),
            f"{row.share:.1%}",
            str(row.visits / most),
            f"{f'{glyphs.finding} ' if row.overbake else ''}{_number(row.exposure(epochs))}",
        )
        lines.append(Line(cells, folder_pictures.get(row.name, ()), "$text-warning" if row.overbake else ""))
    notes = [f"{_spaced(balance.visits)} pictures an epoch, uneven by {glyphs.plus_minus}{balance.residual:.1%}"]
    for row in balance.rows:
        if row.overbake:
            few = "so few pictures" if row.overbake == "likely" else f"{row.images} pictures"
            notes.append(
                f"{glyphs.finding} {row.name}: {few}, each trained {row.ratio:.1f} times as often as those of the "
                "largest folder: watch for over-baking"
            )
    if balance.divisor > 1:
        fewer = ", ".join(str(row.repeats) for row in balance.divided().rows)
        notes.append(
            f"common divisor {balance.divisor} {glyphs.arrow} {fewer} with {epochs * balance.divisor} epochs for the "
            "same exposure: d"
        )
    even = what_if.balanced()
    if even.balance.residual < balance.residual:
        repeats = ", ".join(str(row.repeats) for row in even.balance.rows)
        notes.append(f"balanced {glyphs.arrow} {repeats} repeats, {glyphs.plus_minus}{even.balance.residual:.1%}: b")
    finer = even.advice
    if finer is not None:
        name = balance.largest_row.name
        notes.append(f"{finer[0]} repeats of {name} would balance to {glyphs.plus_minus}{finer[1]:.1%}: e, then b")
    advice = advised(goal)
    low, high = advice.exposures
    exposure = balance.largest_row.exposure(epochs)
    if not low <= exposure <= high:
        notes.append(
            f"{_number(exposure)} visits a picture: for a {goal} about {_number(advice.exposure)} is the place "
            "to start; E sets the epochs"
        )
    added = what_if.regularization
    if added is not None:
        never = f"; {added.never} of them never come up" if added.never else ""
        notes.append(
            f"regularization: {added.images} pictures add {_spaced(added.visits)} visits to an epoch, each comes up "
            f"{added.per_image:.1f} times in {epochs} epochs{never}"
        )
    return TableView(columns, tuple(lines), tuple(notes))


def section_view(name: str, figures: Figures, what_if: WhatIf | None, goal: Goal, glyphs: Glyphs) -> TableView:
    """Any section but the balance."""
    if name == "Exposure":
        return _exposure(figures, what_if, goal)
    if name == "Bias":
        return _bias(figures, glyphs)
    return {"Tags": _tags, "Pairs": _pairs, "Buckets": _buckets, "Sizes": _sizes, "Similar": _similar}[name](figures)


def _tags(figures: Figures) -> TableView:
    columns = (Column("tag", "text"), Column("pictures"), Column("share"), Column("", "bar"), Column("visits"))
    lines = tuple(
        Line(
            (row.tag, str(row.pictures), f"{row.share:.0%}", str(row.share), f"{row.visit_share:.0%}"),
            figures.with_tag.get(row.tag, ()),
            "$foreground-muted" if row.pictures == 1 else "",
        )
        for row in figures.tags
    )
    once = sum(row.pictures == 1 for row in figures.tags)
    notes = [f"{len(figures.tags)} tags, {once} of them on one picture; visits: their share of an epoch"]
    return TableView(columns, lines, tuple(notes), "No tags yet.")


def _pairs(figures: Figures) -> TableView:
    columns = (Column("tag", "text"), Column("and", "text"), Column("together"), Column("of either"), Column("lift"))
    lines = tuple(
        Line(
            (pair.first, pair.second, str(pair.together), f"{pair.jaccard:.0%}", f"{pair.lift:.1f}x"),
            _both(figures, pair.first, pair.second),
        )
        for pair in figures.pairs
    )
    notes: list[str] = []
    if figures.everywhere:
        notes.append(f"on every picture: {', '.join(figures.everywhere)}")
    for fused in figures.fused[:2]:
        notes.append(f"always together, on {fused.pictures} pictures: {', '.join(fused.tags)}")
    if len(figures.fused) > 2:
        notes.append(f"and {len(figures.fused) - 2} more groups of tags that are never apart")
    return TableView(columns, lines, tuple(notes), "No two tags meet more often than by chance.")


def _exposure(figures: Figures, what_if: WhatIf | None, goal: Goal) -> TableView:
    if what_if is None:
        return TableView(empty="No concept folders here.")
    balance = what_if.balance
    columns = (
        Column("concept folder", "text"),
        Column("images"),
        Column("a picture"),
        Column("the concept"),
        Column("", "bar"),
        Column("", "text"),
    )
    epochs = what_if.run_epochs
    most = max(row.exposure(epochs) for row in balance.rows)
    lines = tuple(
        Line(
            (
                row.name,
                str(row.images),
                _number(row.exposure(epochs)),
                _spaced(row.visits * epochs),
                str(row.exposure(epochs) / most),
                judge_count(goal, row.images).standing if goal != "style" else "",
            ),
            tuple(picture.name for picture in figures.pictures if picture.folder == row.name),
        )
        for row in balance.rows
    )
    total = sum(row.images for row in balance.rows)
    notes = [f"how often each picture, and each concept, is trained in {epochs} epochs"]
    verdict = judge_count(goal, total) if goal == "style" or len(balance.rows) == 1 else None
    if verdict is not None:
        notes.append(verdict.reason)
    return TableView(columns, lines, tuple(notes))


def _buckets(figures: Figures) -> TableView:
    columns = (
        Column("bucket"),
        Column("pictures"),
        Column("", "bar"),
        Column("visits"),
        Column("cut off"),
        Column("at most"),
        Column("enlarged"),
        Column("batches"),
    )
    most = max((row.pictures for row in figures.buckets), default=1)
    lines = tuple(
        Line(
            (
                f"{row.bucket[0]}x{row.bucket[1]}",
                str(row.pictures),
                str(row.pictures / most),
                _spaced(row.visits),
                f"{row.crop_mean:.0%}",
                f"{row.crop_max:.0%}",
                f"{row.enlarged_max:.1f}x" if row.enlarged_max > 1 else "",
                f"{_spaced(row.batches)}{f' ({row.partial} partial)' if row.partial else ''}",
            ),
            names,
            "$text-warning" if row.enlarged_max > 1 or row.crop_max > 0.2 else "",
        )
        for row, names in zip(figures.buckets, figures.bucket_names, strict=True)
    )
    notes = [f"at {figures.resolution}, batch size {figures.batch_size}"]
    if any(row.partial for row in figures.buckets):
        notes.append(f"partial: {_PARTIAL}")
    return TableView(columns, lines, tuple(notes), _not_looked_at(figures))


def _sizes(figures: Figures) -> TableView:
    columns = (Column("", "text"), *(Column(title) for title in ("least", "quarter", "half", "three q.", "most")))
    lines = tuple(
        Line((row.what, *map(_size, (row.least, row.quarter, row.half, row.three_quarters, row.most))))
        for row in figures.sizes
    )
    return TableView(columns, lines, ("half: half of the pictures have less",), _not_looked_at(figures))


def _bias(figures: Figures, glyphs: Glyphs) -> TableView:
    columns = (Column("what", "text"), Column("kind", "text"), Column("pictures"), Column("share"), Column("", "bar"),
               Column("tagged"))  # fmt: skip
    lines = tuple(
        Line(
            (
                lean.what,
                lean.kind,
                str(lean.pictures),
                f"{lean.share:.0%}",
                str(lean.share),
                "" if lean.tagged is None else f"{lean.tagged:.0%}",
            ),
            _leaning(figures, lean),
            "$text-warning" if lean.concern else "",
        )
        for lean in figures.leans
    )
    notes = [f"{glyphs.finding} {lean.what}: {lean.concern}" for lean in figures.leans if lean.concern]
    return TableView(columns, lines, tuple(notes[:3]), _not_looked_at(figures))


def _similar(figures: Figures) -> TableView:
    columns = (Column("pictures"), Column("what", "text"), Column("which", "text"))
    lines = tuple(
        Line((str(len(group.pictures)), group.what, ", ".join(_short(group.pictures))), group.pictures)
        for group in figures.groups
    )
    empty = "No two pictures look alike." if figures.looked_at else _not_looked_at(figures)
    return TableView(columns, lines, (), empty)


def _not_looked_at(figures: Figures) -> str:
    return "The pictures were not looked at yet." if not figures.looked_at else "Nothing to tell."


def _leaning(figures: Figures, lean: Lean) -> tuple[str, ...]:
    if lean.kind in ("artist", "medium", "view"):
        return figures.with_tag.get(lean.what, ())
    if lean.kind == "background":
        ground = "" if lean.what == "plain background" else lean.what.removesuffix(" background")
        return tuple(picture.name for picture in figures.pictures if picture.ground == ground)
    if lean.kind == "greyscale":
        return tuple(picture.name for picture in figures.pictures if picture.is_grey)
    return ()


def _both(figures: Figures, first: str, second: str) -> tuple[str, ...]:
    others = set(figures.with_tag.get(second, ()))
    return tuple(name for name in figures.with_tag.get(first, ()) if name in others)


def _short(names: Sequence[str]) -> Iterable[str]:
    return (name.rpartition("/")[2] for name in names)


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def _size(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.2f}"
