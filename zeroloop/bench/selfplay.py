"""Real self-play against raw inference."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

from ..config import Config
from ..episode import Episode
from ..evaluator.choice import choose, shapes_of
from ..games.game import Game
from ..networks import build
from ..replay import Replay
from ..selfplay.collector import LocalCollector
from .inference import BATCHES, inference_runner


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
    runners = {b: inference_runner(game, network, choice, b, threads) for b in BATCHES}
    deadline = [0.0]

    def late() -> bool:
        return time.perf_counter() > deadline[0]

    def play(span: float) -> tuple[dict[str, int], float]:
        collector.clear_counters()
        finished[0] = 0
        begun = time.perf_counter()
        deadline[0] = begun + span
        collector.begin(1 << 60)
        collector.collect(late)
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
