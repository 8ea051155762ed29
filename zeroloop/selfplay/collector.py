"""The collector: self-play groups on the threads of this process. Knows nothing of learning.

`collect` runs every group until it has made its share of moves; finished games go out as they end, or, in
deterministic runs, at the end of the phase in the order of the groups.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..episode import Episode
from ..errors import ResumeError
from ..evaluator import NetworkEvaluator
from ..evaluator.choice import Choice, cores, make_evaluator
from ..games.game import Game
from ..networks import Network
from ..search.forest import Evaluator
from . import Chooser, SelfPlay

Array = npt.NDArray[Any]


GROUPS = 64
"""Self-play groups of a worker at most."""
STRIDE = 1 << 37
"""Game keys of one group of a worker lie so far apart: room for 2^31 workers of 64 groups."""


class CountedEvaluator(Evaluator, Protocol):
    """An evaluator that counts."""

    rows: int
    """Rows that the network computed for a state."""


class LocalCollector:
    """Plays on `selfplay.threads` threads, a group each; on a GPU two, so that search and inference overlap.

    Args:
      on_episode: called with every finished game, one call at a time.
      make_player, opponent_label: see `SelfPlay`; needed where opponents are configured.
      numbers: (first, of how many): the groups' numbers among all groups of a run; default: these are all.
      connect: makes a group's evaluator of a model's name, where networks run elsewhere.
    """

    def __init__(
        self,
        game: Game,
        config: Config,
        choice: Choice,
        on_episode: Callable[[Episode], None],
        make_player: Callable[[str], Chooser] | None = None,
        opponent_label: Callable[[str, int], str] | None = None,
        numbers: tuple[int, int] | None = None,
        connect: Callable[[str], CountedEvaluator] | None = None,
    ) -> None:
        self.game, self.config, self.choice = game, config, choice
        self.threads = config.selfplay.threads or cores()
        self._connect = connect
        self._per_thread = 1 if choice.device == "cpu" and connect is None else 2
        self._on_episode = on_episode
        self._lock = threading.Lock()
        number = self.threads * self._per_thread
        first, groups = self.numbers = numbers or (0, number)
        """Number of the first group, and of how many."""
        self.pending: list[list[Episode]] = [[] for _ in range(number)]
        """Games of this phase that deterministic runs have not handed out yet, by group."""
        self.groups = [
            SelfPlay(
                game,
                config,
                group=first + i,
                groups=groups,
                on_episode=self._receiver(i),
                make_player=make_player,
                opponent_label=opponent_label,
            )
            for i in range(number)
        ]
        self.quotas = [0] * number
        """Moves that each group is to have made at the end of the phase."""
        self.evaluators: list[CountedEvaluator] = []
        self._rows_before = 0
        self.drive_seconds = [0.0] * self.threads
        """Seconds that each thread has spent in `collect`."""
        self._pool = ThreadPoolExecutor(self.threads)

    def _receiver(self, group: int) -> Callable[[Episode], None]:
        if self.config.run.deterministic:
            return self.pending[group].append

        def receive(episode: Episode) -> None:
            with self._lock:
                self._on_episode(episode)

        return receive

    def publish(
        self, network: Network | None, name: str, keep_cache: bool = False, progress: float | None = None
    ) -> None:
        """Let every group play on with this network, and with schedules at this progress of the run.

        Args:
          keep_cache: only where it is the same network as before.
        """
        if self._connect is not None:
            found = [self._connect(name) for _ in self.groups]
        else:
            assert network is not None, "without a server the network itself is needed"
            size = [self.config.selfplay.games]
            found = [make_evaluator(self.game, network, self.choice, size, 1) for _ in self.groups]
        self._rows_before += sum(e.rows for e in self.evaluators)
        self.evaluators = found
        for group, evaluator in zip(self.groups, self.evaluators, strict=True):
            group.publish(self._with_tables(evaluator), name, keep_cache)
            if progress is not None:
                group.set_progress(progress)

    def _with_tables(self, evaluator: Evaluator) -> Evaluator:
        """Return the evaluator with exact values where the configuration asks for a table."""
        checkers = self.config.search.bearoff
        if not checkers:
            return evaluator
        from ..players.bearoff import BearoffEvaluator, bearoff_table

        return BearoffEvaluator(evaluator, bearoff_table(checkers))

    def begin(self, moves: int) -> None:
        """Begin a phase in which the groups make so many moves together."""
        share = -(-moves // len(self.groups))
        self.quotas = [g.moves + share for g in self.groups]

    def end(self) -> None:
        """Let the phase end where it is."""
        self.quotas = [g.moves for g in self.groups]

    def midway(self) -> bool:
        """Return whether a phase was begun and not ended."""
        return any(g.moves < q for g, q in zip(self.groups, self.quotas, strict=True))

    def collect(self, stop: Callable[[], bool]) -> bool:
        """Play until every group has made the moves of its quota.

        Args:
          stop: asked before each tick; when true, groups end their tick and stop where they are.

        Returns:
          Whether every quota is reached.
        """
        n = self._per_thread
        jobs = [self._pool.submit(self._drive, range(i * n, (i + 1) * n), stop) for i in range(self.threads)]
        wait(jobs)
        done = all([job.result() for job in jobs])
        if done and self.config.run.deterministic:
            for episodes in self.pending:
                for episode in episodes:
                    self._on_episode(episode)
                episodes.clear()
        return done

    def _drive(self, numbers: range, stop: Callable[[], bool]) -> bool:
        """Turn this thread's groups in rotation: while one waits for the device, another searches."""
        live, thread, last = list(numbers), numbers.start // self._per_thread, time.perf_counter()
        while live:
            halt = stop()
            # A quota of 0 makes a turn take in its answer and submit nothing.
            live = [i for i in live if self.groups[i].turn(0 if halt else self.quotas[i])]
            last, begun = time.perf_counter(), last
            self.drive_seconds[thread] += last - begun
        return all(self.groups[i].moves >= self.quotas[i] for i in numbers)

    def seconds(self) -> dict[str, float]:
        """Return thread seconds by phase since the collector was made: search, inference, transfer."""
        asked = sum(g.inference_seconds for g in self.groups)
        sent = sum(g.transfer_seconds for g in self.groups)
        search = max(0.0, sum(self.drive_seconds) - asked - sent)  # a turn that runs counts at its end
        return {"search": search, "inference": asked, "transfer": sent}

    def counters(self) -> dict[str, int]:
        """Totals of all groups since `clear_counters`: simulations, evaluations, cache hits, moves so far."""
        total: dict[str, int] = {"moves": 0, "evaluations": 0}
        for group in self.groups:
            total["moves"] += group.moves
            for name, value in group.forest.counters.items():
                total[name] = total.get(name, 0) + value
        total["evaluations"] = self._rows_before + sum(e.rows for e in self.evaluators)
        return total

    def clear_counters(self) -> None:
        """Set all counters but moves to 0."""
        for group in self.groups:
            group.forest.clear_counters()
        self._rows_before = 0
        for evaluator in self.evaluators:
            evaluator.rows = 0

    def snapshot(self, midway: bool) -> list[dict[str, Array]]:
        """Return the games in flight of every group.

        Midway in a deterministic phase that includes evaluation caches and games not handed out.
        """
        out = []
        for group, episodes in zip(self.groups, self.pending, strict=True):
            arrays = group.snapshot()
            if midway and self.config.run.deterministic:
                arrays |= {f"cache.{k}": v for k, v in group.forest.cache._asdict().items()}
                data = [e.to_bytes() for e in episodes]
                arrays["pending.sizes"] = np.array([len(d) for d in data], np.int64)
                arrays["pending.bytes"] = np.frombuffer(b"".join(data), np.uint8)
            out.append(arrays)
        return out

    def poll(self) -> None:
        """Nothing comes in between phases."""

    def backend(self) -> Any:
        """Return the network that plays, compiled for inference."""
        evaluator = self.evaluators[0]
        assert isinstance(evaluator, NetworkEvaluator)
        return evaluator.backends[-1]

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside the snapshot, as plain data."""
        labels = [group.labels for group in self.groups]
        return {"quotas": self.quotas, "labels": labels, "numbers": self.numbers}

    def restore(self, snapshot: list[dict[str, Array]], state: dict[str, Any], finished: set[int]) -> None:
        """Continue from a snapshot and `state()`; `finished` games are not played again.

        Raises:
          ResumeError: it was played by another number of groups.
        """
        if not snapshot:  # workers have played so far: begin as one more of them, with keys of its own
            self._number(secrets.randbits(31) * GROUPS, STRIDE)
            return
        if len(snapshot) != len(self.groups):
            raise ResumeError(
                f"the run was played by {len(snapshot)} groups of games in its learner; here it would be "
                f"{len(self.groups)}. Go on with --set selfplay.threads={len(snapshot) // self._per_thread}."
            )
        self._number(*state.get("numbers", self.numbers))
        self.quotas = list(state["quotas"])
        for i, (group, arrays) in enumerate(zip(self.groups, snapshot, strict=True)):
            group.restore(arrays, state["labels"][i], finished)
            if "pending.sizes" in arrays:
                for name, mine in group.forest.cache._asdict().items():
                    mine[...] = arrays[f"cache.{name}"]
                at = 0
                for size in arrays["pending.sizes"]:
                    data = arrays["pending.bytes"][at : at + int(size)].tobytes()
                    self.pending[i].append(Episode.from_bytes(data, self.game))
                    at += int(size)

    def _number(self, first: int, groups: int) -> None:
        self.numbers = first, groups
        for i, group in enumerate(self.groups):
            group.group, group.groups = first + i, groups

    def skip(self, finished: set[int]) -> None:
        """Give no new game a key of these finished games."""
        for group in self.groups:
            group.skip(finished)

    @property
    def bytes(self) -> int:
        """Memory of all forests and caches."""
        return sum(group.forest.bytes for group in self.groups)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()
