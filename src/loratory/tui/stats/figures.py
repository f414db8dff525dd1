"""Computes the figures of a set away from the screen: captions at once, pictures as they are looked at."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.dataset import stats
from loratory.dataset.buckets import place_image
from loratory.editing.statistics import leanings_of, pictures_of
from loratory.tui.stats.sections import Figures, Group

if TYPE_CHECKING:
    from loratory.editing.items import Item
    from loratory.editing.session import Session
    from loratory.imaging.facts import PictureFacts

_KINDS = {"same": "the same file", "similar": "nearly the same", "mirrored": "mirror images"}


def gather(session: "Session", progress: Callable[[int, int], None], stop: threading.Event) -> Figures:
    """The figures of a set, its pictures looked at where that was not done before; takes seconds for thousands.

    progress: gets (pictures done, of how many). Raises LoratoryError for settings that give no bucket.
    """
    from loratory.imaging.survey import survey

    items = [item for item in session.items if not item.is_reg]
    known: dict[Path, PictureFacts] = {}
    for done, (path, facts) in enumerate(survey([item.image for item in items], stop=stop), start=1):
        known[path] = facts
        progress(done, len(items))
    if not stop.is_set():
        session.facts.learn({item.name: known[item.image] for item in items})
    return _figures(session, items, known)


def gather_captions(session: "Session") -> Figures:
    """The figures that need no pixels."""
    return _figures(session, [item for item in session.items if not item.is_reg], {})


def _figures(session: "Session", items: "Sequence[Item]", known: "Mapping[Path, PictureFacts]") -> Figures:
    from loratory.imaging.similarity import near_duplicates, style_clusters

    settings = session.settings.dataset_settings(session.root)
    pictures = pictures_of(session, known)
    readable = [(item, known[item.image]) for item in items if item.image in known]
    alike = [facts for _, facts in readable]
    batch_size = session.settings.train_batch_size
    buckets = stats.bucket_table(pictures, settings, batch_size)
    by_bucket: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    with_tag: defaultdict[str, list[str]] = defaultdict(list)
    for picture in pictures:
        if picture.size is not None:
            by_bucket[place_image(picture.size, settings).bucket].append(picture.name)
        for tag in set(picture.tags):
            with_tag[tag].append(picture.name)
    groups = [
        Group(_KINDS[group.kind], tuple(readable[index][0].name for index in group.members))
        for group in near_duplicates(alike)
    ]
    looks = [cluster for cluster in style_clusters(alike) if len(cluster) > 2]
    groups += [
        Group("drawn alike, as far as colours and strokes tell", tuple(readable[index][0].name for index in cluster))
        for cluster in looks
    ]
    width, height = settings.resolution_wh
    return Figures(
        pictures=tuple(pictures),
        tags=tuple(stats.count_tags(pictures)),
        pairs=tuple(stats.find_pairs(pictures)),
        fused=tuple(stats.find_fused(pictures)),
        everywhere=tuple(stats.tags_everywhere(pictures)),
        buckets=tuple(buckets),
        bucket_names=tuple(tuple(by_bucket[row.bucket]) for row in buckets),
        resolution=f"{width}x{height}",
        batch_size=batch_size,
        sizes=tuple(stats.size_table([picture.size for picture in pictures if picture.size is not None])),
        leans=tuple(leanings_of(session, pictures, session.settings.goal, [len(cluster) for cluster in looks])),
        groups=tuple(groups),
        looked_at=len(readable),
        with_tag={tag: tuple(names) for tag, names in with_tag.items()},
    )
