"""Pages that are made from the program: written, or with `--check` only compared (exit code 1 where they differ)."""

import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def write_or_check(target: Path, text: str) -> int:
    """The exit code of a script that makes `target`."""
    if "--check" in sys.argv[1:]:
        return 0 if target.is_file() and target.read_text(encoding="utf-8") == text else 1
    target.parent.mkdir(exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return 0
