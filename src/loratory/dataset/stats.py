"""What a set of pictures and captions looks like in numbers: tags, pairs of tags, buckets, sizes, leanings. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Literal

from loratory.config.schema import DatasetSettings
from loratory.dataset.buckets import Size, place_image

Leaning = Literal["background", "greyscale", "artist", "medium", "view", "shape", "look"]

# Tags of where the subject is seen from and of how it stands, in the words of Danbooru and e621.
VIEWS = frozenset(
    {
        *("front view", "side view", "back view", "rear view", "three-quarter view", "from behind", "from side"),
        *("from above", "from below", "high-angle view", "low-angle view", "profile", "straight-on", "facing viewer"),
        *("looking at viewer", "looking away", "looking back", "looking to the side", "portrait", "headshot portrait"),
        *("bust portrait", "upper body", "half-length portrait", "cowboy shot", "three-quarter portrait", "full body"),
        *("full-length portrait", "lower body", "close-up", "wide shot", "standing", "sitting", "lying", "kneeling"),
        *("crouching", "squatting", "walking", "running", "jumping", "on back", "on side", "on stomach", "all fours"),
        *("action pose", "t-pose", "a-pose", "model sheet", "multiple views"),
    }
)
_GREYSCALE_TAGS = frozenset({"greyscale", "grayscale", "monochrome", "black and white"})
_GROUND_TAGS = frozenset({"simple background", "plain background"})
# A few pictures agree by chance; of more, what most of them share is learnt as part of the subject.
_LEANING_FROM = 10
_MOST = 0.5
_TAGGED = 0.8
_SQUARE = 1.1


@dataclass(frozen=True)
class Picture:
    """One picture as statistics need it.

    folder: of the concept. repeats: visits in an epoch. tags: comparison keys of its caption. size: (width, height) in
    px, upright, None where it is not known. ground: name of its plain background's colour, "" for one without a usual
    name, None where there is none or it is not known. is_grey: None where it is not known.
    """

    name: str
    folder: str
    repeats: int
    tags: tuple[str, ...]
    size: Size | None = None
    ground: str | None = None
    is_grey: bool | None = None


@dataclass(frozen=True)
class TagCount:
    """How often a tag occurs.

    pictures: with it. share: of all pictures, 0 to 1. visits: of an epoch that show it. visit_share: of all visits.
    """

    tag: str
    pictures: int
    share: float
    visits: int
    visit_share: float


def count_tags(pictures: Sequence[Picture]) -> list[TagCount]:
    """Every tag, the one on most pictures first."""
    on: Counter[str] = Counter()
    visits: Counter[str] = Counter()
    for picture in pictures:
        for tag in set(picture.tags):
            on[tag] += 1
            visits[tag] += picture.repeats
    total = sum(picture.repeats for picture in pictures) or 1
    rows = (TagCount(tag, n, n / len(pictures), visits[tag], visits[tag] / total) for tag, n in on.items())
    return sorted(rows, key=lambda row: (-row.pictures, row.tag))


@dataclass(frozen=True)
class Pair:
    """Two tags that occur together.

    together: pictures with both. jaccard: of the pictures with either, the share that has both. lift: how many times as
    often they meet as they would by chance; 1 is by chance.
    """

    first: str
    second: str
    together: int
    jaccard: float
    lift: float


def find_pairs(pictures: Sequence[Picture], *, least: int = 2) -> list[Pair]:
    """Tags that meet on `least` pictures or more and oftener than by chance, the most inseparable first.

    Of tags that are on every captioned picture nothing can be said: they are left out.
    """
    pictures = [picture for picture in pictures if picture.tags]
    on = Counter(tag for picture in pictures for tag in set(picture.tags))
    wanted = sorted(tag for tag, count in on.items() if least <= count < len(pictures))
    pairs: list[Pair] = []
    for first, second, count in _meetings(pictures, [(tag, on[tag]) for tag in wanted], least):
        lift = count * len(pictures) / (on[first] * on[second])
        jaccard = count / (on[first] + on[second] - count)
        pairs.append(Pair(first, second, count, jaccard, lift))
    return sorted(pairs, key=lambda pair: (-pair.jaccard, -pair.together, pair.first, pair.second))


def _meetings(
    pictures: Sequence[Picture], wanted: Sequence[tuple[str, int]], least: int
) -> Iterator[tuple[str, str, int]]:
    """(tag, later tag, pictures with both) of all that meet on `least` pictures and oftener than by chance.

    wanted: tags, and on how many pictures each is. Counted as numbers: ten thousand captions hold millions of pairs.
    """
    import numpy as np
    import numpy.typing as npt  # not at the top: what only counts folders starts faster without

    number = {tag: index for index, (tag, _) in enumerate(wanted)}
    on = np.array([count for _, count in wanted], np.int64)
    codes: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    for picture in pictures:
        own = np.array(sorted({number[tag] for tag in picture.tags if tag in number}), np.int64)
        first, second = np.triu_indices(len(own), 1)
        codes.append(own[first] * len(wanted) + own[second])
    pairs, counts = np.unique(np.concatenate(codes), return_counts=True)
    firsts, seconds = np.divmod(pairs, max(1, len(wanted)))
    kept = (counts >= least) & (counts * len(pictures) > on[firsts] * on[seconds])
    for first, second, count in zip(firsts[kept], seconds[kept], counts[kept], strict=True):
        yield wanted[int(first)][0], wanted[int(second)][0], int(count)


@dataclass(frozen=True)
class Fused:
    """Tags that are always together and never apart: nothing tells a model which of them is which."""

    tags: tuple[str, ...]
    pictures: int


def find_fused(pictures: Sequence[Picture], *, least: int = 2) -> list[Fused]:
    """Groups of tags that stand on the very same pictures, `least` or more but not all; the most frequent first."""
    pictures = [picture for picture in pictures if picture.tags]
    where: defaultdict[str, list[int]] = defaultdict(list)
    for index, picture in enumerate(pictures):
        for tag in dict.fromkeys(picture.tags):
            where[tag].append(index)
    groups: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for tag, indices in where.items():
        if least <= len(indices) < len(pictures):
            groups[tuple(indices)].append(tag)
    found = (Fused(tuple(sorted(tags)), len(indices)) for indices, tags in groups.items() if len(tags) > 1)
    return sorted(found, key=lambda fused: (-fused.pictures, fused.tags))


def tags_everywhere(pictures: Sequence[Picture]) -> list[str]:
    """Tags on every picture that has any, in the order of the first."""
    tagged = [picture.tags for picture in pictures if picture.tags]
    common = set[str]() if not tagged else set(tagged[0]).intersection(*tagged[1:])
    return [tag for tag in dict.fromkeys(tagged[0]) if tag in common] if tagged else []


@dataclass(frozen=True)
class BucketRow:
    """The pictures of one bucket.

    visits: of an epoch. crop_mean, crop_max: share of the picture's area that is cut off, 0 to 1. enlarged: how many
    are scaled up. enlarged_max: the largest factor of scaling; 1 or less where none is. batches: of an epoch. partial:
    how many of them are not full, 0 or 1.
    """

    bucket: Size
    pictures: int
    visits: int
    crop_mean: float
    crop_max: float
    enlarged: int
    enlarged_max: float
    batches: int
    partial: int


def bucket_table(pictures: Iterable[Picture], settings: DatasetSettings, batch_size: int = 1) -> list[BucketRow]:
    """The buckets that the pictures of known size fall into, widest shape first.

    Raises LoratoryError for settings without a bucket.
    """
    by_bucket: defaultdict[Size, list[tuple[float, float, int]]] = defaultdict(list)
    for picture in pictures:
        if picture.size is not None:
            placed = place_image(picture.size, settings)
            cut = 1 - placed.bucket[0] * placed.bucket[1] / (placed.resized[0] * placed.resized[1])
            enlarged = max(placed.resized[0] / picture.size[0], placed.resized[1] / picture.size[1])
            by_bucket[placed.bucket].append((cut, enlarged, picture.repeats))
    rows: list[BucketRow] = []
    for bucket, placed in by_bucket.items():
        cuts, enlargements, repeats = zip(*placed, strict=True)
        visits = sum(repeats)
        partial = int(visits % batch_size > 0)
        batches = visits // batch_size + partial
        enlarged = sum(factor > 1 for factor in enlargements)
        rows.append(
            BucketRow(
                bucket, len(placed), visits, fmean(cuts), max(cuts), enlarged, max(enlargements), batches, partial
            )
        )
    return sorted(rows, key=lambda row: (-row.bucket[0] / row.bucket[1], row.bucket))


@dataclass(frozen=True)
class Spread:
    """How a measure is spread over the pictures: the least, a quarter are below, half are, three quarters, the most."""

    what: str
    least: float
    quarter: float
    half: float
    three_quarters: float
    most: float


def size_table(sizes: Sequence[Size]) -> list[Spread]:
    """Spread of short side and long side (px), area (megapixels) and width / height; nothing for no size."""
    if not sizes:
        return []
    return [
        _spread("short side, px", [min(size) for size in sizes]),
        _spread("long side, px", [max(size) for size in sizes]),
        _spread("megapixels", [width * height / 1e6 for width, height in sizes]),
        _spread("width / height", [width / height for width, height in sizes]),
    ]


def _spread(what: str, values: Sequence[float]) -> Spread:
    quarter, half, three_quarters = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Spread(what, min(values), quarter, half, three_quarters, max(values))


@dataclass(frozen=True)
class Lean:
    """Something that pictures have in common.

    pictures: how many. share: of all whose looks are known, 0 to 1. tagged: of them, the share whose caption says so;
    None where no tag could. concern: why that weakens training and what to do, "" where it does not.
    """

    kind: Leaning
    what: str
    pictures: int
    share: float
    tagged: float | None
    concern: str


def find_leanings(
    pictures: Sequence[Picture],
    category_of: Callable[[str], str],
    is_medium: Callable[[str], bool],
    *,
    is_style: bool,
    look_alike: Sequence[int] = (),
) -> list[Lean]:
    """What the set leans to, by kind, commonest first.

    category_of: of a tag in its vocabulary, "" where it is not known. is_medium: whether a tag names a medium or a way
    of drawing. is_style: whether a style is to be learnt, of which artist and medium are no bias but the aim.
    look_alike: sizes of the groups of pictures that look drawn alike.
    """
    leans = [
        *_grounds(pictures),
        *_greys(pictures),
        *_by_tag(pictures, category_of, is_medium, is_style=is_style),
        *_shapes(pictures),
    ]
    if look_alike and not is_style:
        largest = max(look_alike)
        concern = ""
        if _is_most(largest, len(pictures)):
            concern = "Much of the set is drawn alike: tag the artist or medium, or add pictures of other hands."
        leans.append(Lean("look", "drawn alike", largest, largest / len(pictures), None, concern))
    return leans


def _grounds(pictures: Sequence[Picture]) -> list[Lean]:
    known = [picture for picture in pictures if picture.is_grey is not None]
    by_name: defaultdict[str, list[Picture]] = defaultdict(list)
    for picture in known:
        if picture.ground is not None:
            by_name[picture.ground].append(picture)
    leans: list[Lean] = []
    for name, those in by_name.items():
        tags = _GROUND_TAGS if not name else {f"{name} background", f"{name.replace('grey', 'gray')} background"}
        tagged = _tagged(those, tags)
        concern = ""
        if _is_most(len(those), len(known)):
            what = f"a {name} background" if name else "a plain background"
            if tagged < _TAGGED:
                concern = f"Most pictures have {what} and few captions say so: tag it, or vary it, or it is learnt too."
            else:
                concern = f"Most pictures have {what}. It is tagged, so it can be asked away; other grounds help more."
        word = f"{name} background" if name else "plain background"
        leans.append(Lean("background", word, len(those), len(those) / len(known), tagged, concern))
    return _commonest_first(leans)


def _greys(pictures: Sequence[Picture]) -> list[Lean]:
    known = [picture for picture in pictures if picture.is_grey is not None]
    grey = [picture for picture in known if picture.is_grey]
    if not grey:
        return []
    tagged = _tagged(grey, _GREYSCALE_TAGS)
    concern = ""
    if tagged < _TAGGED:
        concern = "Grey pictures without the tag teach that the subject has no colour: tag them “greyscale”."
    elif _is_most(len(grey), len(known)):
        concern = "Most pictures have no colour; the subject's own colours are hardly learnt. Add coloured ones."
    return [Lean("greyscale", "no colour", len(grey), len(grey) / len(known), tagged, concern)]


def _by_tag(
    pictures: Sequence[Picture], category_of: Callable[[str], str], is_medium: Callable[[str], bool], *, is_style: bool
) -> list[Lean]:
    leans: dict[Leaning, list[Lean]] = {"artist": [], "medium": [], "view": []}
    captioned = sum(bool(picture.tags) for picture in pictures)
    for tag, count in Counter(tag for picture in pictures for tag in set(picture.tags)).items():
        kind: Leaning
        if category_of(tag) in ("artist", "contributor"):
            kind, concern = "artist", "Results will lean to this artist unasked: keep the tag, add pictures of others."
        elif is_medium(tag):
            kind, concern = "medium", "Results will lean to this look unasked: keep the tag, add pictures of others."
        elif tag in VIEWS:
            kind, concern = "view", "Other views will be weak: add pictures of them."
        else:
            continue
        heavy = _is_most(count, captioned) and not (is_style and kind != "view")
        leans[kind].append(Lean(kind, tag, count, count / captioned, None, concern if heavy else ""))
    return [lean for each in leans.values() for lean in _commonest_first(each)]


def _shapes(pictures: Sequence[Picture]) -> list[Lean]:
    shapes = Counter(_shape(picture.size) for picture in pictures if picture.size is not None)
    known = sum(shapes.values())
    return _commonest_first([Lean("shape", shape, n, n / known, None, "") for shape, n in shapes.items()])


def _shape(size: Size) -> str:
    aspect = size[0] / size[1]
    return "wide" if aspect > _SQUARE else "tall" if aspect < 1 / _SQUARE else "square"


def _tagged(pictures: Sequence[Picture], tags: Iterable[str]) -> float:
    wanted = set(tags)
    return sum(not wanted.isdisjoint(picture.tags) for picture in pictures) / len(pictures)


def _is_most(count: int, of: int) -> bool:
    return of >= _LEANING_FROM and count > _MOST * of


def _commonest_first(leans: list[Lean]) -> list[Lean]:
    return sorted(leans, key=lambda lean: (-lean.pictures, lean.what))
