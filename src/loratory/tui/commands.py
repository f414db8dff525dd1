"""The ":" line: the verbs of `loratory tag` on many pictures, and what else can be said in words."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loratory.editing.verbs import VERBS, parse_verb
from loratory.errors import LoratoryError
from loratory.tags.edits import Edit
from loratory.tags.text import key
from loratory.tags.vocabulary.model import SITES, Site
from loratory.tui.editor import Editor
from loratory.tui.told import Told


@dataclass(frozen=True)
class Command:
    """usage: what follows the name. help: what it does. run: gets the words after the name."""

    usage: str
    help: str
    run: Callable[[list[str]], None]


class Commands:
    """The commands that are no edits, by name. `after_settings` is called when the dataset's settings changed,
    `after_kept` when that was no more than the tags it keeps."""

    def __init__(
        self,
        editor: Editor,
        *,
        quit_app: Callable[[], None],
        after_settings: Callable[[], None],
        after_kept: Callable[[], None],
    ) -> None:
        self._editor = editor
        self._after_settings = after_settings
        self._after_kept = after_kept
        self.table: Mapping[str, Command] = {
            "q": Command("", "leave; everything is saved already", lambda words: quit_app()),
            "w": Command("", "nothing: everything is saved as you go", self._saved),
            "slot": Command("N TAG", "put a tag on key N of the palette; without TAG free it", self._slot),
            "vocabulary": Command("|".join(SITES), "which site's tags these are", self._vocabulary),
            "goal": Command("character|concept|clothing|style", "what is learnt", self._goal),
            "caption": Command("KEY VALUE", "how training reads captions, such as keep_tokens 2", self._caption),
            "recover": Command("finish|roll-back", "end a change that was interrupted", self._recover),
            "unkeep": Command("TAG", "let the findings speak of a kept tag again", self._unkeep),
            "reviewed": Command("", "mark them reviewed", lambda words: self._review(True)),
            "unreviewed": Command("", "mark them not reviewed", lambda words: self._review(False)),
        }  # fmt: skip

    def run(self, line: str) -> None:
        """Does a line. Raises LoratoryError for what is no command, with the nearest one."""
        text = line.strip()
        here = text.startswith(".")
        text = text.removeprefix(".").strip()
        if not text:
            return
        if text.isdecimal() and len(text) < 10:
            self._editor.selection.go(int(text) - 1)
            return
        name, _, rest = text.partition(" ")
        command = self.table.get(name)
        if command is not None:
            command.run(_words(rest))
            return
        self.edit(parse_verb(text), here=here)

    def edit(self, edit: Edit, *, here: bool) -> None:
        current = self._editor.current
        targets = self._editor.selection.wide if not here else [] if current is None else [current]
        self._editor.apply(edit, targets)

    def rows(self, typed: str) -> list[tuple[str, str]]:
        """(name and usage, help) of the commands that begin as what is typed."""
        name = typed.strip().removeprefix(".").partition(" ")[0]
        known = {verb: (command.usage, command.help) for verb, command in self.table.items()} | {
            verb: (command.usage, command.help) for verb, command in VERBS.items()
        }
        return [
            (f"{verb} {usage}".strip(), said) for verb, (usage, said) in sorted(known.items()) if verb.startswith(name)
        ]

    def _saved(self, words: list[str]) -> None:
        self._editor.tell(Told("everything is saved as you go"))

    def _slot(self, words: list[str]) -> None:
        if not words or words[0] not in tuple("0123456789"):
            raise LoratoryError(":slot wants a key from 0 to 9 and a tag, such as :slot 3 side view")
        self._editor.set_slot((int(words[0]) - 1) % 10, " ".join(words[1:]).strip(" ,"))

    def _vocabulary(self, words: list[str]) -> None:
        sites: dict[str, Site] = {site: site for site in SITES}
        site = " ".join(words)
        if site not in sites:
            raise LoratoryError(f":vocabulary wants one of {', '.join(SITES)}")
        self._editor.session.settings.vocabulary = sites[site]
        self._changed_settings(f"the vocabulary is {site} now")

    def _goal(self, words: list[str]) -> None:
        from loratory.editing.settings import GOALS

        if len(words) != 1 or words[0] not in GOALS:
            raise LoratoryError(f":goal wants one of {', '.join(GOALS)}")
        self._editor.session.settings.goal = words[0]
        self._changed_settings(f"the goal is a {words[0]}")

    def _caption(self, words: list[str]) -> None:
        if len(words) != 2:
            raise LoratoryError(":caption wants a key of [caption] and a value, such as :caption keep_tokens 2")
        from pydantic import ValidationError

        from loratory.config.schema import CaptionSettings  # takes a tenth of a second to import

        caption = {**self._editor.session.settings.caption, words[0]: _value(words[1])}
        try:
            CaptionSettings.model_validate(caption)
        except ValidationError as error:
            raise LoratoryError(f":caption {words[0]}: {error.errors()[0]['msg']}") from None
        self._editor.session.settings.caption = caption
        self._changed_settings(f"{words[0]} is {words[1]}")

    def _recover(self, words: list[str]) -> None:
        if words not in (["finish"], ["roll-back"]):
            raise LoratoryError(":recover wants finish or roll-back")
        self._editor.recover(finish=words == ["finish"])

    def _unkeep(self, words: list[str]) -> None:
        tag = " ".join(words)
        kept = self._editor.session.settings.kept
        found = False
        for rule in list(kept):
            left = [other for other in kept[rule] if key(other) != key(tag)]
            found = found or len(left) < len(kept[rule])
            kept[rule] = left
            if not left:
                del kept[rule]
        if not found:
            raise LoratoryError(f"“{tag}” is not kept by any rule")
        self._editor.save_settings()
        self._after_kept()
        self._editor.tell(Told(f"“{tag}” is judged again"))

    def _review(self, reviewed: bool) -> None:
        targets = self._editor.selection.wide
        self._editor.review(targets, reviewed)
        self._editor.tell(Told(f"{len(targets)} marked {'reviewed' if reviewed else 'not reviewed'}"))

    def _changed_settings(self, told: str) -> None:
        self._editor.save_settings()
        self._after_settings()
        self._editor.tell(Told(told))


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise LoratoryError(f"{error}: {text}") from error


def _value(word: str) -> bool | int | float | str:
    if word in ("true", "false"):
        return word == "true"
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            continue
    return word
