"""The file of recipes: what is written reads back, and every mistake in it is told by its place."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hostile_pictures
from loratory.errors import LoratoryError
from loratory.imaging.recipe import AS_THEY_ARE, BACKGROUNDS, CLEANS, FORMATS, Box, Defaults, Recipe
from loratory.imaging.recipe_toml import Book, Prepare, escaped, parse_recipes, read_recipes, render, unescaped

HERE = Path("recipes.toml")


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    left, top = draw(st.integers(0, 5000)), draw(st.integers(0, 5000))
    return left, top, left + draw(st.integers(1, 5000)), top + draw(st.integers(1, 5000))


# Any bytes a file's name can have, so undecodable ones too.
NAMES = st.binary(min_size=1, max_size=40).map(os.fsdecode) | st.text(min_size=1, max_size=20)
STEMS = NAMES.filter(lambda name: not set("/\0") & set(name) and name not in (".", ".."))
TAGS = st.text(min_size=1).filter(lambda tag: tag == tag.strip() and "," not in tag and len(tag.splitlines()) == 1)
COLOURS = st.sampled_from([*BACKGROUNDS, "#00ff7f", "#ABCDEF"])
RECIPES = st.builds(
    Recipe,
    skip=st.booleans(),
    name=st.just("") | STEMS,
    background=st.just("") | COLOURS,
    erase=st.lists(boxes(), max_size=3).map(tuple),
    crop=st.none() | boxes(),
    split=st.lists(boxes(), max_size=3).map(tuple),
    flip=st.booleans(),
    clean=st.sampled_from(CLEANS),
    clean_scale=st.floats(0.1, 0.99),
    max_side_px=st.none() | st.integers(0, 9000),
    upscale=st.sampled_from([None, "auto", "never"]),
    format=st.sampled_from([None, *FORMATS]),
    tags=st.lists(TAGS, max_size=3).map(tuple),
)
DEFAULTS = st.builds(
    Defaults,
    resolution=st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    max_side_px=st.integers(0, 9000),
    upscale=st.sampled_from(["auto", "never"]),
    upscaler=NAMES,
    format=st.sampled_from(FORMATS),
    backgrounds=st.lists(COLOURS, min_size=1, max_size=4).map(tuple),
    background_tags=st.booleans(),
)
PREPARES = st.builds(
    Prepare, token=st.just("") | TAGS, class_token=st.just("") | TAGS, repeats=st.integers(1, 500), destination=NAMES
)


@given(st.builds(Book, PREPARES, DEFAULTS, st.dictionaries(NAMES, RECIPES, max_size=4)))
def test_what_is_written_reads_back(book: Book) -> None:
    text = render(book)
    text.encode("utf-8")
    told = {name: recipe for name, recipe in book.recipes.items() if recipe != Recipe()}
    again = parse_recipes(text, HERE)
    assert again == Book(book.prepare, book.defaults, told)
    assert render(again) == text


@given(NAMES | st.from_regex(r"\\*(prepare|defaults|x8f|xFF|ud800|\udcff)\\*\Z"))
def test_names_are_escaped_reversibly(name: str) -> None:
    key = escaped(name)
    key.encode("utf-8")
    assert key not in ("prepare", "defaults")
    assert unescaped(key) == name


def test_hostile_names_survive_on_disk(tmp_path: Path) -> None:
    book = Book(recipes={name: Recipe(flip=True, name=Path(name).stem) for name in hostile_pictures.NAMES})
    path = tmp_path / "recipes.toml"
    path.write_text(render(book), encoding="utf-8")
    assert read_recipes(path) == book


def test_a_usual_file_looks_like_one_a_person_writes() -> None:
    book = Book(
        Prepare("zork", "anthro", 10, "../train"),
        Defaults(resolution=(768, 768)),
        {"b.png": Recipe(), "003_jump.png": Recipe(crop=(1, 2, 30, 40), tags=("photo \\(medium\\)",), clean="adverse")},
    )
    body = [line for line in render(book).splitlines() if not line.startswith("#")]
    assert body == [
        "",
        "[prepare]",
        'token = "zork"',
        'class_token = "anthro"',
        "repeats = 10",
        'destination = "../train"',
        "",
        "[defaults]",
        "resolution = 768",
        "max_side_px = 3000",
        'upscale = "auto"',
        'upscaler = "default"',
        'format = "auto"',
        'backgrounds = ["white", "black", "blue", "green", "red"]',
        "background_tags = true",
        "",
        '["003_jump.png"]',
        "crop = [1, 2, 30, 40]",
        'clean = "adverse"',
        'tags = ["photo \\\\(medium\\\\)"]',
    ]
    assert render(book).startswith("# ")


def test_the_smallest_files_are_read(tmp_path: Path) -> None:
    assert read_recipes(tmp_path / "missing.toml") == Book()
    assert parse_recipes("", HERE) == Book()
    assert parse_recipes("[a]\nflip = true", HERE).recipes == {"a": Recipe(flip=True)}
    kept = 'max_side_px = 0\nupscale = "never"\nformat = "keep"'
    assert parse_recipes(f"[defaults]\n{kept}", HERE).defaults == AS_THEY_ARE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('["a.png"]\ncropp = 1', ['["a.png"]', '"cropp"', "`crop`"]),
        ("[prepare]\ntokn = 1", ["[prepare]", '"tokn"', "`token`"]),
        ("[defaults]\nresolution = 'x'", ["[defaults] resolution", '"x"']),
        ("[defaults]\nresolution = [1, 2, 3]", ["resolution", "[1, 2, 3]"]),
        ("[defaults]\nresolution = 0", ["resolution"]),
        ("[defaults]\nbackgrounds = []", ["backgrounds", "at least one"]),
        ("[defaults]\nbackgrounds = ['whit']", ["backgrounds", "'white'"]),
        ("[defaults]\nformat = 'pgn'", ["format", '"png"']),
        ("[a]\nbackground = '#12345'", ["background", "#rrggbb"]),
        ("[a]\ncrop = [0, 0, 10]", ["crop", "[left, top, right, bottom]"]),
        ("[a]\ncrop = [10, 0, 10, 5]", ["crop", "empty"]),
        ("[a]\ncrop = [0, 9, 10, 5]", ["crop", "empty"]),
        ("[a]\ncrop = [-1, 0, 10, 5]", ["crop", "-1"]),
        ("[a]\ncrop = [true, 0, 10, 5]", ["crop"]),
        ("[a]\nerase = [0, 0, 10, 5]", ["erase", "a box is"]),
        ("[a]\nsplit = [[0, 0, 10, 5], [1]]", ["split", "[1]"]),
        ("[a]\nflip = 1", ["flip", "true or false"]),
        ("[a]\nclean = 'addverse'", ["clean", '"adverse"']),
        ("[a]\nclean_scale = 1.0", ["clean_scale"]),
        ("[a]\nclean_scale = nan", ["clean_scale"]),
        ("[a]\nmax_side_px = -1", ["max_side_px"]),
        ("[a]\nname = 'a/b'", ["name", "folder"]),
        ("[a]\ntags = ['a, b']", ["tags", "commas"]),
        ("[a]\ntags = 'a'", ["tags", "list"]),
        ("[prepare]\nrepeats = 0", ["repeats"]),
        ("flip = true", ['"flip"', "outside of a table"]),
        ("[a]\nflip = tru", ["line 2"]),
        ("[a.png]\nflip = true", ['["a"]', '"png"']),
    ],
)
def test_every_mistake_is_told_by_its_place(text: str, told: list[str]) -> None:
    with pytest.raises(LoratoryError) as caught:
        parse_recipes(text, HERE)
    message = caught.value.message + caught.value.hint
    assert all(part in message for part in ["recipes.toml", *told]), message


def test_all_mistakes_are_told_at_once() -> None:
    text = "[prepare]\nrepeats = 'x'\n[a]\nflip = 1\n[b]\ncrop = []\n[c]\nskipp = true"
    with pytest.raises(LoratoryError) as caught:
        parse_recipes(text, HERE)
    assert all(part in caught.value.message for part in ("[prepare] repeats", '["a"]', '["b"]', "`skip`"))
    with pytest.raises(LoratoryError, match="and 80 more"):
        parse_recipes("\n".join(f"[p{n}]\nflip = 1" for n in range(100)), HERE)


def test_what_is_no_such_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for name in ("latin.toml", "pipe.toml", "folder.toml"):
        with pytest.raises(LoratoryError, match=name):
            read_recipes(tmp_path / name)
