"""Lines of text of which only the cells that changed are sent to the terminal."""

from collections.abc import Sequence

from textual.content import Content
from textual.strip import Strip
from textual.visual import Visual
from textual.widget import Widget

from loratory.tui.widgets.changes import refresh_changed


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
        refresh_changed(self, before, self._strips)

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
