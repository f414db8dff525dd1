"""Which names a vocabulary takes, and how they are spelled."""

import unicodedata

# Danbooru's limit is 170 characters, e621's 150; what is longer is no tag but a damaged file.
LONGEST_NAME = 256
_UNFIT = frozenset(("Cc", "Cs", "Zl", "Zp"))  # control characters, half characters, line and paragraph separators


def cleaned(name: str) -> str:
    """`name` as a vocabulary keeps it: underscores for the white space in it, as the sites write."""
    return "_".join(name.split())


def fault(name: str) -> str | None:
    """Why `name` (`cleaned`) cannot be a tag, None if it can."""
    if not name:
        return "it has no name"
    if len(name) > LONGEST_NAME:
        return f"its name has {len(name)} characters"
    if "," in name:
        return "a comma in its name"
    if not name.isprintable() and any(unicodedata.category(character) in _UNFIT for character in name):
        return "a control or damaged character in its name"
    return None


def spelled(key: str) -> str:
    """The likely spelling of a tag of which only the key (`text.key`) is known."""
    return key.replace(" ", "_")
