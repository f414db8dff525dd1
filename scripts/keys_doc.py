"""Writes the table of keys in docs/tagging.md. `--check` only says whether it is current (exit code 1 if not)."""

import sys

from generated import DOCS, write_or_check

from loratory.tui.keys import ACTIONS, Action

TARGET = DOCS / "tagging.md"
BEGIN, END = "<!-- keys: written by scripts/keys_doc.py -->", "<!-- end of keys -->"


def page() -> str:
    """The page with the table as it should be."""
    before, rest = TARGET.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n\n{render()}\n{END}{rest.split(END)[1]}"


def render() -> str:
    """Every action with its id, its keys as the key file writes them, and what it does."""
    lines = ["| id | keys | |", "| --- | --- | --- |"]
    group = ""
    for action in ACTIONS:
        if action.group != group:
            group = action.group
            lines.append(f"| | | **{group}** |")
        lines.append(f"| `{action.id}` | {_keys(action)} | {action.help} |")
    return "\n".join(lines) + "\n"


def _keys(action: Action) -> str:
    waits = ", then a tag's letter" if action.takes == "hint" else ""
    return " ".join(f"`{keys}`" for keys in action.keys) + waits


if __name__ == "__main__":
    sys.exit(write_or_check(TARGET, page()))
