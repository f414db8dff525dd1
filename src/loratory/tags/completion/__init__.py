"""Completion of tags while they are typed: `Completer(vocabulary).complete(typed, uses=…)`."""

from loratory.tags.completion.completer import Band, Completer, Suggestion, open_index
from loratory.tags.completion.index import Index, build_index, load_index

__all__ = ["Band", "Completer", "Index", "Suggestion", "build_index", "load_index", "open_index"]
