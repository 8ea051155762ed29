"""Positions/s of learning steps, sampling included."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

from ..config import Config
from ..episode import Episode
from ..evaluator import UniformEvaluator
from ..evaluator.choice import choose, relative_points, shapes_of
from ..games.game import Game
from ..learner import Learner
from ..networks import build
from ..replay import Replay
from ..selfplay import SelfPlay


def bench_learn(game: Game, config: Config, seconds: float = 10.0, rounds: int = 5) -> dict[str, Any]:
    """Measure positions/s of whole learning steps, sampling included, on random games.

    With `learn.processes` above 1, one process with as many threads in all (on GPUs: one of them) is
    measured in turn; `one_process_ratio` is the median of the rounds' ratios.
    """
    device = choose(config.run.device, config.run.backend, config.run.precision).device
    replay = Replay(
        game,
        config.replay,
        root_value_weight=config.learn.root_value_weight,
        reply="reply" in config.network.heads,
    )
    replay.add(random_episodes(game, config, 64))
    asked = config.learn
    settings = [asked]
    if asked.processes > 1:
        together = asked.threads * asked.processes if device == "cpu" else 1
        settings.append(replace(asked, processes=1, threads=together))
    points, shapes = relative_points(game), shapes_of(game)
    learners = [Learner(build(config.network, shapes, 1), each, points, device) for each in settings]
    found: list[list[tuple[float, float]]] = []
    try:
        for learner in learners:
            _rate(learner, replay, config, 0.0, 3)
        for _ in range(rounds):
            found.append([_rate(learner, replay, config, seconds / rounds, 1) for learner in learners])
    finally:
        for learner in learners:
            learner.close()
    rates = [row[0][0] for row in found]
    told: dict[str, Any] = {
        "positions_per_second": statistics.median(rates),
        "spread": [min(rates), max(rates)],
        "sampling_share": statistics.median(row[0][1] for row in found),
        "batch_size": asked.batch_size,
        "precision": asked.precision,
        "threads": asked.threads or len(learners[0]._gradients.replicas),
        "processes": asked.processes,
        "network": f"{config.network.blocks}x{config.network.channels}",
    }
    if asked.processes > 1:
        told["one_process"] = statistics.median(row[1][0] for row in found)
        told["one_process_ratio"] = statistics.median(row[0][0] / row[1][0] for row in found)
    return told


def _rate(
    learner: Learner, replay: Replay, config: Config, seconds: float, least: int
) -> tuple[float, float]:
    """Return (positions/s, share of the time that sampling took) of so many steps or seconds at least."""
    n, begun, steps, spent = config.learn.batch_size, time.perf_counter(), 0, 0.0
    while steps < least or time.perf_counter() - begun < seconds:
        mark = time.perf_counter()
        batch = replay.sample(n, steps)
        spent += time.perf_counter() - mark
        learner.step(batch)
        steps += 1
    span = time.perf_counter() - begun
    return steps * n / span, spent / span


def random_episodes(game: Game, config: Config, count: int) -> list[Episode]:
    """Return games played by a search that knows nothing, as material for benchmarks and tests."""

    own = replace(config.selfplay, games=min(config.selfplay.games, 64), opponents=())
    small = replace(config, selfplay=own)
    found: list[Episode] = []
    play = SelfPlay(game, small, on_episode=found.append)
    play.publish(UniformEvaluator(game, own.games), "uniform")
    while len(found) < count:
        play.turn(1 << 60)
    return found
