"""Which pictures are shown, where the cursor is, and on what a key acts. No screen in here."""

from collections.abc import Callable, Sequence

from loratory.editing.items import Item
from loratory.tags.query import Query


class Selection:
    """The list of pictures as a person moves through it.

    shown: what the list shows, all items or those a filter found. hits: the last filter's finds, kept for n and N.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = list(items)
        self.shown = list(items)
        self.cursor = 0
        self.selected: dict[str, Item] = {}
        self.query: Query | None = None
        self.query_text = ""
        self.hits: list[Item] = []
        self.range_from: int | None = None

    @property
    def current(self) -> Item | None:
        return self.shown[self.cursor] if self.shown else None

    @property
    def is_filtered(self) -> bool:
        return bool(self.query_text)

    @property
    def wide(self) -> list[Item]:
        """What capitals act on: the selected pictures, else the filtered ones, else all."""
        ranged = self.ranged
        if self.selected or ranged:
            chosen = self.selected | {item.name: item for item in ranged}
            return [item for item in self.items if item.name in chosen]
        return list(self.shown)

    @property
    def wide_name(self) -> str:
        """`wide` in words: "7 selected", "23 filtered", "all 51"."""
        if self.selected or self.range_from is not None:
            return f"{len(self.wide)} selected"
        return f"{len(self.shown)} filtered" if self.is_filtered else f"all {len(self.shown)}"

    @property
    def ranged(self) -> list[Item]:
        """The pictures of the range that is being drawn."""
        if self.range_from is None:
            return []
        low, high = sorted((self.range_from, self.cursor))
        return self.shown[low : high + 1]

    def is_selected(self, item: Item) -> bool:
        return item.name in self.selected

    def move(self, by: int) -> bool:
        """Moves the cursor, to the end at most; whether it moved."""
        return self.go(self.cursor + by)

    def go(self, index: int) -> bool:
        index = max(0, min(index, len(self.shown) - 1))
        moved = index != self.cursor
        self.cursor = index
        return moved

    def go_to(self, item: Item) -> bool:
        """Moves to an item, dropping the filter where it hides the item; whether it is in the set."""
        if item not in self.shown:
            if item not in self.items:
                return False
            self.clear_filter()
        self.cursor = self.shown.index(item)
        return True

    def seek(self, wanted: Callable[[Item], bool], step: int = 1) -> Item | None:
        """The next item of the list, round and round from the cursor, that is wanted; the current one comes last."""
        count = len(self.shown)
        for distance in range(1, count + 1):
            item = self.shown[(self.cursor + step * distance) % count]
            if wanted(item):
                return item
        return None

    def filter(self, query: Query | None, text: str, found: list[Item]) -> None:
        """Shows `found` alone; the cursor stays on its picture or goes to the next that is shown.

        query: what found them, None where they were not looked for by one. text: how that is called.
        """
        here = self.current
        self.query, self.query_text, self.hits = query, text, found
        self._show(found, here)

    def clear_filter(self) -> None:
        here = self.current
        self.query, self.query_text = None, ""
        self._show(self.items, here)

    def replace_items(self, items: Sequence[Item], shown: Sequence[Item]) -> None:
        """Takes another list of pictures: some appeared or went."""
        here = self.current
        self.items = list(items)
        names = {item.name: item for item in items}
        self.selected = {name: names[name] for name in self.selected if name in names}
        self.hits = [names[item.name] for item in self.hits if item.name in names]
        self.range_from = None
        self._show(list(shown), None if here is None else names.get(here.name))

    def toggle(self, items: Sequence[Item]) -> None:
        """Selects the items, or unselects them where all are selected."""
        if all(self.is_selected(item) for item in items):
            for item in items:
                del self.selected[item.name]
        else:
            self.selected |= {item.name: item for item in items}

    def _show(self, items: list[Item], here: Item | None) -> None:
        self.shown = list(items)
        self.range_from = None
        if here is None:
            self.cursor = 0
            return
        places = {item.name: index for index, item in enumerate(self.shown)}
        if here.name in places:
            self.cursor = places[here.name]
            return
        later = [places[item.name] for item in self.items[_place(self.items, here) :] if item.name in places]
        self.cursor = later[0] if later else max(0, len(self.shown) - 1)


def _place(items: Sequence[Item], wanted: Item) -> int:
    return next((index for index, item in enumerate(items) if item.name == wanted.name), 0)
