"""Seconds that a fresh process compiles, and loads from the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from ..config import Config, GameConfig, SelfPlayConfig
from ..evaluator import UniformEvaluator, observe_states
from ..games import make
from ..games.game import Game
from ..selfplay import SelfPlay


def bench_compile(game: Game, config: Config, threads: int) -> dict[str, Any]:
    """Measure how long a fresh process needs for a game's kernels, with an empty cache and with a full one.

    The kernels are those of the forest, of self-play and of the observation; imports are not counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        here = {
            "NUMBA_CACHE_DIR": folder,
            "BENCHED_GAME": json.dumps([config.game.name, config.game.options]),
        }
        code = (
            "import json, os, zeroloop.bench.compilation as b; "
            "b.first_move(*json.loads(os.environ['BENCHED_GAME']))"
        )
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
        game,
        states,
        np.zeros(1, np.int64),
        np.zeros((1, *seen.planes), np.float32),
        np.zeros((1, seen.globals), np.float32),
    )
    print(time.perf_counter() - begun)
