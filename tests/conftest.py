"""Keeps tests away from the machine they run on: its caches, its presets, its terminal."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from command_line import Call, calling

# How long an example takes is no property of the program: a busy machine must not fail a test.
settings.register_profile("loratory", deadline=None)
settings.load_profile("loratory")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the number of cores: for tests that compare numbers of the last bits."""
    import torch  # not at the top: most tests do not need it, and it takes seconds

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("LORATORY_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    return home


@pytest.fixture
def loratory(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the program in this process: (exit code, stdout, stderr)."""
    return calling(capfd, monkeypatch)
