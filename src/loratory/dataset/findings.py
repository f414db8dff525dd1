"""What is wrong, or worth knowing, about a dataset: as values, so that any screen or command can show
them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One fact about a dataset.

    rule: the stable id of the check. severity: "error" keeps a run from starting, "warning" changes what is
    trained in a way few people mean, "note" is worth knowing. path: the file or folder it is about. message:
    what, where, why and what to do, in one or two sentences that stand alone.
    """

    rule: str
    severity: Severity
    path: Path | None
    message: str


def shown(name: str) -> str:
    """A file name as one printable line: control characters and undecodable bytes become escapes."""
    return name if name.isprintable() else repr(name)[1:-1]
