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
_LOWEST = 1 << 20
# Lowest number of a worker. Lower ones would be those of games that a learner has played itself: the first
# 2^26 of them.


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
        self._removed = False
        self.torn = 0
        """Bytes of a torn game that were cut: the worker died while it wrote it, before it was finished."""
        for path in sorted(folder.glob("*.log")):
            self._parts.append((int(path.stem), EpisodeLog(path)))
        try:
            self._read()
        except StoreError:
            self.close()
            raise

    def _read(self) -> None:
        """Read the games of a worker that is gone."""
        for first, log in self._parts:
            self.last = first - 1
            try:
                for _, payload in log.open_at(0):
                    self.last += 1
                    self._waiting.append((self.last, int.from_bytes(payload[:4], "little"), payload[4:]))
            except StoreError as error:
                raise StoreError(
                    f"{log.path}, in the spool of a worker that is gone, is damaged; restore it from a copy, "
                    f"or move {self.folder} away to go on without its games."
                ) from error
            self.torn += log.torn
        if self._parts:
            self.safe = self._parts[0][0] - 1

    @staticmethod
    def make(root: pathlib.Path) -> Spool:
        """Return a new spool with a number drawn at random.

        Raises:
          StoreError: the folder cannot be made.
        """
        try:
            root.mkdir(parents=True, exist_ok=True)
            while True:
                number = _LOWEST + secrets.randbelow((1 << 31) - _LOWEST)
                made, folder = root / f".{number}.tmp", root / str(number)
                if not folder.exists() and not made.exists():
                    break
            made.mkdir()
            lock = DirectoryLock(made)
            write_file(made / "token", secrets.token_hex(8).encode())
            made.rename(folder)  # whoever finds it finds it locked and whole
        except OSError as error:
            raise StoreError(f"{root} cannot be written ({error.strerror}); give another --spool.") from error
        return Spool(folder, lock)

    @staticmethod
    def adopt(root: pathlib.Path) -> list[Spool]:
        """Return the spools of workers that are gone; finished ones are removed."""
        out = []
        for gone in root.glob(".*.done") if root.exists() else []:
            shutil.rmtree(gone, ignore_errors=True)  # its worker was killed while it removed it
        for folder in sorted(root.glob("[0-9]*")) if root.exists() else []:
            lock = _locked(folder)
            if lock is None:
                continue
            spool = Spool(folder, lock)
            if spool.waiting:
                out.append(spool)
            else:
                spool.remove()
        return out

    def add(self, data: bytes, positions: int) -> int:
        """Keep a finished game and return its number.

        Raises:
          StoreError: the disk is full or gone; the game is not kept, those before it are.
        """
        with self._lock:
            sequence = self.last + 1
            try:
                self._part(sequence).append(positions.to_bytes(4, "little") + data)
            except (OSError, StoreError) as error:
                why = error.__cause__ if isinstance(error, StoreError) else error
                raise StoreError(
                    f"{self.folder} cannot keep a finished game ({getattr(why, 'strerror', None) or why}); "
                    f"free some space and start the worker again: the {len(self._waiting)} games that wait "
                    "there are sent first."
                ) from error
            self._waiting.append((sequence, positions, data))
            self.last = sequence
            self._arrived.notify_all()
            return sequence

    def _part(self, sequence: int) -> EpisodeLog:
        """Return the log to which this game goes."""
        if not self._parts or sequence - self._parts[-1][0] >= PART_GAMES:
            log = EpisodeLog(self.folder / f"{sequence:08d}.log")
            log.cut(0)
            self._parts.append((sequence, log))
        return self._parts[-1][1]

    @property
    def waiting(self) -> int:
        """Games that no learner has yet."""
        return len(self._waiting)

    def after(self, stored: int, most: int) -> tuple[int, list[bytes], list[int]]:
        """Return the first number kept behind `stored`, up to `most` games from it, their positions."""
        with self._lock:
            chosen = list(itertools.islice((w for w in self._waiting if w[0] > stored), most))
        return chosen[0][0] if chosen else stored + 1, [w[2] for w in chosen], [w[1] for w in chosen]

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
                log.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder, all of whose games are safe; nobody adopts it meanwhile. Once is enough."""
        if self._removed:
            return
        self._removed = True
        gone = self.folder.with_name(f".{self.folder.name}.done")
        self.folder.rename(gone)
        self._close_parts()
        shutil.rmtree(gone, ignore_errors=True)
        self._lock_file.release()

    def close(self) -> None:
        """Let go of the folder; what is in it stays."""
        self._close_parts()
        self._lock_file.release()

    def _close_parts(self) -> None:
        with self._lock:
            for _, log in self._parts:
                log.close()
            self._parts.clear()


def _locked(folder: pathlib.Path) -> DirectoryLock | None:
    """Lock a spool's folder; None where its worker lives, or another one has just taken it and is done."""
    try:
        lock = DirectoryLock(folder)
    except ResumeError:
        return None
    except StoreError:
        if folder.exists():
            raise
        return None
    if not (folder / "token").exists():
        lock.release()
        return None
    return lock
