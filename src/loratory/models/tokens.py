"""Captions to token ids, without torch: counting, cutting into chunks, and saying what does not fit."""

from typing import TYPE_CHECKING, Any, TypeVar

from loratory.errors import LoratoryError
from loratory.models.emphasis import parse_emphasis

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from loratory.models.load import BaseModel

BEGIN_TOKEN = 49406
END_TOKEN = 49407
CHUNK_TOKENS = 75

_Item = TypeVar("_Item")


def _backend(source: "BaseModel | CLIPTokenizer") -> Any:
    # The tokenizers of one model share their vocabulary and differ in padding only: the first speaks for all.
    # The backend is used because the Python layer warns of every caption longer than 77.
    tokenizers = getattr(source, "tokenizers", None)
    return (source if tokenizers is None else tokenizers[0]).backend_tokenizer  # pyright: ignore


def count_tokens(source: "BaseModel | CLIPTokenizer", caption: str, *, weighted: bool = False) -> int:
    """Number of tokens of a caption, without the begin and end tokens.

    weighted: brackets are read as emphasis and take no tokens.
    """
    backend = _backend(source)
    return sum(len(backend.encode(text, add_special_tokens=False).ids) for text in _texts(caption, weighted))


def overflow(
    source: "BaseModel | CLIPTokenizer", caption: str, max_token_length: int, *, weighted: bool = False
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
    return tokenizer.pad_token_id  # pyright: ignore


def _in_chunks(items: list[_Item], max_token_length: int, begin: _Item, end: _Item, pad: _Item) -> list[list[_Item]]:
    if max_token_length < CHUNK_TOKENS or max_token_length % CHUNK_TOKENS:
        raise LoratoryError(f"caption.max_token_length is {max_token_length}; it must be 75, 150 or 225.")
    chunks: list[list[_Item]] = []
    for start in range(0, max_token_length, CHUNK_TOKENS):
        content = items[start : start + CHUNK_TOKENS]
        chunks.append([begin, *content, end, *[pad] * (CHUNK_TOKENS - len(content))])
    return chunks
