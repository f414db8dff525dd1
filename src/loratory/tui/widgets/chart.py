"""A chart on the screen: draws a `ChartView`, and of it only the lines that changed."""

from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from loratory.terminal.chart import ChartView, Line, draw_chart, legend
from loratory.tui.text import ASCII, Glyphs, fitted, printable

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
        self._drawn: list[Line] = []

    @property
    def view(self) -> ChartView:
        return self._view

    def show(self, view: ChartView) -> None:
        """Shows a view; what looks as before is not sent to the terminal again."""
        self._view = view
        before = self._drawn
        self._draw()
        if len(before) != len(self._drawn):
            self.refresh()
            return
        changed = [y for y, (old, new) in enumerate(zip(before, self._drawn, strict=True)) if old != new]
        if changed:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in changed))

    def on_resize(self) -> None:
        self._draw()
        self.refresh()

    def _draw(self) -> None:
        width, height = self.size
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
        ascii_only = self._glyphs is ASCII
        self._drawn = lines + draw_chart(self._view, width, height - len(lines), ascii_only=ascii_only)

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y >= len(self._drawn):
            return Strip.blank(width, self.rich_style)
        known = self.COMPONENT_CLASSES
        styles = [f"chart--{role}" if f"chart--{role}" in known else "" for _, role in self._drawn[y]]
        segments = [
            Segment(text, self.get_component_rich_style(style) if style else self.rich_style)
            for (text, _), style in zip(self._drawn[y], styles, strict=True)
        ]
        return Strip(segments).adjust_cell_length(width, self.rich_style)
