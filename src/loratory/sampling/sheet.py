"""Pictures side by side on one sheet, with labels."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_MARGIN_PX = 10
_INK, _PAPER = (34, 34, 34), (250, 250, 250)


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str], *, cell_px: int, title: str
) -> Image.Image:
    """A sheet with a labelled row of pictures for each entry of `rows` and a caption over each column.

    Pictures are scaled to squares of `cell_px`, small ones with hard pixels' edges smoothed (Lanczos).
    """
    font_px, small_px = max(12, cell_px // 14), max(11, cell_px // 17)
    font, small = ImageFont.load_default(size=font_px), ImageFont.load_default(size=small_px)
    line_px = int(small_px * 1.3)
    captions = [textwrap.wrap(text, width=max(8, int(cell_px / small_px * 1.8))) for text in columns]
    caption_px = max(len(lines) for lines in captions) * line_px + _MARGIN_PX
    label_px = int(max(font.getlength(label) for label, _ in rows)) + 2 * _MARGIN_PX
    title_px = 3 * font_px
    width = label_px + len(columns) * (cell_px + _MARGIN_PX)
    height = int(title_px + caption_px + len(rows) * (cell_px + _MARGIN_PX))
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, _MARGIN_PX), title, fill=_INK, font=font)
    for column, lines in enumerate(captions):
        x = label_px + column * (cell_px + _MARGIN_PX)
        for number, line in enumerate(lines):
            draw.text((x, title_px + number * line_px), line, fill=_INK, font=small)
    for row, (label, pictures) in enumerate(rows):
        y = int(title_px + caption_px + row * (cell_px + _MARGIN_PX))
        draw.text((_MARGIN_PX, y + cell_px // 2 - font_px // 2), label, fill=_INK, font=font)
        for column, picture in enumerate(pictures):
            scaled = picture.resize((cell_px, cell_px), Image.Resampling.LANCZOS)
            sheet.paste(scaled, (label_px + column * (cell_px + _MARGIN_PX), y))
    return sheet
