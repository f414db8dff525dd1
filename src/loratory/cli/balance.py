"""`loratory balance`: the repeats that give each concept an equal share, seen first, then written into folder names."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from loratory.cli import output
from loratory.cli.numbers import FiniteRange
from loratory.cli.sentences import sentence
from loratory.dataset.findings import shown
from loratory.errors import LoratoryError
from loratory.wording import typed

if TYPE_CHECKING:
    from loratory.dataset.balance import Balance, Concept, Row
    from loratory.dataset.concept_folders import ConceptFolders
    from loratory.editing.session import Session
    from loratory.tags.rename_log import Renaming

_MANY_REPEATS = 50


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--repeats", type=click.IntRange(1, 10_000), metavar="N", help="Repeats of the largest folder.")
@click.option(
    "--set", "fixed", multiple=True, metavar="FOLDER=N", help="Give this folder N repeats, whatever balances."
)
@click.option("--divide/--no-divide", default=False, help="Divide all repeats by their greatest common divisor.")
@click.option("--goal", type=click.Choice(["character", "concept", "clothing", "style"]), help="What is learnt.")
@click.option("--exposure", type=FiniteRange(1, 1_000_000), metavar="X", help="How often to train each picture.")
@click.option("--epochs", type=click.IntRange(1, 100_000), metavar="N", help="Count exposures for N epochs.")
@click.option(
    "--reg", type=click.Path(path_type=Path), metavar="DIR", help="The regularization set, if it lies elsewhere."
)
@click.option("--apply", "apply", is_flag=True, help="Rename the folders; can be undone.")
@click.option("--undo", is_flag=True, help="Take the last renaming back.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def balance(
    directory: Path,
    repeats: int | None,
    fixed: tuple[str, ...],
    divide: bool,
    goal: Any,
    exposure: float | None,
    epochs: int | None,
    reg: Path | None,
    apply: bool,
    undo: bool,
    as_json: bool,
) -> None:
    """The repeats that give each concept folder of DIR an equal share of the training.

    Nothing is changed without --apply, which renames the folders: 10_fox becomes 12_fox.
    """
    if undo and apply:
        raise click.UsageError("--undo takes a renaming back, --apply makes one: choose.")
    if exposure is not None and epochs is not None:
        raise click.UsageError("Give --exposure or --epochs: the one follows from the other.")
    from loratory.dataset.goals import advised
    from loratory.editing.session import open_session

    session = open_session(directory)
    if session.completed_renaming is not None:
        output.say(f"A renaming that was cut short is now completed: {_told(session.completed_renaming)}.")
    if undo:
        _undo(session, as_json=as_json)
        return
    folders = _find(session, reg)
    before, after = _balances(folders.train, repeats, _fixed(fixed, folders.train), divide=divide)
    wanted = exposure or advised(goal or session.settings.goal).exposure
    run = epochs or after.epochs_for(wanted)
    summary = _summary(folders, before, after, run, searched=not fixed)
    renaming = _apply(session, after) if apply else None
    if as_json:
        moves = [] if renaming is None else [list(move) for move in renaming.moves]
        output.data_json({**summary, "renamed": moves})
        return
    _print(before, after, summary, run)
    if apply:
        _say_applied(session, renaming)
    elif after.is_changed:
        output.say("`loratory balance … --apply`, with the same options, renames the folders.")
    else:
        output.say("The folders have these repeats already: nothing to do.")


def _find(session: "Session", reg: Path | None) -> "ConceptFolders":
    from dataclasses import replace

    from loratory.dataset.concept_folders import find_concepts, regularization_folders
    from loratory.editing.session import open_session

    found = find_concepts(session.directory, ((item.directory, item.is_reg) for item in session.items))
    if reg is None:
        return found
    other = open_session(reg)
    folders = regularization_folders(other.directory, ((item.directory, True) for item in other.items))
    if not folders:
        raise LoratoryError(
            f"No regularization folder with pictures found in {reg}.",
            hint="Its folders are named like 1_fox (repeats, underscore, class).",
        )
    return replace(found, regularization=folders)


def _fixed(given: tuple[str, ...], concepts: "tuple[Concept, ...]") -> dict[str, int]:
    """FOLDER=N by the folder's name; FOLDER may be the whole name or what stands behind its number."""
    fixed: dict[str, int] = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        if not equals or not number.isdecimal() or not 1 <= int(number) <= 10_000:
            raise click.UsageError(f"--set {text}: write FOLDER=N, such as 10_fox=12, with N from 1 to 10000.")
        exact = [concept.name for concept in concepts if concept.name == name]
        matching = exact or [concept.name for concept in concepts if concept.name.partition("_")[2] == name]
        if len(matching) != 1:
            names = ", ".join(shown(concept.name) for concept in concepts)
            what = "There are several folders" if matching else "There is no folder"
            raise LoratoryError(f"--set {text}: {what} {name!r}.", hint=f"The folders are {names}.")
        fixed[matching[0]] = int(number)
    return fixed


def _balances(
    concepts: "tuple[Concept, ...]", repeats: int | None, fixed: dict[str, int], *, divide: bool
) -> "tuple[Balance, Balance]":
    from loratory.dataset.balance import MOST_REPEATS, as_they_are, balanced

    after = balanced(concepts, repeats, fixed)
    if divide:
        after = after.divided()
    most = max(after.rows, key=lambda row: row.repeats)
    if most.repeats > MOST_REPEATS:
        raise LoratoryError(
            f"{shown(most.name)} would get {most.repeats} repeats; more than {MOST_REPEATS} are refused in training.",
            hint="Give the largest folder fewer: --repeats 1.",
        )
    return as_they_are(concepts), after


def _summary(
    folders: "ConceptFolders", before: "Balance", after: "Balance", epochs: int, *, searched: bool
) -> dict[str, Any]:
    from loratory.dataset.balance import finer, regularization
    from loratory.dataset.concept_folders import renamed

    added = regularization(folders.regularization, after.visits, epochs)
    better = finer(folders.train, after.residual) if searched else None
    return {
        "folders": [
            {**asdict(row), "becomes": renamed(row.name, row.repeats), "exposure": row.exposure(epochs)}
            for row in after.rows
        ],
        "left_out": list(after.left_out),
        "visits_per_epoch": after.visits,
        "epochs": epochs,
        "residual_before": before.residual,
        "residual": after.residual,
        "divisor": after.divisor,
        "finer": None if better is None else {"repeats": better[0], "residual": better[1]},
        "regularization": None if added is None else asdict(added),
    }


def _print(before: "Balance", after: "Balance", summary: dict[str, Any], epochs: int) -> None:
    arrow = "→" if output.is_unicode() else "->"
    about = "±" if output.is_unicode() else "+-"
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("concept folder", overflow="fold", min_width=14)
    for name in ("images", "repeats", "per epoch", "share", f"exposure at {_count(epochs, 'epoch')}"):
        table.add_column(name, justify="right", no_wrap=not name.startswith("exposure"))
    for row in after.rows:
        count = str(row.repeats) if row.repeats == row.before else f"{row.before} {arrow} {row.repeats}"
        table.add_row(
            Text(shown(row.name)),
            str(row.images),
            count,
            str(row.visits),
            f"{row.share:.1%}",
            f"{row.exposure(epochs):.0f}" + (" !" if row.overbake else ""),
        )
    if len(after.rows) > 1:
        table.add_row("", "", "", str(after.visits), f"{about}{after.residual:.1%}", "")
    output.show(table)
    output.data("")
    for line in _lines(before, after, summary, arrow, about):
        sentence(line, "  ")


def _lines(before: "Balance", after: "Balance", summary: dict[str, Any], arrow: str, about: str) -> list[str]:
    """What is to be said below the table, each in one line."""
    epochs = int(summary["epochs"])
    lines: list[str] = []
    if len(after.rows) == 1:
        lines.append("One concept folder: there is nothing to balance it with.")
    elif after.is_changed:
        lines.append(
            f"Visits differ from their mean by up to {about}{after.residual:.1%}; "
            f"as it is, by {about}{before.residual:.1%}."
        )
    if after.divisor > 1:
        fewer = ", ".join(str(row.repeats) for row in after.divided().rows)
        times = _count(epochs * after.divisor, "epoch")
        lines.append(f"common divisor {after.divisor} {arrow} {fewer} with {times} for the same exposure (--divide)")
    if summary["finer"] is not None and len(after.rows) > 1:
        better = summary["finer"]
        lines.append(f"--repeats {better['repeats']} would leave {about}{better['residual']:.1%}.")
    many = [row for row in after.rows if row.repeats > _MANY_REPEATS]
    if many:
        lines.append(
            f"{shown(many[0].name)}: {many[0].repeats} repeats make epochs long, so saves that go by epochs come late."
        )
    lines.extend(_warning(row) for row in after.rows if row.overbake)
    lines.extend(f"{shown(name)}: no pictures, left out." for name in after.left_out)
    if summary["regularization"] is not None:
        lines.append(_regularization(summary["regularization"], after.visits, epochs))
    return lines


def _warning(row: "Row") -> str:
    often = f"{row.ratio:.2g} times as often as those of the largest folder"
    if row.overbake == "likely":
        return (
            f"! {shown(row.name)}: only {_count(row.images, 'image')}, trained {often}: likely to over-bake while the "
            "rest is fine. Add images, or give it fewer repeats with --set."
        )
    return f"! {shown(row.name)}: {_count(row.images, 'image')}, trained {often}: watch for over-baking."


def _regularization(added: dict[str, Any], visits: int, epochs: int) -> str:
    run = _count(epochs, "epoch")
    seen = (
        f"{added['never']} of them never seen in {run}"
        if added["never"]
        else f"all seen within {_count(added['epochs_to_all'], 'epoch')}"
    )
    return (
        f"regularization: {_count(added['images'], 'image')}, {_count(visits, 'visit')} an epoch beside the "
        f"{visits} above, in turn: each about {added['per_image']:.3g} times in {run}, {seen}. Not balanced with the "
        "concepts."
    )


def _apply(session: "Session", after: "Balance") -> "Renaming | None":
    from loratory.dataset.concept_folders import renamed
    from loratory.dataset.renaming import rename_folders

    below = session.directory.relative_to(session.root)
    moves = [
        ((below / row.name).as_posix(), (below / renamed(row.name, row.repeats)).as_posix())
        for row in after.rows
        if row.repeats != row.before
    ]
    repeats = ", ".join(str(row.repeats) for row in after.rows)
    return rename_folders(session.root, moves, f"balance: {repeats}")


def _say_applied(session: "Session", renaming: "Renaming | None") -> None:
    if renaming is None:
        output.say("The folders have these repeats already: nothing to do.")
        return
    count = "1 folder" if len(renaming.moves) == 1 else f"{len(renaming.moves)} folders"
    output.say(
        output.one_line(
            f"{count} renamed: {_told(renaming)} · `loratory balance {typed(session.directory)} --undo` takes it back"
        )
    )


def _undo(session: "Session", *, as_json: bool) -> None:
    from loratory.dataset.renaming import undo_renaming

    renaming = undo_renaming(session.root)
    if as_json:
        output.data_json({"renamed": [list(move) for move in renaming.moves]})
    output.say(output.one_line(f"undone: {_told(renaming)}"))


def _told(renaming: "Renaming") -> str:
    arrow = "→" if output.is_unicode() else "->"
    return "; ".join(f"{shown(old)} {arrow} {shown(new)}" for old, new in renaming.moves)


def _count(number: int, one: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {one}s"
