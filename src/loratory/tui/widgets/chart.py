"""A chart on the screen: draws a `ChartView`, and of it only the cells that changed."""

from dataclasses import replace
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from loratory.terminal.chart import ChartView, Line, draw_chart, legend, steady_band
from loratory.terminal.ticks import Scale, steady_scale
from loratory.tui.text import ASCII, Glyphs, fitted, printable
from loratory.tui.widgets.changes import refresh_changed

RUN_ROLES = ("run-1", "run-2", "run-3", "run-4", "run-5", "run-6")
"""Roles for curves of several runs; after the last comes the first."""


class Chart(Widget):
    """Curves over steps, with a legend above them where curves have names."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"chart--{role}" for role in ("axis", "line", "raw", "band", "mark", *RUN_ROLES)
    }
    DEFAULT_CSS = """
    Chart { height: 1fr; }
    Chart > .chart--axis { color: $foreground-muted; }
    Chart > .chart--line { color: $text-accent; text-style: bold; }
    Chart > .chart--raw { color: $foreground-muted; }
    Chart > .chart--band { color: $secondary; }
    Chart > .chart--mark { color: $text-error; text-style: bold; }
    Chart > .chart--run-1 { color: $text-accent; }
    Chart > .chart--run-2 { color: $text-success; }
    Chart > .chart--run-3 { color: $text-primary; }
    Chart > .chart--run-4 { color: $text-error; }
    Chart > .chart--run-5 { color: $foreground; }
    Chart > .chart--run-6 { color: $foreground-muted; }
    """

    def __init__(self, glyphs: Glyphs, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._glyphs = glyphs
        self._view = ChartView(empty="")
        self._scale: Scale | None = None
        self._drawn: list[Line] = []
        self._strips: list[Strip] = []
        self._width_drawn = 0

    @property
    def view(self) -> ChartView:
        return self._view

    def show(self, view: ChartView) -> None:
        """Shows a view; what looks as before is not sent to the terminal again.

        While its subject stays the same, the ends of its scale stay as long as they suit.
        """
        if (view.subject, view.log) != (self._view.subject, self._view.log):
            self._scale = None
        elif self._scale is not None and view.band is not None and self._view.band is not None:
            view = replace(view, band=steady_band(self._view.band, view.band, self._scale))
        self._view = view
        before = self._strips
        self._draw()
        refresh_changed(self, before, self._strips)

    def on_resize(self) -> None:
        self._draw()
        self.refresh()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._width_drawn = 0
        self._draw()

    def render_line(self, y: int) -> Strip:
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    def _draw(self) -> None:
        width, height = self.size
        if not self.is_mounted or width < 1 or height < 1:
            self._drawn, self._strips = [], []
            return
        named = legend(self._view)
        lines: list[Line] = []
        if named and height > 3:
            each = max(6, (width - 2) // len(named) - 4)
            lines.append(
                tuple(
                    (f" {entry.letter} {fitted(entry.name, min(each, cell_len(printable(entry.name))))} ", entry.role)
                    for entry in named
                )
            )
        lines += draw_chart(
            self._view, width, height - len(lines), ascii_only=self._glyphs is ASCII, settle=self._settle
        )
        # A line that looks as before stays the very same strip: it is neither made nor compared again.
        old = dict(zip(self._drawn, self._strips, strict=True)) if self._width_drawn == width else {}
        ground, styles = self.rich_style, self._styles_of({role for line in lines for _, role in line})
        self._strips = [
            old.get(line)
            or Strip([Segment(text, styles.get(role, ground)) for text, role in line]).adjust_cell_length(width, ground)
            for line in lines
        ]
        self._drawn, self._width_drawn = lines, width

    def _settle(self, scale: Scale) -> Scale:
        self._scale = steady_scale(self._scale, scale)
        return self._scale

    def _styles_of(self, roles: set[str]) -> dict[str, Style]:
        names = {role: f"chart--{role}" for role in roles}
        known = self.COMPONENT_CLASSES
        return {role: self.get_component_rich_style(name) for role, name in names.items() if name in known}
