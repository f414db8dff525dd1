"""A query: terms joined by AND, OR, NOT and parentheses."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from loratory.tags.query.error import QueryError
from loratory.tags.query.terms import Facts, Flag, Number, Term, Test, Text
from loratory.tags.query.tokens import Token, read_tokens

_MAX_DEPTH = 50
"""Parentheses inside parentheses; each takes a few frames of Python's stack."""


@dataclass(frozen=True)
class And:
    operands: "tuple[Node, ...]"

    def __str__(self) -> str:
        return " AND ".join(f"({each})" if isinstance(each, Or) else str(each) for each in self.operands)


@dataclass(frozen=True)
class Or:
    operands: "tuple[Node, ...]"

    def __str__(self) -> str:
        return " OR ".join(map(str, self.operands))


@dataclass(frozen=True)
class Not:
    operand: "Node"

    def __str__(self) -> str:
        return f"NOT ({self.operand})" if isinstance(self.operand, And | Or) else f"NOT {self.operand}"


Node = And | Or | Not | Term


@dataclass(frozen=True)
class Query:
    """A condition on an image. `str(query)` is a query of the same meaning, written in one customary way."""

    root: Node

    @cached_property
    def matches(self) -> Callable[[Facts], bool]:
        """The test of an image; made once, with every pattern compiled."""
        return _compiled(self.root)

    @cached_property
    def needs(self) -> frozenset[str]:
        """The facts it reads that take work to find out: of "tokens", "size", "dup", "issue"."""
        return _needs(self.root)

    def asks_for_issues(self, issues: Iterable[str]) -> bool:
        """Whether it asks for findings of any of these rules, or for findings of any."""
        named = list(issues)
        return any(term.asks_for_issues(named) for term in _terms(self.root) if isinstance(term, Text | Flag))

    def __str__(self) -> str:
        return str(self.root)


def parse_query(text: str) -> Query:
    """Reads a query. Raises QueryError, with the place, for text that is none."""
    return Query(_Parser(text).whole())


class _Parser:
    """Reads tokens one by one; every method leaves `_token` at the first one it did not read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = read_tokens(text)
        self._before: Token | None = None
        self._token = next(self._tokens)

    def whole(self) -> Node:
        if self._token.kind == "end":
            raise self._error("the query is empty; write a term such as tag:fox")
        node = self._any(0)
        if self._token.kind == ")":
            raise self._error("this ) closes nothing; to search for it, write \\)")
        return node

    def _any(self, depth: int) -> Node:
        operands = [self._all(depth)]
        while self._token.kind == "or":
            self._advance()
            operands.append(self._all(depth))
        return _joined(Or, operands)

    def _all(self, depth: int) -> Node:
        operands = [self._one(depth)]
        while self._token.kind in ("and", "not", "(", "term"):
            if self._token.kind == "and":
                self._advance()
            operands.append(self._one(depth))
        return _joined(And, operands)

    def _one(self, depth: int) -> Node:
        negated = False
        while self._token.kind == "not":
            negated = not negated
            self._advance()
        if self._token.kind == "(":
            node = self._group(depth + 1)
        elif self._token.term is not None:
            node = self._token.term
            self._advance()
        else:
            after = f" after {self._before.spelled}" if self._before else ""
            raise self._error(f"expected a term such as tag:fox{after}, not {self._token.spelled}")
        return _negated(node) if negated else node

    def _group(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise self._error(f"more than {_MAX_DEPTH} parentheses inside one another")
        opening = self._token.start
        self._advance()
        node = self._any(depth)
        if self._token.kind != ")":
            raise self._error(f"expected ) for the ( at character {opening + 1}")
        self._advance()
        return node

    def _advance(self) -> None:
        self._before = self._token
        self._token = next(self._tokens)

    def _error(self, reason: str) -> QueryError:
        return QueryError(reason, self._text, self._token.start)


def _joined(kind: type[And] | type[Or], operands: list[Node]) -> Node:
    flat: list[Node] = []
    for each in operands:
        flat.extend(each.operands if isinstance(each, kind) else [each])
    return kind(tuple(flat)) if len(flat) > 1 else flat[0]


def _negated(node: Node) -> Node:
    return node.operand if isinstance(node, Not) else Not(node)


def _needs(node: Node) -> frozenset[str]:
    return frozenset[str]().union(*(term.needs for term in _terms(node)))


def _terms(node: Node) -> Iterator[Term]:
    match node:
        case And(operands) | Or(operands):
            for operand in operands:
                yield from _terms(operand)
        case Not(operand):
            yield from _terms(operand)
        case Text() | Number() | Flag():
            yield node


def _compiled(node: Node) -> Test:
    match node:
        case And(operands):
            return _all_hold(_cheapest_first(operands))
        case Or(operands):
            return _any_holds(_cheapest_first(operands))
        case Not(operand):
            test = _compiled(operand)
            return lambda facts: not test(facts)
        case Text() | Number() | Flag():
            return node.compiled()


def _cheapest_first(operands: Iterable[Node]) -> tuple[Test, ...]:
    """The order changes no answer, but facts that take work are then asked for only where they decide."""
    return tuple(map(_compiled, sorted(operands, key=lambda each: len(_needs(each)))))


def _all_hold(tests: tuple[Test, ...]) -> Test:
    def holds(facts: Facts) -> bool:
        for test in tests:  # noqa: SIM110 - a generator would cost half as much again
            if not test(facts):
                return False
        return True

    return holds


def _any_holds(tests: tuple[Test, ...]) -> Test:
    def holds(facts: Facts) -> bool:
        for test in tests:  # noqa: SIM110 - as above
            if test(facts):
                return True
        return False

    return holds
