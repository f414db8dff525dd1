"""A process that dies while it changes captions leaves every file old or new, and a journal that tells which."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

DRIVER = Path(__file__).with_name("journal_driver.py")
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_captions_survive_kills_at_random_instants(folder: Path, seed: int) -> None:
    counts = drive(folder, seed, 25)
    assert counts["killed at work"] == 25
    # The instants were spread: some hit the files half way, and recoveries went both ways.
    assert counts["commit half way"] + counts.get("undo half way", 0) >= 3
    assert counts["finished"] + counts["rolled back"] >= 3


@pytest.mark.slow
def test_a_batch_and_its_recovery_survive_dying_in_any_call_to_the_disk(folder: Path) -> None:
    counts = drive(folder, "every")
    assert counts["commit"] >= 20
    assert counts["finish"] >= 200
    assert counts["roll back"] >= 200
    assert counts["merging"] >= 50
