"""What the chart of a run can show: its subjects, how far it is zoomed in, and the curves for both. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from loratory.runs.progress import Progress
from loratory.runs.series import Series
from loratory.terminal.chart import Band, ChartView, Curve
from loratory.tui.text import printable
from loratory.tui.widgets.chart import RUN_ROLES

Zoom = Literal["whole run", "last epoch", "last 100 steps"]
ZOOMS: tuple[Zoom, ...] = ("whole run", "last epoch", "last 100 steps")
_ZOOMED_STEPS, _JUMP = 100, 50
# Where the window over a whole run ends: so many steps, or ten times, a hundred times … as many. From one to the next
# what is drawn becomes a fifth narrower; in between no column that was drawn moves.
_ENDS = (10, 12.5, 16, 20, 25, 32, 40, 50, 64, 80)


@dataclass(frozen=True)
class Subject:
    """title: what the values are. raw: one value a step. line: drawn over it, as a rule its running mean.

    of_parts: a curve for each trained part instead. has_band: with the range in which values are expected.
    """

    title: str
    short: str
    raw: Callable[[Progress], Series | None] = lambda progress: None
    line: Callable[[Progress], Series | None] = lambda progress: None
    of_parts: Callable[[Progress], Mapping[str, Series]] | None = None
    has_band: bool = False

    def newest(self, progress: Progress) -> str:
        """The newest values as text, "" without any."""
        if self.of_parts is not None:
            parts = self.of_parts(progress)
            return "  ".join(f"{spoken_part(name)} {spoken(series.last)}" for name, series in parts.items())
        series = self.line(progress) or self.raw(progress)
        return spoken(series.last) if series else ""

    def series(self, progress: Progress) -> list[Series]:
        """What is drawn, the most telling first."""
        if self.of_parts is not None:
            return list(self.of_parts(progress).values())
        return [series for series in (self.line(progress), self.raw(progress)) if series]


SUBJECTS = (
    Subject(
        "loss, normalised by timestep (1.0 = as expected)",
        "normalised loss",
        lambda progress: progress.normalised,
        lambda progress: progress.normalised_smoothed,
        has_band=True,
    ),
    Subject("loss as it was minimised", "loss", lambda progress: progress.losses, lambda progress: progress.smoothed),
    Subject("learning rate", "rate", of_parts=lambda progress: progress.rates),
    Subject("effective rate (rate x d)", "effective rate", of_parts=lambda progress: progress.effective_rates),
    Subject("norm of what each part has learned", "learned", of_parts=lambda progress: progress.weight_norms),
    Subject("gradient norm before clipping", "gradient", lambda progress: progress.grad_norms),
    Subject("loss of the held-back pictures", "validation", line=lambda progress: progress.validation),
)


@dataclass(frozen=True)
class ChartState:
    """What a person has chosen to see."""

    subject: int = 0
    zoom: int = 0
    log: bool = False

    @property
    def shown(self) -> Subject:
        return SUBJECTS[self.subject]


def spoken(value: float) -> str:
    """A loss, norm or rate in few characters."""
    if math.isnan(value):
        return "NaN"
    if value == 0:
        return "0"
    return f"{value:.3g}" if 0.001 <= abs(value) < 10_000 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+")


def spoken_part(name: str) -> str:
    """A trained part as it is called where room is short: `UNet`, `TE`, `TE 2`."""
    if name == "unet":
        return "UNet"
    if name.startswith("text_encoder"):
        return f"TE {name.removeprefix('text_encoder').strip('_')}".rstrip()
    return printable(name)


def window_of(progress: Progress, zoom: Zoom) -> tuple[int, int]:
    """First and last step of a zoom; it goes on in jumps, so that a chart stays where it is for many steps."""
    last = max(progress.step, 1)
    match zoom:
        case "whole run":
            power = 10 ** max(0, len(str(last)) - 2)
            end = next(math.ceil(end * power) for end in (*_ENDS, 100) if end * power >= last)
            return 1, max(2, min(end, progress.total_steps) if progress.total_steps >= last else end)
        case "last epoch":
            first = progress.first_step_of_epoch
            return first, first + max(1, progress.started.steps_per_epoch if progress.started else last) - 1
        case "last 100 steps":
            first = max(0, last - _ZOOMED_STEPS) // _JUMP * _JUMP + 1
            return first, first + _ZOOMED_STEPS + _JUMP - 1


def chart_view(
    state: ChartState, progress: Progress, others: Sequence[tuple[str, Progress]], columns: int, own_name: str
) -> ChartView:
    """The chart in a width of `columns` characters. others: runs laid over it, by their names."""
    subject, window = state.shown, window_of(progress, ZOOMS[state.zoom])
    most = max(2, 2 * columns)
    curves: list[Curve] = []
    if subject.of_parts is not None:
        parts = subject.of_parts(progress)
        for index, (name, series) in enumerate(parts.items()):
            role = RUN_ROLES[index % len(RUN_ROLES)]
            curves.append(_curve(series, window, most, role, spoken_part(name) if len(parts) > 1 or others else ""))
    else:
        raw, line = subject.raw(progress), subject.line(progress)
        if raw and not others:
            curves.append(_curve(raw, window, most, "raw" if line else "line", as_dots=bool(line)))
        if line := line or (raw if others else None):
            curves.append(_curve(line, window, most, RUN_ROLES[0] if others else "line", own_name if others else ""))
    for index, (name, other) in enumerate(others, start=1):
        its = subject.series(other)[:1]
        curves += [_curve(series, window, most, RUN_ROLES[index % len(RUN_ROLES)], name) for series in its]
    return ChartView(
        curves,
        band=_band(progress, window) if subject.has_band and progress.normalised.last_step else None,
        marks=broken_steps(progress, window, most),
        window=(float(window[0]), float(max(window[1], window[0] + 1))),
        log=state.log,
        empty=f" no {subject.short} yet",
        subject=f"{subject.short}, {ZOOMS[state.zoom]}",
    )


def broken_steps(progress: Progress, window: tuple[int, int], most: int) -> list[float]:
    """The steps of a window whose loss or gradient was no number."""
    marks: set[float] = set()
    for series in (progress.losses, progress.grad_norms):
        spans = series.columns(*window, most)
        marks.update(spans.last[spans.broken > 0].tolist())
    return sorted(marks)


def caption(state: ChartState, progress: Progress) -> tuple[str, str]:
    """What stands over the chart, at the left and at the right."""
    subject = state.shown
    # The window first: the end of the line is cut in a narrow terminal.
    notes = [*([ZOOMS[state.zoom]] if state.zoom else []), *(["log scale"] if state.log else []), subject.title]
    right = "" if subject.of_parts is not None else subject.newest(progress)
    if state.subject == 0 and progress.losses.last_step:
        right += f"   raw {spoken(progress.losses.last)}"
    elif subject.of_parts is not None:
        right = subject.newest(progress)
    return ", ".join(notes), right


def _curve(
    series: Series, window: tuple[int, int], most: int, role: str, name: str = "", as_dots: bool = False
) -> Curve:
    spans = series.columns(*window, most)
    # Both ends of each stretch, one over the other: no peak is lost. Where it begins: that stays as it grows.
    steps = np.repeat(spans.first, 2)
    return Curve(steps, np.column_stack((spans.low, spans.high)).ravel(), role, as_dots, name)


def _band(progress: Progress, window: tuple[int, int]) -> Band:
    samples = len(progress.last.samples) if progress.last else 1
    low, high = progress.norm.band(samples)
    return Band(list(window), [low, low], [high, high])
