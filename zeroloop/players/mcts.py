"""The mcts player: plain UCT with one random playout a simulation. Knows no network, no heuristic.

Source: Kocsis and Szepesvari 2006, "Bandit based Monte-Carlo planning": UCB1 chooses in the tree,
uniform play follows, each simulation adds one node. What a game needs beyond that:

- A node keeps one number, the sum of values for the seat that moved into it, so any number of
  seats and any order of moves will do. Chance nodes are nodes whose child is drawn.
- Unvisited actions come first, in random order.
- The most visited root action is played; ties go to the higher mean value, then to the lower id.
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
    legal_actions,
    num_players,
    outcome,
    outcome_value,
    to_play,
)

Array = npt.NDArray[Any]

MOST_SIMULATIONS = 10_000_000
"""A node takes 40 bytes, so the largest tree takes 400 MB."""

NODE = np.dtype(
    (
        np.record,
        [
            ("value_sum", "f8"),
            ("parent", "i4"),
            ("first_child", "i4"),
            ("sibling", "i4"),
            ("action", "i4"),
            ("to_play", "i4"),
            ("visits", "i4"),
            ("children", "i4"),
            ("edges", "i4"),
        ],
    )
)
"""`action` leads here from `parent`, whose mover `value_sum` belongs to. `children` of the `edges`
legal actions have been visited (`edges` -1: not counted yet); they form the list `first_child`,
`sibling`, ..., -1."""

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_S11, _S27, _S30, _S31, _S32 = (np.uint64(s) for s in (11, 27, 30, 31, 32))


class Tree(NamedTuple):
    """The arrays of one search, used again for the next one."""

    nodes: Array  # NODE [simulations + 1]
    state: Array  # state_dtype [1], where the simulation stands
    values: Array  # f8 [P], what the simulation came to
    legal: Array  # i4 [max(max_legal, max_chance)]
    chance: Array  # f4 [max_chance]
    visited: Array  # i4 [A], see `unvisited_action`
    stream: Array  # u8 [1], state of the simulation's draws


def make_tree(game: Game, simulations: int) -> Tree:
    """Allocate the arrays of a search; memory of nodes that are never made is never touched."""
    return Tree(
        np.zeros(simulations + 1, NODE),
        game.states(1),
        np.zeros(game.num_players),
        np.zeros(max(game.max_legal, game.max_chance), np.int32),
        np.zeros(max(game.max_chance, 1), np.float32),
        np.zeros(game.num_actions, np.int32),
        np.zeros(1, np.uint64),
    )


# A playout takes dozens of draws, and a Philox block for each would be most of its time. So each
# simulation draws once from Philox and goes on with SplitMix64 (Steele, Lea and Flood 2014).


@helper
def next_bits(stream):
    """Return the stream's next 64 bits."""
    stream[0] += _STEP
    x = stream[0]
    x = (x ^ (x >> _S30)) * _MIX[0]
    x = (x ^ (x >> _S27)) * _MIX[1]
    return x ^ (x >> _S31)


@helper
def next_integer(stream, n):
    """Return an integer in [0, n), n < 2^31; none is more likely than another by over n / 2^32."""
    return np.int64(((next_bits(stream) >> _S32) * np.uint64(n)) >> _S32)


@helper
def next_outcome(game, t, state):
    """Return a chance outcome, drawn by its probability."""
    count = chance_outcomes(game, state, t.legal, t.chance)
    u = float(next_bits(t.stream) >> _S11) * 2.0**-53
    running = 0.0
    for i in range(count - 1):
        running += np.float64(t.chance[i])
        if running > u:
            return t.legal[i]
    return t.legal[count - 1]


@helper
def make_node(game, t, state, n, parent, action):
    """Make node n, whose state is given, the first child of its parent."""
    node = t.nodes[n]
    node.value_sum = 0.0
    node.parent = parent
    node.first_child = -1
    node.sibling = -1
    node.action = action
    node.to_play = to_play(game, state)
    node.visits = 0
    node.children = 0
    node.edges = -1
    if parent >= 0:
        node.sibling = t.nodes[parent].first_child
        t.nodes[parent].first_child = n
        t.nodes[parent].children += 1


@helper
def find_child(nodes, n, action):
    """Return the child that this action leads to, or -1."""
    child = nodes[n].first_child
    while child >= 0 and nodes[child].action != action:
        child = nodes[child].sibling
    return child


@helper
def best_child(nodes, n, exploration):
    """Return the child with the highest UCB1 score."""
    log_visits = math.log(float(nodes[n].visits))
    best, best_score = -1, -math.inf
    child = nodes[n].first_child
    while child >= 0:
        share = 1.0 / nodes[child].visits
        score = nodes[child].value_sum * share + exploration * math.sqrt(log_visits * share)
        if score > best_score:
            best, best_score = child, score
        child = nodes[child].sibling
    return best


@helper
def unvisited_action(t, n, count, new):
    """Return one of the node's `count` legal actions that has no child yet, all equally likely.

    The number of the node to be made marks the visited actions, so marks need no clearing.
    """
    child = t.nodes[n].first_child
    while child >= 0:
        t.visited[t.nodes[child].action] = new
        child = t.nodes[child].sibling
    left = next_integer(t.stream, count - t.nodes[n].children)
    i = 0
    while left > 0 or t.visited[t.legal[i]] == new:
        if t.visited[t.legal[i]] != new:
            left -= 1
        i += 1
    return t.legal[i]


@helper
def walk(game, exploration, t, new):
    """Follow a simulation from the root; return its last node, which is `new` if the tree grew."""
    state, nodes = t.state[0], t.nodes
    n = 0
    while nodes[n].to_play != TERMINAL:
        node = nodes[n]
        if node.to_play == CHANCE:
            action = next_outcome(game, t, state)
            child = find_child(nodes, n, action)
        elif node.children == node.edges:
            child = best_child(nodes, n, exploration)
            action = nodes[child].action
        else:
            node.edges = legal_actions(game, state, t.legal)
            action = unvisited_action(t, n, node.edges, new)
            child = -1
        apply_action(game, state, action)
        if child < 0:
            make_node(game, t, state, new, n, action)
            return new
        n = child
    return n


@helper
def play_out(game, t, max_plies, cut):
    """Play at random to the end and write what each seat gets."""
    state = t.state[0]
    for _ in range(max_plies + 1):
        seat = to_play(game, state)
        if seat == TERMINAL:
            row = outcome(game, state)
            for p in range(num_players(game)):
                t.values[p] = outcome_value(game, row, p)
            return
        if seat == CHANCE:
            apply_action(game, state, next_outcome(game, t, state))
        else:
            count = legal_actions(game, state, t.legal)
            apply_action(game, state, t.legal[next_integer(t.stream, count)])
    for p in range(num_players(game)):
        t.values[p] = cut


@helper
def back_up(t, n):
    """Add the simulation to node n and all before it."""
    nodes = t.nodes
    while True:
        nodes[n].visits += 1
        parent = nodes[n].parent
        if parent < 0:
            return
        if nodes[parent].to_play >= 0:
            nodes[n].value_sum += t.values[nodes[parent].to_play]
        n = parent


@helper
def most_visited(nodes):
    """Return the root action with the most visits, then the highest mean, then the lowest id."""
    best = nodes[0].first_child
    child = nodes[best].sibling
    while child >= 0:
        a, b = nodes[child], nodes[best]
        if a.visits > b.visits or (
            a.visits == b.visits
            and (a.value_sum > b.value_sum or (a.value_sum == b.value_sum and a.action < b.action))
        ):
            best = child
        child = a.sibling
    return nodes[best].action


@kernel
def choose_actions(game, exploration, max_plies, cut, seed, simulations, t, states, keys, plies, actions):
    """Search each state by itself and write the action to play.

    Args:
      cut: value for every seat of a playout of more than `max_plies` plies.
      t: Tree. actions: `i4 [n]` out.
    """
    for i in range(states.shape[0]):
        if legal_actions(game, states[i], t.legal) == 1:
            actions[i] = t.legal[0]
            continue
        make_node(game, t, states[i], 0, -1, -1)
        t.visited[:] = 0
        new = 1
        for k in range(simulations):
            t.state[0] = states[i]
            t.stream[0] = draws.bits(seed, draws.ROLLOUT, keys[i], plies[i], k)
            leaf = walk(game, exploration, t, new)
            new = max(new, leaf + 1)
            play_out(game, t, max_plies, cut)
            back_up(t, leaf)
        actions[i] = most_visited(t.nodes)


class MctsPlayer:
    """UCT with a number of random playouts for each move.

    Args:
      simulations: playouts, 1 to 10,000,000.
      exploration: the factor c of UCB1, mean value + c * sqrt(ln(visits of the node) / visits of
        the child), where values are points divided by the outcome table's largest magnitude: they
        span [-1, 1], so c = 1 here is 0.5 in units of wins. Of 0.5 to 2.8, 1 won most against the
        others in Connect Four, with 400 and with 2,000 simulations.

    Raises:
      PlayerError: a number is out of range.
    """

    def __init__(self, game: Game, simulations: int, seed: int = 0, exploration: float = 1.0) -> None:
        if not 1 <= simulations <= MOST_SIMULATIONS:
            raise PlayerError(f"mcts:{simulations}: the simulations must lie in 1..{MOST_SIMULATIONS:,}.")
        if not 0 <= exploration < math.inf:
            raise PlayerError(f"mcts: exploration is {exploration}; it must be 0 or more.")
        self.name = f"mcts:{simulations}"
        self.game, self.simulations = game, simulations
        self.seed, self.exploration = seed, float(exploration)
        # As in a match: a game that is cut counts as the mean of worst and best points.
        self._cut = float(game.outcomes.min() + game.outcomes.max()) / 2 / game.scale

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """Return `i4 [n]` action ids for `state_dtype [n]` states in which a seat is to move.

        Args:
          keys: `u8 [n]`, the games' keys. plies: `i4 [n]`.
        """
        actions = np.zeros(len(states), np.int32)
        choose_actions(
            self.game,
            self.exploration,
            self.game.max_plies,
            self._cut,
            np.uint64(self.seed),
            self.simulations,
            make_tree(self.game, self.simulations),
            # One layout and no read-only arrays: each other kind would compile another kernel.
            np.require(states, self.game.state_dtype, ["C", "W"]),
            np.require(keys, np.uint64, ["C", "W"]),
            np.require(plies, np.int32, ["C", "W"]),
            actions,
        )
        return actions
