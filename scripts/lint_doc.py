"""Writes docs/lint.md from the rules. `--check` only says whether the file is current (exit code 1 if not)."""

import sys
from pathlib import Path

from loratory.config.lint import SECTIONS

TARGET = Path(__file__).parents[1] / "docs" / "lint.md"

HEADER = """\
# Advice about settings

<!-- Written by scripts/lint_doc.py from the rules in src/loratory/config/lint. -->

`loratory plan` reads a configuration as somebody would who has trained many adapters, and says what is allowed and
yet rarely meant: a *warning* changes what is trained in a way few people mean, a *note* is worth knowing. Nothing here
keeps a run from starting. A rule speaks only where it is certain; one that needs facts about the pictures or the model
stays silent without them.

To hide what a rule says, name its id:

```toml
[lint]
silence = ["batch-size", "one-save"]
```
"""


def main() -> int:
    text = render()
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text else 1
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    return 0


def render() -> str:
    parts = [HEADER]
    for title, rules in SECTIONS.items():
        rows = [f"| `{rule.rule}` | {rule.severity} | {rule.title} |" for rule in rules]
        parts.append("\n".join([f"## {title}\n", "| id | kind | when |", "| --- | --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
