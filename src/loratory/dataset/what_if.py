"""A balance whose repeats can be changed one by one, everything else following: what a screen shows and edits. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from loratory.dataset.balance import (
    MOST_REPEATS,
    Balance,
    Regularization,
    as_they_are,
    balanced,
    finer,
    regularization,
    with_repeats,
)
from loratory.dataset.concept_folders import ConceptFolders, renamed


@dataclass(frozen=True)
class WhatIf:
    """Concept folders with the repeats tried for them. Every change gives a new value; the old ones are for undo.

    repeats: of each folder of `folders.train`, in its order. exposure: how often the pictures of the largest folder
    are to be trained. epochs: None where they follow from the exposure. fixed: names of folders that a person gave
    their repeats, which balancing leaves alone.
    """

    folders: ConceptFolders
    repeats: tuple[int, ...]
    exposure: float
    epochs: int | None = None
    fixed: frozenset[str] = field(default_factory=frozenset[str])

    @cached_property
    def before(self) -> Balance:
        """The folders as they are."""
        return as_they_are(self.folders.train)

    @cached_property
    def balance(self) -> Balance:
        """The folders with the repeats tried."""
        return with_repeats(self.folders.train, self.repeats)

    @property
    def run_epochs(self) -> int:
        """Epochs of the run: as given, or those of the exposure."""
        return self.epochs or self.balance.epochs_for(self.exposure)

    @property
    def regularization(self) -> Regularization | None:
        """What the regularization set adds to that run."""
        return regularization(self.folders.regularization, self.balance.visits, self.run_epochs)

    @property
    def advice(self) -> tuple[int, float] | None:
        """(repeats of the largest folder, residual) that balance better, where nothing is fixed."""
        return None if self.fixed else finer(self.folders.train, self.balance.residual)

    @property
    def moves(self) -> tuple[tuple[str, str], ...]:
        """(old, new) names of the folders that applying it would rename."""
        return tuple(
            (row.name, renamed(row.name, row.repeats)) for row in self.balance.rows if row.repeats != row.before
        )

    def set_repeats(self, name: str, repeats: int) -> "WhatIf":
        """One folder's repeats, 1 to 10,000 (others are brought within), which balancing keeps from now on."""
        repeats = min(max(repeats, 1), MOST_REPEATS)
        tried = tuple(
            repeats if concept.name == name else old
            for concept, old in zip(self.folders.train, self.repeats, strict=True)
        )
        return replace(self, repeats=tried, fixed=self.fixed | {name})

    def free(self, name: str) -> "WhatIf":
        """Lets balancing choose this folder's repeats again."""
        return replace(self, fixed=self.fixed - {name})

    def balanced(self, largest_repeats: int | None = None) -> "WhatIf":
        """All folders balanced, but for those that are fixed. largest_repeats: left out, those tried for it now."""
        largest = self.balance.largest_row
        fixed = {name: count for name, count in self._tried.items() if name in self.fixed}
        if largest_repeats is not None:
            fixed.pop(largest.name, None)
        found = balanced(self.folders.train, largest_repeats or largest.repeats, fixed)
        freed = self.fixed if largest_repeats is None else self.fixed - {largest.name}
        return replace(self._with(found), fixed=freed)

    def divided(self) -> "WhatIf":
        """All repeats divided by their common divisor, the epochs multiplied: every exposure stays."""
        by = self.balance.divisor
        return replace(self._with(self.balance.divided()), epochs=self.epochs * by if self.epochs else None)

    def reset(self) -> "WhatIf":
        """The repeats as they are on disk."""
        return replace(self, repeats=tuple(concept.repeats for concept in self.folders.train), fixed=frozenset())

    @property
    def _tried(self) -> Mapping[str, int]:
        return {concept.name: count for concept, count in zip(self.folders.train, self.repeats, strict=True)}

    def _with(self, found: Balance) -> "WhatIf":
        by_name = {row.name: row.repeats for row in found.rows}
        return replace(self, repeats=tuple(by_name.get(name, count) for name, count in self._tried.items()))


def start(folders: ConceptFolders, exposure: float, epochs: int | None = None) -> WhatIf:
    """The table of the folders as they are. Raises ValueError where none has pictures."""
    repeats = [concept.repeats for concept in folders.train]
    with_repeats(folders.train, repeats)
    return WhatIf(folders, tuple(repeats), exposure, epochs)
