"""Sends the terminal only the cells that changed, and only the part of a style that differs from the one before.

Textual sends a changed region together with all that is left of it in its widget, and writes every style out in full:
on a chart, whose newest columns are at the right, that is nearly all of what is sent. Screens that change by themselves
while nobody types use this compositor instead; over a slow connection it is what keeps keys quick.
"""

from collections.abc import Iterable
from functools import lru_cache

from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, Compositor
from textual.strip import Strip

from loratory.tui.widgets.changes import is_even

_RESET = "\x1b[0m"
_SYSTEMS = {"standard": ColorSystem.STANDARD, "256": ColorSystem.EIGHT_BIT, "truecolor": ColorSystem.TRUECOLOR}
# What ends an attribute. Bold and dim end together.
_ENDS = {"1": "22", "2": "22", "3": "23", "4": "24", "7": "27", "9": "29"}
# With these a blank looks like any other on its ground.
_UNSEEN_ON_BLANKS = frozenset("123")


class SparingCompositor(Compositor):
    """Textual's compositor, with updates of parts of the screen in few bytes."""

    def render_partial_update(self) -> ChopsUpdate | None:
        update = super().render_partial_update()
        return None if update is None else SparingUpdate(update.chops, update.spans, update.chop_ends)


class SparingUpdate(ChopsUpdate):
    """Spans of lines, as (line, first cell, after the last)."""

    def render_segments(self, console: Console) -> str:
        pen = _Pen(console)
        copied: set[tuple[int, int]] = set()
        for y, x1, x2 in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                if strip is None or x >= x2 or end <= x1:
                    continue
                first, last = max(x, x1), min(end, x2)
                if is_even(strip.text):
                    pen.write(first, y, strip.crop(first - x, last - x))
                elif (x, y) not in copied:  # wide characters and marks must not be cut
                    pen.copy(x, y, strip)
                    copied.add((x, y))
        return pen.said()


class _Pen:
    """Writes text at places, and remembers where it stands and in which style."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._system = _SYSTEMS.get(console.color_system or "", ColorSystem.TRUECOLOR)
        self._said: list[str] = []
        self._style = _PLAIN
        self._place: tuple[int, int] | None = None

    def write(self, x: int, y: int, strip: Strip) -> None:
        """A strip in which every character takes one cell."""
        self._go(x, y)
        for segment in _joined(strip):
            style = segment.style
            if style is not None and style.link:
                self._turn(_PLAIN)
                self._said.append(Strip([segment]).render(self._console))
                continue
            target = _PLAIN if style is None else _codes(style, self._system)
            if segment.text.isspace() and _UNSEEN_ON_BLANKS.issuperset(self._style[0] | target[0]):
                target = (self._style[0], self._style[1], target[2])
            self._turn(target)
            self._said.append(segment.text)
        self._place = (x + strip.cell_length, y)

    def copy(self, x: int, y: int, strip: Strip) -> None:
        """Any strip, as Textual writes it."""
        self._turn(_PLAIN)
        self._go(x, y)
        self._said.append(strip.render(self._console))
        self._place = None

    def said(self) -> str:
        """All of it; the terminal is left without a style."""
        self._turn(_PLAIN)
        return "".join(self._said)

    def _go(self, x: int, y: int) -> None:
        if self._place == (x, y):
            return
        if self._place is not None and self._place[1] == y and x > self._place[0]:
            self._said.append(f"\x1b[{x - self._place[0]}C")
        else:
            self._said.append(f"\x1b[{y + 1};{x + 1}H")

    def _turn(self, style: "_Codes") -> None:
        if style != self._style:
            self._said.append(_RESET if style == _PLAIN else f"\x1b[{_difference(self._style, style)}m")
            self._style = style


_Codes = tuple[frozenset[str], str, str]
"""Attributes, colour and ground as the terminal takes them; "" for its own colours."""
_PLAIN: _Codes = (frozenset(), "", "")


@lru_cache(maxsize=4096)
def _codes(style: Style, system: ColorSystem) -> _Codes:
    written = style.without_color.render("x", color_system=system)
    attributes = written[2 : written.index("m")].split(";") if written.startswith("\x1b[") else []
    colour, ground = style.color, style.bgcolor
    return (
        frozenset(attributes),
        ";".join(colour.downgrade(system).get_ansi_codes()) if colour else "",
        ";".join(ground.downgrade(system).get_ansi_codes(foreground=False)) if ground else "",
    )


@lru_cache(maxsize=4096)
def _difference(old: _Codes, new: _Codes) -> str:
    """What leads from one style to another."""
    if not (old[0] - new[0]) <= _ENDS.keys():
        return ";".join(part for part in ("0", *sorted(new[0]), new[1], new[2]) if part)
    ends = {_ENDS[code] for code in old[0] - new[0]}
    begins = [code for code in sorted(new[0]) if code not in old[0] or _ENDS.get(code) in ends]
    colours = [code or own for code, own, before in ((new[1], "39", old[1]), (new[2], "49", old[2])) if code != before]
    return ";".join([*sorted(ends), *begins, *colours])


def _joined(strip: Strip) -> Iterable[Segment]:
    return (segment for segment in strip.simplify() if segment.text)
