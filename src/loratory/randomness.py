"""Counter-based randomness: every random number is a function of what it is for, never of what was drawn before.

A run that is killed and resumed, or read by another number of workers, therefore draws the same numbers.
"""

import hashlib
import random

_SEPARATOR = "\x1f"


def derive_seed(seed: int, purpose: str, *counters: int | str) -> int:
    """A 63-bit seed for one purpose at one place of a run, e.g. `derive_seed(42, "noise", epoch, sample)`.

    63 bits, because `torch.Generator.manual_seed` and `numpy` both take them without sign games.
    """
    text = _SEPARATOR.join((str(seed), purpose, *map(str, counters)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, purpose: str, *counters: int | str) -> random.Random:
    """A fresh random stream for one purpose at one place of a run."""
    return random.Random(derive_seed(seed, purpose, *counters))
