"""The edits that can be typed, as one table: `loratory tag VERB` and the editor's ":" line read it both.

Each verb is a click command that returns an edit instead of doing anything.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

from loratory.errors import LoratoryError
from loratory.tags.edits import (
    Add,
    Dedupe,
    Edit,
    Move,
    Normalise,
    Position,
    Remove,
    Rename,
    SetText,
    Sort,
    Substitute,
    ToUtf8,
)
from loratory.tags.text import split_tags

_PLACES: dict[str, Position] = {"start": "start", "first": "start", "end": "end", "last": "end"}


@dataclass(frozen=True)
class Verb:
    """One verb.

    help: a sentence on what it does. details: what else is worth knowing. params: fresh click parameters at each
    call. build: makes the edit of their values.
    """

    name: str
    help: str
    details: str
    params: Callable[[], list[click.Parameter]]
    build: Callable[..., Edit]

    @property
    def usage(self) -> str:
        """What follows the verb: "[--regex] PATTERN TEXT"."""
        return " ".join(map(_usage, self.params()))


class VerbCommand(click.Command):
    """A command that takes a negative number at its end for a position instead of an option: `move solo -1`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_position = any(param.name == "position" for param in self.params)
        negative = [arg for arg in args if re.fullmatch(r"-\d+", arg)]
        if takes_position and len(negative) == 1 and "--" not in args:
            args = [*(arg for arg in args if arg not in negative), "--", *negative]
        return super().parse_args(ctx, args)


def parse_verb(line: str) -> Edit:
    """The edit that a line such as `add --prepend side view, solo` asks for.

    Words belong together up to a comma; double quotes keep them together where a verb takes two tags, as in
    `rename "blue eyes" "green eyes"`. Raises LoratoryError, with the usage, for anything else.
    """
    name, _, rest = line.strip().partition(" ")
    if not name:
        raise LoratoryError("No verb is given.", hint=f"There are {', '.join(VERBS)}.")
    verb = VERBS.get(name)
    if verb is None:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(VERBS)}."
        raise LoratoryError(f"There is no verb “{name}”.", hint=hint)
    words = _words(rest) if verb.name != "set" else ["--", _unquoted(rest.strip())] if rest.strip() else []
    command = VerbCommand(verb.name, params=verb.params(), add_help_option=False)
    try:
        with command.make_context(verb.name, words, help_option_names=[]) as context:
            values = dict(context.params)
            if "tags" in values and '"' not in rest:
                values["tags"] = (" ".join(values["tags"]),)
            return verb.build(**values)
    except click.ClickException as wrong:
        quote = ' Quotes keep words together: "blue eyes".' if "extra argument" in wrong.format_message() else ""
        usage = f"{verb.name} {verb.usage}".strip()
        raise LoratoryError(f"{verb.name}: {wrong.format_message()}", hint=f"Usage: {usage}.{quote}") from None


def _unquoted(text: str) -> str:
    # A text is taken as it is written, quotation marks inside included.
    is_quoted = len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]
    return text[1:-1] if is_quoted else text


def _words(line: str) -> list[str]:
    # Only double quotes, and no escapes: apostrophes and the \( of a tag are what they are.
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.quotes, lexer.escape, lexer.commenters = '"', "", ""
    try:
        return list(lexer)
    except ValueError:
        raise LoratoryError("A quotation mark is not closed.", hint='Write "blue eyes" with two of them.') from None


def _usage(param: click.Parameter) -> str:
    if not isinstance(param, click.Option):
        return str(param.metavar)
    names = "/".join([*param.opts[:1], *param.secondary_opts[:1]])
    return f"[{names}]" if param.is_flag else f"[{names} {param.metavar}]"


def _place(context: click.Context, param: click.Parameter, value: str | None) -> Position | None:
    """A position: a number counted from 1, or from the end where it is negative, or a word."""
    if value is None or value in _PLACES:
        return None if value is None else _PLACES[value]
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no position. Give a number from 1, one below 0 from the end, or start or end.",
            context,
            param,
        ) from None


def _add(tags: Sequence[str], prepend: bool, at: Position | None, move: bool) -> Edit:
    if prepend and at is not None:
        raise click.UsageError("--prepend and --at are two places.")
    position = "start" if prepend else "end" if at is None else at
    return Add(_split(tags), position, "move" if move else "skip")


def _remove(tags: Sequence[str]) -> Edit:
    return Remove(_split(tags))


def _rename(old: str, new: str) -> Edit:
    tags = split_tags(new)
    if not tags:
        raise click.UsageError("NEW is empty; `remove` removes a tag.")
    return Rename(old, tags)


def _replace(regex: bool, caption: bool, ignore_case: bool, pattern: str, text: str) -> Edit:
    return Substitute(pattern, text, regex, "caption" if caption else "tag", ignore_case)


def _move(tags: Sequence[str], position: Position) -> Edit:
    return Move(" ".join(tags), position)


def _set(text: Sequence[str]) -> Edit:
    return SetText(" ".join(text))


def _normalise(underscores: bool | None, escape: bool | None, spacing: bool) -> Edit:
    return Normalise(
        "keep" if underscores is None else "underscores" if underscores else "spaces",
        "keep" if escape is None else "add" if escape else "remove",
        spacing,
    )


def _split(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(tag for text in texts for tag in split_tags(text))


def _tags() -> click.Argument:
    return click.Argument(["tags"], nargs=-1, required=True, metavar="TAG…")


def _text(name: str) -> click.Argument:
    return click.Argument([name], required=True, metavar=name.upper())


def _flag(names: str, help_text: str, *, default: bool | None = False) -> click.Option:
    return click.Option([names], is_flag=True, default=default, help=help_text)


_TABLE = (
    Verb(
        "add",
        "Add tags, at the end unless a place is given.",
        "A TAG may be a list with commas. Tags that a caption has already stay where they are; an image without a "
        "caption file gets one.",
        lambda: [
            _flag("--prepend", "Put them first, in the order given."),
            click.Option(
                ["--at"], callback=_place, metavar="N", help="Position of the first: from 1, or -1 for the last."
            ),
            _flag("--move", "Bring tags that are there already to that place too."),
            _tags(),
        ],
        _add,
    ),
    Verb(
        "remove",
        "Remove tags wherever they occur.",
        "A TAG may be a list with commas. Case, underscores and escaped brackets make no difference.",
        lambda: [_tags()],
        _remove,
    ),
    Verb(
        "rename",
        "Rename a tag, in its place.",
        "NEW may be a list with commas: one tag becomes several. Where a caption has NEW already, one copy stays.",
        lambda: [_text("old"), _text("new")],
        _rename,
    ),
    Verb(
        "replace",
        "Replace text inside every tag.",
        "A tag that becomes empty goes. With --regex, \\1 and \\g<name> in TEXT stand for groups of PATTERN.",
        lambda: [
            _flag("--regex", "PATTERN is a regular expression of Python."),
            _flag("--caption", "Search the whole caption with its commas and lines, not tag by tag."),
            _flag("--ignore-case", "Find capitals and small letters alike."),
            _text("pattern"),
            _text("text"),
        ],
        _replace,
    ),
    Verb(
        "move",
        "Move a tag to another position.",
        "POSITION is a number from 1, start or end; -1 is the last.",
        lambda: [
            click.Argument(["tags"], nargs=-1, required=True, metavar="TAG"),
            click.Argument(["position"], callback=_place, required=True, metavar="POSITION"),
        ],
        _move,
    ),
    Verb(
        "sort",
        "Sort the tags of each caption by alphabet.",
        "Tags that a fence ||| keeps in front or at the end stay where they are.",
        lambda: [
            click.Option(
                ["--keep-first"], type=click.IntRange(0), default=0, metavar="N", help="Leave the first N in place."
            )
        ],
        Sort,
    ),
    Verb(
        "dedupe",
        "Remove repeated tags; the first copy stays.",
        "Tags that differ in case, underscores or escaped brackets alone are the same.",
        list,
        Dedupe,
    ),
    Verb(
        "set",
        "Replace the whole caption.",
        "Line breaks stay as they are customary in the file. An empty TEXT empties the captions.",
        lambda: [click.Argument(["text"], nargs=-1, required=True, metavar="TEXT")],
        _set,
    ),
    Verb(
        "normalise",
        "Write tags one way: underscores, escaped brackets, spacing.",
        "Emoticons such as ^_^ keep their underscores.",
        lambda: [
            _flag("--underscores/--spaces", "Underscores for spaces, or the other way round.", default=None),
            _flag("--escape/--unescape", "Write ( as \\(, or the other way round.", default=None),
            _flag("--spacing", "“a ,b,,c” becomes “a, b, c”."),
        ],
        _normalise,
    ),
    Verb("utf8", "Convert captions of other encodings to UTF-8.", "The text stays the same.", list, ToUtf8),
)

VERBS = {verb.name: verb for verb in _TABLE}
