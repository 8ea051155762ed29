"""The episode log: finished games in one append-only file, safe to kill at any byte.

A frame is length `u32`, CRC-32 `u32` of the payload, payload. A torn frame at the end, which a killed
process leaves behind, is cut and reported; a damaged frame before the end is an error.
"""

from __future__ import annotations

import os
import pathlib
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import StoreError

_FRAME = struct.Struct("<II")
_SEARCHED, _LONGEST = 1 << 20, 1 << 24  # bytes searched for a frame behind a damaged one, and its length


class EpisodeLog:
    """An open log; one writer at a time (the run's lock sees to it).

    Args:
      path: the file; made if absent.

    Attributes:
      size: bytes of whole frames, where the next one goes.
      torn: bytes of a torn frame that were cut when the log was opened.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._file: BinaryIO = open(path, "a+b")  # noqa: SIM115 - kept open for the run
        self.size = 0
        self.torn = 0

    def open_at(self, offset: int, known: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, payload) of every frame from `offset` on, then cut a torn tail.

        Args:
          known: bytes that a checkpoint counts on; a torn frame before them is damage.

        Raises:
          StoreError: a frame before the end is damaged, or the file ends before `offset` or `known`.
        """
        self._require(max(offset, known))
        end = os.path.getsize(self.path)
        self._file.seek(offset)
        at = offset
        while at < end:
            head = self._file.read(_FRAME.size)
            length, crc = _FRAME.unpack(head) if len(head) == _FRAME.size else (0, 0)
            payload = self._file.read(length)
            if not length or len(payload) < length or zlib.crc32(payload) != crc:
                reaches_end = not length or at + _FRAME.size + length >= end
                if at >= known and reaches_end and not self._frame_follows(at):
                    break  # torn: the process died while writing
                raise StoreError(
                    f"{self.path} is damaged at byte {at}: its checksum does not match. "
                    "Restore the file from a copy, or start a new run."
                )
            yield at, payload
            at += _FRAME.size + length
        self.torn = end - at
        self.cut(at)

    def read(self, offset: int, end: int) -> bytes:
        """Return the bytes from `offset` to `end`; StoreError where the file ends before."""
        self._require(end)
        self._file.seek(offset)
        return self._file.read(end - offset)

    def _frame_follows(self, at: int) -> bool:
        """Return whether a whole frame begins behind this byte: then it is damage, and no torn tail.

        A damaged length points past frames that are whole; to cut them would lose their games.
        """
        self._file.seek(at + 1)
        rest = memoryview(self._file.read(_SEARCHED + _LONGEST))
        budget = 1 << 30  # bytes of checksums: numbers in a torn payload may look like lengths
        for start in range(min(len(rest) - _FRAME.size, _SEARCHED)):
            length, crc = _FRAME.unpack_from(rest, start)
            begin = start + _FRAME.size
            if 0 < length <= min(_LONGEST, len(rest) - begin) and budget > 0:
                if zlib.crc32(rest[begin : begin + length]) == crc:
                    return True
                budget -= length
        return False

    def _require(self, size: int) -> None:
        end = os.path.getsize(self.path)
        if end < size:
            raise StoreError(
                f"{self.path} has {end} bytes, but its checkpoint counts on {size}; "
                "the file was truncated. Restore it, or start a new run."
            )

    def cut(self, offset: int) -> None:
        """Drop everything from `offset` on; StoreError where the file ends before it."""
        self._require(offset)
        self._file.truncate(offset)
        self._file.seek(offset)
        self.size = offset

    def append(self, payload: bytes) -> int:
        """Append one frame, hand it to the operating system, and return its offset.

        Raises:
          StoreError: the disk is full or gone; the log then ends where it ended before.
        """
        at = self.size
        frame = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        try:
            self._file.write(frame)
            self._file.flush()
        except OSError as error:
            # A buffered remainder would be written later: reopen, then cut what was written.
            reopen_error = _quietly_close(self._file)
            self._file = open(self.path, "a+b")  # noqa: SIM115
            self.cut(at)
            raise StoreError(
                f"{self.path}: a finished game could not be written ({error.strerror}"
                f"{'; ' + reopen_error if reopen_error else ''}). Free some space and "
                "start the same command again: it goes on from the last checkpoint."
            ) from error
        self.size = at + len(frame)
        return at

    def sync(self) -> None:
        """Make everything appended so far survive a power failure.

        Raises:
          StoreError: the disk is full or gone.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(
                f"{self.path} could not be written ({error.strerror}). Free some space and start "
                "the same command again: it goes on from the last checkpoint."
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _quietly_close(file: BinaryIO) -> str:
    """Close a file whose buffer cannot be flushed; return why, if closing fails too."""
    try:
        file.close()
    except OSError as error:
        return str(error.strerror)
    return ""
