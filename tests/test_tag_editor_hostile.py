"""The tag editor with text of others that looks like markup, like a terminal's orders, or like nothing at all."""

import asyncio
import csv
from pathlib import Path

import pytest
from rich.cells import cell_len
from textual import events
from textual.widgets import OptionList

from editor_app import Typist, make_pictures, open_editor
from hostile import BELL, CAPTIONS, ESC, NUL, TAGS, controls, file_names, snapshot
from loratory.cli import output
from loratory.editing.settings import FOLDER, TaggingSettings, read_settings, write_settings
from loratory.errors import LoratoryError
from loratory.tags.journal import Change, Journal
from loratory.tags.vocabulary.importing import import_files
from loratory.tui.keys import hints, read_keymap
from loratory.tui.text import printable

# Lines for the prompts beside the tags: broken queries, and commands with what they do not expect.
LINES = (
    '"',
    "(" * 200,
    "\u00b2",
    "9" * 5000,
    "slot \u00b2 x",
    "slot 1 a\\nb",
    "slot 'x",
    "caption a b c",
    "unkeep [/b]",
)


def audit(typist: Typist) -> list[str]:
    """The lines of the screen, after a look whether all of them fit and nothing in them acts on a terminal or here."""
    app = typist.app
    strips = app.screen._compositor.render_strips()
    assert len(strips) <= app.size.height
    for strip in strips:
        assert not controls(strip.text), ascii(strip.text)
        assert cell_len(strip.text) <= app.size.width, ascii(strip.text)
        for segment in strip:
            if segment.style is not None:
                assert segment.style.link is None, ascii(segment.text)
                assert "@click" not in segment.style.meta, ascii(segment.text)
    assert app.is_running
    assert app._exception is None
    return [strip.text for strip in strips]


async def look_over(typist: Typist, *keys: str) -> list[str]:
    """Opens something by its keys, looks at it, leaves it; the lines it showed."""
    await typist.type(*keys)
    lines = audit(typist)
    await typist.type("escape")
    audit(typist)
    return lines


async def look_at(typist: Typist, index: int) -> list[str]:
    """Goes to a picture without the time that a key takes; the lines of the screen."""
    typist.editor.selection.go(index)
    typist.screen.look()
    await asyncio.sleep(0)
    return audit(typist)


async def enter(typist: Typist, opens: str, text: str) -> None:
    """Types `text` into a prompt, moves in what it offers and presses Enter, without the time that keys take."""
    screen = typist.screen
    screen.normal.press(opens)
    screen.insert._prompt.line.value = text
    screen.insert.changed(text)
    for key in ("down", "enter"):
        screen.look()
        await asyncio.sleep(0)
        audit(typist)
        screen.insert.key(key)
    screen.look()
    await asyncio.sleep(0)
    audit(typist)
    if screen.insert.purpose is not None:
        screen.insert.key("escape")
    screen.editor.selection.clear_filter()


def hostile_set(folder: Path) -> Path:
    """One picture for each string as its tag, for each as its name, and for each odd caption; with a history."""
    make_pictures(folder / "10_[" / "b] x", {f"{index:03}": f"first, {tag}, last" for index, tag in enumerate(TAGS)})
    captions = make_pictures(folder / "5_odd", {f"caption {index}": data for index, data in enumerate(CAPTIONS)})
    names = folder / "\udcff [red]names\n:x:"
    names.mkdir()
    for name in file_names():
        (names / f"{name}.png").write_bytes((captions / "caption 0.png").read_bytes())
        (names / f"{name}.txt").write_text("plain tag, another")
    (folder / FOLDER).mkdir()
    write_settings(folder, TaggingSettings("e621", palette=list(TAGS[:10]), kept={"near": list(TAGS[:30])}))
    journal, empty = Journal(folder), captions / "caption 0.txt"
    for label in TAGS[::4]:
        journal.commit(label, [Change(empty, b"", b"[/b], changed\n[@click=app.quit]x")])
        journal.undo()
    return folder


@pytest.mark.parametrize("size", [(80, 24), (160, 48)], ids=["80x24", "160x48"])
def test_every_screen_shows_all_of_it_and_obeys_none(tmp_path: Path, size: tuple[int, int]) -> None:
    folder = hostile_set(tmp_path / "set [b]")
    before = snapshot(folder)
    is_small = size == (80, 24)

    async def scenario() -> None:
        async with open_editor(folder, size) as typist:
            lines = audit(typist)
            assert any("3 [@click=app.quit]x" in line for line in lines), "the palette"
            for index, item in enumerate(typist.editor.selection.shown):
                if index % 4 and not is_small:
                    continue
                lines = await look_at(typist, index)
                shown = [tag for tag in item.tags if cell_len(tag) < 14 and tag.isprintable()]
                if cell_len(item.image_name) < 15:
                    shown.append(printable(item.image_name))
                for text in shown:
                    assert any(text in line for line in lines), ascii(text)
            for index in range(len(CAPTIONS)) if is_small else (5,):
                await look_at(typist, len(TAGS) + index)
                await look_over(typist, "e")
                if index % 3 == 2:
                    await look_over(typist, "=")
            await look_at(typist, 2)
            for keys in ("c s", "e", "H / @ c l enter", "T / @ c l enter"):
                lines = await look_over(typist, *keys.split(" "))
                assert any("[@click=app.quit]x" in line for line in lines) or keys[0] == "H", (keys, lines)
                await typist.type("escape")
            for keys in ("?", "I", "H", "z z", "y", "t a", "C a", "v", "q", "q", "H enter"):
                await look_over(typist, *keys.split(" "))
                await typist.type("escape")
            for opens in ("/", ":", "a") if is_small else ():
                await typist.type(opens)
                for text in (f"{ESC}[2J{BELL}", "\u202etab\there", "a\nb", "[/b]"):
                    typist.screen.insert._prompt.line.value = ""
                    typist.screen.insert._prompt.line.post_message(events.Paste(text))
                    await typist.pilot.pause()
                    audit(typist)
                typist.screen.insert._prompt.line.value = ""
                await typist.type("escape")
            for index, text in enumerate([*TAGS, *LINES] if is_small else LINES):
                await enter(typist, "/:"[index % 2], text)
            for text in LINES:
                await enter(typist, ":", text)
            await look_over(typist, "z", "p")
            await typist.written()

    asyncio.run(scenario())
    assert snapshot(folder) == before, "nobody edited anything"


def test_clicks_only_choose(tmp_path: Path) -> None:
    names = {f"{index} [@click=app.quit]x": "[@click=app.quit]x, [link=https:" for index in range(4)}
    folder = make_pictures(tmp_path / "10_[@click=app.quit]x", names)
    before = snapshot(folder)

    async def scenario() -> None:
        async with open_editor(folder) as typist:
            for offset in [(3, 0), (20, 1), (4, 3), (50, 5), (60, 12), (4, 20), (4, 21), (30, 22)]:
                await typist.pilot.click(offset=offset)
                audit(typist)
            await typist.type("T")
            await typist.pilot.click(offset=(20, 1))
            audit(typist)

    asyncio.run(scenario())
    assert snapshot(folder) == before


def test_hints_change_exactly_the_tag_they_stand_beside(tmp_path: Path) -> None:
    tags = list(TAGS)
    folder = make_pictures(tmp_path / "10_x", {"all": ", ".join(tags), "other": "untouched, [/b], \\["})
    letters = hints(len(tags))

    async def scenario() -> None:
        async with open_editor(folder) as typist:
            # From the end, so that the letters of those before stay as they are.
            for index in range(len(tags) - 1, -1, -5):
                await typist.type("d", *hints(len(tags))[index])
                del tags[index]
                assert typist.editor.session.items[0].tags == tuple(tags), ascii(typist.message)
            for index, name in ((3, "[red]new"), (7, "$accent 2"), (9, "\\(x")):
                await typist.type("c", *hints(len(tags))[index])
                typist.screen.insert._prompt.line.value = f"={name}"
                await typist.type("enter")
                tags[index] = name
            await typist.type("m", *hints(len(tags))[5], "^", "y", hints(len(tags))[1])
            tags.insert(0, tags.pop(5))
            await typist.written()
            assert tags[1] in read_settings(folder.parent).palette

    assert all(len(letter) <= 2 for letter in letters)
    asyncio.run(scenario())
    assert (folder / "all.txt").read_text("utf-8").split(", ") == tags
    assert (folder / "other.txt").read_text("utf-8") == "untouched, [/b], \\["


def test_a_vocabulary_of_such_names_is_offered_and_taken_as_it_is(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "10_x", {"a": "first"})
    names = [name for tag in TAGS if (name := f"zz{tag.replace(' ', '_')}") and NUL not in tag and len(tag) < 1000]
    dump = tmp_path / "e621.csv"
    with dump.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "name", "category", "post_count"])
        rows.writerows([index, name, 0, 10_000 - index] for index, name in enumerate(names))
    import_files([dump], "e621")
    write_settings_of(folder.parent)
    taken: list[str] = []

    async def scenario() -> None:
        async with open_editor(folder) as typist:
            await typist.type("a")
            insert = typist.screen.insert
            for name in names:
                typed = name.replace("_", " ")
                insert._prompt.line.value = typed
                insert.changed(typed)
                audit(typist)
                if any(offer.name == name for offer in insert._offered):
                    taken.append(name)
                    while insert._offered[insert._marked].name != name:
                        insert.key("down")
                    insert.key("tab")
                    written = {tag.replace(" ", "_").rstrip("_") for tag in typist.editor.session.items[0].tags}
                    assert name.rstrip("_") in written, ascii(name)
                # The field tells of its changes later; they must not be taken for those of the next name.
                await typist.pilot.pause()
                audit(typist)
            await typist.type("escape")
            await typist.written()

    asyncio.run(scenario())
    assert len(taken) > 30
    assert "first" in (folder / "a.txt").read_text("utf-8")


def write_settings_of(root: Path) -> None:
    (root / FOLDER).mkdir()
    write_settings(root, TaggingSettings("e621"))


def test_a_batch_cut_short_is_offered_under_any_name(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "10_x", {"a": "first, second"})
    label = f"[/b] [@click=app.quit]x {ESC}[2J{BELL}\nnext line {'long ' * 200}"
    Journal(folder.parent).commit(label, [Change(folder / "a.txt", b"first, second", b"first")])
    log = folder.parent / FOLDER / "journal.jsonl"
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])

    async def scenario() -> None:
        async with open_editor(folder) as typist:
            await typist.until(lambda: typist.screen.unfinished.is_asked)
            assert any("[/b] [@click=app.quit]x" in line for line in audit(typist))
            await typist.type("r")
            await typist.written()
            audit(typist)

    asyncio.run(scenario())
    assert (folder / "a.txt").read_bytes() == b"first, second"


@pytest.mark.parametrize("text", [tag for tag in TAGS if len(tag) < 1000], ids=ascii)
def test_files_of_settings_are_refused_in_a_line_that_can_be_printed(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quoted = "".join(f"\\U{ord(character):08X}" for character in text)
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[keys]\n"{quoted}" = "x"\n', "utf-8")
    (tmp_path / FOLDER).mkdir()
    settings = tmp_path / FOLDER / "dataset.toml"
    for table in (f'"{quoted}" = 1\n', f'vocabulary = "{quoted}"\n', f'[caption]\n"{quoted}" = 1\n'):
        settings.write_text(table, "utf-8")
        with pytest.raises(LoratoryError) as refused:
            read_settings(tmp_path)
        output.error(refused.value.message, refused.value.hint)
    with pytest.raises(LoratoryError) as refused:
        read_keymap(keys)
    output.error(refused.value.message, refused.value.hint)
    assert not controls("".join(capsys.readouterr().err.splitlines()))


def test_a_table_is_shown_at_once_whatever_its_rows_are(tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "10_x", {"a": ", ".join(f"{tag} {'y' * 3000}" for tag in TAGS[:40])})

    async def scenario() -> None:
        async with open_editor(folder) as typist:
            await typist.type("T", "j", "j", "G", "k")
            audit(typist)
            assert typist.app.screen.query_one(OptionList).highlighted is not None

    asyncio.run(scenario())
