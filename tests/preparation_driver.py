"""Kills processes that prepare pictures, at random instants or in chosen calls, and looks at what they leave.

    python preparation_driver.py FOLDER SEED KILLS
    python preparation_driver.py FOLDER every

Each try changes some recipes, forks a child from this warm process that builds, and kills it with SIGKILL after a
random part of the time the whole takes. The next build must end in the same bytes as one that nobody disturbed, and
every original must be as it was. Any broken promise raises. Prints a JSON object that counts what the kills hit.
"""

import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from journal_driver import CALLS, killed_after
from loratory.errors import LoratoryError
from loratory.imaging.recipe import Recipe
from loratory.preparation.desk import Desk, Options
from loratory.tags.journal import Journal
from preparation_sets import contents, draw, make_raw, open_desk

PICTURES = 10
ONE = Options(workers=1)
CHOICES = (
    Recipe(flip=True),
    Recipe(crop=(4, 8, 90, 80), tags=("close-up",)),
    Recipe(split=((0, 0, 48, 96), (48, 0, 96, 96))),
    Recipe(skip=True),
    Recipe(format="jpeg", max_side_px=80),
    Recipe(name="other name"),
    Recipe(),
)


def build(folder: Path, place: Path | None = None) -> None:
    report = Desk(folder, place).build(options=ONE)
    assert not report.failed, report.failed
    assert not report.left_alone, report.left_alone


def is_half_way(root: Path) -> bool:
    """Whether a process died between the first and the last caption of its batch."""
    return Journal(root).pending() is not None


def random_kills(folder: Path, seed: int, kills: int) -> dict[str, int]:
    chance, counts = random.Random(seed), Counter[str]()
    raw, train = make_raw(folder / "Raw", PICTURES), folder / "train"
    begun_s = time.monotonic()
    open_desk(raw, train).build(options=ONE)
    whole_s = time.monotonic() - begun_s
    before = contents(raw)
    while counts["killed at work"] < kills:
        desk = Desk(raw, train)
        some = chance.sample(desk.entries, 5)
        desk.change("some", {entry.name: _chosen(chance, desk.recipe_of(entry)) for entry in some})
        if killed_after(chance.uniform(0, whole_s), lambda: build(raw, train)):
            counts["killed at work"] += 1
        counts["captions half way"] += is_half_way(train)
        counts["temporary files left"] += any(path.name.endswith(".tmp") for path in train.rglob(".*"))
        build(raw, train)
        whole = folder / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        build(raw, whole)
        one, other = contents(train), contents(whole)
        assert one == other, [name for name in {*one, *other} if one.get(name) != other.get(name)]
        now = contents(raw)
        assert {name: now[name] for name in before if name != "recipes.toml"} == {
            name: data for name, data in before.items() if name != "recipes.toml"
        }
    return counts


def _chosen(chance: random.Random, now: Recipe) -> Recipe:
    return replace(chance.choice(CHOICES), background=now.background)


def died_in_call(number: int, work: Callable[[], object]) -> bool:
    """Runs `work` in a child that dies in its `number`-th call that touches the disk; false where there are not so
    many."""
    pid = os.fork()
    if pid == 0:
        calls = 0

        def dying(original: Callable[..., object], writes: bool) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                nonlocal calls
                calls += 1
                if calls == number:
                    if writes:
                        descriptor, data, *offset = args
                        assert isinstance(data, bytes | memoryview)
                        original(descriptor, data[: len(data) // 2], *offset)
                    os._exit(9)
                return original(*args, **kwargs)

            return call

        for name in (*CALLS, "link", "mkdir", "rmdir"):
            setattr(os, name, dying(getattr(os, name), name in ("write", "pwrite")))
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    code = os.WEXITSTATUS(status)
    assert code in (0, 9), "the child failed"
    return code == 9


def every_call(folder: Path) -> dict[str, int]:
    """A picture of a training folder is adopted, built, and given back; the process dies in each of its calls."""
    counts: Counter[str] = Counter()
    root, picture = folder / "set", folder / "set" / "10_fox" / "a.png"
    name = "10_fox/a.png"

    def fresh() -> bytes:
        shutil.rmtree(root, ignore_errors=True)
        draw(picture, 3, transparent=True)
        picture.with_suffix(".txt").write_text("fox, solo")
        return picture.read_bytes()

    def change_and_build() -> None:
        desk = Desk(root)
        desk.change("flip", {name: Recipe(flip=True, background="white")})
        build(root)

    def undo_and_build() -> None:
        Desk(root).undo()
        build(root)

    def look(original: bytes) -> None:
        held = [path.read_bytes() for path in (picture, root / ".loratory" / "originals" / name) if path.exists()]
        assert original in held, "the original is lost"

    fresh()
    change_and_build()
    built = contents(root)
    for number in range(1, 1000):
        original = fresh()
        if not died_in_call(number, change_and_build):
            break
        counts["change"] += 1
        look(original)
        counts["captions half way"] += is_half_way(root)
        change_and_build()
        assert contents(root) == built, number
        Desk(root).undo()
        build(root)
        assert contents(root) == {name: original, "10_fox/a.txt": b"fox, solo"}, number
    for number in range(1, 1000):
        original = fresh()
        change_and_build()
        if not died_in_call(number, undo_and_build):
            break
        counts["undo"] += 1
        look(original)
        counts["captions half way"] += is_half_way(root)
        desk = Desk(root)
        if any(desk.recipe_of(entry) != Recipe() for entry in desk.entries):
            desk.undo()
        build(root)
        assert contents(root) == {name: original, "10_fox/a.txt": b"fox, solo"}, number
    return counts


def main() -> None:
    folder = Path(sys.argv[1])
    if sys.argv[2] == "every":
        print(json.dumps(every_call(folder)))
    else:
        print(json.dumps(random_kills(folder, int(sys.argv[2]), int(sys.argv[3]))))


if __name__ == "__main__":
    try:
        main()
    except LoratoryError as error:
        raise SystemExit(f"{error.message} {error.hint}") from error
