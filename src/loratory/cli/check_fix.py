"""`loratory check --fix`: what the fixes would do, and doing it."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loratory.cli import output
from loratory.cli.patch import print_patch
from loratory.dataset.findings import shown
from loratory.dataset.listing import pictures, some_names
from loratory.errors import FAILED
from loratory.wording import typed

if TYPE_CHECKING:
    from loratory.editing.checks.finding import CaptionFinding
    from loratory.editing.checks.recipe_fix import RecipePlan
    from loratory.editing.items import Item
    from loratory.editing.session import Plan, Session
    from loratory.preparation.build import Report
    from loratory.tags.journal import Outcome


def mend(
    session: "Session",
    items: "Sequence[Item]",
    found: "Sequence[CaptionFinding]",
    rules: Sequence[str],
    resolution: tuple[int, int],
    *,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Does what the best fixes of `found` are, or shows it; the exit code.

    items: of which the findings speak. Captions first, as one batch; then the recipes of pictures, as one step. rules:
    as the person gave them. resolution: of training, which pictures are upscaled to.
    """
    from loratory.editing.checks.fixing import plan_fixes

    label = f"fix the findings of {', '.join(f'“{rule}”' for rule in rules)}"
    captions = plan_fixes(session, found, label)
    has_recipes = any(finding.automatic_fix is not None and finding.automatic_fix.is_recipe for finding in found)
    left = sum(finding.automatic_fix is None for finding in found)
    report: dict[str, Any] = {"rules": list(rules), "dry_run": dry_run, "left": left}
    skipped: list[tuple[Path, str]] = []
    said = ", ".join(rules)
    if captions.changes or captions.refused or not has_recipes:
        skipped += _captions(session, captions, said, report, dry_run=dry_run, as_json=as_json)
    if has_recipes:
        skipped += _recipes(session, items, found, label, said, resolution, report, dry_run=dry_run, as_json=as_json)
    report["skipped"] = [{"file": _name(session, path), "why": why} for path, why in skipped]
    if as_json:
        output.data_json(report)
    if left:
        output.say(f"{left} of {len(found)} findings need a person: there is no fix that is certain.")
    _say_skipped(session, skipped)
    return FAILED if skipped else 0


def argument(session: "Session") -> str:
    """The dataset as it can be typed."""
    return typed(session.directory)


def _captions(
    session: "Session", plan: "Plan", said: str, report: dict[str, Any], *, dry_run: bool, as_json: bool
) -> list[tuple[Path, str]]:
    if dry_run:
        changed, skipped = plan.changes, plan.refused
        if not as_json:
            print_patch(changed, session.directory)
    else:
        outcome = session.commit(plan)
        session.settle(outcome)
        changed, skipped = outcome.written, outcome.skipped
    report["files"] = [_name(session, change.path) for change in changed]
    files = "1 caption" if len(changed) == 1 else f"{len(changed)} captions"
    output.say(f"{said}: {files} {'would change' if dry_run else 'changed'}.")
    if changed and not dry_run:
        output.say(f"`loratory tag undo {argument(session)}` takes it back.")
    return list(skipped)


def _recipes(
    session: "Session",
    items: "Sequence[Item]",
    found: "Sequence[CaptionFinding]",
    label: str,
    said: str,
    resolution: tuple[int, int],
    report: dict[str, Any],
    *,
    dry_run: bool,
    as_json: bool,
) -> list[tuple[Path, str]]:
    from loratory.editing.checks.recipe_fix import plan_recipes, take
    from loratory.preparation.desk import Desk

    desk = Desk(session.directory)
    plan = plan_recipes(desk, items, found, label, resolution)
    report["recipes"] = [{"picture": _name(session, change.path), "change": change.told()} for change in plan.changes]
    if dry_run:
        if not as_json:
            for change in plan.changes:
                output.data(output.one_line(f"{shown(_name(session, change.path))}: {change.told()}"))
        output.say(f"{said}: {pictures(len(plan.changes))} would change.")
        return list(plan.refused)
    if not plan.changes:
        output.say(f"{said}: {pictures(0)} changed.")
        return list(plan.refused)
    with output.counting("preparing pictures") as at:
        built = take(desk, plan, progress=lambda done, total, name: at(done, total))
    report |= _told(session, built)
    output.say(f"{said}: {_summary(built, plan)}.")
    for note in dict.fromkeys(built.notes):
        output.say(output.one_line(note))
    output.say(f"`loratory prepare {argument(session)} --undo` takes it back; the originals are kept.")
    return [*plan.refused, *built.left_alone, *built.failed]


def _say_skipped(session: "Session", skipped: Sequence[tuple[Path, str]]) -> None:
    """What was left alone; what is so for several for the same reason, once."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for path, why in skipped:
        by_reason[why].append(_name(session, path))
    for why, names in by_reason.items():
        which = shown(names[0]) if len(names) == 1 else f"{len(names)} files ({some_names(names)})"
        output.say(output.one_line(f"{which}: left alone: {why}"))


def _told(session: "Session", built: "Report") -> dict[str, Any]:
    captions: Outcome | None = built.captions
    return {
        "made": [_name(session, path) for path in built.made],
        "removed": [_name(session, path) for path in built.removed],
        "captions": [] if captions is None else [_name(session, change.path) for change in captions.written],
    }


def _summary(built: "Report", plan: "RecipePlan") -> str:
    left_out = sum(change.after.skip and not os.path.lexists(change.path) for change in plan.changes)
    parts = [f"{pictures(len(built.made))} made anew"] if built.made else []
    parts += [f"{pictures(left_out)} left out"] if left_out else []
    captions = 0 if built.captions is None else len(built.captions.written)
    parts += [f"{captions} of their captions changed"] if captions else []
    return ", ".join(parts) or "nothing changed"


def _name(session: "Session", path: Path) -> str:
    """The path as seen from DIR, where it lies there."""
    try:
        return path.relative_to(session.directory).as_posix()
    except ValueError:
        return str(path)
