"""The lists of a run that a cursor moves through, and what was said about it, as rows. Pure."""

from collections.abc import Iterable

from textual.content import Content

from loratory.runs.diagnosis import Alarm
from loratory.runs.events import Notice, Sampled
from loratory.runs.progress import Progress
from loratory.tui.run.facts import spoken_loss
from loratory.tui.run.head import clock
from loratory.tui.text import Glyphs, plain, printable, wrapped
from loratory.tui.widgets.table import Column, Line, TableView
from loratory.wording import spoken_bytes

_MOST_IMAGES = 500
_COLOURS = {"error": "$text-error", "warning": "$text-warning", "note": "$foreground-muted"}


def image_table(progress: Progress) -> tuple[TableView, tuple[str, ...]]:
    """The pictures, the highest loss first, and their names as commands take them."""
    skipped = progress.adjustments.skipped
    worst = progress.worst_images(_MOST_IMAGES)
    names = [image.image for image in worst] + sorted(skipped - progress.images.keys())
    lines: list[Line] = []
    for name in names:
        image = progress.images.get(name)
        cells = ("", "", "") if image is None else (_loss(image.broken, image.mean), spoken_loss(image.recent_mean), "")
        seen = "" if image is None else str(image.count + image.broken)
        said = "left out" if name in skipped else "NaN" if image is not None and image.broken else ""
        lines.append(Line((printable(name), cells[0], cells[1], seen, said), style="dim" if name in skipped else ""))
    columns = (Column("picture", "text"), Column("loss"), Column("lately"), Column("shown"), Column("", "text"))
    return TableView(columns, tuple(lines), empty="No picture was trained on yet."), tuple(names)


def _loss(broken: int, mean: float) -> str:
    return "NaN" if broken else spoken_loss(mean)


def file_table(progress: Progress, now_s: float) -> tuple[TableView, tuple[Sampled | None, ...]]:
    """Adapter files, states and samples, the newest first; with each row its sample, if it is one."""
    rows: list[tuple[float, tuple[str, ...], Sampled | None]] = []
    for time_s, saved in progress.saves:
        said = f"{spoken_bytes(saved.size_bytes)}, read back"
        name = saved.path.rpartition("/")[2]
        rows.append((time_s, (clock(time_s, now_s), str(saved.step), "adapter", f"{printable(name)}  {said}"), None))
    for time_s, state in progress.states:
        rows.append((time_s, (clock(time_s, now_s), str(state.step), "state", "to go on from"), None))
    for time_s, sampled in progress.samples:
        rows.append((time_s, (clock(time_s, now_s), str(sampled.step), "sample", printable(sampled.prompt)), sampled))
    rows.sort(key=lambda row: -row[0])
    columns = (Column("time", "text"), Column("step"), Column("what", "text"), Column("", "text"))
    view = TableView(columns, tuple(Line(cells) for _, cells, _ in rows), empty="Nothing was saved or drawn yet.")
    return view, tuple(sampled for _, _, sampled in rows)


def said_lines(
    progress: Progress, alarms: Iterable[Alarm], width: int, most: int, now_s: float, glyphs: Glyphs
) -> list[Content]:
    """The newest alarms and warnings as at most `most` lines, the newest last."""
    told = [(alarm.time_s, f"step {alarm.step}: {alarm.sentence}", alarm.severity) for alarm in alarms]
    told += [(time_s, notice.message, notice.level) for time_s, notice in progress.notices if _is_news(notice)]
    told.sort(key=lambda each: each[0])
    lines: list[Content] = []
    for time_s, sentence, severity in reversed(told):
        mark = glyphs.dot if severity == "note" else glyphs.finding
        rows = wrapped(f"{mark} {clock(time_s, now_s)} {sentence}", max(10, width - 3))
        rows = [f" {row}" if at == 0 else f"   {row}" for at, row in enumerate(rows)]
        if len(lines) + len(rows) > most:
            rows = rows[: most - len(lines)]
            rows[-1:] = [f"{rows[-1][: max(0, width - 3)]}{glyphs.ellipsis}"] if rows else []
        lines = [plain(row, _COLOURS[severity]) for row in rows] + lines
        if len(lines) >= most:
            break
    return lines


def _is_news(notice: Notice) -> bool:
    return notice.level == "warning"


def log_lines(log: tuple[str, ...], width: int, height: int, offset: int) -> list[Content]:
    """`height` rows of `width` cells of the log that end `offset` lines before its last."""
    end = len(log) - offset
    rows = [f" {row}" for line in log[max(0, end - height) : end] for row in wrapped(line, width - 2) or [""]]
    return [plain(row) for row in rows[-height:]] or [
        plain(" The log is empty: nothing that a library said, and no traceback.", "$foreground-muted")
    ]
