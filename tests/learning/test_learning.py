"""Learning itself: from nothing to play that exact values confirm. Slow: real training, run in CI."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from zeroloop import judge, model
from zeroloop.games import make
from zeroloop.match import play_match
from zeroloop.openings import openings
from zeroloop.players import model_player, parse
from zeroloop.players.solvers import ILLEGAL, solver_for

pytestmark = pytest.mark.slow


def trained(folder, game, *sets):
    """Train by the command that a user types; return (the newest model, the metrics of each iteration)."""
    command = [sys.executable, "-m", "zeroloop", "train", game, "--run", str(folder), "--preset", "smoke"]
    command += [*(word for pair in sets for word in ("--set", pair)), "--seed", "5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return model.load(model.find(f"{folder}:newest")), [row for row in rows if "loss/value" in row]


def all_states(game):
    """Return every position of a small game in which a seat is to move."""
    found, waiting = {}, [game.initial_state()]
    while waiting:
        state = waiting.pop()
        if state.tobytes() in found or not game.legal(state):
            continue
        found[state.tobytes()] = state
        for action in game.legal(state):
            child = game.copy(state)
            game.play(child, action)
            waiting.append(child)
    return np.array(list(found.values()), game.state_dtype)


def judged(game, states):
    return judge.Judged(states, solver_for(game).action_values(states), False)


def test_tictactoe_is_played_perfectly(tmp_path):
    loaded, _ = trained(
        tmp_path / "run",
        "tictactoe",
        "search.simulations=16",
        "selfplay.random_opening_share=0.8",
        "selfplay.random_opening_plies=7",
        "budget.positions=120000",
    )
    game = make("tictactoe")
    states = all_states(game)
    assert len(states) == 4520  # of 5,478 positions, those that are not over
    player = model_player(loaded, 64)
    found = judge.grade(judged(game, states), judge.ask(player, states))
    assert found.value_preserving_rate > 0.995
    # Whatever an opponent without mistakes does from the empty board, the game is a draw.
    starts = openings(game, 40, 2, seed=1)
    values = solver_for(game).action_values(starts)
    even = starts[np.where(values == ILLEGAL, -9, values).max(1) == 0]
    result = play_match(game, player, parse("solver", game, seed=2), starts=even, seed=3)
    assert result.summary()["score"] == 0.5


def test_connect4_learns_what_the_solver_knows(tmp_path):
    loaded, metrics = trained(
        tmp_path / "run",
        "connect4",
        "network.channels=32",
        "selfplay.random_opening_share=1",
        "selfplay.random_opening_plies=32",
        "budget.positions=60000",
    )
    game = make("connect4")
    sample = judge.drawn_positions(game, 600, solver_for(game), seed=99)
    untrained = np.array([game.legal(s)[0] for s in sample.states])
    before = judge.grade(sample, untrained).rate_with_a_choice
    raw = judge.grade(sample, judge.ask(model_player(loaded, 0), sample.states))
    searched = judge.grade(sample, judge.ask(model_player(loaded, 64), sample.states))
    assert before < 0.5
    assert raw.rate_with_a_choice > 0.65
    assert searched.rate_with_a_choice > 0.80
    assert metrics[-1]["loss/policy"] < metrics[0]["loss/policy"]
    starts = openings(game, 30, 4, seed=1)
    match = play_match(game, model_player(loaded, 64), parse("random", game, seed=2), starts=starts, seed=3)
    assert match.summary()["score"] > 0.95
