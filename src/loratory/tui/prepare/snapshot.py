"""What lies on a desk at one moment, for a screen that must not wait for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.imaging.recipe import Defaults, Recipe

if TYPE_CHECKING:
    from loratory.imaging.apply import Settled
    from loratory.imaging.recipe_toml import Prepare
    from loratory.preparation.desk import Desk, Entry


@dataclass(frozen=True)
class Snapshot:
    """What a desk says at one moment. defaults: what goes for each picture unless its recipe says otherwise."""

    entries: "tuple[Entry, ...]"
    recipes: Mapping[str, Recipe]
    defaults: Mapping[str, Defaults]
    is_dataset: bool
    destination: Path | None
    prepare: "Prepare"


def snapshot_of(desk: "Desk", trained: tuple[int, int] | None) -> Snapshot:
    """The pictures of a desk with their recipes. trained: the resolution in px, where the originals do not say it."""
    known: dict[Settled, Defaults] = {}
    defaults: dict[str, Defaults] = {}
    for entry in desk.entries:
        settled = desk.settled(entry, Recipe())
        if settled not in known:
            known[settled] = _defaults_of(settled, trained or desk.defaults.resolution)
        defaults[entry.name] = known[settled]
    recipes = {entry.name: desk.recipe_of(entry) for entry in desk.entries}
    return Snapshot(tuple(desk.entries), recipes, defaults, desk.is_dataset, desk.destination, desk.book.prepare)


def _defaults_of(settled: "Settled", resolution: tuple[int, int]) -> Defaults:
    """The defaults that a plain recipe was settled by, as far as a screen tells of them."""
    return Defaults(
        resolution=settled.resolution or resolution,
        max_side_px=settled.max_side_px,
        upscale="never" if settled.resolution is None else "auto",
        upscaler=settled.upscaler or "default",
        format=settled.format,
    )
