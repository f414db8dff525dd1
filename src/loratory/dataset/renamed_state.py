"""The files below `.loratory` that name pictures, as they are after folders were renamed.

marks.json: the pictures that were looked through. prepared.jsonl: what was made from what. originals/recipes.toml and
its history: what was done to adopted pictures, whose originals lie in folders of the same names.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from loratory.errors import FAILED, LoratoryError
from loratory.tags.rename_log import follow

Moves = Mapping[str, str]

_ORIGINALS = ".loratory/originals"


def files(root: Path) -> list[Path]:
    """Where such files lie, whether they are there or not."""
    return [root / name for name in _FILES]


def rewritten(root: Path, moves: Moves) -> dict[Path, bytes]:
    """What those files are to hold that name pictures in renamed folders (old -> new path below the root).

    Raises LoratoryError for recipes that cannot be read, OSError as the disk does.
    """
    found: dict[Path, bytes] = {}
    for name, rewrite in _FILES.items():
        path = root / name
        try:
            before = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise LoratoryError(f"{path} cannot be read ({error.strerror}).", exit_code=FAILED) from error
        after = rewrite(path, before, moves)
        if after is not None and after != before:
            found[path] = after
    return found


def _marks(path: Path, data: bytes, moves: Moves) -> bytes | None:
    document = _document(data)
    if document is None:
        return None  # set aside by whoever opens the dataset
    try:
        document["reviewed"] = sorted(follow(name, moves) for name in document["reviewed"])
        document["answers"] = {
            tag: {follow(name, moves): answer for name, answer in given.items()}
            for tag, given in document["answers"].items()
        }
    except (KeyError, TypeError, AttributeError):
        return None
    return json.dumps(document, indent=1).encode("ascii") + b"\n"


def _manifest(path: Path, data: bytes, moves: Moves) -> bytes | None:
    return _line_by_line(data, lambda line: _manifest_line(line, moves))


def _manifest_line(line: dict[str, Any], moves: Moves) -> None:
    if "expects" in line:
        _expected(line["expects"], moves)
        return
    line["folder"], line["name"] = _original((line["folder"], line["name"]), moves)
    if "outputs" in line:
        line["outputs"] = [[follow(path, moves), *rest] for path, *rest in line["outputs"]]
    if "captions" in line:
        line["captions"] = {follow(path, moves): told for path, told in line["captions"].items()}


def _expected(expected: dict[str, Any] | None, moves: Moves) -> None:
    """What a process that died was about to write of captions."""
    if expected is not None:
        expected["after"] = {follow(path, moves): text for path, text in expected["after"].items()}
        expected["carried"] = [
            [_original(key, moves), {follow(path, moves): told for path, told in captions.items()}]
            for key, captions in expected["carried"]
        ]


def _original(key: Sequence[str], moves: Moves) -> tuple[str, str]:
    """(folder of the originals, name in its recipes) of an original; originals of adopted pictures have their names
    from the folders that the pictures lie in."""
    folder, name = key
    return _below(folder, moves), follow(name, moves) if folder == _ORIGINALS else name


def _history(path: Path, data: bytes, moves: Moves) -> bytes | None:
    def rename(line: dict[str, Any]) -> None:
        if "changes" in line:
            line["changes"] = {follow(name, moves): change for name, change in line["changes"].items()}

    return _line_by_line(data, rename)


def _recipes(path: Path, data: bytes, moves: Moves) -> bytes | None:
    from loratory.imaging.recipe_toml import read_recipes, render  # pulls in what few commands need

    book = read_recipes(path)
    recipes = {follow(name, moves): recipe for name, recipe in book.recipes.items()}
    # Rendered only where a name changes: somebody's own order and spacing stays otherwise.
    return None if recipes == book.recipes else render(replace(book, recipes=recipes)).encode("utf-8")


def _below(name: str, moves: Moves) -> str:
    if name.startswith(f"{_ORIGINALS}/"):
        return f"{_ORIGINALS}/{follow(name.removeprefix(f'{_ORIGINALS}/'), moves)}"
    return follow(name, moves)


def _line_by_line(data: bytes, rename: Callable[[dict[str, Any]], None]) -> bytes:
    """Lines that are damaged, or that a newer version wrote, stay as they are."""
    lines: list[bytes] = []
    for line in data.splitlines(keepends=True):
        document, copy = _document(line), line
        if document is not None:
            try:
                rename(document)
                copy = json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"
            except (KeyError, TypeError, ValueError, AttributeError):
                copy = line
        lines.append(copy)
    return b"".join(lines)


def _document(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return cast(dict[str, Any], document) if isinstance(document, dict) else None


_FILES: dict[str, Callable[[Path, bytes, Moves], bytes | None]] = {
    ".loratory/marks.json": _marks,
    ".loratory/prepared.jsonl": _manifest,
    f"{_ORIGINALS}/recipes.toml": _recipes,
    f"{_ORIGINALS}/.loratory/recipes-history.jsonl": _history,
}
