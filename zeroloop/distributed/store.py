"""EpisodeStore: where workers put finished games and a learner takes them; and the one in memory.

A worker numbers its games 1, 2, 3, ...; a store takes them in that order, each once. `stored` is the last
it has; `safe` is the last that a learner has on its disk: until then the worker keeps the game in its
spool. No method compares the clocks of two machines: silence is measured by whom it reaches.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ..errors import RefusedError

PROTOCOL = 1
"""Version of what workers and learners say to each other."""

MEANING = ("protocol", "zeroloop", "game", "rules_identity", "observation_version")
"""What a worker and a run must have in common."""


class Standing(NamedTuple):
    """How far a worker's games have come."""

    stored: int
    """Number of the worker's last game that the store has taken."""
    safe: int
    """Number of the worker's last game that a learner has on its disk."""


class Stored(NamedTuple):
    """A game in a store."""

    number: int
    """Counts all games ever stored, from 1."""
    worker: int
    sequence: int
    """Counts the worker's games, from 1."""
    data: bytes
    """`Episode.to_bytes`."""


class Weights(NamedTuple):
    """A model that workers play."""

    hash: str
    data: bytes
    """`model.encode`, whose SHA-256 is the hash."""


class Orders(NamedTuple):
    """What a worker is told when it reports."""

    model: str
    """Hash of the newest model; empty before there is one."""
    progress: float
    """Of the run, 0..1, for schedules."""
    paused: bool
    stopped: bool
    """The run is over: finish sending, then leave."""
    safe: int
    """See `Standing`."""


class EpisodeStore(Protocol):
    """The seam between workers and learners; every method may be called from any thread.

    Every method raises UnreachableError where the store does not answer: the call may be made again.
    """

    def about(self) -> dict[str, Any]:
        """Return what the run is: a value for each of MEANING, `config` as plain data, and its name `run`.

        Raises:
          RefusedError: no learner has opened a run here yet.
        """

    def join(self, worker: int, token: str, about: dict[str, Any], safe: int = 0) -> Standing:
        """Take a worker in, anew or again, and return its standing.

        Args:
          worker: its number, 0..2^31 - 1, drawn at random. token: the same whenever this worker joins again.
          about: the worker's own value for each of MEANING.
          safe: the last of its games that it knows a learner has; a store that knows less goes on from there.

        Raises:
          RefusedError: another version, game or rules; or the number is another worker's.
        """

    def add(self, worker: int, first: int, episodes: Sequence[bytes], positions: Sequence[int]) -> Standing:
        """Store a worker's games `first`, `first + 1`, ...; those that it has already are passed over.

        Returns:
          The standing after it: `stored` is lower than the last one given where the store is full; the
          worker waits and offers the rest again.

        Raises:
          RefusedError: a worker that has not joined, or a gap in its numbers.
        """

    def read(self, after: int, most: int) -> list[Stored]:
        """Return games with numbers above `after`, in order, at most `most`, in one round trip."""

    def acknowledge(self, number: int, safe: dict[int, int]) -> None:
        """Say that the learner has on its disk all games up to `number`, and of each worker up to `safe`."""

    def publish(self, weights: Weights, progress: float) -> None:
        """Make this the model that workers play."""

    def weights(self, known: str) -> Weights | None:
        """Return the newest model; None where it is `known`, or where there is none yet."""

    def report(self, worker: int, row: dict[str, Any]) -> Orders:
        """Take a worker's figures (flat, plain data) and tell it what to do.

        Raises:
          RefusedError: a worker that has not joined: it joins again.
        """

    def workers(self) -> list[dict[str, Any]]:
        """Return each present worker's last figures, with `worker` and `silent_seconds`."""

    def pause(self, paused: bool) -> None:
        """Let all workers wait, or go on."""

    def stop(self) -> None:
        """Tell all workers that the run is over."""

    def counters(self) -> dict[str, int]:
        """Return what only grows: `games`, `positions`, `evicted_games`, `unread_evicted`, `duplicates`."""

    def close(self) -> None:
        """Let go of connections; what is stored stays."""


class MemoryStore:
    """An `EpisodeStore` in this process: a queue that refuses when full and never drops a game.

    Args:
      about: what `about()` returns, MEANING included.
      capacity: games that may wait to be read. lost_seconds: silence after which a worker counts as gone.
      clock: seconds of this machine, monotonic.
    """

    def __init__(
        self,
        about: dict[str, Any],
        capacity: int,
        lost_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._about, self._capacity = about, capacity
        self._lost, self._clock = lost_seconds, clock
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._games: deque[Stored] = deque()
        self._tokens: dict[int, str] = {}
        self._stored: dict[int, int] = {}
        self._safe: dict[int, int] = {}
        self._rows: OrderedDict[int, tuple[float, dict[str, Any]]] = OrderedDict()
        self._weights: Weights | None = None
        self._progress = 0.0
        self._paused = self._stopped = False
        self._counters = {
            k: 0 for k in ("games", "positions", "evicted_games", "unread_evicted", "duplicates")
        }

    def about(self) -> dict[str, Any]:
        """See `EpisodeStore`."""
        return self._about

    def join(self, worker: int, token: str, about: dict[str, Any], safe: int = 0) -> Standing:
        """See `EpisodeStore`."""
        check_meaning(self._about, about)
        with self._lock:
            if self._tokens.setdefault(worker, token) != token:
                raise RefusedError(f"worker number {worker} is another worker's; draw another one.")
            self._stored[worker] = max(safe, self._stored.get(worker, 0))
            self._safe[worker] = max(safe, self._safe.get(worker, 0))
            self._rows.setdefault(worker, (self._clock(), {}))
            return Standing(self._stored[worker], self._safe[worker])

    def resume(self, safe: dict[int, int]) -> None:
        """Go on where a learner's disk ends: these games of these workers are not taken again."""
        with self._lock:
            for worker, sequence in safe.items():
                self._safe[worker] = max(sequence, self._safe.get(worker, 0))
                self._stored[worker] = max(sequence, self._stored.get(worker, 0))

    def add(self, worker: int, first: int, episodes: Sequence[bytes], positions: Sequence[int]) -> Standing:
        """See `EpisodeStore`."""
        if len(episodes) != len(positions):
            raise ValueError(f"{len(episodes)} games with {len(positions)} numbers of positions")
        with self._lock:
            self._require(worker)
            for sequence, (data, count) in enumerate(zip(episodes, positions, strict=True), first):
                stored = self._stored[worker]
                if sequence <= stored:
                    self._counters["duplicates"] += 1
                    continue
                check_next(worker, stored, sequence)
                if len(self._games) >= self._capacity:
                    break
                self._counters["games"] += 1
                self._counters["positions"] += count
                self._games.append(Stored(self._counters["games"], worker, sequence, bytes(data)))
                self._stored[worker] = sequence
            self._arrived.notify_all()
            return Standing(self._stored[worker], self._safe[worker])

    def read(self, after: int, most: int) -> list[Stored]:
        """See `EpisodeStore`; what was read stays until it is acknowledged."""
        with self._lock:
            out: list[Stored] = []
            for game in self._games:
                if len(out) >= most:
                    break
                if game.number > after:
                    out.append(game)
            return out

    def wait(self, after: int, seconds: float) -> bool:
        """Wait for a game with a number above `after`; return whether there is one."""
        with self._arrived:
            return self._arrived.wait_for(lambda: self._counters["games"] > after, seconds)

    def acknowledge(self, number: int, safe: dict[int, int]) -> None:
        """See `EpisodeStore`."""
        with self._lock:
            while self._games and self._games[0].number <= number:
                self._games.popleft()
            for worker, sequence in safe.items():
                self._safe[worker] = max(sequence, self._safe.get(worker, 0))

    def publish(self, weights: Weights, progress: float) -> None:
        """See `EpisodeStore`."""
        with self._lock:
            self._weights, self._progress = weights, progress

    def weights(self, known: str) -> Weights | None:
        """See `EpisodeStore`."""
        with self._lock:
            found = self._weights
            return found if found is not None and found.hash != known else None

    def report(self, worker: int, row: dict[str, Any]) -> Orders:
        """See `EpisodeStore`."""
        with self._lock:
            self._require(worker)
            self._rows[worker] = (self._clock(), row)
            model = self._weights.hash if self._weights else ""
            return Orders(model, self._progress, self._paused, self._stopped, self._safe[worker])

    def workers(self) -> list[dict[str, Any]]:
        """See `EpisodeStore`."""
        with self._lock:
            now = self._clock()
            rows = [
                {**row, "worker": worker, "silent_seconds": now - seen}
                for worker, (seen, row) in self._rows.items()
            ]
            return [r for r in rows if r["silent_seconds"] <= self._lost]

    def pause(self, paused: bool) -> None:
        """See `EpisodeStore`."""
        with self._lock:
            self._paused = paused

    def stop(self) -> None:
        """See `EpisodeStore`."""
        with self._lock:
            self._stopped = True

    def counters(self) -> dict[str, int]:
        """See `EpisodeStore`."""
        with self._lock:
            return dict(self._counters)

    def close(self) -> None:
        """Nothing to let go of."""

    def _require(self, worker: int) -> None:
        if worker not in self._tokens:
            raise RefusedError(f"worker {worker} has not joined this store; join first.")


def check_meaning(run: dict[str, Any], worker: dict[str, Any]) -> None:
    """Refuse a worker whose program, game or rules are not the run's; the difference is named."""
    for key in MEANING:
        if worker.get(key) != run.get(key):
            raise RefusedError(
                f"this run has {key} {run.get(key)}, the worker {worker.get(key)}; install the same "
                "zeroloop and the same game on both machines."
            )


def check_next(worker: int, stored: int, sequence: int) -> None:
    """Refuse a gap in a worker's numbers."""
    if sequence != stored + 1:
        raise RefusedError(
            f"worker {worker} offered its game {sequence}, but its game {stored + 1} comes next."
        )


def meaning(game: Any) -> dict[str, Any]:
    """Return a value for each of MEANING, of this installation and this game."""
    from importlib.metadata import version

    from ..games import rules_identity

    return {
        "protocol": PROTOCOL,
        "zeroloop": version("zeroloop"),
        "game": game.id,
        "rules_identity": rules_identity(game),
        "observation_version": game.observation.version,
    }
