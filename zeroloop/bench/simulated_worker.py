"""Simulated workers: many in one process, which play nothing and send recorded games as real workers do.

Each has its own connection and does what `distributed.worker` and `distributed.sender` do on theirs, in the
same order and with the same waits: about, join, weights, then games as they end and two reports a second.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import resource
import selectors
import socket
import struct
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ..distributed.door import DOOR
from ..distributed.frames import frame_size, pack, split_address, unpack
from ..distributed.sender import GROUP, IDLE, LONGEST, REPORT, SHORTEST
from ..distributed.served import TIMEOUT
from ..distributed.worker import UNSAFE
from ..selfplay.collector import GROUPS, STRIDE

_EPISODE = struct.Struct("<4sHI")


class Material(NamedTuple):
    """What simulated workers know beforehand."""

    about: dict[str, Any]
    """A value for each of `store.MEANING`."""
    games: list[tuple[bytes, bytes, bytes, int]]
    """Recorded games: header before its key and behind it, arrays, positions."""
    rate: float
    """Games/s that a worker finishes while it plays."""
    queue: int
    """`collect.queue`."""


def recorded(data: bytes, positions: int) -> tuple[bytes, bytes, bytes, int]:
    """Return a game's bytes, `Episode.to_bytes`, cut so that each worker can put a key of its own in."""
    length = _EPISODE.unpack_from(data)[2]
    text = data[_EPISODE.size : _EPISODE.size + length]
    before, name, rest = text.partition(b'"game_id":')
    comma = rest.index(b",")
    return data[:6] + before + name, rest[comma:], data[_EPISODE.size + length :], positions


def _keyed(game: tuple[bytes, bytes, bytes, int], key: int) -> bytes:
    before, behind, arrays, _ = game
    text = before[6:] + b"%d" % key + behind
    return before[:6] + struct.pack("<I", len(text)) + text + arrays


class _Worker:
    """One simulated worker: what it has finished, and where it stands with the store."""

    def __init__(self, number: int, material: Material, at: float) -> None:
        self.number, self._material = number, material
        self.connection: socket.socket | None = None
        self.out, self.inbox = memoryview(b""), bytearray()
        self.call, self.asked, self.needed = "", 0.0, 0
        self.joined = self.full = self.taken = self.paused = False
        self.model, self.newest, self.model_at = "", "", 0.0
        self.finished, self.stored, self.safe, self.most = 0.0, 0, 0, GROUP
        self.positions = 0  # of the games stored
        self.reported = self.failures = 0
        self.last, self.report_due, self.due = at, 0.0, at

    def play(self, now: float, playing: bool) -> None:
        """Let time pass: games end while there is a model, and room for them."""
        full = self.full or int(self.finished) - self.safe >= UNSAFE * self._material.queue
        if playing and self.model and not full and not self.paused and self.joined:
            self.finished += (now - self.last) * self._material.rate
        self.last = now

    def next_call(self, now: float) -> tuple[dict[str, Any], list[bytes]] | None:
        """Return what a real worker would ask next; None: it waits until `due`."""
        if self.call == "connect":
            return {"call": "enter", "door": DOOR, "zeroloop": version("zeroloop"), "nonce": 64 * "0"}, []
        if self.call == "enter":
            return {"call": "through", "proof": "", "wants": False}, []
        if not self.joined:
            if self.call != "about":
                return {"call": "about"}, []
            mine = {"worker": self.number, "token": str(self.number), "about": self._material.about}
            return {"call": "join", **mine, "safe": self.safe}, []
        if self.newest and self.newest != self.model:
            return {"call": "weights", "known": self.model}, []
        waiting = min(int(self.finished) - self.stored, self.most)
        if waiting > 0 and self.call != "add" and now >= self.due:
            return self._offer(waiting)
        if now >= self.report_due:
            return {"call": "report", "worker": self.number, "row": self._row(now)}, []
        if self.taken:  # the sender looks again at once
            self.taken = False
            self.call = ""
            return self.next_call(now)
        self.call, self.due = "", max(self.due, now + IDLE) if now >= self.due else self.due
        return None

    def _offer(self, count: int) -> tuple[dict[str, Any], list[bytes]]:
        games, first = self._material.games, self.stored + 1
        used = [games[(self.number + s) % len(games)] for s in range(first, first + count)]
        keys = (self.number * GROUPS + s * STRIDE for s in range(first, first + count))
        data = [_keyed(game, key) for game, key in zip(used, keys, strict=True)]
        counts = [game[3] for game in used]
        return {"call": "add", "worker": self.number, "first": first, "positions": counts}, data

    def _row(self, now: float) -> dict[str, Any]:
        names = ("simulations", "evaluations", "cache_hits", "overflows", "resent")
        spent = {f"{p}_seconds": now for p in ("search", "inference", "transfer", "wait", "alive")}
        own = {"host": "simulated", "pid": self.number, "gauges": "", "model": self.model, "threads": 1}
        games = int(self.finished)
        counted = {"games": games, "moves": 30 * games, "waiting": games - self.safe}
        return {**own, **counted, **dict.fromkeys(names, games), **spent}

    def answered(self, head: dict[str, Any], now: float) -> None:
        """Take an answer."""
        if self.call not in ("enter", "through"):
            self.failures = 0
        if "refused" in head:
            self.joined, self.call = False, ""
            return
        if self.call == "join":
            self.joined, self.report_due = True, now
            self._settle(head)
        elif self.call == "weights" and head["hash"]:
            self.model, self.model_at = head["hash"], now
        elif self.call == "report":
            self.newest, self.safe, self.paused = head["model"], int(head["safe"]), head["paused"]
            self.report_due = now + REPORT
        elif self.call == "add":
            before, last = self.stored, min(int(self.finished), self.stored + self.most)
            self._settle(head)
            self.taken, self.full = self.stored > before, self.stored < last
            self.most = min(GROUP, 4 * self.most) if not self.full else 1

    def _settle(self, head: dict[str, Any]) -> None:
        games = self._material.games
        for s in range(self.stored + 1, int(head["stored"]) + 1):
            self.positions += games[(self.number + s) % len(games)][3]
        self.stored, self.safe = int(head["stored"]), int(head["safe"])


class Crowd:
    """Many simulated workers over one selector, at one address."""

    def __init__(self, address: str, numbers: range, material: Material) -> None:
        self._address = split_address(address)
        now = time.monotonic()
        pace = IDLE / max(1, len(numbers))
        self.workers = [_Worker(n, material, now + i * pace) for i, n in enumerate(numbers)]
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int]] = []
        self.playing = True
        self.latencies: dict[str, list[float]] = {}
        self.cut = 0
        """Connections that failed or were cut."""
        self.told = ""
        """The last refusal."""
        for i, _ in enumerate(self.workers):
            heapq.heappush(self._timers, (now, i))

    def run(self, asked: Callable[[], bool]) -> None:
        """Work until `asked()`."""
        while not asked():
            now = time.monotonic()
            wait = min(0.02, max(0.0, self._timers[0][0] - now)) if self._timers else 0.02
            for key, mask in self._selector.select(wait):
                self._ready(key.data, mask)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                self._turn(heapq.heappop(self._timers)[1])

    def _turn(self, index: int) -> None:
        """A worker's time has come: connect, ask, or give up an answer that does not come."""
        worker, now = self.workers[index], time.monotonic()
        if worker.connection is None:
            self._connect(index)
        elif worker.asked:
            if now - worker.asked > TIMEOUT:
                self._fail(index)
            else:
                heapq.heappush(self._timers, (worker.asked + TIMEOUT + 0.1, index))
        else:
            self._ask(index)

    def _connect(self, index: int) -> None:
        worker = self.workers[index]
        connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        worker.connection, worker.call, worker.asked = connection, "connect", time.monotonic()
        worker.out, worker.inbox, worker.needed = memoryview(b""), bytearray(), 0
        self._selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, index)
        heapq.heappush(self._timers, (worker.asked + TIMEOUT + 0.1, index))
        if connection.connect_ex(self._address) not in (0, errno.EINPROGRESS):
            self._fail(index)

    def _fail(self, index: int) -> None:
        """Let go of a connection and wait as a sender does."""
        worker = self.workers[index]
        if worker.connection is not None:
            self._selector.unregister(worker.connection)
            worker.connection.close()
        worker.connection, worker.joined, worker.asked, worker.call = None, False, 0.0, ""
        worker.failures += 1
        self.cut += 1
        wait = min(LONGEST, SHORTEST * 2 ** min(worker.failures - 1, 20))
        heapq.heappush(self._timers, (time.monotonic() + wait, index))

    def _ask(self, index: int) -> None:
        worker, now = self.workers[index], time.monotonic()
        worker.play(now, self.playing)
        asked = worker.next_call(now)
        if asked is None:
            heapq.heappush(self._timers, (min(worker.due, max(worker.report_due, now + 0.001)), index))
            return
        head, parts = asked
        worker.call, worker.asked = head["call"], now
        worker.out = memoryview(b"".join(pack(head, parts)))
        self._write(index)

    def _write(self, index: int) -> None:
        worker = self.workers[index]
        assert worker.connection is not None
        try:
            worker.out = worker.out[worker.connection.send(worker.out) :]
        except BlockingIOError:
            pass
        except OSError:
            return self._fail(index)
        if worker.out:
            self._selector.modify(worker.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, index)
        return None

    def _ready(self, index: int, mask: int) -> None:
        worker = self.workers[index]
        if worker.connection is None:
            return
        if mask & selectors.EVENT_WRITE:
            if worker.call == "connect":
                if worker.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    return self._fail(index)
                self._note(worker)
                self._selector.modify(worker.connection, selectors.EVENT_READ, index)
                return self._ask(index)
            self._write(index)
            if worker.connection is not None and not worker.out:
                self._selector.modify(worker.connection, selectors.EVENT_READ, index)
        if mask & selectors.EVENT_READ and worker.connection is not None:
            self._read(index)
        return None

    def _read(self, index: int) -> None:
        worker = self.workers[index]
        assert worker.connection is not None
        try:
            data = worker.connection.recv(1 << 20)
        except BlockingIOError:
            return None
        except OSError:
            return self._fail(index)
        if not data:
            return self._fail(index)
        worker.inbox += data
        worker.needed = worker.needed or frame_size(worker.inbox, "the learner")
        if not worker.needed or len(worker.inbox) < worker.needed:
            return None
        found = unpack(memoryview(worker.inbox), "the learner")[0]
        worker.inbox, worker.needed = bytearray(), 0
        self.told = found.get("refused") or found.get("busy") or self.told
        self._note(worker)
        if "busy" in found:
            return self._fail(index)
        worker.play(time.monotonic(), self.playing)  # until this answer, as the last one let it
        worker.answered(found, time.monotonic())
        return self._ask(index)

    def _note(self, worker: _Worker) -> None:
        self.latencies.setdefault(worker.call, []).append(time.monotonic() - worker.asked)
        worker.asked = 0.0

    def figures(self) -> dict[str, Any]:
        """Return what there is to know, and the seconds of each call since the last time."""
        spent, self.latencies = self.latencies, {}
        workers = self.workers
        return {
            "joined": sum(w.joined for w in workers),
            "finished": sum(int(w.finished) for w in workers),
            "stored": sum(w.stored for w in workers),
            "safe": sum(w.safe for w in workers),
            "positions": sum(w.positions for w in workers),
            "models": [(w.model, w.model_at) for w in workers],
            "latencies": spent,
            "cut": self.cut,
            "told": self.told,
            "cpu": time.process_time(),
        }

    def close(self) -> None:
        """Leave without a word, as killed workers do."""
        for worker in self.workers:
            if worker.connection is not None:
                worker.connection.close()
        self._selector.close()


def simulate(connection: Connection, address: str, numbers: range, material: Material) -> None:
    """Be a process of simulated workers, until the other end of the pipe is closed.

    What comes over the pipe: whether games are played from now on. What goes back: `Crowd.figures`.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.nice(1)  # what is measured is the learner
    crowd = Crowd(address, numbers, material)
    with contextlib.suppress(EOFError):
        while True:
            crowd.run(connection.poll)
            crowd.playing = connection.recv()
            connection.send(crowd.figures())
    crowd.close()
