"""Times, speeds and sizes as people say them, and paths as they type them."""

import shlex
from pathlib import Path


def spoken_time(seconds: float) -> str:
    """`42 s`, `7 min 29 s`, `3 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def spoken_pace(seconds_per_step: float) -> str:
    """`1.42 s/step`, `85 ms/step`."""
    return f"{seconds_per_step:.2f} s/step" if seconds_per_step >= 1 else f"{seconds_per_step * 1000:.0f} ms/step"


def spoken_bytes(count: float) -> str:
    """`880 kB`, `37 MB`, `6.9 GB`; decimal units, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def typed(path: Path | str) -> str:
    """The path as a shell takes it, for the commands that hints and closing lines name."""
    return shlex.quote(str(path))
