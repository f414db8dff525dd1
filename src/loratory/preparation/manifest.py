"""What was made from what: `.loratory/prepared.jsonl` in the root of a dataset, one object a line for each original.

A later line about the same original replaces an earlier one; {"folder":…,"name":…,"gone":true} takes it out, and
{"expects":…} tells of captions that are about to be written, null when they are. A line is
appended before the files that it tells of take their places, with the digests of what may still stand there: so a
process may die at any instant, and the next one knows which files are ours.
"""

import errno
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from loratory.atomic import replacing
from loratory.dataset.root import STATE
from loratory.preparation.lines import append_line, decode_line, encode, encode_line
from loratory.preparation.record import Key, Record, Stamp, elsewhere, read_record, stamp_of, told

MANIFEST = "prepared.jsonl"

_CHUNK_BYTES = 1 << 20
# Most lines are shorter; of longer ones the rest is read with a second call.
_LINE_BYTES = 1024


class Records(Mapping[Key, Record]):
    """The records of the manifest at `path`, each read from its line when it is asked for.

    As objects they take 2 kB each, the places of their lines 0.15 kB; to read one takes 20 us. folders: of the files
    that lines tell of, below the root. Raises OSError as the disk does, and for a file that was cut short meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders: set[str] = set()
        self.lines = 0
        self._stamp: Stamp | None = None
        self._offsets: dict[str, dict[str, int]] = {}
        self._expects: int | None = None
        self._moves: Mapping[str, str] = {}
        self._moved_below = 0
        self._descriptor: int | None = None
        self._close: weakref.finalize[..., Records] | None = None

    def read(self) -> None:
        """Reads the file anew where somebody has written it since, and forgets `move_folders`."""
        self._moves, self._moved_below = {}, 0
        is_same = self._descriptor is not None and stamp_of(self.path) == self._stamp
        if is_same:
            return
        self.folders, self.lines, self._expects, self._offsets = set(), 0, None, {}
        if not self._open():
            return
        assert self._descriptor is not None
        status = os.fstat(self._descriptor)
        self._stamp = status.st_mtime_ns, status.st_size, status.st_ino
        offset = 0
        try:
            with open(self._descriptor, "rb", closefd=False) as file:
                for data in file:
                    line = decode_line(data)
                    if line is not None:
                        self._take(line, offset)
                    offset += len(data)
        except OSError as error:  # of a descriptor, which does not tell its file
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _open(self) -> bool:
        """Opens the file that is there now; whether there is one."""
        if self._close is not None:
            self._close()
        self._descriptor = self._close = None
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        self._close = weakref.finalize(self, os.close, self._descriptor)
        return True

    def _take(self, line: dict[str, Any], offset: int) -> None:
        self.lines += 1
        if "expects" in line:
            self._expects = offset if _is_expectation(line["expects"]) else None
            return
        try:
            folder, name = str(line["folder"]), str(line["name"])
            if line.get("gone"):
                self._offsets.get(folder, {}).pop(name, None)
            else:
                self._index(read_record(line), offset)
        except (KeyError, TypeError, ValueError, AttributeError):
            return  # of a newer version, or damaged: the file it tells of counts as somebody else's

    def _index(self, record: Record, offset: int) -> None:
        for path in chain((output.path for output in record.outputs), record.captions):
            self.folders.add(path.rpartition("/")[0])
        self._offsets.setdefault(record.folder, {})[record.name] = offset

    def append(self, line: Mapping[str, Any] | bytes, record: Record | None = None) -> int:
        """Appends a line, the record that it tells of if it is one; where it begins."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        offset = append_line(self.path, line)
        self.lines += 1
        if self._descriptor is None:
            self._open()
        if record is not None:
            self._index(record, offset)
        return offset

    def expect(self, line: bytes | None) -> None:
        """Appends the line of what `expected` gives, None for nothing."""
        offset = self.append({"expects": None} if line is None else line)
        self._expects = None if line is None else offset

    @property
    def is_expecting(self) -> bool:
        return self._expects is not None

    @property
    def expected(self) -> dict[str, Any] | None:
        return None if self._expects is None else self._line(self._expects)["expects"]

    def drop(self, key: Key) -> None:
        """Appends that a record is gone."""
        self.append({"folder": key[0], "name": key[1], "gone": True})
        del self._offsets[key[0]][key[1]]

    def move_folders(self, names: Mapping[str, str]) -> None:
        """Has the paths of all records that there are now be told with other folders: old -> new."""
        assert self._descriptor is not None
        self._moves, self._moved_below = dict(names), os.fstat(self._descriptor).st_size

    def of_folder(self, folder: str) -> "OfFolder":
        """The records of one folder of originals, by the picture's name."""
        return OfFolder(self, folder, self._offsets.get(folder, {}))

    def _line(self, offset: int) -> dict[str, Any]:
        assert self._descriptor is not None
        data = os.pread(self._descriptor, _LINE_BYTES, offset)
        while b"\n" not in data and (more := os.pread(self._descriptor, _CHUNK_BYTES, offset + len(data))):
            data += more
        line = decode_line(data.partition(b"\n")[0])
        if line is None:
            raise OSError(errno.ESTALE, "it was changed by another program", str(self.path))
        return line

    def __getitem__(self, key: Key) -> Record:
        offset = self._offsets[key[0]][key[1]]
        record = read_record(self._line(offset))
        return elsewhere(record, self._moves) if offset < self._moved_below else record

    def __contains__(self, key: object) -> bool:
        match key:
            case (str(folder), str(name)):
                return name in self._offsets.get(folder, ())
            case _:
                return False

    def __iter__(self) -> Iterator[Key]:
        return ((folder, name) for folder, names in self._offsets.items() for name in names)

    def __len__(self) -> int:
        return sum(map(len, self._offsets.values()))


def _is_expectation(value: Any) -> bool:
    """Whether it is what `Manifest.expect` writes; of a newer version, or damaged, it counts as nothing expected."""
    match value:
        case {"label": str(), "later_than": int(), "carried": list(carried), "after": dict(after)}:
            pairs = all(isinstance(one, list) and len(one) == 2 for one in carried)
            return pairs and all(text is None or isinstance(text, str) for text in after.values())
        case _:
            return False


class OfFolder(Mapping[str, Record]):
    """The records of one folder of originals, by the picture's name, each read when it is asked for."""

    def __init__(self, records: Records, folder: str, names: Mapping[str, int]) -> None:
        self._records, self._folder, self._names = records, folder, names

    def __getitem__(self, name: str) -> Record:
        return self._records[self._folder, name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Manifest:
    """The manifest of the dataset at `root`, which one process at a time writes. Methods raise OSError."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / STATE / MANIFEST
        self.records = Records(self.path)
        self.read()

    @property
    def expected(self) -> dict[str, Any] | None:
        """What was last said with `expect`."""
        return self.records.expected

    @property
    def is_expecting(self) -> bool:
        """Whether that was something."""
        return self.records.is_expecting

    def read(self) -> None:
        """Reads the file anew."""
        self.records.read()

    def put(self, record: Record) -> None:
        """Appends what became of an original."""
        self.records.append(told(record), record)

    def expect(
        self, label: str, later_than: int, carried: Iterable[bytes], after: Iterable[tuple[str, str | None]]
    ) -> None:
        """Appends what is about to become of captions, so that who comes after a process that died can look whether
        it did.

        label, later_than: of the batch of the journal, and the last one before it. carried: as `CaptionPlan` has it.
        after: what files will hold. Put together from parts, since these are many.
        """
        texts = (encode(path) + b":" + encode(text) for path, text in after)
        head = encode({"label": label, "later_than": later_than})[:-1]
        line = (b'{"expects":', head, b',"carried":[', b",".join(carried), b'],"after":{', b",".join(texts), b"}}}\n")
        self.records.expect(b"".join(line))

    def expect_nothing(self) -> None:
        """Appends that the records tell it."""
        self.records.expect(None)

    def drop(self, key: Key) -> None:
        """Forgets an original and what was made of it."""
        if key in self.records:
            self.records.drop(key)

    def compact(self) -> None:
        """Writes the file anew where some of its lines are outdated."""
        if self.records.lines > len(self.records) and not self.records.is_expecting:
            with replacing(self.path) as temporary, temporary.open("wb") as file:
                for key in sorted(self.records):
                    file.write(encode_line(told(self.records[key])))
            self.records.read()

    def of_folder(self, folder: str) -> Mapping[str, Record]:
        """The records of one folder of originals, by the picture's name."""
        return self.records.of_folder(folder)

    def owners(self) -> dict[str, Key]:
        """The key of the record of each output, by the output's path below the root."""
        return {output.path: key for key, record in self.records.items() for output in record.outputs}

    def move_folders(self, names: Mapping[str, str]) -> None:
        """Follows concept folders that somebody has renamed: old -> new path below the root."""
        self.records.move_folders(names)
