"""Simulations/s with the uniform evaluator: the search and the rules alone."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .. import draws
from ..compiled import kernel
from ..config import Config
from ..evaluator import UniformEvaluator
from ..games.game import (
    CHANCE,
    TERMINAL,
    Game,
    apply_action,
    chance_outcomes,
    initial,
    legal_actions,
    to_play,
)
from ..search.forest import Forest
from ..selfplay import needed_nodes


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
