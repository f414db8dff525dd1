"""The part of `loratory tag` that looks back: what was edited, taking it back, doing it again."""

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loratory.cli import output
from loratory.cli.patch import print_patch
from loratory.dataset.findings import shown
from loratory.errors import FAILED, LoratoryError
from loratory.wording import typed

if TYPE_CHECKING:
    from loratory.tags.journal import Batch, Journal, Outcome

_directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


@click.command(short_help="Take back the last edit, or an older one.")
@_directory
@click.argument("batch", type=int, required=False)
def undo(directory: Path, batch: int | None) -> int:
    """Take back the last edit in DIR that is not undone yet, or the one of number BATCH.

    Edits made since stay. A caption whose tags were changed in the meantime keeps that change where both fit together,
    and is left alone where they do not.
    """
    journal = _journal(directory)
    with output.working("undoing"):
        outcome = journal.undo(batch)
    return _say_outcome(journal, outcome, "undone", f"`loratory tag redo {typed(directory)}` does it again")


@click.command(short_help="Do again what the last undo took back.")
@_directory
def redo(directory: Path) -> int:
    """Do again what the last undo in DIR took back."""
    journal = _journal(directory)
    with output.working("doing it again"):
        outcome = journal.redo()
    return _say_outcome(journal, outcome, "done again", f"`loratory tag undo {typed(directory)}` undoes it")


@click.command(short_help="Every edit so far, with its number.")
@_directory
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def history(directory: Path, as_json: bool) -> None:
    """Every edit in DIR, oldest first: its number, when it was, how many captions it changed, what it did."""
    journal = _journal(directory)
    batches = journal.batches()
    if as_json:
        output.data_json([dataclasses.asdict(batch) for batch in batches])
        return
    if not batches:
        output.say(f"Nothing has been edited in {journal.root} yet.")
    number_width = max((len(str(batch.id)) for batch in batches), default=0)
    count_width = max((len(str(batch.count)) for batch in batches), default=0)
    for batch in batches:
        when = datetime.fromtimestamp(batch.time).strftime("%Y-%m-%d %H:%M")
        state = _state(batch)
        output.data(
            f"{batch.id:>{number_width}}  {when}  {batch.count:>{count_width}}  {output.one_line(batch.label)}"
            + (f"  ({state})" if state else "")
        )
    if damaged := journal.damaged_lines():
        lines = "A line" if damaged == 1 else f"{damaged} lines"
        output.say(f"{lines} of {journal.root / '.loratory' / 'journal.jsonl'} cannot be read; what they told is lost.")
    if journal.pending() is not None:
        output.say(f"The last one was cut short: `loratory tag recover {typed(directory)} --finish` completes it.")


@click.command(short_help="Print what an edit changed, as a patch.")
@_directory
@click.argument("batch", type=int)
def show(directory: Path, batch: int) -> None:
    """Print what edit number BATCH changed, as a patch."""
    journal = _journal(directory)
    print_patch(journal.changes(batch), journal.root)


@click.command(short_help="Complete or take back an edit that a crash cut short.")
@_directory
@click.option("--finish", is_flag=True, help="Write what was still to be written.")
@click.option("--roll-back", is_flag=True, help="Take back what was written.")
def recover(directory: Path, finish: bool, roll_back: bool) -> int:
    """Complete an edit in DIR that was cut short by a crash, or take it back."""
    if finish == roll_back:
        raise click.UsageError("Choose --finish or --roll-back.")
    journal = _journal(directory)
    with output.working("recovering"):
        outcome = journal.finish() if finish else journal.roll_back()
    return _say_outcome(journal, outcome, "completed" if finish else "taken back", "")


def _journal(directory: Path) -> "Journal":
    from loratory.dataset.root import find_root
    from loratory.tags.journal import Journal

    if not directory.is_dir():
        what = "is not a folder" if directory.exists() else "does not exist"
        raise LoratoryError(f"{directory} {what}.", hint="Give the folder of the images.")
    return Journal(find_root(directory.resolve()))


def _say_outcome(journal: "Journal", outcome: "Outcome", done: str, next_step: str) -> int:
    for path, why in outcome.skipped:
        name = path.relative_to(journal.root).as_posix()
        output.say(output.one_line(f"{shown(name)}: left alone: {why}"))
    if outcome.batch is None:
        output.say("nothing was changed")
    else:
        label = outcome.batch.label.removeprefix("undo: ").removeprefix("redo: ")
        captions = "1 caption" if len(outcome.written) == 1 else f"{len(outcome.written)} captions"
        keeping = "1 keeps" if len(outcome.merged) == 1 else f"{len(outcome.merged)} keep"
        also = f"; {keeping} what was changed there since" if outcome.merged else ""
        then = f" · {next_step}" if next_step else ""
        output.say(output.one_line(f"{done}: {label} ({captions}){also}{then}"))
    return FAILED if outcome.skipped else 0


def _state(batch: "Batch") -> str:
    return "cut short" if batch.state == "begun" else "undone" if batch.undone else batch.state.replace("done", "")
