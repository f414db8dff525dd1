"""`loratory vocab`: what it prints, where, and how it fails."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loratory.cli.vocab import vocab
from loratory.errors import FAILED, WRONG_USE, LoratoryError

LIST = """zz_wolf,5,900,"zz_hound,zz_lupine"
zz_canine,5,1500,
[/b],0,3,:x:
zz_one,0,2,zz_either
zz_two,0,1,zz_either
"""
IMPLICATIONS = """id,antecedent_name,consequent_name,created_at,status
1,zz_wolf,zz_canine,2020,active
2,zz_canine,zz_animal,2020,active
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("e621.csv").write_text(LIST)
    Path("tag_implications.csv").write_text(IMPLICATIONS)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(vocab, arguments)


def refusal(*arguments: str) -> LoratoryError:
    error = run(*arguments).exception
    assert isinstance(error, LoratoryError)
    return error


def test_add_tells_on_stderr_what_became_of_each_file() -> None:
    result = run("add", "e621.csv", "tag_implications.csv")
    assert result.exit_code == 0 and result.stdout == ""
    assert "e621: 5 tags, 5 aliases from e621.csv (tag list)." in result.stderr
    assert "e621: 2 implications from tag_implications.csv (e621 tag implications)." in result.stderr


def test_add_tells_what_was_not_taken() -> None:
    Path("e621.csv").write_text("zz_a,0,1,\nzz\x1b]0;title\x07,0,1,\n" + "zz,blue,1,\n" * 9)
    Path("tags.csv").write_text("id,name,category,post_count\n1,zz_b,0,0\n2,zz_c,11,1\n")
    said = run("add", "e621.csv", "tags.csv").stderr
    assert "10 rows could not be used: line 2: a control or damaged character in its name; line 3: “blue”" in said
    assert "1 left out: used by no post" in said
    assert "1 of a category unknown to e621, taken as general" in said
    assert "\x1b" not in said


def test_add_without_a_site_asks_for_it() -> None:
    Path("tags.csv").write_text(LIST)
    error = refusal("add", "tags.csv")
    assert "--site" in error.hint and error.exit_code == WRONG_USE
    assert run("add", "tags.csv", "--site", "danbooru").exit_code == 0


def test_add_replaces_and_leaves_out_when_told_to() -> None:
    run("add", "e621.csv")
    Path("e621.csv").write_text("zz_new,0,50,\nzz_rare,0,5,\n")
    run("add", "e621.csv", "--replace", "--min-posts", "10")
    assert json.loads(run("list", "--json").stdout)[0]["tags"] == 1


def test_list_names_every_site_with_its_sources() -> None:
    run("add", "e621.csv")
    run("add", "tag_implications.csv")
    lines = run("list").stdout.splitlines()
    assert lines[0] == "e621: 5 tags, 5 aliases, 2 implications imported"
    assert lines[1].endswith("  e621.csv (tag list): 5 tags, 5 aliases")
    assert lines[2].endswith("  tag_implications.csv (e621 tag implications): 2 implications")
    assert "danbooru: nothing imported" in lines and "natural: nothing imported" in lines


def test_list_tells_the_persons_rules(isolated: Path) -> None:
    (isolated / "config/rules").mkdir(parents=True)
    (isolated / "config/rules/natural.toml").write_text('[implications]\nzz_legs = ["zz_body"]\n')
    assert run("list").stdout.splitlines()[-1].endswith("natural.toml: 1 implication")
    told = json.loads(run("list", "--json").stdout)[2]["rules"]
    assert told["implications"] == 1 and told["path"].endswith("rules/natural.toml")


def test_list_as_json() -> None:
    run("add", "e621.csv")
    e621, danbooru, natural = json.loads(run("list", "--json").stdout)
    assert (e621["site"], e621["tags"], e621["aliases"], e621["implications"]) == ("e621", 5, 5, 0)
    (source,) = e621["sources"]
    assert source["file"] == "e621.csv" and source["added"].endswith("+00:00")
    assert danbooru["sources"] == natural["sources"] == [] and natural["rules"] is None
    assert set(danbooru["starter_pack"]) == {"tags", "aliases", "implications"}


def test_show_tells_everything_of_a_tag() -> None:
    run("add", "e621.csv", "tag_implications.csv")
    assert run("show", "zz wolf").stdout.splitlines() == [
        "e621: zz_wolf (species, 900 posts)",
        "    other names: zz_hound, zz_lupine",
        "    implies zz_canine: zz_wolf → zz_canine",
        "    implies zz_animal: zz_wolf → zz_canine → zz_animal",
    ]
    assert "    implied by: zz_wolf" in run("show", "zz_canine", "--site", "e621").stdout.splitlines()


def test_show_resolves_an_alias() -> None:
    run("add", "e621.csv", "tag_implications.csv")
    lines = run("show", "ZZ_Hound").stdout.splitlines()
    assert lines[0] == "e621: ZZ_Hound stands for zz_wolf (species, 900 posts)"
    assert lines[2] == "    implies zz_canine: zz_wolf → zz_canine"
    assert run("show", "zz_either").stdout == (
        "e621: zz_either stands for zz_one (general, 2 posts) or zz_two (general, 1 post)\n"
    )


def test_show_knows_what_only_implications_name() -> None:
    run("add", "e621.csv", "tag_implications.csv")
    assert run("show", "zz animal").stdout == "e621: zz animal, in no list\n    implied by: zz_canine\n"


def test_show_as_json() -> None:
    run("add", "e621.csv", "tag_implications.csv")
    (told,) = json.loads(run("show", "zz_hound", "--json").stdout)
    assert told["canonical"] is None and told["alias_of"][0]["name"] == "zz_wolf"
    assert told["implies"][1] == {"path": ["zz_wolf", "zz_canine", "zz_animal"], "origin": "import"}
    (told,) = json.loads(run("show", "zz_canine", "--json").stdout)
    assert told["canonical"] == {
        "name": "zz_canine",
        "category": "species",
        "count": 1500,
        "deprecated": False,
        "origin": "import",
    }
    assert told["implied_by"] == ["zz_wolf"] and told["alias_of"] == []


def test_show_prints_hostile_tags_as_they_are() -> None:
    run("add", "e621.csv")
    assert run("show", "[/b]").stdout.startswith("e621: [/b] (general, 3 posts)\n    other names: :x:\n")
    result = run("show", "\x1b[2J\n")
    assert isinstance(result.exception, LoratoryError)


def test_show_of_an_unknown_tag_fails() -> None:
    error = refusal("show", "zz_nothing")
    assert error.exit_code == FAILED and "vocab add" in error.hint
    run("add", "e621.csv")
    assert "not known for any site" in refusal("show", "zz_nothing").message
    assert "not known for danbooru" in refusal("show", "zz_wolf", "--site", "danbooru").message


def test_show_tells_where_the_persons_own_word_is(isolated: Path) -> None:
    (isolated / "config/rules").mkdir(parents=True)
    (isolated / "config/rules/e621.toml").write_text(
        '[tags]\nlore = ["zz_mine"]\ndeprecated = ["zz_mine"]\n[implications]\nzz_mine = ["zz_canine"]\n'
        '[translations]\nzz_mine = "zz_theirs"\n'
    )
    assert run("show", "zz_mine").stdout.splitlines() == [
        "e621: zz_mine (lore, deprecated, from your rules)",
        "    implies zz_canine: zz_mine → zz_canine (your rules)",
        "    on the other site: zz_theirs",
    ]


def test_long_lists_of_names_are_cut() -> None:
    Path("tag_implications.csv").write_text(
        "id,antecedent_name,consequent_name,status\n" + "".join(f"{n},zz_{n},zz_canine,active\n" for n in range(50))
    )
    run("add", "e621.csv", "tag_implications.csv")
    assert run("show", "zz_canine").stdout.rstrip().endswith("and 10 more")
    assert len(json.loads(run("show", "zz_canine", "--json").stdout)[0]["implied_by"]) == 50


def test_remove_takes_what_was_imported() -> None:
    run("add", "e621.csv")
    assert run("remove", "e621").exit_code == 0
    assert run("list").stdout.startswith("e621: nothing imported")
    assert "Nothing was imported" in refusal("remove", "e621").message


def test_a_mistake_in_the_rules_is_one_sentence(isolated: Path) -> None:
    (isolated / "config/rules").mkdir(parents=True)
    (isolated / "config/rules/e621.toml").write_text("[implications]\ndog = 3\n")
    assert "implications.dog" in refusal("list").message
