"""What is to be said of a draft: what keeps it from being trained, and advice. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from loratory.config.draft import Draft
from loratory.config.draft_problems import named_setting
from loratory.config.lint import Facts, lint

SEVERITIES = ("error", "warning", "note")

_PICTURES = "dataset.train_data_dir"


class PlanFinding(NamedTuple):
    """key: the setting to go to, "" for none."""

    key: str
    severity: str
    message: str


def findings_of(draft: Draft, facts: Facts, plan: Mapping[str, Any], error: str) -> list[PlanFinding]:
    """Everything there is to say, the worst first.

    facts: of the last plan of these pictures and this model. plan: that of this very draft, {} where there is none yet.
    error: why it cannot be planned, "" where it can.
    """
    found = [PlanFinding(key, "error", message) for key, message in draft.problems]
    said = {message for _, _, message in found}
    found += [PlanFinding(named_setting(line), "error", line) for line in error.splitlines() if line not in said]
    found += [PlanFinding(named_setting(text), "warning", text) for text in plan.get("warnings", ())]
    if draft.config is not None:
        found += [PlanFinding(each.key, each.severity, each.message) for each in lint(draft.config, facts)]
    found += [PlanFinding(_PICTURES, each["severity"], each["message"]) for each in plan.get("findings", ())]
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))


def worst(findings: list[PlanFinding]) -> dict[str, str]:
    """The severity of the worst finding of each setting."""
    severities: dict[str, str] = {}
    for each in findings:
        severities.setdefault(each.key, each.severity)
    return severities


def counted(findings: list[PlanFinding]) -> str:
    """`1 error, 2 warnings`; "" for none."""
    counts = [(sum(each.severity == severity for each in findings), severity) for severity in SEVERITIES]
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts if count)
