"""`recipes.toml`: what is done to the pictures of a folder, as a file that a person can read and change."""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tomli_w

from loratory.config.toml_files import parse_toml
from loratory.errors import LoratoryError
from loratory.imaging.recipe import CLEANS, FORMATS, Box, Defaults, Recipe, background_colour

FILE_NAME = "recipes.toml"

# Ten thousand pictures with a recipe each need about 2 MB.
_LARGEST_BYTES = 64 << 20
_MOST_MISTAKES_SHOWN = 20
_PORTION_CHARACTERS = 1 << 16

_HEAD = """\
# What is done to the pictures of this folder before they are trained on. The pictures themselves are never changed.
# [prepare] and [defaults] go for all of them; a table named like a picture says what is different for that one:
# skip, name, background, erase, crop, split, flip, clean, clean_scale, max_side_px, upscale, format, tags.
# Boxes are [left, top, right, bottom] in px of the upright picture.
"""


@dataclass(frozen=True)
class Prepare:
    """Where prepared pictures go and what is added to their captions.

    token, class_token: the first two tags of every caption, "" for none. repeats: how often an epoch visits each.
    destination: the folder that the concept folder is made in, as written; "" where it is not decided.
    """

    token: str = ""
    class_token: str = ""
    repeats: int = 1
    destination: str = ""


@dataclass(frozen=True)
class Book:
    """The contents of a `recipes.toml`. recipes: by the picture's name; pictures without one have the default."""

    prepare: Prepare = field(default_factory=Prepare)
    defaults: Defaults = field(default_factory=Defaults)
    recipes: Mapping[str, Recipe] = field(default_factory=dict[str, Recipe])


def read_recipes(path: Path) -> Book:
    """The book in `path`; an empty one where there is no such file.

    Raises LoratoryError, naming every table and key that is wrong.
    """
    try:
        if not path.exists():
            return Book()
        if not path.is_file():
            raise LoratoryError(f"{path} is no regular file.", hint="Move it away; a new one is written.")
        if path.stat().st_size > _LARGEST_BYTES:
            raise LoratoryError(f"{path} is no file of recipes: it has {path.stat().st_size / 1e6:.0f} MB.")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise LoratoryError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise LoratoryError(f"{path} is not UTF-8 text (offset {error.start}).", hint="Save it as UTF-8.") from error
    return parse_recipes(text, path)


def parse_recipes(text: str, path: Path) -> Book:
    """`read_recipes` for text at hand; `path` is named in errors."""
    try:
        return _book(_portions(text), path)
    except (ValueError, RecursionError):
        return _book(parse_toml(text, path).items(), path)


def _book(contents: Iterable[tuple[str, Any]], path: Path) -> Book:
    mistakes: list[str] = []
    prepare, defaults, recipes = Prepare(), Defaults(), dict[str, Recipe]()
    alike: dict[Recipe, Recipe] = {}
    for key, table in contents:
        where = f"[{key}]" if key in ("prepare", "defaults") else f"[{_text(key)}]"
        if not isinstance(table, dict):
            tables = "a picture's name, [prepare] or [defaults]"
            mistakes.append(f"{_text(key)} stands outside of a table: it has to be below {tables}.")
        elif key == "prepare":
            prepare = Prepare(**_read(table, _PREPARE_KEYS, where, mistakes))
        elif key == "defaults":
            defaults = Defaults(**_read(table, _DEFAULTS_KEYS, where, mistakes))
        else:
            recipe = Recipe(**_read(table, _RECIPE_KEYS, where, mistakes))
            recipes[unescaped(key)] = alike.setdefault(recipe, recipe)
    if mistakes:
        shown = mistakes[:_MOST_MISTAKES_SHOWN]
        more = [f"and {len(mistakes) - len(shown)} more"] if len(mistakes) > len(shown) else []
        raise LoratoryError(f"{path}: " + "\n    ".join([*shown, *more]), hint="Nothing was changed.")
    return Book(prepare, defaults, recipes)


def _portions(text: str) -> Iterator[tuple[str, Any]]:
    """The top-level keys and values of TOML, a portion of the text at a time: the parser needs 1 kB for each table.

    A portion ends before a line that begins a table. Where that line is within a text or a list, the portion before it
    is no TOML; portions that are say the same as the whole, unless a key comes twice. Raises ValueError for both.
    """
    known: set[str] = set()
    start = 0
    while start < len(text):
        end = text.find("\n[", start + _PORTION_CHARACTERS) + 1 or len(text)
        for key, value in tomllib.loads(text[start:end]).items():
            if key in known:
                raise ValueError(key)
            known.add(key)
            yield key, value
        start = end


def render(book: Book) -> str:
    """The text of a `recipes.toml` that reads back as `book`; pictures are in the order of their names.

    Recipes that change nothing are left out.
    """
    parts = [_HEAD, _table("prepare", book.prepare, None), _table("defaults", book.defaults, None)]
    for name in sorted(book.recipes):
        if book.recipes[name] != Recipe():
            parts.append(_table(_text(escaped(name)), book.recipes[name], Recipe()))
    return "\n".join(parts)


def _table(title: str, values: Any, usual: Any) -> str:
    lines = [f"[{title}]"]
    for one in fields(values):
        value = getattr(values, one.name)
        if usual is None or value != getattr(usual, one.name):
            lines.append(f"{one.name} = {_value(one.name, value)}")
    return "\n".join(lines) + "\n"


def _value(name: str, value: object) -> str:
    if isinstance(value, tuple):
        if name == "resolution" and value[0] == value[1]:
            return str(value[0])
        return "[" + ", ".join(_value(name, item) for item in value) + "]"
    if isinstance(value, str):
        return _text(escaped(value))
    return tomli_w.dumps({"k": value})[4:].rstrip("\n")


def _text(text: str) -> str:
    return tomli_w.dumps({"k": text})[4:].rstrip("\n")


# --- names -----------------------------------------------------------------------------------------------------------

# TOML holds every character but lone surrogates, which stand for bytes of a file's name that are no UTF-8. Those become
# \xff, a backslash in front of what would be read as such is doubled, and a picture called like a table gets one.
_NEEDS_ESCAPE = re.compile(
    r"[\ud800-\udfff]|\\(?=\\|x[89a-f][0-9a-f]|ud[89a-f][0-9a-f]{2}|[\ud800-\udfff]|(?:prepare|defaults)\Z)"
)
_ESCAPE = re.compile(r"\\(?:(\\)|x([89a-f][0-9a-f])|u(d[89a-f][0-9a-f]{2})|(prepare|defaults)\Z)")


def escaped(name: str) -> str:
    """A name without lone surrogates, from which `unescaped` makes the same name again."""
    if name in ("prepare", "defaults"):
        return "\\" + name

    def replaced(found: re.Match[str]) -> str:
        code = ord(found[0])
        if code == 0x5C:
            return "\\\\"
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    return _NEEDS_ESCAPE.sub(replaced, name)


def unescaped(key: str) -> str:
    """The name that `escaped` made `key` from."""

    def replaced(found: re.Match[str]) -> str:
        if found[2]:
            return chr(0xDC00 + int(found[2], 16))
        return chr(int(found[3], 16)) if found[3] else found[1] or found[4]

    return _ESCAPE.sub(replaced, key)


# --- values ----------------------------------------------------------------------------------------------------------


class _Wrong(ValueError):
    """What a value has to be."""


def _read(
    table: dict[str, Any], keys: dict[str, Callable[[Any], Any]], where: str, mistakes: list[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key not in keys:
            near = get_close_matches(key, keys, 1)
            guess = f" Did you mean `{near[0]}`?" if near else f" Its keys are {', '.join(keys)}."
            mistakes.append(f"{where} has no key {_text(key)}.{guess}")
            continue
        try:
            found[key] = keys[key](value)
        except _Wrong as error:
            mistakes.append(f"{where} {key}: {error}")
        except LoratoryError as error:
            mistakes.append(f"{where} {key}: {error.message} {error.hint}")
    return found


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(f"is true or false, not {_shown(value)}.")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"is a text in quotes, not {_shown(value)}.")
    return unescaped(value)


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 1 << 20:
            raise _Wrong(f"is a whole number, {least} or more, not {_shown(value)}.")
        return value

    return read


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            near = get_close_matches(value, choices, 1) if isinstance(value, str) else []
            guess = f' Did you mean "{near[0]}"?' if near else ""
            raise _Wrong(f"is one of {', '.join(choices)}, not {_shown(value)}.{guess}")
        return str(value)

    return read


def _tag(value: Any) -> str:
    tag = _string(value)
    if "," in tag or not "".join(tag.split()) or len(tag.splitlines()) != 1 or tag != tag.strip():
        raise _Wrong(f"is one tag without commas, line breaks and white space around it, not {_shown(value)}.")
    return tag


def _tag_or_none(value: Any) -> str:
    return "" if value == "" else _tag(value)


def _list(read_item: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _Wrong(f"is a list in square brackets, not {_shown(value)}.")
        return tuple(read_item(item) for item in value)

    return read


def _box(value: Any) -> Box:
    numbers: list[Any] = value if isinstance(value, list) else []
    if len(numbers) != 4 or not all(type(number) is int and 0 <= number <= 1 << 30 for number in numbers):
        raise _Wrong(f"a box is [left, top, right, bottom], four whole numbers from 0 on, not {_shown(value)}.")
    left, top, right, bottom = numbers
    if left >= right or top >= bottom:
        raise _Wrong(f"the box {_shown(value)} is empty: left is less than right, and top less than bottom.")
    return left, top, right, bottom


def _resolution(value: Any) -> tuple[int, int]:
    sides: list[Any] = value if isinstance(value, list) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= 1 << 16 for side in sides):
        raise _Wrong(f"is a whole number of px, or [width, height], not {_shown(value)}.")
    return sides[0], sides[1]


def _background(value: Any) -> str:
    name = _string(value)
    background_colour(name)
    return name


def _background_or_turn(value: Any) -> str:
    return "" if value == "" else _background(value)


def _backgrounds(value: Any) -> tuple[str, ...]:
    names = _list(_background)(value)
    if not names:
        raise _Wrong("needs at least one colour.")
    return names


def _stem(value: Any) -> str:
    name = _string(value)
    if "/" in name or "\0" in name or name in (".", ".."):
        raise _Wrong(f"is the name of a file without folder and ending, not {_shown(value)}.")
    return name


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.1 <= value < 1:
        raise _Wrong(f"is a number from 0.1 to less than 1, not {_shown(value)}.")
    return float(value)


def _shown(value: object) -> str:
    text = _text(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


_PREPARE_KEYS: dict[str, Callable[[Any], Any]] = {
    "token": _tag_or_none,
    "class_token": _tag_or_none,
    "repeats": _whole(1),
    "destination": _string,
}
_UPSCALES = _one_of(("auto", "never"))
_DEFAULTS_KEYS: dict[str, Callable[[Any], Any]] = {
    "resolution": _resolution,
    "max_side_px": _whole(0),
    "upscale": _UPSCALES,
    "upscaler": _string,
    "format": _one_of(FORMATS),
    "backgrounds": _backgrounds,
    "background_tags": _boolean,
}
_RECIPE_KEYS: dict[str, Callable[[Any], Any]] = {
    "skip": _boolean,
    "name": _stem,
    "background": _background_or_turn,
    "erase": _list(_box),
    "crop": _box,
    "split": _list(_box),
    "flip": _boolean,
    "clean": _one_of(CLEANS),
    "clean_scale": _share,
    "max_side_px": _whole(0),
    "upscale": _UPSCALES,
    "format": _one_of(FORMATS),
    "tags": _list(_tag),
}
