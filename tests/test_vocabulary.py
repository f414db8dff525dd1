"""What a vocabulary knows: its own names, other names, and what follows from what."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.errors import LoratoryError
from loratory.tags.text import key
from loratory.tags.vocabulary import packs, store
from loratory.tags.vocabulary.graph import shortest_paths
from loratory.tags.vocabulary.importing import import_files
from loratory.tags.vocabulary.model import SITES, Entry, Implied, TagInfo
from loratory.tags.vocabulary.store import Vocabulary, open_vocabulary, other_sites

Make = Callable[..., Vocabulary]

LIST = """mammal,5,2000,"mammalian,ungulate"
canine,5,1500,
domestic_dog,5,900,"dog,doggo"
side_view,0,800,
watercolor_(artwork),7,50,watercolor
^_^,0,40,happy_eyes
female,0,30,"girl,woman"
male,0,20,"boy,man"
young,8,10,"boy,cub"
"""
IMPLICATIONS = """id,antecedent_name,consequent_name,created_at,status
1,domestic_dog,canine,2020,active
2,canine,mammal,2020,active
3,german_shepherd,domestic_dog,2020,active
"""


@pytest.fixture
def make(isolated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Opens e621 with the given contents; what is left out is empty."""

    def make(*, listed: str = "", implied: str = "", pack: str = "", rules: str = "") -> Vocabulary:
        for name, text in (("e621.csv", listed), ("e621_tag_implications.csv", implied)):
            if text:
                (tmp_path / name).write_text(text, "utf-8")
                import_files([tmp_path / name], "e621")
        (tmp_path / "pack.toml").write_text(pack, "utf-8")
        monkeypatch.setattr(store, "pack_path", lambda _: tmp_path / "pack.toml")
        (isolated / "config/rules").mkdir(parents=True, exist_ok=True)
        (isolated / "config/rules/e621.toml").write_text(rules, "utf-8")
        return open_vocabulary("e621")

    return make


@pytest.mark.parametrize(
    "written", ["side_view", "side view", "Side View", " side  view ", "(side view:1.2)", "((side_view))"]
)
def test_a_tag_is_found_however_it_is_written(make: Make, written: str) -> None:
    assert make(listed=LIST).find(written) == TagInfo("side_view", "general", 800, False, "import")


@pytest.mark.parametrize("written", ["watercolor_(artwork)", r"watercolor \(artwork\)", "watercolor (artwork)"])
def test_escaped_brackets_are_brackets(make: Make, written: str) -> None:
    found = make(listed=LIST).find(written)
    assert found is not None and found.name == "watercolor_(artwork)" and found.category == "meta"


def test_emoticons_keep_their_underscore(make: Make) -> None:
    vocabulary = make(listed=LIST)
    assert vocabulary.find("^_^") and not vocabulary.find("^ ^")


def test_a_name_in_brackets_as_a_whole_is_found(make: Make) -> None:
    vocabulary = make(listed="(plain),0,5,\nplain,0,7,\n")
    assert [vocabulary.find(tag).count for tag in ("(plain)", "plain", "[plain]")] == [5, 7, 7]  # pyright: ignore[reportOptionalMemberAccess]


def test_an_alias_is_no_canonical_tag_but_resolves(make: Make) -> None:
    vocabulary = make(listed=LIST)
    assert vocabulary.find("Dog") is None
    assert [info.name for info in vocabulary.resolve("(dog)")] == ["domestic_dog"]


def test_a_canonical_name_beats_an_alias(make: Make) -> None:
    vocabulary = make(listed='male,0,20,"man"\nman,0,5,\n')
    assert vocabulary.resolve("man") == ()
    assert vocabulary.find("man") is not None
    assert vocabulary.aliases("male") == ()


def test_an_ambiguous_alias_gives_its_targets_the_commonest_first(make: Make) -> None:
    assert [info.name for info in make(listed=LIST).resolve("boy")] == ["male", "young"]


def test_what_is_not_known_is_none(make: Make) -> None:
    vocabulary = make(listed=LIST)
    assert vocabulary.find("quux") is None
    assert vocabulary.resolve("quux") == ()
    assert vocabulary.implications("quux") == {}


@pytest.mark.parametrize(
    "tag", ["", " ", ",", "[/b]", "[/", "[@click=app.quit]x", ":x:", "\0", "\x1b[2J", "\udcff", "(" * 500]
)
def test_hostile_tags_are_only_unknown(make: Make, tag: str) -> None:
    vocabulary = make(listed=LIST, implied=IMPLICATIONS)
    assert vocabulary.find(tag) is None
    assert vocabulary.resolve(tag) == ()
    assert vocabulary.implications(tag) == {}
    assert vocabulary.implied_by(tag) == ()
    assert vocabulary.aliases(tag) == ()


def test_implications_are_followed_to_the_end_with_the_reason(make: Make) -> None:
    implied = make(listed=LIST, implied=IMPLICATIONS).implications("German Shepherd")
    assert implied == {
        "domestic dog": Implied(("german_shepherd", "domestic_dog"), "import"),
        "canine": Implied(("german_shepherd", "domestic_dog", "canine"), "import"),
        "mammal": Implied(("german_shepherd", "domestic_dog", "canine", "mammal"), "import"),
    }


def test_the_shortest_path_is_the_reason(make: Make) -> None:
    implied = make(listed=LIST, implied=IMPLICATIONS + "4,german_shepherd,canine,2020,active\n")
    assert implied.implications("german_shepherd")["mammal"].path == ("german_shepherd", "canine", "mammal")


def test_an_alias_implies_what_its_tag_implies(make: Make) -> None:
    vocabulary = make(listed=LIST, implied=IMPLICATIONS)
    assert vocabulary.implications("doggo") == vocabulary.implications("domestic_dog") != {}


def test_from_an_ambiguous_alias_nothing_follows(make: Make) -> None:
    vocabulary = make(listed=LIST, rules='[implications]\nmale = ["mammal"]\nyoung = ["mammal"]\n')
    assert vocabulary.implications("male") and vocabulary.implications("boy") == {}


def test_an_alias_in_the_middle_of_a_path_is_resolved(make: Make) -> None:
    vocabulary = make(listed=LIST, rules='[implications]\npuppy = ["dog"]\ndog = ["canine"]\n')
    assert vocabulary.implications("puppy")["canine"].path == ("puppy", "domestic_dog", "canine")


def test_circles_end(make: Make) -> None:
    vocabulary = make(
        listed=LIST, implied=IMPLICATIONS + "4,mammal,domestic_dog,2020,active\n5,mammal,mammal,2,active\n"
    )
    assert set(vocabulary.implications("domestic_dog")) == {"canine", "mammal"}
    assert set(vocabulary.implications("mammal")) == {"domestic dog", "canine"}


def test_aliases_in_a_circle_end(make: Make) -> None:
    vocabulary = make(rules='[aliases]\na = "b"\nb = "a"\n[implications]\nx = ["a"]\n')
    assert vocabulary.resolve("a") == ()
    assert set(vocabulary.implications("x")) == {"a"}


def test_chains_of_aliases_are_followed(make: Make) -> None:
    vocabulary = make(listed=LIST, pack='[aliases]\nhound = "dog"\n')
    assert [info.name for info in vocabulary.resolve("hound")] == ["domestic_dog"]


def test_a_long_chain_of_implications_is_followed(make: Make) -> None:
    edges = "".join(f'n{number} = ["n{number + 1}"]\n' for number in range(2000))
    assert len(make(rules=f"[implications]\n{edges}").implications("n0")["n2000"].path) == 2001


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=30))
def test_paths_are_as_short_as_can_be(edges: list[tuple[int, int]]) -> None:
    direct = {str(at): [str(b) for a, b in edges if a == at] for at in range(8)}
    paths = shortest_paths("0", lambda at: ((general, "import") for general in direct[at]))
    # By relaxing every edge as often as there are nodes.
    lengths = {"0": 0}
    for _ in range(8):
        for at in list(lengths):
            for general in direct[at]:
                lengths[general] = min(lengths.get(general, 99), lengths[at] + 1)
    assert {at: len(path.keys) - 1 for at, path in paths.items()} == {at: n for at, n in lengths.items() if at != "0"}
    for path in paths.values():
        assert all(second in direct[first] for first, second in zip(path.keys, path.keys[1:], strict=False))


PACK = """
[tags]
species = ["mammal", "fox"]
general = ["old_name", "dog"]
deprecated = ["fluffy"]
[aliases]
vulpine = "fox"
doggo = "fox"
[implications]
fox = ["mammal"]
domestic_dog = ["fox"]
[translations]
fox = "fox_girl"
"""


def test_the_pack_alone_is_a_vocabulary(make: Make) -> None:
    vocabulary = make(pack=PACK)
    assert not vocabulary.known()
    assert len(vocabulary) == 5
    assert vocabulary.find("fox") == TagInfo("fox", "species", 0, False, "pack")
    assert vocabulary.find("fluffy") == TagInfo("fluffy", "general", 0, True, "pack")
    assert vocabulary.implications("vulpine") == {"mammal": Implied(("fox", "mammal"), "pack")}
    assert vocabulary.translate("vulpine") is None and vocabulary.translate("Fox") == "fox_girl"


def test_the_pack_speaks_only_where_the_import_says_nothing(make: Make) -> None:
    vocabulary = make(listed=LIST, implied=IMPLICATIONS, pack=PACK)
    mammal, fox = vocabulary.find("mammal"), vocabulary.find("fox")
    assert mammal and (mammal.count, mammal.origin) == (2000, "import")
    assert fox and fox.origin == "pack"
    assert vocabulary.find("dog") is None, "the import knows it as an alias"
    assert [info.name for info in vocabulary.resolve("doggo")] == ["domestic_dog"]
    assert set(vocabulary.implications("domestic_dog")) == {"canine", "mammal"}
    assert vocabulary.implications("fox")["mammal"].origin == "pack"


def test_a_path_is_only_as_trusted_as_its_weakest_edge(make: Make) -> None:
    vocabulary = make(
        listed=LIST,
        implied=IMPLICATIONS,
        pack='[implications]\npuppy = ["german_shepherd"]\n',
        rules='[implications]\nmy_dog = ["puppy"]\n',
    )
    assert vocabulary.implications("puppy")["mammal"].origin == "pack"
    assert vocabulary.implications("my_dog")["mammal"].origin == "rules"
    assert vocabulary.implications("german_shepherd")["mammal"].origin == "import"


def test_the_persons_rules_have_the_last_word(make: Make) -> None:
    vocabulary = make(
        listed=LIST,
        implied=IMPLICATIONS,
        pack=PACK,
        rules='[tags]\ncharacter = ["Dog", "canine"]\n[aliases]\nmammal = "animal"\n[implications]\ncanine = ["pet"]\n',
    )
    assert vocabulary.find("dog") == TagInfo("Dog", "character", 0, False, "rules")
    assert vocabulary.find("canine") == TagInfo("canine", "character", 1500, False, "rules")
    assert vocabulary.find("mammal") is None
    assert vocabulary.resolve("mammal") == (TagInfo("animal", "general", 0, False, "rules"),)
    implied = vocabulary.implications("canine")
    assert implied["pet"] == Implied(("canine", "pet"), "rules")
    assert implied["animal"] == Implied(("canine", "animal"), "import")


def test_the_ways_back(make: Make) -> None:
    vocabulary = make(listed=LIST, implied=IMPLICATIONS, rules='[implications]\nwolf = ["canine"]\n')
    assert vocabulary.implied_by("canine") == ("domestic_dog", "wolf")
    assert vocabulary.aliases("female") == ("girl", "woman")


def test_entries_hold_everything_once(make: Make) -> None:
    vocabulary = make(listed=LIST, pack=PACK, rules='[tags]\nlore = ["mine"]\n[aliases]\nmoi = "mine"\nmale = "mine"\n')
    entries = list(vocabulary.entries())
    assert len(entries) == len({key(entry.name) for entry in entries}) == len(vocabulary)
    assert entries[0] == Entry("mammal", "species", 2000, False, ("mammalian", "ungulate"))
    assert Entry("mine", "lore", 0, False, ("moi", "male")) in entries
    assert Entry("fox", "species", 0, False, ("vulpine",)) in entries
    assert [entry.count for entry in entries] == sorted((entry.count for entry in entries), reverse=True)
    for entry in entries:
        found = vocabulary.find(entry.name)
        assert found is not None
        assert (found.name, found.category, found.count, found.deprecated) == entry[:4]
        for alias in entry.aliases:
            assert entry.name in [info.name for info in vocabulary.resolve(alias)]


def test_readers_of_several_threads_agree(make: Make) -> None:
    vocabulary = make(listed="".join(f'tag_{n},0,{n + 1},"alias_{n}"\n' for n in range(500)), implied=IMPLICATIONS)
    wrong: list[object] = []

    def read() -> None:
        for n in range(500):
            found, meant = vocabulary.find(f"tag {n}"), vocabulary.resolve(f"alias {n}")
            if found is None or found.count != n + 1 or meant != (found,):
                wrong.append((n, found, meant))
        if sum(1 for _ in vocabulary.entries()) != 500:
            wrong.append("entries")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_open_vocabulary_outlives_another_import(make: Make, tmp_path: Path) -> None:
    before = make(listed=LIST)
    after = make(listed="mammal,0,1,\n")
    mammal, renewed = before.find("mammal"), after.find("mammal")
    assert mammal and mammal.count == 2000 and renewed and renewed.count == 1


def test_a_blob_lasts_as_long_as_the_vocabulary_stays_the_same(make: Make) -> None:
    vocabulary = make(listed=LIST, pack=PACK)
    assert vocabulary.blob("index-1") is None
    vocabulary.put_blob("index-1", b"\0data")
    assert make(pack=PACK).blob("index-1") == b"\0data"
    assert make(pack=PACK + 'grey_fox = "fox"\n').blob("index-1") is None
    assert make(pack=PACK, rules='[tags]\ngeneral = ["x"]\n').blob("index-1") is None
    assert make(pack=PACK, listed="new,0,1,\n").blob("index-1") is None
    assert make(pack=PACK).blob("index-2") is None


def test_only_the_newest_blob_is_kept(make: Make, isolated: Path) -> None:
    make(pack=PACK).put_blob("index", b"old")
    make(pack="").put_blob("index", b"new")
    assert [path.read_bytes() for path in (isolated / "cache/vocabularies").glob("*.bin")] == [b"new"]


def test_a_blob_that_cannot_be_written_is_only_missed(make: Make, isolated: Path) -> None:
    (isolated / "cache").write_bytes(b"in the way")
    vocabulary = make(pack=PACK)
    vocabulary.put_blob("index", b"x")
    assert vocabulary.blob("index") is None


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ("[tags", "line 1"),
        ("[tag]\n", "tag"),
        ("tags = 3\n", "tags"),
        ('[tags]\nanimals = ["x"]\n', "tags.animals"),
        ('[tags]\ngeneral = "x"\n', "tags.general"),
        ("[tags]\ngeneral = [3]\n", "tags.general"),
        ('[tags]\ngeneral = ["a,b"]\n', "tags.general"),
        ('[tags]\ngeneral = ["a\\u001b[2J"]\n', "tags.general"),
        ('[tags]\ngeneral = [" "]\n', "tags.general"),
        ("[aliases]\ndog = 3\n", "aliases.dog"),
        ('[aliases]\ndog = "Dog"\n', "aliases.dog"),
        ("[aliases]\ndog = []\n", "aliases.dog"),
        ('[tags]\ngeneral = ["dog"]\n[aliases]\ndog = "hound"\n', "aliases.dog"),
        ("[implications]\ndog = {a = 1}\n", "implications.dog"),
    ],
)
def test_a_mistake_in_the_rules_is_told_with_file_and_key(make: Make, rules: str, named: str) -> None:
    with pytest.raises(LoratoryError) as caught:
        make(rules=rules)
    assert "rules/e621.toml" in caught.value.message and named in caught.value.message


def test_rules_that_are_no_text_are_told(make: Make, isolated: Path) -> None:
    make()
    (isolated / "config/rules/e621.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(LoratoryError, match=r"e621\.toml is not UTF-8"):
        open_vocabulary("e621")


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"\1" * 2000])
def test_a_damaged_database_is_told_with_the_way_out(isolated: Path, content: bytes) -> None:
    (isolated / "data/vocabularies").mkdir(parents=True)
    (isolated / "data/vocabularies/e621.sqlite").write_bytes(content)
    with pytest.raises(LoratoryError) as caught:
        open_vocabulary("e621").find("x")
    assert "e621.sqlite" in caught.value.message and "vocab remove e621" in caught.value.hint


def test_a_tag_of_another_site_is_told(tmp_path: Path) -> None:
    (tmp_path / "danbooru.csv").write_text("from_side_test,0,222000,\n", "utf-8")
    (tmp_path / "e621.csv").write_text("side_view_test,0,64000,\n", "utf-8")
    for name in ("danbooru.csv", "e621.csv"):
        import_files([tmp_path / name])
    told = other_sites("from side test", "e621")
    assert [(site, info.name, info.count) for site, info in told] == [("danbooru", "from_side_test", 222000)]
    assert other_sites("side_view_test", "e621") == ()
    # A newer import is seen, although the vocabularies are kept open.
    (tmp_path / "danbooru.csv").write_text("newcomer_test,0,3,\n", "utf-8")
    import_files([tmp_path / "danbooru.csv"])
    assert [info.name for _, info in other_sites("newcomer_test", "e621")] == ["newcomer_test"]


@pytest.mark.parametrize("site", SITES)
def test_a_pack_ships_for_every_site(site: str) -> None:
    path = packs.pack_path(site)  # pyright: ignore[reportArgumentType]
    knowledge = packs.parse_knowledge(path.read_bytes(), path, "pack")
    assert knowledge.size.tags
    vocabulary = open_vocabulary(site)  # pyright: ignore[reportArgumentType]
    assert all(vocabulary.find(info.name) for info in knowledge.tags.values())


def test_a_pack_is_parsed_once(make: Make, isolated: Path) -> None:
    first = make(pack=PACK)
    (kept,) = (isolated / "cache/vocabularies").iterdir()
    again = make(pack=PACK)
    assert list(again.entries()) == list(first.entries())
    assert again.implications("vulpine") == first.implications("vulpine")
    assert again.translate("fox") == "fox_girl"
    kept.write_text(kept.read_text().replace("fox", "wolf"))
    assert make(pack=PACK).find("wolf"), "it is read from there"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"[[3],{},{},{}]", b"[[],[],[],[]]", b"\xff"])
def test_a_damaged_copy_of_a_pack_is_made_again(make: Make, isolated: Path, content: bytes) -> None:
    make(pack=PACK)
    (kept,) = (isolated / "cache/vocabularies").iterdir()
    kept.write_bytes(content)
    assert make(pack=PACK).find("fox")
    assert kept.read_bytes() != content


def test_translations_work_both_ways(isolated: Path) -> None:
    assert open_vocabulary("e621").translate("side view") == "from_side"
    assert open_vocabulary("danbooru").translate("from side") == "side_view"
    assert open_vocabulary("natural").translate("from side") is None
    (isolated / "config/rules").mkdir(parents=True)
    (isolated / "config/rules/danbooru.toml").write_text('[translations]\nmy_name = "My_other_name"\n')
    assert open_vocabulary("e621").translate("my other name") == "my_name"
