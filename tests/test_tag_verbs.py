"""The verbs that can be typed: what a line means, and what is said of a line that means nothing."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.editing.verbs import VERBS, parse_verb
from loratory.errors import LoratoryError
from loratory.tags.edits import (
    Add,
    Dedupe,
    Edit,
    Move,
    Normalise,
    Remove,
    Rename,
    SetText,
    Sort,
    Substitute,
    ToUtf8,
)


@pytest.mark.parametrize(
    ("line", "edit"),
    [
        ("add solo", Add(("solo",))),
        ("add white background, solo", Add(("white background", "solo"))),
        ("  add  --prepend artist's choice", Add(("artist's choice",), "start")),
        ('add "a b" c', Add(("a b", "c"))),
        (r"add --at -2 --move \(x\)", Add((r"\(x\)",), -2, "move")),
        ("add x --at end", Add(("x",))),
        ("add -- -_-", Add(("-_-",))),
        ("add [/b]", Add(("[/b]",))),
        ("remove blue eyes", Remove(("blue eyes",))),
        ('rename "blue eyes" "green eyes, tears"', Rename("blue eyes", ("green eyes", "tears"))),
        ("replace dog cat", Substitute("dog", "cat")),
        (r"replace --regex --ignore-case (\w)x \1", Substitute(r"(\w)x", r"\1", True, "tag", True)),
        ('replace --caption ";" ", "', Substitute(";", ", ", within="caption")),
        ("move side view 1", Move("side view", 1)),
        ("move solo -1", Move("solo", -1)),
        ("move solo last", Move("solo", "end")),
        ("sort", Sort()),
        ("sort --keep-first 2", Sort(2)),
        ("dedupe", Dedupe()),
        ('set A "red" fox, in snow.', SetText('A "red" fox, in snow.')),
        ("set --json", SetText("--json")),
        ('set ""', SetText("")),
        ("normalise --spaces --unescape --spacing", Normalise("spaces", "remove", True)),
        ("normalise --underscores --escape", Normalise("underscores", "add", False)),
        ("utf8", ToUtf8()),
    ],
)
def test_what_a_line_means(line: str, edit: Edit) -> None:
    assert parse_verb(line) == edit


@pytest.mark.parametrize(
    ("line", "says", "hint"),
    [
        ("", "No verb", "add, remove"),
        ("ad x", "no verb “ad”", "Did you mean add?"),
        ("[/b]", "no verb", "There are"),
        ("add", "Missing", r"Usage: add [--prepend] [--at N] [--move] TAG…"),
        ("add ,", "No tag", "at least one"),
        ("add --nix x", "--nix", "Usage: add"),
        ("add --help", "--help", "Usage: add"),
        ("add --prepend --at 2 x", "two places", "Usage"),
        ("add --at x y", "'x' is no position", "Usage"),
        ('add "x', "not closed", "two of them"),
        ("rename blue eyes green", "extra argument", "Quotes keep words together"),
        ('rename x ","', "NEW is empty", "Usage"),
        ("replace --regex (a b", "at character 1", ""),
        ("move x", "Missing", "Usage: move TAG POSITION"),
        ("move x 0", "Position 0", "1 is the first"),
        ("sort --keep-first -1", "--keep-first", "Usage: sort"),
        ("set", "Missing", "Usage: set TEXT"),
        ("normalise", "nothing to normalise", "Choose"),
        ("dedupe x", "extra argument", "Usage: dedupe."),
    ],
)
def test_what_is_said_of_a_wrong_line(line: str, says: str, hint: str) -> None:
    with pytest.raises(LoratoryError) as refused:
        parse_verb(line)
    assert says in refused.value.message
    assert hint in refused.value.hint


@given(st.tuples(st.sampled_from([*VERBS, "x", ""]), st.text(max_size=20)).map(" ".join))
def test_any_line_is_an_edit_or_an_explanation(line: str) -> None:
    try:
        assert parse_verb(line).label
    except LoratoryError as refused:
        assert refused.message


def test_every_verb_explains_itself() -> None:
    for name, verb in VERBS.items():
        assert verb.name == name
        assert verb.help.endswith(".")
        assert verb.details.endswith(".")
        assert all(option.help for option in verb.params() if isinstance(option, click.Option))
