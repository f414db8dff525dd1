"""What the diagnosis says of recorded runs, of made-up ones, and of what no run should contain.

The recorded events are those of `bench/alarms.py` with the embedded model, made slim.
"""

import gzip
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratory.runs.diagnosis import Alarm, Diagnosis, TimestepNorm
from loratory.runs.events import (
    NotANumber,
    SampleLoss,
    Saved,
    Started,
    StateSaved,
    Step,
    Timed,
    Validated,
    Weights,
    decode,
)

RUNS = Path(__file__).parent / "data" / "runs"
HOSTILE = "10_x/[/b]\n\x1b[31m" + "ä" * 300 + "\udcff.png"


def recorded(name: str) -> list[Timed]:
    lines = gzip.decompress((RUNS / f"{name}.jsonl.gz").read_bytes()).decode().splitlines()
    events = [decode(line) for line in lines]
    assert events and all(events)
    return [timed for timed in events if timed]


def judged(events: list[Timed], diagnosis: Diagnosis | None = None) -> list[Alarm]:
    diagnosis = diagnosis or Diagnosis()
    return [alarm for timed in events for alarm in diagnosis.add(timed)]


def usual_loss(timestep: int) -> float:
    """Falls by a factor of 40 over the timesteps, fastest near 0, as that of a trained model does."""
    return math.exp(-3.7 * math.sqrt(timestep / 999))


def made_up(
    steps: int,
    seed: int = 0,
    *,
    pictures: int = 24,
    batch: int = 1,
    folders: int = 1,
    noise: float = 0.3,
    factor: dict[int, float] | None = None,
    since: int = 0,
) -> Iterator[Timed]:
    """A steady run whose pictures differ a little. factor: on the loss of pictures from step `since` on; -1 is all."""
    chance = random.Random(seed)
    names = [f"10_concept{i % folders}/{i}.png" for i in range(pictures)]
    own = [chance.gauss(0, 0.15) for _ in names]
    factor = factor or {}
    waiting: list[int] = []
    yield Timed(0.0, Started(0, steps, 10, max(steps // 10, 1), "cpu", "0"))
    for step in range(1, steps + 1):
        samples: list[SampleLoss] = []
        for _ in range(batch):
            if not waiting:
                waiting = list(range(pictures))
                chance.shuffle(waiting)
            index, timestep = waiting.pop(), chance.randrange(1000)
            loss = usual_loss(timestep) * math.exp(own[index] + chance.gauss(0, noise))
            if step >= since:
                loss *= factor.get(index, factor.get(-1, 1.0))
            samples.append(SampleLoss(names[index], timestep, loss))
        yield Timed(float(step), a_step(step, samples))


def a_step(step: int, samples: list[SampleLoss] | None = None, **changes: object) -> Step:
    rates = {"unet": 1e-4, "text_encoder": 5e-5}
    values: dict[str, object] = {"loss": 0.1, "lr": rates, "effective_lr": rates, "grad_norm": 0.2, "data_s": 0.01}
    return Step(step=step, epoch=1, step_s=1.0, samples=samples or [], **{**values, **changes})


def rules(alarms: list[Alarm]) -> list[str]:
    return [alarm.rule for alarm in alarms]


# --- the usual loss at a timestep


def test_a_loss_is_compared_with_the_usual_one_at_its_timestep():
    norm, chance = TimestepNorm(), random.Random(3)
    for _ in range(3000):
        timestep = chance.randrange(1000)
        norm.add(timestep, usual_loss(timestep) * math.exp(chance.gauss(0, 0.2)))
    for timestep in (0, 5, 40, 200, 500, 999):
        assert norm.expected(timestep) == pytest.approx(usual_loss(timestep), rel=0.15)
        assert norm.add(timestep, 2 * norm.expected(timestep)) == pytest.approx(2.0, rel=0.1)
        assert norm.z(timestep, norm.expected(timestep)) == pytest.approx(0.0, abs=1e-9)
    assert norm.deviation == pytest.approx(0.2, rel=0.15)
    low, high = norm.band()
    assert low < 0.75 and high > 1.35
    assert norm.band(16)[1] == pytest.approx(high**0.25)


def test_the_first_values_are_taken_for_usual_and_neighbours_lean_on_each_other():
    norm = TimestepNorm()
    assert norm.add(500, 0.05) == pytest.approx(1.0, abs=0.01)
    assert norm.expected(520) == pytest.approx(0.05, rel=0.05)
    assert abs(norm.z(20, 0.3)) < 2  # nobody has seen that timestep: nothing is unusual yet


def test_the_timestep_explains_nine_tenths_of_the_movement_of_recorded_losses():
    for name in ("healthy-00", "healthy-02", "healthy-05"):
        norm = TimestepNorm()
        raw: list[float] = []
        left: list[float] = []
        for timed in recorded(name):
            for sample in timed.event.samples if isinstance(timed.event, Step) else []:
                normalised = norm.add(sample.timestep, sample.loss)
                if norm.count > 40:
                    raw.append(math.log(sample.loss))
                    left.append(math.log(normalised))
        assert 1 - variance(left) / variance(raw) > 0.85


def variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def test_what_is_no_loss_is_not_learned():
    norm = TimestepNorm()
    for timestep in range(0, 1000, 10):
        norm.add(timestep, 0.1)
    before = [norm.expected(timestep) for timestep in range(0, 1000, 50)]
    assert math.isnan(norm.add(500, math.nan))
    assert math.isnan(norm.add(500, math.inf))
    assert math.isnan(norm.add(500, -1.0))
    assert norm.add(500, 0.0) == 0.0
    assert math.isnan(norm.z(500, math.nan))
    assert [norm.expected(timestep) for timestep in range(0, 1000, 50)] == before
    assert norm.count == 100


def test_one_wild_value_hardly_bends_the_curve():
    norm = TimestepNorm()
    for index in range(2000):
        norm.add(index * 37 % 1000, 0.1)
    norm.add(500, 1e9)
    assert norm.expected(500) == pytest.approx(0.1, rel=0.05)


def test_the_curve_follows_a_model_that_learns():
    norm, chance = TimestepNorm(), random.Random(5)
    for index in range(12_000):
        learned = 0.3 if index >= 8000 else 1.0
        timestep = chance.randrange(1000)
        norm.add(timestep, learned * usual_loss(timestep) * math.exp(chance.gauss(0, 0.2)))
    assert norm.expected(500) == pytest.approx(0.3 * usual_loss(500), rel=0.15)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 2000), st.floats(allow_nan=True, allow_infinity=True)), max_size=60))
def test_any_numbers_leave_the_norm_usable(values: list[tuple[int, float]]):
    norm = TimestepNorm()
    for timestep, loss in values:
        normalised = norm.add(timestep, loss)
        assert math.isnan(normalised) or normalised >= 0
    assert math.isfinite(norm.deviation) and norm.expected(500) > 0


# --- recorded runs


@pytest.mark.parametrize("name", ["healthy-00", "healthy-02", "healthy-05", "healthy-17"])
def test_healthy_runs_are_quiet(name: str):
    assert judged(recorded(name)) == []


@pytest.mark.parametrize(
    ("name", "rule", "planted", "noticed_by"),
    [
        ("rate-x30-batch4", "sudden-change", 107, 135),
        ("pictures-swapped-batch1", "sudden-change", 201, 225),
        ("noise-picture-batch1", "image-outlier", 1, 200),
        ("nan-weight-batch4", "nan", 106, 106),
        ("rate-0-batch4", "not-learning", 1, 20),
        ("text-encoder-rate-0-batch4", "not-learning", 1, 20),
    ],
)
def test_planted_faults_are_found_once(name: str, rule: str, planted: int, noticed_by: int):
    alarms = judged(recorded(name))
    assert rules(alarms) == [rule]
    assert planted <= alarms[0].step <= noticed_by


def test_a_change_names_its_step_the_rate_and_the_last_good_file():
    alarm = judged(recorded("rate-x30-batch4"))[0]
    began = int(alarm.sentence.split()[2])
    assert abs(began - 107) <= 5
    assert "rate of unet 9.0e-03, before 3.0e-04" in alarm.sentence
    assert alarm.last_good == "state/00000100.pt"
    assert alarm.sentence.endswith("The newest state from before is 00000100.pt (step 100).")
    assert alarm.severity == "warning" and alarm.images


def test_the_foreign_picture_is_named():
    alarm = judged(recorded("noise-picture-batch1"))[0]
    assert alarm.images == ("10_hrt/teal.webp",)
    assert "teal.webp" in alarm.sentence and alarm.last_good == ""


def test_the_same_events_in_pieces_give_the_same_alarms():
    events = recorded("rate-x30-batch4") + [
        Timed(timed.time_s + 1e4, timed.event) for timed in recorded("noise-picture-batch1")
    ]
    whole = Diagnosis()
    told = judged(events, whole)
    pieces = Diagnosis()
    again: list[Alarm] = []
    chance = random.Random(2)
    while events:
        size = chance.randrange(1, 50)
        again += judged(events[:size], pieces)
        events = events[size:]
    assert told == again and whole.alarms == pieces.alarms


# --- made-up runs


def test_a_steady_run_is_quiet():
    for seed in range(6):
        assert judged(list(made_up(1500, seed))) == []
    assert judged(list(made_up(600, batch=8, pictures=100, noise=0.4))) == []


@pytest.mark.slow
def test_twenty_long_steady_runs_give_hardly_an_alarm():
    alarms = [alarm for seed in range(20) for alarm in judged(list(made_up(10_000, seed)))]
    # Measured: none, in fifty of them either. One in 200,000 visits would still be few.
    assert len(alarms) <= 1


@pytest.mark.parametrize(("factor", "within"), [(3.0, 24), (1.7, 60), (0.4, 40)])
def test_a_massive_change_late_in_a_steady_run_is_told(factor: float, within: int):
    for seed in range(5):
        alarms = judged(list(made_up(700, seed, factor={-1: factor}, since=500)))
        assert rules(alarms) == ["sudden-change"], seed
        assert 500 <= alarms[0].step <= 500 + within
        assert ("rose" if factor > 1 else "fell") in alarms[0].sentence
        assert abs(int(alarms[0].sentence.split()[2]) - 500) <= 12


def test_a_second_change_is_told_after_the_first_has_become_usual():
    events = list(made_up(900, factor={-1: 2.5}, since=400))
    later = [
        Timed(
            timed.time_s,
            a_step(timed.event.step, [SampleLoss(s.image, s.timestep, s.loss * 3) for s in timed.event.samples]),
        )
        if isinstance(timed.event, Step) and timed.event.step >= 700
        else timed
        for timed in events
    ]
    alarms = judged(later)
    assert rules(alarms) == ["sudden-change", "sudden-change"]
    assert alarms[0].step < 450 and 700 <= alarms[1].step < 750


def test_a_change_in_the_first_steps_is_learning():
    events = list(made_up(300, factor={-1: 0.4}, since=25))
    assert judged(events) == []


def test_one_picture_that_stays_high_is_told_once():
    for seed in range(5):
        alarms = judged(list(made_up(600, seed, factor={3: 3.0})))
        assert rules(alarms) == ["image-outlier"]
        assert alarms[0].images == ("10_concept0/3.png",)
        assert alarms[0].step <= 24 * 12


def test_a_picture_that_is_high_now_and_then_is_not_told():
    visits = 0
    events: list[Timed] = []
    for timed in made_up(800):
        if isinstance(timed.event, Step) and timed.event.samples[0].image.endswith("/3.png"):
            visits += 1
            sample = timed.event.samples[0]
            high = SampleLoss(sample.image, sample.timestep, sample.loss * (15 if visits % 3 else 0.9))
            timed = Timed(timed.time_s, a_step(timed.event.step, [high]))
        events.append(timed)
    assert visits > 20 and judged(events) == []


def test_a_picture_is_compared_with_its_own_concept():
    # Every other picture is of a concept that is harder as a whole: no picture of it is an outlier, the concept is.
    hard = dict.fromkeys(range(1, 24, 2), 3.0)
    alarms = judged(list(made_up(600, folders=2, factor=hard)))
    assert rules(alarms) == ["concept-outlier"]
    assert "10_concept1" in alarms[0].sentence


def test_a_tag_whose_pictures_are_hard_is_told():
    tags = {f"10_concept0/{i}.png": ["fox", "[/b]night"] if i < 5 else ["fox"] for i in range(24)}
    events = list(made_up(800, factor=dict.fromkeys(range(5), 1.9), noise=0.2))
    alarms = judged(events, Diagnosis(tags))
    assert "tag-outlier" in rules(alarms)
    alarm = next(alarm for alarm in alarms if alarm.rule == "tag-outlier")
    assert "[/b]night" in alarm.sentence and len(alarm.images) == 5
    assert "tag-outlier" not in rules(judged(events))
    assert judged(list(made_up(800)), Diagnosis(tags)) == []


# --- rules on their own


def test_a_loss_that_is_no_number_is_told_with_the_state_from_before():
    events = [
        Timed(0, Started(0, 100, 1, 100, "cpu", "0")),
        Timed(1, Saved(10, 1, "out/a.safetensors", 1, 0.0)),
        Timed(2, StateSaved(10, "state/10.pt")),
        Timed(3, a_step(11, [SampleLoss("10_x/a.png", 5, math.nan)], loss=math.nan)),
        Timed(4, a_step(12, [SampleLoss("10_x/b.png", 5, math.nan)], loss=math.nan)),
    ]
    diagnosis = Diagnosis()
    alarms = judged(events, diagnosis)
    assert rules(alarms) == ["nan"]
    assert (alarms[0].step, alarms[0].images, alarms[0].last_good) == (11, ("10_x/a.png",), "state/10.pt")


def test_the_layer_takes_the_place_of_what_its_step_said():
    diagnosis = Diagnosis()
    diagnosis.add(Timed(1, a_step(7, [SampleLoss("10_x/a.png", 5, math.nan)], loss=math.nan)))
    diagnosis.add(Timed(2, NotANumber(7, "The loss became nan", "up_blocks.0.attn", ["10_x/a.png"])))
    assert rules(diagnosis.alarms) == ["nan"]
    assert "up_blocks.0.attn" in diagnosis.alarms[0].sentence and "a.png" in diagnosis.alarms[0].sentence


def test_steps_that_overflow_now_and_then_in_fp16_are_normal():
    steps = [Timed(i, a_step(i, grad_norm=math.inf if i < 4 or i % 50 == 0 else 0.2)) for i in range(1, 300)]
    assert judged(steps) == []
    broken = [Timed(i, a_step(i, grad_norm=math.inf if i > 100 else 0.2)) for i in range(1, 120)]
    assert rules(judged(broken)) == ["nan"]


def test_a_rate_of_0_is_told_for_all_parts_or_for_one():
    nothing = {"unet": 0.0, "text_encoder": 0.0}
    alarms = judged([Timed(i, a_step(i, lr=nothing, effective_lr=nothing)) for i in range(1, 60)])
    assert [(alarm.rule, alarm.severity, alarm.step) for alarm in alarms] == [("not-learning", "error", 20)]
    part = {"unet": 1e-4, "text_encoder": 0.0}
    alarms = judged([Timed(i, a_step(i, lr=part, effective_lr=part)) for i in range(1, 60)])
    assert [(alarm.rule, alarm.severity) for alarm in alarms] == [("not-learning", "warning")]
    assert "the text encoder" in alarms[0].sentence and "UNet" not in alarms[0].sentence


def test_schedules_that_touch_0_are_not_told():
    steps = [a_step(i, lr={"unet": r}, effective_lr={"unet": r}) for i, r in enumerate([0.0, *[1e-4] * 50, 0.0], 1)]
    assert judged([Timed(step.step, step) for step in steps]) == []


def test_a_gradient_of_0_and_weights_that_stand_still_are_told():
    assert rules(judged([Timed(i, a_step(i, grad_norm=0.0)) for i in range(1, 40)])) == ["not-learning"]
    still = [
        Timed(i, a_step(i) if i % 50 else Weights(i, {"unet": i / 50, "text_encoder": 0.0})) for i in range(1, 300)
    ]
    alarms = judged(still)
    assert rules(alarms) == ["not-learning"]
    assert "the text encoder" in alarms[0].sentence and alarms[0].step == 149


def test_an_optimizer_that_finds_no_rate_is_told():
    def events(d_of: float) -> list[Timed]:
        rates = [1e-6 * (1 + d_of * i) for i in range(1, 301)]
        return [
            Timed(i, a_step(i, lr={"unet": 1.0}, effective_lr={"unet": rate})) for i, rate in enumerate(rates, start=1)
        ]

    assert rules(judged(events(0.001))) == ["not-learning"]
    assert judged(events(10.0)) == []


def test_parts_without_a_rate_are_told_of_together():
    rates = {"unet": 1.0, "text_encoder": 1.0}
    effective = {"unet": 1e-6, "text_encoder": 1e-6}
    (alarm,) = judged([Timed(i, a_step(i, lr=rates, effective_lr=effective)) for i in range(1, 301)])
    assert alarm.rule == "not-learning"
    assert "no rate for the UNet and the text encoder in 100 steps" in alarm.sentence
    assert alarm.sentence.count("1.0e-06, from 1.0e-06 at the start") == 1
    effective = {"unet": 1e-6, "text_encoder": 2e-6}
    (alarm,) = judged([Timed(i, a_step(i, lr=rates, effective_lr=effective)) for i in range(1, 301)])
    assert "its d is 1.0e-06, from 1.0e-06 at the start; 2.0e-06, from" in alarm.sentence


def test_waiting_for_pictures_is_told_and_told_again_after_it_was_over():
    waits = [0.5 if step < 300 or step > 600 else 0.01 for step in range(1, 900)]
    alarms = judged([Timed(i, a_step(i, data_s=wait)) for i, wait in enumerate(waits, start=1)])
    assert rules(alarms) == ["data-starved", "data-starved"]
    assert "50%" in alarms[0].sentence


def test_a_validation_loss_that_rises_while_the_training_loss_does_not_is_told():
    events: list[Timed] = []
    losses = iter([0.10, 0.09, 0.095, 0.10, 0.105, 0.11])
    for timed in made_up(600):
        events.append(timed)
        if isinstance(timed.event, Step) and timed.event.step % 100 == 0:
            events.append(Timed(timed.time_s, Validated(timed.event.step, 1, next(losses))))
    alarms = judged(events)
    assert rules(alarms) == ["overtraining"]
    assert "step 200" in alarms[0].sentence
    wavering = [Timed(i, Validated(i, 1, loss)) for i, loss in enumerate([0.1, 0.09, 0.093, 0.091, 0.094, 0.09] * 4)]
    assert judged(wavering) == []


# --- resuming, order, and what no run should contain


def test_alarms_of_lost_steps_are_forgotten_and_told_again():
    events = list(made_up(300, factor={3: 3.0}))
    diagnosis = Diagnosis()
    first = judged(events, diagnosis)
    assert rules(first) == ["image-outlier"]
    diagnosis.add(Timed(1e3, Started(10, 300, 10, 30, "cpu", "0")))
    assert diagnosis.alarms == []
    again = judged(events[11:], diagnosis)
    assert rules(again) == ["image-outlier"] and diagnosis.alarms == again
    # What was told of steps that stay is not told again.
    diagnosis.add(Timed(2e3, Started(299, 300, 10, 30, "cpu", "0")))
    assert judged(events[300:], diagnosis) == [] and diagnosis.alarms == again


def test_events_of_the_same_time_are_judged_in_their_order():
    events = [Timed(0.0, timed.event) for timed in recorded("nan-weight-batch4")]
    alarms = judged(events)
    assert rules(alarms) == ["nan"] and alarms[0].last_good == "state/00000100.pt"


def test_one_picture_and_one_step():
    assert judged(list(made_up(1, pictures=1))) == []
    assert judged(list(made_up(300, pictures=1))) == []
    assert judged([Timed(0, a_step(1))]) == []
    assert judged([]) == []


def test_hostile_names_stay_on_one_printable_line():
    samples = [SampleLoss(HOSTILE, 5, math.nan)]
    alarms = judged([Timed(0, a_step(1, samples, loss=math.nan)), Timed(1, NotANumber(1, "x", "l\nayer", [HOSTILE]))])
    assert rules(alarms) == ["nan", "nan"]
    assert all(alarm.sentence.isprintable() for alarm in alarms)
    assert alarms[0].images == (HOSTILE,)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(
                a_step,
                st.integers(0, 50),
                st.lists(st.builds(SampleLoss, st.text(max_size=5), st.integers(-1, 1001), st.floats()), max_size=3),
                loss=st.floats(),
                grad_norm=st.floats(),
                lr=st.dictionaries(st.sampled_from(["unet", "t\n"]), st.floats()),
                effective_lr=st.dictionaries(st.sampled_from(["unet", "t\n"]), st.floats()),
                data_s=st.floats(),
            ),
            st.builds(Validated, st.integers(0, 50), st.just(1), st.floats()),
            st.builds(Weights, st.integers(0, 50), st.dictionaries(st.sampled_from(["unet", "t\n"]), st.floats())),
            st.builds(Started, st.integers(0, 50), *[st.just(1)] * 3, st.just("cpu"), st.just("0")),
            st.builds(NotANumber, st.integers(0, 50), st.text(), st.text(), st.lists(st.text(max_size=5), max_size=2)),
        ),
        max_size=80,
    )
)
def test_any_events_are_taken(events: list):
    for alarm in judged([Timed(0.0, event) for event in events]):
        assert alarm.sentence.isprintable() and alarm.sentence == alarm.sentence.strip()
