"""Documents that name tests, rules and settings stay true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARITY = (ROOT / "docs" / "parity.md").read_text("utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+\.py(?:::\w+)+)`", PARITY))))
def test_the_tests_that_parity_names_exist(name: str) -> None:
    file, *places = name.split("::")
    source = (Path(__file__).parent / file).read_text("utf-8")
    for place in places:
        assert re.search(rf"^ *(def|class) {place}\b", source, re.MULTILINE), f"{file} has no {place}"


def test_every_row_of_parity_names_a_test() -> None:
    rows = [
        line for line in PARITY.splitlines() if line.startswith("| ") and not line.startswith(("| setting", "| ---"))
    ]
    assert len(rows) > 35
    assert all("test_" in row.rsplit("|", 2)[1] for row in rows)


@pytest.mark.parametrize("script", ["settings_doc.py", "lint_doc.py", "findings_doc.py"])
def test_generated_pages_are_current(script: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / script), "--check"]
    assert subprocess.run(command).returncode == 0, f"run scripts/{script}"
