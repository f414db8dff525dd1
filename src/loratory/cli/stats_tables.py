"""What `loratory stats` counted, as tables for 80 columns: the first rows of each section, or all of one."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from rich.table import Table
from rich.text import Text

from loratory.cli import output
from loratory.cli.sentences import bar, sentence
from loratory.dataset.findings import shown

if TYPE_CHECKING:
    from loratory.cli.stats import Report

T = TypeVar("T")

_BAR = 16
_ROWS = 10
_OF_KIND = 3
_NAMES = 4


def print_report(report: "Report", *, everything: bool) -> None:
    """Prints the sections that were counted. everything: all rows."""
    _head(report)
    for section, count in (
        (_tags, report.tags),
        (_pairs, report.pairs),
        (_exposure, report.exposure),
        (_buckets, report.buckets),
        (_sizes, report.sizes),
        (_bias, report.bias),
        (_similar, report.similar),
    ):
        if count is not None:
            output.data("")
            section(report, everything)


def _head(report: "Report") -> None:
    told = [f"{_count(len(report.pictures), 'picture')}, {report.captioned} with a caption"]
    if report.regularization_images:
        told.append(f"{report.regularization_images} for regularization")
    told.append(f"goal: {report.goal}")
    sentence(" · ".join(told))
    for folder, _, verdict in report.verdicts:
        sentence((f"{shown(folder)}: " if folder else "") + verdict.reason, "  ")
    if report.unreadable:
        names = ", ".join(shown(name) for name in report.unreadable[:_NAMES])
        sentence(f"{_count(len(report.unreadable), 'picture')} cannot be read ({names}): `loratory check` tells why.")


def _tags(report: "Report", everything: bool) -> None:
    tags = report.tags or []
    table = _table("tag", "pictures", "share", "of visits", "")
    for row in _first(tags, everything):
        line = bar(row.share, _BAR)
        table.add_row(Text(shown(row.tag)), str(row.pictures), f"{row.share:.0%}", f"{row.visit_share:.0%}", Text(line))
    output.show(table)
    _more(len(tags), everything, "tags")
    if report.everywhere:
        names = ", ".join(map(shown, report.everywhere))
        sentence(
            f"On every caption: {names}. Right for the tokens; what else is always there is learnt as part of it.", "  "
        )


def _pairs(report: "Report", everything: bool) -> None:
    pairs = report.pairs or []
    table = _table("together", "pictures", "of either", "by chance x")
    for row in _first(pairs, everything):
        name = Text(f"{shown(row.first)} + {shown(row.second)}")
        table.add_row(name, str(row.together), f"{row.jaccard:.0%}", f"{row.lift:.1f}")
    output.show(table) if pairs else sentence("No two tags meet more often than by chance.")
    _more(len(pairs), everything, "pairs")
    for row in _first(report.fused, everything):
        names = ", ".join(map(shown, row.tags))
        sentence(f"always together, on {_count(row.pictures, 'picture')}: {names}", "  ")
    if report.fused:
        sentence("Tags that never come apart cannot be told apart by the model: one of them would do.", "  ")


def _exposure(report: "Report", everything: bool) -> None:
    assert report.exposure is not None
    table = _table("folder", "images", "repeats", "per epoch", "share", f"exposure, {_epochs(report)}", "")
    for row in _first(report.exposure.rows, everything):
        table.add_row(
            Text(shown(row.name)),
            str(row.images),
            str(row.repeats),
            str(row.visits),
            f"{row.share:.0%}",
            f"{row.exposure(report.epochs):.0f}" + (" !" if row.overbake else ""),
            Text(bar(row.share, _BAR // 2)),
        )
    output.show(table)
    _more(len(report.exposure.rows), everything, "exposure")
    if report.exposure.residual >= 0.1:
        off = f"{report.exposure.residual:.0%}"
        sentence(f"Visits differ from their mean by up to {off}: `loratory balance` evens them out.", "  ")
    reg = report.regularization
    if reg is not None:
        never = f", {reg.never} never seen in {_epochs(report)}" if reg.never else ""
        sentence(
            f"regularization: {_count(reg.images, 'image')} add {reg.visits} visits an epoch, each is seen about "
            f"{reg.per_image:.3g} times{never}.",
            "  ",
        )


def _buckets(report: "Report", everything: bool) -> None:
    rows = report.buckets or []
    if not rows:
        sentence("buckets: no picture could be read.")
        return
    table = _table("bucket", "pictures", "visits", "batches", "cut off", "at most", "enlarged", "")
    most = max(row.pictures for row in rows)
    by_pictures = rows if everything else sorted(rows, key=lambda row: -row.pictures)
    for row in _first(by_pictures, everything):
        table.add_row(
            f"{row.bucket[0]}x{row.bucket[1]}",
            str(row.pictures),
            str(row.visits),
            str(row.batches),
            f"{row.crop_mean:.1%}",
            f"{row.crop_max:.1%}",
            f"x{row.enlarged_max:.2f}" if row.enlarged_max > 1 else "",
            Text(bar(row.pictures / most, _BAR // 2)),
        )
    output.show(table)
    _more(len(rows), everything, "buckets")
    batches, partial = sum(row.batches for row in rows), sum(row.partial for row in rows)
    not_full = f"; {partial} of them not full" if partial else ""
    sentence(
        f"at {report.resolution} px, sides up to {report.max_bucket_reso}: "
        f"{_count(batches, 'batch', 'batches')} of {report.batch_size} an epoch{not_full}",
        "  ",
    )
    enlarged = sum(row.enlarged for row in rows)
    if enlarged:
        factor = max(row.enlarged_max for row in rows)
        are = "picture is" if enlarged == 1 else "pictures are"
        sentence(f"{enlarged} {are} smaller than their bucket and enlarged, by up to {factor:.2f}.", "  ")


def _sizes(report: "Report", everything: bool) -> None:
    if not report.sizes:
        sentence("sizes: no picture could be read.")
        return
    table = _table("size", "least", "a quarter below", "half below", "three quarters", "most")
    for row in report.sizes:
        digits = 0 if row.what.endswith("px") else 2
        values = (row.least, row.quarter, row.half, row.three_quarters, row.most)
        table.add_row(row.what, *(f"{value:.{digits}f}" for value in values))
    output.show(table)


def _bias(report: "Report", everything: bool) -> None:
    leans = report.bias or []
    if not leans:
        sentence("leanings: nothing is known that the pictures have in common.")
        return
    table = _table("leans to", "pictures", "share", "tagged", "")
    shown_leans = [
        lean
        for _, those in groupby(leans, key=lambda lean: lean.kind)
        for lean in (list(those) if everything else list(those)[:_OF_KIND])
    ]
    for lean in shown_leans:
        table.add_row(
            Text(f"{lean.kind}: {shown(lean.what)}"),
            str(lean.pictures),
            f"{lean.share:.0%}",
            "" if lean.tagged is None else f"{lean.tagged:.0%}",
            Text(bar(lean.share, _BAR) + (" !" if lean.concern else "")),
        )
    output.show(table)
    if len(leans) > len(shown_leans):
        _more_said(len(leans) - len(shown_leans), "bias")
    for lean in leans:
        if lean.concern:
            sentence(f"! {shown(lean.what)}: {lean.concern}", "  ")


def _similar(report: "Report", everything: bool) -> None:
    groups = report.similar or []
    if not groups:
        sentence("alike: no two pictures are nearly the same.")
        return
    table = _table("alike", "bits", "pictures")
    table.columns[2].justify = "left"
    table.columns[2].overflow = "fold"
    for group in _first(groups, everything):
        names = [shown(report.pictures[index].name) for index in group.members]
        text = ", ".join(names if everything else names[:_NAMES])
        if len(names) > _NAMES and not everything:
            text += f" and {len(names) - _NAMES} more"
        table.add_row(group.kind, str(group.distance), Text(text))
    output.show(table)
    _more(len(groups), everything, "similar")


def _first(rows: Sequence[T], everything: bool) -> Sequence[T]:
    return rows if everything else rows[:_ROWS]


def _more(count: int, everything: bool, section: str) -> None:
    if count > _ROWS and not everything:
        _more_said(count - _ROWS, section)


def _more_said(count: int, section: str) -> None:
    output.data(f"and {count} more: --section {section} shows all")


def _table(first: str, *rest: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for name in rest:
        table.add_column(name, justify="right" if name else "left", no_wrap=not name.startswith("exposure"))
    return table


def _epochs(report: "Report") -> str:
    return _count(report.epochs, "epoch")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one}" if number == 1 else f"{number} {many or one + 's'}"
