"""What a check found, as values that can be shown, counted, silenced and mended."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from loratory.dataset.findings import Finding, Severity
from loratory.tags.text import is_emoticon

if TYPE_CHECKING:
    from loratory.tags.edits import Edit


@dataclass(frozen=True)
class RecipeFix:
    """A change of what is done to a picture.

    changes: fields of `Recipe` with their new values; none at all has the picture built as every picture is: upright,
    sRGB, 8 bits, opaque. Boxes are in px of the picture that the finding is about, upright.
    """

    changes: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Fix:
    """One way to mend a finding.

    label: imperative, for a list to choose from. edit: of the caption, or of the picture's recipe. scope: whether
    `edit` is meant for the finding's picture, or for every picture of the dataset. automatic: whether it may be taken
    without a person choosing it; a guess may not.
    """

    label: str
    edit: "Edit | RecipeFix"
    scope: Literal["image", "dataset"] = "image"
    automatic: bool = True

    @property
    def is_recipe(self) -> bool:
        """Whether it changes the picture; otherwise the caption."""
        return isinstance(self.edit, RecipeFix)


@dataclass(frozen=True)
class CaptionFinding(Finding):
    """A finding about one picture or its caption, one folder or the whole set.

    path: the file, the folder, or None. message: stands beside the picture's name, which it does not repeat.
    item: `Item.name` of the picture, "" for a folder or the set. tags: as written, what to highlight. fixes: the best
    first.
    """

    item: str = ""
    tags: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()

    @property
    def automatic_fix(self) -> Fix | None:
        """The best fix, if it may be taken without a person choosing it."""
        return self.fixes[0] if self.fixes and self.fixes[0].automatic else None

    @property
    def caption_fixes(self) -> tuple[Fix, ...]:
        """The fixes that edit captions."""
        return tuple(fix for fix in self.fixes if not fix.is_recipe)


class Said(NamedTuple):
    """A finding without its place: the same for all pictures with the same caption."""

    rule: str
    severity: Severity
    message: str
    tags: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()


def spoken(name: str) -> str:
    """A vocabulary's name as people say it: with spaces, but for emoticons such as ^_^; unprintable text escaped."""
    name = name if name.isprintable() else repr(name)[1:-1]
    return " ".join(word if is_emoticon(word) else word.replace("_", " ") for word in name.split())


def quoted(tag: str) -> str:
    """A tag as written, in quotation marks, on one printable line of bearable length."""
    text = tag if tag.isprintable() else repr(tag)[1:-1]
    return f"“{text if len(text) <= 80 else text[:79] + '…'}”"


def counted(number: int) -> str:
    """A number with spaces between its thousands."""
    return f"{number:,}".replace(",", " ")


def some_tags(tags: list[str], most: int = 5) -> str:
    """Up to `most` tags in quotation marks, and how many more there are."""
    named = [quoted(tag) for tag in tags[:most]]
    if len(tags) > most:
        return f"{', '.join(named)} and {len(tags) - most} more"
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def uses_underscores(tags: Iterable[str]) -> bool:
    """Whether a caption writes its tags as the sites do, with underscores for spaces."""
    words = [tag for tag in tags if not is_emoticon(tag)]
    return any("_" in tag for tag in words) and not any(" " in tag for tag in words)


def spelled_like(name: str, written: str, underscores: bool) -> str:
    """`name` of a vocabulary as the caption would write it, in place of `written`.

    underscores: how the caption's other tags are written, where `written` does not tell. An emphasis around `written`
    is kept.
    """
    from loratory.tags.text import bare

    inner = bare(written)
    if "_" in inner and " " not in inner:
        underscores = True
    elif " " in inner:
        underscores = False
    text = name if underscores else spoken(name)
    if "\\(" in inner:
        text = text.replace("(", "\\(").replace(")", "\\)")
    return written.replace(inner, text) if inner != written.strip() else text
