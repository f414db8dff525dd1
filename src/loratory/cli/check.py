"""`loratory check`: what weakens training in the captions of a dataset, and what a trainer would read otherwise."""

import dataclasses
import difflib
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loratory.cli import output
from loratory.cli.patch import print_patch
from loratory.dataset.findings import shown
from loratory.dataset.listing import pictures, some_names
from loratory.errors import FAILED, LoratoryError

if TYPE_CHECKING:
    from loratory.editing.checks.context import CheckContext
    from loratory.editing.checks.finding import CaptionFinding
    from loratory.editing.items import Item
    from loratory.editing.session import Session
    from loratory.tags.query import Query

    Check = Callable[[Sequence[Item], CheckContext], list[CaptionFinding]]

_SHOWN_PER_RULE = 10
# What these rules would change hangs on the site.
_BY_VOCABULARY = frozenset({"alias", "deprecated", "typo", "wrong-site"})
_WORST_FIRST = {"error": 0, "warning": 1, "note": 2}


@click.command()
@click.argument("directory", metavar="DIR", required=False, type=click.Path(path_type=Path))
@click.option("--rule", "rules", multiple=True, metavar="ID", help="Say all that this rule finds, and no others.")
@click.option("--where", metavar="QUERY", help="Look at these captions only, and not at the set as a whole.")
@click.option("--vocabulary", type=click.Choice(["e621", "danbooru", "natural"]), help="Check as if it were this.")
@click.option("--fix", metavar="ID", help="Mend what this rule finds, as one batch that can be undone.")
@click.option("--dry-run", is_flag=True, help="With --fix: print the change as a patch, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--list-rules", is_flag=True, help="Name every rule, and what it looks for.")
def check(
    directory: Path | None,
    rules: tuple[str, ...],
    where: str | None,
    vocabulary: Any,
    fix: str | None,
    dry_run: bool,
    as_json: bool,
    list_rules: bool,
) -> int:
    """What weakens training in the captions of DIR, and what a trainer would read otherwise than it is written.

    Exits with 1 when there are warnings or errors.
    """
    if list_rules:
        _list_rules(as_json)
        return 0
    if directory is None:
        raise click.UsageError("Missing argument 'DIR'.")
    if dry_run and fix is None:
        raise click.UsageError("--dry-run goes with --fix.")
    for rule in (*rules, *([fix] if fix else [])):
        _known_rule(rule)

    from loratory.editing.session import open_session
    from loratory.tags.query import parse_query

    query = None if where is None else parse_query(where)
    with output.working("checking captions"):
        session = open_session(directory)
        if vocabulary is not None:
            session.settings.vocabulary = vocabulary  # for this time: it is not saved
        found = _findings(session, query)
    if fix is not None:
        if fix in _BY_VOCABULARY and vocabulary is None and session.settings.vocabulary is None:
            raise LoratoryError(
                f"Whose tags these are is only guessed ({session.site}), and --fix {fix} goes by that.",
                hint="Say it: --vocabulary e621 or --vocabulary danbooru.",
            )
        mending = [finding for finding in found if finding.rule == fix]
        return _mend(session, mending, fix, dry_run=dry_run, as_json=as_json)
    found = [finding for finding in found if not rules or finding.rule in rules]
    if as_json:
        output.data_json({"vocabulary": session.site, "captions": len(session.items), "findings": _as_json(found)})
    else:
        _print(found, everything=bool(rules))
        _sum_up(session, found, picked=query is not None)
    return FAILED if any(finding.severity != "note" for finding in found) else 0


def _findings(session: "Session", query: "Query | None") -> "list[CaptionFinding]":
    """All findings, or with a query those about the captions that it matches."""
    from loratory.editing.checks.caption import check_caption, issues
    from loratory.editing.checks.context import session_context
    from loratory.editing.checks.dataset_wide import check_set

    def check_each(items: "Sequence[Item]", context: "CheckContext") -> "list[CaptionFinding]":
        return [finding for item in items for finding in check_caption(item, context)]

    # What is said of a folder holds for the whole of it, not for those that a query picks.
    checks: tuple[Check, ...] = (check_each, check_set) if query is None else (check_each,)
    context = session_context(session)
    session.facts.issues_of = lambda item: issues(item, context)
    items = session.find(query)
    return [finding for run in checks for finding in run(items, context)]


def _mend(session: "Session", found: "Sequence[CaptionFinding]", rule: str, *, dry_run: bool, as_json: bool) -> int:
    from loratory.editing.checks.fixing import plan_fixes

    plan = plan_fixes(session, found, f"fix the findings of “{rule}”")
    left = sum(finding.automatic_fix is None for finding in found)
    if dry_run:
        changed, skipped = plan.changes, plan.refused
        if not as_json:
            print_patch(changed, session.directory)
    else:
        outcome = session.commit(plan)
        session.settle(outcome)
        changed, skipped = outcome.written, outcome.skipped
    if as_json:
        output.data_json(
            {
                "rule": rule,
                "dry_run": dry_run,
                "files": [_name(session, change.path) for change in changed],
                "skipped": [{"file": _name(session, path), "why": why} for path, why in skipped],
                "left": left,
            }
        )
    files = "1 caption" if len(changed) == 1 else f"{len(changed)} captions"
    output.say(f"{rule}: {files} {'would change' if dry_run else 'changed'}.")
    if changed and not dry_run:
        output.say(f"`loratory tag undo {_argument(session)}` takes it back.")
    if left:
        output.say(f"{left} of {len(found)} findings need a person: there is no fix that is certain.")
    for path, why in skipped:
        output.say(output.one_line(f"{shown(_name(session, path))}: left alone: {why}"))
    return FAILED if skipped else 0


def _print(found: "Sequence[CaptionFinding]", *, everything: bool) -> None:
    """The findings by rule, the worst rule first, then the one that says most; of each rule the first few.

    What is said of several pictures in the same words is said once, with their names behind it.
    """
    by_rule: defaultdict[str, list[CaptionFinding]] = defaultdict(list)
    for finding in found:
        by_rule[finding.rule].append(finding)
    worst = {rule: min(_WORST_FIRST[finding.severity] for finding in each) for rule, each in by_rule.items()}
    for rule in sorted(by_rule, key=lambda rule: (worst[rule], -len(by_rule[rule]), rule)):
        findings = sorted(by_rule[rule], key=lambda finding: _WORST_FIRST[finding.severity])
        output.data(f"{findings[0].severity} · {rule} · {len(findings)}")
        by_message: defaultdict[str, list[str]] = defaultdict(list)
        for finding in findings:
            by_message[finding.message].append(finding.item)
        said = sorted(by_message.items(), key=lambda each: -len(each[1]))
        for message, names in said if everything else said[:_SHOWN_PER_RULE]:
            if len(names) == 1:
                where = f"{shown(names[0])}: " if names[0] else ""
                output.data(f"  {output.one_line(where + message)}")
            else:
                output.data(f"  {len(names)} pictures: {output.one_line(message)}")
                output.data(f"    {', '.join(map(shown, names)) if everything else some_names(names)}")
        if len(said) > _SHOWN_PER_RULE and not everything:
            output.data(f"  and {len(said) - _SHOWN_PER_RULE} more: --rule {rule} shows all")


def _sum_up(session: "Session", found: "Sequence[CaptionFinding]", *, picked: bool) -> None:
    counts = Counter(finding.severity for finding in found)
    said = [
        f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}"
        for severity in ("error", "warning", "note")
        if counts[severity]
    ]
    looked_at = "the captions that match" if picked else pictures(len(session.items))
    output.say(f"{', '.join(said) or 'Nothing found'} in {looked_at}, by the vocabulary of {session.site}.")
    if not session.vocabulary.known() and session.site != "natural":
        output.say(f"Only its starter pack is known; `loratory vocab fetch {session.site}` imports the full list.")
    mendable = Counter(finding.rule for finding in found if finding.automatic_fix is not None)
    if mendable:
        rule, count = mendable.most_common(1)[0]
        output.say(
            f"`loratory check {_argument(session)} --fix {rule} --dry-run` shows how {count} of them can be mended."
        )


def _as_json(found: "Sequence[CaptionFinding]") -> list[dict[str, Any]]:
    return [
        {
            "rule": finding.rule,
            "severity": finding.severity,
            "picture": finding.item or None,
            "path": None if finding.path is None else str(finding.path),
            "message": finding.message,
            "tags": list(finding.tags),
            "fixes": [{"label": fix.label, "scope": fix.scope, "automatic": fix.automatic} for fix in finding.fixes],
        }
        for finding in found
    ]


def _name(session: "Session", path: Path) -> str:
    """The path as seen from DIR."""
    return path.relative_to(session.directory).as_posix()


def _argument(session: "Session") -> str:
    """The dataset as it can be typed."""
    return shlex.quote(str(session.directory))


def _known_rule(rule: str) -> None:
    from loratory.editing.checks.rules import RULES

    if rule not in RULES:
        near = difflib.get_close_matches(rule, RULES, n=1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise LoratoryError(f"There is no rule {rule!r}.", hint=f"{meant}`loratory check --list-rules` names them all.")


def _list_rules(as_json: bool) -> None:
    from loratory.editing.checks.rules import RULES

    if as_json:
        output.data_json([dataclasses.asdict(rule) for rule in RULES.values()])
        return
    width = max(map(len, RULES))
    for rule in RULES.values():
        output.data(f"{rule.rule:{width}}  {rule.severities[0]:7}  {rule.what}")
