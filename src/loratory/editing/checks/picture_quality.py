"""How good a picture is: sharp, enlarged before, compressed, noisy, without colours."""

from collections.abc import Iterator

from loratory.editing.checks.finding import Fix, RecipeFix, Said
from loratory.editing.checks.picture_context import PictureContext, Pictured
from loratory.imaging.quality import BLOCKY, LITTLE_DETAIL, NOISY, TEXTURED

# Of the usual sharpness of the set: only the other pictures tell what a soft style is.
_BLURRED_SHARE = 0.35
_GREY_TAGS = (
    "greyscale", "grayscale", "monochrome", "black_and_white", "lineart", "line_art", "sketch", "sepia",
    "black_and_white_photo", "pencil_drawing",
)  # fmt: skip
_BLUR_TAGS = ("blurry", "blurred", "motion_blur", "out_of_focus", "soft_focus", "bokeh", "depth_of_field")


def quality(picture: Pictured, context: PictureContext) -> Iterator[Said]:
    """What is weak about the pixels. No threshold is certain, so all are notes for a person to look at."""
    facts = picture.facts
    usual = context.usual_sharpness
    if 0 < facts.sharpness < _BLURRED_SHARE * usual and not context.said_in(picture.item, _BLUR_TAGS):
        message = (
            f"It is less sharp than the others, {facts.sharpness / usual:.0%} of what is usual here. Replace it, or "
            "tag it as blurred."
        )
        yield Said("blurred", "note", message)
    if facts.detail < LITTLE_DETAIL:
        message = (
            f"Its detail fills {facts.detail:.0%} of its size: it was enlarged before, and blur is learnt. Look for "
            "the original."
        )
        renew = Fix("shrink and upscale it", RecipeFix({"clean": "downscale"}), automatic=False)
        yield Said("enlarged", "note", message, (), (renew,))
    if facts.blockiness >= BLOCKY:
        message = "The blocks of strong compression show, and are learnt. Look for a better copy, or clean it."
        clean = Fix("smooth it", RecipeFix({"clean": "adverse"}), automatic=False)
        yield Said("compressed", "note", message, (), (clean,))
    elif NOISY <= facts.residual < TEXTURED:
        message = (
            "Its flat areas are noisier than drawing leaves them. It may be adversarial noise (Glaze, Nightshade), or "
            "just grain, paper or compression: look at it closely. Cleaning takes such noise away, with some detail."
        )
        cures = (
            Fix("clean it by upscaling", RecipeFix({"clean": "upscale"}), automatic=False),
            Fix("clean it by shrinking and upscaling", RecipeFix({"clean": "downscale"}), automatic=False),
            Fix("clean it by smoothing", RecipeFix({"clean": "adverse"}), automatic=False),
        )
        yield Said("poison-hint", "note", message, (), cures)


def colourless(picture: Pictured, context: PictureContext) -> Iterator[Said]:
    """A picture without colours whose tags do not say so."""
    if not picture.facts.is_grey or context.said_in(picture.item, _GREY_TAGS):
        return
    message = "It has no colours, and its caption does not say so, so that grey becomes part of the subject. Say it."
    yield Said("greyscale-untagged", "note", message, (), context.adding(_grey_words(context), picture.item))


def _grey_words(context: PictureContext) -> tuple[str, ...]:
    """What the vocabulary calls a picture in shades of grey, without what the first word implies."""
    implied = context.captions.facts("greyscale").implies
    return ("greyscale",) if "monochrome" in implied else ("greyscale", "monochrome")
