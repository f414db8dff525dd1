"""What one rule of `loratory check` is called, and what the manual says of it."""

from dataclasses import dataclass

from loratory.dataset.findings import Severity


@dataclass(frozen=True)
class Rule:
    """One thing that is looked for.

    rule: the stable id, as in `issue:implied` and in the allow-list. severities: that it can have, the usual first.
    what, why, fix: a sentence each, for the manual.
    """

    rule: str
    severities: tuple[Severity, ...]
    what: str
    why: str
    fix: str
