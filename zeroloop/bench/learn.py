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
        "threads": config.learn.threads or len(learner._gradients.replicas),
        "network": f"{config.network.blocks}x{config.network.channels}",
    }


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
