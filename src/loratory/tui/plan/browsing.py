"""Where in the form a person is, and which of its settings are shown. No screen."""

from collections.abc import Callable, Collection

from loratory.config.draft import Draft
from loratory.errors import LoratoryError
from loratory.tui.plan.findings import PlanFinding, worst
from loratory.tui.plan.rows import Row, form_rows, hits, moved, place_of, step, table_start


class Browsing:
    """The rows of a draft and the cursor among them. What is looked for is shown, whatever the filter."""

    def __init__(self) -> None:
        self._draft: Draft | None = None
        self._findings: list[PlanFinding] = []
        self._changed: frozenset[str] | None = None
        self.rows: tuple[Row, ...] = ()
        self.cursor = 0
        self.searched = ""

    def show(self, draft: Draft, findings: list[PlanFinding]) -> None:
        """Shows a draft, the cursor at the setting where it was."""
        self._draft, self._findings = draft, findings
        self._make_rows()

    def to_top(self) -> None:
        """All settings, from the first."""
        self._changed = None
        self._make_rows()
        self.cursor = moved(self.rows, 0, 0)

    @property
    def key(self) -> str:
        """The setting at the cursor, "" where no row is shown."""
        return self.rows[self.cursor].key if self.cursor < len(self.rows) else ""

    @property
    def shows_changed(self) -> bool:
        """Whether only what differs is shown."""
        return self._changed is not None

    def turn_filter(self) -> None:
        """Shows only what differs from preset and defaults, or all again."""
        draft = self._draft
        self._changed = None if draft is None or self._changed is not None else frozenset(draft.changed())
        self._make_rows()

    def move(self, by: int) -> None:
        """`by` settings further, not beyond the first and last."""
        self.cursor = moved(self.rows, self.cursor, by)

    def move_table(self, by: int) -> None:
        """To the first setting of the next table, or of the one before."""
        self.cursor = table_start(self.rows, self.cursor, by)

    def go_to(self, key: str) -> bool:
        """To a setting; whether there is one of that name."""
        return self._find(lambda row: row.key == key, 1)

    def next_finding(self) -> PlanFinding:
        """To the next setting about which there is something to say. Raises LoratoryError where there is none."""
        found = {each.key for each in self._findings}
        if not self._find(lambda row: row.key in found, 1):
            raise LoratoryError("There is nothing to say against a setting.")
        return next(each for each in self._findings if each.key == self.key)

    def search(self, text: str) -> tuple[int, int]:
        """To the first setting that has `text`, as `search_on` tells it. Raises LoratoryError where none has."""
        found = hits(text) if text else []
        if not found:
            raise LoratoryError(f"No setting has {text} in its name or its help." if text else "Nothing was typed.")
        self.searched = text
        self.go_to(found[0])
        return 1, len(found)

    def search_on(self, by: int) -> tuple[int, int]:
        """To the next or the last hit, going round; which it is, from 1, and of how many. Raises LoratoryError."""
        if not self.searched:
            raise LoratoryError("Nothing was searched yet: / searches.")
        found = hits(self.searched)
        at = found.index(self.key) + by if self.key in found else 0
        self.go_to(found[at % len(found)])
        return at % len(found) + 1, len(found)

    def _find(self, fits: Callable[[Row], bool], by: int) -> bool:
        place = step(self.rows, self.cursor, by, lambda row: row.is_setting and fits(row))
        if place is None and self._changed is not None:
            self._changed = None
            self._make_rows()
            place = step(self.rows, self.cursor, by, lambda row: row.is_setting and fits(row))
        if place is not None:
            self.cursor = place
        return place is not None

    def _make_rows(self) -> None:
        if self._draft is None:
            return
        key = self.key
        only: Collection[str] | None = None
        if self._changed is not None:  # what was changed before stays in view, also once it is reset
            only = self._changed | set(self._draft.changed())
        self.rows = form_rows(self._draft, worst(self._findings), only=only)
        place = place_of(self.rows, key) if key else None
        self.cursor = moved(self.rows, self.cursor, 0) if place is None else place
