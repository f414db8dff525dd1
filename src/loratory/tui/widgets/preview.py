"""The picture pane: shows a file in whatever way the terminal can, and never holds up a key press."""

import time
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.segment import Segment
from rich.style import Style
from textual import events, on
from textual.app import App
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from loratory.terminal.modes import Graphics
from loratory.tui.graphics import kitty, sixel
from loratory.tui.graphics.drawing import Drawing, Source, draw, notice, stamp_of
from loratory.tui.graphics.half_block import Colours
from loratory.tui.graphics.newest import NewestFirst

_KEPT_DRAWINGS = 32
_KEPT_BYTES = 32 * 2**20

# While pictures follow each other faster than this, only the last one is drawn, where each costs the link much.
_DEBOUNCE_S = 0.08

# So long the last picture stays while the next one is drawn: shorter it would flicker, longer it would deceive.
_STALE_S = 0.25


@dataclass(frozen=True)
class _Key:
    source: Path | Source
    columns: int
    rows: int
    on_light: bool


@dataclass(frozen=True)
class _Job:
    key: _Key
    graphics: Graphics
    colours: Colours
    known: Drawing | None  # drawn before: only to be drawn anew if the file has changed since


class Preview(Widget):
    """A picture, fitted into the pane and centred, at any size of it.

    `graphics` comes from `graphics.probe.settle`. Pictures are read and drawn on a thread of their own; what was drawn
    is kept (the last 32), shown at once when asked for again, and then compared with the file.
    """

    DEFAULT_CSS = "Preview { width: 1fr; height: 1fr; }"
    ALLOW_SELECT = False

    class Drawn(Message, bubble=False):
        """A drawing has come from the thread."""

        def __init__(self, key: "_Key", drawing: Drawing) -> None:
            super().__init__()
            self.key = key
            self.drawing = drawing

    def __init__(self, graphics: Graphics, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._graphics = graphics
        self._colours: Colours = "truecolor"
        self._source: Path | Source | None = None
        self._awaited: _Key | None = None  # what the thread was asked to draw last, until it comes
        self._asked_s = float("-inf")
        self._debounce: Timer | None = None
        self._stale: Timer | None = None
        self._drawings: OrderedDict[_Key, Drawing] = OrderedDict()
        self._shown: Drawing | None = None
        self._shown_size = (0, 0)
        self._sent: set[int] = set()  # kitty's pictures that the terminal holds
        self._overlay_due = False
        self._thread = NewestFirst[_Job](self._work, "preview")

    @property
    def source(self) -> Path | Source | None:
        """The picture asked for last."""
        return self._source

    @property
    def drawn(self) -> bool:
        """Whether the pane shows what was asked for, or the reason why it cannot."""
        key = self._key(self._source)
        return key is None or (key in self._drawings and self._drawings[key] is self._shown)

    def show(self, source: Path | Source | None) -> None:
        """Shows a picture as soon as it is drawn; None for an empty pane."""
        now = time.monotonic()
        hurried = now - self._asked_s < _DEBOUNCE_S
        self._asked_s = now
        stays = source is not None and self._source is not None and _subject(source) == _subject(self._source)
        self._source = source
        costly = self._graphics.over_ssh or self._graphics.mode in ("kitty", "sixel")
        self._ask(_DEBOUNCE_S if hurried and costly else 0, stays)

    def prefetch(self, source: Path | Source) -> None:
        """Draws the picture that is likely to be asked for next, when there is nothing else to do."""
        key = self._key(source)
        if key is not None and key not in self._drawings:
            self._thread.when_idle(_Job(key, self._graphics, self._colours, None))

    def reload(self) -> None:
        """Draws and sends everything anew: for a terminal that lost it, as when tmux moved to another one."""
        self._forget_drawings()
        self._awaited = None
        self._ask(0)

    def render_line(self, y: int) -> Strip:
        """A line of the drawing on the pane's own ground."""
        ground = self.rich_style
        width = self.size.width
        if self._shown is None or y >= len(self._shown.strips) or self._shown_size != (width, self.size.height):
            return Strip.blank(width, ground)
        under = Style.from_color(ground.color, ground.bgcolor)
        segments = [
            # Cells with a colour of their own for all of them are most of the picture, and stay as they were made.
            segment if segment.style and segment.style.bgcolor else Segment(segment.text, under + segment.style)
            for segment in self._shown.strips[y]
        ]
        return Strip(segments).adjust_cell_length(width, under)

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines as Textual paints them; what sixel drew there is painted over, and must be drawn again."""
        lines = super().render_lines(crop)
        if self._shown is not None and self._shown.overlay and not self._overlay_due:
            self._overlay_due = True
            # Behind the paint that asks for these lines, which is written before any other message is handled.
            self.call_later(self._draw_overlay)
        return lines

    @on(events.Mount)
    def _entered(self) -> None:
        self._graphics, self._colours = _fit_for(self.app, self._graphics)
        # ASCII is drawn for a dark or a light ground.
        self.app.theme_changed_signal.subscribe(self, lambda theme: self._ask(0))

    @on(events.Resize)
    @on(events.Show)
    def _measured(self) -> None:
        self._ask(0)

    @on(events.Unmount)
    def _left(self) -> None:
        self._thread.close()
        self._forget_drawings()

    @on(Drawn)
    def _arrived(self, arrived: Drawn) -> None:
        if arrived.key == self._awaited:
            self._awaited = None
        known = self._drawings.get(arrived.key)
        if known is None or known.stamp != arrived.drawing.stamp:
            self._keep(arrived.key, arrived.drawing)
        wanted = self._key(self._source)
        # While keys come faster than pictures, an earlier look at the same thing is better than none.
        if wanted == arrived.key or (
            wanted is not None
            and wanted not in self._drawings
            and _subject(wanted.source) == _subject(arrived.key.source)
            and (wanted.columns, wanted.rows) == (arrived.key.columns, arrived.key.rows)
        ):
            self._present(self._drawings[arrived.key])

    def _key(self, source: Path | Source | None) -> _Key | None:
        if source is None or self._graphics.mode == "off" or not self.size.area:
            return None
        on_light = self._graphics.mode == "ascii" and not self.app.current_theme.dark
        mode, region, screen = self._graphics.mode, self.content_region, self.app.size
        # Sixel that touches the last line scrolls the screen in some terminals. In the last column tmux (3.3) puts a
        # cell's marks on the cell before it.
        spared_row = mode == "sixel" and region.bottom >= screen.height
        spared_column = mode == "kitty" and self._graphics.in_tmux and region.right >= screen.width
        columns, rows = self.size.width - spared_column, self.size.height - spared_row
        return _Key(source, columns, rows, on_light) if columns and rows else None

    def _ask(self, after_s: float, stays: bool = False) -> None:
        """stays: what is shown may stay until the right one is drawn, however long that takes."""
        key = self._key(self._source)
        if key is not None and key == self._awaited and key not in self._drawings:
            return
        if self._debounce is not None:
            self._debounce.stop()
        self._debounce = self._awaited = None
        if key is None:
            self._thread.forget()
            self._present(None)
            return
        known = self._drawings.get(key)
        if known is not None:
            self._drawings.move_to_end(key)
            self._present(known)
            self._want(key, known)
            return
        if self._stale is None and not stays:
            self._stale = self.set_timer(_STALE_S, lambda: self._present(None))
        if after_s:
            self._thread.forget()
            self._debounce = self.set_timer(after_s, lambda: self._want(key, None))
        else:
            self._want(key, None)

    def _want(self, key: _Key, known: Drawing | None) -> None:
        self._awaited = key if known is None else None
        self._thread.want(_Job(key, self._graphics, self._colours, known))

    def _work(self, job: _Job) -> None:
        """On the thread: touches nothing of the widget's."""
        key = job.key
        source = key.source
        stamp = stamp_of(source) if isinstance(source, Path) else source.stamp()
        if job.known is not None and stamp == job.known.stamp:
            return
        try:
            drawing = draw(source, key.columns, key.rows, job.graphics, job.colours, on_light=key.on_light)
        except Exception as error:  # noqa: BLE001 - a defect must not leave the pane waiting for ever
            text = f"{source.name}: cannot be shown ({type(error).__name__}: {error})"
            drawing = notice(text, key.columns, key.rows)
        # The program may end at any moment. Posting to a loop that is closed raises.
        with suppress(RuntimeError):
            self.post_message(self.Drawn(key, drawing))

    def _present(self, drawing: Drawing | None) -> None:
        if self._stale is not None:
            self._stale.stop()
            self._stale = None
        if drawing is not None and drawing.number and drawing.number not in self._sent:
            self._write(drawing.transmission)
            self._sent.add(drawing.number)
        if drawing is not self._shown or self._shown_size != self.size:
            self._shown = drawing
            self._shown_size = self.size
            self.refresh()

    def _keep(self, key: _Key, drawing: Drawing) -> None:
        replaced = self._drawings.pop(key, None)
        if replaced is not None:
            self._delete(replaced.number)
        self._drawings[key] = drawing
        size_bytes = sum(kept.size_bytes for kept in self._drawings.values())
        for old in list(self._drawings):
            if len(self._drawings) <= _KEPT_DRAWINGS and size_bytes <= _KEPT_BYTES:
                break
            if old != key and self._drawings[old] is not self._shown:
                dropped = self._drawings.pop(old)
                size_bytes -= dropped.size_bytes
                self._delete(dropped.number)

    def _delete(self, number: int) -> None:
        if number in self._sent:
            self._sent.remove(number)
            self._write(kitty.delete(number, in_tmux=self._graphics.in_tmux))

    def _forget_drawings(self) -> None:
        for number in list(self._sent):
            self._delete(number)
        self._drawings.clear()

    def _draw_overlay(self) -> None:
        self._overlay_due = False
        drawing, region = self._shown, self.content_region
        if drawing is None or not drawing.overlay or not self.is_mounted or not self.display:
            return
        # Under a dialogue, or scrolled out in part, it would be drawn over what is not its own.
        if not self.screen.is_current or self.screen.region.intersection(region) != region:
            return
        column, row = drawing.overlay_at
        self._write(sixel.placed(drawing.overlay, region.x + column, region.y + row))

    def _write(self, sequence: str) -> None:
        # Through Textual's driver, so that it comes between its own writes and never within one.
        driver = self.app._driver  # pyright: ignore[reportPrivateUsage] - nothing else writes to the terminal
        if driver is not None:
            driver.write(sequence)


def _subject(source: Path | Source) -> Hashable:
    return source if isinstance(source, Path) else source.subject


def _fit_for(app: App[object], graphics: Graphics) -> tuple[Graphics, Colours]:
    """What is left of the mode under the colours that this program writes."""
    system = app.console.color_system
    if graphics.mode in ("kitty", "half") and (app.no_color or system is None):
        return replace(graphics, mode="ascii"), "none"
    if graphics.mode == "kitty" and system not in ("truecolor", "256"):
        graphics = replace(graphics, mode="half")
    return graphics, "truecolor" if system == "truecolor" else "256" if system == "256" else "16"
