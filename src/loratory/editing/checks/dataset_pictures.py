"""What only all pictures together show: too few, too alike, and backgrounds that nobody tagged."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from loratory.dataset.buckets import Size, place_image
from loratory.dataset.findings import Severity, shown
from loratory.dataset.goals import judge_count
from loratory.dataset.listing import IMAGE_EXTENSIONS, extension, some_names
from loratory.dataset.listing import pictures as counted_pictures
from loratory.editing.checks.alike import alike
from loratory.editing.checks.finding import CaptionFinding, Said
from loratory.editing.checks.picture_context import PictureContext, Pictured
from loratory.editing.checks.pictures import at_picture, check_picture
from loratory.errors import LoratoryError
from loratory.tags.text import key

# A colour behind so many pictures is learnt with the subject: at least so many of them, and such a share of the set.
_BIAS_FROM, _BIAS_SHARE = 5, 0.25
# Of those, the share that may lack the tag.
_UNTAGGED_SHARE = 0.25
_TAGGED_BY_OTHERS = 3
_QUALITY = {"low-resolution": 2, "blurred": 2, "enlarged": 2, "compressed": 2, "extreme-aspect": 3, "crop-loss": 1}
_RANKED_FROM, _RANKED = 3, 5


def check_pictures(pictures: Sequence[Pictured], context: PictureContext) -> list[CaptionFinding]:
    """What is to be said of each picture and of all together.

    Each is compared with all others: seconds of computing for thousands.
    """
    context = context.surveyed(pictures)
    each = [finding for picture in pictures for finding in check_picture(picture, context)]
    return [*each, *check_picture_set(pictures, context, each)]


def check_picture_set(
    pictures: Sequence[Pictured], context: PictureContext, each: Sequence[CaptionFinding]
) -> list[CaptionFinding]:
    """What is to be said of the pictures as a set; regularization is left in peace.

    each: what was said of single pictures, from which the weakest are told.
    """
    train = [
        picture
        for picture in pictures
        if not picture.facts.problem
        and not picture.item.is_reg
        and extension(picture.item.image_name) in IMAGE_EXTENSIONS
    ]
    found = [*_backgrounds(train, context), *alike(train, context)]
    of_set = [*_counts(train, context), *_small_buckets(train, context), *_ranking(train, each)]
    found += [CaptionFinding(said.rule, said.severity, None, said.message, "", said.tags) for said in of_set]
    return [finding for finding in found if not context.captions.is_kept(finding.rule)]


def _counts(pictures: Sequence[Pictured], context: PictureContext) -> Iterator[Said]:
    """Whether each concept has as many pictures as suits the goal."""
    by_concept = Counter(picture.item.class_tokens for picture in pictures)
    goal = context.dataset.goal
    if goal == "style":
        by_concept = Counter({"": len(pictures)})
    for concept, count in by_concept.items():
        verdict = judge_count(goal, count)
        where = f"{shown(concept)}: " if concept and len(by_concept) > 1 else ""
        severity: Severity = "warning" if verdict.standing == "too few" else "note"
        if count and verdict.standing in ("too few", "few", "many"):
            yield Said("image-count", severity, where + verdict.reason)


def _backgrounds(pictures: Sequence[Pictured], context: PictureContext) -> Iterator[CaptionFinding]:
    """Plain backgrounds that are not tagged: many of one colour, or where others have the tag."""
    by_colour: defaultdict[str, list[Pictured]] = defaultdict(list)
    for picture in pictures:
        ground = picture.facts.ground
        # Behind transparency the colour is what a trainer makes of it; its own fix tags it.
        if ground is not None and ground.name and not picture.facts.transparent_share:
            by_colour[ground.name].append(picture)
    for colour, members in by_colour.items():
        name = f"{colour}_background"
        if context.captions.is_kept("background-bias", key(name)):
            continue
        untagged = [picture for picture in members if not context.said_in(picture.item, (name,))]
        tagged = len(members) - len(untagged)
        is_common = len(members) >= _BIAS_FROM and len(members) >= _BIAS_SHARE * len(pictures)
        if is_common and len(untagged) > _UNTAGGED_SHARE * len(members):
            message = (
                f"{len(members) / len(pictures):.0%} of the pictures have a plain {colour} background, "
                f"{tagged / len(pictures):.0%} are tagged with it: untagged it becomes part of the subject. Tag it."
            )
            rule, severity = "background-bias", "warning"
        elif tagged >= _TAGGED_BY_OTHERS:
            message = f"Its background looks {colour}, as that of {tagged} others, which are tagged with it. Tag it."
            rule, severity = "background-untagged", "note"
        else:
            continue
        for picture in untagged:
            yield at_picture(Said(rule, severity, message, (), context.adding((name,), picture.item)), picture)


def _small_buckets(pictures: Sequence[Pictured], context: PictureContext) -> Iterator[Said]:
    """Buckets with fewer pictures than a batch holds."""
    if context.batch_size == 1:
        return
    buckets: Counter[Size] = Counter()
    for picture in pictures:
        try:
            buckets[place_image(picture.facts.size, context.dataset).bucket] += 1
        except (LoratoryError, ZeroDivisionError):
            return
    small = {bucket: count for bucket, count in buckets.items() if count < context.batch_size}
    if small:
        example = min(small, key=lambda bucket: (small[bucket], bucket))
        message = (
            f"{len(small)} of {len(buckets)} buckets have fewer pictures than a batch of {context.batch_size} "
            f"({counted_pictures(small[example])} of {example[0]}x{example[1]}, for example), so those batches are not "
            "full or repeat a picture. Crop towards common shapes, or raise dataset.bucket_reso_steps."
        )
        yield Said("bucket-small", "note", message)


def _ranking(pictures: Sequence[Pictured], each: Sequence[CaptionFinding]) -> Iterator[Said]:
    """The weakest pictures, where several have weaknesses."""
    sharpness = {picture.item.name: picture.facts.sharpness for picture in pictures}
    weakness: Counter[str] = Counter()
    for finding in each:
        if finding.item in sharpness and finding.rule in _QUALITY:
            weakness[finding.item] += _QUALITY[finding.rule] + (finding.severity == "warning")
    # What most have is a matter of the set, and said of it already.
    if len(weakness) < _RANKED_FROM or 2 * len(weakness) > len(pictures):
        return
    worst = sorted(weakness, key=lambda name: (-weakness[name], sharpness[name], name))[:_RANKED]
    message = (
        f"{len(weakness)} of {len(pictures)} pictures have weaknesses; the weakest are {some_names(worst)}. One bad "
        "picture weighs much in a small set: replace these first."
    )
    yield Said("image-ranking", "note", message)
