"""`loratory check`: what weakens training in pictures and captions, and what a trainer would read otherwise."""

import dataclasses
import difflib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loratory.cli import output
from loratory.cli.check_fix import argument, mend
from loratory.dataset.findings import shown
from loratory.dataset.listing import pictures, some_names
from loratory.errors import FAILED, LoratoryError

if TYPE_CHECKING:
    from loratory.config.schema import Config
    from loratory.editing.checks.context import CheckContext
    from loratory.editing.checks.finding import CaptionFinding
    from loratory.editing.items import Item
    from loratory.editing.session import Session
    from loratory.tags.query import Query

_SHOWN_PER_RULE = 10
# What these rules would change hangs on the site.
_BY_VOCABULARY = frozenset({"alias", "deprecated", "typo", "wrong-site"})
_WORST_FIRST = {"error": 0, "warning": 1, "note": 2}
_ALL = "all"


@click.command()
@click.argument("directory", metavar="DIR", required=False, type=click.Path(path_type=Path))
@click.option("--rule", "rules", multiple=True, metavar="ID", help="Say all that this rule finds, and no others.")
@click.option("--where", metavar="QUERY", help="Look at these pictures only, and not at the set as a whole.")
@click.option("--vocabulary", type=click.Choice(["e621", "danbooru", "natural"]), help="Check as if it were this.")
@click.option(
    "--config",
    "config_path",
    metavar="CONFIG",
    type=click.Path(path_type=Path),
    help="Check by the settings of this training; its pictures, where no DIR is given.",
)
@click.option("--no-pictures", is_flag=True, help="Look at the captions only, which is instant.")
@click.option(
    "--fix",
    "fixes",
    multiple=True,
    metavar="ID",
    help="Mend what this rule finds so that it can be undone; “all” is every rule with a certain fix.",
)
@click.option("--dry-run", is_flag=True, help="With --fix: print what would change, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--list-rules", is_flag=True, help="Name every rule, and what it looks for.")
def check(
    directory: Path | None,
    rules: tuple[str, ...],
    where: str | None,
    vocabulary: Any,
    config_path: Path | None,
    no_pictures: bool,
    fixes: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    list_rules: bool,
) -> int:
    """What weakens training in the pictures and captions of DIR, and what a trainer would read otherwise than it looks.

    Exits with 1 when there are warnings or errors.
    """
    if list_rules:
        _list_rules(as_json)
        return 0
    config = None if config_path is None else _read_config(config_path)
    if directory is None and config is not None:
        directory = config.dataset.train_data_dir
    if directory is None:
        raise click.UsageError("Missing argument 'DIR'.")
    if dry_run and not fixes:
        raise click.UsageError("--dry-run goes with --fix.")
    for rule in (*rules, *(fix for fix in fixes if fix != _ALL)):
        _known_rule(rule)

    from loratory.editing.checks.folders import trained
    from loratory.tags.query import parse_query

    query = None if where is None else parse_query(where)
    session = _open(directory, vocabulary, config)
    looks = not no_pictures and _needs_pictures(rules, fixes, query)
    found, items = _findings(session, query, config, pictures=looks)
    dataset = session.settings.dataset_settings(session.root) if config is None else config.dataset
    size = dataset.resolution_wh
    if fixes:
        return _mend(session, items, found, fixes, vocabulary, size, dry_run=dry_run, as_json=as_json)
    found = [finding for finding in found if not rules or finding.rule in rules]
    count = len(trained(session.items, session.directory))
    if as_json:
        output.data_json({"vocabulary": session.site, "captions": count, "findings": _as_json(found)})
    else:
        _print(found, everything=bool(rules))
        _sum_up(session, found, count, size if looks else None, picked=query is not None)
    return FAILED if any(finding.severity != "note" for finding in found) else 0


def _read_config(path: Path) -> "Config":
    from loratory.config.load import load_config

    return load_config(path)


def _open(directory: Path, vocabulary: Any, config: "Config | None") -> "Session":
    """The dataset with its settings as they are to be for this time: none of them is saved."""
    from loratory.editing.session import open_session

    with output.working("reading captions"):
        session = open_session(directory)
    settings = session.settings
    if config is not None:
        extension = settings.caption_extension
        settings.caption = config.caption.model_dump(exclude_defaults=True)
        settings.goal = config.dataset.goal
        settings.train_batch_size = config.training.train_batch_size
        if "vocabulary" in config.dataset.model_fields_set:
            settings.vocabulary = config.dataset.vocabulary
        if settings.caption_extension != extension:
            session.rescan()
    if vocabulary is not None:
        settings.vocabulary = vocabulary
    return session


def _needs_pictures(rules: Sequence[str], fixes: Sequence[str], query: "Query | None") -> bool:
    """Whether what is asked for takes a look at the pictures."""
    from loratory.editing.checks.rules import PICTURE_RULES

    asked = (*rules, *fixes)
    asks_for_issues = query is not None and not query.needs.isdisjoint(("issue", "dup"))
    return not asked or asks_for_issues or _ALL in asked or any(rule in PICTURE_RULES for rule in asked)


def _findings(
    session: "Session", query: "Query | None", config: "Config | None", *, pictures: bool
) -> "tuple[list[CaptionFinding], list[Item]]":
    """All findings, or with a query those about the pictures that it matches; the pictures that they may be about."""
    from loratory.editing.checks.caption import check_caption, issues
    from loratory.editing.checks.context import session_context
    from loratory.editing.checks.dataset_wide import check_set
    from loratory.editing.checks.folders import trained

    with output.working("checking captions"):
        context = session_context(session)
    found: list[CaptionFinding] = []
    others: list[Item] = []
    if pictures:
        found, others = _of_pictures(session, context, config)
    session.facts.issues_of = lambda item: issues(item, context)
    items = trained(session.find(query), session.directory)
    if query is not None:
        picked = {item.name for item in items}
        found = [finding for finding in found if finding.item in picked]
    else:
        # What is said of a folder holds for the whole of it, not for those that a query picks.
        found += check_set(items, context)
    said_of_captions = [finding for item in items for finding in check_caption(item, context)]
    return [*said_of_captions, *found], [*session.items, *others]


def _of_pictures(
    session: "Session", captions: "CheckContext", config: "Config | None"
) -> "tuple[list[CaptionFinding], list[Item]]":
    """What is said of pictures and folders, and the pictures that no trainer reads."""
    from loratory.editing.checks.looking import check_session_pictures, look_at_pictures

    dataset = None if config is None else config.dataset
    with output.counting("looking at pictures") as at:
        looked = look_at_pictures(session, captions, dataset, progress=at)
    with output.working("comparing pictures"):
        found = check_session_pictures(session, looked)
    return found, [picture.item for picture in looked.pictures]


def _mend(
    session: "Session",
    items: "Sequence[Item]",
    found: "Sequence[CaptionFinding]",
    fixes: Sequence[str],
    vocabulary: Any,
    resolution: tuple[int, int],
    *,
    dry_run: bool,
    as_json: bool,
) -> int:
    is_guessed = vocabulary is None and session.settings.vocabulary is None
    wanted = frozenset(fixes)
    if is_guessed and wanted & _BY_VOCABULARY:
        rule = next(rule for rule in fixes if rule in _BY_VOCABULARY)
        raise LoratoryError(
            f"Whose tags these are is only guessed ({session.site}), and --fix {rule} goes by that.",
            hint="Say it: --vocabulary e621 or --vocabulary danbooru.",
        )
    if _ALL in wanted:
        left_out = _BY_VOCABULARY if is_guessed else frozenset[str]()
        mending = [finding for finding in found if finding.automatic_fix and finding.rule not in left_out]
        if any(finding.automatic_fix and finding.rule in left_out for finding in found):
            output.say(f"{', '.join(sorted(left_out))} are left out: say whose tags these are with --vocabulary.")
    else:
        mending = [finding for finding in found if finding.rule in wanted]
    return mend(session, items, mending, fixes, resolution, dry_run=dry_run, as_json=as_json)


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


def _sum_up(
    session: "Session",
    found: "Sequence[CaptionFinding]",
    count: int,
    resolution: tuple[int, int] | None,
    *,
    picked: bool,
) -> None:
    """How much was found, and by what it goes.

    count: of the pictures that a run would train. resolution: that pictures were judged by, None where they were not.
    """
    counts = Counter(finding.severity for finding in found)
    said = [
        f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}"
        for severity in ("error", "warning", "note")
        if counts[severity]
    ]
    looked_at = "the pictures that match" if picked else pictures(count)
    size = "" if resolution is None else f" for {resolution[0]}x{resolution[1]} px"
    output.say(f"{', '.join(said) or 'Nothing found'} in {looked_at}{size}, by the vocabulary of {session.site}.")
    if not session.vocabulary.known() and session.site != "natural":
        output.say(f"Only its starter pack is known; `loratory vocab fetch {session.site}` imports the full list.")
    mendable = Counter(finding.rule for finding in found if finding.automatic_fix is not None)
    if mendable:
        rule, count = mendable.most_common(1)[0]
        output.say(
            f"`loratory check {argument(session)} --fix {rule} --dry-run` shows how {count} of them can be mended."
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
