"""What a dataset remembers about its tagging: its vocabulary, the tags kept on purpose, the palette, what is reviewed.

It lies in `.loratory/` beside the pictures, so that it travels with them: `dataset.toml` is for people to read and
write, `marks.json` is the program's own.
"""

import difflib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from loratory.atomic import write_text
from loratory.config.toml_files import read_toml
from loratory.errors import LoratoryError
from loratory.tags.text import key
from loratory.tags.vocabulary.model import SITES, Site

if TYPE_CHECKING:
    from pydantic import BaseModel

    from loratory.config.schema import CaptionSettings, DatasetSettings

GOALS = ("character", "concept", "clothing", "style")
PALETTE_SLOTS = 10
FOLDER = ".loratory"

# The keys of `[dataset]` in a configuration that findings about pictures go by.
DATASET_KEYS = (
    "resolution",
    "enable_bucket",
    "min_bucket_reso",
    "max_bucket_reso",
    "bucket_reso_steps",
    "bucket_no_upscale",
    "flip_aug",
    "asymmetric",
    "reg_data_dir",
)

_HEADER = "# How Loratory treats this dataset. docs/tagging.md tells what each line means.\n"


@dataclass
class TaggingSettings:
    """`.loratory/dataset.toml`.

    vocabulary: None until it is chosen. goal: what is learnt. palette: up to ten tags, slot 1 first; "" is a free slot.
    kept: rule id -> tags that the rule leaves alone in this dataset. caption: settings of `[caption]` by which the
    simulator and the findings read captions as the trainer will. dataset: settings of `[dataset]`, those of
    `DATASET_KEYS`, and train_batch_size that of `[training]`, by which pictures are judged.
    """

    vocabulary: Site | None = None
    goal: str = "character"
    palette: list[str] = field(default_factory=list[str])
    kept: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    caption: dict[str, Any] = field(default_factory=dict[str, Any])
    dataset: dict[str, Any] = field(default_factory=dict[str, Any])
    train_batch_size: int = 1

    @property
    def caption_extension(self) -> str:
        return str(self.caption.get("caption_extension", ".txt"))

    def caption_settings(self) -> "CaptionSettings":
        """`caption` as the typed settings that training uses."""
        from loratory.config.schema import CaptionSettings  # pydantic takes a tenth of a second to import

        return CaptionSettings.model_validate(self.caption)

    def dataset_settings(self, root: Path) -> "DatasetSettings":
        """`dataset` as the typed settings that training uses, with the pictures in `root`, where relative paths
        begin. Where it has no resolution, it is the one that the pictures were prepared for, if they were."""
        from loratory.config.schema import DatasetSettings
        from loratory.dataset.buckets import at_resolution
        from loratory.preparation.resolution import prepared_resolution

        settings = DatasetSettings.model_validate(_trained_from(self.dataset, root) | {"goal": self.goal})
        prepared = None if "resolution" in self.dataset else prepared_resolution(root)
        return settings if prepared is None else at_resolution(settings, prepared)

    def kept_keys(self) -> dict[str, frozenset[str]]:
        """The kept tags of each rule by their comparison keys."""
        return {rule: frozenset(key(tag) for tag in tags) for rule, tags in self.kept.items()}

    def keep(self, rule: str, tag: str) -> None:
        """Has `rule` leave `tag` alone from now on."""
        tags = self.kept.setdefault(rule, [])
        if key(tag) not in {key(other) for other in tags}:
            tags.append(tag)


def read_settings(root: Path) -> TaggingSettings:
    """The settings of the dataset at `root`, defaults where it has none.

    Raises LoratoryError that names file and key for anything that is not as it should be.
    """
    path = root / FOLDER / "dataset.toml"
    if not path.exists():
        return TaggingSettings()
    document = read_toml(path)
    known = ("vocabulary", "goal", "palette", "kept", "caption", "dataset", "train_batch_size")
    for name in document:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}."
            raise LoratoryError(f"{path}: {name!r} is not a setting of a dataset.", hint=hint)
    settings = TaggingSettings()
    settings.vocabulary = cast(Site | None, _choice(document, "vocabulary", SITES, path))
    settings.goal = _choice(document, "goal", GOALS, path) or "character"
    settings.palette = _texts(document.get("palette", []), "palette", path)
    if len(settings.palette) > PALETTE_SLOTS:
        raise LoratoryError(f"{path}: palette has {len(settings.palette)} tags; there are {PALETTE_SLOTS} slots.")
    kept = _table(document.get("kept", {}), "kept", path)
    settings.kept = {rule: _texts(tags, f"kept.{rule}", path) for rule, tags in kept.items()}
    settings.caption = _table(document.get("caption", {}), "caption", path)
    settings.dataset = _table(document.get("dataset", {}), "dataset", path)
    if settings.caption or settings.dataset:
        _check_tables(settings, root, path)
    settings.train_batch_size = document.get("train_batch_size", 1)
    if type(settings.train_batch_size) is not int or settings.train_batch_size < 1:
        raise LoratoryError(f"{path}: train_batch_size is {settings.train_batch_size!r}; it is a number from 1 on.")
    return settings


def write_settings(root: Path, settings: TaggingSettings) -> None:
    """Writes `.loratory/dataset.toml`; what is as by default is left out. Raises OSError as the disk does."""
    import tomli_w

    document: dict[str, Any] = {}
    if settings.vocabulary is not None:
        document["vocabulary"] = settings.vocabulary
    if settings.goal != "character":
        document["goal"] = settings.goal
    if any(settings.palette):
        document["palette"] = settings.palette
    if settings.kept:
        document["kept"] = settings.kept
    if settings.train_batch_size != 1:
        document["train_batch_size"] = settings.train_batch_size
    if settings.caption:
        document["caption"] = settings.caption
    if settings.dataset:
        document["dataset"] = settings.dataset
    (root / FOLDER).mkdir(exist_ok=True)
    write_text(root / FOLDER / "dataset.toml", _HEADER + tomli_w.dumps(document))


@dataclass
class Marks:
    """`.loratory/marks.json`: names of the pictures somebody has looked through, and what was said of single tags.

    answers: tag key -> picture name -> whether the tag belongs there. problem: why they could not be read, "" if they
    could.
    """

    reviewed: set[str] = field(default_factory=set[str])
    answers: dict[str, dict[str, bool]] = field(default_factory=dict[str, dict[str, bool]])
    problem: str = ""


def read_marks(root: Path) -> Marks:
    """The marks of the dataset at `root`. A damaged file is no reason not to tag: it is set aside as marks.json.bad."""
    path = root / FOLDER / "marks.json"
    try:
        document = json.loads(path.read_text("utf-8"))
        reviewed = {str(name) for name in document["reviewed"]}
        answers = {
            str(tag): {str(name): bool(answer) for name, answer in given.items()}
            for tag, given in document["answers"].items()
        }
    except (FileNotFoundError, NotADirectoryError):
        return Marks()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        with suppress(OSError):  # a folder that cannot be written can be looked at all the same
            path.replace(path.with_name("marks.json.bad"))
        return Marks(problem="marks.json could not be read and is set aside as marks.json.bad: nothing is reviewed yet")
    return Marks(reviewed, answers)


def write_marks(root: Path, marks: Marks) -> None:
    """Writes `.loratory/marks.json`. Raises OSError as the disk does."""
    (root / FOLDER).mkdir(exist_ok=True)
    # Copies: the screen may add to them while this is written on another thread.
    answers = {tag: dict(given) for tag, given in list(marks.answers.items())}
    document = {"v": 1, "reviewed": sorted(marks.reviewed), "answers": answers}
    write_text(root / FOLDER / "marks.json", json.dumps(document, indent=1) + "\n")


def _check_tables(settings: TaggingSettings, root: Path, path: Path) -> None:
    from loratory.config.schema import CaptionSettings, DatasetSettings

    _check_table("caption", CaptionSettings, settings.caption, path)
    for name in settings.dataset:
        if name not in DATASET_KEYS:
            near = difflib.get_close_matches(name, DATASET_KEYS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(DATASET_KEYS)}."
            raise LoratoryError(f"{path}: dataset.{name} is nothing that findings go by.", hint=hint)
    _check_table("dataset", DatasetSettings, _trained_from(settings.dataset, root), path)


def _check_table(table: str, model: "type[BaseModel]", values: Mapping[str, Any], path: Path) -> None:
    from pydantic import ValidationError

    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([table, *(str(part) for part in first["loc"])])
        message = f"{path}: {where}: {first['msg']}."
        raise LoratoryError(message, hint=f"docs/settings.md lists the keys of [{table}].") from error


def _trained_from(dataset: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Settings of `[dataset]` with the folder they are about."""
    values: dict[str, Any] = {**dataset, "train_data_dir": str(root)}
    reg_dir = dataset.get("reg_data_dir")
    if isinstance(reg_dir, str) and reg_dir.strip():
        values["reg_data_dir"] = str(root / Path(reg_dir).expanduser())
    return values


def _choice(document: Mapping[str, Any], name: str, choices: tuple[str, ...], path: Path) -> str | None:
    value = document.get(name)
    if value is None or value in choices:
        return value
    raise LoratoryError(f"{path}: {name} is {value!r}; it can be {', '.join(choices)}.")


def _texts(value: Any, name: str, path: Path) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in cast(list[Any], value)):
        raise LoratoryError(f'{path}: {name} must be a list of texts, such as ["side view", "solo"].')
    return cast(list[str], value)


def _table(value: Any, name: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LoratoryError(f"{path}: {name} must be a table, [{name}].")
    return cast(dict[str, Any], value)
