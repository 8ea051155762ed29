"""The minimax player: full search to a fixed depth with the game's heuristic. Knows no network.

Two-player zero-sum games are searched by alpha-beta with Star1 at chance nodes (Ballard 1983), all
others by max^n (Luckhardt and Irani 1986), where of equal actions inside the tree the lowest id
counts. Both take the expectation at chance nodes and give every seat its own value. The pruning
changes no choice. What the sources leave open:

- Depth counts decisions. Chance nodes on the way are expanded as well, also after the last
  decision, so a leaf is the end of the game or a state in which a seat is to move.
- A leaf before the end is worth `heuristic(state, seat)` to each seat, in a zero-sum game
  `heuristic(state, 0)` to seat 0 and its opposite to seat 1. It is clipped to +-GUESS.
- An end is worth its points times 1 - HURRY per decision, so of equal ends a faster win and
  a slower loss are better; HURRY is far below the differences of points that games have.
- Of root actions within TIE of the best one is drawn.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import draws
from ..compiled import helper, kernel
from ..errors import PlayerError
from ..games.game import (
    CHANCE,
    TERMINAL,
    Game,
    apply_action,
    chance_outcomes,
    heuristic,
    legal_actions,
    num_players,
    outcome,
    outcome_value,
    to_play,
)

Array = npt.NDArray[Any]

DEEPEST = 12
"""The largest depth."""

HURRY = 2.0**-20
TIE = 1e-9
"""Below HURRY, so that speed still counts; above the rounding of an expectation."""
GUESS = 1 - 2.0**-13
"""Below 1 - DEEPEST * HURRY, so that no heuristic outweighs a sure win."""

FRAME = np.dtype(
    (
        np.record,
        [
            ("alpha", "f8"),
            ("beta", "f8"),
            ("total", "f8"),
            ("rest", "f8"),
            ("to_play", "i4"),
            ("left", "i4"),
            ("count", "i4"),
            ("next", "i4"),
        ],
    )
)
"""A node on the line under search: the window of seat 0's value in which its value matters, the
outcomes' probability in total and of those not yet searched (chance nodes), decisions left,
children and how many of them have been begun."""


class Line(NamedTuple):
    """The arrays of one search: D nodes on a line, and the root."""

    frames: Array  # FRAME [D]
    states: Array  # state_dtype [D]
    values: Array  # f8 [D, P], value of each node as far as known
    actions: Array  # i4 [D, max(max_legal, max_chance)], begun ones first
    chance: Array  # f4 [D, max_chance]
    history: Array  # i8 [2, A], see `next_action`
    legal: Array  # i4 [L], actions of the root
    order: Array  # i4 [L], their places in `legal` in the order of search
    found: Array  # f8 [L], value of each to the root's mover, or a bound below the best


def make_line(game: Game, depth: int) -> Line:
    """Allocate the arrays of a search."""
    # Without chance nodes every node of the line but the last is a decision.
    size = game.max_plies + 1 if game.max_chance else depth
    width = max(game.max_legal, game.max_chance)
    return Line(
        np.zeros(size, FRAME),
        game.states(size),
        np.zeros((size, game.num_players)),
        np.zeros((size, width), np.int32),
        np.zeros((size, max(game.max_chance, 1)), np.float32),
        np.zeros((2, game.num_actions), np.int64),
        np.zeros(width, np.int32),
        np.zeros(width, np.int32),
        np.zeros(width),
    )


@helper
def evaluate(game, zero_sum, state, value):
    """Write the heuristic value for each seat."""
    for seat in range(num_players(game)):
        if zero_sum and seat == 1:
            value[1] = -value[0]
        else:
            value[seat] = min(max(heuristic(game, state, seat), -GUESS), GUESS)


@helper
def open_node(game, zero_sum, line, level, depth, left, alpha, beta):
    """Begin the node whose state is given; return True for a leaf, whose value is then known."""
    frame, state, value = line.frames[level], line.states[level], line.values[level]
    seat = to_play(game, state)
    if seat == TERMINAL:
        row = outcome(game, state)
        for p in range(num_players(game)):
            value[p] = outcome_value(game, row, p) * (1.0 - HURRY * (depth - left))
        return True
    # The line is full only where the dice have gone on for longer than a game can last.
    if (seat != CHANCE and left == 0) or level + 1 == line.frames.shape[0]:
        evaluate(game, zero_sum, state, value)
        return True
    frame.alpha = alpha
    frame.beta = beta
    frame.to_play = seat
    frame.left = left
    frame.next = 0
    if seat == CHANCE:
        frame.count = chance_outcomes(game, state, line.actions[level], line.chance[level])
        frame.rest = 1.0
        frame.total = 0.0  # 1 but for the rounding of float32
        for i in range(frame.count):
            frame.total += line.chance[level, i]
        for p in range(num_players(game)):
            value[p] = 0.0
    else:
        frame.count = legal_actions(game, state, line.actions[level])
    return False


@helper
def next_action(zero_sum, line, level):
    """Return the node's next action, in a zero-sum game the one that has cut most often so far.

    That is the history heuristic (Schaeffer 1989); `history` adds up the squared decisions left.
    """
    frame, actions = line.frames[level], line.actions[level]
    i = frame.next
    if zero_sum and frame.to_play != CHANCE:
        best, history = i, line.history[frame.to_play]
        for j in range(i + 1, frame.count):
            if history[actions[j]] > history[actions[best]]:
                best = j
        actions[i], actions[best] = actions[best], actions[i]
    frame.next += 1
    return actions[i]


@helper
def begin_child(game, zero_sum, line, level):
    """Write the state of the node's next child; return its decisions left and its window."""
    frame, state = line.frames[level], line.states[level + 1]
    action = next_action(zero_sum, line, level)
    line.states[level + 1] = line.states[level]
    apply_action(game, state, action)
    if frame.to_play != CHANCE:
        return frame.left - 1, frame.alpha, frame.beta
    # Star1: the window in which the child still matters if all later outcomes are worth 1 or -1.
    weight = line.chance[level, frame.next - 1] / frame.total
    sure, later = line.values[level, 0], frame.rest - weight
    alpha = (frame.alpha - sure - later) / weight
    return frame.left, alpha, (frame.beta - sure + later) / weight


@helper
def add_outcome(game, zero_sum, line, level):
    """Add the value of the latest outcome, and cut the other outcomes if they cannot matter."""
    frame, value, child = line.frames[level], line.values[level], line.values[level + 1]
    weight = line.chance[level, frame.next - 1] / frame.total
    frame.rest -= weight
    for p in range(num_players(game)):
        value[p] += weight * child[p]
    if zero_sum and frame.next < frame.count:
        if value[0] + frame.rest <= frame.alpha:
            value[0] += frame.rest
            frame.next = frame.count
        elif value[0] - frame.rest >= frame.beta:
            value[0] -= frame.rest
            frame.next = frame.count
        value[1] = -value[0]


@helper
def compare_action(game, zero_sum, line, level):
    """Keep the value of the latest action if it is the best; cut the rest if it cannot matter."""
    frame, value, child = line.frames[level], line.values[level], line.values[level + 1]
    seat = frame.to_play
    if frame.next == 1 or child[seat] > value[seat]:
        for p in range(num_players(game)):
            value[p] = child[p]
    if zero_sum:
        if seat == 0:
            frame.alpha = max(frame.alpha, value[0])
        else:
            frame.beta = min(frame.beta, value[0])
        if frame.alpha >= frame.beta:
            action = line.actions[level, frame.next - 1]
            line.history[seat, action] += frame.left * frame.left
            frame.next = frame.count


@helper
def search(game, zero_sum, line, depth, alpha, beta):
    """Find the value of `states[0]`, one decision after the root, and leave it in `values[0]`."""
    level, left = 0, depth - 1
    while True:
        known = open_node(game, zero_sum, line, level, depth, left, alpha, beta)
        while known and level > 0:
            level -= 1
            frame = line.frames[level]
            if frame.to_play == CHANCE:
                add_outcome(game, zero_sum, line, level)
            else:
                compare_action(game, zero_sum, line, level)
            known = frame.next == frame.count
        if known:
            return
        left, alpha, beta = begin_child(game, zero_sum, line, level)
        level += 1


@helper
def search_root(game, zero_sum, line, depth, state, count):
    """Find the value of each root action, or that it is below the best, and order them by it."""
    seat, best = to_play(game, state), -math.inf
    for k in range(count):
        place = line.order[k]
        line.states[0] = state
        apply_action(game, line.states[0], line.legal[place])
        low, high = -math.inf, math.inf
        # The window reaches below the best, so that the values of all that tie with it are exact.
        if zero_sum and seat == 0:
            low = best - 2 * TIE
        elif zero_sum:
            high = 2 * TIE - best
        search(game, zero_sum, line, depth, low, high)
        line.found[place] = line.values[0, seat]
        best = max(best, line.found[place])
    for k in range(1, count):
        place, i = line.order[k], k
        while i > 0 and line.found[line.order[i - 1]] < line.found[place]:
            line.order[i] = line.order[i - 1]
            i -= 1
        line.order[i] = place
    return best


@kernel
def choose_actions(game, zero_sum, seed, depth, line, states, keys, plies, actions):
    """Search each state by itself and write the action to play.

    Args:
      line: Line. actions: `i4 [n]` out.
    """
    for i in range(states.shape[0]):
        count = legal_actions(game, states[i], line.legal)
        if count == 1:
            actions[i] = line.legal[0]
            continue
        for k in range(count):
            line.order[k] = k
        line.history[:] = 0
        # Shallow searches first: they order the actions, and alpha-beta lives on good order.
        best = 0.0
        for d in range(1 if zero_sum else depth, depth + 1):
            best = search_root(game, zero_sum, line, d, states[i], count)
        ties = 0
        for k in range(count):
            if line.found[k] >= best - TIE:
                line.legal[ties] = line.legal[k]
                ties += 1
        actions[i] = line.legal[draws.integer(seed, draws.PLAYER, keys[i], plies[i], 0, ties)]


class MinimaxPlayer:
    """Minimax to a fixed depth; see the module for what that means with dice and more players.

    Args:
      depth: decisions looked ahead, 1 to 12.
      seed: for the choice among equal actions.

    Raises:
      PlayerError: the depth is out of range, or the game has no heuristic.
    """

    def __init__(self, game: Game, depth: int, seed: int = 0) -> None:
        if not 1 <= depth <= DEEPEST:
            raise PlayerError(f"minimax:{depth}: the depth must lie in 1..{DEEPEST}.")
        if not game.has_heuristic:
            raise PlayerError(f"minimax cannot play {game.id}, because the game has no rule 'heuristic'.")
        self.name = f"minimax:{depth}"
        self.game, self.depth, self.seed = game, depth, seed
        rows = game.outcomes
        self._zero_sum = game.num_players == 2 and bool((rows[:, 0] == -rows[:, 1]).all())

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """Return `i4 [n]` action ids for `state_dtype [n]` states in which a seat is to move.

        Args:
          keys: `u8 [n]`, the games' keys. plies: `i4 [n]`.
        """
        actions = np.zeros(len(states), np.int32)
        choose_actions(
            self.game,
            self._zero_sum,
            np.uint64(self.seed),
            self.depth,
            make_line(self.game, self.depth),
            # One layout and no read-only arrays: each other kind would compile another kernel.
            np.require(states, self.game.state_dtype, ["C", "W"]),
            np.require(keys, np.uint64, ["C", "W"]),
            np.require(plies, np.int32, ["C", "W"]),
            actions,
        )
        return actions
