"""Whether a picture file reaches its own end: decoders often fill what is missing with grey and say nothing.

Each check walks the parts of the file by the lengths they state and decodes nothing. Sources: PNG (W3C) chapter 5,
JPEG (ITU T.81) annex B, the RIFF container of WebP, GIF89a, ISO 14496-12 boxes.
"""

import re
import struct
import zlib
from typing import BinaryIO

# No camera or encoder writes more than a few tens; each one costs a decoder a pass over all pixels.
_MOST_SCANS = 500
_PIECE_BYTES = 1 << 20
# In entropy-coded data FF is followed by 00, or by D0 to D7 at a restart; anything else is the next marker. More FF may
# stand before it: looking for them too would take the square of the time for a file full of them.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


class Incomplete(ValueError):
    """The file ends before the picture does."""


class Corrupt(ValueError):
    """A part of the file is not what its checksum or its length says."""


def check_completeness(file: BinaryIO, start: bytes) -> None:
    """Raises Incomplete or Corrupt for a PNG, JPEG, WebP, GIF, AVIF, HEIC or JPEG XL file that says so of itself.

    start: its first 16 bytes. Formats that state no lengths, and files that are none of these, pass.
    """
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(file)
    elif start.startswith(b"\xff\xd8\xff"):
        _check_jpeg(file)
    elif start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        # The odd byte of padding may be left out at the end.
        if _length(file) + 1 < struct.unpack("<I", start[4:8])[0] + 8:
            raise Incomplete
    elif start.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(file)
    elif start[4:8] in (b"ftyp", b"JXL "):
        _check_boxes(file)


def _length(file: BinaryIO) -> int:
    return file.seek(0, 2)


def _check_png(file: BinaryIO) -> None:
    end = _length(file)
    file.seek(8)
    while True:
        header = file.read(8)
        if len(header) < 8:
            raise Incomplete
        length, kind = struct.unpack(">I4s", header)
        if not kind.isalpha():
            raise Corrupt("what follows is no chunk of a PNG")
        if file.tell() + length + 4 > end:
            raise Incomplete
        sum_found = zlib.crc32(kind)
        while length:
            piece = file.read(min(length, _PIECE_BYTES))
            if not piece:
                raise Incomplete
            sum_found = zlib.crc32(piece, sum_found)
            length -= len(piece)
        (sum_stated,) = struct.unpack(">I", file.read(4))
        # Lower case at the start: a chunk that decoders may leave out, such as text.
        if sum_stated != sum_found and kind[:1].isupper():
            raise Corrupt(f"the checksum of a part of it, {kind.decode()}, is wrong")
        if kind == b"IEND":
            return


def _check_jpeg(file: BinaryIO) -> None:
    file.seek(0)
    data = file.read()
    position, scans = 2, 0
    while True:
        # Also skips what lies between segments, and the entropy-coded data after a scan's header.
        marker = _JPEG_MARKER.search(data, position)
        if marker is None:
            raise Incomplete
        kind, position = data[marker.end() - 1], marker.end()
        if kind == 0xD9:
            return
        if kind in (0x01, 0xD8):  # markers without a length
            continue
        if position + 2 > len(data):
            raise Incomplete
        position += int.from_bytes(data[position : position + 2], "big")
        if kind == 0xDA:
            scans += 1
            if scans > _MOST_SCANS:
                raise Corrupt(f"it has more than {_MOST_SCANS} scans, which only a file made to waste time has")


def _check_gif(file: BinaryIO) -> None:
    file.seek(10)
    flags, position = file.read(1), 13
    if not flags:
        raise Incomplete
    if flags[0] & 0x80:
        position += 3 << ((flags[0] & 7) + 1)
    while True:
        file.seek(position)
        kind = file.read(1)
        if kind == b"\x21":  # an extension: its label, then blocks
            position = _after_gif_blocks(file, position + 2)
        elif kind == b"\x2c":  # a picture: place, flags, its own palette, the code size, then blocks
            descriptor = file.read(9)
            if len(descriptor) < 9:
                raise Incomplete
            palette = 3 << ((descriptor[8] & 7) + 1) if descriptor[8] & 0x80 else 0
            _after_gif_blocks(file, position + 10 + palette + 1)
            return  # the first frame is all that is taken
        elif kind == b"\x3b":
            raise Incomplete("it holds no picture")
        elif kind:
            position += 1  # decoders skip what they do not know
        else:
            raise Incomplete


def _after_gif_blocks(file: BinaryIO, position: int) -> int:
    end = _length(file)
    while True:
        file.seek(position)
        size = file.read(1)
        if not size or position + 1 + size[0] > end:
            raise Incomplete
        position += 1 + size[0]
        if size == b"\x00":
            return position


def _check_boxes(file: BinaryIO) -> None:
    position, end = 0, _length(file)
    while position < end:
        file.seek(position)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big") if len(header) >= 8 else end
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        elif size == 0:  # up to the end of the file
            return
        if size < 8:
            raise Corrupt("the length of a part of it is impossible")
        position += size
    if position > end:
        raise Incomplete
