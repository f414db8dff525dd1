"""The filter language: which images a person means, as one line of text.

docs/query.md describes it to its users.
"""

from loratory.tags.query.error import QueryError
from loratory.tags.query.grammar import Query, parse_query
from loratory.tags.query.terms import Facts

__all__ = ["Facts", "Query", "QueryError", "parse_query"]
