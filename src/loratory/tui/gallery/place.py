"""Where one stands in the gallery: which picture, and how it is looked at. Pure; the screen draws it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loratory.errors import LoratoryError
from loratory.tui.gallery.shelf import Picture, Row

Section = Literal["samples", "grids"]
SECTIONS: tuple[Section, ...] = ("samples", "grids")
Look = Literal["", "compare", "difference", "sheet"]


@dataclass
class Place:
    """rows: the samples, by prompt. grids: files, oldest first. row, column and grid: indices into them.

    look: how samples are looked at: alone, beside the first of their prompt, as the difference from it, or all steps on
    a sheet.
    """

    rows: Sequence[Row] = ()
    grids: tuple[Path, ...] = ()
    section: Section = "samples"
    row: int = 0
    column: int = 0
    grid: int = 0
    look: Look = ""

    @property
    def picture(self) -> Picture | None:
        """The sample one stands at, also while grids are looked at."""
        return self.rows[self.row].pictures[self.column] if self.rows else None

    @property
    def path(self) -> Path | None:
        """The file that is looked at."""
        if self.section == "grids":
            return self.grids[self.grid] if self.grids else None
        return self.picture.path if self.picture else None

    @property
    def look_here(self) -> Look:
        """The way of looking; grids have but one."""
        return self.look if self.section == "samples" else ""

    @property
    def index(self) -> int:
        """The row of the list of all samples, or of all grids."""
        if self.section == "grids":
            return self.grid
        return sum(len(row.pictures) for row in self.rows[: self.row]) + self.column

    def sample(self) -> tuple[Row, Picture]:
        """The sample and its prompt. Raises LoratoryError where none is looked at."""
        if self.section != "samples":
            raise LoratoryError("This is for samples: Tab leads there.")
        if self.picture is None:
            raise LoratoryError("There is no sample yet.")
        return self.rows[self.row], self.picture

    def take(self, rows: Sequence[Row], grids: tuple[Path, ...]) -> None:
        """There are other pictures now. One stays where one was; who stood at the newest stands at the newest."""
        before = self.picture
        was_last = before is None or self.column == len(self.rows[self.row].pictures) - 1
        self.rows, self.grids = rows, grids
        self.row = _within(self.row, len(rows))
        self.grid = _within(self.grid, len(grids))
        self.column = 0
        if rows:
            row = rows[self.row]
            self.column = len(row.pictures) - 1 if before is None or was_last else row.nearest(before.step)

    def go(self, by: int) -> None:
        """To a later step, or the next grid."""
        if self.section == "grids":
            self.grid = _within(self.grid + by, len(self.grids))
        elif self.rows:
            self.column = _within(self.column + by, len(self.rows[self.row].pictures))

    def turn(self, by: int) -> None:
        """To another prompt at the same step, or the next grid."""
        picture = self.picture
        if self.section == "grids":
            self.go(by)
        elif picture is not None:
            self.row = _within(self.row + by, len(self.rows))
            self.column = self.rows[self.row].nearest(picture.step)

    def go_to(self, index: int) -> None:
        """To a row of the list."""
        if self.section == "grids":
            self.grid = _within(index, len(self.grids))
            return
        for number, row in enumerate(self.rows):
            if index < len(row.pictures):
                self.row, self.column = number, index
                return
            index -= len(row.pictures)

    def other_section(self) -> None:
        self.section = "samples" if self.section == "grids" else "grids"


def _within(index: int, count: int) -> int:
    return max(0, min(index, count - 1))
