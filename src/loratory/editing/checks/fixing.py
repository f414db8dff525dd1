"""Mending many findings at once."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.editing.checks.finding import CaptionFinding, RecipeFix
from loratory.tags.edits import Edit, Several

if TYPE_CHECKING:
    from loratory.editing.items import Item
    from loratory.editing.session import Plan, Session
    from loratory.tags.journal import Change


def plan_fixes(session: "Session", findings: Sequence[CaptionFinding], label: str) -> "Plan":
    """What the best fix of each finding would do to the captions, as one batch; nothing is written.

    Findings without a fix that may be taken unasked are left out, and those whose best fix changes the picture. Fixes
    for the whole dataset come first.
    """
    from loratory.editing.session import Plan

    everywhere: dict[Edit, None] = {}
    here: defaultdict[str, dict[Edit, None]] = defaultdict(dict)
    # What goes in front of everything goes there last: others put the class there while the instance is missing.
    for finding in sorted(findings, key=lambda finding: finding.rule == "instance-missing"):
        fix = finding.automatic_fix
        if fix is not None and not isinstance(fix.edit, RecipeFix):
            (everywhere if fix.scope == "dataset" else here[finding.item])[fix.edit] = None
    by_caption: dict[Path, Item] = {item.caption_path: item for item in session.items}
    for item in session.items:
        if item.name in here:
            by_caption[item.caption_path] = item
    changes: list[Change] = []
    refused: list[tuple[Path, str]] = []
    unchanged = 0
    for item in by_caption.values():
        edits = (*everywhere, *here.get(item.name, ()))
        if not edits:
            continue
        plan = session.plan(Several(edits), [item])
        changes += plan.changes
        refused += plan.refused
        unchanged += plan.unchanged
    return Plan(label, tuple(changes), unchanged, tuple(refused))
