"""Pictures side by side on one sheet, with labels."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from loratory.dataset.findings import shown

_MARGIN_PX = 10
_INK, _PAPER, _FAINT = (34, 34, 34), (250, 250, 250), (110, 110, 110)


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    columns: Sequence[str],
    *,
    cell_px: int,
    title: str,
    under: Sequence[Sequence[str]] = (),
    footer: Sequence[str] = (),
) -> Image.Image:
    """A sheet with a labelled row of pictures for each entry of `rows` and a caption over each column.

    Pictures are fitted into squares of `cell_px`, their proportions kept (Lanczos). under: what is said below each
    picture, row by row, wrapped. footer: sentences below all, wrapped. Control characters of others are escaped.
    """
    font_px, small_px = max(12, cell_px // 14), max(11, cell_px // 17)
    font, small = ImageFont.load_default(size=font_px), ImageFont.load_default(size=small_px)
    line_px = int(small_px * 1.3)
    letters = max(8, int(cell_px / small_px * 1.8))  # of the small font, in the width of a cell
    captions = [textwrap.wrap(shown(text), letters) for text in columns]
    remarks = [[textwrap.wrap(shown(text), letters) for text in texts] for texts in under]
    remark_lines = max((len(lines) for texts in remarks for lines in texts), default=0)
    labels = [shown(label) for label, _ in rows]
    caption_px = max(len(lines) for lines in captions) * line_px + _MARGIN_PX
    label_px = int(max(font.getlength(label) for label in labels)) + 2 * _MARGIN_PX
    row_px = cell_px + _MARGIN_PX + remark_lines * line_px
    width = label_px + len(columns) * (cell_px + _MARGIN_PX)
    titles = _wrapped(title, width, font_px)
    notes = [line for sentence in footer for line in _wrapped(sentence, width, small_px)]
    title_px = 2 * font_px + len(titles) * int(1.3 * font_px)
    below_px = len(notes) * line_px + (_MARGIN_PX if notes else 0)
    height = int(title_px + caption_px + len(rows) * row_px) + below_px
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(titles):
        draw.text((_MARGIN_PX, _MARGIN_PX + number * int(1.3 * font_px)), line, fill=_INK, font=font)
    for column, lines in enumerate(captions):
        x = label_px + column * (cell_px + _MARGIN_PX)
        for number, line in enumerate(lines):
            draw.text((x, title_px + number * line_px), line, fill=_INK, font=small)
    for row, (label, (_, pictures)) in enumerate(zip(labels, rows, strict=True)):
        y = int(title_px + caption_px + row * row_px)
        draw.text((_MARGIN_PX, y + cell_px // 2 - font_px // 2), label, fill=_INK, font=font)
        for column, picture in enumerate(pictures):
            x = label_px + column * (cell_px + _MARGIN_PX)
            fitted = ImageOps.contain(picture, (cell_px, cell_px), Image.Resampling.LANCZOS)
            sheet.paste(fitted, (x + (cell_px - fitted.width) // 2, y + (cell_px - fitted.height) // 2))
            for number, line in enumerate(remarks[row][column] if remarks else ()):
                draw.text((x, y + cell_px + 1 + number * line_px), line, fill=_FAINT, font=small)
    for number, line in enumerate(notes):
        draw.text((_MARGIN_PX, height - below_px + number * line_px), line, fill=_INK, font=small)
    return sheet


def _wrapped(text: str, width_px: int, font_px: int) -> list[str]:
    # A character of the font is about half as wide as it is high.
    return textwrap.wrap(shown(text), width=max(16, int((width_px - 2 * _MARGIN_PX) / (0.52 * font_px)))) or [""]
