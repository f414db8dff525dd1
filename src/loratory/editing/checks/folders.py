"""What the folders of a dataset say: how trainers read their names, and how they stand against each other."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loratory.config.schema import CaptionSettings, DatasetSettings, SubsetSettings
from loratory.dataset.balance import Concept, as_they_are, balanced, regularization
from loratory.dataset.findings import Finding, Severity, shown
from loratory.dataset.listing import some_names
from loratory.dataset.scan import ConceptFolder, Dataset, scan_dataset
from loratory.editing.checks.finding import CaptionFinding, Said
from loratory.errors import LoratoryError
from loratory.preparation.places import has_concepts, is_concept

if TYPE_CHECKING:
    from loratory.editing.items import Item

# As the linter has them: the same words about the same set.
_LARGEST_IMBALANCE = 2.0
_FEWEST_REG, _FEW_REG, _ENOUGH_REG = 0.25, 0.5, 50
_MOST_EPOCHS_TO_ALL = 10
# What the scan says of captions and pictures is said here of each one, with fixes.
_SAID_OF_EACH = frozenset({"image-unreadable", "file-name"})
_NOT_TRAINED_ON_PURPOSE = frozenset({"raw", "originals"})


class Layout(NamedTuple):
    """The folders of a dataset as a trainer reads them. dataset: None where they cannot be trained as they are; then
    `problem` tells why."""

    dataset: Dataset | None
    problem: str


def read_layout(directory: Path, dataset: DatasetSettings, caption: CaptionSettings) -> Layout:
    """The concept folders in `directory`, or `directory` as the one concept folder."""
    if is_concept(directory.name) and not _holds_concepts(directory):
        changes = {"train_data_dir": None, "subsets": (SubsetSettings(image_dir=directory),)}
    else:
        changes = {"train_data_dir": directory}
    try:
        return Layout(scan_dataset(dataset.model_copy(update=changes), caption), "")
    except LoratoryError as error:
        return Layout(None, error.message if "\n" not in error.message else "")


def trained(items: "Sequence[Item]", directory: Path) -> "list[Item]":
    """Those of the items that a run on `directory` trains: in its concept folders, or all where it has none.

    Originals that lie beside are none of them.
    """
    if not has_concepts(directory):
        return list(items)
    return [
        item
        for item in items
        if item.is_reg
        or item.directory == directory
        or (item.directory.parent == directory and is_concept(item.folder))
    ]


def check_folders(layout: Layout, items: "Sequence[Item]", dataset: DatasetSettings) -> list[CaptionFinding]:
    """What is to be said of the folders. items: all pictures of the session."""
    if layout.dataset is None:
        return [CaptionFinding("layout", "note", None, layout.problem)] if layout.problem else []
    belongs = _belonging(items)
    found = [_joined(finding) for finding in layout.dataset.findings if belongs(finding)]
    folders = layout.dataset.folders
    for said in (*_mirrored(folders, dataset), *_balance(folders, dataset.goal), *_regularization(folders)):
        found.append(CaptionFinding(said.rule, said.severity, None, said.message))
    return found


def _holds_concepts(directory: Path) -> bool:
    try:
        return any(entry.is_dir() and is_concept(entry.name) for entry in directory.iterdir())
    except OSError:
        return False


def _belonging(items: "Sequence[Item]") -> Callable[[Finding], bool]:
    """Tells whether what the scan found is said here: not of captions, not of each of `items`, not of originals."""
    images, directories = {item.image for item in items}, {item.directory for item in items}
    of_reg = {item.directory for item in items if item.is_reg}
    of_reg |= {parent for directory in of_reg for parent in directory.parents}

    def belongs(finding: Finding) -> bool:
        path = finding.path
        if finding.rule.startswith("caption-") or finding.rule == "stem-clash" or path is None:
            return False
        if finding.rule in _SAID_OF_EACH:
            return path not in images
        if finding.rule == "image-format":
            return path not in directories
        if finding.rule == "folder-name":
            is_original = path.name.casefold() in _NOT_TRAINED_ON_PURPOSE
            return not is_original and path not in of_reg and not (path / "recipes.toml").exists()
        return True

    return belongs


def _joined(finding: Finding) -> CaptionFinding:
    return CaptionFinding(finding.rule, finding.severity, finding.path, finding.message)


def _mirrored(folders: Iterable[ConceptFolder], dataset: DatasetSettings) -> Iterator[Said]:
    """Folders with a flip_aug of their own, where the subject is declared asymmetric."""
    names = [folder.name for folder in folders if folder.treatment.flip_aug and not folder.is_reg]
    if dataset.asymmetric and names:
        message = (
            f"The subject is declared asymmetric, but flip_aug mirrors {some_names(names)}: half of the visits show it "
            "the wrong way round. Switch one of the two off."
        )
        yield Said("asymmetric-flip", "warning", message)


def _balance(folders: Iterable[ConceptFolder], goal: str) -> Iterator[Said]:
    """Whether every concept gets its share; several folders of one name are one concept, so nothing is said then."""
    train = [folder for folder in folders if not folder.is_reg and folder.images]
    names = Counter(folder.class_tokens for folder in train)
    if len(train) < 2 or len(names) < len(train):
        return
    concepts = [Concept(shown(folder.name), len(folder.images), folder.repeats) for folder in train]
    now = as_they_are(concepts)
    for row in now.rows:
        if row.overbake == "likely":
            message = (
                f"{row.name}: each of its {row.images} pictures is trained {row.ratio:.2g} times as often as those of "
                f"{now.largest_row.name}: so few can overbake while the rest is fine. Add pictures, or lower its "
                "repeats."
            )
            yield Said("small-folder", "warning", message)
    most, least = max(now.rows, key=lambda row: row.visits), min(now.rows, key=lambda row: row.visits)
    if goal != "style" and most.visits > _LARGEST_IMBALANCE * least.visits:
        wanted = ", ".join(f"{row.repeats} for {row.name}" for row in balanced(concepts).rows)
        message = (
            f"{most.name} gets {most.visits / least.visits:.2g} times the visits of {least.name} and will dominate it. "
            f"Balanced repeats would be {wanted}; `loratory balance` renames the folders."
        )
        yield Said("imbalance", "warning", message)


def _regularization(folders: Sequence[ConceptFolder]) -> Iterator[Said]:
    """Whether the regularization set has as many pictures as it needs, and not many times more."""
    reg = [Concept(folder.name, len(folder.images), folder.repeats) for folder in folders if folder.is_reg]
    train = [folder for folder in folders if not folder.is_reg]
    images, reg_images = sum(len(folder.images) for folder in train), sum(folder.images for folder in reg)
    if not reg_images or not images:
        return
    if reg_images < _FEW_REG * images and reg_images < _ENOUGH_REG:
        severity: Severity = "warning" if reg_images < _FEWEST_REG * images else "note"
        message = (
            f"{reg_images} regularization {'picture stands' if reg_images == 1 else 'pictures stand'} against {images} "
            "to train on, so each is seen about "
            f"{images / reg_images:.2g} times as often, and is learnt itself. Use about {min(images, _ENOUGH_REG)}."
        )
        yield Said("reg-count", severity, message)
    visits = sum(len(folder.images) * folder.repeats for folder in train)
    coverage = regularization(reg, visits, 1)
    if coverage is not None and coverage.epochs_to_all > _MOST_EPOCHS_TO_ALL:
        message = (
            f"An epoch shows {coverage.visits} regularization pictures, so it takes {coverage.epochs_to_all} epochs "
            f"until all {coverage.images} were seen. Fewer do as well, or lower their repeats."
        )
        yield Said("reg-coverage", "note", message)
