"""Pictures, concepts and tags whose loss stays far above what is usual at their timesteps.

Such a picture is often damaged, foreign to the set or wrongly captioned, and what distorted anatomy comes from.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from loratory.dataset.findings import shown
from loratory.runs.diagnosis.alarm import Told, name_of, spoken_pictures
from loratory.runs.diagnosis.seen import Look, Seen
from loratory.runs.events import Started, Step

# A visit counts as high from this factor over the concept's middle picture; so many in a row make a candidate, which
# is told when its mean is that many times the middle one's, and further out than the spread of its concept explains.
_HIGH, _IN_A_ROW, _TIMES, _SPREADS = math.log(1.5), 6, math.log(2.0), 5.0
# The spread among fewer pictures says nothing, and pictures are never more alike than this.
_CONCEPT_IMAGES, _LEAST_SPREAD = 5, 0.1
# A mean follows the last so many visits.
_MEMORY = 12
# Of concepts and tags: judged every so many visits at least, from so many visits on.
_EVERY, _VISITS, _TAG_IMAGES = 25, 24, 3
_CONCEPT_TIMES, _TAG_TIMES, _TAG_ERRORS = math.log(2.0), math.log(1.5), 4.0
_TOLD_AT_MOST = 20


@dataclass
class _Record:
    """Of one picture: its visits, the mean of the last ones' excess, and how many were high in a row."""

    visits: int = 0
    mean: float = 0.0
    high: int = 0


class Outliers:
    """Tells each picture, concept and tag once. Memory grows with the number of pictures."""

    def __init__(self, tags: Mapping[str, Sequence[str]]) -> None:
        self._tags = tags
        self._concepts: dict[str, dict[str, _Record]] = {}
        self._centre: dict[str, float] = {}
        # What was told and at which step: pictures as they are named, concepts with a slash behind, tags before it.
        self._told: dict[str, int] = {}
        self._step = 0
        self._unjudged = 0

    def add(self, seen: Seen) -> Iterator[Told]:
        if isinstance(seen.event, Started):
            beyond = seen.event.from_step
            self._told = {what: step for what, step in self._told.items() if step <= beyond}
        if not isinstance(seen.event, Step):
            return
        self._step = seen.event.step
        for look in seen.looks:
            yield from self._visit(look)
        self._unjudged += len(seen.looks)
        # As many visits as there are pictures, so that judging costs a visit the same in a set of any size.
        if self._unjudged >= max(_EVERY, sum(len(records) for records in self._concepts.values())):
            self._unjudged = 0
            self._centre = {
                folder: median(record.mean for record in records.values()) for folder, records in self._concepts.items()
            }
            yield from self._judge_concepts()
            yield from self._judge_tags()

    def _visit(self, look: Look) -> Iterator[Told]:
        folder = look.image.rpartition("/")[0]
        record = self._concepts.setdefault(folder, {}).setdefault(look.image, _Record())
        record.visits += 1
        record.mean += (look.excess - record.mean) / min(record.visits, _MEMORY)
        record.high = record.high + 1 if look.excess - self._centre.get(folder, 0.0) > _HIGH else 0
        if record.high < _IN_A_ROW or look.image in self._told:
            return
        times = self._times_the_others(folder, record)
        if times and len(self._told) < _TOLD_AT_MOST:
            self._told[look.image] = self._step
            yield Told(
                "image-outlier",
                "warning",
                f"The loss of {name_of(look.image)} is {times:.1f} times what is usual for {_folder(folder)} at its "
                f"timesteps, {record.high} visits running. Look at the picture and its caption; one that does not "
                "belong in the set distorts what is learned, so leave it out.",
                (look.image,),
            )

    def _times_the_others(self, folder: str, record: _Record) -> float:
        """The picture's loss relative to its concept's middle one; 0 where that is nothing to speak of."""
        means = [other.mean for other in self._concepts[folder].values() if other.visits >= 2]
        if len(means) < _CONCEPT_IMAGES:
            return 0.0
        centre = median(means)
        # 1.48 times the median distance is the standard deviation of what has no outliers.
        spread = max(1.48 * median(abs(mean - centre) for mean in means), _LEAST_SPREAD)
        above = record.mean - centre
        return math.exp(above) if above > max(_TIMES, _SPREADS * spread) else 0.0

    def _judge_concepts(self) -> Iterator[Told]:
        means = {
            folder: sum(record.mean for record in records.values()) / len(records)
            for folder, records in self._concepts.items()
            if sum(record.visits for record in records.values()) >= _VISITS
        }
        for folder, mean in means.items():
            others = [other for name, other in means.items() if name != folder]
            if not others or f"{folder}/" in self._told or mean - median(others) < _CONCEPT_TIMES:
                continue
            self._told[f"{folder}/"] = self._step
            yield Told(
                "concept-outlier",
                "note",
                f"The pictures of {_folder(folder)} have {math.exp(mean - median(others)):.1f} times the loss of the "
                "other concepts at the same timesteps: they are harder to learn, or of another kind. Give them more "
                "repeats, or look whether their captions say what they show.",
                tuple(sorted(self._concepts[folder], key=lambda image: -self._concepts[folder][image].mean)[:5]),
            )

    def _judge_tags(self) -> Iterator[Told]:
        if not self._tags:
            return
        records = {image: each for images in self._concepts.values() for image, each in images.items() if each.visits}
        if len(records) < 2 * _TAG_IMAGES or sum(record.visits for record in records.values()) < 2 * _VISITS:
            return
        # Against the pictures of the same concept, so that a concept's token is not taken for a hard tag.
        excess = {image: each.mean - self._centre.get(image.rpartition("/")[0], 0.0) for image, each in records.items()}
        tagged: dict[str, list[str]] = {}
        for image in records:
            for tag in dict.fromkeys(self._tags.get(image, ())):
                tagged.setdefault(tag, []).append(image)
        for tag, images in tagged.items():
            if f"/{tag}" in self._told or not _TAG_IMAGES <= len(images) <= len(records) / 2:
                continue
            above = median(excess[image] for image in images)
            if above < _TAG_TIMES or above < _TAG_ERRORS * _error(excess, images):
                continue
            self._told[f"/{tag}"] = self._step
            yield Told(
                "tag-outlier",
                "note",
                f"Pictures tagged {shown(tag)} have {math.exp(above):.1f} times the usual loss at their timesteps "
                f"({spoken_pictures(images)}): the tag does not say what they show, or they show something hard.",
                tuple(images),
            )


def _error(excess: Mapping[str, float], images: Sequence[str]) -> float:
    """The standard error of the mean excess of as many pictures as `images`, from those without the tag."""
    chosen = set(images)
    others = [value for image, value in excess.items() if image not in chosen]
    mean = sum(others) / len(others)
    spread = math.sqrt(sum((value - mean) ** 2 for value in others) / len(others))
    return max(spread, _LEAST_SPREAD) / math.sqrt(len(images))


def _folder(folder: str) -> str:
    return shown(folder) if folder else "the set"
