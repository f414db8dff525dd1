"""A balance whose repeats can be changed one by one, everything else following: what a screen shows and edits. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    are to be trained. epochs: None where they follow from the exposure.
    """

    folders: ConceptFolders
    repeats: tuple[int, ...]
    exposure: float
    epochs: int | None = None

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
        """(repeats of the largest folder, residual) that balance better; None where there are none."""
        return finer(self.folders.train, self.balance.residual)

    @property
    def moves(self) -> tuple[tuple[str, str], ...]:
        """(old, new) names of the folders that applying it would rename."""
        return tuple(
            (row.name, renamed(row.name, row.repeats)) for row in self.balance.rows if row.repeats != row.before
        )

    def set_repeats(self, name: str, repeats: int) -> "WhatIf":
        """One folder's repeats, 1 to 10,000; others are brought within."""
        return self._with({name: min(max(repeats, 1), MOST_REPEATS)})

    def balanced(self) -> "WhatIf":
        """All folders balanced by the largest, with the repeats tried for that one."""
        found = balanced(self.folders.train, self.balance.largest_row.repeats)
        return self._with({row.name: row.repeats for row in found.rows})

    def divided(self) -> "WhatIf":
        """All repeats divided by their common divisor, the epochs multiplied: every exposure stays."""
        by = self.balance.divisor
        divided = self._with({row.name: row.repeats for row in self.balance.divided().rows})
        return replace(divided, epochs=self.epochs * by if self.epochs else None)

    def reset(self) -> "WhatIf":
        """The repeats as they are on disk."""
        return replace(self, repeats=tuple(concept.repeats for concept in self.folders.train))

    def _with(self, repeats: Mapping[str, int]) -> "WhatIf":
        names = [concept.name for concept in self.folders.train]
        pairs = zip(names, self.repeats, strict=True)
        return replace(self, repeats=tuple(repeats.get(name, old) for name, old in pairs))


def start(folders: ConceptFolders, exposure: float, epochs: int | None = None) -> WhatIf:
    """The table of the folders as they are. Raises ValueError where none has pictures."""
    repeats = [concept.repeats for concept in folders.train]
    with_repeats(folders.train, repeats)
    return WhatIf(folders, tuple(repeats), exposure, epochs)
