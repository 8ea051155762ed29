"""Rates: how fast a run plays, and where the time of its self-play goes."""

from __future__ import annotations

import time
from collections import defaultdict, deque

from .distributed.collector import RemoteCollector
from .outside import Row
from .replay import Replay
from .selfplay.collector import LocalCollector

SPAN = 5.0
"""Seconds at least over which rates of workers are taken."""


class Rates:
    """Reads the counters of a session's collector, and what `replay` has taken."""

    def __init__(self, collector: LocalCollector | RemoteCollector, replay: Replay) -> None:
        self._collector, self._replay = collector, replay
        self._workers = isinstance(collector, RemoteCollector)
        self._seconds, self._overflows = 0.0, 0
        self._since: float | None = None
        """Monotonic seconds at which the phase of play began; None outside of it."""
        self._totals: dict[str, float] = defaultdict(float)
        """What this process has played, and for how long, up to the current phase."""
        self._marks: deque[tuple[float, int, int, dict[str, int]]] = deque()
        """(monotonic seconds, positions, games, counters) since which rates are taken, and later."""
        self._noted: dict[str, int] = {}

    @property
    def playing(self) -> bool:
        """Whether a phase of play goes on."""
        return self._since is not None

    def begin(self) -> None:
        """Begin a phase of play."""
        if not self._workers:
            counted = self._collector.counters()
            for name in counted.keys() - {"moves"}:
                self._totals[name] += counted[name]
            self._collector.clear_counters()
            self._noted = {}
        self._since = time.monotonic()
        self._mark(self._since)

    def _mark(self, now: float) -> None:
        """Note since when rates are taken: this phase; of workers, who report twice a second, 5 s."""
        if not self._workers or not self._marks:
            self._marks.clear()
        elif now - self._marks[-1][0] <= SPAN:
            return
        self._marks.append((now, self._replay.total, self._replay.games, self._collector.counters()))
        while len(self._marks) > 2:
            self._marks.popleft()

    def end(self) -> tuple[int, int]:
        """End the phase of play; return its simulations and the overflows among them."""
        assert self._since is not None
        self._seconds, self._since = time.monotonic() - self._since, None
        self._totals["play_seconds"] += self._seconds
        counted, noted = self._collector.counters(), self._noted
        self._noted = counted
        self._overflows = counted["overflows"] - noted.get("overflows", 0)
        return counted["simulations"] - noted.get("simulations", 0), self._overflows

    def metrics(self) -> dict[str, float]:
        """Return what was played per second; nothing where an earlier session played the phase.

        Workers play on while the learner learns: their figures reach up to now.
        """
        if not self._marks:
            return {}
        begun, positions, games, before = self._marks[0]
        play = time.monotonic() - begun if self._workers else self._seconds
        grown = {k: n - before.get(k, 0) for k, n in self._collector.counters().items()}
        asked = grown["evaluations"] + grown["cache_hits"]
        values = {
            "games_per_second": (self._replay.games - games) / play,
            "positions_per_second": (self._replay.total - positions) / play,
            "overflows": self._overflows,
            "play_seconds": self._seconds,
        }
        if not self._workers or grown["simulations"]:  # else no worker has reported meanwhile
            values["simulations_per_second"] = grown["simulations"] / play
            values["evaluations_per_second"] = grown["evaluations"] / play
        if asked:
            values["cache_hit_rate"] = grown["cache_hits"] / asked
        if grown["moves"]:
            values["simulations_per_move"] = grown["simulations"] / grown["moves"]
        return values

    def totals(self) -> Row:
        """Return what this process has played so far, as a status has it; workers report their own."""
        if isinstance(self._collector, RemoteCollector):
            return {}
        since = self._since  # threads of self-play ask, too
        row: Row = {"play_seconds": self._totals["play_seconds"]}
        row["play_seconds"] += time.monotonic() - since if since else 0.0
        row |= {k: v + self._totals[k] for k, v in self._collector.counters().items()}
        row |= {f"{k}_seconds": v for k, v in self._collector.seconds().items()}
        return row | {"threads": self._collector.threads}
