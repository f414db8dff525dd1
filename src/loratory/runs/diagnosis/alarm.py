"""What the diagnosis tells: alarms, as values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from loratory.dataset.findings import shown

Severity = Literal["note", "warning", "error"]


@dataclass(frozen=True)
class Told:
    """What a rule has found.

    since: the last step at which nothing was wrong yet, where a file of then is of use. factor: by which the whole loss
    has changed, to a level that is usual from now on.
    """

    rule: str
    severity: Severity
    sentence: str
    images: tuple[str, ...] = ()
    since: int | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Alarm:
    """Something about a run that a person should look at, told once.

    step, time_s: when it was noticed. rule: stable id. sentence: what, where and what to do. images: the pictures it is
    about, as events name them. last_good: where that is of use, path of the newest adapter file or state from before it
    began, as its event names it, else ""; old ones are removed as a run goes on, so the file may be gone.
    """

    step: int
    time_s: float
    rule: str
    severity: Severity
    sentence: str
    images: tuple[str, ...] = ()
    last_good: str = ""


def name_of(image: str) -> str:
    """The file name of a picture as events name it, printable."""
    return shown(image.rpartition("/")[2])


def spoken_pictures(images: Iterable[str], at_most: int = 3) -> str:
    """`a.png, b.png and 2 more`: the first few different ones."""
    names = list(dict.fromkeys(name_of(image) for image in images))
    if len(names) <= at_most:
        return join(names)
    return f"{', '.join(names[:at_most])} and {len(names) - at_most} more"


def join(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
