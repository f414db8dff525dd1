"""The tokenizer that counts without transformers gives what transformers' gives."""

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratory.models.components import ASSETS, build_tokenizer
from loratory.models.tokens import count_tokens, light_clip, overflow

TEXTS = [
    "",
    " ",
    "fox, 1girl, solo",
    "Blue EYES, Ärger, ǅungla, İstanbul, ß, ſ, ﬁ",
    "cafe\N{COMBINING ACUTE ACCENT}, e\u0323\u0301",
    "^_^, >_<, o_o, :3, ;_;, \\m/, =_=, |_|, 0_0, :|)",
    "photo \\(medium\\), (blue eyes:1.2), [tail], {a|b}",
    "fox's, don't, they're, I've, I'm, we'll, she'd, FOX'S, 'tis, '''",
    "1girl 2023 3.5 １２３ ² Ⅷ ٣",
    "狐, 白い狐がいる, 여우, лиса, ثعلب, שועל, ทดสอบ",
    "🦊, 👩‍👩‍👧‍👦, 🏳️‍🌈, 👍🏽, ❤️, \U0001faf6",
    "a\tb\nc\r\nd\u00a0e\u2003f\u200bg\ufeffh\u3000i\u2028j\x85k\x1cl",
    "  spaced   out  ,,  , ",
    "<|endoftext|>, <|startoftext|> a<|endoftext|>b, <|ENDOFTEXT|>",
    "\x00\x01\x1b[31m\x7f\ufffd\ufffe\ufdd0\U0010ffff",
    "[/b] [@click=app.quit]x :x: %s ${HOME} &amp; </w> a</w>",
    "!!!! ??? ... --- ___ *** ~~~ !!?!",
    "supercalifragilisticexpialidocious" * 20,
    "fox, " * 3000,
    "x" * 20_000,
    "\u202e" + "reversed",
    "ΣΑΣ ΟΔΟΣ Σ ΣΣ",
    "a \u0301b \u0307 I \u0307",
]


@cache
def reference() -> Any:
    return build_tokenizer(ASSETS / "clip", "<|endoftext|>").backend_tokenizer


def same(text: str) -> bool:
    ours = light_clip().backend_tokenizer.encode(text, add_special_tokens=False)
    theirs = reference().encode(text, add_special_tokens=False)
    counted = count_tokens(light_clip(), text)
    return (ours.ids, ours.offsets) == (theirs.ids, theirs.offsets) and counted == len(theirs.ids)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:16]))
def test_ids_and_offsets_are_those_of_transformers(text: str) -> None:
    assert same(text)


@settings(max_examples=400, deadline=None)
@given(st.text() | st.text(st.sampled_from(" aΣςİ\u0301\u0307\u1161\u1100'<|>9\u200d")))
def test_any_text(text: str) -> None:
    assert same(text)


PIECES = ["fox", " ", ",", "_", "'s", "'", "<|endoftext|>", "A", "é", "\u0301", "9", "(", "\\", "狐", "🦊", "\n", "!"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_mixture_of_what_captions_hold(text: str) -> None:
    assert same(text)


def test_it_is_taken_where_a_tokenizer_is() -> None:
    clip = light_clip()
    assert count_tokens(clip, "") == 0
    assert count_tokens(clip, "fox, 1girl") == 4
    assert count_tokens(clip, "(fox:1.3), [1girl]", weighted=True) == 4
    assert overflow(clip, "Fox  " * 75 + "Tail, end", 75) == "Tail, end"
    assert overflow(clip, "Fox " * 75, 75) is None


def test_it_is_built_once() -> None:
    assert light_clip() is light_clip()


def test_counting_imports_neither_torch_nor_transformers() -> None:
    program = (
        "import json, sys\n"
        "heavy = ('torch', 'transformers', 'numpy', 'tokenizers', 'loratory.config')\n"
        "from loratory.models.tokens import count_tokens, light_clip\n"
        "before = [name for name in heavy if name in sys.modules]\n"
        "count = count_tokens(light_clip(), 'fox, 1girl')\n"
        "print(json.dumps([count, before, [name for name in heavy if name in sys.modules]]))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(finished.stdout) == [4, [], ["tokenizers"]]
