"""Stores to test alike, a slow model of what any of them promises, and faulty ones."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field

from zeroloop.distributed.served import StoreClient, StoreServer
from zeroloop.distributed.store import MEANING, MemoryStore, Standing, Stored
from zeroloop.errors import RefusedError, UnreachableError

ABOUT = {
    **dict.fromkeys(MEANING, "1"),
    "run": "a run",
    "config": {"run": {"seed": 7}},
    "inference": "",
    "identity": "a",
}


@contextlib.contextmanager
def memory(capacity):
    """Yield the learner's store and a function that gives a worker its own."""
    store = MemoryStore(ABOUT, capacity)
    yield store, lambda: store


@contextlib.contextmanager
def served(capacity):
    """The same behind a socket, which the learner uses too."""
    store = MemoryStore(ABOUT, capacity)
    server, clients = StoreServer(store, "127.0.0.1:0"), []

    def connect():
        clients.append(StoreClient(server.address))
        return clients[-1]

    yield connect(), connect
    for client in clients:
        client.close()
    server.close()


MAKERS = {"memory": memory, "served": served}


@dataclass
class Model:
    """An `EpisodeStore` as its docstrings put it, with lists that are walked from end to end.

    `capacity`: games that may wait for the learner, who acknowledges in the order of their numbers.
    """

    capacity: int
    games: list[Stored] = field(default_factory=list)
    tokens: dict[int, str] = field(default_factory=dict)
    began: dict[int, int] = field(default_factory=dict)
    safe: dict[int, int] = field(default_factory=dict)
    acknowledged: int = 0
    positions: int = 0
    duplicates: int = 0

    def stored(self, worker):
        mine = [game.sequence for game in self.games if game.worker == worker]
        return max([self.began.get(worker, 0), *mine])

    def standing(self, worker):
        return Standing(self.stored(worker), self.safe[worker])

    def join(self, worker, token, about, safe=0):
        if any(about[key] != ABOUT[key] for key in MEANING):
            raise RefusedError("meaning")
        if self.tokens.get(worker, token) != token:
            raise RefusedError("token")
        self.tokens[worker] = token
        self.began[worker] = max(safe, self.stored(worker))
        self.safe[worker] = max(safe, self.safe.get(worker, 0))
        return self.standing(worker)

    def add(self, worker, first, episodes, positions):
        if worker not in self.tokens:
            raise RefusedError("not joined")
        for i in range(len(episodes)):
            last = self.stored(worker)
            if first + i <= last:
                self.duplicates += 1
            elif first + i > last + 1:
                raise RefusedError("gap")
            elif len(self.games) - self.acknowledged >= self.capacity:
                break
            else:
                self.games.append(Stored(len(self.games) + 1, worker, first + i, episodes[i]))
                self.positions += positions[i]
        return self.standing(worker)

    def read(self, after, most):
        return [game for game in self.games if game.number > after][:most]

    def acknowledge(self, number, safe):
        self.acknowledged = max(self.acknowledged, number)
        for worker, sequence in safe.items():
            self.safe[worker] = max(self.safe[worker], sequence)

    def counters(self):
        return {"games": len(self.games), "positions": self.positions, "duplicates": self.duplicates}


class Faulty:
    """A store whose calls fail as planned: each call asks `plan(name)` for one of FAULTS, or None.

    `before`: nothing reaches the store. `after`: the store did it, the answer is lost.
    """

    FAULTS = ("before", "after")

    def __init__(self, store, plan):
        self.store, self.plan, self.calls = store, plan, []

    def __getattr__(self, name):
        call = getattr(self.store, name)

        def asked(*given):
            self.calls.append((name, given))
            fault = self.plan(name)
            if fault == "before":
                raise UnreachableError("it is away.")
            answer = call(*given)
            if fault == "after":
                raise UnreachableError("its answer was lost.")
            return answer

        return asked


class Wire:
    """A wire to a server: passes bytes on, and cuts its first connection after so many in one direction."""

    def __init__(self, address, up=None, down=None):
        self.target, self.limits = address, [up, down]
        self.passed = [0, 0]
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.socket.accept()
                host, port = self.target.split(":")
                far = socket.create_connection((host, int(port)))
                limits, self.limits = self.limits, [None, None]
                for direction, (a, b) in enumerate([(near, far), (far, near)]):
                    given = (a, b, direction, limits[direction])
                    threading.Thread(target=self._pass, args=given, daemon=True).start()

    def _pass(self, source, target, direction, limit):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16 if limit is None else max(1, limit)):
                if limit is not None:
                    data, limit = data[:limit], limit - len(data[:limit])
                self.passed[direction] += len(data)
                target.sendall(data)
                if limit == 0:
                    break
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def eventually(fact, seconds=60.0):
    """Wait until `fact()` is true, and return it; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.005)
    return found
