"""Writes docs/findings.md from the rules. `--check` only says whether the file is current (exit code 1 if not)."""

import sys

from generated import DOCS, write_or_check

from loratory.editing.checks.rules import SECTIONS

HEADER = """\
# Findings about pictures and captions

<!-- Written by scripts/findings_doc.py from the rules in src/loratory/editing/checks/. -->

`loratory check DIR` looks at every picture and caption of a dataset, and at its folders, and says what weakens
training, and what a trainer would read otherwise than it looks. The editor says the same of the caption at hand while
you type, and `issue:implied` in a query finds the pictures of a rule. An *error* keeps a run from starting, a *warning*
changes what is trained in a way few people mean, a *note* is worth knowing. The exit code is 1 when there are errors or
warnings.

```sh
loratory check ~/sets/fox                           # all of it, the worst first
loratory check ~/sets/fox --no-pictures             # captions only, which is instant
loratory check ~/sets/fox --rule implied            # every finding of one rule
loratory check ~/sets/fox --where 'tag:sketch'      # some pictures only
loratory check ~/sets/fox --config fox.toml         # by the resolution, buckets and captions of a training
loratory check ~/sets/fox --fix implied --dry-run   # what the rule's fixes would change
loratory check ~/sets/fox --fix implied             # do it, so that it can be taken back
loratory check ~/sets/fox --fix transparent --fix low-resolution
loratory check ~/sets/fox --fix all                 # every rule with a fix that is certain
```

## Fixes

A fix that is only a guess, one of several names, a tag to choose, a sheet to split, is never taken by `--fix`; the
editor and the pane *Prepare* offer it.

Fixes of captions are one batch: `--dry-run` prints them as a diff, and `loratory tag undo DIR` takes them back. Fixes
of pictures change their recipes, and the pictures are made anew from that: `--dry-run` prints the recipes, and
`loratory prepare DIR --undo` takes them back. Nothing is deleted: the original is put aside in
`.loratory/originals/`, a picture that is left out too, and undo brings it back byte for byte. What was done, such as
the colour put behind transparency, is added to the caption.

## What it goes by

Pictures are looked at once, in several processes, and remembered until the file changes. Where DIR has concept folders
(`10_fox`), those are what is trained and looked at: originals in `Raw/` beside them are left alone. Resolution, buckets
and batch size are those of `--config`, or of `[dataset]` in `.loratory/dataset.toml`, or the resolution that
`loratory prepare` made the pictures for, or the defaults (512 px, batches of 1).

Sharpness is compared with the other pictures of the set, because flat drawings are never as sharp as photographs. No
program can tell adversarial noise (Glaze, Nightshade) from paper, grain or compression: `poison-hint` says that a
picture may have some, and nothing is done about it unasked.

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
