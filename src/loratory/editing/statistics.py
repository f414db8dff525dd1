"""What the statistics need of an open dataset: pictures as plain values, what its vocabulary says of their tags."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.dataset.listing import parse_folder_name
from loratory.dataset.stats import Lean, Picture, find_leanings
from loratory.editing.checks.context import session_context
from loratory.editing.checks.dataset_wide import is_style
from loratory.editing.session import Session

if TYPE_CHECKING:
    from loratory.imaging.facts import PictureFacts


def pictures_of(session: Session, facts: Mapping[Path, "PictureFacts"]) -> list[Picture]:
    """The pictures to be trained, regularization sets left out.

    facts: by the picture's path, as far as they are known. Pictures outside of concept folders count once an epoch.
    """
    found: list[Picture] = []
    for item in session.items:
        if item.is_reg:
            continue
        repeats, _, problem = parse_folder_name(item.folder)
        looks = facts.get(item.image)
        known = looks is not None and not looks.problem
        found.append(
            Picture(
                name=item.name,
                folder=item.folder,
                repeats=1 if problem else repeats,
                tags=item.bare_keys,
                size=looks.size if looks is not None and known else None,
                ground=looks.ground.name if looks is not None and known and looks.ground is not None else None,
                is_grey=looks.is_grey if looks is not None and known else None,
            )
        )
    return found


def leanings_of(session: Session, pictures: Sequence[Picture], goal: str, look_alike: Sequence[int] = ()) -> list[Lean]:
    """What the set leans to by the dataset's own vocabulary. look_alike: sizes of groups of pictures drawn alike."""
    context = session_context(session)

    def category_of(tag: str) -> str:
        info = context.facts(tag).info
        return "" if info is None else info.category

    return find_leanings(
        pictures,
        category_of,
        lambda tag: is_style(tag, context),
        is_style=goal == "style",
        look_alike=look_alike,
    )
