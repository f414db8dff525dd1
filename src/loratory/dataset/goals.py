"""What a good set looks like for each goal: how many pictures, and how often each is trained. Pure."""

from dataclasses import dataclass
from typing import Literal

from loratory.config.schema import EXPOSURE, STYLE_EXPOSURE

Standing = Literal["too few", "few", "good", "best", "many"]


@dataclass(frozen=True)
class Advised:
    """How many pictures a goal wants, and how often each should be trained.

    least: fewer than that seldom work at all. usual, best: (from, to) pictures. exposure: where to start. exposures:
    (from, to) of where it may end.
    """

    least: int
    usual: tuple[int, int]
    best: tuple[int, int]
    exposure: float
    exposures: tuple[float, float]


_SUBJECT = Advised(8, (15, 50), (25, 35), EXPOSURE, (50, 300))
_STYLE = Advised(15, (50, 200), (125, 150), STYLE_EXPOSURE, (30, 40))


@dataclass(frozen=True)
class Verdict:
    """How a number of pictures stands for its goal. reason: one or two sentences that stand alone."""

    standing: Standing
    reason: str


def advised(goal: str) -> Advised:
    """What is advised for a goal: characters, concepts and clothing alike, styles by themselves."""
    return _STYLE if goal == "style" else _SUBJECT


def judge_count(goal: str, images: int) -> Verdict:
    """Whether `images` pictures are enough for the goal: of one concept, or of the whole set for a style."""
    if goal == "style":
        return Verdict(*_style(images))
    counted = "1 picture" if images == 1 else f"{images} pictures"
    if images < _SUBJECT.least:
        text = f"{counted}: fewer than 8 seldom teach a {goal} apart from its pictures. 15 to 50 are usual."
        return Verdict("too few", text)
    if images < _SUBJECT.usual[0]:
        text = f"{counted}: 8 is the least that works, and each counts. 15 to 50 are usual, 30 is a good number."
        return Verdict("few", text)
    if images <= _SUBJECT.usual[1]:
        near = _SUBJECT.best[0] <= images <= _SUBJECT.best[1]
        text = f"{counted}: within the usual 15 to 50; about 30 is a good number for a {goal}."
        return Verdict("best" if near else "good", text)
    text = f"{counted}: more than the usual 15 to 50. Fine where all are good: for a {goal} quality beats quantity."
    return Verdict("many", text)


def _style(images: int) -> tuple[Standing, str]:
    counted = "1 picture" if images == 1 else f"{images} pictures"
    wanted = "a style wants 50 to 200, best 125 to 150, so that what they share is the style and not a subject"
    if images < _STYLE.least:
        return "too few", f"{counted}: {wanted}."
    if images < _STYLE.usual[0]:
        return "few", f"{counted}: {wanted}."
    if images <= _STYLE.usual[1]:
        near = _STYLE.best[0] <= images <= _STYLE.best[1]
        return ("best" if near else "good"), f"{counted}: within the 50 to 200 of a style; 125 to 150 are best."
    return "many", f"{counted}: more than the 50 to 200 of a style. Fine where all are good; training gets longer."
