"""The file that keeps the traceback of a defect, which shows captions: nothing for a terminal."""

from contextlib import suppress
from pathlib import Path

from loratory.paths import cache_dir


def crash_file() -> Path:
    """Where the traceback of a defect is kept."""
    return cache_dir() / "editor-crash.txt"


def keep_crash(text: str) -> None:
    """Replaces what is kept, where the disk lets it."""
    with suppress(OSError):  # the sentence is told all the same
        crash_file().parent.mkdir(parents=True, exist_ok=True)
        crash_file().write_text(text, "utf-8", "backslashreplace")
