"""`loratory tag`: edits the captions of many images at once, lists their tags, and takes edits back."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loratory.cli import output
from loratory.cli.patch import print_patch
from loratory.cli.tag_history import history, recover, redo, show, undo
from loratory.dataset.findings import shown
from loratory.editing.verbs import VERBS, Verb, VerbCommand
from loratory.errors import FAILED
from loratory.tags.edits import Add, Edit, past
from loratory.wording import typed

if TYPE_CHECKING:
    from loratory.editing.items import Item
    from loratory.editing.session import Plan, Session
    from loratory.tags.journal import Outcome
    from loratory.tags.query import Query

_PATH = click.Path(path_type=Path)
_WHERE_HELP = "Only the images that match, such as 'untagged' or 'tag:solo tags<5'."
_directory = click.argument("directory", metavar="DIR", type=_PATH)
_where = click.option("--where", metavar="QUERY", help=_WHERE_HELP)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def tag() -> None:
    """Edit the captions of many images at once, and take edits back.

    DIR is a folder of images, or one above such folders. Every edit can be undone, tomorrow as well.
    """


for _command in (undo, redo, history, show, recover):
    tag.add_command(_command)


@tag.command("list", short_help="Each image with its tags.")
@_directory
@_where
@_json
def list_command(directory: Path, where: str | None, as_json: bool) -> None:
    """Each image of DIR with its tags: a name, a tab, the tags."""
    session, items = _open(directory, where)
    if as_json:
        output.data_json(
            [
                {
                    "image": _name(session, item.image),
                    "caption_file": None if item.data is None else _name(session, item.caption_path),
                    "tags": item.tags,
                    "text": item.caption.text,
                    "problem": item.problem or None,
                }
                for item in items
            ]
        )
        return
    for item in items:
        output.data(f"{shown(_name(session, item.image))}\t{output.one_line(', '.join(item.tags))}")


@tag.command("count", short_help="How often each tag occurs.")
@_directory
@_where
@_json
def count_command(directory: Path, where: str | None, as_json: bool) -> None:
    """On how many images of DIR each tag is, the commonest first."""
    from loratory.editing.items import tag_counts

    _, items = _open(directory, where)
    counts = tag_counts(items)
    spelled = {key: tag for item in reversed(items) for key, tag in zip(item.keys, item.tags, strict=True)}
    if as_json:
        output.data_json([{"tag": spelled[key], "count": count} for key, count in counts.items()])
        return
    width = len(str(max(counts.values(), default=0)))
    for key, count in counts.items():
        output.data(f"{count:>{width}}  {output.one_line(spelled[key])}")
    output.say(f"{len(counts)} tags on {len(items)} images.")


def _edit(directory: Path, edit: Edit, where: str | None, *, dry_run: bool, as_json: bool) -> int:
    """Does an edit, or shows what it would do; the exit code."""
    session, items = _open(directory, where)
    plan = session.plan(edit, items)
    if dry_run:
        if as_json:
            output.data_json(_report(session, plan, None))
        else:
            print_patch(plan.changes, session.directory)
        _name_skipped(session, plan.refused)
        _say_done(directory, edit, plan, None)
        return 0
    with output.working(f"writing {len(plan.changes)} captions"):
        outcome = session.commit(plan)
    if as_json:
        output.data_json(_report(session, plan, outcome))
    _name_skipped(session, outcome.skipped)
    _say_done(directory, edit, plan, outcome)
    return FAILED if outcome.skipped else 0


def _open(directory: Path, where: str | None) -> "tuple[Session, list[Item]]":
    from loratory.editing.session import open_session
    from loratory.tags.query import parse_query

    query = None if where is None else parse_query(where)
    session = open_session(directory)
    if query is not None:
        _find_out(session, query)
    return session, session.find(query)


def _find_out(session: "Session", query: "Query") -> None:
    """Has the session know what a query asks of findings and of pictures."""
    from loratory.editing.checks.caption import issues
    from loratory.editing.checks.context import session_context
    from loratory.editing.checks.looking import check_session_pictures, look_at_pictures
    from loratory.editing.checks.rules import PICTURE_RULES

    asks_for_issues = query.asks_for_issues(PICTURE_RULES)
    if "issue" not in query.needs and "dup" not in query.needs:
        return
    with output.working("checking captions"):
        context = session_context(session)
    session.facts.issues_of = lambda item: issues(item, context)
    if asks_for_issues or "dup" in query.needs:
        with output.counting("looking at pictures") as at:
            looked = look_at_pictures(session, context, progress=at)
        if asks_for_issues:
            with output.working("comparing pictures"):
                check_session_pictures(session, looked)


def _report(session: "Session", plan: "Plan", outcome: "Outcome | None") -> dict[str, Any]:
    changes = plan.changes if outcome is None else outcome.written
    skipped = plan.refused if outcome is None else outcome.skipped
    report: dict[str, Any] = {
        "label": plan.label,
        "dry_run": outcome is None,
        "batch": outcome.batch.id if outcome and outcome.batch else None,
        "files": [_name(session, change.path) for change in changes],
        "unchanged": plan.unchanged,
        "merged": [_name(session, path) for path in outcome.merged] if outcome else [],
        "skipped": [{"file": _name(session, path), "why": why} for path, why in skipped],
    }
    if outcome is None:
        from loratory.tags.text import decode

        report["texts"] = [
            {
                "file": _name(session, change.path),
                "before": None if change.before is None else decode(change.before).text,
                "after": None if change.after is None else decode(change.after).text,
            }
            for change in changes
        ]
    return report


def _say_done(directory: Path, edit: Edit, plan: "Plan", outcome: "Outcome | None") -> None:
    """The sentence about what was done, or with no outcome what would be."""
    changed = len(plan.changes if outcome is None else outcome.written)
    total = len(plan.changes) + plan.unchanged + len(plan.refused)
    rest = _unchanged(edit, plan.unchanged)
    if not total:
        said = "no image matches: nothing to do"
    elif not changed:
        said = f"nothing to do: {rest}" if plan.unchanged else "nothing was changed"
    else:
        done, preposition = past(edit.label)
        many = "1 caption" if total == 1 else f"{total} captions"
        captions = f"{changed} of {many}" if changed < total else f"all {many}" if total > 1 else many
        said = f"{done} {preposition} {captions}" if outcome else f"would {edit.label}: {captions} change"
        said += f"; {rest}" if rest else ""
    if outcome and outcome.merged:
        holding = "1 also holds" if len(outcome.merged) == 1 else f"{len(outcome.merged)} also hold"
        said += f"; {holding} what another program wrote there meanwhile"
    if outcome and outcome.batch:
        said += f" · `loratory tag undo {typed(directory)}` undoes it"
    output.say(output.one_line(said))


def _unchanged(edit: Edit, count: int) -> str:
    if not count:
        return ""
    if isinstance(edit, Add) and edit.existing == "skip":
        return f"{count} had {'it' if len(edit.tags) == 1 else 'them'} already"
    return f"{count} stay{'s' if count == 1 else ''} as {'it is' if count == 1 else 'they are'}"


def _name_skipped(session: "Session", skipped: Sequence[tuple[Path, str]]) -> None:
    for path, why in skipped:
        output.say(output.one_line(f"{shown(_name(session, path))}: left alone: {why}"))


def _name(session: "Session", path: Path) -> str:
    """The path as seen from DIR."""
    return path.relative_to(session.directory).as_posix()


def _command_of(verb: Verb) -> click.Command:
    def run(directory: Path, where: str | None, dry_run: bool, as_json: bool, **values: Any) -> int:
        return _edit(directory, verb.build(**values), where, dry_run=dry_run, as_json=as_json)

    params = [
        click.Argument(["directory"], required=True, metavar="DIR", type=_PATH),
        *verb.params(),
        click.Option(["--where"], metavar="QUERY", help=_WHERE_HELP),
        click.Option(["--dry-run"], is_flag=True, help="Print the change as a patch, and change nothing."),
        click.Option(["as_json", "--json"], is_flag=True, help="Print JSON."),
    ]
    text = f"{verb.help}\n\n{verb.details} A TAG or TEXT that begins with a dash goes after `--`."
    return VerbCommand(verb.name, params=params, callback=run, help=text, short_help=verb.help)


for _verb in VERBS.values():
    tag.add_command(_command_of(_verb))
