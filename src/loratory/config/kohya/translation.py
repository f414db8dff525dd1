"""The settings that an import has found so far, and what became of each key."""

import os
import re
from pathlib import Path
from typing import Any

from loratory.config.fields import FIELDS, holds_path
from loratory.config.kohya.report import Entry, Given, Outcome
from loratory.config.kohya.values import fitted, flag
from loratory.config.load import absolute_model_source
from loratory.config.toml_files import expanded

MODEL = "model.pretrained_model_name_or_path"


class Translation:
    """Collects settings by full name and one entry for each key of the input.

    folder: where relative paths of the input are looked for. defaults: the settings that come from the other tool's
    defaults. hints: what the file does not say and a person may want to know.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = {}
        self.entries: dict[str, Entry] = {}
        self.defaults: dict[str, object] = {}
        self.hints: list[str] = []

    def put(self, given: Given, setting: str, value: object = None, reason: str = "") -> None:
        """Takes `value` (without one, the given value) for a setting, or reports why it cannot be taken."""
        try:
            result = fitted(setting, given.value if value is None else value)
        except ValueError as problem:
            self.refuse(given, str(problem), setting=setting)
            return
        reason = reason or given.reason
        if isinstance(result, str) and (holds_path(FIELDS[setting]) or setting == MODEL):
            result, place = self._placed(setting, result)
            reason = "; ".join(filter(None, (reason, place)))
        self.settings[setting] = result
        self.note(given, "changed" if reason else "mapped", setting, result, reason)
        if not given.key:
            self.defaults[setting] = result

    def is_on(self, given: Given | None) -> bool:
        """Whether a flag is set; what is no truth value is reported and off."""
        if given is None:
            return False
        try:
            return flag(given.value)
        except ValueError as problem:
            self.refuse(given, str(problem))
            return False

    def drop(self, given: Given, reason: str) -> None:
        """Reports a key that changes nothing."""
        self.note(given, "ignored", reason=reason)

    def refuse(self, given: Given, reason: str, *, setting: str = "", important: bool = True) -> None:
        """Reports a key that would change the training and cannot be carried out."""
        self.note(given, "not honoured", setting, reason=reason, important=important)

    def note(
        self,
        given: Given,
        outcome: Outcome,
        setting: str = "",
        result: object = None,
        reason: str = "",
        important: bool = False,
    ) -> None:
        """One entry for a key; of several for the same key the first important one stays, else the first."""
        if not given.key:
            return
        known = self.entries.get(given.key)
        if known is None or (important and not known.important):
            self.entries[given.key] = Entry(given.key, given.shown, outcome, setting, result, reason, important)

    def take_back(self, setting: str, reason: str, outcome: Outcome) -> None:
        """Removes a setting again because of others; its keys are reported anew."""
        del self.settings[setting]
        self.defaults.pop(setting, None)
        for key, entry in self.entries.items():
            if entry.setting == setting and entry.outcome in ("mapped", "changed"):
                self.entries[key] = entry._replace(outcome=outcome, result=None, reason=reason)

    def change(self, setting: str, value: object, reason: str) -> None:
        """Gives a setting another value because of others; its keys, or a hint, say so."""
        self.settings[setting] = value
        keys = [key for key, entry in self.entries.items() if entry.setting == setting]
        for key in keys:
            self.entries[key] = self.entries[key]._replace(outcome="changed", result=value, reason=reason)
        if not keys:
            self.hints.append(f"{setting} = {value}: {reason}.")

    def _placed(self, setting: str, text: str) -> tuple[str, str]:
        """A path as it is found from the input's folder or the current one, and what is to be said about it."""
        if os.name != "nt" and (re.match(r"[A-Za-z]:[\\/]", text) or text.startswith("\\\\")):
            return text, "a path of Windows; write where it is on this machine"
        if setting == MODEL:
            return absolute_model_source(text, self.folder), ""
        if "\0" in text or expanded(text).is_absolute():
            return text, ""
        for base in (self.folder, Path.cwd()):
            try:
                if (base / text).exists():
                    return str((base / text).absolute()), ""
            except OSError:  # a name too long to be a file's
                break
        return text, ""
