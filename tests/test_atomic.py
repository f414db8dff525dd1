"""Files are replaced whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from loratory import atomic


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")
    with pytest.raises(OSError, match="No space"), atomic.replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_modes_follow_the_old_file_or_the_umask(tmp_path: Path, durable: bool) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("")
    old.chmod(0o640)
    mask = os.umask(0o027)
    try:
        for path in (old, new):
            with atomic.replacing(path, durable=durable) as temporary:
                temporary.write_text("x")
    finally:
        os.umask(mask)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (old, new)] == [0o640, 0o640]


def test_a_long_name_still_has_room_for_its_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 120 + ".txt")
    atomic.write_text(path, "x")
    assert path.read_text() == "x"
