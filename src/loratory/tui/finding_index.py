"""The findings of every caption, found a little at a time between key presses."""

import time
from collections.abc import Callable, Iterable, Sequence

from loratory.editing.checks.finding import CaptionFinding
from loratory.editing.items import Item

Check = Callable[[Item], Sequence[CaptionFinding]]


class FindingIndex:
    """Findings by picture. `dirty` pictures are looked at again when asked for, or by `work`."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._found: dict[str, tuple[CaptionFinding, ...]] = {}
        self._dirty: dict[str, Item] = {}
        self._with = 0

    def replace_check(self, check: Check, items: Iterable[Item]) -> None:
        """Looks at everything again by another check: vocabulary or allow-list changed, or the pictures.

        Until a picture's turn comes, what was found by the old check stands.
        """
        self._check = check
        self._dirty = {item.name: item for item in items}
        self._found = {name: found for name, found in self._found.items() if name in self._dirty}
        self._with = sum(map(_is_serious, self._found.values()))

    def touch(self, items: Iterable[Item]) -> None:
        """Notes that captions changed."""
        for item in items:
            self._dirty[item.name] = item

    def of(self, item: Item) -> tuple[CaptionFinding, ...]:
        """The findings of a picture as its caption is now."""
        if item.name in self._dirty or item.name not in self._found:
            self._dirty.pop(item.name, None)
            before = _is_serious(self._found.get(item.name, ()))
            found = self._found[item.name] = tuple(self._check(item))
            self._with += _is_serious(found) - before
        return self._found[item.name]

    def known(self, item: Item) -> tuple[CaptionFinding, ...]:
        """The findings as far as they are known; never takes time."""
        return self._found.get(item.name, ())

    def is_serious(self, item: Item) -> bool:
        """Whether a picture is known to have more than notes."""
        return _is_serious(self.known(item))

    @property
    def pictures_with(self) -> int:
        """How many pictures have findings that are more than notes, as far as is known."""
        return self._with

    @property
    def is_complete(self) -> bool:
        return not self._dirty

    def work(self, budget_s: float) -> bool:
        """Looks at pictures for about `budget_s`; whether anything was left to look at."""
        if not self._dirty:
            return False
        end = time.monotonic() + budget_s
        while self._dirty and time.monotonic() < end:
            self.of(next(iter(self._dirty.values())))
        return True


def _is_serious(found: Iterable[CaptionFinding]) -> bool:
    return any(finding.severity != "note" for finding in found)
