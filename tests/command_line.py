"""The command line, called in the process of the test."""

from collections.abc import Callable
from typing import NamedTuple

import pytest


class Said(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Said]


def calling(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the program with the arguments it is given, as the console script does."""
    from loratory.cli.main import main

    def call(*arguments: object) -> Said:
        monkeypatch.setattr("sys.argv", ["loratory", *map(str, arguments)])
        capfd.readouterr()  # what making a model has printed
        with pytest.raises(SystemExit) as stopped:
            main()
        return Said(int(stopped.value.code or 0), *capfd.readouterr())

    return call
