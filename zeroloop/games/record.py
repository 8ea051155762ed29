"""Random play that asks every rule at every ply and writes the answers down; see `check`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import draws
from ..compiled import helper, kernel
from .game import (
    CHANCE,
    TERMINAL,
    Game,
    apply_action,
    chance_outcomes,
    heuristic,
    initial,
    legal_actions,
    observe,
    outcome,
    symmetry,
    symmetry_action,
    to_play,
)

GUARD = 16
"""Spare entries behind each id buffer, to notice a rule that writes too far."""
JUNK = (-7, -8)
"""What id buffers hold before the first and the second call."""
MEMORY = 1 << 25
"""Bytes of answers that are kept at a time."""

# Columns of `Answers.states`: each call that only asks gets its own copy of the state. From IMAGES
# on come three for each symmetry: the state's image, the image after the move, the next state's
# image.
STATE, ASK_MOVER, ASK_CHOICES, ASK_VIEW, ASK_OUTCOME, ASK_GUESS = 0, 1, 2, 4, 6, 7
DIRTY, NEXT, AGAIN, IMAGES = 8, 9, 10, 11
ASKED = ("to_play", "legal_actions", "legal_actions", "observe", "observe", "outcome", "heuristic")
"""The rule that is called on each column from ASK_MOVER on."""


class Limits(NamedTuple):
    """The facts of a game that `record` needs."""

    seats: int
    actions: int
    plies: int
    cut: bool
    """Random games may reach `plies` and end there."""


class Answers(NamedTuple):
    """What the rules answered, one row per ply; a second axis of 2 holds two calls of a rule."""

    used: Any
    """Number of rows written."""
    where: Any
    """Number of the game, ply."""
    states: Any
    mover: Any
    row: Any
    count: Any
    ids: Any
    probability: Any
    planes: Any
    facts: Any
    guesses: Any
    action: Any
    image_mover: Any
    image_row: Any
    image_count: Any
    image_ids: Any
    moved: Any


@helper
def ask_choices(game: Any, t: Any, i: Any, n: Any) -> Any:
    """Ask twice for the actions or chance outcomes; return whether one can be played."""
    for run in range(2):
        state, ids = t.states[i, ASK_CHOICES + run], t.ids[i, run]
        if t.mover[i] == CHANCE:
            t.count[i, run] = chance_outcomes(game, state, ids, t.probability[i, run])
        else:
            t.count[i, run] = legal_actions(game, state, ids)
    count = t.count[i, 0]
    if count < 1 or count > t.ids.shape[2]:
        return False
    if t.mover[i] >= 0:
        for x in range(count):
            if t.ids[i, 0, x] < 0 or t.ids[i, 0, x] >= n.actions:
                return False
    return True


@helper
def ask_images(game: Any, t: Any, i: Any) -> None:
    """Ask every image for its mover and its actions, chance outcomes or outcome row."""
    mover = t.mover[i]
    for k in range(t.moved.shape[1]):
        image = t.states[i, IMAGES + 3 * k]
        symmetry(game, image, k)
        t.image_mover[i, k] = to_play(game, image)
        if mover == TERMINAL and t.image_mover[i, k] == TERMINAL:
            t.image_row[i, k] = outcome(game, image)
        elif mover == CHANCE and t.image_mover[i, k] == CHANCE:
            ids, probability = t.image_ids[i, k], t.probability[i, 2]
            t.image_count[i, k] = chance_outcomes(game, image, ids, probability)
        elif mover >= 0 and t.image_mover[i, k] >= 0:
            t.image_count[i, k] = legal_actions(game, image, t.image_ids[i, k])
            for x in range(t.count[i, 0]):
                t.moved[i, k, x] = symmetry_action(game, t.ids[i, 0, x], k)


@helper
def ask_state(game: Any, t: Any, i: Any, n: Any) -> Any:
    """Ask every rule about the state, each on its own copy; return whether the game can go on."""
    for column in range(t.states.shape[1]):
        if column != STATE and column != DIRTY:
            t.states[i, column] = t.states[i, STATE]
    mover = to_play(game, t.states[i, ASK_MOVER])
    t.mover[i] = mover
    if mover < TERMINAL or mover >= n.seats:
        return False
    if mover == TERMINAL:
        t.row[i] = outcome(game, t.states[i, ASK_OUTCOME])
        ask_images(game, t, i)
        return False
    if not ask_choices(game, t, i, n):
        return False
    if mover >= 0:
        for run in range(2):
            observe(game, t.states[i, ASK_VIEW + run], t.planes[i, run], t.facts[i, run])
    for seat in range(n.seats):
        t.guesses[i, seat] = heuristic(game, t.states[i, ASK_GUESS], seat)
    ask_images(game, t, i)
    return True


@helper
def play_on(game: Any, t: Any, i: Any, n: Any, pick: Any) -> None:
    """Play entry `pick` twice, and in every image the action that it turns into."""
    t.action[i] = t.ids[i, 0, pick]
    for column in (NEXT, AGAIN):
        apply_action(game, t.states[i, column], t.ids[i, 0, pick])
    if t.mover[i] < 0:
        return
    for k in range(t.moved.shape[1]):
        column, action = IMAGES + 3 * k, t.moved[i, k, pick]
        t.states[i, column + 1] = t.states[i, column]
        t.states[i, column + 2] = t.states[i, NEXT]
        symmetry(game, t.states[i, column + 2], k)
        if action >= 0 and action < n.actions:
            apply_action(game, t.states[i, column + 1], action)


@kernel
def record(game: Any, t: Any, carry: Any, n: Any, seed: Any, ply: Any, end: Any) -> None:
    """Play on from this ply of random game `seed` to game `end - 1`, a full `t` or a broken law."""
    t.used[0] = 0
    for i in range(t.mover.shape[0]):
        if seed >= end:
            return
        t.where[i, 0], t.where[i, 1] = seed, ply
        if ply == 0:
            bits = draws.bits(seed, draws.INITIAL, 0, 0, 0)
            setup = int(bits >> np.uint64(1))
            for column in (STATE, DIRTY):
                initial(game, t.states[i, column], setup)
        else:
            t.states[i, STATE] = carry[0]
        answered = ask_state(game, t, i, n)
        goes_on = answered and ply < n.plies
        if goes_on:
            count = t.count[i, 0]
            pick = draws.integer(seed, draws.CHECK, 0, ply, 0, count)
            play_on(game, t, i, n, pick)
            carry[0] = t.states[i, NEXT]
            ply += 1
        t.used[0] = i + 1
        if t.mover[i] == TERMINAL or (n.cut and answered and not goes_on):
            seed, ply = seed + 1, 0
        elif not goes_on:
            return


# From here on plain Python: the buffers.


def make_answers(game: Game, rows: int) -> Answers:
    """Return empty answers for about so many plies, fewer where they would take too much memory."""
    images = game.num_symmetries if game.num_symmetries > 1 else 0
    wide = max(game.max_legal, game.max_chance) + GUARD
    c, h, w = game.observation.planes
    shapes: dict[str, tuple[Any, ...]] = {
        "where": (np.int64, 2),
        "states": (game.state_dtype, IMAGES + 3 * images),
        "mover": (np.int64,),
        "row": (np.int64,),
        "count": (np.int64, 2),
        "ids": (np.int32, 2, wide),
        "probability": (np.float32, 3, wide),
        "planes": (np.float32, 2, c, h, w),
        "facts": (np.float32, 2, game.observation.globals),
        "guesses": (np.float64, game.num_players),
        "action": (np.int64,),
        "image_mover": (np.int64, images),
        "image_row": (np.int64, images),
        "image_count": (np.int64, images),
        "image_ids": (np.int32, images, wide),
        "moved": (np.int32, images, wide),
    }
    size = sum(np.dtype(kind).itemsize * int(np.prod(shape)) for kind, *shape in shapes.values())
    rows = max(1, min(rows, MEMORY // size))
    arrays = {name: np.zeros((rows, *shape), kind) for name, (kind, *shape) in shapes.items()}
    return Answers(used=np.zeros(1, np.int64), **arrays)


def clear(game: Game, t: Answers) -> None:
    """Fill the buffers with what no rule writes, different for the first and the second call."""
    raw, fields = raw_bytes(t), dict(game.state_dtype.fields or {})
    raw[:] = 0
    raw[:, DIRTY, : fields["_pad"][1] if "_pad" in fields else None] = 255
    for run in range(2):
        t.ids[:, run] = t.probability[:, run] = JUNK[run]
        t.planes[:, run] = t.facts[:, run] = 77.5 + JUNK[run]
    for array in (t.mover, t.row, t.count, t.guesses, t.image_mover, t.image_row, t.image_count):
        array[:] = 0
    t.image_ids[:] = t.moved[:] = JUNK[0]


def raw_bytes(t: Answers) -> Any:
    """Return the bytes of the states, `u8 [rows, columns, bytes]`."""
    return t.states.view(np.ndarray).view(np.uint8).reshape(*t.states.shape, -1)


def limits_of(game: Game) -> Limits:
    """Return the facts that `record` needs."""
    return Limits(game.num_players, game.num_actions, game.max_plies, game.truncates)


def written(t: Answers) -> Answers:
    """Return the rows that are written."""
    return Answers(t.used, *(x[: int(t.used[0])] for x in t[1:]))
