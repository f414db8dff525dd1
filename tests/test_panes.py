"""Going from pane to pane: pictures keep their place, findings lead to where they can be mended."""

import asyncio
from pathlib import Path

import pytest

from editor_app import make_pictures, open_editor
from loratory.errors import LoratoryError
from loratory.tui.keymaps import Keymaps, actions_of
from loratory.tui.keys import PANES


def test_findings_of_pictures_join_those_of_captions_when_asked_for(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "10_x", dict.fromkeys("abc", "x, y, solo, hat, sitting"))

    async def scenario() -> None:
        async with open_editor(folder, size=(120, 40)) as typist:
            assert not typist.shows("enlarged")
            await typist.type("I")
            assert "the pictures" in typist.message
            await typist.type("escape")
            await typist.until(lambda: "are looked at" in typist.message and typist.screen.findings.is_complete)
            assert typist.shows("48x32 px is enlarged")
            await typist.type("/")
            await typist.write("issue:low-resolution")
            await typist.type("enter")
            await typist.until(lambda: "3 of 3" in typist.message)
            await typist.type("I", "/")
            await typist.write("a.png enlarged")
            await typist.type("enter", "p")
            await typist.until(lambda: typist.app.current_mode == "prepare")

    asyncio.run(scenario())


def test_panes_keep_the_picture_and_the_digits_lead_between_them(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "10_x", dict.fromkeys("abc", "x"))

    async def scenario() -> None:
        async with open_editor(folder) as typist:
            await typist.type("j", "f2")
            await typist.until(lambda: typist.app.panes["prepare"].place() == "10_x/b.png")
            assert typist.shows("2 Prepare")
            await typist.type("j")
            await typist.until(lambda: typist.app.panes["prepare"].place() == "10_x/c.png")
            await typist.type("1")
            assert typist.app.current_mode == "tags" and typist.screen.place() == "10_x/c.png"
            await typist.type("g", "3")
            assert typist.app.current_mode == "stats"
            await typist.type("2")
            assert typist.app.current_mode == "prepare"
            await typist.type("ctrl+c")
            assert "ctrl+q" in typist.app.panes["prepare"].message

    asyncio.run(scenario())


@pytest.mark.parametrize("pane", PANES)
def test_the_keys_of_every_pane_can_be_changed_and_mistakes_are_told(pane: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    table = "keys" if pane == "tags" else pane
    path.write_text(f'[{table}]\nhelp = "f9"\n')
    assert Keymaps(path)(pane).keys_of("help") == "f9"
    path.write_text(f'[{table}]\nhlep = "f9"\n')
    with pytest.raises(LoratoryError, match=f"{table}.hlep is no action") as refused:
        Keymaps(path)
    assert "help" in refused.value.hint
    first, second = (action for action in actions_of(pane) if action.id in ("help", "quit"))
    path.write_text(f'[{table}]\n{first.id} = "{second.keys[0]}"\n')
    with pytest.raises(LoratoryError, match="is the key of both"):
        Keymaps(path)


@pytest.mark.parametrize("pane", PANES)
def test_no_key_of_a_pane_hides_another(pane: str) -> None:
    keys = [keys for action in actions_of(pane) for keys in action.keys]
    assert len(keys) == len(set(keys))
    for one in keys:
        for other in keys:
            assert not other.startswith(f"{one} ") or pane == "tags"
