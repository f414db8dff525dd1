"""One look at every picture of a session: the facts that the checks of pictures go by."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from loratory.dataset.listing import IMAGE_EXTENSIONS, extension, parse_folder_name, stem
from loratory.editing.checks.context import CheckContext
from loratory.editing.checks.dataset_pictures import check_pictures
from loratory.editing.checks.finding import CaptionFinding
from loratory.editing.checks.folders import check_folders, read_layout, trained
from loratory.editing.checks.picture_context import PictureContext, Pictured, picture_context
from loratory.editing.items import Item, is_regularization
from loratory.errors import LoratoryError
from loratory.preparation.places import find_pictures

if TYPE_CHECKING:
    from loratory.config.schema import DatasetSettings
    from loratory.editing.session import Session

Progress = Callable[[int, int], None]


class Looked(NamedTuple):
    """What was seen. context: what the checks went by. pictures: those that training would use, in the session's order,
    others that no trainer reads behind them."""

    context: PictureContext
    pictures: tuple[Pictured, ...]


def look_at_pictures(
    session: "Session",
    captions: CheckContext,
    dataset: "DatasetSettings | None" = None,
    *,
    progress: Progress | None = None,
    stop: Event | None = None,
) -> Looked:
    """Looks at each picture below the session's directory that a run would train; what is known already takes no time.

    dataset: instead of what the dataset's own settings say. progress: called with (pictures done, pictures in all).
    The session's facts know the pictures from then on. Stopped early, the result holds those seen so far.
    """
    from loratory.imaging.survey import survey

    context = picture_context(session, captions)
    if dataset is not None:
        context = PictureContext(captions, dataset, context.batch_size)
    items = [*trained(session.items, session.directory)]
    items += trained(_other_formats(session), session.directory)
    by_path = {item.image: item for item in items}
    seen: dict[str, Pictured] = {}
    for path, facts in survey(list(by_path), stop=stop):
        item = by_path[path]
        seen[item.name] = Pictured(item, facts)
        if progress is not None:
            progress(len(seen), len(by_path))
    pictures = tuple(seen[item.name] for item in items if item.name in seen)
    session.facts.learn({picture.item.name: picture.facts for picture in pictures})
    return Looked(context, pictures)


def check_session_pictures(session: "Session", looked: Looked) -> list[CaptionFinding]:
    """What is to be said of the pictures and of the folders; queries for `issue:` know it from then on."""
    context = looked.context
    found = check_pictures(looked.pictures, context)
    layout = read_layout(session.directory, context.dataset, context.captions.caption)
    found += [
        finding
        for finding in check_folders(layout, [*session.items, *_other_formats(session)], context.dataset)
        if not context.captions.is_kept(finding.rule)
    ]
    issues: dict[str, set[str]] = {}
    for finding in found:
        if finding.item:
            issues.setdefault(finding.item, set()).add(finding.rule)
    session.facts.picture_issues = {name: frozenset(rules) for name, rules in issues.items()}
    return found


def _other_formats(session: "Session") -> list[Item]:
    """Pictures in formats that trainers do not read, which a session does not list."""
    try:
        found = list(find_pictures(session.directory))
    except LoratoryError:
        return []
    return [_other(path, session.root) for _, path in found if extension(path.name) not in IMAGE_EXTENSIONS]


def _other(path: Path, root: Path) -> Item:
    _, tokens, problem = parse_folder_name(path.parent.name)
    name = path.relative_to(root).as_posix()
    is_reg = is_regularization(path.parent, root)
    return Item(path.parent, path.name, f"{stem(path.name)}.txt", name, "" if problem else tokens, is_reg)
