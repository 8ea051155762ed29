"""The rules identity: what a game *does*, equal on every machine and Python version.

It guards models, episodes and resume. It hashes the game's name, version, options and tables, and a
record of seeded random games: legal ids, chance outcomes, who is to play, how it ends, and observations
rounded to 1/1024. Editing a rule without changing what it does leaves it alone.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
from numba.core.errors import NumbaError

from .. import draws
from ..compiled import helper, kernel
from .game import (
    CHANCE,
    TERMINAL,
    Game,
    apply_action,
    chance_outcomes,
    initial,
    legal_actions,
    observe,
    outcome,
    to_play,
)

GAMES = 24
"""Random games behind an identity."""


@helper
def fold(total, value):
    """Return the running 64-bit hash with one more integer."""
    x = (total ^ np.uint64(int(value) & 0xFFFFFFFF)) * np.uint64(0x9E3779B97F4A7C15)
    return x ^ (x >> np.uint64(29))


@kernel
def trace_games(game, states, legal, probability, planes, global_facts, max_plies, out):
    """Play one seeded random game per entry of `out` (u8) and write the hash of all that was seen."""
    for g in range(out.shape[0]):
        total = np.uint64(g + 1)
        state = states[0]
        initial(game, state, g)
        for ply in range(max_plies):
            p = to_play(game, state)
            total = fold(total, p)
            if p == TERMINAL:
                total = fold(total, outcome(game, state))
                break
            if p == CHANCE:
                k = chance_outcomes(game, state, legal, probability)
                for i in range(k):
                    total = fold(total, int(probability[i] * np.float32(65536)))
            else:
                k = legal_actions(game, state, legal)
                observe(game, state, planes, global_facts)
                for x in planes.flat:
                    total = fold(total, in_units(x))
                for x in global_facts.flat:
                    total = fold(total, in_units(x))
            for i in range(k):
                total = fold(total, legal[i])
            pick = draws.integer(0, draws.CHECK, g, ply, 0, k)
            apply_action(game, state, legal[pick])
        out[g] = total


@helper
def in_units(x):
    """Return x in units of 1/1024, rounded to nearest."""
    return int(np.floor(float(x) * 1024.0 + 0.5))


@functools.lru_cache(maxsize=64)
def rules_identity(game: Game) -> str:
    """Return 16 hex digits that name what the game does (see the module's page).

    Raises:
      GameError: a rule does not compile.
    """
    c, h, w = game.observation.planes
    out = np.zeros(GAMES, np.uint64)
    buffers = (
        np.zeros(max(game.max_legal, game.max_chance), np.int32),
        np.zeros(max(game.max_chance, 1), np.float32),
        np.zeros((c, h, w), np.float32),
        np.zeros(game.observation.globals, np.float32),
    )
    try:
        trace_games(game, game.states(1), *buffers, game.max_plies, out)
    except NumbaError:
        from .explain import explain_rules

        explain_rules(game)  # says in one sentence which rule does not compile, and why
        raise
    trace = "".join(f"{int(x):016x}" for x in out)
    return hashlib.sha256((game.describe() + trace).encode()).hexdigest()[:16]
