import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loratory.config.schema import ModelSettings, NoiseSettings
from loratory.errors import LoratoryError
from loratory.models.components import ASSETS, load_tokenizers
from loratory.models.detect import detect_model
from loratory.models.load import BaseModel, load_base_model
from loratory.models.text import count_tokens, encode_ids, encode_text, overflow, sdxl_time_ids, tokenize
from loratory.models.tokens import caption_ids
from tiny_models import Family, shared_tiny_model

# Token ids that sd-scripts' own functions produced.
FIGURES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "tokens.json").read_text())["captions"]

LONG = ", ".join(f"tag number {number}" for number in range(40))


@cache
def base_model(family: Family) -> BaseModel:
    settings = ModelSettings(pretrained_model_name_or_path=str(shared_tiny_model(family)))
    return load_base_model(detect_model(settings, NoiseSettings()), settings)


class TestTokens:
    @pytest.mark.parametrize(
        "figure", FIGURES, ids=lambda f: f"{f['family']}-{f['max_token_length']}-{f['caption'][:6]}"
    )
    def test_equal_the_reference(self, figure: dict[str, Any]) -> None:
        ids = tokenize(base_model(figure["family"]), [figure["caption"]], figure["max_token_length"])
        assert len(ids) == len(figure["encoders"])
        for ours, encoder in zip(ids, figure["encoders"], strict=True):
            reference = [chunk + [encoder["pad"]] * (77 - len(chunk)) for chunk in encoder["chunks"]]
            assert ours.tolist() == [reference]

    def test_a_long_caption_fills_its_chunks_in_order(self) -> None:
        (ids,) = tokenize(base_model("sd1"), [LONG, "fox"], 225)
        assert ids.shape == (2, 3, 77)
        assert (ids[:, :, 0] == 49406).all()
        assert (ids[:, :, -1] == 49407).all()
        (whole,) = tokenize(base_model("sd1"), [LONG], 75)
        assert torch.equal(ids[0, :1], whole[0])
        assert ids[0, 1, 1] != 49407
        assert (ids[1, 1, 1:] == 49407).all()

    def test_a_chunk_that_is_full_still_ends(self) -> None:
        # "fox" is one token, so 75 of them fill the first chunk to the brim.
        _, second = tokenize(base_model("sdxl"), ["fox " * 76], 150)
        assert second[0, 0, -1] == 49407
        assert second[0, 1, :4].tolist() == [49406, second[0, 0, 1], 49407, 0]

    @pytest.mark.parametrize("family", ["sd2", "sdxl"])
    def test_an_exclamation_mark_is_not_padding(self, family: Family) -> None:
        ids = tokenize(base_model(family), ["fox!"], 75)[-1]
        assert ids[0, 0, :6].tolist() == [49406, 3240, 256, 49407, 0, 0]

    @pytest.mark.parametrize("length", [0, 77, 100])
    def test_other_lengths_are_refused(self, length: int) -> None:
        with pytest.raises(LoratoryError, match=f"max_token_length is {length}"):
            tokenize(base_model("sd1"), ["fox"], length)

    def test_count_is_without_begin_and_end(self) -> None:
        assert count_tokens(base_model("sd1"), "") == 0
        assert count_tokens(base_model("sd1"), "fox, 1girl") == 4
        assert count_tokens(base_model("sd1").tokenizers[0], "fox, 1girl") == 4

    def test_overflow_is_the_text_that_is_lost(self) -> None:
        base = base_model("sdxl")
        caption = "Fox  " * 75 + "Tail, end"
        assert overflow(base, caption, 75) == "Tail, end"
        assert overflow(base, "Fox " * 75, 75) is None
        assert overflow(base, caption, 150) is None

    def test_counting_needs_no_torch(self) -> None:
        program = (
            "import sys\n"
            "from loratory.config.schema import ModelSettings, NoiseSettings\n"
            "from loratory.models.components import load_tokenizers\n"
            "from loratory.models.detect import detect_model\n"
            "from loratory.models.tokens import count_tokens\n"
            "info = detect_model(ModelSettings(pretrained_model_name_or_path='nano'), NoiseSettings())\n"
            "print(count_tokens(load_tokenizers(info)[0], 'fox, 1girl'), 'torch' in sys.modules)"
        )
        finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert finished.stdout.split() == ["4", "False"]


class TestTokenizerFolders:
    def folder(self, tmp_path: Path) -> Path:
        """The tiny SD 1.x model under another path, to which a tokenizer can be added."""
        for entry in shared_tiny_model("sd1").iterdir():
            (tmp_path / entry.name).symlink_to(entry)
        (tmp_path / "tokenizer").mkdir()
        return tmp_path

    def ids(self, folder: Path, caption: str) -> list[int]:
        info = detect_model(ModelSettings(pretrained_model_name_or_path=str(folder)), NoiseSettings())
        (tokenizer,) = load_tokenizers(info)
        return caption_ids(tokenizer, caption, 75)[0][:4]

    def test_a_model_uses_its_own_vocabulary(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        vocabulary: dict[str, int] = json.loads((ASSETS / "clip" / "vocab.json").read_text())
        vocabulary["fox</w>"], vocabulary["cat</w>"] = vocabulary["cat</w>"], vocabulary["fox</w>"]
        (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "tokenizer" / "merges.txt").write_bytes((ASSETS / "clip" / "merges.txt").read_bytes())
        assert self.ids(folder, "fox")[1] == self.ids(shared_tiny_model("sd1"), "cat")[1]

    @pytest.mark.parametrize("merges_as_pairs", [True, False])
    def test_a_model_with_only_tokenizer_json(self, merges_as_pairs: bool, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        lines = (ASSETS / "clip" / "merges.txt").read_text().splitlines()[1:]
        model = {
            "vocab": json.loads((ASSETS / "clip" / "vocab.json").read_text()),
            "merges": [line.split() for line in lines] if merges_as_pairs else lines,
        }
        (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps({"model": model}))
        assert self.ids(folder, "a fox!") == self.ids(shared_tiny_model("sd1"), "a fox!")

    def test_added_tokens_keep_their_ids(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path)
        for name in ("vocab.json", "merges.txt"):
            (folder / "tokenizer" / name).write_bytes((ASSETS / "clip" / name).read_bytes())
        (folder / "tokenizer" / "added_tokens.json").write_text('{"<two>": 49409, "<one>": 49408}')
        assert self.ids(folder, "<one> <two>") == [49406, 49408, 49409, 49407]


class TestEncoding:
    @pytest.mark.parametrize("family", ["sd1", "sd2"])
    def test_clip_skip(self, family: Family) -> None:
        base = base_model(family)
        ids = tokenize(base, ["a fox", LONG], 75)
        encoder: Any = base.text_encoders[0]
        reference = encoder(ids[0][:, 0], output_hidden_states=True)

        def hidden(clip_skip: int | None) -> torch.Tensor:
            return encode_ids(base, ids, clip_skip=clip_skip).hidden

        norm = encoder.final_layer_norm
        assert torch.equal(hidden(None), reference.last_hidden_state)
        assert torch.equal(hidden(1), reference.last_hidden_state)
        assert torch.equal(hidden(2), norm(reference.hidden_states[-2]))
        assert torch.equal(hidden(3), norm(reference.hidden_states[-3]))
        assert not torch.allclose(hidden(2), hidden(1))

    def test_clip_skip_beyond_the_first_layer(self) -> None:
        with pytest.raises(LoratoryError, match="clip_skip is 4, but the text encoder has 3 layers"):
            encode_text(base_model("sd1"), ["a fox"], clip_skip=4, max_token_length=75)

    def test_sdxl(self) -> None:
        base = base_model("sdxl")
        captions = ["a fox", "a cat in the rain"]
        encoded = encode_text(base, captions, clip_skip=None, max_token_length=75)
        first_ids, second_ids = (ids[:, 0] for ids in tokenize(base, captions, 75))
        first = base.text_encoders[0](first_ids, output_hidden_states=True)
        second: Any = base.text_encoders[1](second_ids, output_hidden_states=True)
        expected = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=2)
        assert torch.equal(encoded.hidden, expected)
        assert encoded.pooled is not None
        torch.testing.assert_close(encoded.pooled, second.text_embeds)
        skipped = encode_text(base, captions, clip_skip=2, max_token_length=75)
        assert torch.equal(skipped.hidden, expected)

    def test_sdxl_pools_at_the_first_end_token_of_the_first_chunk(self) -> None:
        base = base_model("sdxl")
        short = encode_text(base, ["fox " * 75], clip_skip=None, max_token_length=75)
        long = encode_text(base, ["fox " * 75 + "cat"], clip_skip=None, max_token_length=150)
        assert short.pooled is not None and long.pooled is not None
        torch.testing.assert_close(long.pooled, short.pooled)
        # A caption may spell the end token: what follows it must not move the pooling place.
        ids = tokenize(base, ["fox"], 75)
        twice = [encoder_ids.clone() for encoder_ids in ids]
        twice[1][0, 0, 10] = 49407
        torch.testing.assert_close(
            encode_ids(base, twice, clip_skip=None).pooled, encode_ids(base, ids, clip_skip=None).pooled
        )

    @pytest.mark.parametrize(("length", "tokens"), [(75, 77), (150, 152), (225, 227)])
    @pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
    def test_chunks_are_joined_without_their_inner_ends(self, family: Family, length: int, tokens: int) -> None:
        base = base_model(family)
        captions = [LONG, "fox"]
        hidden = encode_text(base, captions, clip_skip=None, max_token_length=length).hidden
        assert hidden.shape == (2, tokens, base.unet.config["cross_attention_dim"])
        ids = tokenize(base, captions, length)
        chunks = [
            encode_ids(base, [one[:, k : k + 1] for one in ids], clip_skip=None).hidden for k in range(length // 75)
        ]
        torch.testing.assert_close(hidden[:, :1], chunks[0][:, :1])
        torch.testing.assert_close(hidden[:, -1:], chunks[-1][:, -1:])
        for k, chunk in enumerate(chunks):
            torch.testing.assert_close(hidden[:, 75 * k + 1 : 75 * k + 76], chunk[:, 1:-1])

    def test_a_text_model_one_level_down(self) -> None:
        # transformers before 5.6 nested CLIPTextModel, and adapters may wrap it.
        class Nested(nn.Module):
            def __init__(self, text_model: nn.Module) -> None:
                super().__init__()
                self.text_model = text_model

        base = base_model("sd1")
        nested: Any = Nested(base.text_encoders[0])
        wrapped = BaseModel(**{**vars(base), "text_encoders": [nested]})
        expected = encode_text(base, ["a fox"], clip_skip=2, max_token_length=150).hidden
        assert torch.equal(encode_text(wrapped, ["a fox"], clip_skip=2, max_token_length=150).hidden, expected)

    @pytest.mark.parametrize("family", ["sd2", "sdxl"])
    def test_is_differentiable_and_runs_under_autocast(self, family: Family) -> None:
        base = base_model(family)
        weights = [encoder.get_input_embeddings().weight for encoder in base.text_encoders]
        try:
            for weight in weights:
                weight.requires_grad_(True)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                encoded = encode_text(base, ["a fox"], clip_skip=None, max_token_length=75)
            total = encoded.hidden.float().sum() + (0 if encoded.pooled is None else encoded.pooled.float().sum())
            total.backward()
            assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
        finally:
            for weight in weights:
                weight.requires_grad_(False)
                weight.grad = None


def test_sdxl_time_ids_put_heights_first() -> None:
    ids = sdxl_time_ids((1920, 1080), (398, 7), (1024, 832))
    assert ids.dtype == torch.float32
    assert ids.tolist() == [1080, 1920, 7, 398, 832, 1024]
