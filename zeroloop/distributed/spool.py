"""Spool: a worker's finished games on its own disk, until a learner has them on its own.

A folder per worker number: `token`, and parts `00000001.log` named by the number of their first game, each
an append-only log of frames. A game is finished once it is here. A folder whose worker died is adopted
by the next worker that starts in the same place.
"""

from __future__ import annotations

import itertools
import pathlib
import secrets
import shutil
import threading
from collections import deque

from ..errors import ResumeError, StoreError
from ..files import DirectoryLock, write_file
from ..replay.log import EpisodeLog

PART_GAMES = 256
"""Games in a part; a part is deleted once all of them are safe."""


class Spool:
    """One worker's spool, locked for this process. Use `Spool.make` or `Spool.adopt`.

    Attributes:
      number, token: who the worker is.
      last: number of its last finished game; 0 before the first.
      safe: number of the last game that a learner has.
    """

    def __init__(self, folder: pathlib.Path, lock: DirectoryLock) -> None:
        self.folder, self._lock_file = folder, lock
        self.number = int(folder.name)
        self.token = (folder / "token").read_text()
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._waiting: deque[tuple[int, int, bytes]] = deque()
        self._parts: list[tuple[int, EpisodeLog]] = []
        self.safe = self.last = 0
        self.torn = 0
        """Bytes of a torn game that were cut: the worker died while it wrote it, before it was finished."""
        for path in sorted(folder.glob("*.log")):
            first, log = int(path.stem), EpisodeLog(path)
            self.last = first - 1
            for _, payload in log.open_at(0):
                self.last += 1
                self._waiting.append((self.last, int.from_bytes(payload[:4], "little"), payload[4:]))
            self.torn += log.torn
            self._parts.append((first, log))
        if self._parts:
            self.safe = self._parts[0][0] - 1

    @staticmethod
    def make(root: pathlib.Path) -> Spool:
        """Return a new spool with a number drawn at random.

        Raises:
          StoreError: the folder cannot be made.
        """
        try:
            while True:
                folder = root / str(secrets.randbits(31))
                if not folder.exists():
                    break
            folder.mkdir(parents=True)
        except OSError as error:
            raise StoreError(f"{root} cannot be written ({error.strerror}); give another --spool.") from error
        lock = DirectoryLock(folder)
        write_file(folder / "token", secrets.token_hex(8).encode())
        return Spool(folder, lock)

    @staticmethod
    def adopt(root: pathlib.Path) -> list[Spool]:
        """Return the spools of workers that are gone; finished ones are removed."""
        out = []
        for folder in sorted(root.glob("[0-9]*")) if root.exists() else []:
            if not (folder / "token").exists():
                continue  # being made, or its maker died before its first game
            try:
                lock = DirectoryLock(folder)
            except ResumeError:
                continue  # its worker lives
            spool = Spool(folder, lock)
            if spool.waiting:
                out.append(spool)
            else:
                spool.remove()
        return out

    def add(self, data: bytes, positions: int) -> int:
        """Keep a finished game and return its number; StoreError where the disk is full."""
        with self._lock:
            sequence = self.last + 1
            if not self._parts or sequence - self._parts[-1][0] >= PART_GAMES:
                log = EpisodeLog(self.folder / f"{sequence:08d}.log")
                log.cut(0)
                self._parts.append((sequence, log))
            self._parts[-1][1].append(positions.to_bytes(4, "little") + data)
            self._waiting.append((sequence, positions, data))
            self.last = sequence
            self._arrived.notify_all()
            return sequence

    @property
    def waiting(self) -> int:
        """Games that no learner has yet."""
        return len(self._waiting)

    def after(self, stored: int, most: int) -> tuple[int, list[bytes], list[int]]:
        """Return the first number behind `stored`, and up to `most` games from it with their positions."""
        with self._lock:
            chosen = list(itertools.islice((w for w in self._waiting if w[0] > stored), most))
        return stored + 1, [w[2] for w in chosen], [w[1] for w in chosen]

    def wait(self, stored: int, seconds: float) -> None:
        """Wait until there is a game behind `stored`, or so long."""
        with self._arrived:
            self._arrived.wait_for(lambda: self.last > stored, seconds)

    def release(self, safe: int) -> None:
        """Forget the games up to `safe`: a learner has them."""
        with self._lock:
            self.safe = max(self.safe, min(safe, self.last))
            while self._waiting and self._waiting[0][0] <= self.safe:
                self._waiting.popleft()
            while len(self._parts) > 1 and self._parts[1][0] <= self.safe + 1:
                _, log = self._parts.pop(0)
                log.close()
                log.path.unlink()

    def remove(self) -> None:
        """Delete the folder, all of whose games are safe."""
        self.close()
        shutil.rmtree(self.folder)

    def close(self) -> None:
        """Let go of the folder; what is in it stays."""
        for _, log in self._parts:
            log.close()
        self._parts.clear()
        self._lock_file.release()
