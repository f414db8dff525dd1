"""Pictures that are the same, nearly the same or mirrored, what repeats in many, and looks that most share."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from loratory.dataset.findings import Severity, shown
from loratory.editing.checks.finding import CaptionFinding, Fix, RecipeFix, Said
from loratory.editing.checks.picture_context import PictureContext, Pictured
from loratory.editing.checks.pictures import at_picture

# Looks and overlays of a handful agree by chance.
_SET_FROM = 10
_ALIKE_SHARE = 0.6
# Larger boxes, and those of fewer pictures, are poses that agree by chance.
_OVERLAY_AREA, _OVERLAY_FROM, _OVERLAY_SHARE = 0.1, 5, 0.1
_SKIP = RecipeFix({"skip": True})


def alike(pictures: Sequence[Pictured], context: PictureContext) -> Iterator[CaptionFinding]:
    """What the pictures of a set have in common that they should not."""
    from loratory.imaging.similarity import near_duplicates, repeated_overlays, style_clusters

    facts = [picture.facts for picture in pictures]
    yield from _same_bytes(pictures)
    for group in near_duplicates(facts):
        members = [pictures[index] for index in group.members]
        if group.kind == "mirrored":
            yield from _mirrored(members, context)
        else:
            yield from _near(members)
    if len(pictures) >= _SET_FROM:
        for overlay in repeated_overlays(facts):
            left, top, right, bottom = overlay.box
            is_small = (right - left) * (bottom - top) <= _OVERLAY_AREA
            if not is_small or len(overlay.members) < max(_OVERLAY_FROM, _OVERLAY_SHARE * len(pictures)):
                continue
            yield from _overlay(overlay.box, [pictures[index] for index in overlay.members])
        if context.dataset.goal != "style":
            yield from _look_alike(style_clusters(facts), len(pictures))


def best_first(pictures: Sequence[Pictured]) -> list[Pictured]:
    """The picture to keep first: more px, more tags, then sharper."""
    return sorted(
        pictures,
        key=lambda picture: (
            -picture.facts.size[0] * picture.facts.size[1],
            -len(picture.item.keys),
            -picture.facts.sharpness,
            picture.item.name,
        ),
    )


def _same_bytes(pictures: Sequence[Pictured]) -> Iterator[CaptionFinding]:
    by_digest: defaultdict[str, list[Pictured]] = defaultdict(list)
    for picture in pictures:
        by_digest[picture.facts.digest].append(picture)
    for members in by_digest.values():
        kept, *others = best_first(members)
        for other in others:
            is_one_concept = other.item.class_tokens == kept.item.class_tokens
            severity: Severity = "warning" if is_one_concept else "note"
            message = (
                f"It is {shown(kept.item.name)} once more, byte for byte: such a picture is trained twice as often as "
                "others. Leave one out."
            )
            skip = Fix("leave this one out", _SKIP, automatic=is_one_concept)
            yield at_picture(Said("same-picture", severity, message, (), (skip,)), other)


def _near(members: Sequence[Pictured]) -> Iterator[CaptionFinding]:
    kept, *others = best_first(members)
    for other in others:
        if other.facts.digest != kept.facts.digest:
            message = (
                f"It is nearly the same as {shown(kept.item.name)}, so what they share is trained more often. Keep the "
                "better one, unless what differs is what is to be learnt."
            )
            skip = Fix("leave this one out", _SKIP, automatic=False)
            yield at_picture(Said("near-duplicate", "note", message, (), (skip,)), other)


def _mirrored(members: Sequence[Pictured], context: PictureContext) -> Iterator[CaptionFinding]:
    kept, *others = best_first(members)
    is_asymmetric = context.dataset.asymmetric
    for other in others:
        if is_asymmetric:
            advice = "The subject is declared asymmetric: one of them faces the wrong way. Flip it, or leave it out."
        else:
            advice = "A mirrored copy adds little; flip_aug does the same. Leave one out."
        message = f"It is nearly {shown(kept.item.name)}, mirrored. {advice}"
        fixes = (
            Fix("leave this one out", _SKIP, automatic=False),
            Fix("flip this one", RecipeFix({"flip": True}), automatic=False),
        )
        severity: Severity = "warning" if is_asymmetric else "note"
        yield at_picture(Said("mirrored-duplicate", severity, message, (), fixes), other)


def _overlay(box: tuple[float, float, float, float], members: Sequence[Pictured]) -> Iterator[CaptionFinding]:
    message = (
        f"The same thing is in the {_place(box)} of {len(members)} pictures, and what repeats at one place is learnt "
        "there. Erase it, crop it away, or tag it."
    )
    for picture in members:
        width, height = picture.facts.size
        erased = (
            int(box[0] * width),
            int(box[1] * height),
            min(width, round(box[2] * width + 0.5)),
            min(height, round(box[3] * height + 0.5)),
        )
        fix = Fix("erase it, filled from what is around", RecipeFix({"erase": (erased,)}), automatic=False)
        yield at_picture(Said("overlay-repeated", "note", message, (), (fix,)), picture)


def _place(box: tuple[float, float, float, float]) -> str:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    vertical = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    horizontal = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    if vertical and horizontal:
        return f"{vertical} {horizontal} corner"
    return f"{vertical or horizontal} part" if vertical or horizontal else "middle"


def _look_alike(clusters: Sequence[tuple[int, ...]], count: int) -> Iterator[CaptionFinding]:
    if clusters and len(clusters[0]) >= _ALIKE_SHARE * count:
        message = (
            f"{len(clusters[0])} of {count} pictures look alike in colours and strokes: results will lean to that look "
            "unasked. Add others, tag artist and medium, or use a regularization set."
        )
        yield CaptionFinding("style-concentration", "note", None, message)
