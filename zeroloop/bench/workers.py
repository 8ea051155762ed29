"""Worker processes against one worker, next to what raw inference gains from as many processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import pathlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from .. import configfile, model
from ..config import Config
from ..distributed.collector import PHASES, phase_shares
from ..distributed.crew import about_run
from ..distributed.producers import Producers
from ..distributed.served import StoreServer
from ..distributed.spool import Spool
from ..distributed.store import MemoryStore, Weights
from ..episode import Episode
from ..errors import StoreError
from ..evaluator.choice import choose, shapes_of
from ..files import sha256
from ..games import make
from ..games.game import Game
from ..networks import build
from ..selfplay.collector import LocalCollector
from .inference import BATCHES, inference_runner

FIGURES = ("evaluations", "simulations", "moves", "games")
SETTLE = 1.5
"""Seconds after a pause or its end; workers hear of it within half a second."""
START = 300.0
"""Seconds in which workers must have begun to play."""


def bench_workers(
    game: Game, config: Config, processes: int, seconds: float = 100.0, rounds: int = 5
) -> dict[str, Any]:
    """Alternate one worker, `processes` workers, raw inference in one process and in as many, and threads.

    Workers are processes `zeroloop worker`: they join a store over a socket, spool and send every game, and
    this process takes the games. Their rates are over their own clocks. Raw is the backend's best batch of
    64 to 1024, one thread a process. `scaling` is the workers' gain over raw inference's gain.

    Raises:
      StoreError: the workers do not begin to play.
    """
    config = replace(config, selfplay=replace(config.selfplay, opponents=(), threads=processes))
    config = replace(config, collect=replace(config.collect, threads=1))
    choice = choose(config.run.device, config.run.backend, config.run.precision)
    data = model.encode(build(config.network, shapes_of(game), 1), game)
    plain, span = configfile.to_plain(config), seconds / rounds
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        raws = [stack.enter_context(_child(_raw, plain, data)) for _ in range(processes)]
        batch = _best(raws[0])
        threads = stack.enter_context(_child(_threads, plain, data))
        stations = [
            stack.enter_context(_station(game, config, data, root / str(i))) for i in range(processes)
        ]
        _begin(stations, root)
        _window(stations, stations, span / 4)  # lets games spread over all plies and caches fill
        for _ in range(rounds):
            one, _ = _window(stations, stations[:1], span / 4)
            many, spent = _window(stations, stations, span / 4)
            alone = sum(_ask(raws[:1], (batch, span / 6)))
            together = sum(_ask(raws, (batch, span / 6)))
            (here,) = _ask([threads], span / 6)
            rows.append({"one": one, "many": many, "raw": (alone, together), "here": here, "spent": spent})
        episode = stations[0].newest
        spool = _spool_cost(root / "cost", episode)
    return _report(rows) | {
        "spool_microseconds_per_game": 1e6 * spool,
        "spool_share": spool * _middle([r["one"]["games"] for r in rows]),
        "episode_bytes": len(episode),
        "workers": processes,
        "backend": str(choice),
        "raw_batch": batch,
        "rounds": rounds,
    }


def _report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the rounds; a ratio is the median of the rounds' ratios."""
    gains = [r["many"]["evaluations"] / r["one"]["evaluations"] for r in rows]
    raw = [r["raw"][1] / r["raw"][0] for r in rows]
    scaling = [g / w for g, w in zip(gains, raw, strict=True)]
    return {
        "scaling": statistics.median(scaling),
        "scaling_spread": [min(scaling), max(scaling)],
        "workers_gain": statistics.median(gains),
        "workers_gain_simulations": _middle(
            [r["many"]["simulations"] / r["one"]["simulations"] for r in rows]
        ),
        "raw_gain": statistics.median(raw),
        "raw_one_positions_per_second": _middle([r["raw"][0] for r in rows]),
        "raw_many_positions_per_second": _middle([r["raw"][1] for r in rows]),
        **{f"one_{k}_per_second": _middle([r["one"][k] for r in rows]) for k in FIGURES},
        **{f"many_{k}_per_second": _middle([r["many"][k] for r in rows]) for k in FIGURES},
        **{f"threads_{k}_per_second": _middle([r["here"][k] for r in rows]) for k in FIGURES[:2]},
        "many_to_threads": _middle([r["many"]["evaluations"] / r["here"]["evaluations"] for r in rows]),
        **{f"share_{p}": _middle([r["spent"].get(p, 0.0) for r in rows]) for p in PHASES},
    }


def _middle(values: list[float]) -> float:
    return statistics.median(values)


class _Station:
    """A store for one worker, and the learner's side of it: reads, checks and acknowledges every game."""

    def __init__(self, game: Game, about: dict[str, Any], weights: Weights, queue: int) -> None:
        self.game, self.newest = game, b""
        self.store = MemoryStore(about, queue)
        self.store.publish(weights, 0.0)
        self.server = StoreServer(self.store, "127.0.0.1:0")
        self._ended = False
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        number = 0
        while not self._ended:
            if not self.store.wait(number, 0.1):
                continue
            found = self.store.read(number, 256)
            for stored in found:
                Episode.from_bytes(stored.data, self.game)
                self.newest = stored.data
            number = found[-1].number
            self.store.acknowledge(number, {s.worker: s.sequence for s in found})

    def row(self) -> dict[str, Any]:
        """Return the worker's last figures; empty before there are any."""
        found = [row for row in self.store.workers() if "moves" in row]
        return found[-1] if found else {}

    def close(self) -> None:
        """Stop taking games."""
        self._ended = True
        self._thread.join()
        self.server.close()


@contextlib.contextmanager
def _station(game: Game, config: Config, data: bytes, spool: pathlib.Path) -> Iterator[_Station]:
    about = {**about_run("bench", config, game), "identity": spool.name}
    made = _Station(game, about, Weights(sha256(data), data), config.collect.queue)
    workers = Producers(1, made.server.address, spool, lambda text: None)
    try:
        yield made
    finally:
        made.store.stop()
        workers.close(15.0)
        made.close()


def _begin(stations: list[_Station], root: pathlib.Path) -> None:
    """Wait until every worker has finished games: it has compiled everything."""
    end = time.monotonic() + START
    while not all(s.row().get("games", 0) >= 2 for s in stations):
        if time.monotonic() > end:
            raise StoreError(f"the workers of this benchmark have not played two games in {START:.0f} s.")
        time.sleep(0.1)


def _window(
    stations: list[_Station], active: list[_Station], seconds: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Let these workers play and the others wait; return rates added up, and shares of their time."""
    for station in stations:
        station.store.pause(station not in active)
    time.sleep(SETTLE)
    before = [s.row() for s in active]
    time.sleep(seconds)
    after = [s.row() for s in active]
    for station in stations:
        station.store.pause(True)
    time.sleep(SETTLE)
    total = dict.fromkeys(FIGURES, 0.0)
    spent: list[dict[str, Any]] = []
    for a, b in zip(before, after, strict=True):
        for name in FIGURES:
            total[name] += (b[name] - a[name]) / (b["alive_seconds"] - a["alive_seconds"])
        spent.append({f"{p}_seconds": b[f"{p}_seconds"] - a[f"{p}_seconds"] for p in PHASES})
    return total, phase_shares(spent)


def _spool_cost(root: pathlib.Path, episode: bytes, games: int = 512) -> float:
    """Return the median seconds that keeping this game takes."""
    spool, costs = Spool.make(root), []
    for _ in range(games):
        begun = time.perf_counter()
        spool.add(episode, 1)
        costs.append(time.perf_counter() - begun)
    spool.remove()
    return statistics.median(costs)


# Processes that measure when asked.


@contextlib.contextmanager
def _child(work: Any, plain: dict[str, Any], data: bytes) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, plain, data), daemon=True)
    process.start()
    theirs.close()
    try:
        yield mine
    finally:
        mine.close()
        process.join(10)


def _ask(children: list[Connection], order: Any) -> list[Any]:
    """Let these processes measure at the same time, and return what each found."""
    for child in children:
        child.send(order)
    return [child.recv() for child in children]


def _best(child: Connection) -> int:
    rates = {batch: _ask([child], (batch, 0.5))[0] for batch in BATCHES}
    return max(rates, key=lambda batch: rates[batch])


def _raw(connection: Connection, plain: dict[str, Any], data: bytes) -> None:
    config = configfile.build(Config, plain, "the benchmark")
    game = make(config.game.name, **config.game.options)
    choice = choose(config.run.device, config.run.backend, config.run.precision)
    network = model.decode(data, pathlib.Path("bench"), game).network
    runners: dict[int, Any] = {}
    with contextlib.suppress(EOFError):
        while True:
            batch, seconds = connection.recv()
            if batch not in runners:
                runners[batch] = inference_runner(game, network, choice, batch, 1)
            connection.send(runners[batch](seconds))


def _threads(connection: Connection, plain: dict[str, Any], data: bytes) -> None:
    config = configfile.build(Config, plain, "the benchmark")
    game = make(config.game.name, **config.game.options)
    choice = choose(config.run.device, config.run.backend, config.run.precision)
    finished: list[int] = []
    deadline = [0.0]
    collector = LocalCollector(game, config, choice, lambda episode: finished.append(len(episode.to_bytes())))
    collector.publish(model.decode(data, pathlib.Path("bench"), game).network, "bench")
    with contextlib.suppress(EOFError):
        while True:
            seconds = connection.recv()
            collector.clear_counters()
            before, begun = collector.counters()["moves"], time.perf_counter()
            collector.begin(1 << 60)
            deadline[0] = begun + seconds
            collector.collect(lambda: time.perf_counter() > deadline[0])
            span, counted = time.perf_counter() - begun, collector.counters()
            counted["moves"] -= before
            connection.send({k: counted[k] / span for k in FIGURES[:3]})
    collector.close()
