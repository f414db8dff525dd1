"""Reading a long run fast must give what reading it carefully gives; and the first frame must lose no key."""

import asyncio
import copy
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_run import FakeRun, make_config
from loratory.runs import events
from loratory.runs.diagnosis import Diagnosis
from loratory.runs.events import SampleLoss, Started, Step, Timed, decode, encode
from loratory.runs.progress import Progress
from loratory.terminal.modes import Graphics
from loratory.tui import app as app_module
from loratory.tui import first_frame
from loratory.tui.app import LoratoryApp
from loratory.tui.first_frame import FirstFrame
from loratory.tui.keymaps import Keymaps
from loratory.tui.project import Project
from loratory.tui.run.charts import ChartState
from loratory.tui.run.facts import image_lines
from loratory.tui.run.screen import RunScreen
from loratory.tui.run.tags import read_tags
from loratory.tui.text import UNICODE

floats = st.one_of(st.floats(), st.sampled_from([0, 1, "nan", "-inf", "x", None, True, [], {}]))
whole = st.one_of(st.integers(-5, 10**6), st.sampled_from([1.5, True, None, "3"]))
samples = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"image": st.one_of(st.text(max_size=5), st.integers()), "timestep": whole, "loss": floats},
            optional={"more": st.integers()},
        ),
        st.sampled_from([None, [], "a", {"image": "a.png"}]),
    ),
    max_size=3,
)
rates = st.one_of(st.dictionaries(st.sampled_from(["unet", "text_encoder"]), floats), st.sampled_from([None, [], 1.0]))
lines = st.fixed_dictionaries(
    {"kind": st.just("step"), "t": st.one_of(st.floats(allow_nan=True), st.integers(0, 9), st.none())},
    optional={
        **dict.fromkeys(("loss", "grad_norm", "step_s", "data_s"), floats),
        **dict.fromkeys(("step", "epoch"), whole),
        **dict.fromkeys(("lr", "effective_lr"), rates),
        **dict.fromkeys(("keys_scaled",), st.one_of(st.none(), whole)),
        **dict.fromkeys(("mean_weight_norm", "max_weight_norm"), st.one_of(st.none(), floats)),
        "samples": st.one_of(samples, st.sampled_from(["", {}, None])),
        "unknown": st.integers(),
    },
)


def carefully(line: str) -> Timed | None:
    """What the way gives that every kind of event takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "_plain_step", lambda body: None)
        return decode(line)


def whole_step(number: int, loss: float = 0.1, count: int = 2) -> Step:
    pictures = [SampleLoss(f"10_fox/{at}.png", (97 * number + 31 * at) % 1000, loss) for at in range(count)]
    return Step(number, 1, loss, {"unet": 1e-4}, {"unet": 1e-4}, 0.5, 1.0, 0.1, pictures)


@given(lines)
def test_a_step_is_read_the_same_the_short_way(body: dict[str, Any]) -> None:
    line = json.dumps(body)
    # Compared as text: a NaN is not equal to itself.
    assert repr(decode(line)) == repr(carefully(line))


@given(st.integers(0, 3), floats.filter(lambda value: type(value) is float))
def test_a_step_as_runs_write_it_is_read_the_same_the_short_way(count: int, loss: float) -> None:
    line = encode(whole_step(3, loss, count), 12.5)
    assert repr(decode(line)) == repr(carefully(line))
    assert math.isfinite(loss) == (events._plain_step(json.loads(line)) is not None)


def test_a_run_is_judged_the_same_with_what_its_figures_learned() -> None:
    """A change of the loss, a resumption from a state and one from the start: where the two must differ, they do."""
    told = [Started(0, 900, 1, 900, "cpu", "1"), *(whole_step(at) for at in range(1, 300))]
    told += [events.StateSaved(299, "state/299.pt"), *(whole_step(at, 0.3) for at in range(300, 500))]
    told += [Started(299, 900, 1, 900, "cpu", "1"), *(whole_step(at, 0.4) for at in range(300, 450))]
    told += [Started(0, 900, 1, 900, "cpu", "1"), *(whole_step(at, 0.2) for at in range(1, 200))]
    alone, own = Diagnosis(), Progress()
    shared = Progress()
    beside = Diagnosis(norm=shared.norm)
    for at, event in enumerate(told):
        assert beside_after(shared, beside, Timed(at, event)) == alone.add(Timed(at, copy.copy(event)))
        own.add(Timed(at, copy.copy(event)))
    assert any(alarm.rule == "sudden-change" for alarm in alone.alarms + beside.alarms) or alone.alarms == beside.alarms
    assert alone.alarms == beside.alarms
    assert own.normalised.tail(500) == shared.normalised.tail(500)


def beside_after(progress: Progress, diagnosis: Diagnosis, timed: Timed) -> list[Any]:
    progress.add(timed)
    return diagnosis.add(timed)


def test_losses_are_learned_once_for_both() -> None:
    progress = Progress()
    diagnosis = Diagnosis(norm=progress.norm)
    for at, event in enumerate([Started(0, 20, 1, 20, "cpu", "1"), *(whole_step(at) for at in range(1, 21))]):
        beside_after(progress, diagnosis, Timed(at, event))
    assert diagnosis.norm is progress.norm and progress.norm.count == 40


def test_tags_are_read_from_captions_and_what_is_missing_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "10_fox"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png", "c.webp"):
        (folder / name).write_bytes(b"")
    (folder / "a.txt").write_text("fox, [/b]night\n")
    (folder / "c.caption").write_text("sea")
    (tmp_path / "train" / "other").mkdir()
    assert read_tags(make_config(tmp_path)) == {"10_fox/a.png": ("fox", "[/b]night")}
    assert read_tags(make_config(tmp_path / "gone")) == {}


def test_pictures_of_two_folders_with_one_name_are_told_apart() -> None:
    progress = Progress()
    pictures = [SampleLoss(f"{folder}/00.png", 500, loss) for folder, loss in (("1_fox", 0.1), ("1_wolf", 0.4))]
    for at in range(1, 30):
        progress.add(Timed(at, Step(at, 1, 0.2, {}, {}, 0.5, 1.0, 0.1, pictures)))
    rows = [line.plain for line in image_lines(progress, 34, 5, UNICODE)]
    assert "1_wolf/00.png" in rows[1] and "1_fox/00.png" in rows[2]
    assert all(line.cell_length <= 12 for line in image_lines(progress, 12, 5, UNICODE))


@pytest.mark.parametrize("before", ["", "v", "v\x1b"])
def test_the_first_frame_stands_at_once_and_keys_typed_before_and_meanwhile_reach_the_pane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    run = FakeRun(tmp_path)
    run.say(Started(0, 10, 1, 10, "cpu", "1"))
    may_load = threading.Event()
    monkeypatch.setattr(app_module, "is_loaded", lambda pane: False)
    monkeypatch.setattr(first_frame, "_import", lambda name: may_load.wait(10))
    project = Project(tmp_path, tmp_path / "runs", run=run.directory.path)
    app = LoratoryApp(None, Keymaps(None), Graphics("half"), project=project, first="run")
    app.typed_ahead = before

    async def scenario() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            assert isinstance(app.screen, FirstFrame)
            if not before:
                await pilot.press("v")
            may_load.set()
            end = time.monotonic() + 10
            while not (isinstance(app.screen, RunScreen) and getattr(app.screen, "chart", ChartState()).subject == 1):
                assert time.monotonic() < end
                await asyncio.sleep(0.02)

    try:
        asyncio.run(scenario())
    finally:
        app.close()
