"""Writes docs/findings.md from the rules. `--check` only says whether the file is current (exit code 1 if not)."""

import sys

from generated import DOCS, write_or_check

from loratory.editing.checks.rules import SECTIONS

HEADER = """\
# Findings about captions

<!-- Written by scripts/findings_doc.py from the rules in src/loratory/editing/checks/rules.py. -->

`loratory check DIR` reads every caption of a dataset and says what weakens training, and what a trainer would read
otherwise than it is written. The editor says the same of the picture at hand while you type, and `issue:implied` in a
query finds the pictures of a rule. An *error* keeps a run from starting, a *warning* changes what is trained in a way
few people mean, a *note* is worth knowing. The exit code is 1 when there are errors or warnings.

```sh
loratory check ~/sets/fox                          # all of it, the worst first
loratory check ~/sets/fox --rule implied           # every finding of one rule
loratory check ~/sets/fox --fix implied --dry-run  # what the rule's fixes would change, as a diff
loratory check ~/sets/fox --fix implied            # do it, as one batch; `loratory tag undo ~/sets/fox` takes it back
loratory check ~/sets/fox --where 'tag:sketch'     # some captions only
```

A fix that is only a guess, one of several names or a tag to choose, is never taken by `--fix`; the editor offers it.

Rules about names need a vocabulary: a small starter pack of each site ships, `loratory vocab` imports the full lists.
Pictures of a regularization set are left in peace, but for what a trainer cannot read.

What you keep on purpose goes into `.loratory/dataset.toml`, by rule; the editor writes it for you. `"*"` silences a
rule for the dataset.

```toml
[kept]
implied = ["anthro"]
few-tags = ["*"]
```
"""


def render() -> str:
    parts = [HEADER]
    for title, rules in SECTIONS.items():
        rows = [
            f"| `{rule.rule}` | {' or '.join(rule.severities)} | {rule.what} | {rule.why} | {rule.fix} |"
            for rule in rules
        ]
        head = ["| id | kind | what | why | what to do |", "| --- | --- | --- | --- | --- |"]
        parts.append("\n".join([f"## {title}\n", *head, *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(write_or_check(DOCS / "findings.md", render()))
