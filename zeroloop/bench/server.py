"""Self-play through an inference server against self-play that computes for itself, on the same cores."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections import Counter
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from .. import configfile, model
from ..config import Config
from ..distributed.inference import InferenceServer
from ..distributed.leaves import RemoteEvaluator
from ..episode import Episode
from ..evaluator.choice import choose, shapes_of
from ..files import sha256
from ..games import make
from ..games.game import Game
from ..networks import build
from ..selfplay.collector import LocalCollector

FIGURES = ("evaluations", "simulations", "moves")


def bench_server(
    game: Game, config: Config, threads: int, seconds: float = 30.0, rounds: int = 5
) -> dict[str, Any]:
    """Alternate self-play on `threads` threads of one process with as many worker processes and a server.

    A worker has one thread and two groups of games, so that one searches while the other waits. An
    evaluation is a row that the network computed for a state. All run on the cores of this machine.
    """
    config = replace(config, selfplay=replace(config.selfplay, opponents=(), threads=threads))
    choice = choose(config.run.device, config.run.backend, config.run.precision)
    network = build(config.network, shapes_of(game), 1)
    data = model.encode(network, game)
    local = _Player(game, config, None)
    local.collector.publish(network, "bench")
    plain = configfile.to_plain(replace(config, selfplay=replace(config.selfplay, threads=1)))
    server = _Process(_serve, plain, data)
    try:
        address = server.hear()
        workers = [_Process(_work, plain, address, sha256(data), i, threads) for i in range(threads)]
        try:
            both: dict[str, list[Any]] = {"here": [local], "server": workers}
            rows: dict[str, list[dict[str, float]]] = {"here": [], "server": []}
            for player in (*both["here"], *both["server"]):  # one after the other: the first compiles
                player.play(0.5)
                player.hear()
            for r in range(-1, rounds):  # the first lets games spread over all plies, and counts for nothing
                for name, players in both.items():
                    row = _round(server, players, seconds / rounds / 2)
                    if r >= 0:
                        rows[name].append(row)
        finally:
            for worker in workers:
                worker.end()
        sizes = server.ask("sizes")
    finally:
        server.end()
        local.collector.close()
    return _report(rows, sizes) | {
        "workers": threads,
        "backend": str(choice),
        "state_bytes": game.state_dtype.itemsize,
        "max_batch": config.inference.max_batch,
        "deadline_ms": config.inference.deadline_ms,
        "rounds": rounds,
    }


def _round(server: _Process, players: list[Any], span: float) -> dict[str, float]:
    """Let players play together; return rates, and what the server counted meanwhile."""
    before = server.ask("counters")
    for player in players:
        player.play(span)
    found: Counter[str] = Counter()
    longest = 0.0
    for player in players:
        heard = player.hear()
        longest = max(longest, heard["seconds"])
        found.update({k: heard[k] / heard["seconds"] for k in FIGURES} | {"cpu": heard["cpu"]})
    after = server.ask("counters")
    row = dict(found) | {f"server_{k}": after[k] - before[k] for k in after} | {"seconds": longest}
    if row["server_batches"]:  # computed by the server: equal positions of two workers count once
        row["evaluations"] = row["server_evaluations"] / longest
        row["cpu"] += row["server_cpu"]
    row["per_cpu_second"] = row["evaluations"] * longest / row["cpu"]
    return row


def _report(rows: dict[str, list[dict[str, float]]], sizes: dict[int, int]) -> dict[str, Any]:

    def middle(where: str, name: str) -> float:
        return statistics.median(r[name] for r in rows[where])

    def ratios(name: str) -> list[float]:
        return [s[name] / h[name] for h, s in zip(rows["here"], rows["server"], strict=True)]

    def total(name: str) -> float:
        return sum(r[name] for r in rows["server"])

    asked, requests = total("server_positions"), total("server_requests")
    up, down = total("server_bytes_received") / asked, total("server_bytes_sent") / asked
    ordered = sorted(size for size, times in sizes.items() for _ in range(times))
    found = ratios("evaluations")
    return {
        "ratio": statistics.median(found),
        "ratio_spread": [min(found), max(found)],
        "simulations_ratio": statistics.median(ratios("simulations")),
        "ratio_per_cpu_second": statistics.median(ratios("per_cpu_second")),
        **{f"here_{n}_per_second": middle("here", n) for n in FIGURES},
        **{f"server_{n}_per_second": middle("server", n) for n in FIGURES},
        "batch_median": statistics.median(ordered),
        "batch_tenth_and_ninetieth": [ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10]],
        "positions_per_request": asked / requests,
        "mean_wait_ms": 1000 * total("server_wait_seconds") / requests,
        "bytes_per_position_up": up,
        "bytes_per_position_down": down,
        "megabytes_per_second": asked / total("seconds") * (up + down) / 1e6,
    }


def _keep(episode: Episode) -> None:
    """Do what a worker does to a finished game before it is sent."""
    episode.to_bytes()


class _Player:
    """Self-play in this process, played in spans."""

    def __init__(self, game: Game, config: Config, connect: Any, numbers: Any = None) -> None:
        choice = choose("cpu" if connect else config.run.device, config.run.backend, config.run.precision)
        self.collector = LocalCollector(game, config, choice, _keep, numbers=numbers, connect=connect)
        self._found: dict[str, float] = {}

    def play(self, seconds: float) -> None:
        collector = self.collector
        moves = collector.counters()["moves"]
        collector.clear_counters()
        collector.begin(1 << 60)
        cpu, begun = time.process_time(), time.perf_counter()
        end = begun + seconds
        collector.collect(lambda: time.perf_counter() > end)
        found = collector.counters()
        found["moves"] -= moves
        self._found = {k: found[k] for k in FIGURES} | {
            "seconds": time.perf_counter() - begun,
            "cpu": time.process_time() - cpu,
        }

    def hear(self) -> dict[str, float]:
        return self._found


class _Process:
    """A spawned process that answers over a pipe."""

    def __init__(self, target: Any, *given: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=target, args=(other, *given), daemon=True)
        self._process.start()
        other.close()

    def hear(self) -> Any:
        return self._pipe.recv()

    def ask(self, what: Any) -> Any:
        self._pipe.send(what)
        return self._pipe.recv()

    def play(self, seconds: float) -> None:
        self._pipe.send(seconds)

    def end(self) -> None:
        self._pipe.send(None)
        self._process.join()


def _game(config: Config) -> Game:
    return make(config.game.name, **config.game.options)


def _serve(pipe: Connection, plain: dict[str, Any], data: bytes) -> None:
    config = configfile.build(Config, plain, "the benchmark")
    choice = choose(config.run.device, config.run.backend, config.run.precision)
    mine = config.inference
    server = InferenceServer(
        _game(config), choice, max_batch=mine.max_batch, deadline_ms=mine.deadline_ms, lanes=mine.lanes
    )
    server.publish(sha256(data), data)
    pipe.send(server.listen("127.0.0.1:0"))
    while (asked := pipe.recv()) is not None:
        if asked == "counters":
            pipe.send(server.counters() | {"cpu": time.process_time()})
        else:
            pipe.send(server.lanes.batches())
    server.close()


def _work(
    pipe: Connection, plain: dict[str, Any], address: str, name: str, number: int, workers: int
) -> None:
    config = configfile.build(Config, plain, "the benchmark")
    game = _game(config)

    def connect(asked: str) -> RemoteEvaluator:
        return RemoteEvaluator(game, address, asked, config.selfplay.games)

    player = _Player(game, config, connect, (2 * number, 2 * workers))
    player.collector.publish(None, name)
    while (span := pipe.recv()) is not None:
        player.play(span)
        pipe.send(player.hear())
    player.collector.close()
