"""The change of a file as `git apply` and `patch -p1` take it."""

import re
from difflib import unified_diff

_ODD = re.compile(r"[\x00-\x1f\x7f\"\\]")
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def unified(name: str, before: str | None, after: str | None) -> str:
    """A unified diff of the file `name` (relative, "/" between its parts) with three lines of context; "" for none.

    before, after: None where the file does not exist. Lines end at "\\n" alone: other line breaks are characters of
    their line, so that the file comes out byte for byte.
    """
    if before == after:
        return ""
    old = "/dev/null" if before is None else _path(f"a/{name}")
    new = "/dev/null" if after is None else _path(f"b/{name}")
    lines = unified_diff(_lines(before or ""), _lines(after or ""), old, new, lineterm="\n")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _path(path: str) -> str:
    """The path of a header line, quoted as git does where a reader could take part of it for something else."""
    if _ODD.search(path):
        return '"' + _ODD.sub(lambda found: _NAMED.get(found[0]) or f"\\{ord(found[0]):03o}", path) + '"'
    # Readers take a tab for the end of a name with spaces.
    return f"{path}\t" if " " in path else path
