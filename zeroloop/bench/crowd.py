"""A crowd: very many workers at one learner, to learn what its server can do; the workers are simulated."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from .. import configfile, model
from ..config import Config
from ..distributed.collector import RemoteCollector
from ..distributed.crew import about_run
from ..distributed.served import StoreServer
from ..distributed.store import MemoryStore, meaning
from ..episode import Episode
from ..errors import ConfigError, StoreError
from ..evaluator.choice import choose, shapes_of
from ..files import sha256
from ..games import make
from ..games.game import Game
from ..networks import build
from ..replay import Replay
from ..replay.log import EpisodeLog
from .learn import random_episodes
from .simulated_worker import Material, recorded, simulate

MATERIAL = 64
"""Different games, sent again and again under keys of their own."""
PATIENCE = 120.0
"""Seconds in which everybody must have joined, have a model, or have sent some of what is left."""
SETTLE = 3.0
"""Seconds between everybody's arrival and the measurement."""


def bench_crowd(
    game: Game,
    config: Config,
    workers: int = 1000,
    positions: float = 635.0,
    learner: float = 0.0,
    seconds: float = 15.0,
    processes: int = 2,
) -> dict[str, Any]:
    """Measure a learner's server with so many workers.

    All come at once; for `seconds` they send games; a new model reaches them; the learner goes away and comes
    back, and all come at once again; in the end every game that was finished must be on the learner's disk.
    Workers share the machine's cores with the learner, so processor seconds are told for each.

    Args:
      positions: positions/s that a worker plays; `bench workers` measures it.
      learner: positions/s that the learner takes; 0: all that it can.
      processes: that simulate the workers.

    Raises:
      ConfigError: a number out of range.
      StoreError: workers do not come, or games do not arrive, within PATIENCE seconds.
    """
    for name, value, least in (
        ("processes", processes, 1),
        ("workers", workers, processes),
        ("positions", positions, 1),
        ("learner", learner, 0),
        ("seconds", seconds, 1),
    ):
        if not value >= least:
            raise ConfigError(f"--{name} is {value}; it must be at least {least}.")
    episodes = random_episodes(game, config, 4 * MATERIAL)[-MATERIAL:]  # the first to end are short
    each = sum(e.positions for e in episodes) / len(episodes)
    games = [recorded(replace(e, seed=config.run.seed).to_bytes(), e.positions) for e in episodes]
    material = Material(meaning(game), games, positions / each, config.collect.queue)
    plain = configfile.to_plain(config)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="zeroloop-crowd-"))
        at = stack.enter_context(_child(_learner, plain, folder, learner))
        address = at.recv()
        parts = [range(i + 1, workers + 1, processes) for i in range(processes)]
        begun = time.monotonic()
        crowd = [stack.enter_context(_child(simulate, address, part, material)) for part in parts]
        found = _measured(at, crowd, workers, seconds, begun)
    mean = sum(len(b"".join(g[:3])) for g in games) / len(games)
    settings = {"workers": workers, "offered_positions_per_second": workers * positions}
    settings |= {"positions_per_game": each, "bytes_per_game": mean, "queue": config.collect.queue}
    settings["learner"] = learner
    return settings | found


def _measured(
    at: Connection, crowd: list[Connection], workers: int, seconds: float, begun: float
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    name = _ask(at, "model")["model"]
    _until(crowd, lambda rows: _have(rows, name) == workers, "have the model")
    found["arrival_seconds"] = time.monotonic() - begun
    time.sleep(SETTLE)
    found |= _window(at, crowd, seconds)
    published = _ask(at, "publish")
    rows = _until(crowd, lambda rows: _have(rows, published["model"]) == workers, "have the new model")
    spent = [moment - published["at"] for row in rows for _, moment in row["models"]]
    found["model_seconds"], found["model_seconds_median"] = max(spent), float(np.median(spent))
    found["model_megabytes_per_second"] = workers * published["bytes"] / max(spent) / 1e6
    found["peak_megabytes"] = _ask(at, "usage")["peak"]
    _tell(crowd, True)
    cut, again = sum(row["cut"] for row in _tell(crowd, True)), _ask(at, "restart")["at"]
    _until(crowd, lambda rows: sum(row["cut"] for row in rows) >= cut + workers, "be cut off", 0.0)
    rows = _until(crowd, lambda rows: sum(row["joined"] for row in rows) == workers, "come back")
    found["return_seconds"] = time.monotonic() - again
    found["return_tries"] = (sum(row["cut"] for row in rows) - cut) / workers
    for row in _tell(crowd, False):
        found["told"] = row["told"] or found.get("told", "")
    _ask(at, "hurry")
    rows = _until(crowd, lambda rows: all(r["safe"] == r["finished"] for r in rows), "send all", play=False)
    sent, kept = sum(row["finished"] for row in rows), _ask(at, "usage")
    return found | {"games_finished": sent, "games_kept": kept["games"], "lost": sent - kept["games"]}


def _window(at: Connection, crowd: list[Connection], seconds: float) -> dict[str, Any]:
    """Let them work for a while and return rates, answers and what they cost."""
    before, first, begun = _ask(at, "usage"), _tell(crowd, True), time.monotonic()
    time.sleep(seconds)
    after, last, span = _ask(at, "usage"), _tell(crowd, True), time.monotonic() - begun
    rows = list(zip(first, last, strict=True))
    spent: dict[str, list[float]] = {}
    for row in last:
        for call, times in row["latencies"].items():
            spent.setdefault(call, []).extend(times)
    every = [t for times in spent.values() for t in times]

    def rate(name: str) -> float:
        return float(sum(b[name] - a[name] for a, b in rows)) / span

    found = {
        "finished_games_per_second": rate("finished"),
        "accepted_games_per_second": rate("stored"),
        "accepted_positions_per_second": rate("positions"),
        "kept_positions_per_second": (after["positions"] - before["positions"]) / span,
        "calls_per_second": len(every) / span,
        "learner_cpu": (after["cpu"] - before["cpu"]) / span,
        "learner_main_thread_cpu": (after["main"] - before["main"]) / span,
        "workers_cpu": rate("cpu"),
        "megabytes": after["megabytes"],
        "files": after["files"],
        "threads": after["threads"],
        "cut": sum(b["cut"] - a["cut"] for a, b in rows),
    }
    for call, times in (("call", every), *sorted(spent.items())):
        for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
            found[f"{call}_ms_{name}"] = 1000 * float(np.percentile(times, share)) if times else 0.0
    return found


def _have(rows: list[dict[str, Any]], name: str) -> int:
    return sum(held == name for row in rows for held, _ in row["models"])


def _until(
    crowd: list[Connection],
    fact: Callable[[list[dict[str, Any]]], bool],
    what: str,
    wait: float = 0.1,
    play: bool = True,
) -> list[dict[str, Any]]:
    end, known = time.monotonic() + PATIENCE, -1
    while not fact(rows := _tell(crowd, play)):
        if not play and (safe := sum(row["safe"] for row in rows)) != known:
            end, known = time.monotonic() + PATIENCE, safe
        if time.monotonic() > end:
            told = "; ".join(sorted({row["told"] for row in rows if row["told"]}))
            joined = sum(row["joined"] for row in rows)
            raise StoreError(
                f"the workers of this benchmark do not all {what} within {PATIENCE:.0f} s: {joined} are "
                f"joined. {told}"
            )
        time.sleep(wait)
    return rows


def _ask(child: Connection, order: str) -> dict[str, Any]:
    child.send(order)
    found: dict[str, Any] = child.recv()
    return found


def _tell(crowd: list[Connection], play: bool) -> list[dict[str, Any]]:
    for child in crowd:
        child.send(play)
    return [child.recv() for child in crowd]


@contextlib.contextmanager
def _child(work: Callable[..., None], *given: Any) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *given), daemon=True)
    process.start()
    theirs.close()
    try:
        yield mine
    finally:
        mine.close()
        process.join(10)
        process.kill()


class _Learner:
    """The learner's side: a store in memory, its server, and a collector that keeps games on disk."""

    def __init__(self, config: Config, folder: pathlib.Path) -> None:
        self._config, self._game = config, make(config.game.name, **config.game.options)
        self._log = EpisodeLog(folder / "episodes.log")
        list(self._log.open_at(0))
        self._replay = Replay(self._game, config.replay, root_value_weight=config.learn.root_value_weight)
        self._seed, self.games, self.positions = 0, 0, 0
        self.server: StoreServer | None = None
        self.collector = self._open("127.0.0.1:0")

    def _open(self, address: str) -> RemoteCollector:
        config, c = self._config, self._config.collect
        store = MemoryStore(about_run("bench", config, self._game), c.queue, c.lost_seconds)
        choice = choose("cpu", config.run.backend, config.run.precision)
        made = RemoteCollector(
            self._game, config, choice, store, self._keep, lambda text: None, sync=self._log.sync
        )
        self.server = StoreServer(store, address, password="")
        return made

    def _keep(self, episode: Episode) -> None:
        self._log.append(episode.to_bytes())
        self._replay.add([episode])
        self.games += 1
        self.positions += episode.positions

    def publish(self) -> dict[str, Any]:
        """Give workers a new model; return its hash, size and the moment."""
        self._seed += 1
        network = build(self._config.network, shapes_of(self._game), self._seed)
        data = model.encode(network, self._game)
        name, at = sha256(data), time.monotonic()
        self.collector.publish(network, name, progress=0.0)
        return {"model": name, "bytes": len(data), "at": at}

    def restart(self) -> dict[str, Any]:
        """Go away, forget what was not kept, and come back at the same address."""
        assert self.server is not None
        address, state, network = self.server.address, self.collector.state(), self.collector._network
        self.server.close()
        time.sleep(1.0)
        at = time.monotonic()
        self.collector = self._open(address)
        self.collector.restore([], state, [])
        assert network is not None
        self.collector.publish(network, state["published"][-1], progress=0.0)
        return {"at": at}

    def usage(self) -> dict[str, Any]:
        """Return what this process has used so far, and what it holds."""
        status = dict(
            line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines()
        )
        return {
            "cpu": time.process_time(),
            "main": time.thread_time(),
            "megabytes": int(status["VmRSS"].split()[0]) / 1024,
            "peak": int(status["VmHWM"].split()[0]) / 1024,
            "files": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "games": self.games,
            "positions": self.positions,
        }


def _learner(connection: Connection, plain: dict[str, Any], folder: str, rate: float) -> None:
    """Be the learner's process: take games as the loop does, and learn nothing in between."""
    learner = _Learner(configfile.build(Config, plain, "the benchmark"), pathlib.Path(folder))
    name = learner.publish()
    assert learner.server is not None
    connection.send(learner.server.address)
    orders: dict[str, Callable[[], dict[str, Any]]] = {
        "model": lambda: name,
        "publish": learner.publish,
        "restart": learner.restart,
        "usage": learner.usage,
        "hurry": dict,
    }
    with contextlib.suppress(EOFError):
        while True:
            _take(learner.collector, rate, connection.poll)
            order = connection.recv()
            rate = 0.0 if order == "hurry" else rate
            connection.send(orders[order]())


def _take(collector: RemoteCollector, rate: float, asked: Callable[[], bool]) -> None:
    """Take games until somebody asks; with a rate, in phases of a second, as if it learnt between them."""
    while not asked():
        begun = time.monotonic()
        collector.begin(int(rate) or 1 << 40)
        collector.collect(asked)
        while rate and time.monotonic() < begun + 1.0 and not asked():
            collector.poll()
            time.sleep(0.02)
    collector.end()
