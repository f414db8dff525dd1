"""Emphasis in captions: how brackets are read, what weights the tokens get, and where they act."""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratory.config.load import load_config
from loratory.config.schema import ModelSettings, NoiseSettings
from loratory.dataset.visits import Visit
from loratory.errors import LoratoryError
from loratory.models.detect import detect_model
from loratory.models.emphasis import WEIGHT_LIMIT, parse_emphasis
from loratory.models.load import BaseModel, load_base_model
from loratory.models.text import encode_ids, encode_text, tokenize, tokenize_weighted
from loratory.models.tokens import caption_ids, count_tokens, overflow, weighted_caption_ids
from loratory.sampling.preview import draw
from loratory.sampling.prompts import Prompt
from loratory.training.batches import Batch
from loratory.training.engine import Engine, assemble
from loratory.training.plan import make_plan
from material import make_set, write_config
from tiny_models import Family, shared_tiny_model

# Token ids and weights that sd-scripts' own functions produced.
FIGURES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "weighted_tokens.json").read_text())[
    "captions"
]

FAMILIES: list[Family] = ["sd1", "sd2", "sdxl"]
CPU = torch.device("cpu")

captions = st.text(alphabet=st.sampled_from("ab ,()[]\\:1.3-+"), max_size=60)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def base_model(family: Family) -> BaseModel:
    settings = ModelSettings(pretrained_model_name_or_path=str(shared_tiny_model(family)))
    return load_base_model(detect_model(settings, NoiseSettings()), settings)


class TestReading:
    @pytest.mark.parametrize(
        ("caption", "expected"),
        [
            ("", []),
            ("a fox", [("a fox", 1.0)]),
            ("a (red) fox", [("a ", 1.0), ("red", 1.1), (" fox", 1.0)]),
            ("a [red] fox", [("a ", 1.0), ("red", 1 / 1.1), (" fox", 1.0)]),
            ("(red:1.3), fox", [("red", 1.3), (", fox", 1.0)]),
            ("(red:.5) (fox:-2.) (owl:+3)", [("red", 0.5), (" ", 1.0), ("fox", -2.0), (" ", 1.0), ("owl", 3.0)]),
            ("((red))", [("red", 1.1 * 1.1)]),
            ("(a (red:1.5) fox:0.5)", [("a ", 0.5), ("red", 0.75), (" fox", 0.5)]),
            ("[a (red) fox]", [("a ", 1 / 1.1), ("red", 1.0), (" fox", 1 / 1.1)]),
            ("(a [b) c]", [("a ", 1.1), ("b", 1.1 * (1 / 1.1)), (" c", 1 / 1.1)]),
            # Neighbours of one weight are one text.
            ("(red)(fox)", [("redfox", 1.1)]),
            ("()red[]", [("red", 1.0)]),
        ],
    )
    def test_brackets(self, caption: str, expected: list[tuple[str, float]]) -> None:
        read = parse_emphasis(caption)
        assert [text for text, _ in read] == [text for text, _ in expected]
        assert [weight for _, weight in read] == pytest.approx([weight for _, weight in expected])

    @pytest.mark.parametrize(
        ("caption", "expected"),
        [
            ("(red", [("red", 1.1)]),
            ("a [red, fox", [("a ", 1.0), ("red, fox", 1 / 1.1)]),
            ("red) fox]", [("red) fox]", 1.0)]),
            ("red:1.3)", [("red:1.3)", 1.0)]),
            # The weight of square brackets cannot be chosen.
            ("[red:1.3]", [("red:1.3", 1 / 1.1)]),
            ("(red:1.2.3)", [("red:1.2.3", 1.1)]),
            ("(red:.)", [("red:.", 1.1)]),
            ("(red:x)", [("red:x", 1.1)]),
            ("(red: 1.3)", [("red: 1.3", 1.1)]),
            ("(:1.3)", []),
            ("1girl :) (fox:1.3", [("1girl :) ", 1.0), ("fox:1.3", 1.1)]),
        ],
    )
    def test_what_is_not_well_formed(self, caption: str, expected: list[tuple[str, float]]) -> None:
        assert parse_emphasis(caption) == expected

    @pytest.mark.parametrize(
        ("caption", "expected"),
        [
            (r"miku \(vocaloid\)", [("miku (vocaloid)", 1.0)]),
            (r"(miku \(vocaloid\):1.2)", [("miku (vocaloid)", 1.2)]),
            (r"\[/b\] \\o/ a\b", [(r"[/b] \o/ ab", 1.0)]),
            ("end\\", [("end", 1.0)]),
        ],
    )
    def test_backslashes(self, caption: str, expected: list[tuple[str, float]]) -> None:
        assert parse_emphasis(caption) == expected

    def test_no_weight_overflows(self) -> None:
        assert parse_emphasis("(" * 9000 + "fox") == [("fox", WEIGHT_LIMIT)]
        assert parse_emphasis(f"((fox:-{'9' * 400}):0)") == [("fox", 0.0)]
        assert parse_emphasis("(fox:-1000)") == [("fox", -WEIGHT_LIMIT)]

    @given(st.text().filter(lambda text: not set(text) & set("()[]\\")))
    def test_a_caption_without_brackets_is_one_text(self, caption: str) -> None:
        assert parse_emphasis(caption) == ([(caption, 1.0)] if caption else [])

    @given(captions)
    def test_anything_is_read(self, caption: str) -> None:
        read = parse_emphasis(caption)
        assert all(text for text, _ in read)
        assert all(abs(weight) <= WEIGHT_LIMIT for _, weight in read)
        assert all(one[1] != other[1] for one, other in pairwise(read))
        # Nothing but brackets, weights and backslashes goes.
        remaining = iter(caption)
        assert all(character in remaining for text, _ in read for character in text)
        for letter in "ab ,":
            assert sum(text.count(letter) for text, _ in read) == caption.count(letter)

    @given(captions)
    def test_a_caption_with_every_special_character_escaped_is_itself(self, caption: str) -> None:
        escaped = "".join("\\" + c if c in "()[]\\" else c for c in caption)
        assert parse_emphasis(escaped) == ([(caption, 1.0)] if caption else [])


class TestTokens:
    @pytest.mark.parametrize(
        "figure", FIGURES, ids=lambda f: f"{f['family']}-{f['max_token_length']}-{f['caption'][:6]}"
    )
    def test_equal_the_reference(self, figure: dict[str, Any]) -> None:
        ids, weights = tokenize_weighted(base_model(figure["family"]), [figure["caption"]], figure["max_token_length"])
        assert len(ids) == len(weights) == len(figure["encoders"])
        for our_ids, our_weights, encoder in zip(ids, weights, figure["encoders"], strict=True):
            assert our_ids.tolist() == [[chunk + [encoder["pad"]] * (77 - len(chunk)) for chunk in encoder["chunks"]]]
            assert our_weights.dtype == torch.float32
            assert our_weights.tolist() == [[chunk + [1.0] * (77 - len(chunk)) for chunk in encoder["weights"]]]

    @given(st.text(max_size=30).filter(lambda text: not set(text) & set("()[]\\")), st.sampled_from([75, 150, 225]))
    def test_without_brackets_the_ids_are_the_plain_ones(self, caption: str, max_token_length: int) -> None:
        for tokenizer in base_model("sdxl").tokenizers:
            ids, weights = weighted_caption_ids(tokenizer, caption, max_token_length)
            assert ids == caption_ids(tokenizer, caption, max_token_length)
            assert weights == [[1.0] * 77] * (max_token_length // 75)

    @given(captions)
    def test_any_caption_gives_full_chunks(self, caption: str) -> None:
        ids, weights = weighted_caption_ids(base_model("sd1").tokenizers[0], caption, 75)
        assert [len(chunk) for chunk in (*ids, *weights)] == [77, 77]
        end = ids[0].index(49407)
        assert weights[0][0] == 1.0 and set(weights[0][end:]) == {1.0}

    def test_chunks_and_the_cut_take_the_weights_along(self) -> None:
        # 70 + 10 + 75 tokens of one id each: the emphasis lies across the first cut, the rest is lost beyond 150.
        caption = "fox " * 70 + "(" + "cat " * 10 + ":1.5)" + "[" + "owl " * 75 + "]"
        (tokenizer,) = base_model("sd1").tokenizers
        ids, weights = weighted_caption_ids(tokenizer, caption, 150)
        cat = caption_ids(tokenizer, "cat", 75)[0][1]
        assert [[i for i, token in enumerate(chunk) if token == cat] for chunk in ids] == [
            [*range(71, 76)],
            [*range(1, 6)],
        ]
        assert weights[0] == [1.0] * 71 + [1.5] * 5 + [1.0]
        assert weights[1] == [1.0] + [1.5] * 5 + [1 / 1.1] * 70 + [1.0]
        assert ids[1][76] == 49407
        shorter = weighted_caption_ids(tokenizer, caption, 75)
        assert shorter == (ids[:1], weights[:1])

    @pytest.mark.parametrize("length", [0, 77, 100])
    def test_other_lengths_are_refused(self, length: int) -> None:
        with pytest.raises(LoratoryError, match=f"max_token_length is {length}"):
            tokenize_weighted(base_model("sd1"), ["(fox)"], length)

    def test_brackets_take_no_room(self) -> None:
        base = base_model("sd1")
        assert count_tokens(base, "(fox:1.3), [1girl]", weighted=True) == 4
        assert count_tokens(base, "(fox:1.3), [1girl]") > 4
        caption = "(fox:1.3) " * 75
        assert overflow(base, caption, 75) is not None
        assert overflow(base, caption, 75, weighted=True) is None
        assert overflow(base, caption + "(Tail), [end]", 75, weighted=True) == "Tail, end"
        assert overflow(base, "(" + "Fox " * 70 + "red cat owl elk ant bee)", 75, weighted=True) == "bee"


class TestEncoding:
    @pytest.mark.parametrize("length", [75, 150, 225])
    @pytest.mark.parametrize(("family", "clip_skip"), [("sd1", None), ("sd1", 2), ("sd2", None), ("sdxl", None)])
    def test_every_token_is_multiplied_by_its_weight(self, family: Family, clip_skip: int | None, length: int) -> None:
        base = base_model(family)
        texts = ["a (red:1.3) fox, " * 20 + "[night]", "owl"]
        ids, weights = tokenize_weighted(base, texts, length)
        plain = encode_ids(base, ids, clip_skip=clip_skip)
        encoded = encode_text(base, texts, clip_skip=clip_skip, max_token_length=length, weighted_captions=True)
        chunks = length // 75
        factors = torch.ones(2, 75 * chunks + 2)
        for row in range(2):
            for chunk in range(chunks):
                factors[row, 75 * chunk + 1 : 75 * chunk + 76] = weights[0][row, chunk, 1:76]
        assert factors[0].max().item() == pytest.approx(1.3) and (factors[1] == 1).all()
        assert torch.equal(encoded.hidden, plain.hidden * factors[..., None])
        if family == "sdxl":
            assert plain.pooled is not None and encoded.pooled is not None
            assert torch.equal(encoded.pooled, plain.pooled)

    def test_each_encoder_of_sdxl_gets_its_own_weights(self) -> None:
        base = base_model("sdxl")
        ids, weights = tokenize_weighted(base, ["fox"], 75)
        plain = encode_ids(base, ids, clip_skip=None).hidden
        doubled = encode_ids(base, ids, clip_skip=None, weights=[weights[0], weights[1] * 2]).hidden
        width = base.text_encoders[0].config.hidden_size
        assert torch.equal(doubled[..., :width], plain[..., :width])
        assert torch.equal(doubled[..., width:], plain[..., width:] * 2)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_weights_of_1_change_no_bit(self, family: Family) -> None:
        base = base_model(family)
        texts = ["a red fox, snow", ""]
        plain = encode_text(base, texts, clip_skip=None, max_token_length=150)
        weighted = encode_text(base, texts, clip_skip=None, max_token_length=150, weighted_captions=True)
        assert torch.equal(plain.hidden, weighted.hidden)
        assert torch.equal(plain.hidden, encode_ids(base, tokenize(base, texts, 150), clip_skip=None).hidden)

    def test_the_weight_scales_the_gradient(self) -> None:
        base = base_model("sd1")
        table = base.text_encoders[0].get_input_embeddings().weight
        ids, weights = tokenize_weighted(base, ["(fox:1.5)"], 75)
        try:
            table.requires_grad_(True)
            gradients = [
                torch.autograd.grad(encode_ids(base, ids, clip_skip=None, weights=w).hidden[0, 1].norm(), table)[0]
                for w in ((), weights)
            ]
        finally:
            table.requires_grad_(False)
        assert gradients[0].abs().sum() > 0
        torch.testing.assert_close(gradients[1], gradients[0] * 1.5)

    def test_half_precision_stays_half(self) -> None:
        settings = ModelSettings(pretrained_model_name_or_path=str(shared_tiny_model("sd1")))
        base = load_base_model(detect_model(settings, NoiseSettings()), settings, dtype=torch.bfloat16)
        encoded = encode_text(base, ["(fox:1.5)"], clip_skip=None, max_token_length=75, weighted_captions=True)
        assert encoded.hidden.dtype == torch.bfloat16


def engine(folder: Path, family: Family, tags: str, *, weighted: bool, **tables: dict[str, Any]) -> Engine:
    """Ready to train two pictures, the first with `tags` as its caption, the other without brackets."""
    if not (folder / "set").exists():
        make_set(folder / "set", {"1_ohwx fox": 2})
    (folder / "set" / "1_ohwx fox" / "00.txt").write_text(tags, "utf-8")
    (folder / "set" / "1_ohwx fox" / "01.txt").write_text("a red cat", "utf-8")
    caption = {"weighted_captions": weighted} | tables.pop("caption", {})
    config = load_config(write_config(folder, family, caption=caption, **tables))
    return next(p for p in assemble(make_plan(config), CPU) if isinstance(p, Engine))


def first_batch(made: Engine) -> Batch:
    return made.maker.make([Visit(0, 0), Visit(1, 0)], epoch=1, step=0)


class TestTraining:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_trained_text_encoders_see_the_weights(self, family: Family, tmp_path: Path) -> None:
        training = {"optimizer": {"text_encoder_lr": 1e-4}}
        made = engine(tmp_path, family, "(fox:1.5), snow", weighted=True, **training)
        batch = first_batch(made)
        assert batch.text is None and [ids.shape for ids in batch.ids] == [(2, 1, 77)] * len(made.base.tokenizers)
        assert all(weights[0, 0, :4].tolist() == [1.0, 1.5, 1.0, 1.0] for weights in batch.token_weights)
        unweighted = engine(tmp_path, family, "fox, snow", weighted=False, **training)
        plain = first_batch(unweighted)
        assert plain.token_weights == []
        assert all(torch.equal(a, b) for a, b in zip(plain.ids, batch.ids, strict=True))
        with made.judged(), unweighted.judged():
            loss, plain_loss = made.losses(batch).unweighted.detach(), unweighted.losses(plain).unweighted.detach()
        assert loss[0] != plain_loss[0] and loss[1] == plain_loss[1]

    def test_cached_text_is_what_a_trained_encoder_says(self, tmp_path: Path) -> None:
        trained = engine(tmp_path, "sd1", "(fox:1.5), snow", weighted=True, optimizer={"text_encoder_lr": 1e-4})
        cached = engine(tmp_path, "sd1", "(fox:1.5), snow", weighted=True, network={"network_train_unet_only": True})
        batch = first_batch(cached)
        assert batch.text is not None and batch.ids == batch.token_weights == []
        ids = first_batch(trained)
        with trained.judged():
            said = encode_ids(trained.base, ids.ids, clip_skip=None, weights=ids.token_weights).hidden
        torch.testing.assert_close(batch.text.hidden, said)

    def test_the_cache_on_disk_knows_the_setting(self, tmp_path: Path) -> None:
        disk: dict[str, dict[str, Any]] = {
            "dataset": {"cache_text_encoder_outputs_to_disk": True},
            "network": {"network_train_unet_only": True},
        }
        texts = [
            first_batch(engine(tmp_path, "sd1", "(fox:1.5), snow", weighted=weighted, **disk)).text
            for weighted in (False, True, False)
        ]
        first, second, third = (text.hidden for text in texts if text is not None)
        assert not torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert torch.equal(first, third)

    def test_what_preserves_the_base_model_keeps_its_weights(self, tmp_path: Path) -> None:
        made = engine(
            tmp_path,
            "sd1",
            "(fox:1.5), snow",
            weighted=True,
            optimizer={"text_encoder_lr": 1e-4},
            loss={"diff_output_preservation": True, "diff_output_preservation_class": "(animal:0.5)"},
        )
        batch = first_batch(made)
        assert batch.preserved is not None
        (kept,) = batch.preserved_part(batch.preserved).token_weights
        assert kept.shape == (2, 1, 77)
        assert kept[:, 0, :3].tolist() == [[1.0, 0.5, 1.0]] * 2
        assert made.losses(batch).unweighted.isfinite().all()


def test_previews_read_prompts_as_training_reads_captions() -> None:
    def picture(text: str, *, weighted: bool, negative: str = "") -> np.ndarray:
        (image,) = draw(
            base_model("sd1"),
            [Prompt(text, negative, 64, 64, 1, 2, 5.0)],
            clip_skip=None,
            max_token_length=75,
            weighted_captions=weighted,
            device=CPU,
            dtype=torch.float32,
        )
        return np.asarray(image)

    plain = picture("fox", weighted=False)
    assert np.array_equal(picture("fox", weighted=True), plain)
    assert np.array_equal(picture("(fox:1.0)", weighted=True), plain)
    assert not np.array_equal(picture("(fox:1.0)", weighted=False), plain)
    assert not np.array_equal(picture("(fox:9)", weighted=True), plain)
    assert not np.array_equal(picture("fox", weighted=True, negative="(cat:9)"), picture("fox", weighted=True))
