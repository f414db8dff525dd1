"""A process that dies while it prepares pictures leaves nothing that the next one does not set right."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

DRIVER = Path(__file__).with_name("preparation_driver.py")
MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a disk: a kill does not depend on the disk, a thousand fsyncs do."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


def drive(*arguments: object) -> dict[str, int]:
    command = [sys.executable, DRIVER, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_kills_at_random_instants_change_nothing_in_the_end(folder: Path, seed: int) -> None:
    assert drive(folder, seed, 8)["killed at work"] == 8


@pytest.mark.slow
def test_adopting_and_giving_back_survive_dying_in_any_call_to_the_disk(folder: Path) -> None:
    counts = drive(folder, "every")
    assert counts["change"] >= 40
    assert counts["undo"] >= 30
    assert counts["captions half way"] >= 10
