"""Writes docs/lint.md from the rules. `--check` only says whether the file is current (exit code 1 if not)."""

import sys

from generated import DOCS, write_or_check

from loratory.config.lint import SECTIONS

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


def render() -> str:
    parts = [HEADER]
    for title, rules in SECTIONS.items():
        rows = [f"| `{rule.rule}` | {rule.severity} | {rule.title} |" for rule in rules]
        parts.append("\n".join([f"## {title}\n", "| id | kind | when |", "| --- | --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(write_or_check(DOCS / "lint.md", render()))
