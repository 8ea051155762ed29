"""The tree's data: a few wide records in flat arrays, many trees side by side.

Letters: B trees, N node slots and E edge slots of a tree, L `max_legal` of the game, P seats, K leaves
in flight per tree. Knows nothing of networks or training.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..games.game import Game

Array = npt.NDArray[Any]

PUCT, GUMBEL = 0, 1
"""Search rules; also the two interior rules."""

RULES = {"puct": PUCT, "gumbel": GUMBEL}

CHANCE_MODES = {"sampling": 0, "expectation": 1}
"""What a chance node does: draw one outcome, or visit all and take the exact expectation."""

# Status of a node.
READY = 0
OPEN = 1
WAITING = 2

TREE = np.dtype(
    [
        ("game", "u8"),
        ("ply", "i4"),
        ("budget", "i4"),
        ("begun", "i4"),
        ("finished", "i4"),
        ("waiting", "i4"),
        ("active", "i4"),
        ("noise", "i4"),
        ("expectation", "i4"),
        ("nodes", "i4"),
        ("edges", "i4"),
        ("overflow", "i4"),
    ]
)
"""One tree: key of its draws, simulations of this search (begun, finished, waiting), whether chance nodes
take the exact expectation, use of its pools."""

EDGE = np.dtype(
    [
        ("action", "i4"),
        ("child", "i4"),
        ("visit_count", "i4"),
        ("pending", "i4"),
        ("prior", "f4"),
        ("logit", "f4"),
        ("value_sum", "f4"),
    ]
)
"""`value_sum` belongs to the seat that moves at the parent; at a chance node `prior` is the probability;
child -1: none."""

ROOT_EDGE = np.dtype([("noise", "f4"), ("inherited", "i4")])
"""What only root edges need: Gumbel or Dirichlet noise, and the visits of earlier searches."""

LEAF = np.dtype([("tree", "i4"), ("node", "i4"), ("length", "i4"), ("root", "i4")])
"""A leaf that waits: its tree, its node (-1: not stored), the length of its path, whether it is the
uncounted evaluation of a root."""

STEP = np.dtype([("node", "i4"), ("edge", "i4")])

NUMBERS = np.dtype(
    [
        ("c_puct", "f4"),
        ("c_puct_base", "f4"),
        ("fpu_reduction", "f4"),
        ("root_fpu_reduction", "f4"),
        ("dirichlet_total", "f4"),
        ("dirichlet_fraction", "f4"),
        ("forced_playouts", "f4"),
        ("gumbel_actions", "i4"),
        ("gumbel_scale", "f4"),
        ("c_visit", "f4"),
        ("c_scale", "f4"),
    ]
)
"""The numbers of docs/search.md, one row per ply of the game; the last row serves all later plies."""


def node_dtype(num_players: int) -> np.dtype[Any]:
    """Return the dtype of a node: `value` is the evaluator's, `value_sum` what was backed up, per seat."""
    return np.dtype(
        [
            ("to_play", "i4"),
            ("status", "i4"),
            ("edge_start", "i4"),
            ("edge_count", "i4"),
            ("visit_count", "i4"),
            ("pending", "i4"),
            ("value", "f4", (num_players,)),
            ("value_sum", "f4", (num_players,)),
        ]
    )


def record(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype as a NumPy record, so that `row.field` works in plain Python too."""
    return np.dtype((np.record, dtype))


class Trees(NamedTuple):
    """All arrays of a forest; the compiled kernels take this tuple."""

    trees: Array  # TREE [B]
    nodes: Array  # node_dtype [B, N]
    edges: Array  # EDGE [B, E]
    states: Array  # state_dtype [B, N]
    root: Array  # ROOT_EDGE [B, L]
    leaves: Array  # LEAF [B * K]
    paths: Array  # STEP [B * K, N]
    leaf_states: Array  # state_dtype [B * K]
    leaf_legal: Array  # i4 [B * K, L]
    leaf_count: Array  # i4 [B * K], legal actions of each leaf
    legal: Array  # i4 [L], scratch for ids of roots
    scratch: Array  # i4 [N], remap table of `advance`
    result: Array  # f4 [P], scratch for a root value
    flow: Array  # f4 [P], scratch for the vector that a backup carries
    chance: Array  # f4 [max_chance], probabilities while a chance node is made
    counters: Array  # i8 [COUNTERS]


COUNTERS = 4
SIMULATIONS, CACHE_HITS, TERMINALS, OVERFLOWS = range(COUNTERS)


class Cache(NamedTuple):
    """Evaluations by state, direct-mapped; 128-bit keys: a false hit has odds of 2^-108 a look-up."""

    keys: Array  # u8 [C, 2]; C is a power of two, or 1 with `enabled` 0
    logits: Array  # f4 [C, L]
    values: Array  # f4 [C, P]
    enabled: Array  # i8 [1]


def make_trees(game: Game, trees: int, max_nodes: int, max_edges: int, leaves: int) -> Trees:
    """Allocate the arrays of a forest; a node slot is kept free as scratch for states that are not stored."""
    slots = max_nodes + 1
    rows = trees * leaves
    width = max(game.max_legal, game.max_chance)
    return Trees(
        np.zeros(trees, record(TREE)),
        np.zeros((trees, slots), record(node_dtype(game.num_players))),
        np.zeros((trees, max_edges), record(EDGE)),
        np.zeros((trees, slots), game.state_dtype),
        np.zeros((trees, width), record(ROOT_EDGE)),
        np.zeros(rows, record(LEAF)),
        np.zeros((rows, slots + 1), record(STEP)),
        np.zeros(rows, game.state_dtype),
        np.zeros((rows, width), np.int32),
        np.zeros(rows, np.int32),
        np.zeros(width, np.int32),
        np.zeros(slots, np.int32),
        np.zeros(game.num_players, np.float32),
        np.zeros(game.num_players, np.float32),
        np.zeros(max(game.max_chance, 1), np.float32),
        np.zeros(COUNTERS, np.int64),
    )


def make_cache(game: Game, entries: int) -> Cache:
    """Allocate a cache; 0 entries switches it off. `entries` is rounded down to a power of two."""
    size = 1 << (max(entries, 1).bit_length() - 1)
    return Cache(
        np.zeros((size, 2), np.uint64),
        np.zeros((size, game.max_legal), np.float32),
        np.zeros((size, game.num_players), np.float32),
        np.array([entries > 0], np.int64),
    )


def cache_entry_bytes(game: Game) -> int:
    """Return the bytes of one cache entry."""
    return 16 + 4 * game.max_legal + 4 * game.num_players
