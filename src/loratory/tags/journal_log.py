"""The file of the journal: append-only, one JSON object a line, read by index.

{"v":1,"crc":"…","kind":"begun","id":7,"time":…,"label":"…","undoes":null,"count":2,"changes":[[path,before,after],…]}
{"v":1,"crc":"…","kind":"amended","id":7,"changes":[[index,path,before,after],…]}
{"v":1,"crc":"…","kind":"done","id":7,"skipped":[[first,last,reason],…]}        or kind "rolled back"

crc: CRC-32 of what follows it and its comma. path: relative to the root, parts joined by "/". before, after: text where
the bytes are UTF-8, {"b64":…} where they are not, null for no file. Bytes after the last newline are no line: a process
died while writing them, and the next one to append cuts them off.
"""

import base64
import errno
import json
import os
import re
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loratory import atomic
from loratory.errors import FAILED, LoratoryError

VERSION = 1
End = Literal["done", "rolled back"]
Entry = tuple[str, bytes | None, bytes | None]

_VERSION = re.compile(rb'\{"v":(\d+)[,}]')
_CHECKED = re.compile(rb'\{"v":1,"crc":"([0-9a-f]{8})",')
# Nothing before the payload can hold this: inside a JSON text every quotation mark has a backslash before it.
_PAYLOAD = b',"changes":['
# Room for the line that ends a batch, taken before the batch begins: it must fit when the captions filled the disk.
_SPARE_BYTES = 4096


@dataclass(slots=True)
class Record:
    """A batch as the log tells it; spans are (offset, length) in bytes.

    undone: whether a later batch, itself in force, took it back. skipped: index of the change -> why.
    """

    id: int
    label: str
    time_s: float
    count: int
    undoes: int | None
    span: tuple[int, int]
    amendments: tuple[tuple[int, int], ...] = ()
    end: End | None = None
    undone: bool = False
    skipped: dict[int, str] = field(default_factory=dict[int, str])


class JournalLog:
    """The log at `path`; what was indexed once is not read again.

    Reading needs no lock. `begin`, `amend`, `end` and `repair` do: only its holder may call them. All raise
    LoratoryError for a log that cannot be read or is of a newer version; those that write raise OSError as the disk
    does, and leave the log as it was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._indexing = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._file: tuple[int, int] | None = None
        self._end = 0
        self._records: dict[int, Record] = {}
        self._highest_id = 0
        self._damaged_lines = 0

    def read(self) -> tuple[dict[int, Record], int]:
        """Every batch by its id, oldest first, and the number of damaged lines, which are passed over."""
        with self._indexing:
            self._index()
            return dict(self._records), self._damaged_lines

    def open_record(self) -> Record | None:
        """The batch that has begun and not ended; only the last can be one, since none begins before it ended."""
        with self._indexing:
            self._index()
            last = next(reversed(self._records.values()), None)
            return last if last is not None and last.end is None else None

    def entries(self, record: Record) -> list[Entry]:
        """The changes of a batch, skipped ones included."""
        try:
            entries = [_entry(*row) for row in self._payload(record.span)]
            for span in record.amendments:
                for index, *row in self._payload(span):
                    entries[index] = _entry(*row)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise LoratoryError(
                f"{self.path} is damaged at byte {record.span[0]}: batch {record.id} cannot be read.",
                exit_code=FAILED,
            ) from error
        return entries

    def repair(self) -> None:
        """Cuts off what a process that died, or a power cut, left after the last whole line."""
        with self._indexing:
            self._index()
            if self.path.exists() and self.path.stat().st_size > self._end:
                tail = self._read_span((self._end, self.path.stat().st_size - self._end)).rstrip(b"\0")
                with self.path.open("r+b") as file:
                    if decode_line(tail, self.path) is not None:  # whole, its newline lost in a text editor
                        file.seek(self._end)
                        file.write(tail + b"\n")
                        file.truncate()
                    else:
                        file.truncate(self._end)
            self._index()

    def begin(self, label: str, time_s: float, undoes: int | None, count: int, entries: Iterable[Entry]) -> Record:
        """Appends that a batch of `count` entries begins; once this returns, a power cut cannot take the line away."""
        # A damaged line may have been the only one that knew of an id.
        number = self._highest_id + self._damaged_lines + 1
        head = {"kind": "begun", "id": number, "time": time_s, "label": label, "undoes": undoes, "count": count}
        rows = ([path, _spell(before), _spell(after)] for path, before, after in entries)
        start = self._end
        try:
            self._append(encode_line(head, rows), spare_bytes=_SPARE_BYTES, durable=True)
            return self._records[number]
        except BaseException:
            # Ctrl-C while the disk takes its time: nothing has been changed, so nothing has begun.
            with suppress(OSError):
                os.truncate(self.path, start)
            with self._indexing:
                self._forget()
            raise

    def amend(self, record: Record, entries: Mapping[int, Entry]) -> None:
        """Appends what some of the changes of a begun batch have become, durably like `begin`."""
        rows = ([index, path, _spell(before), _spell(after)] for index, (path, before, after) in entries.items())
        line = encode_line({"kind": "amended", "id": record.id}, rows)
        self._append(line, spare_bytes=_SPARE_BYTES, durable=True)

    def end(self, record: Record, end: End, skipped: Mapping[int, str]) -> None:
        """Appends that a batch has ended.

        Not fsynced: should a power cut take the line, the batch is offered for finishing, which finds nothing to do.
        """
        runs: list[tuple[int, int, str]] = []
        for index, reason in sorted(skipped.items()):
            if runs and runs[-1][1:] == (index - 1, reason):
                runs[-1] = (runs[-1][0], index, reason)
            else:
                runs.append((index, index, reason))
        self._append(encode_line({"kind": end, "id": record.id, "skipped": runs}), spare_bytes=0, durable=False)

    def _append(self, line: bytes, *, spare_bytes: int, durable: bool) -> None:
        start = self._end
        is_new = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _reserve(descriptor, start, len(line) + spare_bytes)
            written = 0
            while written < len(line):
                written += os.pwrite(descriptor, line[written:], start + written)
            if not spare_bytes:
                os.ftruncate(descriptor, start + len(line))
            if durable:
                os.fsync(descriptor)
                if is_new:
                    _fsync_folders(self.path.parent)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, start)
            raise
        finally:
            os.close(descriptor)
        with self._indexing:
            self._index()

    def _index(self) -> None:
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if self._file != (status.st_dev, status.st_ino) or status.st_size < self._end:
                    self._forget()
                    self._file = (status.st_dev, status.st_ino)
                file.seek(self._end)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._take(line, self._end)
                    self._end += len(line)
        except (FileNotFoundError, NotADirectoryError):
            self._forget()
        except OSError as error:
            raise LoratoryError(f"{self.path} cannot be read ({error.strerror}).", exit_code=FAILED) from error

    def _take(self, line: bytes, offset: int) -> None:
        header = decode_line(line[:-1], self.path)
        try:
            if header is None:
                raise ValueError
            number = int(header["id"])
            self._highest_id = max(self._highest_id, number)
            span = (offset, len(line))
            match header["kind"]:
                case "begun" if number not in self._records:
                    label, time_s, count = str(header["label"]), float(header["time"]), int(header["count"])
                    undoes = None if header["undoes"] is None else int(header["undoes"])
                    if undoes is not None and undoes >= number:
                        raise ValueError
                    self._assume_ended()
                    self._records[number] = Record(number, label, time_s, count, undoes, span)
                case "amended":
                    self._records[number].amendments += (span,)
                case "done" | "rolled back" as end:
                    record = self._records[number]
                    if header["skipped"]:
                        runs = [(range(first, last + 1), str(reason)) for first, last, reason in header["skipped"]]
                        record.skipped = {index: reason for indices, reason in runs for index in indices}
                    self._close(record, end)
                case _:
                    raise ValueError
        except (ValueError, KeyError, TypeError):
            self._damaged_lines += 1

    def _assume_ended(self) -> None:
        # No batch begins before the last has ended, so the line that said so is among the damaged ones.
        last = next(reversed(self._records.values()), None)
        if last is not None and last.end is None:
            self._close(last, "done")

    def _close(self, record: Record, end: End) -> None:
        if record.end is not None:
            raise ValueError
        record.end = end
        # An undo of which no file could be written has undone nothing; one that found nothing to write has.
        counts = end == "done" and (not record.count or len(record.skipped) < record.count)
        undone, other = True, record.undoes if counts else None
        while other is not None and other in self._records:
            # What takes back an undo puts the batch below it in force again.
            self._records[other].undone = undone
            undone, other = not undone, self._records[other].undoes

    def _payload(self, span: tuple[int, int]) -> list[list[Any]]:
        line = self._read_span(span)
        if decode_line(line[:-1], self.path) is None:
            raise ValueError("not what was indexed: another program changed the file")
        return json.loads(line)["changes"]

    def _read_span(self, span: tuple[int, int]) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(span[0])
                return file.read(span[1])
        except OSError as error:
            raise LoratoryError(f"{self.path} cannot be read ({error.strerror}).", exit_code=FAILED) from error


def encode_line(body: Mapping[str, Any], changes: Iterable[Sequence[Any]] | None = None) -> bytes:
    """A line of the log with its version, checksum and newline. changes: its last value, row by row."""
    rest = bytearray(_json(body)[1:])
    if changes is not None:
        rest[-1:] = _PAYLOAD + b",".join(_json(row) for row in changes) + b"]}"
    return b'{"v":%d,"crc":"%08x",%b\n' % (VERSION, zlib.crc32(rest), rest)


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:  # names that are not UTF-8 hold characters only JSON's own escapes can spell
        return json.dumps(value, separators=(",", ":")).encode("ascii")


def decode_line(line: bytes, path: Path) -> dict[str, Any] | None:
    """A line of the log at `path` (without its newline) parsed up to its payload; None for a damaged one.

    Raises LoratoryError for one that a newer version wrote.
    """
    checked = _CHECKED.match(line)
    if checked is None:
        version = _VERSION.match(line)
        if version is not None and int(version[1]) > VERSION and _is_json(line):
            raise LoratoryError(
                f"{path} was written by a newer version of Loratory (format {int(version[1])}); nothing was changed.",
                hint="Update Loratory.",
            )
        return None
    if zlib.crc32(line[checked.end() :]) != int(checked[1], 16):
        return None
    payload = line.find(_PAYLOAD)
    try:
        return json.loads(str(line if payload < 0 else line[:payload] + b"}", "utf-8"))
    except (ValueError, RecursionError):
        return None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _spell(data: bytes | None) -> str | dict[str, str] | None:
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(data).decode("ascii")}


def _read(spelled: str | dict[str, str] | None) -> bytes | None:
    if spelled is None:
        return None
    return spelled.encode("utf-8") if isinstance(spelled, str) else base64.b64decode(spelled["b64"])


def _entry(path: str, before: Any, after: Any) -> Entry:
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise LoratoryError(f"The journal names {path!a}, which is outside its dataset; nothing was changed.")
    return path, _read(before), _read(after)


def _reserve(descriptor: int, offset: int, length: int) -> None:
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, offset, length)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        # Other disks cannot reserve; writing will tell whether there is room.


def _fsync_folders(folder: Path) -> None:
    for directory in (folder, folder.parent):
        with suppress(OSError):  # some network disks cannot
            atomic.fsync_directory(directory)
