"""Nanoseconds of each rule function over positions of random games."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..compiled import kernel
from ..config import Config
from ..games.game import Game, apply_action, legal_actions, observe, to_play
from ..openings import drawn_openings

POSITIONS = 1024


def bench_rules(game: Game, config: Config, threads: int, repeats: int = 9) -> dict[str, Any]:
    """Measure `legal_actions`, `apply_action` (on a copy, whose cost is `copy_ns`) and `observe` on one core.

    The positions are those after 1 to 40 random plies of 1,024 games; medians of repeats.
    """
    plies = min(40, max(1, game.max_plies // 4))
    states = drawn_openings(game, POSITIONS, plies, 1).states
    scratch = game.states(1)
    legal = np.zeros(max(game.max_legal, game.max_chance), np.int32)
    planes = np.zeros(game.observation.planes, np.float32)
    facts = np.zeros(game.observation.globals, np.float32)
    actions = np.zeros(len(states), np.int32)
    any_actions(game, states, legal, actions)
    words = game.state_dtype.itemsize // 8
    views = states.view(np.uint64).reshape(-1, words), scratch.view(np.uint64).reshape(-1, words)
    calls: dict[str, Callable[[], Any]] = {
        "legal_actions": lambda: time_legal(game, states, legal),
        "apply_action": lambda: time_apply(game, actions, scratch, *views),
        "copy": lambda: time_copy(*views),
        "observe": lambda: time_observe(game, states, planes, facts),
    }
    total: int = calls["legal_actions"]()
    found: dict[str, Any] = {"positions": len(states), "mean_legal": total / len(states)}
    for name, call in calls.items():
        call()  # compiles
        spans = []
        for _ in range(repeats):
            begun, rounds = time.perf_counter(), 0
            while time.perf_counter() - begun < 0.05:
                call()
                rounds += 1
            spans.append((time.perf_counter() - begun) / rounds / len(states))
        found[f"{name}_ns"] = 1e9 * statistics.median(spans)
    return found


@kernel
def time_legal(game, states, legal):
    """Find the legal actions of every state; return their number."""
    total = 0
    for i in range(states.shape[0]):
        total += legal_actions(game, states[i], legal)
    return total


@kernel
def any_actions(game, states, legal, actions):
    """Write a legal action of every state, now an early one and now a late one."""
    for i in range(states.shape[0]):
        actions[i] = legal[i % legal_actions(game, states[i], legal)]


@kernel
def time_apply(game, actions, scratch, words, own):
    """Play each state's action on a copy."""
    seats = 0
    for i in range(actions.shape[0]):
        for w in range(words.shape[1]):
            own[0, w] = words[i, w]
        apply_action(game, scratch[0], actions[i])
        seats += to_play(game, scratch[0])
    return seats


@kernel
def time_copy(words, own):
    """Copy every state."""
    total = np.uint64(0)
    for i in range(words.shape[0]):
        for w in range(words.shape[1]):
            own[0, w] = words[i, w]
            total ^= own[0, w]
    return total


@kernel
def time_observe(game, states, planes, facts):
    """Observe every state."""
    for i in range(states.shape[0]):
        observe(game, states[i], planes, facts)
