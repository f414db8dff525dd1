"""Writes the tables of keys in docs/tagging.md, docs/panes.md and docs/dashboard.md. `--check` only says whether they
are current (exit code 1 if not)."""

import sys
from collections.abc import Iterable
from pathlib import Path

from generated import DOCS, write_or_check

from loratory.tui.keymaps import actions_of
from loratory.tui.keys import Action
from loratory.tui.prepare.actions import BOX_ACTIONS

# page -> the tables in it, by the names that their marks have.
TABLES = {
    "tagging.md": {"tags": actions_of("tags")},
    "panes.md": {"prepare": actions_of("prepare"), "boxes": BOX_ACTIONS, "stats": actions_of("stats")},
    "dashboard.md": {name: actions_of(name) for name in ("plan", "run", "gallery")},
}


def page(target: Path) -> str:
    """A page with its tables as they should be."""
    text = target.read_text(encoding="utf-8")
    for name, actions in TABLES[target.name].items():
        begin, end = f"<!-- keys of {name}: written by scripts/keys_doc.py -->", f"<!-- end of keys of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{render(actions)}\n{end}{rest.split(end)[1]}"
    return text


def render(actions: Iterable[Action]) -> str:
    """Every action with its id, its keys as the key file writes them, and what it does."""
    lines = ["| id | keys | |", "| --- | --- | --- |"]
    group = ""
    for action in actions:
        if action.group != group:
            group = action.group
            lines.append(f"| | | **{group}** |")
        lines.append(f"| `{action.id}` | {_keys(action)} | {action.help} |")
    return "\n".join(lines) + "\n"


def _keys(action: Action) -> str:
    waits = ", then a tag's letter" if action.takes == "hint" else ""
    return " ".join(f"`{keys}`" for keys in action.keys) + waits


if __name__ == "__main__":
    pages = [DOCS / name for name in TABLES]
    sys.exit(max(write_or_check(target, page(target)) for target in pages))
