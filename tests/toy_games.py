"""Small games whose right answers are known, a solver that finds them, and two evaluators.

All values here are relative: points divided by the outcome table's largest magnitude, one entry
per seat. `ANSWERS` lists, for the hand-made games, the best first action and the value.
"""

from __future__ import annotations

import hashlib

import numpy as np

from zeroloop.compiled import helper
from zeroloop.games.game import CHANCE, TERMINAL, Game, Observation

# The hand-made games share a state: the actions played so far, three bits each.

RECORD = np.dtype([("moves", "i8"), ("plies", "i1")])


def start(state, seed):
    state.moves = 0
    state.plies = 0


def push(state, action):
    state.moves = (state.moves << 3) | action
    state.plies += 1


@helper
def move(state, ply):
    """Return the action that was played at this ply."""
    return (state.moves >> (3 * (state.plies - 1 - ply))) & 7


def see(state, planes, global_facts):
    global_facts[0] = state.plies
    global_facts[1] = state.moves & 7


def toy(name, outcomes, rules, **facts):
    """Return a game on RECORD with the shared rules."""
    return Game(
        name,
        version=1,
        state_dtype=RECORD,
        num_players=len(outcomes[0]),
        outcomes=outcomes,
        observation=Observation(globals=2),
        rules={"initial": start, "apply_action": push, "observe": see, **rules},
        **facts,
    )


def win_now():
    """WinNow: action 2 of four wins at once; after any other, seat 1 chooses to win or to draw.

    Right answer: action 2, value (1, -1).
    """

    def to_play(state):
        if state.plies == 2 or (state.plies == 1 and move(state, 0) == 2):
            return TERMINAL
        return state.plies & 1

    def legal_actions(state, out):
        k = 4 if state.plies == 0 else 2
        for i in range(k):
            out[i] = i
        return k

    def outcome(state):
        return 0 if state.plies == 1 else 1 + move(state, 1)

    rules = {"to_play": to_play, "legal_actions": legal_actions, "outcome": outcome}
    facts = {"num_actions": 4, "max_legal": 4, "max_plies": 2}
    return toy("win_now", [[1, -1], [-1, 1], [0, 0]], rules, **facts)


def win_in_two():
    """WinInTwo: seat 0 moves twice. After action 1 its second move wins (1) or loses (0, 2).

    After action 0 it keeps a quarter of a point whatever follows, after action 2 it loses. A
    search that flips the sign at each ply takes the second move for the opponent's and plays 0.
    Right answer: action 1 and then 1, value (1, -1).
    """

    def to_play(state):
        return TERMINAL if state.plies == 2 else 0

    def legal_actions(state, out):
        for i in range(3):
            out[i] = i
        return 3

    def outcome(state):
        if move(state, 0) == 0:
            return 2
        return 0 if move(state, 0) == 1 and move(state, 1) == 1 else 1

    rules = {"to_play": to_play, "legal_actions": legal_actions, "outcome": outcome}
    facts = {"num_actions": 3, "max_legal": 3, "max_plies": 2}
    return toy("win_in_two", [[1, -1], [-1, 1], [0.25, -0.25]], rules, **facts)


def move_twice():
    """MoveTwice: the seats move in the order 0, 1, 1, 0, with two actions each.

    After action 0 seat 1 wins by playing 1 twice and loses otherwise. After action 1 seat 0 wins
    by repeating seat 1's moves where both are the same, and it is a draw otherwise, so seat 1
    plays two different ones. A search that flips the sign at each ply plays 0.
    Right answer: action 1, value (0, 0).
    """

    def to_play(state):
        if state.plies == 4:
            return TERMINAL
        return 1 if state.plies == 1 or state.plies == 2 else 0

    def legal_actions(state, out):
        out[0] = 0
        out[1] = 1
        return 2

    def outcome(state):
        if move(state, 0) == 0:
            return 1 if move(state, 1) == 1 and move(state, 2) == 1 else 0
        same = move(state, 1) == move(state, 2) and move(state, 2) == move(state, 3)
        return 0 if same else 2

    rules = {"to_play": to_play, "legal_actions": legal_actions, "outcome": outcome}
    facts = {"num_actions": 2, "max_legal": 2, "max_plies": 4}
    return toy("move_twice", [[1, -1], [-1, 1], [0, 0]], rules, **facts)


def coin_flip():
    """CoinFlip: seat 0 takes a quarter of a point (0) or one of two gambles (1, 2).

    Gamble 1 pays 1, -0.5, 0 with probabilities 0.5, 0.3, 0.2: 0.35 points on average. Gamble 2
    pays them with 0.1, 0.7, 0.2: -0.25 on average.
    Right answer: action 1, value (0.35, -0.35).
    """

    def to_play(state):
        if state.plies == 0:
            return 0
        return CHANCE if state.plies == 1 and move(state, 0) > 0 else TERMINAL

    def legal_actions(state, out):
        for i in range(3):
            out[i] = i
        return 3

    def chance_outcomes(state, out, probability):
        good = move(state, 0) == 1
        for i in range(3):
            out[i] = i
        probability[0] = 0.5 if good else 0.1
        probability[1] = 0.3 if good else 0.7
        probability[2] = 0.2
        return 3

    def outcome(state):
        return 3 if state.plies == 1 else move(state, 1)

    rules = {
        "to_play": to_play,
        "legal_actions": legal_actions,
        "chance_outcomes": chance_outcomes,
        "outcome": outcome,
    }
    facts = {"num_actions": 3, "max_legal": 3, "max_chance": 3, "max_plies": 2}
    return toy("coin_flip", [[1, -1], [-0.5, 0.5], [0, 0], [0.25, -0.25]], rules, **facts)


def three_way_vote():
    """ThreeWayVote: three legislators vote in turn on a rise that two votes carry (1 is yes).

    The rise is worth 2 points to each seat, a vote for it costs 1. Whoever votes first can say
    no, because the other two then must say yes.
    Right answer: action 0, value (2, 1, 1) / 2 by max^n.
    """
    rows = []
    for votes in range(8):  # the bit of seat 0 is the highest
        cast = [votes >> 2 & 1, votes >> 1 & 1, votes & 1]
        rows.append([2 * (sum(cast) >= 2) - vote for vote in cast])

    def to_play(state):
        return TERMINAL if state.plies == 3 else state.plies

    def legal_actions(state, out):
        out[0] = 0
        out[1] = 1
        return 2

    def outcome(state):
        return 4 * move(state, 0) + 2 * move(state, 1) + move(state, 2)

    rules = {"to_play": to_play, "legal_actions": legal_actions, "outcome": outcome}
    return toy("three_way_vote", rows, rules, num_actions=2, max_legal=2, max_plies=3)


def lose_only():
    """LoseOnly: actions 0, 1 and 3 lose at once, action 2 loses three plies later.

    Right answer: value (-1, 1) after every action; action 2 delays it, and looks best to any
    search that has not yet seen the whole tree.
    """

    def to_play(state):
        if state.plies == 4 or (state.plies > 0 and move(state, 0) != 2):
            return TERMINAL
        return state.plies & 1

    def legal_actions(state, out):
        k = 4 if state.plies == 0 else 2
        for i in range(k):
            out[i] = i
        return k

    def outcome(state):
        return 0

    rules = {"to_play": to_play, "legal_actions": legal_actions, "outcome": outcome}
    facts = {"num_actions": 4, "max_legal": 4, "max_plies": 4}
    return toy("lose_only", [[-1, 1]], rules, **facts)


def forced():
    """Forced: seat 0 chooses of three, six forced plies, seat 1 chooses of two, four forced plies.

    The seats alternate; a forced ply's only action is `ply % 3`. Seat 0 gets 1 or -1 after action
    0, 0.25 or 0.5 after action 1, -0.5 or 0 after action 2, as seat 1 chooses.
    Right answer: action 1, value (0.25, -0.25).
    """

    def to_play(state):
        return TERMINAL if state.plies == 12 else state.plies & 1

    def legal_actions(state, out):
        k = 3 if state.plies == 0 else 2 if state.plies == 7 else 1
        for i in range(k):
            out[i] = i if k > 1 else state.plies % 3
        return k

    def outcome(state):
        return 2 * move(state, 0) + move(state, 7)

    rules = {"to_play": to_play, "legal_actions": legal_actions, "outcome": outcome}
    facts = {"num_actions": 3, "max_legal": 3, "max_plies": 12}
    points = [1, -1, 0.25, 0.5, -0.5, 0]
    return toy("forced", [[x, -x] for x in points], rules, **facts)


WIN_NOW, WIN_IN_TWO, MOVE_TWICE = win_now(), win_in_two(), move_twice()
COIN_FLIP, THREE_WAY_VOTE, LOSE_ONLY, FORCED = coin_flip(), three_way_vote(), lose_only(), forced()

ANSWERS = [
    (WIN_NOW, 2, (1.0, -1.0)),
    (WIN_IN_TWO, 1, (1.0, -1.0)),
    (MOVE_TWICE, 1, (0.0, 0.0)),
    (COIN_FLIP, 1, (0.35, -0.35)),
    (THREE_WAY_VOTE, 0, (1.0, 0.5, 0.5)),
    (LOSE_ONLY, 2, (-1.0, 1.0)),
    (FORCED, 1, (0.25, -0.25)),
]


# Random trees: everything about a node follows from a hash of the path to it.

TREE = np.dtype([("path", "u8"), ("depth", "i1"), ("limit", "i1"), ("players", "i1")])
TREE_ROWS, TREE_IDS = 64, 12


@helper
def mix(a, b):
    """Return a 64-bit hash of two numbers (the finalizer of SplitMix64)."""
    x = np.uint64(a) + np.uint64(0x9E3779B97F4A7C15) * (np.uint64(b) + np.uint64(1))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@helper
def pick(state, salt, n):
    """Return an integer in [0, n) that belongs to this node."""
    return np.int64(mix(state.path, 1000 + salt) % np.uint64(n))


def tree_to_play(state):
    if state.depth == state.limit or (state.depth >= 2 and pick(state, 0, 6) == 0):
        return TERMINAL
    if state.depth > 0 and pick(state, 1, 5) == 0:
        return CHANCE
    return pick(state, 2, state.players)


@helper
def tree_edges(state):
    """Return the number of edges: 1 to 5, and 2 to 5 at the root."""
    return 2 + pick(state, 3, 4) if state.depth == 0 else 1 + pick(state, 3, 5)


def tree_legal_actions(state, out):
    first, step = pick(state, 4, 4), 1 + pick(state, 5, 2)
    k = tree_edges(state)
    for i in range(k):
        out[i] = first + step * i
    return k


def tree_chance_outcomes(state, out, probability):
    """Outcome ids descend, so that their order is not that of the ids."""
    k, total = tree_edges(state), 0
    for i in range(k):
        out[i] = TREE_IDS - 1 - 2 * i
        total += 1 + pick(state, 10 + i, 7)
    for i in range(k):
        probability[i] = np.float32((1 + pick(state, 10 + i, 7)) / total)
    return k


def tree_apply_action(state, action):
    state.path = mix(state.path, action)
    state.depth += 1


def tree_outcome(state):
    return pick(state, 6, TREE_ROWS)


def tree_observe(state, planes, global_facts):
    """Depth and the eight bytes of the path."""
    global_facts[0] = state.depth / state.limit
    for i in range(8):
        byte = (state.path >> np.uint64(8 * i)) & np.uint64(255)
        global_facts[1 + i] = np.float32(byte) / np.float32(255)


def random_tree(seed, num_players, depth=8):
    """RandomTree: a pseudo-random tree of at most this depth, with 1 to 5 edges at every node.

    Seats (2 or 3 of them, repeated movers included), chance nodes, early ends and points are
    drawn by hashing. Points are thousandths and not zero-sum. Action ids are spread out. Depth 8
    means some thousand nodes, depth 4 some dozens.
    Right answer: what `exact_value` says.
    """

    def tree_initial(state, game_seed):
        state.path = mix(seed, 0)
        state.depth = 0
        state.limit = depth
        state.players = num_players

    points = np.random.default_rng(seed).integers(-1000, 1001, (TREE_ROWS, num_players)) / 1000
    return Game(
        "random_tree",
        version=1,
        state_dtype=TREE,
        num_players=num_players,
        num_actions=TREE_IDS,
        max_legal=5,
        max_chance=5,
        max_plies=depth,
        outcomes=points.tolist(),
        observation=Observation(globals=9),
        options={"seed": seed, "players": num_players, "depth": depth},
        rules={
            "initial": tree_initial,
            "to_play": tree_to_play,
            "legal_actions": tree_legal_actions,
            "apply_action": tree_apply_action,
            "chance_outcomes": tree_chance_outcomes,
            "outcome": tree_outcome,
            "observe": tree_observe,
        },
    )


def exact_value(game, state):
    """Return the value of each seat as f64 [P]: max^n at decisions, expectation at chance nodes.

    Of two actions that are equal for the seat to move the one with the lower id counts.
    """
    points = game.points(state)
    if points is not None:
        return np.array(points) / game.scale
    seat = game.rules["to_play"](state)
    children = []
    for action in game.legal(state) or [outcome for outcome, _ in game.chance(state)]:
        child = game.copy(state)
        game.rules["apply_action"](child, action)
        children.append(exact_value(game, child))
    if seat == CHANCE:
        weights = [probability for _, probability in game.chance(state)]
        return np.average(children, axis=0, weights=weights)
    return max(children, key=lambda value: value[seat])


def uniform_evaluator(game):
    """Return an evaluator that knows nothing: equal logits, value 0 for every seat."""

    def evaluate(state, legal):
        return np.zeros(len(legal), np.float32), np.zeros(game.num_players, np.float32)

    return evaluate


def exact_evaluator(game):
    """Return an evaluator with equal logits and the right values."""

    def evaluate(state, legal):
        return np.zeros(len(legal), np.float32), exact_value(game, state).astype(np.float32)

    return evaluate


def hashed_evaluator(game, salt=0):
    """Return an evaluator with opinions: logits in [-2, 2) and values in [-1, 1), by the state."""

    def evaluate(state, legal):
        key = hashlib.blake2b(state.tobytes() + bytes([salt]), digest_size=8).digest()
        draw = np.random.default_rng(int.from_bytes(key, "little"))
        logits = draw.uniform(-2, 2, len(legal)).astype(np.float32)
        return logits, draw.uniform(-1, 1, game.num_players).astype(np.float32)

    return evaluate
