"""A command line or shell script that starts sd-scripts, as arguments."""

import re
import shlex
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from loratory.config.kohya.report import Given
from loratory.config.kohya.settings import names
from loratory.errors import LoratoryError

_LARGEST_CHARACTERS = 1 << 20
_SCRIPT = re.compile(r"(^|[/\\])((sdxl_)?train_network)(\.py)?$")
_FOREIGN_SCRIPT = re.compile(r"(^|[/\\])(\w*train\w*)\.py$")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_END = frozenset({";", "&&", "||", "|", "&", ">", ">>", "2>", "2>&1", "<"})
_LISTS = frozenset(
    names("network_args optimizer_args lr_scheduler_args text_encoder_lr base_weights base_weights_multiplier")
)


class Command(NamedTuple):
    """The options of a command line. script: the sd-scripts program without ".py", "" when there is none. launcher: the
    options in front of it, those of accelerate."""

    arguments: dict[str, Given]
    network: dict[str, Given]
    script: str
    launcher: dict[str, Given]


def read_command(text: str) -> Command:
    """The first command in a shell script (or the one command line) that runs a script of sd-scripts.

    Quotes, comments, line continuations and variables set in the same text are understood. Raises LoratoryError when
    there is no such command, or when its quotes do not match.
    """
    if len(text) > _LARGEST_CHARACTERS:
        raise LoratoryError("The text is too long for a command line.")
    variables: dict[str, str] = {}
    foreign = ""
    for line in _lines(text):
        words = _words(_with_variables(line, variables))
        assigned = words[1:] if words[:1] in (["export"], ["set"]) else words
        if all(_ASSIGNMENT.match(word) for word in assigned):
            variables |= dict(word.split("=", 1) for word in assigned)
            continue
        for position, word in enumerate(words):
            if _SCRIPT.search(word):
                launcher = {name: _given(name, values) for name, values in _options(words[:position])}
                return _command(words[position + 1 :], word)._replace(launcher=launcher)
            foreign = foreign or (word if _FOREIGN_SCRIPT.search(word) else "")
    if foreign:
        raise LoratoryError(
            f"The command runs {foreign!a}, which is not train_network.py or sdxl_train_network.py.",
            hint="Loratory trains adapters for Stable Diffusion 1, 2 and XL.",
        )
    if text.lstrip().startswith("--"):
        return read_options(text)
    raise LoratoryError("There is no command that runs train_network.py or sdxl_train_network.py.")


def read_options(text: str) -> Command:
    """The options in a piece of a command line. Raises LoratoryError for quotes that do not match."""
    return _command(_words(" ".join(_lines(text))), "")


def network_items(value: object, key: str) -> dict[str, Given]:
    """The items of `--network_args`: a list of `name=value`, or one text of such."""
    pieces = value if isinstance(value, list | tuple) else str(value).split()
    items: dict[str, Given] = {}
    for piece in pieces:
        name, equals, text = str(piece).replace('"', "").partition("=")
        if name.strip():
            items[name.strip()] = Given(f"{key}.{name.strip()}", text.strip() if equals else True)
    return items


def _lines(text: str) -> Iterator[str]:
    """Logical lines: continued ones (a backslash, in Windows' shells ^ or a backtick) are joined."""
    yield from re.sub(r"[ \t]*[\\^`]\r?\n", " ", text).split("\n")


def _words(line: str) -> list[str]:
    # In a path of Windows a backslash is no quote.
    has_windows_path = re.search(r"[A-Za-z]:\\", line) is not None
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    if has_windows_path:
        lexer.escape = ""
    try:
        return list(lexer)
    except ValueError as error:
        raise LoratoryError(f"The command line cannot be read: {str(error).lower()}: {line[:80]!a}.") from None


def _with_variables(line: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda match: variables.get(match[1] or match[2], match[0]), line)


def _command(words: Iterable[str], script: str) -> Command:
    arguments: dict[str, Given] = {}
    network: dict[str, Given] = {}
    for name, values in _options(words):
        if name in ("network_args", "networks_args"):
            network |= network_items(values, f"--{name}")
        else:
            arguments[name] = _given(name, values)
    found = _SCRIPT.search(script)
    return Command(arguments, network, found[2] if found else "", {})


def _given(name: str, values: list[str]) -> Given:
    if not values:
        return Given(f"--{name}", True)
    return Given(f"--{name}", values if name in _LISTS else " ".join(values))


def _options(words: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Each `--name` with the words that belong to it; words that belong to none are left out."""
    name, values = "", list[str]()
    for word in words:
        if word in _END:
            break
        if word.startswith("--"):
            if name:
                yield name, values
            name, equals, value = word[2:].partition("=")
            name, values = name.rstrip(";").replace("-", "_"), [value.rstrip(";")] if equals else []
        elif name:
            values.append(word.rstrip(";"))
        if word.endswith(";"):
            break
    if name:
        yield name, values
