"""Captions to token ids, without torch: counting, cutting into chunks, and saying what does not fit."""

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from loratory.errors import LoratoryError
from loratory.models.components import ASSETS
from loratory.models.emphasis import parse_emphasis

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from loratory.models.load import BaseModel

BEGIN_TOKEN = 49406
END_TOKEN = 49407
CHUNK_TOKENS = 75

# The words that CLIP's byte-pair encoding works on. A text may spell the two special tokens out.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class LightTokenizer:
    """The part of a tokenizer that counting needs. backend_tokenizer: a `tokenizers.Tokenizer`."""

    backend_tokenizer: Any


@cache
def light_clip() -> LightTokenizer:
    """CLIP's tokenizer for `count_tokens` and `overflow`, with the ids and offsets of transformers' CLIPTokenizer.

    It is ready in about a tenth of a second; transformers takes seconds to import. Every Stable Diffusion model uses
    this vocabulary, unless its own folder has tokens added to it.
    """
    from tokenizers import AddedToken, Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.normalizers import NFC, Lowercase, Replace
    from tokenizers.normalizers import Sequence as Normalizers
    from tokenizers.pre_tokenizers import ByteLevel, Split
    from tokenizers.pre_tokenizers import Sequence as PreTokenizers

    files = (str(ASSETS / "clip" / name) for name in ("vocab.json", "merges.txt"))
    tokenizer = Tokenizer(BPE.from_file(*files, unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = Normalizers([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
    tokenizer.pre_tokenizer = PreTokenizers(
        [Split(Regex(_WORDS), behavior="removed", invert=True), ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in ("<|startoftext|>", "<|endoftext|>")]
    )
    return LightTokenizer(tokenizer)


@lru_cache(maxsize=1 << 16)
def _word_tokens(word: str) -> int:
    """Number of CLIP tokens of text between spaces.

    No token crosses a space, so the counts of a text's words add up to its own, and thousands of captions share a few
    words: counting them takes a twentieth of the time.
    """
    return len(light_clip().backend_tokenizer.encode(word, add_special_tokens=False).ids)


def _backend(source: "BaseModel | CLIPTokenizer | LightTokenizer") -> Any:
    # The tokenizers of one model share their vocabulary and differ in padding only: the first speaks for all.
    # The backend is used because the Python layer warns of every caption longer than 77.
    tokenizers = getattr(source, "tokenizers", None)
    one: Any = source if tokenizers is None else tokenizers[0]
    return one.backend_tokenizer


def count_tokens(source: "BaseModel | CLIPTokenizer | LightTokenizer", caption: str, *, weighted: bool = False) -> int:
    """Number of tokens of a caption, without the begin and end tokens.

    weighted: brackets are read as emphasis and take no tokens.
    """
    texts = _texts(caption, weighted)
    if isinstance(source, LightTokenizer):
        return sum(_word_tokens(word) for text in texts for word in text.split(" "))
    backend = _backend(source)
    return sum(len(backend.encode(text, add_special_tokens=False).ids) for text in texts)


def overflow(
    source: "BaseModel | CLIPTokenizer | LightTokenizer",
    caption: str,
    max_token_length: int,
    *,
    weighted: bool = False,
) -> str | None:
    """The end of a caption that `max_token_length` tokens leave no room for; None when all of it fits.

    max_token_length: 75, 150 or 225, without the begin and end tokens. weighted: brackets are read as emphasis, take
    no tokens, and are not in the text that is returned.
    """
    backend, texts, room = _backend(source), _texts(caption, weighted), max_token_length
    for index, text in enumerate(texts):
        offsets = backend.encode(text, add_special_tokens=False).offsets
        if len(offsets) > room:
            return text[offsets[room][0] :] + "".join(texts[index + 1 :])
        room -= len(offsets)
    return None


def _texts(caption: str, weighted: bool) -> list[str]:
    return [text for text, _ in parse_emphasis(caption)] if weighted else [caption]


def caption_ids(tokenizer: "CLIPTokenizer", caption: str, max_token_length: int) -> list[list[int]]:
    """Token ids of a caption in chunks of 77: begin, up to 75 tokens, end, padding.

    The cut between chunks is blind, as in sd-scripts: it may fall inside a tag. Tokens beyond
    max_token_length (a multiple of 75) are dropped.
    """
    ids: list[int] = _backend(tokenizer).encode(caption, add_special_tokens=False).ids
    return _in_chunks(ids, max_token_length, BEGIN_TOKEN, END_TOKEN, _pad(tokenizer))


def weighted_caption_ids(
    tokenizer: "CLIPTokenizer", caption: str, max_token_length: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids as `caption_ids` gives them, with brackets read as emphasis, and the weight of each token.

    The texts between brackets are tokenized one by one, as in sd-scripts: a bracket inside a word cuts the word.
    Begin, end and padding weigh 1.
    """
    backend = _backend(tokenizer)
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in parse_emphasis(caption):
        text_ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        ids += text_ids
        weights += [weight] * len(text_ids)
    return (
        _in_chunks(ids, max_token_length, BEGIN_TOKEN, END_TOKEN, _pad(tokenizer)),
        _in_chunks(weights, max_token_length, 1.0, 1.0, 1.0),
    )


def _pad(tokenizer: "CLIPTokenizer") -> int:
    return tokenizer.pad_token_id  # pyright: ignore[reportReturnType] - typed as any special token


def _in_chunks(items: list[_Item], max_token_length: int, begin: _Item, end: _Item, pad: _Item) -> list[list[_Item]]:
    if max_token_length < CHUNK_TOKENS or max_token_length % CHUNK_TOKENS:
        raise LoratoryError(f"caption.max_token_length is {max_token_length}; it must be 75, 150 or 225.")
    chunks: list[list[_Item]] = []
    for start in range(0, max_token_length, CHUNK_TOKENS):
        content = items[start : start + CHUNK_TOKENS]
        chunks.append([begin, *content, end, *[pad] * (CHUNK_TOKENS - len(content))])
    return chunks
