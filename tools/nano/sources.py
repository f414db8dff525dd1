"""The packages that nano is made of: fetched with npm, and read as the archives that they are."""

import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTO = "@iconify-json/noto@1.2.9"  # Apache-2.0
FLAT = "@iconify-json/fluent-emoji-flat@1.2.6"  # MIT
KEYWORDS = "emojilib@4.0.3"  # MIT
STYLES = {"noto": NOTO, "flat": FLAT}
"""The word for a style in captions -> the package that has its pictures."""

# Each person five times over, in five tones of skin, would be most of the pictures.
_TONED = "People & Body"
_TONES = frozenset(("light", "medium", "dark"))


@dataclass(frozen=True)
class Emoji:
    """svg: a whole document of a square picture. keywords: other words for it, lower case."""

    style: str
    name: str
    category: str
    keywords: tuple[str, ...]
    svg: str


def fetch(package: str, folder: Path) -> Path:
    """The archive of `package` ("name@version") below `folder`, downloaded where it is not there yet."""
    path = folder / (package.removeprefix("@").replace("/", "-").replace("@", "-") + ".tgz")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            subprocess.run(["npm", "pack", "--silent", package], cwd=unfinished, check=True, stdout=subprocess.DEVNULL)
            (Path(unfinished) / path.name).rename(path)
    return path


def emoji(folder: Path) -> Iterator[Emoji]:
    """All emoji of both sets but those that differ in the tone of the skin alone, in a fixed order."""
    words: dict[str, list[str]] = _json(fetch(KEYWORDS, folder), "dist/emoji-en-US.json")
    for style, package in STYLES.items():
        archive = fetch(package, folder)
        icons, metadata = _json(archive, "icons.json"), _json(archive, "metadata.json")
        codes = {name: code for code, name in _json(archive, "chars.json").items()}
        side = icons.get("width", 16)
        for category, names in sorted(metadata["categories"].items()):
            for name in sorted(names):
                is_toned = category == _TONED and bool(_TONES & set(name.split("-")))
                if name in icons["icons"] and not is_toned:
                    svg = _document(icons["icons"][name], side)
                    yield Emoji(style, name.replace("-", " "), category, _keywords(words, codes.get(name)), svg)


def _document(icon: dict[str, Any], side: int) -> str:
    width, height = icon.get("width", side), icon.get("height", side)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="0 0 {width} {height}">{icon["body"]}</svg>'


def _keywords(words: dict[str, list[str]], code: str | None) -> tuple[str, ...]:
    if code is None:
        return ()
    character = "".join(chr(int(part, 16)) for part in code.split("-"))
    found = words.get(character) or words.get(character + "\ufe0f") or []
    return tuple(word.replace("_", " ").lower() for word in found if word.isascii() and len(word) > 2)


def _json(archive: Path, name: str) -> Any:
    with tarfile.open(archive) as file:
        member = file.extractfile(f"package/{name}")
        if member is None:
            raise FileNotFoundError(f"{archive} has no {name}")
        return json.load(member)
