"""The key tables of all panes, as a person may have changed them."""

import importlib
from pathlib import Path

from loratory.tui.keys import ACTIONS, PANES, Action, Keymap, read_keymap


class Keymaps:
    """The keymap of each pane, by its name: the tables with the changes of a key file, if one is given.

    All are read at once, so that a mistake in the file is told before the first screen. Raises LoratoryError for one.
    """

    def __init__(self, path: Path | None = None) -> None:
        # Without a file, the table of a pane is only wanted when that is opened.
        self._read = {} if path is None or not path.exists() else {pane: _keymap(pane, path) for pane in PANES}

    def __call__(self, pane: str) -> Keymap:
        if pane not in self._read:
            self._read[pane] = Keymap(actions_of(pane))
        return self._read[pane]


def actions_of(pane: str) -> tuple[Action, ...]:
    """The table of a pane as it is without a key file."""
    return ACTIONS if pane == "tags" else importlib.import_module(f"loratory.tui.{pane}.actions").ACTIONS


def _keymap(pane: str, path: Path) -> Keymap:
    return read_keymap(path, pane, actions_of(pane))
