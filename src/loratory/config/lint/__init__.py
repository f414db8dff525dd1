"""Advice about settings: what is allowed, and yet rarely meant. Each rule has an id that `lint.silence` can name."""

import difflib
from collections.abc import Iterator

from loratory.config.describe import show
from loratory.config.lint.base import Advice, AdviceSeverity, Facts, FolderFacts, Rule, Said
from loratory.config.lint.captions import CAPTION_RULES
from loratory.config.lint.losses import LOSS_RULES
from loratory.config.lint.models import MODEL_RULES
from loratory.config.lint.network_types import TYPE_RULES
from loratory.config.lint.networks import NETWORK_RULES
from loratory.config.lint.optimizers import OPTIMIZER_RULES
from loratory.config.lint.pictures import PICTURE_RULES
from loratory.config.lint.run import RUN_RULES
from loratory.config.schema import Config


def _silence(config: Config, facts: Facts) -> Iterator[Said]:
    known = [rule.rule for rule in RULES]
    for name in config.lint.silence:
        if name not in known:
            near = difflib.get_close_matches(name[:64], known, n=1, cutoff=0.5)
            meant = f" Did you mean {near[0]}?" if near else ""
            yield Said("lint.silence", f"lint.silence: there is no rule {show(name)}, so nothing is silenced.{meant}")


SECTIONS: dict[str, tuple[Rule, ...]] = {
    "Base model": MODEL_RULES,
    "Adapter": (*TYPE_RULES, *NETWORK_RULES),
    "Optimizer": OPTIMIZER_RULES,
    "Pictures": PICTURE_RULES,
    "Captions": CAPTION_RULES,
    "Loss and noise": LOSS_RULES,
    "Run": (*RUN_RULES, Rule("unknown-rule", "warning", "lint.silence names no rule", _silence)),
}
"""Every rule by what it is about, in display order."""

RULES: tuple[Rule, ...] = tuple(rule for rules in SECTIONS.values() for rule in rules)


def lint(config: Config, facts: Facts) -> list[Advice]:
    """What the rules have to say about `config`, in the order of `RULES`, without the ids in `lint.silence`."""
    return [
        Advice(rule.rule, rule.severity, said.key, said.message)
        for rule in RULES
        if rule.rule not in config.lint.silence
        for said in rule.check(config, facts)
    ]


__all__ = ["RULES", "SECTIONS", "Advice", "AdviceSeverity", "Facts", "FolderFacts", "Rule", "Said", "lint"]
