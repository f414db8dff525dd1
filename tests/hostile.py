"""Text that breaks programs which take it for markup, for a terminal's orders, or for nothing special."""

import unicodedata
from pathlib import Path

ESC, BELL, NUL, ZWJ = "\x1b", "\x07", "\0", "\u200d"

# Each is one tag: no comma, no line break, no white space around it; no two of them are the same tag.
TAGS: tuple[str, ...] = (
    "[/b]",
    "[/",
    "[@click=app.quit]x",
    "[@click='app.bell']y[/]",
    "[red]x",
    "[bold red on blue]",
    "artist_[name]",
    "[[true; false]]",
    "[link=https://example.org]z",
    ":x:",
    ":warning: sign",
    "$accent",
    "$text-warning 5",
    "\\\\[",
    "\\",
    f"{ESC}]0;title{BELL}",
    f"a{ESC}[2Jb",
    f"{ESC}[31mred",
    "c1 \x9b2J",
    f"nul {NUL} here",
    f"bell {BELL} rings",
    "tab\tinside",
    "vertical\x0btab",
    "line\u2028separator",
    "next\x85line",
    "zero\u200bwidth",
    "cafe\u0301 " + "\u0316" * 20,
    "\u202egnirts desrever",
    "\u2066isolated",
    f"family \U0001f468{ZWJ}\U0001f469{ZWJ}\U0001f467",
    "flag \U0001f1e9\U0001f1ea",
    "heart \u2764\ufe0f",
    "漢字の長いタグ",
    "한국어 태그",
    "שלום עולם",
    "-",
    "--remove",
    "-rf",
    "'single' \"double\"",
    '"',
    "what? * or \\*",
    "%s %(name)s %n",
    "{} {0} {name!r}",
    "#hash & <tag> ; rm",
    "=equals",
    "/slash/",
    ":command",
    "(weighted:1.2)",
    "photo \\(medium\\)",
    "_",
    "NOT OR AND",
    "\ufeffmark",
    "wide space\u3000inside",
    "x" * 10_000,
    "長" * 3_000,
)  # fmt: skip

# What a caption may hold beside tags.
CAPTIONS: tuple[bytes, ...] = (
    b"",
    b" \t \n",
    b",,, ,,",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbfmark, tag\r\nsecond line\rthird\n\nfifth",
    "one\u2028two\x85three\x0bfour\x1dfive\r\nsix\n".encode(),
    b"cp1252 \x93quoted\x94, \x80",
    "utf sixteen, \u6f22".encode("utf-16"),
    b"\x1b]0;owned\x07\x1b[2J\x1b[?1049l\0\x08\x7f",
    ("a sentence with [/b] in it, and more [@click=app.quit]text[/] " * 20).encode(),
    b"[/b]\n[red]\n[@click=app.quit]x[/]\n" * 5,
)


def file_names() -> list[str]:
    """The hostile texts that can be a file's name, and names that are no UTF-8."""
    names = [tag.replace("/", "|") for tag in TAGS if NUL not in tag and len(tag) < 200]
    names += ["line\nbreak", "carriage\rreturn", " ", "'; drop", "*?", "..hidden?", "a" * 240]
    return [*names, *("no utf8 " + raw.decode("utf-8", "surrogateescape") for raw in (b"\xff", b"\xc3\x28\x80"))]


def controls(text: str) -> list[str]:
    """The characters of `text` that would do something to a terminal, or that it cannot be sent."""
    turning = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029"
    return sorted({ascii(c) for c in text if unicodedata.category(c) in ("Cc", "Cs") or c in turning})


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every caption below a folder by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.txt")) if path.is_file()
    }
