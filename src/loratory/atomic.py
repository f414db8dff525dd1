"""Files that are either the old one or the new one, never half of each."""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def fsync_directory(directory: Path) -> None:
    """Makes renames inside `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Generator[Path]:
    """Yields a temporary path beside `path`; on success it is fsynced and renamed over `path`, on error removed.

    The mode of an existing file is kept; a new one gets the mode the umask gives. Raises OSError as the disk does.
    durable=False skips the fsyncs: still whole for every reader, but a power cut may bring the old file back.
    """
    temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(6)}.tmp")
    temporary.touch(mode=0o666, exist_ok=False)
    try:
        yield temporary
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o7777)
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
        if durable:
            fsync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Writes `data` to `path` so that a reader, a crash or a full disk never sees part of it."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` for UTF-8 text, newlines as given."""
    write_bytes(path, text.encode("utf-8"))


def remove_leftovers(directory: Path, name_pattern: str) -> None:
    """Removes what killed processes left half written of files whose name matches `name_pattern` (as in a shell)."""
    for path in directory.glob(f".{name_pattern}.*.tmp"):
        path.unlink(missing_ok=True)
