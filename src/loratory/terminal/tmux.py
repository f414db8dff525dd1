"""The tmux that this program runs in: questions to it, and what is said past it."""

import subprocess
from collections.abc import Mapping

_WITHIN_S = 0.5  # it answers in milliseconds


def ask(env: Mapping[str, str], *names: str) -> tuple[str, ...] | None:
    """The values of formats and options such as `client_termname` and `escape-time`, "" where it knows none.

    None where no tmux can be asked, as when it runs on another machine and ssh in it.
    """
    if not env.get("TMUX"):
        return None
    try:
        done = subprocess.run(
            ["tmux", "display-message", "-p", "\t".join(f"#{{{name}}}" for name in names)],
            env=dict(env),
            capture_output=True,
            timeout=_WITHIN_S,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError):
        return None
    values = tuple(done.stdout.rstrip("\n").split("\t"))
    return values if done.returncode == 0 and len(values) == len(names) else None


def passthrough(sequence: str) -> str:
    """An escape sequence wrapped so that tmux (with allow-passthrough) hands it on to the terminal around it."""
    return "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
