"""Measures the tag editor as a person meets it: the real program in a pseudo-terminal of 80x24.

    python bench/tag_editor.py                       # 10,000 pictures, 200,000 tags; some minutes, most of them set-up
    python bench/tag_editor.py --pictures 1000 --tags 20000 --presses 50

Prints: seconds from the start of the process to the list of pictures on screen, milliseconds from a key to the end of
what it draws (next picture, a letter in INSERT with suggestions, a filter), and the memory of the process. A key's time
is that from writing it to the terminal until the program, having drawn, is silent for 3 ms; the silence is not counted.
Goals: first paint 0.5 s, filter 50 ms, key to screen 30 ms at the 95th percentile, 200 MB.
"""

import argparse
import os
import pty
import random
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path

from PIL import Image

SEED = 7
_SILENCE_S = 0.003
_SYLLABLES = ["ba", "re", "mi", "to", "shu", "la", "ne", "ko", "vi", "sta", "dro", "pel", "gan", "tri", "lo", "fe"]


def make_dataset(folder: Path, pictures: int, tags: Sequence[str], chance: random.Random) -> None:
    """Small pictures with captions of 8 to 16 tags, common ones often."""
    folder.mkdir(parents=True)
    picture = folder / "picture"
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(picture, "PNG")
    data = picture.read_bytes()
    picture.unlink()
    for number in range(pictures):
        chosen = {tags[min(int(chance.expovariate(1 / 150)), len(tags) - 1)] for _ in range(chance.randint(6, 14))}
        (folder / f"{number:05d}.png").write_bytes(data)
        text = ", ".join(["token", "anthro", *(tag.replace("_", " ") for tag in sorted(chosen))])
        (folder / f"{number:05d}.txt").write_text(text)


def make_vocabulary(home: Path, tags: Sequence[str], chance: random.Random) -> None:
    """Imports a made-up list of `tags`, the commonest first, by the program itself."""
    lines = [f'{tag},0,{10_000_000 // (rank + 5)},"{tag[::-1]}"' for rank, tag in enumerate(tags)]
    chance.shuffle(lines)
    table = home / "e621.csv"
    table.write_text("\n".join(lines) + "\n")
    subprocess.run([sys.executable, "-m", "loratory", "vocab", "add", str(table), "--site", "e621"], check=True)


def make_tags(count: int, chance: random.Random) -> list[str]:
    made: dict[str, None] = {}
    while len(made) < count:
        words = ("".join(chance.choices(_SYLLABLES, k=chance.randint(1, 3))) for _ in range(chance.randint(1, 3)))
        made.setdefault("_".join(words))
    return list(made)


class Program:
    """The editor in a pseudo-terminal of 80x24."""

    def __init__(self, folder: Path) -> None:
        self.started_s = time.perf_counter()
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "loratory", str(folder), "--preview", "half"])
        ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.said = b""

    def read(self, timeout_s: float) -> bytes:
        """What the program writes next; b"" when it is silent for `timeout_s`."""
        if not select.select([self.terminal], [], [], timeout_s)[0]:
            return b""
        try:
            data = os.read(self.terminal, 1 << 16)
        except OSError as error:
            raise SystemExit(f"the editor has ended: {self.said[-2000:].decode(errors='replace')}") from error
        self.said = (self.said + data)[-200_000:]
        return data

    def wait_for(self, text: bytes, timeout_s: float = 60) -> float:
        """Seconds since the start of the process when `text` came."""
        end = time.perf_counter() + timeout_s
        while text not in self.said:
            assert time.perf_counter() < end, f"{text!r} never came; last: {self.said[-400:]!r}"
            self.read(0.1)
        return time.perf_counter() - self.started_s

    def quiet(self, silence_s: float = 0.4) -> None:
        while self.read(silence_s):
            pass

    def press(self, keys: bytes) -> float:
        """Milliseconds from pressing `keys` to the end of what they draw."""
        started = time.perf_counter()
        os.write(self.terminal, keys)
        drawn = started
        first = True
        while self.read(2.0 if first else _SILENCE_S):
            drawn, first = time.perf_counter(), False
        return 1000 * (drawn - started)

    def memory_mb(self) -> float:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def close(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        try:
            while os.read(self.terminal, 1 << 16):
                pass
        except OSError:
            pass
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    chance = random.Random(SEED)
    home = Path(tempfile.mkdtemp(prefix="loratory-bench-"))
    os.environ |= {"LORATORY_HOME": str(home), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    try:
        tags = make_tags(options.tags, chance)
        make_dataset(home / "set" / "10_token", options.pictures, tags, chance)
        make_vocabulary(home, tags, chance)
        (home / "set" / ".loratory").mkdir()
        (home / "set" / ".loratory" / "dataset.toml").write_text('vocabulary = "e621"\n')
        return measure(home / "set", tags, chance, options.presses)
    finally:
        shutil.rmtree(home)


def measure(folder: Path, tags: Sequence[str], chance: random.Random, presses: int) -> int:
    paints: list[float] = []
    for _ in range(5):
        program = Program(folder)
        paints.append(program.wait_for(b"00004"))
        program.close()
    program = Program(folder)
    program.wait_for(b"00004")
    program.quiet(3.0)  # captions, vocabulary and findings are read by then
    moves = [program.press(b"j") for _ in range(presses)]
    program.press(b"a")
    letters: list[float] = []
    for _ in range(presses // 8):
        word = chance.choice(tags[:3000]).replace("_", " ")[:8]
        letters += [program.press(letter.encode()) for letter in word]
        program.press(b"\x15")
    program.press(b"\x1b")
    program.quiet()
    filters: list[float] = []
    for _ in range(12):
        tag = chance.choice(tags[:100]).replace("_", " ")
        os.write(program.terminal, f'/tag:"{tag}" AND NOT untagged'.encode())
        program.quiet()
        filters.append(program.press(b"\r"))
        os.write(program.terminal, b"\x1b")
        program.quiet()
    memory = program.memory_mb()
    program.close()
    results = [
        ("first paint", "s", statistics.median(paints), max(paints), 0.5),
        ("next picture", "ms", statistics.median(moves), percentile(moves), 30),
        ("key in INSERT", "ms", statistics.median(letters), percentile(letters), 30),
        ("filter", "ms", statistics.median(filters), max(filters), 50),
    ]
    for name, unit, middle, high, goal in results:
        print(f"{name:<14} median {middle:7.2f} {unit:<2}  p95 {high:7.2f} {unit:<2}  goal {goal:g} {unit}")
    print(f"{'memory':<14} {memory:7.0f} MB  goal 200 MB")
    return 0


def percentile(values: Sequence[float], share: float = 0.95) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--tags", type=int, default=200_000)
    parser.add_argument("--presses", type=int, default=200)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
