"""Benchmarks: medians of repeated, interleaved measurements, in the units of the metrics table."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from . import draws
from .compiled import kernel
from .config import Config, GameConfig, SelfPlayConfig
from .episode import Episode
from .evaluator import UniformEvaluator, observe_states
from .evaluator.choice import Choice, choose, make_evaluator, relative_points, shapes_of
from .games import make
from .games.game import (
    CHANCE,
    TERMINAL,
    Game,
    apply_action,
    chance_outcomes,
    initial,
    legal_actions,
    to_play,
)
from .learner import Learner
from .networks import build
from .replay import Replay
from .search.forest import Forest, Leaves
from .selfplay import SelfPlay, needed_nodes
from .selfplay.collector import LocalCollector

BATCHES = (64, 128, 256, 512, 1024)


def bench_search(
    game: Game, config: Config, threads: int, seconds: float = 2.0, repeats: int = 5
) -> dict[str, Any]:
    """Measure simulations/s with the uniform evaluator: select, expand and back up, no network, no cache."""
    simulations = int(config.search.simulations.maximum)
    games = config.selfplay.games
    runners = [_SearchRunner(game, config, games, simulations, seed) for seed in range(threads)]
    for runner in runners:
        runner.run(0.5)  # compiles, and lets the games spread over all plies
        runner.run(0.5)
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            done = [job.result() for job in [pool.submit(r.run, seconds / repeats) for r in runners]]
            rates.append(sum(n / t for n, t in done))
    rate = statistics.median(rates)
    return {
        "simulations_per_second": rate,
        "ns_per_simulation": 1e9 * threads / rate,
        "simulations_per_move": simulations,
        "games": games,
        "threads": threads,
        "rule": config.search.rule,
        "spread": [min(rates), max(rates)],
    }


class _SearchRunner:
    """One thread's forest: searches, moves and begins again until its time is up."""

    def __init__(self, game: Game, config: Config, games: int, simulations: int, seed: int) -> None:
        self.game, self.simulations = game, simulations
        self.reuse = config.search.tree_reuse
        self.forest = Forest(
            game,
            games,
            max_nodes=needed_nodes(game, config),
            rule=config.search.rule,
            interior=config.search.interior,
            chance=config.search.chance,
            seed=seed,
        )
        evaluator = UniformEvaluator(game, games)
        self.answer = evaluator.result(evaluator.submit(self.forest.waiting()))
        start = game.states(1)
        start[0] = game.initial_state()
        self.moves = 0
        self._plant(self.forest.all, np.repeat(start, games))
        self._begin(self.forest.all)

    def _begin(self, ids: Any) -> None:
        n = len(ids)
        self.forest.begin(ids, np.full(n, self.simulations, np.int32), np.ones(n, np.int32))

    def run(self, seconds: float) -> tuple[int, float]:
        """Return (simulations, seconds)."""
        f = self.forest
        f.clear_counters()
        begun = time.perf_counter()
        while time.perf_counter() - begun < seconds:
            f.tick(self.answer, self.simulations)
            done = f.done()
            if len(done):
                self._move(done.copy())
        return f.counters["simulations"], time.perf_counter() - begun

    def _move(self, ids: Any) -> None:
        f = self.forest
        result = f.results(ids, np.ones(len(ids)))
        f.advance(ids, result.action, self.reuse)
        roots = f.trees.nodes[ids, 0]
        waits = ids[(roots["to_play"] < 0) | (roots["edge_count"] == 1)]
        if len(waits):
            self._plant(waits, f.trees.states[waits, 0])
        self._begin(ids)

    def _plant(self, ids: Any, states: Any) -> None:
        """Plant these states, or what comes after them where no seat has a choice."""
        self.moves += 1
        game, width = self.game, max(self.game.max_legal, self.game.max_chance)
        scratch = np.zeros(width, np.int32), np.zeros(max(game.max_chance, 1), np.float32)
        play_to_choice(game, self.forest.seed, self.moves, states, *scratch)
        self.forest.plant(ids, states, ids.astype(np.uint64), np.zeros(len(ids), np.int32))


@kernel
def play_to_choice(game, seed, key, states, legal, chance):
    """Play dice and forced moves until a seat has a choice; a game that ends begins anew."""
    for i in range(states.shape[0]):
        state, ply = states[i], 0
        while True:
            mover = to_play(game, state)
            if mover == TERMINAL:
                initial(game, state, key)
            elif mover == CHANCE:
                k = chance_outcomes(game, state, legal, chance)
                u = draws.uniform(seed, draws.CHANCE, key, i, ply)
                apply_action(game, state, legal[draws.pick(chance, k, u)])
            elif legal_actions(game, state, legal) > 1:
                break
            else:
                apply_action(game, state, legal[0])
            ply += 1


def bench_compile(game: Game, config: Config, threads: int) -> dict[str, Any]:
    """Measure how long a fresh process needs for a game's kernels, with an empty cache and with a full one.

    The kernels are those of the forest, of self-play and of the observation; imports are not counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        here = {
            "NUMBA_CACHE_DIR": folder,
            "BENCHED_GAME": json.dumps([config.game.name, config.game.options]),
        }
        code = "import json, os, zeroloop.bench as b; b.first_move(*json.loads(os.environ['BENCHED_GAME']))"
        seconds = []
        for _ in range(2):
            command = [sys.executable, "-c", code]
            done = subprocess.run(
                command, env=os.environ | here, stdout=subprocess.PIPE, text=True, check=True
            )
            seconds.append(json.loads(done.stdout))
    return {"cold_seconds": seconds[0], "warm_seconds": seconds[1]}


def first_move(name: str, options: dict[str, Any]) -> None:
    """Print the seconds until the first move of self-play, from before any kernel is there."""
    game = make(name, **options)
    config = Config(game=GameConfig(name=name, options=options), selfplay=SelfPlayConfig(games=2))
    begun = time.perf_counter()
    play = SelfPlay(game, config, on_episode=lambda episode: None)
    play.publish(UniformEvaluator(game, 2), "uniform")
    while play.moves == 0:
        play.turn(1 << 60)
    states, seen = game.states(1), game.observation
    states[0] = play.forest.trees.states[0, 0]
    observe_states(
        game, states, 1, np.zeros((1, *seen.planes), np.float32), np.zeros((1, seen.globals), np.float32)
    )
    print(time.perf_counter() - begun)


def bench_inference(
    game: Game, config: Config, threads: int, seconds: float = 0.5, repeats: int = 3
) -> list[dict[str, Any]]:
    """Measure positions/s of every backend of this machine, at several batches, rounds interleaved."""
    network = build(config.network, shapes_of(game), 1)
    rows: list[dict[str, Any]] = []
    runs: list[Callable[[float], float]] = []
    for choice in _choices():
        for batch in BATCHES:
            runs.append(_inference_runner(game, network, choice, batch, threads))
            rows.append(
                {"backend": choice.backend, "device": choice.device, "precision": choice.precision}
                | {"batch": batch, "threads": threads}
            )
    rates: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for found, run in zip(rates, runs, strict=True):
            found.append(run(seconds / repeats))
    for row, found in zip(rows, rates, strict=True):
        row["positions_per_second"] = statistics.median(found)
        row["spread"] = [min(found), max(found)]
    return rows


def _choices() -> list[Choice]:
    best = choose()
    out = [best]
    for backend, precision in (("openvino", "fp32"), ("torch", "bf16"), ("torch", "fp32")):
        device = best.device if backend == "torch" else "cpu"
        found = Choice(backend, device, precision)
        if found != best and (backend == "torch" or best.backend == "openvino"):
            out.append(found)
    return out


def _inference_runner(
    game: Game, network: Any, choice: Choice, batch: int, threads: int
) -> Callable[[float], float]:
    """Return a function that measures positions/s for some seconds, one compiled network per thread."""
    backends = [make_evaluator(game, network, choice, [batch], 1).backends[0] for _ in range(threads)]
    seen = game.observation
    planes = np.random.default_rng(0).random((batch, *seen.planes), np.float32).round()
    facts = np.zeros((batch, seen.globals), np.float32)
    legal = np.zeros((batch, max(game.max_legal, game.max_chance)), np.int32)

    def one(backend: Any, seconds: float) -> float:
        backend.result(backend.submit(planes, facts, legal))
        begun, n = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            backend.result(backend.submit(planes, facts, legal))
            n += batch
        return n / (time.perf_counter() - begun)

    def run(seconds: float) -> float:
        with ThreadPoolExecutor(threads) as pool:
            return sum(job.result() for job in [pool.submit(one, b, seconds) for b in backends])

    return run


def bench_selfplay(
    game: Game, config: Config, threads: int, seconds: float = 20.0, rounds: int = 5
) -> dict[str, Any]:
    """Measure real self-play - moves, recording, replay - against raw inference, in alternation.

    Raw is the backend's best over batches 64 to 1024 on the same threads; an evaluation is a row that the
    network computed for a state: no cache hits, no terminals, no padding.
    """
    config = replace(config, selfplay=replace(config.selfplay, opponents=()))  # the newest model everywhere
    choice = choose(config.run.device, config.run.backend, config.run.precision)
    network = build(config.network, shapes_of(game), 1)
    replay = Replay(game, config.replay, root_value_weight=config.learn.root_value_weight)
    finished = [0]

    def keep(episode: Episode) -> None:
        episode.to_bytes()
        replay.add([episode])
        finished[0] += 1

    collector = LocalCollector(game, config, choice, keep)
    collector.publish(network, "bench")
    runners = {b: _inference_runner(game, network, choice, b, threads) for b in BATCHES}
    deadline = [0.0]

    def late() -> bool:
        return time.perf_counter() > deadline[0]

    def play(span: float) -> tuple[dict[str, int], float]:
        collector.clear_counters()
        finished[0] = 0
        begun = time.perf_counter()
        deadline[0] = begun + span
        collector.collect([1 << 60] * len(collector.groups), late)
        return collector.counters() | {"games": finished[0]}, time.perf_counter() - begun

    games = 0
    while games < 2 * threads:  # compiles every kernel
        games += play(0.5)[0]["games"]
    play(seconds / 5)  # lets the games spread over all plies and the cache fill
    ratios, raws, rows = [], [], []
    for _ in range(rounds):
        counted, span = play(seconds / rounds)
        raw = max(run(0.15) for run in runners.values())
        raws.append(raw)
        ratios.append(counted["evaluations"] / span / raw)
        rows.append({k: v / span for k, v in counted.items()})
    collector.close()

    def middle(name: str) -> float:
        return statistics.median(r[name] for r in rows)

    asked = middle("evaluations") + middle("cache_hits")
    return {
        "evaluations_per_second": middle("evaluations"),
        "simulations_per_second": middle("simulations"),
        "raw_inference_positions_per_second": statistics.median(raws),
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "games_per_hour": 3600 * middle("games"),
        "cache_hit_rate": middle("cache_hits") / asked,
        "threads": threads,
        "backend": str(choice),
        "games_in_flight": config.selfplay.games * len(collector.groups),
        "simulations_per_move": int(config.search.simulations.maximum),
    }


def bench_learn(game: Game, config: Config, seconds: float = 10.0, rounds: int = 5) -> dict[str, Any]:
    """Measure positions/s of whole learning steps, sampling included, on random games."""
    device = choose(config.run.device, config.run.backend, config.run.precision).device
    learner = Learner(build(config.network, shapes_of(game), 1), config.learn, relative_points(game), device)
    replay = Replay(
        game,
        config.replay,
        root_value_weight=config.learn.root_value_weight,
        reply="reply" in config.network.heads,
    )
    replay.add(random_episodes(game, config, 64))
    n = config.learn.batch_size
    for step in range(3):
        learner.step(replay.sample(n, step))
    rates, sampling = [], []
    for _ in range(rounds):
        begun, steps, spent = time.perf_counter(), 0, 0.0
        while time.perf_counter() - begun < seconds / rounds:
            mark = time.perf_counter()
            batch = replay.sample(n, steps)
            spent += time.perf_counter() - mark
            learner.step(batch)
            steps += 1
        span = time.perf_counter() - begun
        rates.append(steps * n / span)
        sampling.append(spent / span)
    learner.close()
    return {
        "positions_per_second": statistics.median(rates),
        "spread": [min(rates), max(rates)],
        "sampling_share": statistics.median(sampling),
        "batch_size": n,
        "precision": config.learn.precision,
        "threads": config.learn.threads or len(learner._replicas),
        "network": f"{config.network.blocks}x{config.network.channels}",
    }


def random_episodes(game: Game, config: Config, count: int) -> list[Episode]:
    """Return games played by a search that knows nothing, as material for benchmarks and tests."""
    from dataclasses import replace

    from .selfplay import SelfPlay

    own = replace(config.selfplay, games=min(config.selfplay.games, 64), opponents=())
    small = replace(config, selfplay=own)
    found: list[Episode] = []
    play = SelfPlay(game, small, on_episode=found.append)
    play.publish(UniformEvaluator(game, own.games), "uniform")
    while len(found) < count:
        play.turn(1 << 60)
    return found


def first_leaves(game: Game, count: int) -> Leaves:
    """Return `count` copies of the first position as leaves, for timing an evaluator."""
    states = game.states(count)
    width = max(game.max_legal, game.max_chance)
    legal = np.zeros((count, width), np.int32)
    for i in range(count):
        states[i] = game.initial_state()
    ids = game.legal(states[0])
    legal[:, : len(ids)] = ids
    return Leaves(states, legal, np.full(count, len(ids), np.int32))
