"""Files that are either the old one or the new one, never half of each."""

import os
import re
import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

# A file name may have 255 bytes on most disks; the dot, the random part and the ending need 18 of them.
_KEPT_NAME_BYTES = 128
_TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{12}\.tmp", re.DOTALL)


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

    Mode and, where permitted, owner of an existing file are kept; a new one gets the mode the umask gives. Raises
    OSError as the disk does.
    durable=False skips the fsyncs: still whole for every reader, but a power cut may bring the old file back.
    """
    temporary = temporary_beside(path)
    temporary.touch(mode=0o666, exist_ok=False)
    try:
        yield temporary
        keep_attributes(path, temporary)
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
        if durable:
            fsync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_beside(path: Path) -> Path:
    """A new name in the folder of `path` for what will be renamed over it; `leftovers_of` knows it again."""
    return path.with_name(f".{_kept_name(path.name)}.{secrets.token_hex(6)}.tmp")


def keep_attributes(path: Path, temporary: Path) -> None:
    """Gives `temporary` the mode and, where that is permitted, the owner of `path`, if there is such a file."""
    try:
        old = path.stat()
    except FileNotFoundError:
        return
    new = temporary.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with suppress(PermissionError):
            os.chown(temporary, old.st_uid, old.st_gid)
    if (old.st_mode ^ new.st_mode) & 0o7777:
        temporary.chmod(old.st_mode & 0o7777)


def leftovers_of(directory: Path, names: Iterable[str]) -> list[Path]:
    """What killed processes left in `directory` of files with these names, half written and not yet renamed."""
    kept = {_kept_name(name) for name in names}
    found = ((entry, _TEMPORARY.fullmatch(entry.name)) for entry in directory.iterdir())
    return [path for path, match in found if match is not None and match[1] in kept]


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


def _kept_name(name: str) -> str:
    # Cut between characters: some disks refuse names that are not UTF-8.
    return os.fsencode(name)[:_KEPT_NAME_BYTES].decode("utf-8", "ignore")
