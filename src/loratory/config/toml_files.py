"""Reading a TOML file, with an error that says where and why for everything that can be wrong with it."""

import re
import tomllib
from pathlib import Path
from typing import Any

from loratory.errors import LoratoryError

_LARGEST_BYTES = 1 << 20


def expanded(text: str) -> Path:
    """A path as somebody wrote it, with `~` replaced by the home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user: the path stays as written, and is reported as missing when it is used
        return Path(text)


def read_toml(path: Path) -> dict[str, Any]:
    """The contents of a TOML file.

    Raises LoratoryError for a file that is missing, no regular file, too large, not UTF-8 or not TOML; for the last the
    message names line and column and shows the line.
    """
    return parse_toml(read_text(path), path)


def read_text(path: Path) -> str:
    """The text of a small UTF-8 file, without a byte order mark. Raises LoratoryError."""
    try:
        if path.is_dir():
            raise LoratoryError(f"{path} is a folder, not a configuration file.")
        if not path.exists():
            raise LoratoryError(
                f"{path} does not exist.",
                hint="`loratory presets new NAME CONFIG.toml` writes a configuration.",
            )
        if not path.is_file():
            raise LoratoryError(f"{path} is not a regular file.")
        size = path.stat().st_size
        if size > _LARGEST_BYTES:
            raise LoratoryError(f"{path} is no configuration: it has {size / 1e6:.0f} MB.")
        data = path.read_bytes()
    except OSError as error:
        raise LoratoryError(f"Cannot read {path}: {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LoratoryError(
            f"{path} is not UTF-8 text (byte 0x{data[error.start]:02x} at offset {error.start}).",
            hint="Save it as UTF-8. A model or picture file is no configuration.",
        ) from error


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """The contents of TOML `text`; `path` is named in errors. Raises LoratoryError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(text, path, str(error)) from None
    except RecursionError:
        raise LoratoryError(f"{path} is no configuration: its lists are nested too deeply.") from None


def _syntax_error(text: str, path: Path, problem: str) -> LoratoryError:
    where = re.search(r" \(at line (\d+), column (\d+)\)$", problem)
    lines = text.replace("\r\n", "\n").split("\n")
    if where:
        line, column = int(where[1]), int(where[2])
        problem = problem[: where.start()]
    else:
        # The parser says "at end of document", which for a person is the last line that holds anything.
        problem = problem.removesuffix(" (at end of document)")
        line = max((number for number, content in enumerate(lines, 1) if content.strip()), default=1)
        column = len(lines[line - 1]) + 1
    source = "".join(c if c.isprintable() else "�" for c in lines[line - 1][:100])
    hint = "TOML is `key = value`, text in double quotes, true and false in lower case."
    if text.lstrip().startswith("{"):
        hint = "This looks like JSON; a configuration is TOML."
    return LoratoryError(f"{path}, line {line}, column {column}: {problem}.\n    {source}", hint=hint)
