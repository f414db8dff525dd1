"""Named starting points: those that ship with the program, and the person's own."""

import difflib
from collections.abc import Container
from pathlib import Path
from typing import Any, Literal, NamedTuple

from loratory.config.describe import show
from loratory.config.toml_files import expanded, read_text, read_toml
from loratory.errors import LoratoryError
from loratory.paths import config_dir

Source = Literal["shipped", "own"]

_LIST_HINT = "`loratory presets list` names them all."


class Preset(NamedTuple):
    """One preset. description: its first comment line."""

    name: str
    description: str
    source: Source
    path: Path


def shipped_folder() -> Path:
    """The folder of the presets that ship: inside the installed package, or at the top of a source checkout."""
    installed = Path(__file__).parent / "presets"
    return (installed if installed.is_dir() else Path(__file__).parents[3] / "presets").resolve()


def own_folder() -> Path:
    """The folder of the person's own presets."""
    return (config_dir() / "presets").resolve()


def list_presets() -> list[Preset]:
    """Every preset, by name; an own preset hides a shipped one of its name."""
    found: dict[str, Preset] = {}
    folders: tuple[tuple[Source, Path], ...] = (("shipped", shipped_folder()), ("own", own_folder()))
    for source, folder in folders:
        for path in sorted(folder.glob("*.toml")):
            found[path.stem] = Preset(path.stem, _description(path), source, path)
    return [found[name] for name in sorted(found)]


def find_preset(name: str, folder: Path, passed: Container[Path] = ()) -> Path:
    """The file of a preset: an own or shipped one by name, or a path (with a slash or `.toml`) seen from `folder`.

    passed: files not to take while there is another of that name, so that an own preset can start from the shipped one
    it hides. Raises LoratoryError, with what may have been meant.
    """
    if "\0" in name or not name.strip():
        raise LoratoryError("A preset needs a name.", hint=_LIST_HINT)
    if "/" in name or name.endswith(".toml"):
        return folder / expanded(name)
    files = [path for place in (own_folder(), shipped_folder()) for path in place.glob("*.toml")]
    named = [path for path in files if path.stem == name]
    if named:
        return next((path for path in named if path not in passed), named[0])
    near = difflib.get_close_matches(name[:64], [path.stem for path in files], n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise LoratoryError(f"There is no preset {show(name)}{meant}.", hint=_LIST_HINT)


def inherited_documents(name: str, folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The preset `name` and those it starts from, the deepest first, each with its file.

    Raises LoratoryError when one is missing or unreadable, or when they inherit from each other in a circle.
    """
    chain: dict[Path, dict[str, Any]] = {}
    next_name: object = name
    while next_name is not None:
        if not isinstance(next_name, str):
            raise LoratoryError(f"{next(reversed(chain))}: preset must be text.")
        path = find_preset(next_name, folder, chain).resolve()
        if path in chain:
            circle = " -> ".join(each.stem for each in [*chain, path])
            raise LoratoryError(f"Presets inherit from each other in a circle: {circle}.")
        chain[path] = read_toml(path)
        next_name, folder = chain[path].get("preset"), path.parent
    return list(chain.items())[::-1]


def _description(path: Path) -> str:
    try:
        first = read_text(path).partition("\n")[0]
    except LoratoryError as error:
        return f"(unreadable: {error.message})"
    return first.lstrip("#").strip() if first.startswith("#") else ""
