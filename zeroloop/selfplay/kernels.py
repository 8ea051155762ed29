"""HOT: what happens to a game between two searches - record the row, move, roll dice, begin again."""

from __future__ import annotations

import math

import numpy as np

from .. import draws
from ..compiled import helper, kernel
from ..games.game import (
    CHANCE,
    TERMINAL,
    apply_action,
    chance_outcomes,
    initial,
    keyframe_every,
    legal_actions,
    to_play,
)
from ..search.kernels import advance_tree, begin_tree, plant_tree, tree_result

f32 = np.float32

# What a game waits for.
SEARCH = 0
OTHER_PLAYER = 1
OVER = 2
CUT = 3

GAME = np.dtype([("key", "u8"), ("rows", "i4"), ("entries", "i4"), ("waits", "i4"), ("full", "i4")])
"""A game in flight: key, rows and policy entries so far, what it waits for, whether its search is full."""

ROW = np.dtype(
    [
        ("action", "i4"),
        ("to_play", "i4"),
        ("policy_weight", "f4"),
        ("value_weight", "f4"),
        ("simulations", "i4"),
        ("surprise", "f4"),
        ("start", "i4"),
    ]
)
"""One ply; `start` is where its policy entries begin."""

NUMBERS = np.dtype(
    [
        ("simulations", "i4"),
        ("cheap_simulations", "i4"),
        ("full_search_fraction", "f8"),
        ("temperature", "f8"),
        ("random_opening_share", "f8"),
        ("random_opening_plies", "i4"),
    ]
)
"""Self-play's numbers, one row per ply."""

NEGLIGIBLE = np.float32(6e-5)


@helper
def note_row(game, game_row, rows, row_states, values, state, action, mover, seats):
    """Append a row without weights and return it; every so many rows keep their state."""
    k = game_row.rows
    row = rows[k]
    if k % keyframe_every(game) == 0:
        row_states[k // keyframe_every(game)] = state
    row.action = action
    row.to_play = mover
    row.policy_weight = f32(0)
    row.value_weight = f32(0)
    row.simulations = 0
    row.surprise = f32(0)
    row.start = game_row.entries
    for seat in range(seats):
        values[k, seat] = f32(0)
    game_row.rows = k + 1
    return row


@helper
def settle(game, seed, b, t, m, seats, reuse, max_plies):
    """Play chance outcomes and forced moves until the game waits for a search, a player or its end."""
    tree, nodes, edges, states = t.trees[b], t.nodes[b], t.edges[b], t.states[b]
    here = m.games[b]
    while True:
        node = nodes[0]
        mover = node.to_play
        if mover == TERMINAL:
            here.waits = OVER
            return
        if tree.ply >= max_plies:
            here.waits = CUT
            return
        action = edges[node.edge_start].action
        if mover == CHANCE:
            u = draws.uniform(seed, draws.CHANCE, tree.game, tree.ply, 0)
            running = 0.0
            for e in range(node.edge_start, node.edge_start + node.edge_count - 1):
                running += np.float64(edges[e].prior)
                if running > u:
                    break
                action = edges[e + 1].action
        elif m.seats[b, mover] != 0:
            here.waits = OTHER_PLAYER
            return
        elif node.edge_count > 1:
            here.waits = SEARCH
            return
        note_row(game, here, m.rows[b], m.row_states[b], m.values[b], states[0], action, mover, seats)
        advance_tree(game, tree, nodes, edges, states, t.scratch, t.legal, t.chance, action, reuse)


@helper
def begin_search(rule, seed, b, t, m, numbers, own):
    """Draw the budget of the next search and begin it."""
    tree = t.trees[b]
    number = numbers[min(tree.ply, numbers.shape[0] - 1)]
    mine = own[min(tree.ply, own.shape[0] - 1)]
    full = 1
    if mine.full_search_fraction < 1.0:
        u = draws.uniform(seed, draws.BUDGET, tree.game, tree.ply, 0)
        full = 1 if u < mine.full_search_fraction else 0
    budget = mine.simulations if full else mine.cheap_simulations
    m.games[b].full = full
    begin_tree(rule, seed, tree, t.nodes[b, 0], t.edges[b], t.root[b], number, budget, full)


@helper
def random_ply(game, seed, key, ply, attempt, state, legal, chance):
    """Play a uniform legal action, or a chance outcome by its probability; False at the end of the game."""
    mover = to_play(game, state)
    if mover == TERMINAL:
        return False
    if mover == CHANCE:
        k = chance_outcomes(game, state, legal, chance)
        pick = draws.pick(chance, k, draws.uniform(seed, draws.OPENING, key, ply, attempt))
    else:
        k = legal_actions(game, state, legal)
        pick = draws.integer(seed, draws.OPENING, key, ply, attempt, k)
    apply_action(game, state, legal[pick])
    return True


@kernel
def start_games(game, rule, seed, t, m, numbers, own, ids, keys, max_plies, reuse):
    """Begin a new game in each tree of `ids`: setup, random opening where drawn, first search.

    A random opening that ends the game is drawn again, 100 times at most; then the game has none.
    """
    for i in range(ids.shape[0]):
        b = ids[i]
        key = keys[i]
        state = t.states[b, 0]
        attempt, plies = 0, 0
        while True:
            initial(game, state, int(draws.bits(seed, draws.INITIAL, key, 0, attempt) >> np.uint64(1)))
            plies = 0
            share = own[0].random_opening_share if attempt < 100 else 0.0
            if draws.uniform(seed, draws.OPENING, key, 0, attempt) < share:
                plies = 1 + draws.integer(seed, draws.OPENING, key, 1, attempt, own[0].random_opening_plies)
            played = 0
            while played < plies:
                if not random_ply(game, seed, key, 2 + played, attempt, state, t.legal, t.chance):
                    break
                played += 1
            if to_play(game, state) != TERMINAL:
                break
            attempt += 1
        plant_tree(game, t.trees[b], t.nodes[b], t.edges[b], t.states[b], t.legal, t.chance, key, played)
        here = m.games[b]
        here.key = key
        here.rows = 0
        here.entries = 0
        settle(game, seed, b, t, m, m.values.shape[2], reuse, max_plies)
        if here.waits == SEARCH:
            begin_search(rule, seed, b, t, m, numbers, own)


@kernel
def move_games(game, rule, seed, t, m, numbers, own, ids, target, max_plies, reuse):
    """Record the finished search of each tree in `ids`, play its move and begin what comes next.

    Args:
      target: `f4 [L]` scratch.
    """
    seats = m.values.shape[2]
    for i in range(ids.shape[0]):
        b = ids[i]
        tree, nodes, edges, states = t.trees[b], t.nodes[b], t.edges[b], t.states[b]
        here = m.games[b]
        node = nodes[0]
        number = numbers[min(tree.ply, numbers.shape[0] - 1)]
        mine = own[min(tree.ply, own.shape[0] - 1)]
        k = here.rows
        best = tree_result(
            game,
            rule,
            seed,
            tree,
            nodes,
            edges,
            t.root[b],
            number,
            mine.temperature,
            target,
            t.result,
        )
        action = edges[best].action
        row = note_row(
            game, here, m.rows[b], m.row_states[b], m.values[b], states[0], action, node.to_play, seats
        )
        for seat in range(seats):
            m.values[b, k, seat] = t.result[seat]
        row.simulations = tree.finished
        row.value_weight = f32(1)
        if here.full:
            row.policy_weight = f32(1)
            surprise = 0.0
            for e in range(node.edge_count):
                edge = edges[node.edge_start + e]
                p = target[e]
                if p < NEGLIGIBLE:
                    continue
                m.ids[b, here.entries] = edge.action
                m.probs[b, here.entries] = p
                here.entries += 1
                surprise += p * (math.log(np.float64(p)) - math.log(max(np.float64(edge.prior), 1e-9)))
            row.surprise = f32(max(surprise, 0.0))
        advance_tree(game, tree, nodes, edges, states, t.scratch, t.legal, t.chance, action, reuse)
        settle(game, seed, b, t, m, seats, reuse, max_plies)
        if here.waits == SEARCH:
            begin_search(rule, seed, b, t, m, numbers, own)


@kernel
def play_others(game, rule, seed, t, m, numbers, own, ids, actions, max_plies, reuse):
    """Play the moves that other players chose; their rows carry no target."""
    seats = m.values.shape[2]
    for i in range(ids.shape[0]):
        b = ids[i]
        tree, nodes, edges, states = t.trees[b], t.nodes[b], t.edges[b], t.states[b]
        here = m.games[b]
        note_row(
            game,
            here,
            m.rows[b],
            m.row_states[b],
            m.values[b],
            states[0],
            actions[i],
            nodes[0].to_play,
            seats,
        )
        advance_tree(game, tree, nodes, edges, states, t.scratch, t.legal, t.chance, actions[i], reuse)
        settle(game, seed, b, t, m, seats, reuse, max_plies)
        if here.waits == SEARCH:
            begin_search(rule, seed, b, t, m, numbers, own)
