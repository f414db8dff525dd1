"""What the checks of pictures go by: the settings of training, the captions' context, and what is usual in the set."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from loratory.config.schema import DatasetSettings
from loratory.editing.checks.context import CheckContext
from loratory.editing.checks.finding import Fix, quoted, spelled_like, uses_underscores
from loratory.tags.edits import Add
from loratory.tags.text import key

if TYPE_CHECKING:
    from loratory.editing.items import Item
    from loratory.editing.session import Session
    from loratory.imaging.facts import PictureFacts

_WORD = re.compile(r"\w+")
# A median of fewer says nothing about what is usual.
_ENOUGH_PICTURES = 8


class Pictured(NamedTuple):
    """A picture of the set and what one look at it told."""

    item: "Item"
    facts: "PictureFacts"


@dataclass(frozen=True)
class PictureContext:
    """What the checks know beside the picture in hand.

    captions: as for the checks of captions; its vocabulary, goal and kept rules count here too. dataset: the settings
    that pictures are trained by. batch_size: pictures a step. usual_sharpness: the median of the set, 0 where it is
    too small to have one.
    """

    captions: CheckContext
    dataset: DatasetSettings
    batch_size: int = 1
    usual_sharpness: float = 0.0

    def surveyed(self, pictures: Sequence[Pictured]) -> "PictureContext":
        """The same context, knowing what is usual among `pictures`."""
        sharpness = [facts.sharpness for item, facts in pictures if not facts.problem and not item.is_reg]
        return replace(self, usual_sharpness=median(sharpness) if len(sharpness) >= _ENOUGH_PICTURES else 0.0)

    def adding(self, names: Sequence[str], item: "Item") -> tuple[Fix, ...]:
        """The fix that adds tags of the vocabulary to a caption; none where captions are sentences.

        It is for a person to choose where there is no caption yet: that one word would take the place of the folder's
        name, on which such pictures are trained.
        """
        if self.captions.style == "natural":
            return ()
        tags = tuple(self.spelled(name, item) for name in names)
        return (Fix(f"add {' and '.join(map(quoted, tags))}", Add(tags), automatic=bool(item.keys)),)

    def spelled(self, name: str, item: "Item") -> str:
        """A tag of the vocabulary, given with underscores, as the picture's caption would write it."""
        return spelled_like(name, "", uses_underscores(item.tags))

    def said_in(self, item: "Item", names: Sequence[str]) -> bool:
        """Whether a caption has one of these tags, or one that implies it; in sentences, one of these words."""
        if self.captions.style == "natural":
            text = f" {' '.join(_WORD.findall(item.caption.text.casefold()))} "
            return any(f" {' '.join(_WORD.findall(key(name)))} " in text for name in names)
        wanted = {key(name) for name in names}
        return any(tag in wanted or not wanted.isdisjoint(self.captions.facts(tag).implies) for tag in item.bare_keys)


def picture_context(session: "Session", captions: CheckContext) -> PictureContext:
    """What the checks of pictures go by in an open dataset. Raises LoratoryError where its settings are of no use."""
    settings = session.settings
    return PictureContext(captions, settings.dataset_settings(session.root), settings.train_batch_size)
