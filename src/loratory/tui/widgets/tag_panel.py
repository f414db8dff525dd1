"""The tags of the current picture as chips with hint letters, and what is wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from textual.content import Content
from textual.widget import Widget

from loratory.tui.keys import hints
from loratory.tui.text import UNICODE, Glyphs, fitted, wrapped

_MOST_COLUMNS = 4
_NARROWEST_COLUMN = 12  # cells, its gap included


@dataclass(frozen=True)
class TagView:
    """One tag as it is shown. count: pictures of the set that have it. remark: what is wrong, in a word or two."""

    tag: str
    count: int = 0
    remark: str = ""
    colour: str = ""


@dataclass(frozen=True)
class PanelView:
    """All that the panel shows. facts: short lines above the tags. findings: (message, what keys do about it).

    text: the caption of a set in natural language, which has sentences rather than tags. typed: the letters of a hint
    typed so far; None where no hint is asked for. empty: what stands there where there is nothing.
    """

    facts: tuple[str, ...] = ()
    tags: tuple[TagView, ...] = ()
    text: str = ""
    findings: tuple[tuple[str, str], ...] = ()
    typed: str | None = None
    empty: str = ""


class TagPanel(Widget):
    """Draws a PanelView in whatever room there is: a tag a row where they fit, else as many columns as it takes."""

    def __init__(self, glyphs: Glyphs = UNICODE, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyphs = glyphs
        self._view = PanelView()

    def show(self, view: PanelView) -> None:
        if view != self._view:
            self._view = view
            self.refresh()

    def render(self) -> Content:
        width, height = self.size
        if width < 8 or height < 1:
            return Content("")
        return Content("\n").join(panel_lines(self._view, width, height, self._glyphs))


def panel_lines(view: PanelView, width: int, height: int, glyphs: Glyphs = UNICODE) -> list[Content]:
    """The panel as at most `height` lines of `width` cells. Tags come before findings where room is short."""
    lines = [Content(fitted(fact, width, glyphs.ellipsis)).stylize("$foreground-muted") for fact in view.facts]
    if lines:
        lines.append(Content(""))
    room = height - len(lines)
    told = _finding_lines(view.findings, width, glyphs)
    # Findings may take what the tags leave, but always a third.
    for_tags = max(1, room - len(told) - 1, room - max(3, room // 3))
    if view.text.strip():
        rows = [row for line in view.text.splitlines() for row in wrapped(line, width) or [""]]
        if len(rows) > for_tags:
            rows = [*rows[: for_tags - 1], f"{glyphs.ellipsis} {len(rows) - for_tags + 1} more lines"]
        lines += [Content(fitted(line, width, glyphs.ellipsis)) for line in rows]
    elif not view.tags:
        lines += [Content(fitted(line, width)).stylize("$text-warning") for line in wrapped(view.empty, width)]
    else:
        lines += _tag_lines(view, width, for_tags, glyphs)
    room = height - len(lines)
    if told and room >= 2:
        lines.append(Content(""))
        lines += told[: room - 1]
    return lines[:height]


def _tag_lines(view: PanelView, width: int, room: int, glyphs: Glyphs) -> list[Content]:
    count = len(view.tags)
    letters = hints(count)
    most = max(1, min(_MOST_COLUMNS, (width + 2) // _NARROWEST_COLUMN))
    columns = next((columns for columns in range(1, most) if -(-count // columns) <= room), most)
    rows = -(-count // columns)
    cell = (width - 2 * (columns - 1)) // columns
    if rows > room:  # more than even that many columns hold: the rest is told by number
        rows = room
    lines: list[Content] = []
    for row in range(rows):
        cells: list[Content] = []
        for column in range(columns):
            index = column * rows + row
            if index >= count:
                continue
            last = row == rows - 1 and column == columns - 1
            if last and count > rows * columns:
                cells.append(Content(fitted(f"and {count - index} more", cell, glyphs.ellipsis)))
            else:
                cells.append(_chip(view.tags[index], letters[index], view, cell, columns == 1, glyphs))
        lines.append(Content("  ").join(cells))
    return lines


def _chip(tag: TagView, hint: str, view: PanelView, width: int, roomy: bool, glyphs: Glyphs) -> Content:
    if view.typed is None:
        hint_style = "$text-accent"
    elif hint.startswith(view.typed):
        hint_style = "bold reverse $text-accent"
    else:
        hint_style = "$foreground-muted"
    remark = tag.remark
    mark = f"{glyphs.finding} " if remark and tag.colour else ""
    tail = f"{mark}{remark}" if roomy else mark.strip()
    number = f" {tag.count:>3}" if roomy and tag.count else ""
    room = width - len(hint) - 1 - len(number)
    tail_width = min(cell_len(tail), room // 2)
    name_width = room - tail_width - (1 if tail else 0)
    name = fitted(tag.tag, name_width, glyphs.ellipsis)
    return Content.assemble(
        (hint, hint_style),
        " ",
        (name, tag.colour),
        *([" ", (fitted(tail, tail_width, glyphs.ellipsis), tag.colour or "$foreground-muted")] if tail else []),
        (number, "$foreground-muted"),
    )


def _finding_lines(findings: Sequence[tuple[str, str]], width: int, glyphs: Glyphs) -> list[Content]:
    lines: list[Content] = []
    for message, does in findings:
        for index, line in enumerate(wrapped(message, width - 2)):
            lead = f"{glyphs.finding} " if index == 0 else "  "
            lines.append(Content.assemble((lead, "$text-warning"), line))
        if does:
            lines += [Content(f"  {line}").stylize("$foreground-muted") for line in wrapped(does, width - 2)]
    return lines
