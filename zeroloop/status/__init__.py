"""Status: the state of a live run as one file, `status.json` in the run directory, and what it says.

The learner writes it every few seconds; anybody may read it at any time:

    status = Status(run.folder)
    if status.due():
        status.write(learner, workers, store, inference=..., devices=...)
    status.close("finished")                     # or "stopped"

`learner` is a row with LEARNER's keys; `workers` the rows of `EpisodeStore.workers`; `store` its counters
with `waiting` (games that the learner has not read) and `capacity`. A learner that plays in its own threads
gives no workers and puts their totals (WORKER's keys) into its own row. All totals only grow. No clock is
compared with another process's: `summary.summarise` takes rates from differences of one process's totals.
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal

from ..errors import ResumeError, StoreError
from ..files import DirectoryLock, write_file

FORMAT = 1
NAME = "status.json"
SPAN = 10.0
"""Seconds over which rates are taken."""

LEARNER = {
    "iteration": "number of the iteration",
    "progress": "share of the budget spent, 0..1",
    "positions": "positions added to replay so far",
    "games": "games added to replay so far",
    "steps": "optimiser steps so far",
    "window": "positions in the replay window",
    "seconds": "wall-clock seconds of the run so far",
    "learn_seconds": "seconds of optimiser steps so far",
    "receive_seconds": "seconds of reading, checking and storing games so far",
    "evaluate_seconds": "seconds of evaluation so far",
    "wait_seconds": "seconds of waiting for games so far",
    "play_seconds": "seconds of self-play in the learner's own threads so far",
    "model": "hash of the newest model that workers get",
    "updates": "models given to workers so far",
    "refused": "games turned away for what they are",
    "missed": "numbers of workers' games that never came",
    "restarts": "worker processes started again",
    "phase": "what the learner does now",
}
"""Keys of the learner's row, each optional, with meaning and unit."""

WORKER = {
    "games": "finished games",
    "moves": "moves made",
    "simulations": "simulations, cache hits and terminals included",
    "evaluations": "rows that a network computed",
    "cache_hits": "evaluations answered from the cache",
    "terminals": "simulations that ended in the end of a game",
    "overflows": "simulations that stored no node because the tree was full",
    "search_seconds": "thread seconds in the search",
    "inference_seconds": "thread seconds waiting for the network",
    "transfer_seconds": "thread seconds of sending and receiving",
    "wait_seconds": "thread seconds without anything to do",
}
"""Totals of a worker's row since it began; beside them its state, such as `alive_seconds` and `waiting`."""

SERVER = {
    "batches": "batches that the inference server computed",
    "positions": "positions in them",
    "requests": "requests answered",
    "wait_seconds": "seconds that requests waited for their batch, summed over requests",
}
"""Totals of the inference server's row."""

Row = dict[str, Any]


class Status:
    """Writes a run's status; made anew by every session.

    Args:
      every: seconds between two writes. span: seconds over which rates are taken. clock: monotonic seconds.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        every: float = 2.0,
        span: float = SPAN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._every, self._span, self._clock = folder / NAME, every, span, clock
        self._written: float | None = None
        self._past: deque[tuple[float, Row]] = deque()
        self._first: Row | None = None
        self._last: Row = {}
        self._seen: set[Any] = set()

    def due(self) -> bool:
        """Return whether it is time to write again."""
        return self._written is None or self._clock() - self._written >= self._every

    def write(
        self,
        learner: Row,
        workers: Iterable[Row] = (),
        store: Row | None = None,
        inference: Row | None = None,
        devices: Row | None = None,
    ) -> None:
        """Replace the file.

        Args:
          inference: counters of an inference server (SERVER's keys are totals) and its state.
          devices: seconds that each kind of work had the device so far: `DeviceShare.busy_seconds`.

        Raises:
          StoreError: it cannot be written.
        """
        rows = [dict(row) for row in workers]
        self._seen |= {row["worker"] for row in rows}
        now = self._clock()
        totals: Row = {
            "learner": dict(learner),
            "workers": {str(row["worker"]): _totals(row) for row in rows},
            "inference": dict(inference or {}),
            "devices": dict(devices or {}),
        }
        while len(self._past) > 1 and now - self._past[1][0] >= self._span:
            self._past.popleft()
        self._last = {
            "format": FORMAT,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "ended": "",
            "seen": len(self._seen),
            "learner": dict(learner),
            "workers": rows,
            "store": dict(store or {}),
            "inference": dict(inference or {}),
            "devices": dict(devices or {}),
            "before": self._past[0][1] if self._past else None,
            "first": self._first,
        }
        self._past.append((now, totals))
        self._first = self._first or {k: v for k, v in totals.items() if k != "workers"}
        self._save()
        self._written = now

    def close(self, ended: Literal["finished", "stopped"]) -> None:
        """Write for the last time how the session ended."""
        if self._last:
            self._last["ended"] = ended
            self._save()

    def _save(self) -> None:
        write_file(self._path, json.dumps(self._last, allow_nan=False).encode())


def _totals(row: Row) -> Row:
    return {k: row[k] for k in (*WORKER, "alive_seconds") if k in row}


def read(folder: pathlib.Path) -> Row | None:
    """Return what the file says, or None where there is none.

    Raises:
      StoreError: it is damaged, or of another version.
    """
    path = folder / NAME
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged: not JSON. Delete it; a live run writes it again.") from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise StoreError(f"{path} has status format {version}; this zeroloop reads {FORMAT}.")
    return dict(found)


def holder(folder: pathlib.Path) -> str | None:
    """Return who holds the run's lock, such as `process 12`; None where nobody does: the run is not alive."""
    path = folder / "lock"
    if not path.exists():
        return None
    if os.name == "nt":
        try:
            DirectoryLock(folder).release()
        except ResumeError:
            return "another process"
        return None
    import fcntl

    try:
        with open(path, encoding="utf-8") as file:  # a shared lock that is let go of at once
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}).") from error
    return None
