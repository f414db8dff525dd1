"""The tag editor while the disk under it fails, changes or goes: always a plain sentence, never a loss."""

import asyncio
import ctypes
import errno
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.widgets import TextArea

from editor_app import Typist, make_pictures, open_editor
from hostile import snapshot
from loratory.editing.settings import FOLDER, read_marks, read_settings
from loratory.errors import LoratoryError
from loratory.tags.journal import Change, Journal
from loratory.tui.keys import hints
from test_tag_editor_hostile import audit, look_over

THREE = {"a": "first, second", "b": "first, third", "c": None}
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "set" / "10_x", THREE)


def heed_permissions() -> None:
    """Has root stopped by the modes of its own files, as everybody else is."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def in_a_child(work: Callable[[], None]) -> None:
    """Runs `work` in a process of its own for which the modes of files hold, whoever runs the tests."""
    if os.getuid() == 0 and sys.platform != "linux":
        pytest.skip("root may do everything here")
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            if os.getuid() == 0:
                heed_permissions()
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def add(typist: Typist, tag: str) -> str:
    """Adds a tag to the current picture and waits for the disk; what the screen says then."""
    await typist.type("a")
    typist.screen.insert._prompt.line.value = tag
    await typist.type("comma", "escape")
    await typist.written()
    audit(typist)
    assert typist.message, "something is said"
    return typist.message


class TestTheDisk:
    def test_a_folder_that_becomes_read_only(self, folder: Path) -> None:
        before = snapshot(folder)

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                folder.chmod(0o500)
                try:
                    assert "no permission" in await add(typist, "new")
                    assert typist.editor.session.items[0].tags == ("first", "second"), "as on disk"
                finally:
                    folder.chmod(0o700)
                assert "add" in await add(typist, "newer")

        in_a_child(lambda: asyncio.run(scenario()))
        assert snapshot(folder) == before | {"a.txt": b"first, second, newer"}

    def test_a_set_that_is_read_only_from_the_start(self, folder: Path) -> None:
        (folder.parent / FOLDER).mkdir()
        (folder.parent / FOLDER / "marks.json").write_text("{damaged")
        before = snapshot(folder)

        async def scenario() -> None:
            for path in (folder.parent / FOLDER, folder, folder.parent):
                path.chmod(0o500)
            async with open_editor(folder) as typist:
                assert "marks.json" in typist.message
                assert "cannot be written" in await add(typist, "new")
                await typist.type("space")
                await typist.written()
                assert "cannot be written" in typist.message
                for keys in ("H", "T", "=", "y s"):
                    await look_over(typist, *keys.split(" "))

        try:
            in_a_child(lambda: asyncio.run(scenario()))
        finally:
            for path in (folder.parent, folder, folder.parent / FOLDER):
                path.chmod(0o700)
        assert snapshot(folder) == before

    def test_a_full_disk(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int, data: bytes, offset: int) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                with monkeypatch.context() as patch:
                    patch.setattr("loratory.tags.journal_log.os.pwrite", full)
                    message = await add(typist, "new")
                assert "The disk is full" in message and "not written" in message
                assert typist.editor.session.items[0].tags == ("first", "second")
                await add(typist, "newer")

        asyncio.run(scenario())
        assert (folder / "a.txt").read_text() == "first, second, newer"

    def test_captions_that_go_or_become_something_else(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                (folder / "a.txt").unlink()
                (folder / "b.txt").unlink()
                (folder / "b.txt").mkdir()
                typist.screen.take_over(typist.editor.session.items)
                await typist.until(lambda: typist.shows("no caption file"))
                await typist.type("j")
                assert typist.shows("b.txt cannot be read")
                assert "cannot be read" in await add(typist, "new")
                await typist.type("e")
                assert "cannot be read" in typist.message and not typist.screen.is_editing_text
                await typist.type("k", "A")
                await typist.write("everywhere")
                await typist.type("enter")
                await typist.written()
                audit(typist)

        asyncio.run(scenario())
        assert (folder / "a.txt").read_text() == (folder / "c.txt").read_text() == "everywhere"
        assert (folder / "b.txt").is_dir()

    def test_a_caption_that_may_no_longer_be_read(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                (folder / "a.txt").chmod(0)
                message = await add(typist, "new")
                assert "a.txt" in message and "cannot be read" in message
                (folder / "a.txt").chmod(0o600)
                typist.screen.take_over(typist.editor.session.items)
                await add(typist, "newer")

        in_a_child(lambda: asyncio.run(scenario()))
        assert (folder / "a.txt").read_text() == "first, second, newer"

    def test_a_picture_and_then_everything_goes(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder, (120, 30)) as typist:
                (folder / "a.png").unlink()
                await typist.type("j", "k", "z", "z")
                audit(typist)
                await typist.type("escape")
                shutil.rmtree(folder.parent)
                message = await add(typist, "new")
                assert "gone" in message or "cannot be written" in message
                await typist.type("space")
                await typist.written()
                await typist.type("]", "d")
                await typist.until(lambda: "twice" in typist.message)
                for keys in ("g r", "u", "H", "T", "I", "=", "e"):
                    await look_over(typist, *keys.split(" "))
                    await typist.written()
                await typist.type("g", "r")
                await typist.written()
                assert "cannot be read" in typist.message or "does not exist" in typist.message
                assert not folder.parent.exists(), "nothing is made in its place"

        asyncio.run(scenario())


class TestItsOwnFiles:
    def test_loratory_being_a_file(self, folder: Path) -> None:
        (folder.parent / FOLDER).write_text("mine")
        before = snapshot(folder)

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                assert "cannot be written" in await add(typist, "new")
                await typist.type("space")
                await typist.written()
                assert "cannot be written" in typist.message
                await look_over(typist, "H")

        asyncio.run(scenario())
        assert (folder.parent / FOLDER).read_text() == "mine"
        assert snapshot(folder) == before

    def test_damaged_marks_are_set_aside_and_said(self, folder: Path) -> None:
        (folder.parent / FOLDER).mkdir()
        marks = folder.parent / FOLDER / "marks.json"
        marks.write_bytes(b'{"v": 1, "reviewed": ["10_x/a.png"')

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                assert "marks.json.bad" in typist.message
                await typist.type("space")
                await typist.written()

        asyncio.run(scenario())
        assert marks.with_name("marks.json.bad").read_bytes() == b'{"v": 1, "reviewed": ["10_x/a.png"'
        assert read_marks(folder.parent).reviewed == {"10_x/a.png"}

    @pytest.mark.parametrize("text", ["vocabulary = [", "\ud800", "palette = 3", "[caption]\nkeep_tokens = -1\n", "\0"])
    def test_a_damaged_dataset_toml_is_named_and_kept(self, folder: Path, text: str) -> None:
        (folder.parent / FOLDER).mkdir()
        path = folder.parent / FOLDER / "dataset.toml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(LoratoryError, match=r"dataset\.toml"):
            asyncio.run(_open(folder))
        assert path.read_bytes() == text.encode("utf-8", "surrogatepass")

    def test_a_palette_of_what_is_no_tag(self, folder: Path) -> None:
        (folder.parent / FOLDER).mkdir()
        (folder.parent / FOLDER / "dataset.toml").write_text('palette = ["one, two", "three\\nfour", " "]\n')
        before = snapshot(folder)

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                for key, word in (("1", "comma"), ("2", "line break"), ("3", "empty")):
                    await typist.type(key)
                    assert word in typist.message
                    audit(typist)

        asyncio.run(scenario())
        assert snapshot(folder) == before
        assert read_settings(folder.parent).palette[0] == "one, two"

    def test_a_journal_of_a_newer_version(self, folder: Path) -> None:
        (folder.parent / FOLDER).mkdir()
        log = folder.parent / FOLDER / "journal.jsonl"
        line = json.dumps({"v": 2, "crc": "00000000", "kind": "new"}, separators=(",", ":")).encode() + b"\n"
        log.write_bytes(line)
        before = snapshot(folder)

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.until(lambda: "newer version" in typist.message)
                assert "newer version" in await add(typist, "new")
                for key in ("H", "u", "U"):
                    await typist.type(key)
                    await typist.written()
                    assert "newer version" in typist.message
                    audit(typist)

        asyncio.run(scenario())
        assert snapshot(folder) == before and log.read_bytes() == line

    def test_a_batch_of_the_history_that_is_damaged(self, folder: Path) -> None:
        journal = Journal(folder.parent)
        journal.commit("one", [Change(folder / "a.txt", b"first, second", b"changed")])
        log = folder.parent / FOLDER / "journal.jsonl"

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("H")
                log.write_bytes(log.read_bytes().replace(b"changed", b"chanXed"))
                await typist.type("enter")
                assert "damaged" in typist.message
                audit(typist)

        asyncio.run(scenario())


async def _open(folder: Path) -> None:
    async with open_editor(folder):
        pass


class TestOthers:
    def test_two_editors_at_once(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as one:
                other_done = asyncio.Event()
                await add(one, "from one")
                async with open_editor(folder) as other:
                    await add(one, "again one")
                    await add(other, "from other")
                    audit(other)
                    other_done.set()
                await add(one, "last one")
                assert one.editor.session.items[0].tags[-1] == "last one"

        asyncio.run(scenario())
        tags = set((folder / "a.txt").read_text().split(", "))
        assert tags == {"first", "second", "from one", "again one", "from other", "last one"}

    def test_text_that_is_being_written_survives_another_program(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("e")
                await typist.write(" and mine")
                (folder / "a.txt").write_text("quite another sentence")
                await typist.type("escape")
                assert "changed on disk meanwhile" in typist.message
                assert typist.screen.query_one(TextArea).text == "first, second and mine"
                await typist.type("escape")
                await typist.written()
                assert (folder / "a.txt").read_text() == "first, second and mine"
                await typist.type("u")
                await typist.written()

        asyncio.run(scenario())
        assert (folder / "a.txt").read_text() == "quite another sentence"

    def test_a_clock_that_goes_backwards(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        times = iter(range(2_000_000_000, 0, -500_000_000))

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                monkeypatch.setattr("loratory.tags.journal.time.time", lambda: float(next(times)))
                for tag in ("one", "two"):
                    await add(typist, tag)
                await typist.type("u")
                await typist.written()
                lines = await look_over(typist, "H")
                assert "two" in lines[1] and "two" in lines[2] and "one" in lines[3], "in the order of what was done"

        asyncio.run(scenario())
        assert (folder / "a.txt").read_text() == "first, second, one"


class TestMuch:
    def test_nothing_found_by_a_filter(self, folder: Path) -> None:
        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("/")
                await typist.write("nowhere")
                await typist.type("enter")
                assert "no picture" in typist.message
                assert len(typist.editor.selection.shown) == 3

        asyncio.run(scenario())

    def test_two_thousand_tags_in_one_caption(self, folder: Path) -> None:
        tags = [f"tag {index}" for index in range(2000)]
        (folder / "a.txt").write_text(", ".join(tags))

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                audit(typist)
                await typist.type("d", *hints(2000)[1234])
                await typist.written()
                audit(typist)

        asyncio.run(scenario())
        assert (folder / "a.txt").read_text() == ", ".join(tags[:1234] + tags[1235:])

    @pytest.mark.slow
    def test_a_caption_of_five_megabytes(self, folder: Path) -> None:
        text = "a long sentence about a fox without any comma " * 110_000
        (folder / "a.txt").write_text(text)

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                audit(typist)
                await typist.type("j")
                await add(typist, "new")

        asyncio.run(scenario())
        assert (folder / "a.txt").read_text() == text

    def test_a_long_tag_leaves_room_to_type(self, folder: Path) -> None:
        (folder / "a.txt").write_text("長" * 5000)

        async def scenario() -> None:
            async with open_editor(folder) as typist:
                await typist.type("c", "a")
                await typist.write("=short")
                assert typist.shows("› =short")
                await typist.type("enter")
                await typist.written()

        asyncio.run(scenario())
        assert (folder / "a.txt").read_text() == "short"
