"""Simulations/s of a match between two networks against those of self-play."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from ..config import Config
from ..evaluator import NetworkEvaluator
from ..evaluator.choice import choose, shapes_of
from ..games.game import Game
from ..match import play_match
from ..model import Model
from ..networks import build
from ..openings import openings
from ..players import PlaySettings, SearchPlayer, model_player
from ..schedule import Schedule
from ..selfplay.collector import LocalCollector

GAMES = 256
MANY = 1 << 16
"""More lanes than there are cores."""


def bench_match(game: Game, config: Config, threads: int, rounds: int = 3) -> dict[str, Any]:
    """Measure a match of two new networks, all 256 games from first to last move, and self-play, in turns.

    Both search `match.simulations` a move, with caches of `selfplay.cache_megabytes`; self-play has `threads`
    threads, the match a lane for each core. `ratio` compares simulations, `evaluations_ratio` how busy the
    networks are: a network that moves every other ply finds less of its next tree in its cache.
    """
    choice = choose(config.run.device, config.run.backend, config.run.precision)
    networks = [build(config.network, shapes_of(game), seed).eval() for seed in (1, 2)]
    simulations = config.match.simulations
    play = replace(config.selfplay, opponents=(), threads=threads)
    search = replace(config.search, simulations=Schedule.constant(simulations))
    collector = LocalCollector(
        game, replace(config, selfplay=play, search=search), choice, lambda episode: None
    )
    collector.publish(networks[0], "bench")

    own = PlaySettings(cache_megabytes=config.selfplay.cache_megabytes)
    sides = [
        model_player(Model(f"{i}" * 64, network, game), simulations, choice=choice, seed=1, settings=own)
        for i, network in enumerate(networks)
    ]

    def play_games(seed: int) -> tuple[float, float, float]:
        """Return (simulations/s, evaluations/s, seconds) of a whole match; caches begin empty."""
        before = [_counted(side) for side in sides]
        starts = openings(game, GAMES // game.num_players, config.match.opening_plies, seed)
        begun = time.perf_counter()
        play_match(game, *sides, starts=starts, seed=seed)
        seconds = time.perf_counter() - begun
        made = np.sum([_counted(side) for side in sides], 0) - np.sum(before, 0)
        for side in sides:
            for lane in side.lanes(MANY):
                if lane.forest is not None:
                    lane.forest.clear_cache()
        return float(made[0]) / seconds, float(made[1]) / seconds, seconds

    def play_self(seconds: float) -> tuple[float, float]:
        collector.clear_counters()
        end = (begun := time.perf_counter()) + seconds
        collector.begin(1 << 60)
        collector.collect(lambda: time.perf_counter() > end)
        seconds, counted = time.perf_counter() - begun, collector.counters()
        return counted["simulations"] / seconds, counted["evaluations"] / seconds

    play_games(1)  # compiles
    play_self(10.0)  # lets the games spread over all plies
    matches, selves = [], []
    for number in range(rounds):
        matches.append(play_games(2 + number))
        selves.append(play_self(max(matches[-1][2], 5.0)))
    collector.close()
    ratios, busy = ([m[k] / s[k] for m, s in zip(matches, selves, strict=True)] for k in (0, 1))
    return {
        "match_simulations_per_second": statistics.median(m[0] for m in matches),
        "selfplay_simulations_per_second": statistics.median(s[0] for s in selves),
        "match_evaluations_per_second": statistics.median(m[1] for m in matches),
        "selfplay_evaluations_per_second": statistics.median(s[1] for s in selves),
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "evaluations_ratio": statistics.median(busy),
        "seconds_per_match": statistics.median(m[2] for m in matches),
        "games": GAMES // game.num_players * game.num_players,
        "simulations_per_move": simulations,
        "threads": threads,
        "backend": str(choice),
    }


def _counted(player: SearchPlayer) -> tuple[int, int]:
    """Return simulations and computed rows of all lanes so far."""
    lanes = player.lanes(MANY)
    simulations = sum(one.forest.counters["simulations"] for one in lanes if one.forest is not None)
    rows = sum(one.evaluator.rows for one in lanes if isinstance(one.evaluator, NetworkEvaluator))
    return simulations, rows
