"""The Redis store: positions/s written, milliseconds until a batch is ready, and what it costs self-play."""

from __future__ import annotations

import itertools
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import Config, RedisConfig
from ..distributed.sender import GROUP, Sender
from ..distributed.spool import Spool
from ..distributed.store import EpisodeStore, MemoryStore, meaning
from ..episode import Episode
from ..errors import BackendError
from ..evaluator.choice import choose, shapes_of
from ..games.game import Game
from ..networks import build
from ..replay import Replay
from ..selfplay.collector import LocalCollector
from .learn import random_episodes

if TYPE_CHECKING:
    from ..distributed.redis import RedisStore

WINDOW, BATCH, ROUND = 100_000, 1024, 256
"""Positions kept, positions of a batch, and games read in one round trip."""
MATERIAL = 64
"""Different games, written again and again."""
APPEND = ("--appendonly", "yes", "--appendfsync", "everysec")


def bench_store(
    game: Game, config: Config, threads: int, url: str = "", seconds: float = 60.0, rounds: int = 10
) -> dict[str, Any]:
    """Measure a Redis store with games of a search that knows nothing.

    Args:
      url: of a server that is there; empty: one is started for this, with an append-only file that is synced
        every second. Its namespace `zeroloop-bench` is made anew.

    Raises:
      BackendError: no server was given and none is installed.
    """
    config = replace(config, selfplay=replace(config.selfplay, opponents=(), threads=threads))
    episodes = random_episodes(game, config, 4 * MATERIAL)[-MATERIAL:]  # the first to end are short
    with redis_server(url) as address:
        settings = replace(
            config.redis, url=address, namespace="zeroloop-bench", positions=WINDOW, episodes=1 << 30
        )
        written = _written(game, settings, episodes)
        mirrored = _mirrored(game, config, settings, episodes)
        played = _played(game, config, settings, seconds, rounds)
    sizes = [len(e.to_bytes()) for e in episodes]
    positions = sum(e.positions for e in episodes)
    return {
        **written,
        **mirrored,
        **played,
        "window_positions": WINDOW,
        "batch_positions": BATCH,
        "bytes_per_position": sum(sizes) / positions,
        "positions_per_game": positions / len(episodes),
        "threads": threads,
        "server": "given" if url else " ".join(APPEND),
    }


@contextmanager
def redis_server(url: str = "") -> Iterator[str]:
    """Give the address of a server: the one given, or one that lives for this block."""
    if url:
        yield url
        return
    program = shutil.which("redis-server")
    if program is None:
        raise BackendError(
            "bench store needs a Redis server, and redis-server is not installed; apt install redis-server, "
            "or give --url redis://HOST:PORT/0."
        )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="zeroloop-redis-")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", *APPEND]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _learner(game: Game, settings: RedisConfig, anew: bool = True) -> RedisStore:
    from ..distributed.redis import RedisStore

    if anew:
        store = RedisStore(settings.url, settings.namespace)
        store.clear()
        store.close()
    return RedisStore.open_run(settings, {**meaning(game), "run": "bench"}, "bench")


def _worker(settings: RedisConfig) -> RedisStore:
    from ..distributed.redis import RedisStore

    return RedisStore.connect(settings.url, settings.namespace)


class _Writer:
    """A worker that offers the same games again and again under new numbers."""

    def __init__(self, game: Game, store: EpisodeStore, episodes: list[Episode]) -> None:
        self._store, self._next = store, 1
        self._data = itertools.cycle([e.to_bytes() for e in episodes])
        self._positions = itertools.cycle([e.positions for e in episodes])
        store.join(1, "bench", meaning(game))

    def write(self) -> int:
        """Write a group of games and return its positions."""
        data = list(itertools.islice(self._data, GROUP))
        counts = list(itertools.islice(self._positions, GROUP))
        standing = self._store.add(1, self._next, data, counts)
        assert standing.stored == self._next + GROUP - 1, "the store is full"
        self._next += GROUP
        return sum(counts)


def _written(game: Game, settings: RedisConfig, episodes: list[Episode], rounds: int = 5) -> dict[str, Any]:
    """Write a window of positions, then go on while the oldest are evicted; every game is acknowledged."""
    learner, worker = _learner(game, settings), _worker(settings)
    writer = _Writer(game, worker, episodes)
    rates = []
    for _ in range(rounds):
        begun, total = time.perf_counter(), 0
        while total < WINDOW // 2:
            total += writer.write()
            learner.acknowledge(writer._next - 1, {1: writer._next - 1})
        rates.append(total / (time.perf_counter() - begun))
    worker.close()
    learner.close()
    return {
        "written_positions_per_second": statistics.median(rates),
        "written_spread": [min(rates), max(rates)],
    }


def _mirrored(game: Game, config: Config, settings: RedisConfig, episodes: list[Episode]) -> dict[str, Any]:
    """Refill a learner's mirror, then draw batches while a worker writes and the mirror follows."""
    learner, worker = _learner(game, settings), _worker(settings)
    writer = _Writer(game, worker, episodes)
    learner.detach()  # the window fills before anybody reads it
    total = 0
    while total < WINDOW:
        total += writer.write()
    learner.close()
    learner = _learner(game, settings, anew=False)
    window = replace(config.replay, window_min=WINDOW, window_max=WINDOW)
    mirror, at = Replay(game, window, root_value_weight=config.learn.root_value_weight), 0

    def follow(most: int) -> int:
        nonlocal at
        if found := learner.read(at, most):
            mirror.add(Episode.from_bytes(g.data, game) for g in found)
            at = found[-1].number
            learner.acknowledge(at, {1: found[-1].sequence})
        return len(found)

    begun = time.perf_counter()
    while follow(ROUND):
        pass
    refill = time.perf_counter() - begun
    for step in range(5):
        mirror.sample(BATCH, step)
    quiet = _times(lambda i: mirror.sample(BATCH, i), 200)
    end, paced = threading.Event(), threading.Thread(target=lambda: _pace(writer, end))
    paced.start()
    following = _times(lambda i: (follow(GROUP), mirror.sample(BATCH, i)), 400)
    end.set()
    paced.join()
    worker.close()
    learner.close()
    return {
        "mirror_positions": len(mirror),
        "refill_seconds": refill,
        "batch_ms_median": float(np.percentile(quiet, 50)),
        "batch_ms_p95": float(np.percentile(quiet, 95)),
        "following_batch_ms_median": float(np.percentile(following, 50)),
        "following_batch_ms_p95": float(np.percentile(following, 95)),
    }


def _pace(writer: _Writer, end: threading.Event, rate: float = 5000.0) -> None:
    """Write so many positions a second."""
    begun, total = time.perf_counter(), 0
    while not end.is_set():
        total += writer.write()
        end.wait(max(0.0, begun + total / rate - time.perf_counter()))


def _times(draw: Callable[[int], Any], count: int) -> list[float]:
    """Return the milliseconds of each of so many calls."""
    out = []
    for i in range(count):
        begun = time.perf_counter()
        draw(i)
        out.append(1000 * (time.perf_counter() - begun))
    return out


class _Sink:
    """A spool, its sender, and a learner that takes what comes from the same store."""

    def __init__(self, game: Game, worker: EpisodeStore, learner: EpisodeStore, folder: pathlib.Path) -> None:
        self._learner, self._end, self.games = learner, threading.Event(), 0
        self.spool = Spool.make(folder)
        self._sender = Sender(worker, self.spool, meaning(game), lambda: {"games": self.games}, print)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        at = self._learner.counters()["games"]
        while not self._end.is_set():
            if found := self._learner.read(at, ROUND):
                at = found[-1].number
                self._learner.acknowledge(at, {self.spool.number: found[-1].sequence})
            else:
                time.sleep(0.05)

    def close(self) -> int:
        """Send what is left and return the games that the learner has not."""
        self._sender.finish(20)
        self._end.set()
        self._thread.join()
        self.spool.close()
        return self.spool.waiting


def _played(game: Game, config: Config, settings: RedisConfig, seconds: float, rounds: int) -> dict[str, Any]:
    """Alternate self-play whose games go to a store in memory with self-play whose games go to Redis."""
    choice = choose(config.run.device, config.run.backend, config.run.precision)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="zeroloop-spool-"))
    memory = MemoryStore({**meaning(game), "run": "bench"}, 1 << 30)
    learner, worker = _learner(game, settings), _worker(settings)
    ends: dict[str, tuple[EpisodeStore, EpisodeStore]] = {
        "memory": (memory, memory),
        "redis": (worker, learner),
    }
    current: _Sink | None = None

    def keep(episode: Episode) -> None:
        assert current is not None
        current.spool.add(episode.to_bytes(), episode.positions)
        current.games += 1

    collector = LocalCollector(game, config, choice, keep)
    collector.publish(build(config.network, shapes_of(game), 1), "bench")

    def processor() -> float:
        used = learner._client.info("cpu")
        return time.process_time() + float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    def play(span: float) -> tuple[float, float]:
        collector.clear_counters()
        begun, spent = time.perf_counter(), processor()
        collector.begin(1 << 60)
        collector.collect(lambda: time.perf_counter() > begun + span)
        done = collector.counters()["simulations"]
        return done / (time.perf_counter() - begun), done / (processor() - spent)

    span = seconds / rounds / 2
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ends}
    games, left = dict.fromkeys(ends, 0), dict.fromkeys(ends, 0)
    for i in range(-2, rounds):  # the first ones compile, fill the cache and spread games over all plies
        for name in sorted(ends, reverse=bool(i % 2)):  # neither is always first
            current = _Sink(game, *ends[name], folder)
            rate = play(span)
            games[name] += current.games
            left[name] += current.close()
            if i >= 0:
                rates[name].append(rate)
    collector.close()
    worker.close()
    learner.close()
    shutil.rmtree(folder)
    both = list(zip(rates["redis"], rates["memory"], strict=True))
    ratios = [r[0] / m[0] for r, m in both]
    return {
        "selfplay_ratio": statistics.median(ratios),
        "selfplay_ratio_spread": [min(ratios), max(ratios)],
        "selfplay_ratio_per_cpu_second": statistics.median(r[1] / m[1] for r, m in both),
        "memory_simulations_per_second": statistics.median(r[0] for r in rates["memory"]),
        "redis_simulations_per_second": statistics.median(r[0] for r in rates["redis"]),
        "redis_games": games["redis"],
        "redis_games_left": left["redis"],
        "rounds": rounds,
    }
