"""Captions as text: nothing is lost between bytes, text and tags, and what makes two tags the same."""

import codecs

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loratory.errors import LoratoryError
from loratory.tags.text import CaptionText, bare, decode, encode, is_emoticon, key, parse, render, split_tags, tags_of

PIECES = st.sampled_from(
    [",", " ", "\n", "\r\n", "\r", "|||", "|", "_", "(", ")", "\\(", "a", "B", "狐", "\u2028", "\t"]
)
TEXTS = st.lists(st.one_of(PIECES, st.characters()), max_size=40).map("".join)


@given(st.binary(max_size=80))
@example(b"\xef\xbb\xbf\xff")
@example(b"\xff\xfea")
@example(b"\xfe\xff\xd8\x00")
@example(b"f\xfcnf \x81")
@example(b"\xff\xfe\xff\xfe")
def test_any_bytes_come_back(data: bytes) -> None:
    assert encode(decode(data)) == data


@given(TEXTS)
@example("a,,b")
@example("one, two\n\nthree\r\n")
@example("a ||| b |||| c,")
@example("\x85a\x0b,\x1cb")
def test_any_text_comes_back_from_its_parts(text: str) -> None:
    lines = parse(text)
    assert render(lines) == text
    for line in lines:
        assert line.parts[-1].delimiter == ""
        for part in line.parts:
            assert part.body == part.body.strip()
            assert "," not in part.body
            assert not (part.lead + part.trail).strip()


@given(TEXTS)
def test_tags_are_those_of_the_first_line_with_text(text: str) -> None:
    line = next((line for line in parse(text) if line.has_text), None)
    assert tags_of(text) == (() if line is None else tuple(part.body for part in line.parts if part.body))


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (b"", "", "utf-8"),
        ("fünf, 狐\n".encode(), "fünf, 狐\n", "utf-8"),
        (codecs.BOM_UTF8 + b"a", "a", "utf-8-sig"),
        (codecs.BOM_UTF16_LE + "fünf".encode("utf-16-le"), "fünf", "utf-16-le"),
        (codecs.BOM_UTF16_BE + "fünf".encode("utf-16-be"), "fünf", "utf-16-be"),
        ("fünf “x”".encode("cp1252"), "fünf “x”", "cp1252"),
        (b"f\xfcnf \x81", "fünf \x81", "latin-1"),
    ],
)
def test_encodings(data: bytes, text: str, encoding: str) -> None:
    assert decode(data) == CaptionText(text, encoding)


def test_a_character_that_does_not_fit_is_named() -> None:
    with pytest.raises(LoratoryError) as refused:
        encode(CaptionText("fünf 狐", "cp1252"))
    assert "“狐”" in refused.value.message
    assert "U+72D0" in refused.value.message
    assert "Windows-1252: convert it to UTF-8" in refused.value.message
    for encoding in ("utf-8", "utf-8-sig", "utf-16-le"):
        with pytest.raises(LoratoryError, match="half a character"):
            encode(CaptionText("a\ud800", encoding))


@pytest.mark.parametrize(
    "caption",
    [
        CaptionText("Ã¼", "cp1252"),  # its bytes are UTF-8 for ü
        CaptionText("ÿþab", "cp1252"),  # its bytes begin as UTF-16 does
        CaptionText("\x93", "latin-1"),  # a quotation mark in cp1252, which is tried first
    ],
)
def test_a_text_that_would_be_read_as_another_is_refused(caption: CaptionText) -> None:
    with pytest.raises(LoratoryError, match="read as another text"):
        encode(caption)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", ()),
        (" \n\t\r\n", ()),
        ("\n a , b\nc", ("a", "b")),
        (" , \nc", ()),
        ("a,,b,", ("a", "b")),
        ("tok, fox ||| red, sky", ("tok", "fox", "red", "sky")),
        (r"photo (medium), \(x\), (x:1.2), ^_^, :3", ("photo (medium)", r"\(x\)", "(x:1.2)", "^_^", ":3")),
        ("🦊, [/b], [@click=app.quit]x", ("🦊", "[/b]", "[@click=app.quit]x")),
    ],
)
def test_tags(text: str, tags: tuple[str, ...]) -> None:
    assert tags_of(text) == tags


def test_a_typed_list_is_split_at_commas_and_lines() -> None:
    assert split_tags(" a, b  c,,\n d ,") == ("a", "b  c", "d")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Blue_Eyes", " blue  eyes "),
        (r"watercolor_\(artwork\)", "watercolor (artwork)"),
        (r"a \[b\]", "A [b]"),
        ("STRASSE", "straße"),
        ("O_O", "o_o"),
        ("^_^ face_up", "^_^ face up"),
        ("a\u00a0b", "a b"),
    ],
)
def test_same_tags(one: str, other: str) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("^_^", "^ ^"), ("o_o", "o o"), ("(x:1.2)", "x"), ("photo", "photo (medium)"), ("_", "")]
)
def test_other_tags(one: str, other: str) -> None:
    assert key(one) != key(other)


@given(TEXTS)
@example("\\\\((")
@example("_ ^_^_")
def test_a_key_is_its_own_key(text: str) -> None:
    assert key(key(text)) == key(text)
    assert bool(key(text)) == bool(text.strip())


def test_faces_are_known() -> None:
    faces = "^_^ >_< o_o =_= @_@ x_x 0_0 |_| ||_|| ._. u_u ;_; +_- <o>_<o> (o)_(o) <|>_<|> 3_3 6_9 >_o O_o"
    assert [face for face in faces.split() if not is_emoticon(face)] == []
    assert not any(is_emoticon(word) for word in ["side_view", "a_b", "_", "__", "_x", "(artwork)", ":3", "^^"])


@pytest.mark.parametrize(
    ("tag", "without"),
    [
        ("(blue eyes:1.2)", "blue eyes"),
        ("((x))", "x"),
        ("[x]", "x"),
        ("( (x:.5) : 2. )", "x"),
        (r"(watercolor \(medium\):1.1)", r"watercolor \(medium\)"),
        ("photo (medium)", "photo (medium)"),
        (r"\(x\)", r"\(x\)"),
        ("(a) b (c)", "(a) b (c)"),
        ("(o)_(o)", "(o)_(o)"),
        ("(:3)", ":3"),
        ("re:zero", "re:zero"),
        ("()", "()"),
        ("(x", "(x"),
        ("", ""),
    ],
)
def test_emphasis_around_a_tag(tag: str, without: str) -> None:
    assert bare(tag) == without


@given(TEXTS)
def test_bare_takes_only_from_the_ends(text: str) -> None:
    assert bare(text) in text
    assert bare(bare(text)) == bare(text)
