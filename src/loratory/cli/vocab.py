"""`loratory vocab`: what the program knows of the tags of e621 and Danbooru, and more of it."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loratory.cli import output
from loratory.cli.numbers import FiniteRange
from loratory.cli.progress import LINE_EVERY_S, POLL_EVERY_S
from loratory.errors import FAILED, LoratoryError
from loratory.tags.vocabulary import fetch as fetching
from loratory.tags.vocabulary.importing import Imported, import_files, remove_vocabulary
from loratory.tags.vocabulary.link import Link
from loratory.tags.vocabulary.model import SITES, Site, Size, TagInfo
from loratory.tags.vocabulary.packs import rules_path
from loratory.tags.vocabulary.store import Vocabulary, open_vocabulary

_NAMES_SHOWN = 40

_site = click.Choice(SITES)


@click.group()
def vocab() -> None:
    """What is known of tags: their categories, other names, and which follow from others."""


@vocab.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_command(as_json: bool) -> None:
    """What is known of each site, and where it is from."""
    vocabularies = [open_vocabulary(site) for site in SITES]
    if as_json:
        output.data_json([_listed(vocabulary) for vocabulary in vocabularies])
        return
    for vocabulary in vocabularies:
        output.data(f"{vocabulary.site}: {_amount(_imported_size(vocabulary)) or 'nothing'} imported")
        for source in vocabulary.sources():
            size = _amount(Size(source.tags, source.aliases, source.implications))
            output.data(f"    {_day(source.added_s)}  {output.one_line(source.file)} ({source.format}): {size}")
        output.data(f"    starter pack: {_amount(vocabulary.pack_size) or 'nothing'}")
        rules = _amount(vocabulary.rules_size)
        if rules:
            output.data(f"    your rules, {output.one_line(str(rules_path(vocabulary.site)))}: {rules}")


@vocab.command("add")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--site", type=_site, help="The site that the tags are from; by default told from the files.")
@click.option("--replace", is_flag=True, help="Drop what was imported before of the tables in FILES.")
@click.option("--min-posts", type=click.IntRange(min=0), default=0, help="Leave out tags of fewer posts.")
def add_command(files: tuple[Path, ...], site: Site | None, replace: bool, min_posts: int) -> None:
    """Import tag lists and dumps, as one import.

    FILES are tag lists (name,category,count,"alias,alias"), e621 exports (tags, tag_aliases, tag_implications; CSV or
    CSV.gz), pages of Danbooru's API (JSON) or rules (TOML).
    """
    with _bar() as draw:
        site, imported = import_files(
            files,
            site,
            replace=replace,
            min_posts=min_posts,
            progress=lambda done, total: draw("importing", done, total),
        )
    _index(site)
    _report(site, imported)


@vocab.command("fetch")
@click.argument("site", type=click.Choice(list(fetching.BASE_URLS)))
@click.option("--what", metavar="TABLES", default=",".join(fetching.TABLES), show_default=True)
@click.option("--min-posts", type=click.IntRange(min=1), default=1, show_default=True, help="Leave out rarer tags.")
@click.option("--delay", "delay_s", type=FiniteRange(min=1), default=1, help="Seconds between requests to an API.")
@click.option("--timeout", "timeout_s", type=FiniteRange(min=0.1), default=30, help="Seconds of silence to bear.")
@click.option("--base-url", metavar="URL", help="Another server with the same paths, such as a mirror.")
def fetch_command(
    site: fetching.FetchedSite, what: str, min_posts: int, delay_s: float, timeout_s: float, base_url: str | None
) -> None:
    """Download the vocabulary of e621 or danbooru, and import it in place of an older one.

    A download that is cut off goes on where it stopped when the command is given again. e621 publishes its tables as
    files, a new set each day; Danbooru hands them out in pages of 1000, one a second.
    """
    tables = [name.strip() for name in what.split(",")]
    unknown = next((name for name in tables if name not in fetching.TABLES), None)
    if unknown is not None:
        raise LoratoryError(f"There is no table “{unknown}”.", hint=f"There are {', '.join(fetching.TABLES)}.")
    link = Link(base_url or fetching.BASE_URLS[site], delay_s=delay_s, timeout_s=timeout_s, tell=output.say)
    with _bar() as draw:
        files = fetching.fetch(
            site,
            cast(list[fetching.Table], list(dict.fromkeys(tables))),
            link,
            min_posts=min_posts,
            today=datetime.now(UTC).date(),
            progress=draw,
        )
        _, imported = import_files(
            files,
            site,
            replace=True,
            min_posts=min_posts,
            progress=lambda done, total: draw("importing", done, total),
        )
    fetching.forget(files)
    _index(site)
    _report(site, imported)


def _index(site: Site) -> None:
    """Makes the indexes of completion and typos now, which takes seconds for a big site, not when the editor starts."""
    from loratory.editing.checks.near import known_names
    from loratory.tags.completion.completer import open_index

    with output.working("preparing completion and typos"):
        vocabulary = open_vocabulary(site)
        open_index(vocabulary)
        known_names(vocabulary)


@vocab.command("show")
@click.argument("tag")
@click.option("--site", type=_site, help="Only this site; by default every one that knows the tag.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def show_command(tag: str, site: Site | None, as_json: bool) -> None:
    """What is known of TAG: its category, its other names, what it implies and what implies it."""
    vocabularies = [open_vocabulary(each) for each in ((site,) if site else SITES)]
    found = [facts for vocabulary in vocabularies if (facts := _facts(vocabulary, tag)) is not None]
    if not found:
        where = site or "any site"
        hint = "" if any(each.known() for each in vocabularies) else "Only the starter pack is there: see `vocab add`."
        raise LoratoryError(f"“{tag}” is not known for {where}.", hint=hint, exit_code=FAILED)
    if as_json:
        output.data_json(found)
        return
    for facts in found:
        for line in _lines(facts):
            output.data(output.plain(line))


@vocab.command("remove")
@click.argument("site", type=_site)
def remove_command(site: Site) -> None:
    """Remove what was imported for SITE. The starter pack and your rules stay."""
    if not remove_vocabulary(site):
        raise LoratoryError(f"Nothing was imported for {site}.")
    output.say(f"Removed what was imported for {site}.")


def _listed(vocabulary: Vocabulary) -> dict[str, Any]:
    rules = rules_path(vocabulary.site)
    return {
        "site": vocabulary.site,
        **_imported_size(vocabulary)._asdict(),
        "sources": [
            {
                "file": source.file,
                "format": source.format,
                "added": datetime.fromtimestamp(source.added_s, UTC).isoformat(timespec="seconds"),
                "tags": source.tags,
                "aliases": source.aliases,
                "implications": source.implications,
            }
            for source in vocabulary.sources()
        ],
        "starter_pack": vocabulary.pack_size._asdict(),
        "rules": vocabulary.rules_size._asdict() | {"path": str(rules)} if rules.exists() else None,
    }


def _imported_size(vocabulary: Vocabulary) -> Size:
    sources = vocabulary.sources()
    return Size(
        sum(source.tags for source in sources),
        sum(source.aliases for source in sources),
        sum(source.implications for source in sources),
    )


def _amount(size: Size) -> str:
    """`22,419 tags, 1 alias`; "" for nothing at all."""
    singular = {"tags": "tag", "aliases": "alias", "implications": "implication"}
    parts = ((count, name if count != 1 else singular[name]) for name, count in size._asdict().items() if count)
    return ", ".join(f"{count:,} {name}" for count, name in parts)


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s).strftime("%Y-%m-%d")


def _facts(vocabulary: Vocabulary, tag: str) -> dict[str, Any] | None:
    """What one site knows of `tag`; None where it knows nothing."""
    info = vocabulary.find(tag)
    targets = vocabulary.resolve(tag)
    implied = vocabulary.implications(tag)
    shown = info or (targets[0] if len(targets) == 1 else None)
    implied_by = vocabulary.implied_by(shown.name if shown else tag)
    if info is None and not targets and not implied and not implied_by:
        return None
    return {
        "site": vocabulary.site,
        "tag": tag,
        "canonical": _told(info) if info else None,
        "alias_of": [_told(target) for target in targets],
        "aliases": list(vocabulary.aliases(shown.name)) if shown else [],
        "implies": [{"path": list(each.path), "origin": each.origin} for each in implied.values()],
        "implied_by": list(implied_by),
        "translation": vocabulary.translate(shown.name) if shown else None,
    }


def _told(info: TagInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "category": info.category,
        "count": info.count,
        "deprecated": info.deprecated,
        "origin": info.origin,
    }


def _lines(facts: dict[str, Any]) -> Generator[str]:
    if facts["canonical"]:
        yield f"{facts['site']}: {_sentence(facts['canonical'])}"
    elif facts["alias_of"]:
        joined = " or ".join(_sentence(target) for target in facts["alias_of"])
        yield f"{facts['site']}: {output.one_line(facts['tag'])} stands for {joined}"
    else:
        yield f"{facts['site']}: {output.one_line(facts['tag'])}, in no list"
    if facts["aliases"]:
        yield f"    other names: {_some(facts['aliases'])}"
    for each in facts["implies"]:
        origin = {"import": "", "pack": " (starter pack)", "rules": " (your rules)"}[each["origin"]]
        yield f"    implies {each['path'][-1]}: {' → '.join(each['path'])}{origin}"
    if facts["implied_by"]:
        yield f"    implied by: {_some(facts['implied_by'])}"
    if facts["translation"]:
        yield f"    on the other site: {facts['translation']}"


def _sentence(info: dict[str, Any]) -> str:
    posts = f", {info['count']:,} post{'s' if info['count'] > 1 else ''}" if info["count"] else ""
    origin = {"import": "", "pack": ", from the starter pack", "rules": ", from your rules"}[info["origin"]]
    return f"{info['name']} ({info['category']}{posts}{', deprecated' if info['deprecated'] else ''}{origin})"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _report(site: Site, imported: list[Imported]) -> None:
    for one in imported:
        size = _amount(Size(one.source.tags, one.source.aliases, one.source.implications))
        output.say(f"{site}: {size or 'nothing new'} from {output.one_line(one.path.name)} ({one.source.format}).")
        for why, count in one.tally.skipped.items():
            output.say(f"    {count:,} left out: {why}")
        if one.tally.unknown_categories:
            output.say(f"    {one.tally.unknown_categories:,} of a category unknown to {site}, taken as general")
        if one.tally.bad:
            first = "; ".join(output.one_line(each) for each in one.tally.first_bad)
            rest = "; …" if one.tally.bad > len(one.tally.first_bad) else ""
            output.say(f"    {one.tally.bad:,} rows could not be used: {first}{rest}", "yellow")


@contextmanager
def _bar() -> Generator[Callable[[str, int, int], None]]:
    """Draws how far something is, with the time left; in a pipe or a log it says so in a plain line now and then."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%", markup=False),
        TimeRemainingColumn(),
    )
    # Drawn when there is something new: rich's own thread would die noisily when the terminal goes away.
    bar = Progress(*columns, console=output.talk, transient=True, auto_refresh=False)
    task = bar.add_task("", total=None)
    redraws, every_s = output.redraws(), POLL_EVERY_S if output.redraws() else LINE_EVERY_S
    drawn_s, drawn_stage = time.monotonic(), ""

    def draw(label: str, done: int, total: int) -> None:
        nonlocal drawn_s, drawn_stage
        stage = label.partition(",")[0]
        if stage != drawn_stage:
            drawn_stage = stage
            bar.reset(task)
        if time.monotonic() - drawn_s < every_s:
            return
        drawn_s = time.monotonic()
        if redraws:
            bar.update(task, description=output.spelled(label), completed=done, total=total or None)
            with suppress(OSError):
                bar.refresh()
        else:
            output.say(f"{label}: {done / total:.0%}" if total else label)

    try:
        if redraws:
            with suppress(OSError):
                bar.start()
        yield draw
    finally:
        with suppress(OSError):
            bar.stop()
