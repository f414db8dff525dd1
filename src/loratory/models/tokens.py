"""Captions to token ids, without torch: counting, cutting into chunks, and saying what does not fit."""

from typing import TYPE_CHECKING, Any

from loratory.errors import LoratoryError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from loratory.models.load import BaseModel

BEGIN_TOKEN = 49406
END_TOKEN = 49407
CHUNK_TOKENS = 75


def _backend(source: "BaseModel | CLIPTokenizer") -> Any:
    # The tokenizers of one model share their vocabulary and differ in padding only: the first speaks for all.
    # The backend is used because the Python layer warns of every caption longer than 77.
    tokenizers = getattr(source, "tokenizers", None)
    return (source if tokenizers is None else tokenizers[0]).backend_tokenizer  # pyright: ignore


def count_tokens(source: "BaseModel | CLIPTokenizer", caption: str) -> int:
    """Number of tokens of a caption, without the begin and end tokens."""
    return len(_backend(source).encode(caption, add_special_tokens=False).ids)


def overflow(source: "BaseModel | CLIPTokenizer", caption: str, max_token_length: int) -> str | None:
    """The end of a caption that `max_token_length` tokens leave no room for; None when all of it fits.

    max_token_length: 75, 150 or 225, without the begin and end tokens.
    """
    offsets = _backend(source).encode(caption, add_special_tokens=False).offsets
    if len(offsets) <= max_token_length:
        return None
    return caption[offsets[max_token_length][0] :]


def caption_ids(tokenizer: "CLIPTokenizer", caption: str, max_token_length: int) -> list[list[int]]:
    """Token ids of a caption in chunks of 77: begin, up to 75 tokens, end, padding.

    The cut between chunks is blind, as in sd-scripts: it may fall inside a tag. Tokens beyond
    max_token_length (a multiple of 75) are dropped.
    """
    if max_token_length < CHUNK_TOKENS or max_token_length % CHUNK_TOKENS:
        raise LoratoryError(f"caption.max_token_length is {max_token_length}; it must be 75, 150 or 225.")
    ids: list[int] = _backend(tokenizer).encode(caption, add_special_tokens=False).ids
    pad: int = tokenizer.pad_token_id  # pyright: ignore
    chunks: list[list[int]] = []
    for start in range(0, max_token_length, CHUNK_TOKENS):
        content = ids[start : min(start + CHUNK_TOKENS, max_token_length)]
        padding = [pad] * (CHUNK_TOKENS - len(content))
        chunks.append([BEGIN_TOKEN, *content, END_TOKEN, *padding])
    return chunks
