"""The starter packs: what they hold, and that no entry contradicts another."""

import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import loratory

PACKS = Path(loratory.__file__).parent / "tags" / "vocabulary" / "packs"
SITES = ("e621", "danbooru", "natural")
BOORUS = ("e621", "danbooru")
CATEGORIES = {"general", "artist", "copyright", "character", "species", "meta", "lore", "deprecated"}
TABLES = {"tags", "aliases", "implications", "translations"}


@cache
def pack(site: str) -> dict[str, Any]:
    return tomllib.loads((PACKS / f"{site}.toml").read_text(encoding="utf-8"))


def tags(site: str) -> list[str]:
    """Every name of [tags], category after category."""
    return [name for names in pack(site)["tags"].values() for name in names]


def closure(site: str, name: str) -> set[str]:
    """All names that `name` implies, near and far."""
    edges: dict[str, list[str]] = pack(site)["implications"]
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for general in edges.get(waiting.pop(), ()):
            if general not in found:
                found.add(general)
                waiting.append(general)
    return found


def folded(name: str) -> str:
    """The name as a caption may hold it: spaces for underscores, any case."""
    return " ".join(name.replace("_", " ").split()).casefold() or name


def resolved(site: str, typed: str) -> str:
    """The canonical name for words typed with spaces, through the aliases."""
    name = typed.replace(" ", "_") if site in BOORUS else typed
    return pack(site)["aliases"].get(name, name)


@pytest.mark.parametrize("site", SITES)
def test_begins_by_saying_what_it_is_and_how_to_get_more(site: str) -> None:
    head = (PACKS / f"{site}.toml").read_text(encoding="utf-8").split("[tags]")[0]
    assert "Hand-written" in head
    assert "`loratory vocab add FILE`" in head


@pytest.mark.parametrize("site", SITES)
def test_tables_and_categories_are_known(site: str) -> None:
    assert set(pack(site)) <= TABLES
    assert set(pack(site)["tags"]) <= CATEGORIES


@pytest.mark.parametrize(
    ("site", "least_tags", "least_aliases", "least_edges"),
    [("e621", 900, 200, 400), ("danbooru", 900, 200, 400), ("natural", 150, 20, 100)],
)
def test_is_large_enough_to_be_of_use(site: str, least_tags: int, least_aliases: int, least_edges: int) -> None:
    assert len(tags(site)) >= least_tags
    assert len(pack(site)["aliases"]) >= least_aliases
    assert sum(map(len, pack(site)["implications"].values())) >= least_edges


@pytest.mark.parametrize("site", SITES)
def test_every_name_used_is_a_tag(site: str) -> None:
    known = set(tags(site))
    used = {*pack(site)["aliases"].values(), *pack(site)["implications"], *pack(site).get("translations", ())}
    used |= {general for generals in pack(site)["implications"].values() for general in generals}
    assert used - known == set()


@pytest.mark.parametrize("site", SITES)
def test_no_name_stands_twice(site: str) -> None:
    names = [folded(name) for name in tags(site)]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("site", SITES)
def test_no_alias_is_a_canonical_name_or_another_alias(site: str) -> None:
    aliases = [folded(alias) for alias in pack(site)["aliases"]]
    assert {folded(name) for name in tags(site)} & set(aliases) == set()
    assert sorted({alias for alias in aliases if aliases.count(alias) > 1}) == []


@pytest.mark.parametrize("site", BOORUS)
def test_names_are_written_as_the_sites_write_them(site: str) -> None:
    names = [*tags(site), *pack(site)["aliases"]]
    assert [name for name in names if "," in name or name != name.lower() or name.split() != [name]] == []


def test_plain_words_are_written_with_spaces() -> None:
    names = [*tags("natural"), *pack("natural")["aliases"]]
    assert [name for name in names if "," in name or "_" in name or name != folded(name)] == []


@pytest.mark.parametrize("site", SITES)
def test_implications_hold_no_cycle(site: str) -> None:
    TopologicalSorter(pack(site)["implications"]).prepare()  # raises CycleError


@pytest.mark.parametrize("site", SITES)
def test_implications_are_direct_ones_only(site: str) -> None:
    edges: dict[str, list[str]] = pack(site)["implications"]
    redundant = [
        (specific, general)
        for specific, generals in edges.items()
        for general in generals
        if any(general in closure(site, other) for other in generals if other != general)
    ]
    assert redundant == []
    assert [specific for specific, generals in edges.items() if len(set(generals)) != len(generals)] == []


def test_translations_pair_one_name_with_one_other_name() -> None:
    translations: dict[str, str] = pack("e621")["translations"]
    assert len(translations) >= 150
    assert set(translations.values()) <= set(tags("danbooru"))
    assert [name for name, other in translations.items() if name == other] == []
    others = list(translations.values())
    assert sorted({other for other in others if others.count(other) > 1}) == []


def test_a_german_shepherd_is_a_dog_on_e621() -> None:
    chain = ["german_shepherd", "herding_dog", "pastoral_dog", "domestic_dog", "canis", "canine", "canid", "mammal"]
    edges = pack("e621")["implications"]
    assert [edges[specific] for specific in chain[:-1]] == [[general] for general in chain[1:]]
    assert resolved("e621", "dog") == "domestic_dog"


@pytest.mark.parametrize(
    ("site", "specific", "general"),
    [
        ("e621", "spread_legs", "spreading"),
        ("e621", "shirt", "clothing"),
        ("e621", "boots", "clothing"),
        ("e621", "white_background", "simple_background"),
        ("e621", "three-quarter_portrait", "portrait"),
        ("e621", "full-length_portrait", "portrait"),
        ("e621", "greyscale", "monochrome"),
        ("e621", "watercolor_(artwork)", "traditional_media_(artwork)"),
        ("e621", "mizutsune", "monster_hunter"),
        ("e621", "absurd_res", "hi_res"),
        ("e621", "hyper_breasts", "breasts"),
        ("danbooru", "serafuku", "school_uniform"),
        ("danbooru", "fox_ears", "animal_ears"),
        ("danbooru", "thigh_boots", "boots"),
        ("danbooru", "absurdly_long_hair", "long_hair"),
        ("danbooru", "2girls", "multiple_girls"),
        ("danbooru", "watercolor_(medium)", "traditional_media"),
        ("danbooru", "absurdres", "highres"),
        ("danbooru", "greyscale", "monochrome"),
        ("natural", "german shepherd", "dog"),
        ("natural", "close-up portrait", "portrait"),
        ("natural", "oak tree", "tree"),
    ],
)
def test_the_specific_implies_the_general(site: str, specific: str, general: str) -> None:
    assert general in closure(site, specific)
    assert specific not in closure(site, general)


@pytest.mark.parametrize(
    ("site", "typed", "canonical"),
    [
        ("e621", "1girl", "female"),
        ("e621", "reference sheet", "model_sheet"),
        ("e621", "multiple views", "multiple_angles"),
        ("e621", "from side", "side_view"),
        ("e621", "highres", "hi_res"),
        ("danbooru", "side view", "from_side"),
        ("danbooru", "male", "male_focus"),
        ("danbooru", "anthro", "furry"),
        ("danbooru", "hi res", "highres"),
        ("natural", "photo", "photograph"),
    ],
)
def test_what_people_type_leads_to_the_name(site: str, typed: str, canonical: str) -> None:
    assert resolved(site, typed) == canonical


@pytest.mark.parametrize(
    "caption",
    [
        "mizutsune, feral, blue eyes, bubbles, side view, action pose, open mouth, looking back, white background",
        "human, male, black hair, brown eyes, dark skin, three-quarter view, full-length portrait, skirt, pants",
    ],
)
def test_a_well_tagged_caption_is_known_and_holds_nothing_implied(caption: str) -> None:
    names = [resolved("e621", tag) for tag in caption.split(", ")]
    assert [name for name in names if name not in tags("e621")] == []
    assert [(name, general) for name in names for general in closure("e621", name) if general in names] == []


def test_class_words_and_quality_words_of_the_method_are_known() -> None:
    wanted = [
        "anthro",
        "feral",
        "human",
        "weapon",
        "nude",
        "sketch",
        "colored_sketch",
        "monochrome",
        "greyscale",
        "low_res",
    ]
    assert [name for name in wanted if name not in tags("e621")] == []
    assert [
        name for name in ("nude", "sketch", "monochrome", "greyscale", "lowres") if name not in tags("danbooru")
    ] == []


def test_the_sites_names_for_one_view_are_translations_of_each_other() -> None:
    translations = pack("e621")["translations"]
    assert translations["side_view"] == "from_side"
    assert translations["model_sheet"] == "reference_sheet"
    assert translations["hi_res"] == "highres"
    assert "female" not in translations
