"""Text of others reaches the screen only through `loratory.tui.text`; this looks at the source for other ways."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import loratory.tui
from hostile import CAPTIONS, TAGS, controls
from loratory.tui.text import fitted, plain, printable

SOURCES = sorted(Path(loratory.tui.__file__).parent.rglob("*.py"))

# What takes text to show, and reads it as markup or as it is.
SINKS = {"Static", "Label", "Option", "notify", "Content", "assemble", "Text"}
# What makes text fit to be shown, or is made of such.
CLEANERS = {"fitted", "printable", "plain", "number", "wrapped", "Content", "assemble", "len", "sum"}
# Names and attributes of the program's own text: signs of the screen, names of sites and actions, numbers.
OWN = {
    "_glyphs",
    "glyphs",
    "known_site",
    "short",
    "cursor",
    "_lines",
    "rows",
    "hint",
    "count",
    "number",
    "tokens",
    "reviewed",
    "pictures_with",
}
MARKUP = {"from_markup", "from_rich_text", "markup"}


def own_text(node: ast.expr, function: ast.AST, within: frozenset[str] = frozenset()) -> bool:
    """Whether an expression can only be the program's own text, or text of others made fit to be shown.

    within: the local names that are being looked at, which may be bound to something made of themselves.
    """
    match node:
        case ast.Constant():
            return True
        case ast.JoinedStr(values=parts) | ast.List(elts=parts) | ast.BoolOp(values=parts):
            return all(own_text(part, function, within) for part in parts)
        case ast.Tuple(elts=[part, *_]):  # the rest is its style
            return own_text(part, function, within)
        case ast.FormattedValue(value=part) | ast.Starred(value=part) | ast.Subscript(value=part):
            return own_text(part, function, within)
        case ast.IfExp(body=first, orelse=second) | ast.BinOp(left=first, right=second):
            return own_text(first, function, within) and own_text(second, function, within)
        case ast.ListComp(elt=part) | ast.GeneratorExp(elt=part):
            return own_text(part, function, within)
        case ast.Call(func=ast.Name(id="enumerate"), args=[part]):
            return own_text(part, function, within)
        case ast.Call(func=ast.Name(id=name)):
            return name in CLEANERS
        case ast.Call(func=ast.Attribute(attr=name, value=of)):
            return name in CLEANERS | OWN or own_text(of, function, within)
        case ast.Attribute(attr=name, value=of):
            return name in OWN or (isinstance(of, ast.Attribute | ast.Name) and own_text(of, function, within))
        case ast.Name(id=name):
            bound = list(bindings(name, function))
            return name in OWN | within or (
                bool(bound) and all(own_text(value, function, within | {name}) for value in bound)
            )
        case _:
            return False


def bindings(name: str, function: ast.AST) -> Iterator[ast.expr]:
    """What a local name is bound to."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                pass
            case ast.AugAssign(target=target, value=value) | ast.For(target=target, iter=value):
                pass
            case ast.comprehension(target=target, iter=value):
                pass
            case _:
                continue
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = zip(target.elts, value.elts, strict=True)
        else:
            pairs = [(target, value)]
        for one, what in pairs:
            if any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(one)) and not (
                isinstance(what, ast.Name) and what.id == name
            ):
                yield what


def breaches(source: str) -> list[str]:
    """The lines of a module that show text without making it fit, or as markup."""
    found: list[str] = []
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            shown = list(call.args)
            if name in SINKS:
                if name not in ("assemble", "notify"):
                    shown = shown[:1]
                shown += [word.value for word in call.keywords if word.arg in ("content", "message", "title", "prompt")]
            elif name == "update" and "Static" in ast.unparse(call.func):
                shown = [part for part in shown if isinstance(part, ast.Constant | ast.JoinedStr | ast.BinOp)]
            elif name not in MARKUP:
                continue
            if name in MARKUP or not all(own_text(part, function) for part in shown):
                found.append(f"{call.lineno}: {ast.unparse(call)[:120]}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_shown_that_was_not_made_fit(path: Path) -> None:
    assert breaches(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "Static(f'{name}')",
        "Static(name)",
        "Label(self.item.name)",
        "self.app.notify(f'{error}')",
        "self.notify(message, title=name)",
        "Content.from_markup('[b]$name[/]', name=name)",
        "Content(' ' + name)",
        "Content.assemble((name, 'bold'))",
        "Content.assemble('a', fitted(name, 3), item.name)",
        "Option(row.text)",
        "self.query_one('#a', Static).update(f'{name}')",
    ],
)
def test_a_way_around_would_be_found(line: str) -> None:
    assert breaches(f"def f(self, name, item, row, message, error):\n    {line}\n")


def test_what_makes_text_fit_leaves_nothing_that_acts() -> None:
    for text in [*TAGS, *(data.decode("utf-8", "surrogateescape") for data in CAPTIONS)]:
        for width in (0, 1, 2, 7, 80):
            assert not controls(fitted(text, width) + printable(text) + plain(text, "bold").plain)
