"""The figures of a run, folded from its events: exact where they are said to be, bounded, and never at a loss."""

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_run import FakeRun
from loratory.runs.events import (
    Continued,
    Event,
    Finished,
    Hardware,
    NotANumber,
    Notice,
    Obeyed,
    Paused,
    Phase,
    Sampled,
    SampleLoss,
    Saved,
    Started,
    StateSaved,
    Step,
    Timed,
    Weights,
)
from loratory.runs.progress import Progress
from loratory.runs.series import NEWEST, Series
from loratory.runs.store import EventReader

numbers = st.one_of(
    st.floats(0.001, 10), st.just(math.nan), st.just(math.inf), st.just(-math.inf), st.floats(allow_nan=True)
)


def step(number: int, loss: float = 0.1, image: str = "10_fox/a.png", **changes: Any) -> Step:
    values: dict[str, Any] = {
        "step": number,
        "epoch": 1 + (number - 1) // 10,
        "loss": loss,
        "lr": {"unet": 1e-4},
        "effective_lr": {"unet": 1e-4},
        "grad_norm": loss,
        "step_s": 2.0,
        "data_s": 0.5,
        "samples": [SampleLoss(image, 37 * number % 1000, loss)],
    }
    return Step(**(values | changes))


def folded(*events: Event) -> Progress:
    progress = Progress()
    for at, event in enumerate(events):
        progress.add(Timed(float(at), event))
    return progress


def start(from_step: int = 0, total: int = 100) -> Started:
    return Started(from_step, total, 10, 10, "cpu", "0.1.0")


def figures(progress: Progress) -> dict[str, Any]:
    """All that viewers read of the steps, so that two can be compared."""
    every = {
        "loss": progress.losses,
        "smoothed": progress.smoothed,
        "normalised": progress.normalised,
        "normalised smoothed": progress.normalised_smoothed,
        "gradient": progress.grad_norms,
        **{f"rate {name}": series for name, series in progress.rates.items()},
    }
    return {
        "step": progress.step,
        "images": {
            name: (image.count, image.broken, round(image.total, 6) + 0.0, list(image.recent))
            for name, image in progress.images.items()
        },
        "concepts": {
            name: (concept.images, concept.visits, round(concept.total, 6) + 0.0)
            for name, concept in progress.concepts.items()
        },
        **{
            name: [column.tolist() for column in series.between(1, 10**9, 10**6)]
            for name, series in every.items()
            if series
        },
        "adjustments": progress.adjustments,
        "saves": [saved for _, saved in progress.saves],
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return repr(a) == repr(b)  # NaN is equal to itself here


class TestSeries:
    @given(st.lists(numbers, max_size=300), st.integers(1, 40))
    def test_no_peak_and_no_broken_step_is_lost_however_few_stretches(self, values: list[float], most: int) -> None:
        series = Series()
        for at, value in enumerate(values, start=1):
            series.add(at, value)
        spans = series.between(1, len(values), most)
        finite = [value for value in values if math.isfinite(value)]
        assert len(spans.first) <= most
        assert int(spans.broken.sum()) == len(values) - len(finite)
        if finite:
            assert np.nanmax(spans.high) == max(finite) and np.nanmin(spans.low) == min(finite)
            known = ~np.isnan(spans.mean)
            assert np.isfinite(spans.mean[known]).all()

    def test_a_million_steps_fit_in_little_memory_with_their_one_peak(self) -> None:
        series = Series()
        for at in range(1, 1_000_001):
            series.add(at, {123_457: 99.0, 700_001: math.nan}.get(at, 1.0))
        spans = series.between(1, 1_000_000, 200)
        peak = int(np.nanargmax(spans.high))
        assert spans.high[peak] == 99.0 and spans.first[peak] <= 123_457 <= spans.last[peak]
        assert len(pickle.dumps(series)) < 250_000

    @given(st.integers(1, 3 * NEWEST), st.integers(0, 3 * NEWEST))
    @settings(max_examples=25)
    def test_what_is_taken_back_can_be_trained_again(self, count: int, back_to: int) -> None:
        series, plain = Series(), Series()
        for at in range(1, count + 1):
            series.add(at, float(at))
            if at <= back_to:
                plain.add(at, float(at))
        series.forget_after(back_to)
        for each in (series, plain):
            for at in range(each.last_step + 1, count + 2):
                each.add(at, -float(at))
        first_kept = count + 1 - NEWEST + 1
        a, b = (each.between(max(1, first_kept), count + 1, 10**6) for each in (series, plain))
        if back_to >= first_kept or count < 2 * NEWEST:
            assert [column.tolist() for column in a] == [column.tolist() for column in b]
        assert series.last_step == count + 1

    def test_a_window_of_the_newest_steps_is_shown_step_by_step(self) -> None:
        series = Series()
        for at in range(1, 50_001):
            series.add(at, float(at % 7))
        spans = series.between(49_901, 50_000, 500)
        assert spans.first.tolist() == list(range(49_901, 50_001))
        assert spans.mean.tolist() == [float(at % 7) for at in range(49_901, 50_001)]


events_of_a_run = st.lists(
    st.one_of(
        st.tuples(st.just("step"), numbers, st.sampled_from(["10_a/x.png", "3_b/y.png", "z"])),
        st.just(("save", 0.0, "")),
        st.just(("skip", 0.0, "z")),
        st.just(("state", 0.0, "")),
    ),
    min_size=1,
    max_size=60,
)


def told(parts: list[tuple[str, float, str]], done: int = 0) -> list[Event]:
    events: list[Event] = []
    for kind, loss, image in parts:
        match kind:
            case "step":
                done += 1
                events.append(step(done, loss, image))
            case "save":
                events.append(Saved(done, 1, "x.safetensors", 10, 0.0, 1.0))
            case "skip":
                events.append(Obeyed("skip", done, image))
            case _:
                events.append(StateSaved(done, "state/x.pt", 1.0))
    return events


class TestProgress:
    @given(events_of_a_run)
    def test_any_numbers_leave_figures_that_can_be_shown(self, parts: list[tuple[str, float, str]]) -> None:
        progress = folded(start(), *told(parts))
        eta_s = progress.eta_s
        assert eta_s is None or eta_s >= 0
        shares = progress.time_shares()
        assert not shares or sum(shares.values()) == pytest.approx(1)
        for series in (progress.smoothed, progress.normalised_smoothed):
            assert not any(math.isnan(value) for value in series.tail(1000))
        assert len(progress.worst_images(2)) <= 2
        assert sum(concept.visits for concept in progress.concepts.values()) == progress.step

    @given(events_of_a_run, events_of_a_run, events_of_a_run)
    def test_steps_lost_with_a_process_are_as_if_they_had_never_been(
        self,
        kept: list[tuple[str, float, str]],
        lost: list[tuple[str, float, str]],
        after: list[tuple[str, float, str]],
    ) -> None:
        kept_events = told(kept)
        done = sum(isinstance(event, Step) for event in kept_events)
        state = StateSaved(done, "state/x.pt", 1.0)
        lost_events = [each for each in told(lost, done) if getattr(each, "step", 0) > done]
        again = [start(done), *told(after, done)]
        crashed = folded(start(), *kept_events, state, *lost_events, *again)
        # What people changed is part of the run's history: the process that goes on makes it again.
        changes = [each for each in lost_events if isinstance(each, Obeyed)]
        clean = folded(start(), *kept_events, state, *changes, *again)
        assert same(figures(crashed), figures(clean))

    def test_another_first_step_begins_all_anew(self) -> None:
        progress = folded(start(), *[step(n) for n in range(1, 20)], start(0))
        assert progress.step == 0 and not progress.losses and not progress.images and not progress.concepts
        assert same(figures(progress), figures(folded(start(0))))

    def test_time_and_what_is_left_of_it(self) -> None:
        events: list[Event] = [step(n) for n in range(1, 11)]
        progress = folded(start(), *events, Saved(10, 1, "x", 1, 0.0, 4.0), Sampled(10, 1, "p", "q", took_s=1.0))
        assert progress.time_shares() == pytest.approx({"data": 0.2, "step": 0.6, "save": 0.16, "sample": 0.04})
        assert progress.seconds_per_step == 2.0
        assert progress.eta_s == pytest.approx(90 * 2.0 * 1.25)
        slow = folded(start(), *events, step(11, step_s=500.0))
        assert slow.seconds_per_step == 2.0

    def test_exposure_of_a_concept_and_its_goal(self) -> None:
        events = [step(n, image=f"10_fox, animal/{n % 4}.png") for n in range(1, 21)]
        progress = folded(start(), *events, step(21, image="loose.png"))
        fox = progress.concepts["10_fox, animal"]
        assert (fox.images, fox.visits, fox.exposure, progress.exposure_goal(fox)) == (4, 20, 5.0, 100)
        assert progress.exposure_goal(progress.concepts[""]) is None
        assert progress.epoch == 3 and progress.first_step_of_epoch == 21

    def test_the_worst_picture_comes_first_and_one_without_a_number_before_it(self) -> None:
        events = [step(n, image="10_a/good.png") for n in range(1, 60)]
        events += [step(n, 0.9, image="10_a/bad.png") for n in range(60, 64)]
        assert folded(start(), *events).worst_images(5)[0].image == "10_a/bad.png"
        broken = folded(start(), *events, step(64, math.nan, image="10_a/nan.png"))
        assert [image.image for image in broken.worst_images(5)] == ["10_a/nan.png", "10_a/bad.png", "10_a/good.png"]

    def test_what_people_changed_and_what_was_said(self) -> None:
        progress = folded(
            start(),
            step(1),
            Obeyed("rate", 1, "0.5"),
            Obeyed("skip", 1, "10_fox/a.png"),
            Notice("warning", "so"),
            NotANumber(1, "the loss", "unet"),
            Weights(1, {"unet": 0.5}),
            Hardware(1.0, 2, 3, 4),
            Paused(1, "The disk is full."),
        )
        assert progress.adjustments.rate == 0.5 and progress.adjustments.skipped == {"10_fox/a.png"}
        assert progress.paused is not None and progress.weight_norms["unet"].last == 0.5
        assert progress.hardware == Hardware(1.0, 2, 3, 4) and len(progress.broken) == 1
        progress.add(Timed(1.0, Continued(1, 5.0)))
        assert progress.paused is None
        progress.add(Timed(2.0, Finished("stopped", 1)))
        assert progress.finished is not None
        progress.add(Timed(3.0, Phase("loading", 0, 1)))
        assert progress.finished is None, "another process has it in hand"

    def test_a_change_after_the_state_is_made_again_at_its_step(self) -> None:
        progress = folded(start(), step(1), step(2), step(3), Obeyed("rate", 3, "0.5"), start(1))
        assert progress.adjustments.rate == 1.0
        for number in (2, 3):
            progress.add(Timed(float(number), step(number)))
        assert progress.adjustments.rate == 0.5

    def test_a_step_whose_pictures_are_all_left_out_has_no_loss(self) -> None:
        nothing = dataclasses.replace(step(2), loss=0.0, grad_norm=0.0, samples=[])
        progress = folded(start(), step(1), nothing, step(3))
        assert progress.step == 3 and progress.losses.tail(5) == [0.1, 0.1]
        assert progress.smoothed.last == pytest.approx(0.1) and 0.0 not in progress.grad_norms.tail(5)

    @pytest.mark.parametrize(
        "event",
        [
            step(-5),
            step(2**62),
            dataclasses.replace(step(1), step="x"),
            step(1, loss="x"),  # pyright: ignore[reportArgumentType]
            step(1, samples=[SampleLoss(None, "t", {})]),  # pyright: ignore[reportArgumentType]
            step(1, lr=3),
            Saved("a", None, 3, "z", [], {}),  # pyright: ignore[reportArgumentType]
            Obeyed("rate", 1, "much"),
            Started("a", 1, None, 0, "", ""),  # pyright: ignore[reportArgumentType]
            Weights(1, {"unet": "x"}),  # pyright: ignore[reportArgumentType]
        ],
    )
    def test_an_event_of_another_kind_of_values_harms_nothing(self, event: Event) -> None:
        progress = folded(start(), event, start(0), step(1), step(2))
        assert progress.step == 2 and progress.losses.tail(5) == [0.1, 0.1]

    def test_the_events_of_a_folder_are_the_same_read_in_pieces(self, tmp_path: Path) -> None:
        run = FakeRun(tmp_path)
        reader, in_pieces = EventReader(run.directory.events), Progress()
        run.start()
        for _ in range(10):
            run.steps(7)
            run.save()
            for timed in reader.read():
                in_pieces.add(timed)
        at_once = Progress()
        for timed in EventReader(run.directory.events).read():
            at_once.add(timed)
        assert in_pieces.step == 70 and same(figures(in_pieces), figures(at_once))
