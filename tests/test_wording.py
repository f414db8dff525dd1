"""How times, sizes and paths are said."""

import shlex
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from loratory.runs.store import RunDirectory
from loratory.runs.way_back import resume_command
from loratory.wording import typed


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_a_path_as_it_is_typed_is_one_word_of_a_shell(name: str) -> None:
    assert shlex.split(f"loratory plan {typed(Path('/data') / name)}")[2] == str(Path("/data") / name)


def test_plain_paths_are_left_as_they_are() -> None:
    assert typed("runs/fox-1") == "runs/fox-1"


def test_a_command_that_is_told_can_be_pasted() -> None:
    run = RunDirectory(Path("/mnt/my disk/runs/it's-1"))
    assert shlex.split(resume_command(run)) == ["loratory", "train", "--resume", str(run.path)]
