"""What a process says of its own memory."""

import subprocess
import sys

_PARENT = """
import subprocess, sys
held = b"x" * 400_000_000
said = "from loratory.telemetry.memory import peak_resident_bytes as peak\\nprint(peak())"
print(subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout)
said += "\\nheld = b'x' * 300_000_000\\ndel held\\nprint(peak())"
print(subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout)
"""


def test_the_peak_is_that_of_the_process_itself_not_of_the_one_that_started_it() -> None:
    said = subprocess.run([sys.executable, "-c", _PARENT], capture_output=True, text=True, check=True).stdout
    small, before, after = map(int, said.split())
    assert max(small, before) < 200_000_000
    assert 300_000_000 < after < 500_000_000
