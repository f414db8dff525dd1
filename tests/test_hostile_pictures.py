"""Hostile pictures end to end, by the commands and panes that a person uses: each a finding, none a crash, nothing
lost."""

import asyncio
import ctypes
import json
import os
import stat
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hostile_pictures import BAD, GOOD, NAMES, jpeg_of_scans, named, pattern, picture
from loratory.cli.output import data_json
from loratory.dataset.listing import stem
from prepare_app import open_pane
from test_stats_pane import open_stats

# What `loratory check` says of each kind of problem.
SAID = {
    "truncated": "is cut off",
    "damaged": "is damaged",
    "bomb": "refused as a decompression bomb",
    "empty": "is empty (0 bytes)",
    "not-a-picture": "not a PNG",
    "unreadable": "The picture ",
}
# The rule that names what is odd about a picture that can be read. Of 16 bits a channel Pillow reads the upper 8, as
# trainers do; black and white alone is a picture without colours.
ODD = {
    "tall.png": "extreme-aspect",
    "wide.png": "extreme-aspect",
    "grey16.png": "colour-mode",
    "float.tif": "image-format",
    "cmyk.jpg": "colour-mode",
    "cmyk-profile.jpg": "colour-mode",
    "cmyk.tif": "image-format",
    "palette.png": "transparent",
    "hidden.png": "transparent",
    "hidden.webp": "transparent",
    "grey-alpha.png": "transparent",
    "one-bit.png": "greyscale-untagged",
    "moving.gif": "animated",
    "moving.webp": "animated",
    "moving.png": "animated",
    "turned.jpg": "exif-rotated",
    "turned.tif": "image-format",
    "really-a-jpeg.png": "wrong-extension",
}
# Rules whose fix leaves nothing of what it mends; others, such as for pictures that become the same, may find more.
MENDED = {"image-format", "wrong-extension", "file-name", "animated", "transparent", "exif-rotated", "colour-mode"}

# So much is needed for any picture that is not refused; a bomb that is decoded takes more.
MOST_BYTES = 450 << 20
_RUN = """
import os, resource
from loratory.cli.main import main
try:
    main()
finally:
    with open("/proc/self/status") as status:
        own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    peak = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    with open(os.environ["PEAK"], "w") as file:
        file.write(str(peak * 1024))
"""
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


@dataclass
class Run:
    code: int
    out: str
    err: str


def _as_anybody() -> None:
    """Has permissions count for root too, in the program that is started next."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def loratory(*arguments: object) -> Run:
    """Runs the program as somebody to whom permissions count; what it prints can do nothing to a terminal."""
    peak = Path(os.environ["LORATORY_HOME"]) / "peak"
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *map(str, arguments)],
        capture_output=True,
        preexec_fn=_as_anybody,
        env=os.environ | {"PEAK": str(peak)},
        timeout=120,
        check=False,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err and "defect" not in err and "Warning:" not in err, err
    for line in f"{out}\n{err}".split("\n"):
        assert line.isprintable(), ascii(line)
    assert int(peak.read_text()) < MOST_BYTES
    return Run(done.returncode, out, err)


@pytest.fixture
def forbidding(tmp_path: Path) -> None:
    """Skips where permissions cannot be made to count."""
    file = tmp_path / "forbidden"
    file.touch(mode=0)
    if subprocess.run(["cat", file], preexec_fn=_as_anybody, capture_output=True, check=False).returncode == 0:
        pytest.skip("whatever a file's mode, it can be read here")


def fill(folder: Path) -> Path:
    """Writes every good, bad and badly named picture into `folder`, with a caption that no other has."""
    folder.mkdir(parents=True)
    pictures = [write(folder / name) for name, write in GOOD.items()]
    writers = {name: write for name, (write, _) in BAD.items()}
    writers["scans.jpg"] = lambda path: jpeg_of_scans(path, 600)
    pictures += [write(folder / name) for name, write in writers.items()]
    pictures += [named(folder, name) for name in NAMES]
    for number, base in enumerate(sorted({stem(path.name) for path in pictures})):
        (folder / f"{base}.txt").write_text(f"fox, thing {number}")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return fill(tmp_path / "set" / "3_fox").parent


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return fill(tmp_path / "raw")


def state(folder: Path, *, times: bool = True) -> dict[str, tuple[Any, ...]]:
    """Everything below a folder but the program's own files: mode, bytes or a link's target, and time of the change."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[0] == ".loratory":
            continue
        status = path.lstat()
        held = str(path.readlink()) if path.is_symlink() else content(path) if stat.S_ISREG(status.st_mode) else ""
        is_timed = times and not stat.S_ISDIR(status.st_mode)
        found[name] = status.st_mode, held, status.st_mtime_ns if is_timed else 0
    return found


def content(path: Path) -> str:
    return blake2b(path.read_bytes()).hexdigest()


def contents(folder: Path) -> set[str]:
    """What all files below a folder hold, the program's own included."""
    return {content(path) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def by_picture(findings: Iterable[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Picture -> rule -> message."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for finding in findings:
        found[finding["picture"] or ""][finding["rule"]] = finding["message"]
    return found


def findings(*arguments: object) -> dict[str, dict[str, str]]:
    done = loratory("check", *arguments, "--json")
    assert done.code == 1
    return by_picture(json.loads(done.out)["findings"])


@pytest.mark.slow
def test_check_names_every_one_and_touches_none(dataset: Path, forbidding: None) -> None:
    before = state(dataset)
    found = findings(dataset)
    for name, (_, problem) in BAD.items():
        if name == "folder.png":  # is not listed as a picture at all
            continue
        message = found[f"3_fox/{name}"]["image-unreadable"]
        assert SAID[problem] in message, name
        assert message.startswith("The picture ") and message.endswith("."), message
    for name, rule in ODD.items():
        assert rule in found[f"3_fox/{name}"], name
        assert "image-unreadable" not in found[f"3_fox/{name}"], name
    for name in NAMES:
        if Path(name).suffix:
            assert ("file-name" in found[f"3_fox/{name}"]) == (not name.isprintable()), ascii(name)
    assert loratory("check", dataset).code == 1
    assert not (dataset / ".loratory").exists()
    assert state(dataset) == before


@pytest.mark.slow
def test_what_is_fixed_is_gone_and_comes_back(dataset: Path, forbidding: None) -> None:
    before, held = state(dataset, times=False), contents(dataset)
    pictures = {name: (dataset / name).lstat() for name in before if not name.endswith(".txt")}
    captions = {name: (dataset / name).read_text() for name in before if name.endswith(".txt")}
    loratory("check", dataset, "--fix", "all", "--dry-run")
    assert state(dataset, times=False) == before
    fixed = loratory("check", dataset, "--fix", "all")
    assert fixed.code == 0, fixed.err
    assert held - contents(dataset) <= {blake2b(text.encode()).hexdigest() for text in captions.values()}
    found = findings(dataset)
    assert {name for name, said in found.items() if "image-unreadable" in said} == {
        f"3_fox/{name}" for name, (_, problem) in BAD.items() if problem == "unreadable" and name != "folder.png"
    }
    assert not {rule for said in found.values() for rule in said} & MENDED
    for path in (dataset / "3_fox").iterdir():
        if path.suffix in (".png", ".jpg", ".webp") and path.is_file():
            assert path.with_suffix(".txt").read_text().startswith("fox, thing "), path.name
    assert loratory("prepare", dataset, "--undo").code == 0
    while loratory("tag", "undo", dataset).code == 0:
        pass
    assert state(dataset, times=False) == before
    for name, was in pictures.items():
        if not stat.S_ISDIR(was.st_mode):
            now = (dataset / name).lstat()
            assert (now.st_mtime_ns, now.st_ino) == (was.st_mtime_ns, was.st_ino), name
    assert not (dataset / ".loratory/originals/3_fox").exists()


def made_from(train: Path, raw_name: str) -> Path:
    """What was made of an original, by what the manifest says."""
    lines = (train / ".loratory/prepared.jsonl").read_text().splitlines()
    records = {record["name"]: record for record in map(json.loads, lines) if "name" in record}
    return train / records[raw_name]["outputs"][0][0]


def pixels(train: Path, raw_name: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(made_from(train, raw_name)).convert("RGB")).astype(int)


@pytest.mark.slow
def test_prepare_makes_the_good_ones_and_lists_the_others(raw: Path, tmp_path: Path, forbidding: None) -> None:
    train, before = tmp_path / "train", state(raw)
    done = loratory("prepare", raw, train, "--token", "fox", "--no-upscale", "--json")
    assert done.code == 1
    told = json.loads(done.out)
    failed = {Path(each["file"]).name: each["why"] for each in told["failed"]}
    assert set(failed) == BAD.keys() - {"folder.png"}
    assert all(failed.values())
    after = state(raw)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"recipes.toml"}

    readable = [*GOOD, *(name for name in NAMES if Path(name).suffix)]
    outputs = {name: made_from(train, name) for name in readable}
    assert len(set(outputs.values())) == len(readable) == len(told["made"])
    for name, path in outputs.items():
        assert path.name.isprintable(), ascii(path.name)
        assert path.with_suffix(".txt").read_text().startswith((raw / name).with_suffix(".txt").read_text())
        with Image.open(path) as image:
            image.load()
            # A JPEG to which nothing was to be done is taken over as it is.
            assert image.format == "PNG" or path.read_bytes() == (raw / name).read_bytes()
            assert image.mode in ("RGB", "L", "1")
            assert not image.info.get("icc_profile") and not image.getexif() and "transparency" not in image.info
    # Upright, 8 bits, and the colours that a person sees.
    assert pixels(train, "tall.png").shape == (3000, 1, 3)
    assert pixels(train, "wide.png").shape == (1, 3000, 3)
    assert (pixels(train, "turned.tif") == np.rot90(pattern(96, 64), -1)).all()
    assert pixels(train, "turned.jpg").shape == (96, 64, 3)
    assert pixels(train, "rgb16.png")[0, [0, -1]].tolist() == [[0, 255, 128], [255, 0, 128]]
    for name in ("grey16.png", "float.tif"):
        assert (pixels(train, name)[0, 0] == 0).all() and (pixels(train, name)[-1, -1] == 255).all()
    for name in ("cmyk.jpg", "cmyk-profile.jpg", "cmyk.tif"):
        paper, ink = pixels(train, name)[16, 8], pixels(train, name)[16, 56]
        assert paper.min() > 245 and ink[0] < 60 < 150 < ink[1], name
    for name in ("hidden.png", "hidden.webp", "palette.png"):
        assert pixels(train, name)[16, 56].tolist() == [0, 0, 255]
    for name in ("moving.gif", "moving.webp", "moving.png"):
        assert pixels(train, name)[16, 24].tolist() == [255, 0, 0]

    there, originals = state(train), state(raw)
    again = loratory("prepare", raw, "--json")
    assert again.code == 1
    assert json.loads(again.out)["made"] == []
    assert state(train) == there
    assert state(raw) == originals


def test_folders_that_may_not_be_written_or_read(tmp_path: Path, forbidding: None) -> None:
    folder = tmp_path / "set" / "3_fox"
    (tmp_path / "set" / "5_locked").mkdir(parents=True)
    folder.mkdir()
    (folder / "cut.png").write_bytes(b"\x89PNG")
    named(folder, "line\nbreak.png")
    (folder / "cut.txt").write_text("fox")
    named(tmp_path / "set" / "5_locked", "a.png")
    before = state(tmp_path / "set")
    (tmp_path / "set" / "5_locked").chmod(0)
    folder.chmod(0o555)
    try:
        found = findings(folder.parent)
        assert "cannot be read" in found[""]["folder-unreadable"]
        fixed = loratory("check", folder.parent, "--fix", "all")
        assert fixed.code == 1
        assert "Permission denied" in fixed.err
        assert "1 picture left out" not in fixed.err
        undone = loratory("prepare", folder.parent, "--undo")
        assert undone.code == 0
    finally:
        (tmp_path / "set" / "5_locked").chmod(0o755)
        folder.chmod(0o755)
    assert state(tmp_path / "set") == before


def test_a_folder_of_originals_that_may_not_be_read_is_told(tmp_path: Path, forbidding: None) -> None:
    locked = tmp_path / "raw" / "locked"
    locked.mkdir(parents=True)
    named(locked, "b.png")
    named(locked.parent, "a.png")
    locked.chmod(0)
    try:
        done = loratory("prepare", locked.parent, tmp_path / "train", "--token", "fox", "--no-upscale")
    finally:
        locked.chmod(0o755)
    assert done.code == 1
    assert "1 picture made, 1 failed" in done.err
    assert "locked: cannot be read (Permission denied)" in done.err


def test_what_was_made_stays_while_its_originals_cannot_be_read(tmp_path: Path, forbidding: None) -> None:
    raw, train = tmp_path / "raw", tmp_path / "train"
    (raw / "lent").mkdir(parents=True)
    named(raw, "a.png")
    named(raw / "lent", "b.png")
    assert loratory("prepare", raw, train, "--token", "fox", "--no-upscale").code == 0
    before = state(train)
    for folder in (raw / "lent", raw):
        folder.chmod(0)
        try:
            assert loratory("prepare", raw, train, "--prune").code != 0
            assert loratory("check", train, "--no-pictures").code in (0, 1)
            built = loratory("prepare", train, "--prune")
            assert built.code == 1
            assert "cannot be read (Permission denied)" in built.err
        finally:
            folder.chmod(0o755)
    assert state(train) == before


def test_a_fix_that_came_to_nothing_keeps_no_other_from_it(tmp_path: Path, forbidding: None) -> None:
    folder = tmp_path / "set" / "3_fox"
    folder.mkdir(parents=True)
    for name in ("cut.png", "cut.jpg"):
        BAD[name][0](folder / name)
    (folder / "cut.txt").write_text("fox")
    before = state(folder.parent)
    renamed = loratory("check", folder.parent, "--fix", "stem-clash")
    assert renamed.code == 1
    assert "is cut off" in renamed.err
    assert state(folder.parent) == before
    assert loratory("check", folder.parent, "--fix", "image-unreadable").code == 0
    assert state(folder.parent).keys() == {"3_fox"}
    assert loratory("prepare", folder.parent, "--undo").code == 1  # one of them has a new name again
    assert loratory("prepare", folder.parent, "--undo").code == 0
    assert state(folder.parent, times=False) == {name: (mode, held, 0) for name, (mode, held, _) in before.items()}


def test_decoders_say_nothing_by_themselves(tmp_path: Path, forbidding: None) -> None:
    folder = tmp_path / "set" / "3_fox"
    folder.mkdir(parents=True)
    picture().save(folder / "whole.tif")
    tiff = (folder / "whole.tif").read_bytes()
    (folder / "cut.png").write_bytes(tiff[:100])
    with pytest.warns(UserWarning), pytest.raises(OSError):
        Image.open(folder / "cut.png")
    assert "image-unreadable" in findings(folder.parent)["3_fox/cut.png"]


@pytest.mark.slow
def test_figures_come_of_what_can_be_read(dataset: Path, forbidding: None) -> None:
    before = state(dataset)
    stats = loratory("stats", dataset)
    assert stats.code == 0
    assert "cannot be read" in stats.err + stats.out
    assert json.loads(loratory("stats", dataset, "--json").out)
    assert loratory("balance", dataset).code == 0
    assert json.loads(loratory("balance", dataset, "--json").out)
    assert state(dataset) == before


def shows_text_only(lines: Iterable[str]) -> bool:
    return all(line.isprintable() for line in lines)


@pytest.mark.slow
def test_the_prepare_pane(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "3_fox"
    folder.mkdir(parents=True)
    for name in ("cut.jpg", "bomb.png", "empty.png", "pipe.png", "loop.png", "dangling.png"):
        BAD[name][0](folder / name)
    for name in ("tall.png", "hidden.png", "moving.gif", "grey16.png"):
        GOOD[name](folder / name)
    for name in ("\x1b[2J\x1b]0;title\x07.png", "[@click=app.quit]x.png", "\u202egnp.desrever.png", NAMES[-1]):
        named(folder, name)
    before = state(folder.parent)

    async def scenario() -> None:
        async with open_pane(folder.parent) as hand:
            seen: set[str] = set()
            await hand.type("g", "g")
            for _ in range(14):
                await hand.ready()
                entry = hand.state.current
                assert entry is not None
                seen.add(entry.name)
                await hand.type("v", "v", "v", "c", "escape", "x")
                await hand.ready()
                assert shows_text_only(hand.shown()) and hand.message.isprintable()
                await hand.type("u", "j")
            await hand.ready()
            assert len(seen) == 14

    asyncio.run(scenario())
    assert state(folder.parent) == before


def test_the_statistics_pane(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "3_fox"
    folder.mkdir(parents=True)
    for name in ("cut.jpg", "claims.png", "pipe.png", "loop.png"):
        BAD[name][0](folder / name)
    for name in ("\x1b[2J\x1b]0;title\x07.png", "[@click=app.quit]x.png", NAMES[-1]):
        named(folder, name)
    (folder / "cut.txt").write_text("[b]\x1b[2J, fox")

    async def scenario() -> None:
        async with open_stats(folder.parent) as (typist, _):
            for _ in range(9):
                await typist.type("j", "j", "G")
                await typist.pilot.pause()
                assert shows_text_only(typist.shown())
                await typist.type("tab")

    asyncio.run(scenario())


def test_json_holds_no_orders_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    names = [*NAMES, "\x7f\x85\u2028\u2066 \U000e0041"]
    data_json({"names": names})
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n"))
    assert json.loads(printed) == {"names": names}
