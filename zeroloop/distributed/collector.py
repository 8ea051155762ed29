"""RemoteCollector: the learner's side of a store. Takes finished games, checks them, keeps each once.

A game is kept before it is acknowledged, and a worker forgets it only then; whatever dies between, the
worker offers it again, and its number tells that it is here already.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy.typing as npt

from .. import model
from ..config import Config
from ..episode import Episode
from ..errors import StoreError, UnreachableError
from ..evaluator.choice import Choice, make_evaluator
from ..games.game import Game
from ..networks import Network
from .store import EpisodeStore, Stored, Weights
from .worker import worker_of

Array = npt.NDArray[Any]

ROUND, POLLED = 256, 64
"""Games read in one round trip at most: between phases, and while learning."""
REMEMBERED = 1000
"""Models whose order a checkpoint holds."""
SUMMED = ("moves", "simulations", "evaluations", "cache_hits", "overflows")
PHASES = ("search", "inference", "transfer", "wait")


class RemoteCollector:
    """Collects what workers play; has what the loop asks of a `selfplay.collector.LocalCollector`.

    Args:
      keep: stores a finished game for good: on disk and in the window.
      say: takes a sentence for a person.
      tend: called now and then while waiting: looks after worker processes.
      sync: makes what was kept survive a power failure; called before it is acknowledged.
      give: gives a model (hash, bytes) to the inference server of the workers, before they hear of it.
    """

    def __init__(
        self,
        game: Game,
        config: Config,
        choice: Choice,
        store: EpisodeStore,
        keep: Callable[[Episode], None],
        say: Callable[[str], None],
        tend: Callable[[], None] = lambda: None,
        give: Callable[[str, bytes], None] | None = None,
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        self.game, self.config, self.choice, self.store = game, config, choice, store
        self._keep, self._say, self._tend, self._give = keep, say, tend, give
        self._sync = sync
        self.paused = self._holds = False
        """Whether somebody wants workers to wait; whether the queue does."""
        self.over = False
        """Whether workers were told that they are no longer needed: that none reports then is no fault."""
        self._told: bool | None = None
        self.taken: dict[int, int] = {}
        """Number of the last game taken of each worker."""
        self.refused = self.missed = 0
        """Games turned away for what they are; numbers of workers' games that never came."""
        self._known: set[int] = set()
        self._number = 0
        self._owed: dict[int, int] = {}  # taken and not acknowledged: the store may have been away
        self.games = self._moves_target = self._games_target = self.moves = self._size = 0
        self._given = ""
        """The model that workers were given last in this session."""
        self.published: list[str] = []
        """Hashes of the models that workers were given, oldest first."""
        self._network: Network | None = None
        self._unsent: tuple[Weights, float] | None = None
        self._mute = False
        self._rows: dict[int, dict[str, Any]] = {}
        self._first: dict[int, dict[str, Any]] = {}  # a worker may be older than this session
        self._here: set[int] = set()
        self._alone = False
        self._counted: dict[str, int] = {}
        self._cleared: dict[str, int] = {}
        self.receive_seconds = self.wait_seconds = 0.0
        self._tended = self._drained = -1.0
        self._gone = 0.0

    # The phases of the loop.

    def begin(self, moves: int) -> None:
        """Begin a phase: until so many new positions have come, or `collect.games` games.

        What came in advance, while the learner learnt from the phase before, counts.
        """
        self._size = moves
        self._moves_target = max(self._moves_target + moves, self.moves + 1)
        self._games_target = max(self._games_target + self.config.collect.games, self.games + 1)

    def end(self) -> None:
        """Let the phase end where it is."""
        self._moves_target, self._games_target = self.moves, self.games

    def midway(self) -> bool:
        """Return False: workers play on between phases."""
        return False

    def _enough(self, ahead: int = 0) -> bool:
        """Return whether the phase has what it needs, and so many further phases too."""
        if self.config.collect.gate == "games":
            return self.games >= self._games_target + ahead * self.config.collect.games
        return self.moves >= self._moves_target + ahead * self._size

    def collect(self, stop: Callable[[], bool]) -> bool:
        """Take games until the phase has what it needs; return False where `stop()` ends it before."""
        while not self._enough():
            if stop():
                return False
            if not self.drain(POLLED):
                begun = time.monotonic()
                self._wait()
                self.wait_seconds += time.monotonic() - begun
        return True

    def _wait(self) -> None:
        wait = getattr(self.store, "wait", None)
        if wait is not None:
            wait(self._number, 0.1)
        else:
            time.sleep(0.05)

    def poll(self, every: float = 0.25) -> None:
        """Take what has come, one phase in advance at most, unless that was done within `every` seconds.

        What is not taken fills the store, and workers wait: games never come faster than they are learnt.
        """
        if time.monotonic() - self._drained < every:
            return
        if not self._enough(1):
            self.drain(POLLED)
        else:
            self._look_around()

    def drain(self, most: int = ROUND) -> int:
        """Take the games that wait, at most `most`; return how many came.

        While the store does not answer this says so once and returns 0.
        """
        self._look_around()
        begun = self._drained = time.monotonic()
        try:
            found = self.store.read(self._number, most)
            if found:
                for stored in found:
                    self._take(stored)
                self._number = found[-1].number
                self._owed |= {s.worker: self.taken[s.worker] for s in found}
            if self._owed:
                self._sync()
                self.store.acknowledge(self._number, self._owed)
                self._owed = {}
        except UnreachableError as error:
            self._lost(error)
            return 0
        if self._gone:
            self._say(f"the store answers again after {begun - self._gone:.0f} s")
            self._gone = 0.0
        self.receive_seconds += time.monotonic() - begun
        return len(found)

    def _look_around(self) -> None:
        """Look after worker processes and read their figures, twice a second at most."""
        now = time.monotonic()
        if now - self._tended < 0.5:
            return
        self._tended = now
        self._tend()
        if self._unsent is not None:
            self._offer()
        self._hold()
        try:
            self._read_figures()
        except UnreachableError as error:
            self._lost(error)

    def _read_figures(self) -> None:
        found, before = self.store.workers(), self._here
        self._counted = self.store.counters()
        for row in found:
            self._rows[row["worker"]] = row
            if "simulations" in row:
                self._first.setdefault(row["worker"], row)
        self._here = {row["worker"] for row in found}
        if before and not found and not self.over:
            lost = self.config.collect.lost_seconds
            self._say(f"no worker has reported for {lost:.0f} s; games come again when one does")
            self._alone = True
        elif found and self._alone:
            self._say(f"a worker reports again; present: {len(found)}")
            self._alone = False

    def _hold(self) -> None:
        """Let workers wait while somebody wants that, or while a roomy store holds more than a queue."""
        waiting, most = self.queue()["waiting"], self.config.collect.queue
        full = waiting >= (most // 2 if self._holds else 2 * most)
        if self._told is None or (self.paused or full) != self._told:
            with contextlib.suppress(UnreachableError):  # it is asked again soon
                self.store.pause(self.paused or full)
                self._told = self.paused or full
        self._holds = full

    def look(self) -> None:
        """Read the workers' figures now, unless the store is away."""
        with contextlib.suppress(UnreachableError):
            if not self._gone:
                self._read_figures()

    def _lost(self, error: UnreachableError) -> None:
        if not self._gone:
            self._say(f"{error} The learner waits for it; what it has is safe.")
            self._gone = time.monotonic()
        time.sleep(0.2)

    def _take(self, stored: Stored) -> None:
        last = self.taken.get(stored.worker, 0)
        if stored.sequence <= last:
            return  # offered again: its acknowledgement was lost
        try:
            episode = Episode.from_bytes(stored.data, self.game)
            self._check(episode, stored)
        except StoreError as error:
            self.refused += 1
            self._say(f"game {stored.sequence} of worker {stored.worker} is refused and not stored: {error}")
        else:
            if episode.game_id not in self._known:
                if stored.sequence > last + 1 and last:
                    self.missed += stored.sequence - last - 1
                self._keep(episode)
                self.games += 1
                self.moves += episode.positions
        self.taken[stored.worker] = stored.sequence

    def _check(self, episode: Episode, stored: Stored) -> None:
        """Refuse a game that is not of this run; what is in it was checked when its bytes were read."""
        if worker_of(episode.game_id) != stored.worker:
            raise StoreError(f"its key {episode.game_id} is one of worker {worker_of(episode.game_id)}.")
        if episode.seed != self.config.run.seed:
            raise StoreError(f"it was played with seed {episode.seed}; the run has {self.config.run.seed}.")
        limit = self.config.collect.stale_updates
        if limit and not set(self.published[-limit - 1 :]) & set(episode.seats):
            raise StoreError(
                f"its model {episode.seats[0][: model.SHORT]} is more than collect.stale_updates = {limit} "
                "updates behind the newest."
            )

    def publish(
        self, network: Network, name: str, keep_cache: bool = False, progress: float | None = None
    ) -> None:
        """Give workers this network; while the store does not answer they play the last one."""
        self._network = network
        if self._given == name:
            return
        self._unsent = Weights(name, model.encode(network, self.game)), progress or 0.0
        self._offer()

    def _offer(self) -> None:
        """Give workers the model that they have not got yet, or say once why that has to wait."""
        assert self._unsent is not None
        weights, progress = self._unsent
        try:
            if self._give is not None:
                self._give(weights.hash, weights.data)
            self.store.publish(weights, progress)
        except UnreachableError as error:
            if not self._mute:
                does = "play on with the last model" if self.published else "wait for their first model"
                self._say(f"{error} Workers {does} until it answers.")
            self._mute = True
            return
        if self._mute:
            self._say("it answers again; workers get the newest model")
        self._unsent, self._mute = None, False
        self._given = weights.hash
        if weights.hash not in self.published[-1:]:  # the last session may have ended with it
            self.published.append(weights.hash)

    def backend(self) -> Any:
        """Return the newest network compiled for inference."""
        assert self._network is not None
        size = [self.config.selfplay.games]
        return make_evaluator(self.game, self._network, self.choice, size, 1).backends[-1]

    # Figures.

    def rows(self) -> list[dict[str, Any]]:
        """Return the workers' last figures, with `updates_behind`: models published since theirs."""
        place = {name: i for i, name in enumerate(self.published)}
        out = []
        for row in self._rows.values():
            behind = len(self.published) - 1 - place[row["model"]] if row.get("model") in place else None
            out.append({**row, "updates_behind": behind})
        return out

    def present(self) -> list[dict[str, Any]]:
        """Return the rows of workers that have not been silent for `collect.lost_seconds`."""
        return [row for row in self.rows() if row["worker"] in self._here]

    def queue(self) -> dict[str, int]:
        """Return the store's counters as last seen, with `waiting` (games not read yet) and `capacity`."""
        seen = dict(self._counted)
        seen["waiting"] = max(0, seen.get("games", 0) - self._number)
        return {**seen, "capacity": self.config.collect.queue}

    def counters(self) -> dict[str, int]:
        """Totals of all workers since `clear_counters`, of each since its first report in this session."""
        total = dict.fromkeys(SUMMED, 0)
        for worker, first in self._first.items():
            for name in SUMMED:
                total[name] += int(self._rows[worker].get(name, 0)) - int(first.get(name, 0))
        return {name: value - self._cleared.get(name, 0) for name, value in total.items()}

    def clear_counters(self) -> None:
        """Count from here."""
        self._cleared = {}
        self._cleared = self.counters()

    # What a checkpoint holds.

    def snapshot(self, midway: bool) -> list[dict[str, Array]]:
        """Return nothing: games in flight are the workers'."""
        return []

    def state(self) -> dict[str, Any]:
        """Return what a resumed learner needs to take no game twice."""
        return {
            "taken": {str(k): v for k, v in self.taken.items()},
            "refused": self.refused,
            "missed": self.missed,
            "published": self.published[-REMEMBERED:],
        }

    def restore(
        self, snapshot: list[dict[str, Array]], state: dict[str, Any], finished: Iterable[int]
    ) -> None:
        """Go on from `state()`; `finished` are keys of games that are on disk beyond it.

        Games in flight of a run that was played in its learner's process are given up.
        """
        self.taken = {int(k): v for k, v in state.get("taken", {}).items()}
        self.refused, self.missed = state.get("refused", 0), state.get("missed", 0)
        self.published = list(state.get("published", []))
        self._known = set(finished)
        for key in self._known:  # a worker's games reach the log in its order
            worker = worker_of(key)
            self.taken[worker] = self.taken.get(worker, 0) + 1
        resume = getattr(self.store, "resume", None)
        if resume is not None:
            resume(self.taken)

    def skip(self, finished: Iterable[int]) -> None:
        """Go on where these finished games end, without a checkpoint."""
        self.restore([], {}, finished)

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()


def phase_shares(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the share of the workers' thread time per phase; empty where nothing was measured."""
    spent = {p: 0.0 for p in PHASES}
    for row in rows:
        for phase in PHASES:
            spent[phase] += float(row.get(f"{phase}_seconds", 0.0))
    total = sum(spent.values())
    return {p: s / total for p, s in spent.items()} if total > 0 else {}
