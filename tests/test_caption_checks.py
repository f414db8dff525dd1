"""Findings about captions: every rule with captions that it speaks about, and ones near them that it does not."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratory.config.schema import CaptionSettings
from loratory.editing.checks.caption import check_caption, issues
from loratory.editing.checks.context import CheckContext, FolderTokens, clip_overflow, folder_tokens, readings
from loratory.editing.checks.dataset_wide import check_set
from loratory.editing.checks.finding import CaptionFinding, spelled_like
from loratory.editing.checks.near import among, known_names
from loratory.editing.checks.rules import PICTURE_RULES, RULES
from loratory.editing.items import Item
from loratory.paths import config_dir
from loratory.tags.vocabulary.packs import Knowledge, parse_knowledge
from loratory.tags.vocabulary.store import Vocabulary, open_vocabulary

PACK = """
[tags]
species = ["german_shepherd", "herding_dog", "domestic_dog", "canine", "canid", "vulpes", "rabbit"]
general = ["anthro", "feral", "blue_eyes", "side_view", "open_mouth", "white_background", "solo", "duo", "legs",
    "model_sheet", "sitting", "standing", "outside", "^_^", "black_and_white", "white", "hot_dog",
    "watercolor_(artwork)"]
artist = ["some_artist"]
deprecated = ["old_tag"]
[aliases]
dog = "domestic_dog"
reference_sheet = "model_sheet"
shepherd = ["german_shepherd", "herding_dog"]
[implications]
german_shepherd = ["herding_dog"]
herding_dog = ["domestic_dog"]
domestic_dog = ["canine"]
canine = ["canid"]
sitting = ["standing"]
standing = ["sitting"]
"""


def vocabulary(text: str = PACK, rules: str = "") -> Vocabulary:
    pack = parse_knowledge(text.encode(), Path("pack.toml"), "pack")
    return Vocabulary("e621", None, pack, parse_knowledge(rules.encode(), Path("rules.toml"), "rules"), "test")


class Listed(Vocabulary):
    """A vocabulary as it is after a full list was imported."""

    def known(self) -> bool:
        return True


def listed() -> Vocabulary:
    pack = parse_knowledge(PACK.encode(), Path("pack.toml"), "pack")
    return Listed("e621", None, pack, parse_knowledge(b"", Path("rules.toml"), "rules"), "listed")


def item(caption: str | bytes | None, name: str = "a.png", folder: str = "10_foxlora", *, is_reg: bool = False) -> Item:
    directory, stem = Path("/set") / folder, name.rpartition(".")[0]
    made = Item(directory, name, f"{stem}.txt", f"{folder}/{name}", folder.partition("_")[2], is_reg)
    made.data = caption.encode() if isinstance(caption, str) else caption
    return made


def context(items: Sequence[Item] = (), **known: Any) -> CheckContext:
    caption = CaptionSettings(**known.pop("caption", {}))
    known.setdefault("vocabulary", vocabulary())
    return CheckContext(caption=caption, **known).surveyed(items)


def said(caption: str | bytes | None, others: Sequence[str] = (), /, **known: Any) -> list[CaptionFinding]:
    """What is said of a caption. others: captions of the same folder."""
    first = item(caption)
    items = [first, *(item(text, f"{number}.png") for number, text in enumerate(others))]
    return check_caption(first, context(items, **known))


def rules(caption: str | bytes | None, others: Sequence[str] = (), /, **known: Any) -> set[str]:
    return {finding.rule for finding in said(caption, others, **known)}


def only(rule: str, findings: Sequence[CaptionFinding]) -> CaptionFinding:
    (finding,) = [finding for finding in findings if finding.rule == rule]
    return finding


def mended(caption: str, finding: CaptionFinding) -> str:
    fix = finding.automatic_fix
    assert fix is not None
    return fix.edit.apply(item(caption).caption).text


class Case(NamedTuple):
    """rule speaks of `caption`, mends it to `after` if that is given, and says nothing of `near`."""

    rule: str
    caption: str | bytes | None
    near: str | bytes | None
    after: str | None = None
    known: Mapping[str, Any] = MappingProxyType({})


T = "foxlora, anthro, "
CASES = [
    Case("implied", T + "german shepherd, canine", T + "german shepherd, rabbit", T + "german shepherd"),
    Case("implied", T + "canine, domestic_dog", T + "canine, hot dog", T + "domestic_dog"),
    Case("implied", T + "(canine:1.2), dog", T + "canine", T + "dog"),
    Case("redundant", T + "blue eyes, eyes", T + "blue eyes, red nose", T + "blue eyes"),
    Case("redundant", T + "legs, Spread_Legs", T + "legs, long legs (meme)", T + "Spread_Legs"),
    Case("redundant", T + "very long hair, long hair", T + "black and white, white", T + "very long hair"),
    Case("redundant", T + "eyes, closed eyes", T + "hot dog, dog"),
    Case("redundant", T + "sword, holding sword", T + "viewer, looking at viewer"),
    Case("redundant", T + "fox, arctic fox", T + "fox, fox (animal)"),
    Case("redundant", T + "bear, brown bear", T + "bear, toy bear"),
    Case("duplicate", T + "blue eyes, sitting, Blue_Eyes", T + "blue eyes, sitting", T + "blue eyes, sitting"),
    Case("alias", T + "reference sheet", T + "model sheet", T + "model sheet"),
    Case("alias", "foxlora,anthro,reference_sheet", "foxlora,anthro,model_sheet", "foxlora,anthro,model_sheet"),
    Case("deprecated", T + "old tag", T + "solo"),
    Case("typo", T + "wite background", T + "white background", T + "white background"),
    Case("typo", T + "oepn mouth", T + "blue mouth", T + "open mouth"),
    Case("typo", T + "whiet bakground", T + "white foreground", T + "white background", {"vocabulary": listed()}),
    Case("typo", T + "slide view", T + "side views of it", T + "side view", {"vocabulary": listed()}),
    Case("unknown", T + "xyzzy", T + "solo", None, {"vocabulary": listed()}),
    Case("spacing", T + "solo,, legs", T + "solo, legs", T + "solo, legs"),
    Case("spacing", T + "solo,", T + "solo", T + "solo"),
    Case("spacing", T + "blue  eyes", T + "blue eyes", T + "blue eyes"),
    Case("mixed-language", T + "a fox that sleeps under the old oak tree", T + "sleeping under an oak"),
    Case("mixed-language", T + "the fox is asleep.", T + "..."),
    Case("groups", T + "duo, side view", T + "duo, rabbit"),
    Case("instance-missing", "anthro, solo", "foxlora, solo", "foxlora, anthro, solo"),
    Case("instance-misplaced", "anthro, FoxLora, solo", "foxlora, anthro", "FoxLora, anthro, solo"),
    Case("few-tags", T + "solo", T + "solo, legs, side view"),
    Case("many-tags", ", ".join(f"tag {n}" for n in range(21)), ", ".join(f"tag {n}" for n in range(20))),
    Case("escaped-brackets", T + r"fox \(animal\)", T + "fox (animal)", T + "fox (animal)"),
    Case("weights", T + "(blue eyes:1.2)", T + "blue eyes"),
    Case("caption-lines", "foxlora\nanthro", "foxlora\n\n"),
    Case("caption-empty", " \n", "foxlora"),
    Case("caption-empty", " ,,\n", "foxlora,"),
    Case("caption-missing", None, "foxlora"),
    Case("caption-encoding", "foxlora, café".encode("cp1252"), "foxlora, café"),
    Case("caption-encoding", b"\xff\xfe" + "foxlora".encode("utf-16-le"), "foxlora"),
    Case("caption-bom", b"\xef\xbb\xbffoxlora", "foxlora"),
    Case("caption-nul", b"fox\0lora", "foxlora"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{str(case.caption)[-24:]!r}")
def test_rules_about_one_caption(case: Case) -> None:
    finding = next(finding for finding in said(case.caption, **case.known) if finding.rule == case.rule)
    assert case.rule not in rules(case.near, **case.known)
    assert finding.severity in RULES[case.rule].severities
    assert finding.item == "10_foxlora/a.png"
    assert finding.path == Path("/set/10_foxlora/a.txt")
    assert finding.message[0].isupper() or finding.message[0] in "“0123456789"
    assert finding.message.endswith((".", "?"))
    if case.after is not None:
        assert isinstance(case.caption, str)
        assert mended(case.caption, finding) == case.after


def test_the_shortest_path_is_the_reason_and_says_whose_rule_it_is() -> None:
    finding = only("implied", said(T + "german shepherd, canid"))
    path = "german shepherd → herding dog → domestic dog → canine → canid; starter pack"
    assert f"“canid” is implied by “german shepherd” ({path})" in finding.message
    assert finding.tags == ("canid", "german shepherd")
    shorter = vocabulary(rules='[implications]\ngerman_shepherd = ["canid"]')
    message = only("implied", said(T + "german shepherd, canid", vocabulary=shorter)).message
    assert "(german shepherd → canid; your rules)" in message


def test_of_two_tags_that_imply_each_other_the_first_stays() -> None:
    assert only("implied", said(T + "standing, sitting")).tags == ("sitting", "standing")
    assert only("implied", said(T + "sitting, standing")).tags == ("standing", "sitting")


def test_an_alias_that_is_implied_is_removed_and_not_renamed() -> None:
    assert rules(T + "german shepherd, dog") >= {"implied"}
    assert "alias" not in rules(T + "german shepherd, dog")
    assert "alias" in rules(T + "dog")


def test_instance_and_class_are_never_implied() -> None:
    others = ["foxlora, canine, german shepherd"] * 4
    assert "implied" not in rules("foxlora, canine, german shepherd", others)
    assert "implied" in rules("foxlora, feral, german shepherd, canine", ["foxlora, feral"] * 4)


def test_an_ambiguous_alias_is_a_choice() -> None:
    finding = only("alias", said(T + "shepherd"))
    assert finding.severity == "note"
    assert finding.automatic_fix is None
    assert {fix.label for fix in finding.fixes} == {"rename it to “german shepherd”", "rename it to “herding dog”"}


def test_a_weight_and_escapes_are_kept_by_a_new_name() -> None:
    assert spelled_like("model_sheet", "(reference sheet:1.2)", False) == "(model sheet:1.2)"
    assert spelled_like("watercolor_(artwork)", r"watercolor \(medium\)", False) == r"watercolor \(artwork\)"
    assert spelled_like("^_^", "^_~", False) == "^_^"
    assert spelled_like("model_sheet", "sheet", True) == "model_sheet"


def test_tags_of_the_other_site_are_translated() -> None:
    rules_folder = config_dir() / "rules"
    rules_folder.mkdir(parents=True)
    (rules_folder / "danbooru.toml").write_text(
        '[tags]\ngeneral = ["qq_from_side", "qq_lost"]\n[translations]\nqq_from_side = "side_view"\n'
    )
    finding = only("wrong-site", said(T + "qq from side"))
    assert "is a tag of Danbooru; on e621 it is “side view”" in finding.message
    assert mended(T + "qq from side", finding) == T + "side view"
    assert only("wrong-site", said(T + "qq lost", vocabulary=listed())).fixes == ()
    assert "wrong-site" not in rules(T + "qq lost")


def test_a_word_on_three_pictures_is_ones_own() -> None:
    own = T + "solo, ownword"
    assert "unknown" in rules(own, [own], vocabulary=listed())
    assert "unknown" not in rules(own, [own, own], vocabulary=listed())


def test_a_slip_beside_a_tag_of_many_pictures_is_found_without_a_list() -> None:
    finding = only("typo", said(T + "strange hta", [T + "strange hat"] * 3))
    assert "“strange hat”, which 3 pictures have" in finding.message
    assert mended(T + "strange hta", finding) == T + "strange hat"
    assert "typo" not in rules(T + "strange hta", [T + "strange hat"] * 2)


def test_a_small_pack_does_not_tell_slips_from_words_it_lacks() -> None:
    small = vocabulary('[tags]\ngeneral = ["red_skirt", "black_shirt", "side_view"]\n')
    assert "typo" not in rules(T + "red shirt", vocabulary=small)
    finding = only("typo", said(T + "red skrit", vocabulary=small))
    assert finding.severity == "note"
    assert finding.message == "“red skrit” is nearly “red skirt”, a tag of e621. Is it a mistake in writing?"
    assert "wrong-site" not in rules(T + "serafuku", vocabulary=small)
    assert "typo" not in rules(T + "red shirt", [T + "red skirt, blue shirt"] * 3, vocabulary=None)
    assert "typo" in rules(T + "red skrit", [T + "red skirt, blue shirt"] * 3, vocabulary=None)


def test_numbers_and_short_words_are_no_slips() -> None:
    names = among(["2girls", "fox", "anthro", "white background"])
    assert names.near("3girls") == []
    assert names.near("fix") == []
    assert names.near("nathro") == [("anthro", 1)]
    assert names.near("whte bckground") == [("white background", 2)]
    assert names.near("anthro") == []


def test_the_index_of_names_is_kept_between_runs() -> None:
    opened = open_vocabulary("natural")
    opened.put_blob("typos-1", b"6\ta\tanthro\tanthra")
    assert known_names(opened).near("anthrro") == [("anthro", 1)]


def test_two_tags_that_a_folder_names_are_the_first_two() -> None:
    first = item("outfit, vulpix, solo", folder="1_vulpix, outfit")
    found = check_caption(first, context([first]))
    assert {"instance-misplaced"} <= {finding.rule for finding in found}
    assert "class-misplaced" not in {finding.rule for finding in found}  # right once the instance is
    second = item("vulpix, solo, outfit", folder="1_vulpix, outfit")
    finding = only("class-misplaced", check_caption(second, context([second])))
    assert finding.severity == "warning"
    assert mended("vulpix, solo, outfit", finding) == "vulpix, outfit, solo"
    third = item("vulpix, solo", folder="1_vulpix, outfit")
    assert (
        mended("vulpix, solo", only("class-missing", check_caption(third, context([third])))) == "vulpix, outfit, solo"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", []),
        ("fox", [("fox", "")]),
        ("sks dog", [("sks dog", ""), ("sks", "dog")]),
        ("vulpix, outfit", [("vulpix", "outfit")]),
        ("a_b", [("a_b", ""), ("a", "b")]),
        (" ,", []),
        ("a|||b", []),
        ("a\nb", [("a", "b")]),
    ],
)
def test_readings_of_a_folders_name(name: str, expected: list[tuple[str, str]]) -> None:
    assert readings(name) == expected


def tokens(folder: str, *captions: str) -> FolderTokens:
    (found,) = folder_tokens([item(text, f"{n}.png", folder) for n, text in enumerate(captions)]).values()
    return found


def test_what_instance_and_class_are() -> None:
    assert tokens("3_sks dog", "sks, dog, solo", "sks, dog") == FolderTokens("sks", ("dog",), is_class_named=True)
    assert tokens("3_blue fox", "blue fox, anthro", "blue fox, solo").instance == "blue fox"
    assert tokens("3_fox", "anthro, solo").instance == "fox"
    assert tokens("3_fox", *["vulpix, feral, fox"] * 3) == FolderTokens("vulpix", ("feral",), named="fox")
    assert tokens("pictures", *["vulpix, feral"] * 3) == FolderTokens("vulpix", ("feral",))
    assert tokens("pictures", "a, b", "c, d", "e, f") == FolderTokens()
    mixed = tokens("3_fox", *["fox, anthro, a"] * 3, *["fox, feral, b"] * 2)
    assert mixed.classes == ("anthro", "feral")


def test_class_tokens_that_the_captions_agree_on() -> None:
    others = [T + "solo"] * 4
    finding = only("class-missing", said("foxlora, solo", others))
    assert finding.severity == "note"
    assert mended("foxlora, solo", finding) == T + "solo"
    assert mended("foxlora, solo, anthro", only("class-misplaced", said("foxlora, solo, anthro", others))) == T + "solo"
    assert not {"class-missing", "class-misplaced"} & rules(T + "legs", others)


def test_regularization_pictures_are_left_in_peace() -> None:
    reg = item("dog, dog, german shepherd, canine", is_reg=True)
    assert check_caption(reg, context([reg])) == []
    assert check_caption(item(None, is_reg=True), context()) == []
    assert issues(item(b"caf\xe9", is_reg=True), context()) == {"caption-encoding"}


def test_kept_tags_silence_a_rule_and_no_other() -> None:
    caption = T + "german shepherd, canine, dog"
    kept = {"implied": frozenset({"canine"})}
    assert [finding.tags[0] for finding in said(caption, kept=kept) if finding.rule == "implied"] == ["dog"]
    first = item(caption)
    known = context([first]).keeping({"implied": frozenset({"canine", "dog"})})
    assert "implied" not in issues(first, known)
    assert "implied" in issues(first, known.keeping({}))
    assert "few-tags" not in rules(T + "solo", kept={"few-tags": frozenset({"*"})})
    assert "implied" in rules(caption, kept={"redundant": frozenset({"*", "canine"})})


def test_the_words_of_an_instance_token_make_nothing_redundant() -> None:
    pictures = [item("sks red hat, hat, standing", f"{number}.png", "10_sks red hat") for number in range(3)]
    assert "redundant" not in issues(pictures[0], context(pictures))


def test_the_worst_comes_first() -> None:
    severities = [finding.severity for finding in said("eyes, blue eyes, blue eyes,, " + T)]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert len(set(severities)) == 2


def test_what_is_cut_off_is_shown() -> None:
    caption = T + ", ".join(["red hat"] * 30)
    finding = only("over-tokens", said(caption, overflow=clip_overflow(CaptionSettings())))
    assert "96 tokens, of which 75 are read: “red hat, " in finding.message
    assert "set caption.max_token_length = 150" in finding.message
    assert finding.tags == ("red hat",) * 7
    longer = {"max_token_length": 150}
    assert "over-tokens" not in rules(caption, caption=longer, overflow=clip_overflow(CaptionSettings(**longer)))


def test_brackets_with_weights_switched_on() -> None:
    on = {"weighted_captions": True}
    assert not {"escaped-brackets", "weights"} & rules(T + r"fox \(animal\), (blue eyes:1.2)", caption=on)
    finding = only("weights", said(T + "fox (animal)", caption=on))
    assert mended(T + "fox (animal)", finding) == T + r"fox \(animal\)"


def test_wildcards_have_every_line_read() -> None:
    caption = "foxlora, anthro, solo\nanthro, {blue|red} eyes, eyes, dog"
    assert "instance-missing" not in rules(caption)
    found = rules(caption, caption={"enable_wildcard": True})
    assert {"instance-missing", "alias"} <= found
    assert not {"caption-lines", "redundant"} & found


def test_captions_of_sentences() -> None:
    natural = {"style": "natural"}
    assert rules("A photo of foxlora, a dog that is a canine, canine", **natural) == set()
    assert rules("A photo of a brown dog.", **natural) == {"instance-missing"}
    assert rules("foxlora, anthro, solo, blue eyes, side view", **natural) == {"mixed-language"}


def test_files_that_a_trainer_takes_for_something_else() -> None:
    odd = item("foxlora", "a.Png")
    assert "extension-case" in issues(odd, context())
    assert "extension-case" not in issues(item("foxlora", "a.PNG"), context())
    odd.shared_with = ("10_foxlora/a.jpg",)
    assert "10_foxlora/a.jpg" in only("stem-clash", check_caption(odd, context())).message
    other_ending = only("caption-extension", said("foxlora", caption={"caption_extension": ".caption"}))
    assert "a.txt" in other_ending.message
    assert only("caption-missing", said(None)).severity == "note"
    no_token = item(None, folder="pictures")
    assert only("caption-missing", check_caption(no_token, context())).severity == "warning"
    unread = item("foxlora")
    unread.problem = "cannot be read (Permission denied)"
    assert only("caption-unreadable", check_caption(unread, context())).severity == "error"


def whole(captions: Sequence[str | None], folder: str = "10_foxlora", **known: Any) -> list[CaptionFinding]:
    items = [item(text, f"{number}.png", folder) for number, text in enumerate(captions)]
    return check_set(items, context(items, **known))


def words(count: int, start: int = 0) -> str:
    return ", ".join(f"word{chr(97 + number % 26)}{number // 26 * 'x'}" for number in range(start, start + count))


VARIED = [f"foxlora, anthro, {words(4, 4 * (n // 2))}" for n in range(12)]


class SetCase(NamedTuple):
    """rule speaks of a set of captions, and not of `near`."""

    rule: str
    captions: Sequence[str | None]
    near: Sequence[str | None]
    known: Mapping[str, Any] = MappingProxyType({})


SET_CASES = [
    SetCase("everywhere", [f"{caption}, nude" for caption in VARIED], [*(f"{c}, nude" for c in VARIED), VARIED[0]]),
    SetCase("concentration", [f"{caption}, some artist" for caption in VARIED[:7]] + VARIED[7:], [*VARIED]),
    SetCase("concentration", [f"{caption}, ink (medium)" for caption in VARIED[:7]] + VARIED[7:], [*VARIED]),
    SetCase("singleton", [*VARIED, VARIED[0] + ", lonely"], [*VARIED]),
    SetCase("single-tag", ["foxlora"] * 3, ["foxlora", "foxlora, anthro"]),
    SetCase("many-tags", [words(21)] * 3, [words(21), words(19)]),
    SetCase("few-tags", [words(4)] * 3, [words(4), words(6)]),
    SetCase("spelling", [T + "blue eyes", T + "blue_eyes", T + "blue eyes"], [T + "Blue eyes", T + "blue eyes"]),
    SetCase("folder-token", ["vulpix, anthro"] * 3, ["foxlora, anthro"] * 3),
    SetCase("class-missing", [f"foxlora, {words(3, 3 * n)}" for n in range(6)], [*VARIED]),
    SetCase("keep-tokens", VARIED[:], [], {"caption": {"shuffle_caption": True, "keep_tokens": 1}}),
    SetCase("keep-tokens", VARIED[:], [], {"caption": {"caption_tag_dropout_rate": 0.1, "keep_tokens": 4}}),
    SetCase("stem-fallback", [], []),
]


@pytest.mark.parametrize("case", SET_CASES[:-1], ids=lambda case: case.rule)
def test_rules_about_the_whole_set(case: SetCase) -> None:
    finding = only(case.rule, whole(case.captions, **case.known))
    assert finding.severity in RULES[case.rule].severities
    assert finding.item == ""
    assert finding.message.endswith(".")
    assert case.rule not in {finding.rule for finding in whole(case.near, **case.known)}


def test_keep_tokens_as_the_captions_need_it() -> None:
    right = {"shuffle_caption": True, "keep_tokens": 2}
    assert "keep-tokens" not in {finding.rule for finding in whole(VARIED, caption=right)}
    assert "keep-tokens" not in {finding.rule for finding in whole(VARIED, caption={"keep_tokens": 7})}


def test_a_well_known_instance_token() -> None:
    finding = only("instance-known", whole(["vulpes, anthro, solo"] * 3, "5_vulpes"))
    assert "such as “vlpslora”" in finding.message
    assert "instance-known" not in {finding.rule for finding in whole(VARIED)}
    assert "instance-known" not in {
        finding.rule for finding in whole(["vulpes, solo"], "5_vulpes", kept={"instance-known": frozenset({"vulpes"})})
    }


def test_a_style_may_be_the_same_everywhere() -> None:
    captions = [f"{caption}, some artist" for caption in VARIED[:7]] + VARIED[7:]
    assert "concentration" not in {finding.rule for finding in whole(captions, goal="style")}


def test_kept_tags_of_the_whole_set() -> None:
    captions = [f"{caption}, nude, standing" for caption in VARIED]
    assert only("everywhere", whole(captions)).tags == ("nude", "standing")
    assert only("everywhere", whole(captions, kept={"everywhere": frozenset({"nude"})})).tags == ("standing",)


def test_spellings_become_the_commonest_one() -> None:
    finding = only("spelling", whole([T + "blue eyes", T + "blue_eyes", T + "blue eyes", T + "Blue_eyes"]))
    fix = finding.automatic_fix
    assert fix is not None
    assert fix.scope == "dataset"
    assert fix.edit.apply(item(T + "blue_eyes").caption).text == T + "blue eyes"


def test_the_name_that_sd_scripts_falls_back_to() -> None:
    items = [item("foxlora, solo", "fox.png"), item(None, "fox_01_a_b_c.png"), item(None, "wolf_01.png")]
    finding = only("stem-fallback", check_set(items, context(items)))
    assert finding.item == "10_foxlora/fox_01_a_b_c.png"
    assert "fox.txt" in finding.message


def test_a_set_without_captions_has_no_findings_as_a_set() -> None:
    assert whole([None, None]) == []
    assert check_set([], context()) == []


def test_what_was_kept_in_memory_follows_the_dataset() -> None:
    own = item(T + "solo, legs, ownword")
    known = context([own], vocabulary=listed())
    assert "unknown" in issues(own, known)
    others = [item(T + "ownword", f"{n}.png") for n in range(2)]
    assert "unknown" not in issues(own, known.surveyed([own, *others]))
    own.data = b"anthro, legs, solo, side view, open mouth"
    assert "instance-missing" in issues(own, known)


class Counting(Vocabulary):
    """Counts how often it is asked."""

    asked = 0

    def find(self, tag: str) -> Any:
        self.asked += 1
        return super().find(tag)


def test_a_caption_that_was_seen_before_asks_nobody() -> None:
    counting = Counting("e621", None, parse_knowledge(PACK.encode(), Path("p"), "pack"), Knowledge(), "counting")
    items = [item(caption, f"{number}.png") for number, caption in enumerate(VARIED)]
    known = context(items, vocabulary=counting)
    first = [check_caption(each, known) for each in items]
    asked = counting.asked
    assert asked > 0
    assert [check_caption(each, known.surveyed(items)) for each in items] == first
    assert counting.asked == asked
    items[0].data = f"{VARIED[0]}, new word".encode()
    check_caption(items[0], known)
    assert counting.asked - asked <= 3  # the one tag that was not seen before


KNOWN = "German_Shepherd, dog, canine, canid, sitting, standing, (eyes:1.2), eyes, blue eyes, very blue eyes, solo, "
KNOWN += "reference sheet, model_sheet, fox \\(x\\), fox (x), foxlora, anthro, , opn mouth, oepn_mouth, two  gaps"


@given(st.lists(st.sampled_from(KNOWN.split(", ")), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_a_fix_ends_what_it_mends(tags: list[str]) -> None:
    one = item(", ".join(tags))
    known = context([one])
    for rule in {finding.rule for finding in check_caption(one, known)}:
        mending = item(one.caption.text)
        found = [finding for finding in check_caption(mending, known) if finding.rule == rule]
        edits = [finding.automatic_fix.edit for finding in found if finding.automatic_fix]
        for edit in edits:
            mending.data = edit.apply(mending.caption).text.encode()
        if edits:
            assert rule not in {finding.rule for finding in check_caption(mending, known) if finding.automatic_fix}


HOSTILE = [
    "[/b]",
    "[@click=app.quit]x",
    "[/",
    ":x:",
    "\x1b[31m",
    "a\u202eb",
    "\ud800".encode("utf-8", "replace").decode(),
]


@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20)), max_size=8), st.booleans())
@settings(max_examples=150, deadline=None)
def test_no_caption_breaks_anything(tags: list[str], wildcards: bool) -> None:
    data = ", ".join(tags).encode("utf-8", "replace")
    items = [item(data), item("\n".join(tags).encode("utf-8", "replace"), "b.png")]
    known = context(items, caption={"enable_wildcard": wildcards}, vocabulary=listed())
    found = [*check_set(items, known), *(finding for each in items for finding in check_caption(each, known))]
    for finding in found:
        assert finding.rule in RULES
        assert finding.message.isprintable()
        for fix in finding.fixes:
            fix.edit.apply(items[0].caption)


@pytest.mark.parametrize(
    "name", ["[/b]", "a|||b", "a\nb", "\x1b[31m", "\udcff", "a\u202eb", ":x:", " ", "(a", "a:1.2)"]
)
def test_no_folder_and_no_vocabulary_breaks_anything(name: str) -> None:
    folder = f"3_{name}"
    items = [item(text, f"{n}.png", folder) for n, text in enumerate(["solo, odd", None, "b, a, odd", "odd"])]
    toml = '[tags]\ngeneral = ["a|||b", "[/b]"]\n[aliases]\nodd = "a|||b"\nsolo = "[/b]"\n'
    known = context(items, vocabulary=vocabulary(toml))
    found = [*check_set(items, known), *(finding for each in items for finding in check_caption(each, known))]
    assert {"alias"} <= {finding.rule for finding in found}
    assert all(finding.message.isprintable() for finding in found)


def test_the_manual_lists_every_rule() -> None:
    script = Path(__file__).parents[1] / "scripts" / "findings_doc.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert done.returncode == 0, "run scripts/findings_doc.py"
    assert {case.rule for case in (*CASES, *SET_CASES)} | {
        *("class-misplaced", "instance-known", "over-tokens", "stem-clash", "extension-case", "caption-extension"),
        *("wrong-site", "caption-unreadable"),
    } == set(RULES) - PICTURE_RULES
