"""What is to be known of a setting: what it may be, does, is called elsewhere, and what is wrong with it. Pure."""

from textual.content import Content

from loratory.config.describe import describe_field
from loratory.config.draft import SUBSETS, Draft
from loratory.config.draft_values import typed
from loratory.config.fields import FIELDS
from loratory.config.kohya.settings import NETWORK_ARGS, SETTING_OF
from loratory.config.network_types import ABOUT
from loratory.config.schema.network import unread
from loratory.tui.plan.findings import PlanFinding
from loratory.tui.text import Glyphs, plain, printable, wrapped

_NETWORK_TYPE = "network.network_type"
_SAME_NAME = {setting: f"--{name}" for name, setting in SETTING_OF.items()}
_NETWORK_NAME = {setting: f"--network_args {name}=" for name, setting in reversed(NETWORK_ARGS.items())}
_STYLES = {"error": "bold $text-error", "warning": "$text-warning", "note": ""}


def help_lines(draft: Draft, key: str, findings: list[PlanFinding], width: int, glyphs: Glyphs) -> list[Content]:
    """The lines under the form for the setting that the cursor is on."""
    field = FIELDS[key]
    may_be = describe_field(field) if key != SUBSETS else "tables, which are edited in the file"
    lines = [
        Content.assemble((printable(f" {key}"), "bold $text-accent"), (printable(f"  {may_be}"), "$foreground-muted"))
    ]
    for each in findings:
        if each.key == key:
            lines += _paragraph(f"{each.severity}: {each.message}", width, _STYLES[each.severity])
    if key == _NETWORK_TYPE and (chosen := str(draft.value(key))) in ABOUT:
        lines += _paragraph(f"{chosen}: {ABOUT[chosen]}", width)
    elif idle := _unread(draft, key, findings):
        lines += _paragraph(idle, width)
    lines += _paragraph(" ".join((field.description or "").split()), width)
    lines += _paragraph(f" {glyphs.dot} ".join(_facts(draft, key)), width, "$foreground-muted")
    return lines


def _unread(draft: Draft, key: str, findings: list[PlanFinding]) -> str:
    """Why the chosen network type does not read a setting, where no finding says so already."""
    table, _, name = key.rpartition(".")
    if table != "network" or any(each.key == key and each.severity == "error" for each in findings):
        return ""
    reason = unread(name, str(draft.value(_NETWORK_TYPE)))
    return f"{reason[0].upper()}{reason[1:]}." if reason else ""


def _facts(draft: Draft, key: str) -> list[str]:
    facts: list[str] = []
    if key != "preset":
        base = draft.base(key)
        if FIELDS[key].default_factory is not None and draft.origin(key) != "preset":  # it follows other settings
            base = draft.reset(key).value(key)
        said = typed(key, base) if base is not None and base != "" and base != [] else "left out"
        named = draft.preset if draft.origin(key) == "preset" or key in draft.changed() else None
        facts.append(f"{f'in preset {named}' if named else 'by default'}: {said}")
    description = FIELDS[key].description or ""
    name = _SAME_NAME.get(key) or _NETWORK_NAME.get(key)
    if name and "in sd-scripts" not in description and "sd-scripts: `" not in description:
        facts.append(f"sd-scripts: {name}")
    return facts


def _paragraph(text: str, width: int, style: str = "") -> list[Content]:
    return [plain(f" {line}", style) for line in wrapped(text, max(8, width - 2))]
