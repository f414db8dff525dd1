"""Writes the table of keys in docs/tagging.md. `--check` only says whether it is current (exit code 1 if not)."""

import sys
from pathlib import Path

from loratory.tui.keys import ACTIONS, Action

TARGET = Path(__file__).parents[1] / "docs" / "tagging.md"
BEGIN, END = "<!-- keys: written by scripts/keys_doc.py -->", "<!-- end of keys -->"


def main() -> int:
    text = TARGET.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    wanted = f"{before}{BEGIN}\n\n{render()}\n{END}{after}"
    if "--check" in sys.argv[1:]:
        return 0 if text == wanted else 1
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


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
    sys.exit(main())
