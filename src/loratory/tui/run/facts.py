"""The machine, the rates, the time and the files of a run, as short lines. Pure."""

from collections.abc import Sequence

from textual.content import Content

from loratory.runs.events import Card, Hardware
from loratory.runs.progress import ConceptLoss, ImageLoss, Progress
from loratory.terminal.curves import sparkline
from loratory.tui.run.charts import SUBJECTS, spoken, spoken_part
from loratory.tui.run.head import clock
from loratory.tui.text import ASCII, Glyphs, fitted, plain, printable, wrapped
from loratory.wording import spoken_bytes

_GB = 1e9
_LABEL = 5
_LEAST_FOLDER = 4  # with less of it two folders would not be told apart
_WIDE = 50  # with room for more than what matters


def hardware_lines(hardware: Hardware | None, width: int, glyphs: Glyphs) -> list[Content]:
    """Load, memory, temperature and power of each card; of the machine where it has none."""
    if hardware is None:
        return []
    lines: list[Content] = []
    for index, card in enumerate(hardware.cards):
        lines += _card_lines(card, "GPU" if len(hardware.cards) == 1 else f"GPU{index}", width, glyphs)
    ram = _share_line("RAM", hardware.ram_bytes, hardware.ram_total_bytes, width, glyphs)
    if not hardware.cards:
        lines += [_fact("CPU", f"{hardware.cpu:.0f}%   run {spoken_bytes(hardware.process_bytes)}", width), ram]
    return lines


def machine_line(hardware: Hardware | None) -> str:
    """The same on one line; "" where nothing is known."""
    if hardware is None:
        return ""
    parts = [_card_text(card) for card in hardware.cards]
    for card, at in zip(hardware.cards, range(len(parts)), strict=True):
        if card.memory_bytes is not None and card.memory_total_bytes:
            parts[at] += f"  {_of(card.memory_bytes, card.memory_total_bytes)}"
    if parts:
        return "   ".join(f"GPU {part}" for part in parts)
    return f"CPU {hardware.cpu:.0f}%  RAM {_of(hardware.ram_bytes, hardware.ram_total_bytes)}"


def _card_lines(card: Card, label: str, width: int, glyphs: Glyphs) -> list[Content]:
    lines = [_fact(label, _card_text(card) or printable(card.name), width)]
    if card.memory_bytes is not None and card.memory_total_bytes:
        lines.append(_share_line("mem", card.memory_bytes, card.memory_total_bytes, width, glyphs))
    return lines


def _card_text(card: Card) -> str:
    parts = [
        f"{card.load:3.0f}%" if card.load is not None else "",
        f"{card.temperature_c:.0f} °C" if card.temperature_c is not None else "",
        f"{card.power_w:.0f}{f'/{card.power_limit_w:.0f}' if card.power_limit_w else ''} W"
        if card.power_w is not None
        else "",
    ]
    return "  ".join(part for part in parts if part)


def _share_line(label: str, part: float, whole: float, width: int, glyphs: Glyphs) -> Content:
    said = _of(part, whole)
    room = max(0, min(10, width - _LABEL - len(said) - 2))
    filled = round(min(1.0, part / whole) * room) if whole else 0
    rest = "." if glyphs is ASCII else "▁"
    return _fact(label, f"{glyphs.bar * filled}{rest * (room - filled)} {said}", width)


def _of(part: float, whole: float) -> str:
    return f"{part / _GB:.1f}/{whole / _GB:.1f} GB"


def _fact(label: str, text: str, width: int) -> Content:
    room = max(0, width - _LABEL - 1)
    return Content.assemble((fitted(f" {label}", _LABEL + 1), "$foreground-muted"), plain(fitted(text, room).rstrip()))


def rate_lines(progress: Progress, width: int) -> list[Content]:
    """The rate of each part, and what an adaptive optimizer makes of it."""
    lines: list[Content] = []
    for name, series in progress.rates.items():
        rate = series.last
        found = progress.effective_rates.get(name)
        effective = found.last if found is not None else rate
        factor = f" x d {spoken(effective / rate)}" if rate and effective != rate else ""
        lines.append(_fact("lr" if not lines else "", f"{spoken_part(name)} {spoken(rate)}{factor}", width))
    learned = [f"{spoken_part(name)} {spoken(series.last)}" for name, series in progress.weight_norms.items()]
    if learned:
        lines.append(_fact("norm", "  ".join(learned), width))
    return lines


def time_text(progress: Progress) -> str:
    """Where the time went: `data 2% step 96% save 2%`; "" before the first step."""
    return "  ".join(
        f"{name}\N{NO-BREAK SPACE}{share:.0%}" for name, share in progress.time_shares().items() if share >= 0.005
    )


def side_lines(progress: Progress, width: int, height: int, now_s: float, glyphs: Glyphs) -> list[Content]:
    """The right column of the wide layout: at most `height` lines."""
    blocks = [hardware_lines(progress.hardware, width, glyphs), rate_lines(progress, width)]
    if progress.time_shares():
        rows = wrapped(time_text(progress), max(1, width - _LABEL - 1))
        blocks.append([_fact("" if at else "time", row, width) for at, row in enumerate(rows)])
    facts = [line for block in blocks for line in block]
    saves = save_lines(progress, width, max(1, height - len(facts) - 3), now_s, glyphs)
    if saves:
        facts += [Content(""), plain(" saves", "$foreground-muted"), *saves]
    return facts[:height]


def save_lines(progress: Progress, width: int, most: int, now_s: float, glyphs: Glyphs) -> list[Content]:
    """The newest adapter files, the newest last."""
    lines: list[Content] = []
    for time_s, saved in list(progress.saves)[-most:]:
        step = f"step {saved.step:<7}" if width >= _WIDE else ""
        text = (
            f" {glyphs.reviewed} epoch {saved.epoch:<4}{step}{clock(time_s, now_s)}  {spoken_bytes(saved.size_bytes)}"
        )
        lines.append(plain(fitted(text, width, glyphs.ellipsis)))
    return lines


def narrow_lines(progress: Progress, width: int, now_s: float, glyphs: Glyphs) -> list[Content]:
    """What a narrow screen shows of a run, the most important first."""
    texts = [machine_line(progress.hardware), f"time {time_text(progress)}" if progress.time_shares() else ""]
    return [
        *spark_lines(progress, width, glyphs),
        *[plain(fitted(f" {text}", width, glyphs.ellipsis)) for text in texts if text],
        *save_lines(progress, width, 2, now_s, glyphs),
        *([Content(""), *concept_lines(progress, width, 4, glyphs)] if progress.concepts else []),
    ]


def spark_lines(progress: Progress, width: int, glyphs: Glyphs) -> list[Content]:
    """A line for each subject of the chart that has values: its name, its course, its newest value."""
    lines: list[Content] = []
    for subject in SUBJECTS:
        drawn = subject.series(progress)[:1]
        if not drawn:
            continue
        newest = fitted(printable(subject.newest(progress)), 26 if subject.of_parts else 9, glyphs.ellipsis)
        room = max(4, width - 17 - len(newest) - 3)
        means = drawn[0].between(1, drawn[0].last_step, room).mean.tolist()
        course = sparkline(means, room, ascii_only=glyphs is ASCII)
        lines.append(
            Content.assemble(
                (fitted(f" {subject.short}", 17), "$foreground-muted"),
                (fitted(course, room + 1), "$text-accent"),
                newest,
            )
        )
    return lines


def concept_lines(progress: Progress, width: int, most: int, glyphs: Glyphs) -> list[Content]:
    """Each concept folder: its pictures, how often they were shown and will be, their loss and its course."""
    spark, numbers = 8, 8 + 11 + 7
    name_room = max(8, width - numbers - spark - 3)
    head = f" {'concept':<{name_room}}{'images':>8}{'exposure':>11}{'loss':>7}"
    lines = [plain(fitted(head, width), "$foreground-muted")]
    for concept in sorted(progress.concepts.values(), key=lambda concept: -concept.visits)[: max(0, most - 1)]:
        lines.append(plain(fitted(_concept_row(progress, concept, name_room, spark, glyphs), width)))
    return lines


def _concept_row(progress: Progress, concept: ConceptLoss, name_room: int, spark: int, glyphs: Glyphs) -> str:
    goal = progress.exposure_goal(concept)
    exposure = f"{concept.exposure:.0f}" + (f"/{goal}" if goal else "")
    name = fitted(concept.folder or ".", name_room, glyphs.ellipsis)
    course = sparkline(concept.history, spark, ascii_only=glyphs is ASCII)
    return f" {name}{concept.images:>8}{exposure:>11}{spoken_loss(concept.mean):>7} {course}"


def spoken_loss(value: float) -> str:
    """A normalised loss with two digits behind the point."""
    return "NaN" if value != value else f"{value:.2f}"


def image_lines(progress: Progress, width: int, most: int, glyphs: Glyphs) -> list[Content]:
    """The pictures with the highest loss; those left out say so."""
    skipped = progress.adjustments.skipped
    lines = [plain(fitted(f" {'worst images':<{max(1, width - 8)}}{'loss':>6}", width), "$foreground-muted")]
    for image in progress.worst_images(max(0, most - 1)):
        lines.append(plain(fitted(_image_row(image, image.image in skipped, width, glyphs), width)))
    return lines


def _image_row(image: ImageLoss, is_skipped: bool, width: int, glyphs: Glyphs) -> str:
    tail = "NaN" if image.broken else spoken_loss(image.mean)
    name = image.image + (" (left out)" if is_skipped else "")  # with its folder: many have a 001.png
    return f" {fitted(name, max(4, width - 9), glyphs.ellipsis)} {tail:>6}"


def beside(left: Sequence[Content], right: Sequence[Content], width: int) -> list[Content]:
    """Two blocks of lines next to each other, the left one `width` cells wide."""
    rows = max(len(left), len(right))
    padded = [*left, *[Content("")] * (rows - len(left))]
    others = [*right, *[Content("")] * (rows - len(right))]
    return [a.pad_right(max(0, width - a.cell_length)) + b for a, b in zip(padded, others, strict=True)]
