"""What is wrong with a draft, each at its setting, in the words that the file would get."""

import re
from typing import NamedTuple

from loratory.config.fields import FIELDS

# `complaint` names the setting first, or after the file it comes from.
_NAMED = re.compile(r"(?:^|: )([a-z_]+(?:\.[a-z0-9_]+)?)(?=\[| = |: )")
# Others name it in what there is to do: `Correct model.pretrained_model_name_or_path.`
_ANYWHERE = re.compile(r"\b[a-z_]+\.[a-z0-9_]+\b")


class Problem(NamedTuple):
    """key: the setting it is about, "" for none. message: a sentence that stands alone."""

    key: str
    message: str


def problems_in(message: str, origin: str) -> list[Problem]:
    """The problems in the message of `load.resolve`, one for each line; origin: the draft's own file."""
    sentences: list[str] = []
    for line in message.splitlines():
        if line.startswith(" ") and sentences:  # the line of a file that the sentence before is about
            sentences[-1] += f" {line.strip()}"
        else:
            sentences.append(line.removeprefix(f"{origin}: "))
    return [Problem(named_setting(sentence), sentence) for sentence in sentences]


def named_setting(sentence: str) -> str:
    """The setting that a sentence about a configuration is about, else the first it names; "" for none."""
    named = [found[1] for found in _NAMED.finditer(sentence)] + _ANYWHERE.findall(sentence)
    return next((name for name in named if name in FIELDS), "")
