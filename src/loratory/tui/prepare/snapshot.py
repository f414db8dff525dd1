"""What lies on a desk at one moment, for a screen that must not wait for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.imaging.recipe import Defaults, Recipe

if TYPE_CHECKING:
    from loratory.config.schema import DatasetSettings
    from loratory.imaging.apply import Settled
    from loratory.imaging.recipe_toml import Prepare
    from loratory.preparation.desk import Desk, Entry


@dataclass(frozen=True)
class Snapshot:
    """What a desk says at one moment.

    defaults: what goes for each picture unless its recipe says otherwise. trained_by: the settings that the pictures
    are trained by, by which their buckets are told and they are checked.
    """

    entries: "tuple[Entry, ...]"
    recipes: Mapping[str, Recipe]
    defaults: Mapping[str, Defaults]
    is_dataset: bool
    destination: Path | None
    prepare: "Prepare"
    trained_by: "DatasetSettings"


def snapshot_of(desk: "Desk", settings: "DatasetSettings") -> Snapshot:
    """The pictures of a desk with their recipes.

    settings: those of the dataset. Originals are for the resolution that their recipes say.
    """
    from loratory.dataset.buckets import at_resolution

    if not desk.is_dataset and settings.resolution_wh != desk.defaults.resolution:
        settings = at_resolution(settings, desk.defaults.resolution)
    known: dict[Settled, Defaults] = {}
    defaults: dict[str, Defaults] = {}
    for entry in desk.entries:
        settled = desk.settled(entry, Recipe())
        if settled not in known:
            known[settled] = _defaults_of(settled, settings.resolution_wh)
        defaults[entry.name] = known[settled]
    recipes = {entry.name: desk.recipe_of(entry) for entry in desk.entries}
    return Snapshot(
        tuple(desk.entries), recipes, defaults, desk.is_dataset, desk.destination, desk.book.prepare, settings
    )


def _defaults_of(settled: "Settled", resolution: tuple[int, int]) -> Defaults:
    """The defaults that a plain recipe was settled by, as far as a screen tells of them."""
    return Defaults(
        resolution=settled.resolution or resolution,
        max_side_px=settled.max_side_px,
        upscale="never" if settled.resolution is None else "auto",
        upscaler=settled.upscaler or "default",
        format=settled.format,
    )
