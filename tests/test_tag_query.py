"""The filter language: what each term means, how queries are joined, and that mistakes are shown at their place."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loratory.errors import LoratoryError
from loratory.tags.query import Facts, Query, QueryError, parse_query
from loratory.tags.query.grammar import And, Node, Not, Or
from loratory.tags.query.patterns import compile_pattern, escaped
from loratory.tags.query.terms import FLAGS, NUMBER_FIELDS, TEXT_FIELDS, Flag, Number, Text
from loratory.tags.query.tokens import MAX_LENGTH
from loratory.tags.text import key, tags_of

PAGE = (Path(__file__).parent.parent / "docs" / "query.md").read_text("utf-8")


@dataclass(frozen=True)
class Image:
    caption: str = ""
    path: str = "10_fox/003_jump.png"
    tokens: int = 10
    size: tuple[int, int] = (1536, 1024)
    issues: frozenset[str] = frozenset()
    duplicate: bool = False
    reviewed: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(map(key, tags_of(self.caption)))


def matches(query: str, image: Facts) -> bool:
    return parse_query(query).matches(image)


def error(query: str) -> QueryError:
    with pytest.raises(QueryError) as caught:
        parse_query(query)
    return caught.value


FOX = Image(r"Arctic Fox, blue_eyes, photo \(medium\), ^_^, [x], looking at viewer, 50%, a*b")


@pytest.mark.parametrize(
    "query",
    [
        'tag:"arctic fox"',
        "tag:ARCTIC_fox",
        r"tag:arctic\ fox",
        "tag:arctic*",
        "tag:*FOX",
        "tag:a*c?fox",
        "tag:*",
        "tag:???",
        "tag:blue_eyes",
        'tag:"blue eyes"',
        "tag:blue_*",
        "tag:*_eyes",
        "tag:*_*",
        'tag:"photo (medium)"',
        "tag:photo_(medium)",
        r"tag:photo\ \(medium\)",
        r'tag:"photo \(medium\)"',
        "(tag:photo_(medium))",
        "tag:*_(medium)",
        "tag:^_^",
        "tag:^_*",
        "^_^",
        "tag:[x]",
        "tag:[*]",
        "[x]",
        "tag:50%",
        r"tag:a\*b",
        "tag:a*b",
        "fox",
        "FOX",
        "arctic",
        '"arctic fox"',
        '"looking at"',
        "fo?",
        "arc*",
        "vie*",
        "*iewer",
        "jump",
        "003",
        "_jump.p",
        "caption:FOX",
        "caption:ox",
        'caption:"fox, blue_"',
        "caption:arctic*viewer",
        "caption:e?es",
        'caption:"looking at"',
        "name:003",
        "name:Jump.PNG",
        "name:0*p",
        "path:10_fox/",
        "path:fox/0*.png",
        "tags=8",
        "tags==8",
        "tags > 7",
        "tags>7.5",
        "tokens>=10",
        "chars>70",
        "size=1024",
        "width=1536",
        "height<=1024",
        "ratio=1.5",
        "ratio=3:2",
        "ratio<1.51",
        "ratio>=1.5:1.0",
        "TAGS!=9",
    ],
)
def test_terms_that_match(query: str) -> None:
    assert matches(query, FOX)


@pytest.mark.parametrize(
    "query",
    [
        "tag:fox",
        "tag:arctic",
        "tag:arctic?",
        "tag:?",
        "tag:x",
        "[y]",
        "tag:[a-z]",
        "tag:5*%0",
        r"tag:arctic\*",
        r"tag:\[?\]y",
        "tag:^ ^",
        "fo",
        "ox",
        "foxes",
        "rctic*",
        '"blue fox"',
        "caption:wolf",
        "caption:viewer*arctic",
        "name:10_fox",
        "path:12_fox",
        "tags<8",
        "tags!=8",
        "ratio>1.5",
        "size<768",
        "issue",
        "issue:*",
        "dup",
        "reviewed",
        "untagged",
    ],
)
def test_terms_that_do_not(query: str) -> None:
    assert not matches(query, FOX)


def test_flags_and_rules() -> None:
    image = Image(issues=frozenset({"implied-tag", "Typo"}), duplicate=True, reviewed=True)
    for query in (
        "dup reviewed untagged issue",
        "issue:implied-tag",
        "issue:*",
        "issue:typo",
        "issue:imp* Issue:*o",
        "DUP",
    ):
        assert matches(query, image)
    for query in ("issue:implied", "issue:typo?", "-dup", "!reviewed", "NOT untagged"):
        assert not matches(query, image)


def test_an_unreadable_picture_has_no_ratio() -> None:
    broken = Image(size=(0, 0))
    assert matches("size=0 width<1 height<1", broken)
    assert not any(matches(f"ratio{sign}1", broken) for sign in ("=", "!=", "<", "<=", ">", ">="))


@pytest.mark.parametrize(
    ("query", "canonical"),
    [
        ("a b", "a AND b"),
        ("a and b or c and d", "a AND b OR c AND d"),
        ("a (b or c) d", "a AND (b OR c) AND d"),
        ("(a b) (c)", "a AND b AND c"),
        ("a or (b or c)", "a OR b OR c"),
        ("-a !b not c", "NOT a AND NOT b AND NOT c"),
        ("not not a", "a"),
        ("--a", "a"),
        ("!-!a", "NOT a"),
        ("not (not (a))", "a"),
        ("not(a b)", "NOT (a AND b)"),
        ("a and(b)or(c)", "a AND b OR c"),
        ("-(a or b)", "NOT (a OR b)"),
        ("NOT a b", "NOT a AND b"),
        ("  tags  ==  5 ", "tags=5"),
        ("TAG:Fox", "tag:Fox"),
        ('"and" "or" "Not" "dup" "tags" "tag"', '"and" AND "or" AND "Not" AND "dup" AND "tags" AND "tag"'),
        (r"\and", '"and"'),
        (r"\-5 \(a\) \"b", r'"-5" AND "(a)" AND "\"b"'),
        ("fox(animal) fox_(a_(b))", '"fox(animal)" AND "fox_(a_(b))"'),
        ("tag:(o)_(o)", 'tag:"(o)_(o)"'),
        (">_< :3 =_= ;_; <o>_<o>", '">_<" AND ":3" AND "=_=" AND ";_;" AND "<o>_<o>"'),
        (r'"re:zero" re\:zero', '"re:zero" AND "re:zero"'),
        ("ratio >= 3:2 or ratio<0.5", "ratio>=3:2 OR ratio<0.5"),
        ("issue issue:*", "issue AND issue:*"),
        (r'"a\\b\*c\"d"', r'"a\\b\*c\"d"'),
    ],
)
def test_how_it_is_read(query: str, canonical: str) -> None:
    assert str(parse_query(query)) == canonical
    assert parse_query(canonical) == parse_query(query)


@pytest.mark.parametrize(
    ("query", "position", "said"),
    [
        ("", 0, "empty"),
        ("   ", 3, "empty"),
        ("tag:fox AND )", 12, "expected a term such as tag:fox after AND, not )"),
        ("a AND OR b", 6, "after AND, not OR"),
        ("or a", 0, "not OR"),
        ("a or", 4, "after OR, not the end"),
        ("not", 3, "after NOT, not the end"),
        ("()", 1, "after (, not )"),
        ("(a b", 4, "expected ) for the ( at character 1"),
        ("a b)", 3, "closes nothing"),
        (":)", 1, "closes nothing"),
        ("tga:fox", 0, "there is no field tga; did you mean tag:?"),
        ("isue:x", 0, "did you mean issue:?"),
        ("a tokns>5", 2, "did you mean tokens>5?"),
        ("tok=5", 0, "tokens"),
        ("zzzz:5", 0, "there are tags, tokens"),
        ("re:zero", 0, "there is no field re"),
        ("tag>5", 0, "tag is text: write tag:fox, or tags>5 for a number"),
        ("path=5", 0, "path is text: write path:fox"),
        ("a tags", 2, "tags is a number: write tags>5"),
        ("tags:5", 0, "tags is a number"),
        ("tags>", 5, "expected a number such as 20 after tags>"),
        ("tags>x", 5, "expected a number"),
        ("tags>-1", 5, "expected a number"),
        ("tags>5x", 6, "expected a number"),
        ("tags>1234567890123", 14, "expected a number"),
        ("tags>3:2", 6, "expected a number"),
        ("ratio>x", 6, "1.5 or 3:2"),
        ("ratio>3:0", 6, "a ratio to 0"),
        ("tag:", 4, "expected text directly after tag:"),
        ("tag: fox", 4, "expected text directly after tag:"),
        ("(tag:)", 5, "expected text directly after tag:"),
        ('tag:""', 5, "expected text between the quotes"),
        ('tag:"a', 6, 'expected " to close the one at character 5'),
        ('"a"b', 3, "expected a space after the closing quote"),
        ('5"tall', 1, "a quote inside a word"),
        ("tag:(a OR b)", 4, "this ( is not closed in its word"),
        ("fox_(a", 4, "this ( is not closed in its word"),
        ("fox, dog", 3, "terms are joined by AND or OR"),
        ("fox > 5", 4, "expected the name of a number before >"),
        ("- fox", 0, "stands directly before"),
        ("fox !", 4, "stands directly before"),
        ("fox\\", 4, "expected a character after"),
        ("a" * (MAX_LENGTH + 1), MAX_LENGTH, "at most 10,000 characters"),
        ("(" * 10_000, 50, "more than 50 parentheses"),
        ("-(" * 5_000, 101, "more than 50 parentheses"),
    ],
)
def test_mistakes_are_shown_at_their_place(query: str, position: int, said: str) -> None:
    wrong = error(query)
    assert isinstance(wrong, LoratoryError) and wrong.exit_code == 2
    assert wrong.position == position and wrong.text == query
    assert said in wrong.reason and "\n" not in wrong.reason
    assert wrong.reason in wrong.message


def test_the_message_has_a_caret_under_the_character() -> None:
    assert error("tag:fox AND )").message == (
        "query, character 13: expected a term such as tag:fox after AND, not )\n1 | tag:fox AND )\n                ^"
    )
    assert error("(a b").message.endswith("\n1 | (a b\n        ^")
    assert "query, at its end: " in error("(a b").message
    assert error("a\x1b[2J\n\tb )").message.endswith("\n1 | a�[2J��b )\n             ^")
    assert error("狐 e\u0301 )").message.endswith("\n1 | 狐 e\u0301 )\n         ^")  # columns, not characters


def test_a_long_query_is_cut_around_the_place() -> None:
    for before in (0, 3, 60, 74, 500):
        for after in (0, 3, 60, 74, 500):
            for character in "x狐":
                _, shown, caret = error(f"{character * before} ) {character * after}").message.split("\n")
                columns = [*(("1", "2")[c == "狐"] for c in shown)]
                assert sum(map(int, columns)) <= 78
                column = len(caret) - 1
                index = next(i for i in range(len(shown)) if sum(map(int, columns[:i])) == column)
                assert shown[index] == ")" or (before == 0 and shown[index] == ")")
    shown = error("x" * 500 + " ) " + "y" * 500).message.split("\n")[1]
    assert shown.startswith("1 | ...x") and shown.endswith("y...") and len(shown) > 70


def test_a_shell_that_took_the_comparison_is_thought_of() -> None:
    assert "single quotes" in error("tags").hint
    assert "in quotes" in error("re:zero").hint


def test_needs_name_what_must_be_worked_out() -> None:
    assert parse_query("tag:a b caption:c name:d path:e tags>1 chars>1 untagged reviewed").needs == frozenset()
    assert parse_query("tokens>1 or not (dup (size>1 issue))").needs == {"tokens", "dup", "size", "issue"}
    assert parse_query("width>1 height>1 ratio>1").needs == {"size"}
    assert parse_query("issue:x").needs == {"issue"}


@pytest.mark.parametrize(
    ("query", "asks"),
    [
        ("issue", True),
        ("issue:SHEET", True),
        ("fox OR NOT (tags>2 issue:tr*)", True),
        ("issue:implied OR issue:sheets", False),
        ("sheet tag:sheet dup tags>1", False),
    ],
)
def test_whether_rules_are_asked_for(query: str, asks: bool) -> None:
    assert parse_query(query).asks_for_issues({"sheet", "transparent"}) is asks


def test_slow_facts_are_asked_for_only_where_they_decide() -> None:
    class Unread:
        keys = ("fox",)

    # Asking it for its tokens is an AttributeError.
    assert not matches("tokens>75 AND tag:wolf", Unread())  # type: ignore[arg-type]
    assert matches("tokens>75 OR tag:fox", Unread())  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------- any text

ALPHABET = 'aбß狐_ \t\n()"\\*?-!:<>=,.[]0159^\x00\x1b\ud800'
WORDS = [
    *(f"{name}:" for name in (*TEXT_FIELDS, "tga")),
    *NUMBER_FIELDS,
    *FLAGS,
    *("and ", "OR ", "not ", ">", "<=", "!=", "3:2", "5", "fox", '"', "(", ")", " ", "-", "!", "\\", "*", ",", "_(a)"),
]


@settings(max_examples=600, deadline=None)
@given(st.text() | st.text(ALPHABET, max_size=30) | st.lists(st.sampled_from(WORDS), max_size=14).map("".join))
@example("(" * 10_000)
@example("not " * 2_400 + "a")
@example("-" * 9_000 + "a")
@example("a(" * 5_000)
@example("*?" * 5_000)
@example("a or " * 1_999 + "b")
@example("".join(map(chr, range(0xF0000, 0xF2700))) + "*?")
def test_any_text_is_a_query_or_has_a_place_where_it_is_none(text: str) -> None:
    try:
        query = parse_query(text)
    except QueryError as wrong:
        assert 0 <= wrong.position <= len(text) and wrong.text == text
        lines = wrong.message.split("\n")
        assert len(lines) == 3 and lines[2].strip() == "^"
        assert all(line.isprintable() for line in lines[:2])
        return
    query.matches(FOX)
    again = parse_query(str(query))
    assert again == query and str(again) == str(query)


PATTERN = st.text('ab *?\\"(-:', min_size=1, max_size=5).map(
    lambda text: "".join(c if c in "*?" else escaped(c) for c in text)
)
TERM = st.one_of(
    st.builds(Text, st.sampled_from([None, *TEXT_FIELDS]), PATTERN),
    st.builds(Text, st.just("tag"), st.sampled_from(["a", "b", "a*", "ab"])),
    st.builds(Number, st.sampled_from(NUMBER_FIELDS), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.just("2")),
    st.builds(Flag, st.sampled_from(FLAGS)),
)
NODE: st.SearchStrategy[Node] = st.recursive(
    TERM,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda each: And(tuple(each))),
        st.lists(inner, min_size=2, max_size=3).map(lambda each: Or(tuple(each))),
        inner.map(Not),
    ),
    max_leaves=8,
)
IMAGE = st.builds(
    Image,
    st.text('ab ,*()"', max_size=8),
    st.sampled_from(["a.png", "b/ab.png"]),
    st.integers(0, 3),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.frozensets(st.sampled_from(["a", "ab"])),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(NODE, NODE, IMAGE)
def test_the_laws_of_logic(left: Node, right: Node, image: Image) -> None:
    a, b = Query(left).matches(image), Query(right).matches(image)
    assert matches(str(left), image) == a
    assert matches(f"NOT ({left})", image) == (not a)
    assert matches(f"NOT NOT ({left})", image) == a
    assert matches(f"({left}) AND ({right})", image) == (a and b)
    assert matches(f"({left}) OR ({right})", image) == (a or b)
    assert matches(f"NOT (({left}) OR ({right}))", image) == matches(f"NOT ({left}) AND NOT ({right})", image)
    assert matches(f"-(({left}) ({right}))", image) == matches(f"-({left}) OR -({right})", image)


def reference(pattern: str) -> str:
    """The pattern as an ordinary regular expression."""
    pieces = re.findall(r"\\.|.", pattern, re.DOTALL)
    return "".join(".*" if piece == "*" else "." if piece == "?" else re.escape(piece[-1]) for piece in pieces)


@settings(max_examples=500, deadline=None)
@given(st.text("ab*?", max_size=7), st.text("ab ", max_size=9))
def test_wildcards_are_what_a_plain_regex_says(pattern: str, string: str) -> None:
    source = reference(pattern)
    assert compile_pattern(pattern, "whole", str)(string) == (re.fullmatch(source, string) is not None)
    assert compile_pattern(pattern, "part", str)(string) == (re.search(source, string) is not None)
    first, last = (r"(?<!\w)" if pattern[:1] in ("a", "b") else ""), (r"(?!\w)" if pattern[-1:] in ("a", "b") else "")
    assert compile_pattern(pattern, "words", str)(string) == (re.search(first + source + last, string) is not None)


# ------------------------------------------------------------------------------------------------------- speed


def test_a_pattern_cannot_take_for_ever() -> None:
    image = Image("a" * 100_000, path="a" * 100_000)
    began = time.perf_counter()
    for query in ("tag:" + "a*" * 30 + "b", "caption:" + "a*" * 30 + "b", "a*" * 30 + "b", "name:a*b*c", "tag:*a*a*b?"):
        assert not matches(query, image)
    assert time.perf_counter() - began < 1


def test_ten_thousand_images() -> None:
    @dataclass(frozen=True)
    class Held:
        keys: tuple[str, ...]

    pool = [f"tag {number}" for number in range(3000)]
    images = [Held(tuple(pool[(index * 37 + each * 101) % 3000] for each in range(20))) for index in range(10_000)]
    query = 'tag:"tag 7*" AND NOT tag:tag_11* tags>5'
    best, found = float("inf"), 0
    for _ in range(3):
        began = time.perf_counter()
        test = parse_query(query).matches
        found = sum(map(test, images))  # type: ignore[arg-type]
        best = min(best, time.perf_counter() - began)
    expected = sum(
        any(each.startswith("tag 7") for each in image.keys) and not any(k.startswith("tag 11") for k in image.keys)
        for image in images
    )
    assert found == expected and 100 < found < 9_900
    assert best < 0.15  # about 0.03 on a quiet machine


# -------------------------------------------------------------------------------------------------------- page


def rows() -> list[tuple[str, ...]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    return [tuple(re.findall(r"`([^`]+)`", line)) for line in lines]


def test_the_page_is_true() -> None:
    table = rows()
    assert len(table) > 20
    for written in table:
        parse_query(written[0])
    examples = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)[-1].splitlines()
    assert len(examples) >= 8
    for written in examples:
        parse_query(written)
    shown = re.search(r"```\n(query, .*?)\n```", PAGE, re.DOTALL)
    assert shown and shown[1] == error("tag:fox AND )").message
    for name in (*TEXT_FIELDS, *NUMBER_FIELDS, *FLAGS):
        assert any(re.match(rf"{name}(?![a-z])", written[0]) for written in table), name


def test_the_page_says_what_is_the_same() -> None:
    for group in (
        ("tag:photo_(medium)", 'tag:"photo (medium)"', r"tag:photo\ \(medium\)"),
        ('tag:"blue eyes"', "tag:blue_eyes", r"tag:blue\ eyes"),
        ("NOT tag:fox", "-tag:fox", "!tag:fox"),
    ):
        for written in group:
            assert f"`{written}`" in PAGE
            for image in (FOX, Image("fox")):
                assert matches(written, image) == matches(group[0], image)
    for written in ('"and"', '"dup"', '"tags"', '"re:zero"', '">"'):
        assert f"`{written}`" in PAGE
        assert isinstance(parse_query(written).root, Text)
