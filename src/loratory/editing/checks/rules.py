"""Everything that `loratory check` looks for: ids, severities and what to do, for the list and the manual."""

from loratory.dataset.findings import Severity
from loratory.editing.checks.picture_rules import PICTURE_SECTIONS
from loratory.editing.checks.rule import Rule

_WARNING: tuple[Severity, ...] = ("warning",)
_NOTE: tuple[Severity, ...] = ("note",)

_TAGS = (
    Rule(
        "implied",
        _WARNING,
        "another tag of the caption implies this one, by an imported list, the starter pack or your rules",
        "what is learnt spreads over both, which weakens it",
        "remove the general tag; keep it where it is meant",
    ),
    Rule(
        "redundant",
        _NOTE,
        "the words of a tag end another one, as “eyes” ends “blue eyes”",
        "the longer tag says it with more detail; no list knows it, so it is only a hint",
        "remove the shorter tag, or keep it where it means something else",
    ),
    Rule("duplicate", _WARNING, "a tag is there more than once", "copies take up tokens", "remove all but the first"),
    Rule(
        "alias",
        ("warning", "note"),
        "the site has another name for the tag; a note where it can mean several",
        "models were trained on the site's own name",
        "rename it; where it is ambiguous, choose",
    ),
    Rule(
        "deprecated",
        _WARNING,
        "the tag is deprecated or invalid on the site",
        "models know little that is certain about it",
        "say what is to be seen in other tags",
    ),
    Rule(
        "wrong-site",
        _WARNING,
        "the tag exists on the other booru only",
        "a model trained on this site's tags does not know the word",
        "rename it to what this site calls it, where that is known",
    ),
    Rule(
        "typo",
        ("warning", "note"),
        "an imported list lacks the tag, and one letter (two in long tags) makes it a known one; a note where only the "
        "starter pack or the tags of many pictures tell",
        "a mistyped tag is another word to the model",
        "rename it here or everywhere",
    ),
    Rule(
        "unknown",
        _NOTE,
        "an imported list lacks the tag, and fewer than three pictures have it",
        "the model does not know the word; on three pictures or more it is taken for one of your own",
        "look for the usual name, or keep it",
    ),
    Rule(
        "spelling",
        _WARNING,
        "a tag is written now with spaces, now with underscores or escaped brackets",
        "a text encoder reads different words",
        "write it the way most captions do",
    ),
    Rule(
        "spacing",
        _NOTE,
        "there is nothing between two commas, or several spaces in a row",
        "empty tags are trained as such",
        "tidy commas and spaces",
    ),
    Rule(
        "mixed-language",
        _NOTE,
        "a sentence stands among tags, or a list of tags among sentences",
        "models understand the language they were trained on",
        "say it as the other captions do",
    ),
    Rule(
        "groups",
        _NOTE,
        "a tag says that there are several subjects, and no other names another one",
        "what belongs to the others may be learnt as the instance's",
        "tag the others too, or crop them out",
    ),
)

_INSTANCE = (
    Rule(
        "instance-missing",
        _WARNING,
        "the instance token of the folder is not in the caption",
        "the picture does not teach the instance",
        "add it in front",
    ),
    Rule(
        "instance-misplaced",
        _WARNING,
        "the instance token is not the first tag",
        "shuffling and tag dropout spare the first tags only",
        "move it to the front",
    ),
    Rule(
        "class-missing",
        ("note", "warning"),
        "the second tag is no class token; a warning where the folder's name asks for one",
        "a general word for what the instance is helps to learn it",
        "add it in second place",
    ),
    Rule(
        "class-misplaced",
        ("note", "warning"),
        "the class token is not the second tag; a warning where the folder's name asks for it",
        "shuffling and tag dropout spare the first tags only",
        "move it to second place",
    ),
    Rule(
        "instance-known",
        _NOTE,
        "the instance token is a tag that many posts of the site have",
        "the model's own idea of the word mixes with what is learnt",
        "take an unusual string, if the results show it",
    ),
    Rule(
        "folder-token",
        _NOTE,
        "the captions of a folder agree on another first tag than its name says",
        "pictures without a caption are trained on the folder's name",
        "rename the folder, or the tag",
    ),
    Rule(
        "keep-tokens",
        ("warning", "note"),
        "tags are shuffled or dropped, and keep_tokens holds fewer or more than instance and class",
        "an instance token that moves is learnt less well; a tag too many that stays is learnt as part of it",
        "set caption.keep_tokens to 1, or to 2 with a class token",
    ),
)

_AMOUNT = (
    Rule(
        "few-tags",
        _NOTE,
        "fewer than 5 tags, in a caption or on average",
        "what is not tagged is learnt as part of the instance",
        "tag the key elements",
    ),
    Rule(
        "many-tags",
        ("note", "warning"),
        "more than 20 tags in a caption; a warning where that is the average",
        "what is learnt spreads thinly over so many",
        "keep the key elements",
    ),
    Rule(
        "single-tag",
        _WARNING,
        "each caption is one tag",
        "subject, poses and backgrounds all melt into it",
        "tag what is to be told apart",
    ),
    Rule(
        "everywhere",
        _NOTE,
        "a tag other than instance and class is on all captions of a folder",
        "it cannot be told from the instance",
        "leave it out, or add pictures without it; fine where that is meant",
    ),
    Rule(
        "concentration",
        _NOTE,
        "an artist, a medium or a style is on more than half of the set (not said of a style)",
        "results lean to that look unasked",
        "keep the tag, and add other pictures or a regularization set",
    ),
    Rule(
        "singleton",
        _NOTE,
        "tags are on a single picture each",
        "that is too little to be learnt by",
        "look for slips among them; fine for what only that picture shows",
    ),
)

_READ = (
    Rule(
        "over-tokens",
        _WARNING,
        "the caption has more tokens than the text encoder reads",
        "what lies beyond is cut off",
        "take out tags, or raise caption.max_token_length",
    ),
    Rule(
        "escaped-brackets",
        _WARNING,
        "a tag holds \\( or \\), as prompts need them",
        "a trainer reads the backslashes as text (not with weighted_captions, where this is silent)",
        "write plain brackets",
    ),
    Rule(
        "weights",
        ("warning", "note"),
        "a weight such as (tag:1.2) without weighted_captions, or plain brackets with it",
        "the one is read as text, the other as an emphasis",
        "take the weight out; escape brackets that belong to a name",
    ),
    Rule(
        "caption-lines",
        _WARNING,
        "the caption has several lines",
        "only the first is trained without enable_wildcard",
        "join them, or set caption.enable_wildcard",
    ),
    Rule(
        "caption-empty",
        _WARNING,
        "the caption file is empty",
        "the picture is trained without text; sd-scripts stops",
        "write its tags, or delete the file",
    ),
    Rule(
        "caption-missing",
        ("note", "warning"),
        "the picture has no caption file; a warning where the folder's name gives no token either",
        "it is trained on the folder's name",
        "write its tags",
    ),
    Rule(
        "caption-extension",
        _WARNING,
        "the caption file has another ending than caption_extension",
        "the trainer does not read it",
        "rename the file, or set caption.caption_extension",
    ),
    Rule(
        "caption-encoding",
        _WARNING,
        "the caption file is not UTF-8",
        "accented letters may be misread; sd-scripts stops",
        "save it as UTF-8",
    ),
    Rule(
        "caption-bom",
        _NOTE,
        "the caption file begins with a byte-order mark",
        "sd-scripts takes it for part of the first tag",
        "save it as plain UTF-8",
    ),
    Rule("caption-nul", ("error",), "the caption file has NUL bytes", "it is no text file", "write the caption anew"),
    Rule(
        "caption-unreadable",
        ("error",),
        "the caption file cannot be read",
        "a run would stop",
        "check its permissions",
    ),
    Rule(
        "stem-clash",
        _WARNING,
        "two pictures share one caption file, as a.png and a.jpg do",
        "both are trained on it",
        "rename all but one of them",
    ),
    Rule(
        "stem-fallback",
        _NOTE,
        "sd-scripts would train a picture without a caption on another picture's (five or more parts between "
        "underscores: the name without the last four)",
        "that caption was not meant for it",
        "write its own caption",
    ),
    Rule(
        "extension-case",
        _NOTE,
        "the ending mixes small and capital letters, as .Jpg does",
        "sd-scripts leaves the picture out on Linux",
        "rename the picture",
    ),
)

CAPTION_SECTIONS: dict[str, tuple[Rule, ...]] = {
    "Tags": _TAGS,
    "Instance and class": _INSTANCE,
    "How many, how often": _AMOUNT,
    "What a trainer reads": _READ,
}

SECTIONS: dict[str, tuple[Rule, ...]] = CAPTION_SECTIONS | PICTURE_SECTIONS

RULES: dict[str, Rule] = {rule.rule: rule for rules in SECTIONS.values() for rule in rules}

PICTURE_RULES: frozenset[str] = frozenset(rule.rule for rules in PICTURE_SECTIONS.values() for rule in rules)
