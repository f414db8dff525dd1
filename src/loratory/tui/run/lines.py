"""Lines of text, and a chart, of which only the cells that changed are sent to the terminal."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.segment import Segment
from textual.content import Content
from textual.geometry import Region
from textual.strip import Strip
from textual.visual import Visual
from textual.widget import Widget

from loratory.terminal.chart import ChartView
from loratory.tui.text import Glyphs
from loratory.tui.widgets.chart import Chart

# Between two changes on a line, fewer unchanged cells than these are cheaper than the cursor's move to the second.
_NEAR = 3
_COMPONENTS = Chart.COMPONENT_CLASSES


class Lines(Widget):
    """Shows what `show` was given last, a line each, cut at the right."""

    ALLOW_SELECT = False

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._shown: tuple[Content, ...] = ()
        self._strips: list[Strip] = []
        self._drawn: dict[tuple[object, ...], Strip] = {}  # what was drawn last time costs nothing

    @property
    def text(self) -> str:
        """What is shown, without its styles."""
        return "\n".join(line.plain for line in self._shown)

    def show(self, lines: Sequence[Content]) -> None:
        before = self._strips
        self._shown = tuple(lines)
        self._draw()
        _refresh_changed(self, before, self._strips)

    def on_resize(self) -> None:
        self._draw()
        self.refresh()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._drawn = {}
        self._draw()

    def render_line(self, y: int) -> Strip:
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    def _draw(self) -> None:
        width, height = self.size
        if not self.is_mounted or width < 1 or height < 1:
            self._strips, self._drawn = [], {}
            return
        ground, style = self.rich_style, self.visual_style
        before, self._drawn = self._drawn, {}
        self._strips = []
        for line in [*self._shown[:height], *[Content("")] * (height - len(self._shown))]:
            key = (line.plain, tuple(line.spans), width)
            strip = before.get(key)
            if strip is None:
                (drawn,) = Visual.to_strips(self, line.truncate(width), width, 1, style, pad=True)
                strip = drawn.adjust_cell_length(width, ground)
            self._drawn[key] = strip
            self._strips.append(strip)


class SteadyChart(Chart):
    """A chart that sends the cells that changed instead of whole lines: most of a curve stays as steps are added."""

    def __init__(self, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(glyphs, id=id)
        self._strips: list[Strip] = []

    def show(self, view: ChartView) -> None:
        before = self._strips
        self._view = view
        self._draw()
        self._paint()
        _refresh_changed(self, before, self._strips)

    def on_resize(self) -> None:
        super().on_resize()
        self._paint()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._paint()

    def render_line(self, y: int) -> Strip:
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    def _paint(self) -> None:
        if not self.is_mounted:
            return
        # Looked up once a chart: a curve over another one changes its style with every few cells.
        ground, width = self.rich_style, self.size.width
        roles = {role for line in self._drawn for _, role in line}
        names = {role: f"chart--{role}" for role in roles}
        known = {role: self.get_component_rich_style(name) for role, name in names.items() if name in _COMPONENTS}
        self._strips = [
            Strip([Segment(text, known.get(role, ground)) for text, role in line]).adjust_cell_length(width, ground)
            for line in self._drawn[: self.size.height]
        ]


def _refresh_changed(widget: Widget, before: list[Strip], after: list[Strip]) -> None:
    """Has those cells drawn again in which the lines of a widget differ."""
    width = widget.size.width
    if len(before) != len(after):
        widget.refresh()
        return
    regions = [
        Region(start, y, end - start, 1)
        for y, (old, new) in enumerate(zip(before, after, strict=True))
        for start, end in changed_cells(old, new, width)
    ]
    if regions:
        widget.refresh(*regions)


def changed_cells(old: Strip, new: Strip, width: int) -> list[tuple[int, int]]:
    """The stretches of cells in which two lines of `width` cells differ, as (first, after the last)."""
    if old == new:
        return []
    before, after = _cells(old), _cells(new)
    if len(before) != len(after):
        return [(0, width)]
    stretches: list[tuple[int, int]] = []
    for at in [at for at, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]:
        if stretches and at - stretches[-1][1] < _NEAR:
            stretches[-1] = (stretches[-1][0], at + 1)
        else:
            stretches.append((at, at + 1))
    return stretches


def _cells(strip: Strip) -> list[tuple[str, object]]:
    """A character and its style for each cell; what a wide character takes beside its first cell is told from it."""
    cells: list[tuple[str, object]] = []
    for segment in strip:
        style = segment.style
        if segment.cell_length == len(segment.text) and segment.text.isprintable():
            cells += [(character, style) for character in segment.text]
            continue
        for character in segment.text:
            width = cell_len(character)
            if width:
                cells += [(character, style), *[(f"\0{character}", style)] * (width - 1)]
            elif cells:  # a mark on the character before
                cells[-1] = (cells[-1][0] + character, style)
    return cells
