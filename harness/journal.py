"""The journal of a run, and the lines that it and the score cache are made of: JSON after its checksum."""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from harness.errors import InputError, RunError


def encode_line(entry: dict[str, Any]) -> bytes:
    """Return a journal line: the checksum, the JSON, a newline."""
    body = json.dumps(entry, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    return f"{zlib.crc32(body):08x} ".encode() + body + b"\n"


def decode_line(line: bytes) -> dict[str, Any] | None:
    """Return a line's entry, None where the checksum doesn't fit."""
    crc, _, body = line.partition(b" ")
    if len(crc) != 8 or crc != f"{zlib.crc32(body):08x}".encode():
        return None
    entry: dict[str, Any] = json.loads(body)
    return entry


class Journal:
    """An append-only file of JSON lines, each with its checksum, on disk before it counts.

    The file is locked before it is read: a torn last line is another process's next entry as long as one
    runs there.

    Raises:
        InputError: another process runs in the folder, or the file is damaged before its last line.
        RunError: the disk is full or not writable.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut_off = 0
        """Bytes of a torn last line that were cut off when the journal was opened."""
        try:
            self._file: IO[bytes] = path.open("ab", buffering=0)
        except OSError as e:
            raise RunError(f"{path}: can't be written ({e.strerror}).") from e
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.entries: list[dict[str, Any]] = list(self._read())
        except BlockingIOError as e:
            self._file.close()
            raise InputError(f"{path.parent}: another process is running in this folder.") from e
        except BaseException:
            self._file.close()
            raise
        self.count = len(self.entries)
        """Entries on disk."""

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read(self) -> Iterator[dict[str, Any]]:
        raw = self.path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        lines = raw[:whole].split(b"\n")[:-1]
        for number, line in enumerate(lines, 1):
            entry = decode_line(line)
            if entry is None:
                if number == len(lines) and whole == len(raw):
                    whole -= len(line) + 1
                    break
                raise InputError(f"{self.path}:{number}: the checksum doesn't fit; the journal is damaged.")
            yield entry
        self.cut_off = len(raw) - whole
        if self.cut_off:
            os.truncate(self.path, whole)

    def mark(self) -> tuple[int, int]:
        """Return a place to which :meth:`cut` can go back."""
        return os.fstat(self._file.fileno()).st_size, self.count

    def cut(self, mark: tuple[int, int]) -> None:
        """Drop every entry after a mark."""
        size, self.count = mark
        os.ftruncate(self._file.fileno(), size)
        os.fsync(self._file.fileno())

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Write entries and wait until they are on disk; on failure the file is cut to what it held before.

        Raises:
            RunError: the disk is full or not writable.

        """
        block = memoryview(b"".join(encode_line(entry) for entry in entries))
        before, _ = self.mark()
        try:
            # An unbuffered write may be cut short where the disk is nearly full; the next one says why.
            while block:
                block = block[self._file.write(block) :]
            os.fsync(self._file.fileno())
        except OSError as e:
            os.ftruncate(self._file.fileno(), before)
            raise RunError(f"{self.path}: can't be written ({e.strerror}).") from e
        self.count += len(entries)
