r"""Emphasis in captions, as sd-scripts and Stable Diffusion front ends write it.

`(tag)` weighs 1.1, `[tag]` 1 / 1.1, `(tag:1.3)` 1.3; nested ones multiply. `\(`, `\)`, `\[`, `\]` and `\\` are the
characters themselves; any other backslash is left out. A bracket that is never closed reaches to the end of the
caption, one that closes nothing is text.
"""

import re

ROUND_WEIGHT = 1.1
SQUARE_WEIGHT = 1 / 1.1

WEIGHT_LIMIT = 100.0
"""Largest weight, either sign. sd-scripts has none, but a caption full of brackets would overflow half precision."""

# Anything that is not a plain decimal number between ":" and ")" is text, where sd-scripts fails on `(tag:1.2.3)`.
_PART = re.compile(r"\\[\\()\[\]]?|[()\[\]]|:(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\)|[^\\()\[\]:]+|:")


def parse_emphasis(caption: str) -> list[tuple[str, float]]:
    """The texts of a caption in order, without the brackets, each with its weight; never raises.

    Neighbours differ in weight. A caption without brackets and backslashes is one text of weight 1, an empty one is
    no text at all. The two kinds of brackets need not nest in each other.
    """
    texts: list[str] = []
    weights: list[float] = []
    open_round: list[int] = []
    open_square: list[int] = []

    def multiply_from(start: int, factor: float) -> None:
        # At every bracket, so that no product is infinite, and none of infinity and 0.
        weights[start:] = [_limited(weight * _limited(factor)) for weight in weights[start:]]

    for part in _PART.finditer(caption):
        text, weight = part[0], part["weight"]
        if text == "(":
            open_round.append(len(texts))
        elif text == "[":
            open_square.append(len(texts))
        elif (weight is not None or text == ")") and open_round:
            multiply_from(open_round.pop(), ROUND_WEIGHT if weight is None else float(weight))
        elif text == "]" and open_square:
            multiply_from(open_square.pop(), SQUARE_WEIGHT)
        elif text != "\\":
            texts.append(text.removeprefix("\\"))
            weights.append(1.0)
    for start in open_round:
        multiply_from(start, ROUND_WEIGHT)
    for start in open_square:
        multiply_from(start, SQUARE_WEIGHT)
    return _merged(texts, weights)


def _limited(weight: float) -> float:
    return max(-WEIGHT_LIMIT, min(WEIGHT_LIMIT, weight))


def _merged(texts: list[str], weights: list[float]) -> list[tuple[str, float]]:
    """Neighbours of one weight joined: a word must not be cut where a bracket or a backslash was read as text."""
    merged: list[tuple[list[str], float]] = []
    for text, weight in zip(texts, weights, strict=True):
        if merged and merged[-1][1] == weight:
            merged[-1][0].append(text)
        else:
            merged.append(([text], weight))
    return [("".join(parts), weight) for parts, weight in merged]
