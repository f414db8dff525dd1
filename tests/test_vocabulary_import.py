"""Imports of lists, exports and pages: every format, every kind of dirt, and imports that are cut off."""

import gzip
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loratory.errors import LoratoryError
from loratory.tags.vocabulary import importing
from loratory.tags.vocabulary.importing import Imported, import_files, remove_vocabulary
from loratory.tags.vocabulary.model import CATEGORIES, Site
from loratory.tags.vocabulary.store import Vocabulary, open_vocabulary

TAGS = "id,name,category,post_count\n1,zz_wolf,5,900\n2,zz_solo,0,800\n3,zz_typo,0,0\n4,zz_lost,0,-2\n"
PAIRS = "id,antecedent_name,consequent_name,created_at,status\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def add(text: str | bytes, name: str = "e621.csv", site: Site | None = None, **options: bool | int) -> Imported:
    """Imports one file."""
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    _, (imported,) = import_files([Path(name)], site, **options)  # pyright: ignore[reportArgumentType]
    return imported


def refusal(text: str | bytes, name: str = "e621.csv", site: Site | None = None) -> LoratoryError:
    with pytest.raises(LoratoryError) as caught:
        add(text, name, site)
    return caught.value


def e621() -> Vocabulary:
    return open_vocabulary("e621")


def imported_names(site: Site = "e621") -> set[str]:
    """The names that were imported, without those of the starter pack."""
    vocabulary = open_vocabulary(site)
    return {entry.name for entry in vocabulary.entries() if vocabulary.find(entry.name).origin == "import"}  # pyright: ignore[reportOptionalMemberAccess]


def known(tag: str, site: Site = "e621") -> tuple[str, str, int]:
    found = open_vocabulary(site).find(tag)
    assert found is not None, tag
    return found.name, found.category, found.count


def test_a_tag_list_with_all_columns() -> None:
    one = add('zz_fox,5,12,"zz_vulpine,zz_v/x"\nzz_(a),4,3,\nzz_c:d,0,2,zz_e\n')
    assert (one.source.tags, one.source.aliases, one.tally.bad) == (3, 3, 0)
    assert known("zz fox") == ("zz_fox", "species", 12)
    assert known("zz_(a)") == ("zz_(a)", "character", 3)
    assert [info.name for info in e621().resolve("zz_v/x")] == ["zz_fox"]
    assert [info.name for info in e621().resolve("zz_e")] == ["zz_c:d"]


def test_a_tag_list_with_fewer_columns() -> None:
    add("zz_three,5,12\nzz_two,1\nzz_one\n\n  \nzz_words,species,7,\n")
    assert [known(f"zz_{name}")[1:] for name in ("three", "two", "one", "words")] == [
        ("species", 12),
        ("artist", 0),
        ("general", 0),
        ("species", 7),
    ]


def test_a_tag_list_with_free_text_in_place_of_the_count() -> None:
    one = add('zz_masterpiece,5,Quality tag,,\nzz_best,5,"Quality, very","zz_greatest"\n', site="danbooru")
    assert one.tally.bad == 0
    assert known("zz_masterpiece", "danbooru") == ("zz_masterpiece", "meta", 0)
    assert [info.name for info in open_vocabulary("danbooru").resolve("zz_greatest")] == ["zz_best"]


@pytest.mark.parametrize(
    ("site", "categories"),
    [
        ("e621", "general artist contributor copyright character species invalid meta lore"),
        ("danbooru", "general artist general copyright character meta general general general"),
    ],
)
def test_the_numbers_of_categories_are_the_sites_own(site: Site, categories: str) -> None:
    one = add("".join(f"zz_{number},{number},5,\n" for number in range(9)), site=site)
    assert [known(f"zz_{number}", site)[1] for number in range(9)] == categories.split()
    assert one.tally.unknown_categories == (0 if site == "e621" else 4)
    assert set(categories.split()) <= set(CATEGORIES)


def test_the_site_is_told_from_the_name_or_said() -> None:
    add("zz_a,0,1,\n", "my-Danbooru-list.csv")
    known("zz_a", "danbooru")
    assert "--site" in refusal("zz_a,0,1,\n", "tags.csv").hint
    assert "--site" in refusal("zz_a,0,1,\n", "danbooru_e621_merged.csv").hint
    assert add("zz_b,0,1,\n", "list.csv", "natural").source.tags == 1
    known("zz_b", "natural")


def test_files_of_two_sites_are_refused() -> None:
    for name in ("e621.csv", "danbooru.csv"):
        Path(name).write_text("zz_a,0,1,\n")
    with pytest.raises(LoratoryError, match="different sites"):
        import_files([Path("e621.csv"), Path("danbooru.csv")])


@pytest.mark.parametrize("packed", [False, True])
def test_exports_of_e621(packed: bool) -> None:
    aliases = PAIRS + (
        "1,zz_hound,zz_wolf,2020-01-01,active\n2,zz_dead,zz_wolf,2020,deleted\n3,zz_wolf,zz_wolf,2020,active\n"
        "4,zz_bad,invalid_tag,2020,active\n5,zz_mercury,zz_mercury_(disambiguation),2020,active\n"
        "6,zz_wait,zz_wolf,2020,pending\n"
    )
    implications = PAIRS + "1,zz_wolf,zz_solo,2020,active\n2,zz_solo,zz_gone,2020,retired\n"
    paths: list[Path] = []
    for name, text in (("tags", TAGS), ("tag_aliases", aliases), ("tag_implications", implications)):
        paths.append(Path(f"{name}-2026-01-31.csv" + (".gz" if packed else "")))
        paths[-1].write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    site, imported = import_files(paths)
    assert site == "e621"
    assert [one.tally.skipped.total() for one in imported] == [2, 5, 1]
    assert [one.tally.bad for one in imported] == [0, 0, 0]
    assert imported_names() == {"zz_wolf", "zz_solo"}
    assert known("zz_wolf") == ("zz_wolf", "species", 900)
    assert [info.name for info in e621().resolve("zz hound")] == ["zz_wolf"]
    assert not any(e621().resolve(tag) for tag in ("zz_dead", "zz_bad", "zz_mercury", "zz_wait"))
    assert set(e621().implications("zz_hound")) == {"zz solo"}


def test_a_packed_file_needs_no_telling_name() -> None:
    assert add(gzip.compress(b"zz_a,0,1,\n"), "e621 list").source.tags == 1


def test_pairs_need_a_name_that_says_what_they_are() -> None:
    assert "alias" in refusal(PAIRS + "1,a,b,2020,active\n", "dump.csv").hint


def test_the_columns_of_an_export_may_be_in_any_order() -> None:
    add("post_count,category,name,id\n5,3,zz_a,1\n", "tags.csv")
    assert known("zz_a") == ("zz_a", "copyright", 5)


PAGES = [
    [
        {"id": 9, "name": "zz_tree", "post_count": 70, "category": 0, "is_deprecated": False, "words": ["tree"]},
        {"id": 8, "name": "zz_old", "post_count": 60, "category": 0, "is_deprecated": True},
    ],
    [{"id": 7, "name": "zz_oak", "post_count": 50, "category": 4, "is_deprecated": False}],
    [],
]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(json.dumps, PAGES)),
        "\n".join(json.dumps(tag) for page in PAGES for tag in page),
        json.dumps(PAGES[0] + PAGES[1]),
        json.dumps(PAGES[0] + PAGES[1], indent=2),
        "[\n" + ",\n".join(json.dumps(tag) for tag in PAGES[0] + PAGES[1]) + "\n]\n",
    ],
    ids=["a page a line", "a tag a line", "one page", "indented", "a tag a line in brackets"],
)
def test_pages_of_danbooru(text: str) -> None:
    one = add(text, "danbooru_tags.json")
    assert (one.source.tags, one.tally.bad) == (3, 0)
    assert known("zz_oak", "danbooru") == ("zz_oak", "character", 50)
    old = open_vocabulary("danbooru").find("zz_old")
    assert old is not None and old.deprecated


def test_several_pages_and_pairs_of_danbooru_are_one_import() -> None:
    pairs = [{"id": 3, "antecedent_name": "zz_oak", "consequent_name": "zz_tree", "status": "active"}]
    other = [{"id": 4, "antecedent_name": "zz_plant", "consequent_name": "zz_tree", "status": "active"}]
    files = {
        "danbooru-tags-1.json": PAGES[0],
        "danbooru-tags-2.json": PAGES[1],
        "danbooru-tags-3.json": PAGES[2],
        "tag_implications.json": pairs,
        "tag_aliases.json": other,
    }
    for name, rows in files.items():
        Path(name).write_text(json.dumps(rows))
    import_files([Path(name) for name in files], "danbooru")
    vocabulary = open_vocabulary("danbooru")
    assert imported_names("danbooru") == {"zz_tree", "zz_old", "zz_oak"}
    assert set(vocabulary.implications("zz_oak")) == {"zz tree"}
    assert [info.name for info in vocabulary.resolve("zz_plant")] == ["zz_tree"]
    assert len(vocabulary.sources()) == 4, "an empty page is no source"


def test_rules_are_imported_too() -> None:
    one = add(
        '# mine\n[tags]\nspecies = ["zz_a"]\n[aliases]\nzz_b = "zz_a"\n[implications]\nzz_a = ["zz_c", "zz_d"]\n'
        '[translations]\nzz_a = "zz_e"\n',
        "e621-mine.txt",
    )
    assert (one.source.tags, one.source.aliases, one.source.implications) == (1, 1, 2)
    assert one.tally.skipped.total() == 1
    assert set(e621().implications("zz_b")) == {"zz c", "zz d"}


def test_a_mistake_in_rules_is_an_error_with_its_key() -> None:
    assert "tags.animal" in refusal('[tags]\nanimal = ["x"]\n', "e621.toml").message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"just words\nand more of them\n",
        b"root:x:0:0:root:/root:/bin/bash\n",
        b"<!DOCTYPE html><html><a,0,1,></html>",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"{}",
        b'{"a": 1}',
        b"[1, 2, 3]",
        b"[\n",
        b'[{"name": "zz"',
        b"name,color\nx,red\n",
        b"\xff\xfez\0z\0,\x000\0",
    ],
)
def test_what_is_none_of_the_formats_is_an_error_that_says_what_is_expected(content: bytes) -> None:
    assert "tag list" in refusal(content).hint
    assert not open_vocabulary("e621").known()


def test_a_file_that_is_not_there_or_no_file() -> None:
    with pytest.raises(LoratoryError, match="not there"):
        import_files([Path("missing.csv")], "e621")
    with pytest.raises(LoratoryError, match="no regular file"):
        import_files([Path()], "e621")


def test_hostile_rows_are_kept_or_refused_with_their_line() -> None:
    rows = [
        b"zz_good,0,1,",
        b"[/b],0,2,",
        b"[@click=app.quit]x,0,3,",
        b":x:,0,4,",
        b"zz\x1b[2J,0,5,",
        b"zz\0nul,0,6,",
        b"zz\xff\xfe,0,7,",
        b"z" * 100_000 + b",0,8,",
        b'"zz,comma",0,9,',
        b'"zz_open,0,10,',
        b",0,11,",
        b"zz_category,blue,12,",
        "\u202ezz_rtl,0,13,".encode(),
        "狐,0,14,".encode(),
        b'zz_aliases,0,15,"zz\x07,zz_fine,' + b"y" * 300 + b'"',
        b"zz_many,0,99999999999999999999999,",
        b"zz_negative,0,-5,",
    ]
    one = add(b"\r\n".join(rows))
    assert one.tally.bad == 10
    assert one.tally.first_bad[0] == "line 5: a control or damaged character in its name"
    assert len(one.tally.first_bad) == 5
    assert imported_names() == {"zz_good", "[/b]", "[@click=app.quit]x", ":x:", "\u202ezz_rtl", "狐"} | {
        "zz_aliases",
        "zz_many",
        "zz_negative",
    }
    assert e621().aliases("zz_aliases") == ("zz_fine",)
    assert known("zz_negative")[2] == 0


def test_bad_rows_of_exports_are_counted() -> None:
    one = add(TAGS + '5,zz_x\n6,zz_y,0,many\n7,zz_z,purple,5\n8,"zz,w",0,5\n', "tags.csv")
    assert (one.source.tags, one.tally.bad) == (2, 4)
    pairs = add(PAIRS + "1,a\n2,,b,2020,active\n3,zz_a,zz_b,2020,active\n", "tag_implications.csv")
    assert (pairs.source.implications, pairs.tally.bad) == (1, 2)


def test_bad_items_of_pages_are_counted() -> None:
    dirty = [
        {"name": "zz_fine", "post_count": 3, "category": 0},
        {"name": None, "post_count": 3, "category": 0},
        {"name": ["x"], "post_count": 3},
        {"name": "zz_x", "post_count": "x", "category": 0},
        {"name": "zz_z", "post_count": 3, "category": {"a": 1}},
        3,
        None,
    ]
    one = add(json.dumps(dirty) + "\n{broken\n", "danbooru.json")
    assert (one.source.tags, one.tally.bad) == (1, 7)


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    add(b"\xef\xbb\xbfzz_first,0,1,\n")
    known("zz_first")
    assert add(b"\xef\xbb\xbf" + TAGS.encode(), "tags.csv").source.format == "e621 tags"


def test_a_packed_file_that_was_cut_off_changes_nothing() -> None:
    add("zz_a,0,1,\n")
    rows = "".join(f"zz_{n * 7919},0,5,\n" for n in range(20_000))
    error = refusal(gzip.compress(rows.encode())[:-2000])
    assert "not received whole" in error.message
    assert imported_names() == {"zz_a"}


def test_a_later_import_adds_and_wins() -> None:
    add('zz_wolf,5,10,"zz_w"\nzz_solo,0,20,\n')
    add(PAIRS + "1,zz_wolf,zz_solo,2020,active\n", "tag_implications.csv")
    assert imported_names() == {"zz_wolf", "zz_solo"}
    add("zz_solo,7,30,\nzz_wolf,5,,\nzz_new,0,1,zz_w\n", "e621-more.csv")
    assert imported_names() == {"zz_wolf", "zz_solo", "zz_new"}
    assert known("zz_solo") == ("zz_solo", "meta", 30)
    assert known("zz_wolf")[2] == 10, "a count that is not told replaces none"
    assert [info.name for info in e621().resolve("zz_w")] == ["zz_new"]
    assert set(e621().implications("zz_wolf")) == {"zz solo"}


def test_the_sites_own_word_on_aliases_outranks_an_older_list() -> None:
    add("zz_wolf,5,10,\nzz_hound,5,5,\n")
    add(PAIRS + "1,zz_hound,zz_wolf,2020,active\n", "tag_aliases.csv")
    assert imported_names() == {"zz_wolf"}
    assert [info.name for info in e621().resolve("zz_hound")] == ["zz_wolf"]


def test_a_lists_aliases_do_not_unmake_tags() -> None:
    add("zz_wolf,5,10,\nzz_hound,5,5,\n")
    add("zz_wolf,5,10,zz_hound\n", "e621-mine.csv")
    assert imported_names() == {"zz_wolf", "zz_hound"}


def test_replace_drops_only_what_the_files_bring_again() -> None:
    add('zz_wolf,5,10,"zz_w"\nzz_solo,0,20,\n')
    add(PAIRS + "1,zz_wolf,zz_solo,2020,active\n", "tag_implications.csv")
    add(TAGS.replace("zz_solo", "zz_duo"), "tags.csv", replace=True)
    assert imported_names() == {"zz_wolf", "zz_duo"}
    assert [info.name for info in e621().resolve("zz_w")] == ["zz_wolf"]
    assert set(e621().implications("zz_wolf")) == {"zz solo"}


def test_rare_tags_can_be_left_out() -> None:
    one = add("zz_wolf,5,10,\nzz_solo,0,20,\n", min_posts=15)
    assert imported_names() == {"zz_solo"} and one.tally.skipped.total() == 1


def test_spellings_that_compare_equal_are_one_tag() -> None:
    one = add("zz_a_b,0,5,\nZZ_A_B,0,50,\nzz__a_b,0,1,\n")
    assert one.source.tags == 1 and known("zz a b") == ("ZZ_A_B", "general", 50)


def test_sources_tell_what_is_still_in_use() -> None:
    add("zz_a,0,5,zz_x\nzz_b,0,5,\n", "e621-1.csv")
    add("zz_b,0,6,\n", "e621-2.csv")
    assert [(source.file, source.tags, source.aliases) for source in e621().sources()] == [
        ("e621-1.csv", 1, 1),
        ("e621-2.csv", 1, 0),
    ]


def test_an_import_that_fails_on_its_way_changes_nothing(monkeypatch: pytest.MonkeyPatch, isolated: Path) -> None:
    add("zz_a,0,1,\n")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importing, "_settle", fail)
    with pytest.raises(OSError, match="No space"):
        add("zz_b,0,1,\n")
    assert imported_names() == {"zz_a"}
    assert sorted(path.name for path in (isolated / "data/vocabularies").iterdir()) == ["e621.lock", "e621.sqlite"]


def test_an_import_that_is_killed_leaves_the_old_one(isolated: Path) -> None:
    add("zz_a,0,1,\n")
    Path("e621-big.csv").write_text("".join(f"zz_{n},0,5,\n" for n in range(12_000)))
    script = (
        "import os, pathlib\n"
        "from loratory.tags.vocabulary.importing import import_files\n"
        "import_files([pathlib.Path('e621-big.csv')], progress=lambda *_: os.kill(os.getpid(), 9))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert killed.returncode == -signal.SIGKILL
    assert imported_names() == {"zz_a"}
    add("zz_c,0,1,\n")
    assert imported_names() == {"zz_a", "zz_c"}
    assert sorted(path.name for path in (isolated / "data/vocabularies").iterdir()) == ["e621.lock", "e621.sqlite"]


def test_two_imports_at_once_do_not_undo_each_other() -> None:
    Path("e621-a.csv").write_text("zz_a,0,1,\n")
    Path("e621-b.csv").write_text("zz_b,0,1,\n")
    refused: list[str] = []

    def meanwhile(*_: int) -> None:
        with pytest.raises(LoratoryError) as caught:
            import_files([Path("e621-b.csv")])
        refused.append(caught.value.message)

    import_files([Path("e621-a.csv")], progress=meanwhile)
    assert len(refused) == 1 and "at this moment" in refused[0]
    import_files([Path("e621-b.csv")])
    assert imported_names() == {"zz_a", "zz_b"}


def test_progress_reaches_the_end() -> None:
    Path("e621-1.csv").write_text("".join(f"zz_{n},0,5,\n" for n in range(11_000)))
    Path("e621-2.csv").write_text("zz_x,0,5,\n")
    told: list[tuple[int, int]] = []
    import_files([Path("e621-1.csv"), Path("e621-2.csv")], progress=lambda *now: told.append(now))
    total = sum(Path(f"e621-{n}.csv").stat().st_size for n in (1, 2))
    assert told == sorted(told) and len(told) == 4 and told[-1] == (total, total)


def test_a_vocabulary_is_removed() -> None:
    assert not remove_vocabulary("e621")
    add("zz_a,0,1,\n")
    assert remove_vocabulary("e621")
    assert not e621().known()


def test_a_database_of_another_version_is_not_touched(isolated: Path) -> None:
    add("zz_a,0,1,\n")
    path = isolated / "data/vocabularies/e621.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    assert "another version" in refusal("zz_b,0,1,\n").message
    assert path.read_bytes() == before
    with pytest.raises(LoratoryError, match="another version"):
        e621()


def test_a_damaged_database_is_not_built_upon(isolated: Path) -> None:
    (isolated / "data/vocabularies").mkdir(parents=True)
    (isolated / "data/vocabularies/e621.sqlite").write_bytes(b"no database at all")
    assert "vocab remove e621" in refusal("zz_b,0,1,\n").hint


_PIECES = st.one_of(
    st.sampled_from([*',"\n\r\0\x1b[]{}:1- _é\udc80', "zz", "general = ", "[tags]", "active", "status"]),
    st.sampled_from(["id", "name", "category", "post_count", "antecedent_name", "consequent_name"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_PIECES, max_size=60).map("".join), st.sampled_from(["e621.csv", "tag_aliases.json", "e621.toml"]))
def test_no_content_breaks_an_import(text: str, name: str) -> None:
    with suppress(LoratoryError):
        add(text.encode("utf-8", "surrogateescape"), name, "e621")
    assert e621().find("zz_nothing") is None
