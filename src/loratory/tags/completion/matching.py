"""Which names a typed text stands for, name by name: what the bands of completion mean.

All texts here are keys (`text.key`): lower case, spaces for underscores. `search` finds the same names in an index
without looking at each; what it finds, and how far off, is defined here.
"""

import re
from collections.abc import Iterable, Sequence

# Longer names and typed texts are compared by their beginnings: a sentence is no tag, and a key press must be short.
LONGEST = 200

# A word starts after a space and after any sign: "quarter" in three-quarter_view, "medium" in watercolor_(medium). Not
# after an apostrophe: nobody looks for the s of artist's.
_WORD_START = re.compile(r"(?<!\S)\S|(?<=[^\w\s'’])[^\W_]")

# What a subsequence costs. A jump to the start of a word is how initials are typed (psl for parallel_speed_lines).
_JUMP = 1.0
_JUMP_TO_WORD = 0.25
_SKIPPED_LETTER = 0.05
# Per typed letter; above it nobody would guess the name, and it would only hide the typos below.
_DEAREST = 0.75
SHORTEST_SUBSEQUENCE = 3

# From so many texts on, a regular expression that rules most of them out pays for being made.
_WORTH_COMPILING = 100


def words(text: str) -> list[str]:
    """Every stretch from the start of a word to the next space: "three-quarter view" has three."""
    found: list[str] = []
    for start in _WORD_START.finditer(text):
        end = text.find(" ", start.start())
        found.append(text[start.start() : end if end >= 0 else len(text)])
    return found


def needs(typed: str) -> dict[str, int]:
    """How many words of a name must start with each typed word, for all typed words to have a word of their own.

    This is enough: the sets of words that two typed words can stand for lie one in the other or have nothing in common.
    """
    typed_words = typed.split(" ")
    return {prefix: sum(word.startswith(prefix) for word in typed_words) for prefix in typed_words}


def subsequence_cost(letters: str, text: str) -> float | None:
    """How many gaps there are when `letters` (no spaces) are found in order in `text`, from the start of a word on.

    None where they are not, or only with so many gaps that it says nothing. 0: without any gap. The first place is
    taken for each letter, not the best one, which would cost much more time.
    """
    best: float | None = None
    start = text.find(letters[0])
    while start >= 0:
        if start == 0 or not (text[start - 1].isalnum() or text[start - 1] in "'’"):
            cost = _cost_from(start, letters, text)
            if cost is None:
                break  # nor from any later place
            if best is None or cost < best:
                best = cost
        start = text.find(letters[0], start + 1)
    return best if best is not None and best <= _DEAREST * len(letters) else None


def subsequence_costs(letters: str, texts: Sequence[str]) -> dict[int, float]:
    """`subsequence_cost` by the position in `texts`, for those that have one."""
    possible: Iterable[int] = range(len(texts))
    if len(texts) > _WORTH_COMPILING:
        # Possessive: the first place for each letter is as good as any for telling whether there is one.
        places = "".join(f"[^{re.escape(letter)}]*+{re.escape(letter)}" for letter in letters)
        holds = re.compile(places, re.DOTALL).match
        possible = [at for at, text in enumerate(texts) if holds(text)]
    costs = {at: subsequence_cost(letters, texts[at]) for at in possible}
    return {at: cost for at, cost in costs.items() if cost is not None}


def typo_limit(typed: str) -> int:
    """How many letters of `typed` may be wrong, missing, too many or swapped with the next."""
    return 0 if len(typed) < 5 else 1 if len(typed) < 9 else 2


def typo_costs(typed: str, texts: Sequence[str]) -> dict[int, float]:
    """The number of typos, by the position in `texts`, of those that are within `typo_limit`; at least 1.

    A text of which only the beginning was typed, its first letter right, costs half a typo more.
    """
    from rapidfuzz.distance import OSA
    from rapidfuzz.process import extract

    limit, length = typo_limit(typed), len(typed)
    if not limit:
        return {}
    costs: dict[int, float] = {}
    longer = [index for index, text in enumerate(texts) if len(text) >= length and text[0] == typed[0]]
    for end in (length - 1, length, length + 1):
        beginnings = [texts[index][:end] for index in longer]
        for _, distance, at in extract(typed, beginnings, scorer=OSA.distance, score_cutoff=limit, limit=None):
            cost = max(distance, 1) + 0.5
            costs[longer[at]] = min(cost, costs.get(longer[at], cost))
    for _, distance, index in extract(typed, texts, scorer=OSA.distance, score_cutoff=limit, limit=None):
        costs[index] = min(max(distance, 1.0), costs.get(index, distance))
    return costs


def _cost_from(start: int, letters: str, text: str) -> float | None:
    cost = 0.0
    at = start
    for letter in letters[1:]:
        found = text.find(letter, at + 1)
        if found < 0:
            return None
        if found > at + 1:
            cost += (_JUMP_TO_WORD if text[found - 1] == " " else _JUMP) + _SKIPPED_LETTER * (found - at - 1)
        at = found
    return cost
