"""Prove on random play that a game keeps the laws of the contract, and explain rules that fail.

`record` plays random games, asks every rule at every ply and writes the answers down. It runs as
plain Python, where a mistake in a rule shows its line, and compiled. NumPy then compares what was
written with the laws, and the plain answers with the compiled ones. Random game number S draws its
setup and moves from the seed S, so `--seed S` plays it again.
"""

from __future__ import annotations

import contextlib
import copy
import linecache
import os
import pathlib
import re
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import numba
import numpy as np

from .. import draws
from ..compiled import INTERPRETED, helper, kernel
from ..errors import GameError, LawBroken
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

PLAIN_PLIES = 300
"""Plies that are also played as plain Python."""
GUARD = 16
"""Spare entries behind each id buffer, to notice a rule that writes too far."""
TOLERANCE = 1e-5
"""Allowed error of a sum of probabilities, and of floats between compiled and plain Python."""
JUNK = (-7, -8)
"""What id buffers hold before the first and the second call."""
MEMORY = 1 << 25
"""Bytes of answers that are kept at a time."""

LAWS = (
    "initial writes the whole record, from its seed alone",
    "to_play is a seat, CHANCE or TERMINAL",
    "legal ids ascend, are in range and fit max_legal",
    "chance outcomes are unique and their probabilities sum to 1",
    "outcome is a row of the outcome table",
    "observe writes every cell, and finite numbers",
    "heuristic lies in [-1, 1]",
    "a rule that only asks leaves the state alone",
    "a state is its bytes and nothing else",
    "every image is the same game",
    "every game ends within max_plies",
    "names and position texts read back",
    "compiled rules do what they do as plain Python",
)
(
    INITIAL, MOVER, LEGAL, DICE, OUTCOME, OBSERVE, HEURISTIC,
    ASKING, BYTES, IMAGE, ENDS, TEXT, SAME,
) = LAWS  # fmt: skip

# Columns of `Answers.states`: each call that only asks gets its own copy of the state. From IMAGES
# on come three for each symmetry: the state's image, the image after the move, the next state's
# image.
STATE, ASK_MOVER, ASK_CHOICES, ASK_VIEW, ASK_OUTCOME, ASK_GUESS = 0, 1, 2, 4, 6, 7
DIRTY, NEXT, AGAIN, IMAGES = 8, 9, 10, 11
ASKED = ("to_play", "legal_actions", "legal_actions", "observe", "observe", "outcome", "heuristic")
"""The rule that is called on each column from ASK_MOVER on."""


class CheckReport(NamedTuple):
    """What was proved: each law with the number of times it was tried."""

    games: int
    plies: int
    states_per_second: float
    laws: list[tuple[str, int]]
    notes: list[str]


class Limits(NamedTuple):
    """The facts of a game that `record` needs."""

    seats: int
    actions: int
    plies: int


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
        goes_on = ask_state(game, t, i, n) and ply < n.plies
        if goes_on:
            count = t.count[i, 0]
            pick = draws.integer(seed, draws.CHECK, 0, ply, 0, count)
            play_on(game, t, i, n, pick)
            carry[0] = t.states[i, NEXT]
            ply += 1
        t.used[0] = i + 1
        if t.mover[i] == TERMINAL:
            seed, ply = seed + 1, 0
        elif not goes_on:
            return


# From here on plain Python: buffers, laws, comparisons and words.


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


def _clear(game: Game, t: Answers) -> None:
    """Fill the buffers with what no rule writes, different for the first and the second call."""
    raw, fields = _raw(t), dict(game.state_dtype.fields or {})
    raw[:] = 0
    raw[:, DIRTY, : fields["_pad"][1] if "_pad" in fields else None] = 255
    for run in range(2):
        t.ids[:, run] = t.probability[:, run] = JUNK[run]
        t.planes[:, run] = t.facts[:, run] = 77.5 + JUNK[run]
    for array in (t.mover, t.row, t.count, t.guesses, t.image_mover, t.image_row, t.image_count):
        array[:] = 0
    t.image_ids[:] = t.moved[:] = JUNK[0]


def _raw(t: Answers) -> Any:
    """Return the bytes of the states, `u8 [rows, columns, bytes]`."""
    return t.states.view(np.ndarray).view(np.uint8).reshape(*t.states.shape, -1)


Check = tuple[str, Any, Any, Callable[[int], str]]
"""A law, the rows where it applies, the rows where it is broken, and what to say about a row."""


def _checks(game: Game, t: Answers) -> Iterator[Check]:
    """Yield the laws over the answers, in the order in which the rules were asked."""
    decision, dice, over = t.mover >= 0, t.mover == CHANCE, t.mover == TERMINAL
    every, raw = np.ones(len(t.mover), bool), _raw(t)
    seats, rows = game.num_players, len(game.outcomes)

    def apart(a: int, b: int) -> Any:
        return (raw[:, a] != raw[:, b]).any(1)

    first = t.where[:, 1] == 0
    yield (
        INITIAL, first, first & apart(STATE, DIRTY),
        lambda i: "initial, called with one seed on a record of zeros and on one of 0xFF, gives "
                  f"different {_fields(t, i, STATE, DIRTY)}",
    )  # fmt: skip
    yield (
        MOVER, every, (t.mover < TERMINAL) | (t.mover >= seats),
        lambda i: f"to_play returns {t.mover[i]}; allowed: 0 to {seats - 1}, CHANCE, TERMINAL",
    )  # fmt: skip
    yield (
        ENDS, over, ~over & (t.where[:, 1] >= game.max_plies),
        lambda i: f"the game goes on after max_plies = {game.max_plies} plies",
    )  # fmt: skip
    yield from _choice_checks(t, LEGAL, decision, "legal_actions", game.max_legal)
    yield from _choice_checks(t, DICE, dice, "chance_outcomes", game.max_chance)
    yield from _id_checks(game, t, decision, dice)
    yield (
        OUTCOME, over, over & ((t.row < 0) | (t.row >= rows)),
        lambda i: f"outcome returns {t.row[i]}; allowed: 0 to {rows - 1}",
    )  # fmt: skip
    for name, cells in (("plane, row, column", t.planes), ("global", t.facts)):
        yield _view_check(name, cells, decision)
    yield (
        HEURISTIC, ~over & game.has_heuristic, ~(np.abs(t.guesses) <= 1).all(1),
        lambda i: f"heuristic gives the seats {t.guesses[i].tolist()}",
    )  # fmt: skip
    for column, rule in enumerate(ASKED, ASK_MOVER):
        yield _asking_check(t, rule, column, apart(STATE, column))
    yield (
        BYTES, ~over, apart(NEXT, AGAIN),
        lambda i: f"apply_action with {t.action[i]}, called twice on one state, gives different "
                  f"{_fields(t, i, NEXT, AGAIN)}",
    )  # fmt: skip
    if "_pad" in (game.state_dtype.names or ()):
        yield BYTES, ~over, t.states["_pad"][:, NEXT].any(1), lambda i: "apply_action fills '_pad'"
    yield from _image_checks(t, decision, over, apart)


def _choice_checks(t: Answers, law: str, asked: Any, rule: str, most: int) -> Iterator[Check]:
    """Yield what holds for legal actions and chance outcomes alike."""
    k, junk = t.count, np.array(JUNK)[:, None]
    yield (
        law, asked, asked & ((k < 1) | (k > most)).any(1),
        lambda i: f"{rule} returns {k[i, 0]}; allowed: 1 to {most}",
    )  # fmt: skip
    beyond = (t.ids[:, :, most:] != junk) | (t.probability[:, :2, most:] != junk)
    yield (
        law, asked, asked & beyond.any((1, 2)),
        lambda i: f"{rule} writes beyond the {most} entries that its buffers have",
    )  # fmt: skip
    used = np.arange(t.ids.shape[2]) < k[:, :1]
    pairs = ((x[:, 0] != x[:, 1]) & used for x in (t.ids, t.probability))
    unsteady = (k[:, 0] != k[:, 1]) | next(pairs).any(1) | (next(pairs).any(1) & (law == DICE))
    yield (
        law, asked, asked & unsteady,
        lambda i: f"{rule}, called twice on one state, gives {_list(t, i, 0)} and {_list(t, i, 1)}",
    )  # fmt: skip


def _id_checks(game: Game, t: Answers, decision: Any, dice: Any) -> Iterator[Check]:
    """Yield the laws of ids and probabilities."""
    ids, chance, used = t.ids[:, 0], t.probability[:, 0], _used(t)
    foreign = used & ((ids < 0) | (ids >= game.num_actions))
    yield (
        LEGAL, decision, decision & foreign.any(1),
        lambda i: f"legal_actions lists {_list(t, i)}; ids are 0 to {game.num_actions - 1}",
    )  # fmt: skip
    falling = used[:, 1:] & (ids[:, 1:] <= ids[:, :-1])
    yield (
        LEGAL, decision, decision & falling.any(1),
        lambda i: f"legal_actions lists {_list(t, i)}; ids must ascend",
    )  # fmt: skip
    ordered = np.sort(np.where(used, ids, (1 << 31) + np.arange(ids.shape[1])), 1)
    yield (
        DICE, dice, dice & (ordered[:, 1:] == ordered[:, :-1]).any(1),
        lambda i: f"chance_outcomes lists {_list(t, i)}; outcomes must be unique",
    )  # fmt: skip
    total = np.where(used, chance, 0).sum(1, dtype=np.float64)
    wrong = (used & ~(chance > 0)).any(1) | ~(np.abs(total - 1) <= TOLERANCE)
    yield (
        DICE, dice, dice & wrong,
        lambda i: f"chance_outcomes gives the probabilities {_list(t, i, 0, t.probability)} with "
                  f"sum {total[i]:.6g}; each must be above 0 and the sum 1",
    )  # fmt: skip


def _view_check(name: str, cells: Any, decision: Any) -> Check:
    wrong = (cells[:, 0] != cells[:, 1]) | ~np.isfinite(cells[:, 0])
    bad = decision & wrong.reshape(len(cells), -1).any(1)

    def say(i: int) -> str:
        place = ", ".join(str(int(x)) for x in np.argwhere(wrong[i])[0])
        return f"observe leaves {name} {place} unwritten, or writes no finite number there"

    return OBSERVE, decision, bad, say


def _asking_check(t: Answers, rule: str, column: int, bad: Any) -> Check:
    return (
        ASKING, bad | True, bad,
        lambda i: f"{_exactly(rule, t.mover[i])} changes {_fields(t, i, STATE, column)}",
    )  # fmt: skip


def _exactly(rule: str, mover: Any) -> str:
    """Return the rule's name; chance nodes ask another rule for what can be played."""
    return "chance_outcomes" if rule == "legal_actions" and mover == CHANCE else rule


def _image_checks(t: Answers, decision: Any, over: Any, apart: Any) -> Iterator[Check]:
    """Yield the laws of the symmetries."""
    if not t.moved.shape[1]:
        return
    every = decision | True
    yield (
        IMAGE, every, apart(STATE, IMAGES),
        lambda i: f"symmetry with k = 0 changes {_fields(t, i, STATE, IMAGES)}",
    )  # fmt: skip
    for what, seen, expected, rows in (
        ("to_play", t.image_mover, t.mover, every),
        ("outcome", t.image_row, t.row, over),
        ("the number of legal actions or chance outcomes", t.image_count, t.count[:, 0], ~over),
    ):
        yield _turned_check(what, seen, expected, rows)
    used = _used(t)[:, None, :]
    moved, legal = (np.sort(np.where(used, x, 1 << 31), 2) for x in (t.moved, t.image_ids))
    wrong = (moved != legal).any(2)
    yield (
        IMAGE, decision, decision & wrong.any(1),
        lambda i: f"image {(k := int(wrong[i].argmax()))} of the legal actions {_list(t, i)} is "
                  f"{t.moved[i, k, : t.count[i, 0]].tolist()}, but the image's legal actions are "
                  f"{t.image_ids[i, k, : t.count[i, 0]].tolist()}",
    )  # fmt: skip
    for k in range(t.moved.shape[1]):
        yield _move_check(t, k, decision & apart(IMAGES + 3 * k + 1, IMAGES + 3 * k + 2))


def _turned_check(what: str, seen: Any, expected: Any, rows: Any) -> Check:
    wrong = seen != expected[:, None]

    def say(i: int) -> str:
        k = int(wrong[i].argmax())
        return f"{what} is {seen[i, k]} in image {k}, but {expected[i]} in the state"

    return IMAGE, rows, rows & wrong.any(1), say


def _move_check(t: Answers, k: int, bad: Any) -> Check:
    column = IMAGES + 3 * k
    return (
        IMAGE, bad | True, bad,
        lambda i: f"action {t.action[i]}, turned and played in image {k}, does not give image {k} "
                  f"of the next state: different {_fields(t, i, column + 1, column + 2)}",
    )  # fmt: skip


def _used(t: Answers) -> Any:
    return np.arange(t.ids.shape[2]) < t.count[:, :1]


def _list(t: Answers, i: int, run: int = 0, values: Any = None) -> str:
    values = t.ids if values is None else values
    return _shown(values[i, run, : max(0, int(t.count[i, run]))].tolist())


def _shown(values: Any) -> str:
    text = f"{values:.7g}" if isinstance(values, float) else str(values)
    return text if len(text) <= 80 else text[:76] + " ..."


def _fields(t: Answers, i: int, a: int, b: int) -> str:
    """Return the fields in which two states of a row differ, with their values."""
    x, y = t.states[i, a], t.states[i, b]
    names = [name for name in t.states.dtype.names if x[name].tobytes() != y[name].tobytes()]
    return ", ".join(f"'{n}' ({_shown(x[n].tolist())} and {_shown(y[n].tolist())})" for n in names)


def check_game(
    game: Game,
    *,
    games: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Prove the laws of the contract on random games number `seed` to `seed + games - 1`.

    Args:
      game: any game.
      games: random games to play.
      seed: number of the first one; a game depends on its number only.
      progress: called with the games done and `games`.

    Raises:
      LawBroken: the first broken law, with the game's number, the ply and the values.
      GameError: a rule that raises or does not compile, with its line.
    """
    twin, counts = plain_twin(game), dict.fromkeys(LAWS, 0)
    plain = _play_plain(game, twin, seed, seed + games, PLAIN_PLIES, counts)
    if not INTERPRETED:
        _compare(game, plain, seed, seed + games, counts)
    counts = {law: k if law in (TEXT, SAME) else 0 for law, k in counts.items()}
    player, play = (twin, _RECORD) if INTERPRETED else (game, record)
    t, carry = make_answers(game, 2048), game.states(1)
    number, ply, plies, seconds = seed, 0, 0, 0.0
    while number < seed + games:
        _clear(game, t)
        start = time.perf_counter()
        with np.errstate(all="ignore"):
            play(player, t, carry, _limits(game), number, ply, seed + games)
        seconds += time.perf_counter() - start
        rows = _rows(t)
        _prove(game, rows, _checks(game, rows), counts)
        plies += int((rows.mover != TERMINAL).sum())
        number, ply = (int(x) for x in rows.where[-1])
        number, ply = (number + 1, 0) if rows.mover[-1] == TERMINAL else (number, ply + 1)
        if progress:
            progress(number - seed, games)
    laws = [(law, k) for law, k in counts.items() if k]
    speed = (plies + games) / max(seconds, 1e-9)
    return CheckReport(games, plies, speed, laws, _notes(game, len(plain.mover)))


def explain_rules(game: Game) -> None:
    """Find the rule at fault after a kernel failed to compile; return if every rule compiles alone.

    Raises:
      GameError: the rule, its line and the cause, in one sentence.
    """
    with contextlib.suppress(LawBroken):  # broken laws are for check_game to tell
        _play_plain(game, plain_twin(game), 0, 2, 60, dict.fromkeys(LAWS, 0))
    if INTERPRETED:
        return
    state, number = numba.from_dtype(game.state_dtype), numba.int64
    ids, floats = numba.int32[::1], numba.float32[::1]
    kinds = {
        "initial": (state, number),
        "legal_actions": (state, ids),
        "apply_action": (state, numba.int32),
        "chance_outcomes": (state, ids, floats),
        "observe": (state, numba.float32[:, :, ::1], floats),
        "symmetry": (state, number),
        "symmetry_action": (numba.int32, number),
        "heuristic": (state, number),
    }
    for name, rule in game.rules.items():
        try:
            cast(Any, helper(rule)).compile(kinds.get(name, (state,)))
        except Exception as error:
            where, cause = _compile_cause(rule, error)
            raise GameError(
                f"game '{game.name}': rule '{name}' does not compile at {where}: {cause}."
            ) from error


def _limits(game: Game) -> Limits:
    return Limits(game.num_players, game.num_actions, game.max_plies)


def _rows(t: Answers) -> Answers:
    """Return the rows that are written."""
    return Answers(t.used, *(x[: int(t.used[0])] for x in t[1:]))


def _prove(game: Game, t: Answers, checks: Iterator[Check], counts: dict[str, int]) -> None:
    """Count the laws; raise for the first row that breaks one."""
    if not len(t.mover):
        return
    tried, worst = dict.fromkeys(LAWS, 0), None
    for law, applies, bad, say in checks:
        tried[law] = max(tried[law], int(np.sum(applies)))
        if bad.any() and (worst is None or int(bad.argmax()) < worst[0]):
            worst = int(bad.argmax()), law, say
    if worst is not None:
        row, law, say = worst
        raise _law(game, law, say(row), t.where[row])
    for law, number in tried.items():
        counts[law] += number


def _play_plain(game: Game, twin: Game, seed: int, end: int, plies: int, counts: dict[str, int]) -> Answers:
    """Play so many plies as plain Python, prove the laws and return the answers."""
    t, trouble = make_answers(game, plies), None
    _clear(game, t)
    with np.errstate(all="ignore"):
        try:
            _RECORD(twin, t, game.states(1), _limits(game), seed, 0, end)
        except GameError as error:
            number, ply = t.where[int(t.used[0])]
            trouble = GameError(f"{str(error).rstrip('.')} (seed {number}, ply {ply}).")
            trouble.__cause__ = error.__cause__
        rows = _rows(t)
        _prove(game, rows, _checks(game, rows), counts)  # a law broken earlier explains more
        if trouble is not None:
            raise trouble
        for row in range(len(rows.mover)):
            counts[TEXT] += _text_laws(game, twin, rows, row)
    return rows


def _compare(game: Game, plain: Answers, seed: int, end: int, counts: dict[str, int]) -> None:
    """Play the same plies compiled and prove that every rule answers the same."""
    t = make_answers(game, len(plain.mover))
    _clear(game, t)
    try:
        record(game, t, game.states(1), _limits(game), seed, 0, end)
    except Exception as error:
        explain_rules(game)
        cause = _shorten(str(error))
        raise GameError(
            f"game '{game.name}': each rule compiles alone, but not together: {cause}."
        ) from error
    _prove(game, plain, _same_checks(plain, _rows(t)), counts)


def _same_checks(plain: Answers, compiled: Answers) -> Iterator[Check]:
    """Yield the comparison of each rule's answers, up to the row at which one play stopped."""
    n = min(len(plain.mover), len(compiled.mover))
    pairs = {
        "to_play": ("mover",),
        "outcome": ("row",),
        "legal_actions": ("count", "ids", "probability"),
        "observe": ("planes", "facts"),
        "heuristic": ("guesses",),
        "symmetry_action": ("moved",),
    }
    for rule, names in pairs.items():
        for name in names:
            a, b = (getattr(t, name)[:n] for t in (plain, compiled))
            yield _same_check(rule, plain.mover, a, b, TOLERANCE)
    for column in (STATE, NEXT, *range(IMAGES, plain.states.shape[1])):
        rule = "initial" if column == STATE else "apply_action"
        if column >= IMAGES and (column - IMAGES) % 3 != 1:
            rule = "symmetry"
        for field in plain.states.dtype.names:
            a, b = (t.states[field][:n, column] for t in (plain, compiled))
            yield _same_check(f"{rule} (field '{field}')", plain.mover, a, b, 0.0)


def _same_check(rule: str, mover: Any, plain: Any, compiled: Any, tolerance: float) -> Check:
    same = plain == compiled
    if plain.dtype.kind == "f":
        same = np.isclose(plain, compiled, tolerance, tolerance, equal_nan=True)
    bad = ~same.reshape(len(plain), -1).all(1)

    def say(i: int) -> str:
        place = np.argwhere(~same[i])[0].tolist()
        at = f" at {place}" if place else ""
        a, b = (_shown(x[i][tuple(place)].tolist()) for x in (plain, compiled))
        return f"{_exactly(rule, mover[i])} gives {b} compiled and {a} as plain Python{at}"

    return SAME, bad | True, bad, say


def _text_laws(game: Game, twin: Game, t: Answers, row: int) -> int:
    """Prove that names and position texts read back; return how many were tried."""
    state, where, mover = t.states[row, STATE], t.where[row], int(t.mover[row])
    before, names = state.tobytes(), dict[str, int]()

    def ask(function: str, *args: Any) -> Any:
        try:
            return getattr(twin, function)(*args)
        except GameError as error:
            raise _law(game, TEXT, f"{function} says: {str(error).rstrip('.')}", where) from error
        except Exception as error:
            raise _failure(game, f"text function '{function}'", None, error) from error

    for action in t.ids[row, 0, : int(t.count[row, 0])].tolist():
        name = ask("action_name", state, action)
        if name in names:
            raise _law(game, TEXT, f"actions {names[name]} and {action} are both '{name}'", where)
        names[name] = action
    for name, action in names.items():
        if action == t.action[row] and ask("parse_action", state, name) != action:
            raise _law(game, TEXT, f"'{name}', the name of {action}, reads as another", where)
    ask("render", state)
    if game._position:
        text = ask("position", state)
        read = ask("parse_position", text)
        if ask("position", read) != text or twin.rules["to_play"](read) != mover:
            what = f"position '{text}' reads back as '{ask('position', read)}'"
            raise _law(game, TEXT, f"{what}, to_play {twin.rules['to_play'](read)}", where)
    if state.tobytes() != before:
        raise _law(game, TEXT, "a text function changes the state", where)
    return len(names) + 1


def _law(game: Game, law: str, what: str, where: Any) -> LawBroken:
    options = "".join(f" --set game.options.{k}={v}" for k, v in game.options.items())
    return LawBroken(
        f"{game.id}: {what} (law '{law}', seed {where[0]}, ply {where[1]}); "
        f"to repeat it: zeroloop check {_call_name(game)} --seed {where[0]}{options}"
    )


def _call_name(game: Game) -> str:
    """Return what the command line calls the game: its file where it was loaded from one."""
    module = getattr(game.rules["initial"], "__module__", "") or ""
    path = str(getattr(sys.modules.get(module), "__file__", ""))
    if not module.startswith("zeroloop_game_"):
        return game.name
    near = os.path.relpath(path)
    return near if len(near) < len(path) else path


def _notes(game: Game, plies: int) -> list[str]:
    notes = [f"{plies} plies were also played as plain Python and compared."]
    if INTERPRETED:
        notes = ["NUMBA_DISABLE_JIT is set: compiled rules were not compared with plain Python."]
    if not game._position:
        notes.append("The game gives no position text; a position is shown as its bytes.")
    if game.num_symmetries == 1:
        notes.append("The game claims no symmetries.")
    return notes


class _Plain:
    """Copies functions so that every compiled helper they reach is plain Python again."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.scopes: dict[int, dict[str, Any]] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, types.ModuleType) and not _library(value.__name__):
            return _PlainModule(self, value)
        value = getattr(value, "py_func", value)
        if not isinstance(value, types.FunctionType) or _library(value.__module__ or ""):
            return value
        if id(value) not in self.made:
            self._copy(value)
        return self.made[id(value)]

    def _copy(self, value: types.FunctionType) -> None:
        scope = self.scopes.setdefault(id(value.__globals__), dict(value.__globals__))
        cells = tuple(types.CellType() for _ in value.__closure__ or ())
        made = types.FunctionType(value.__code__, scope, value.__name__, value.__defaults__, cells)
        made.__kwdefaults__, made.__module__ = value.__kwdefaults__, value.__module__
        self.made[id(value)] = made
        for cell, old in zip(cells, value.__closure__ or (), strict=True):
            cell.cell_contents = self(old.cell_contents)
        names: set[str] = set()
        codes = [value.__code__]
        while codes:
            code = codes.pop()
            names.update(code.co_names)
            codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
        for name in names & value.__globals__.keys():
            scope[name] = self(value.__globals__[name])


class _PlainModule:
    """A module whose functions are handed out as plain Python."""

    def __init__(self, plain: _Plain, module: types.ModuleType) -> None:
        self._plain, self._module = plain, module

    def __getattr__(self, name: str) -> Any:
        return self._plain(getattr(self._module, name))


def _library(module: str) -> bool:
    return module.split(".")[0] in ("numpy", "numba", "math", "builtins")


_RECORD = _Plain()(record)


def plain_twin(game: Game) -> Game:
    """Return the game with plain Python rules that name themselves and the line when they fail."""
    for field in game.state_dtype.names or ():
        if hasattr(np.record, field):
            raise GameError(
                f"game '{game.name}': the state has a field '{field}', but plain Python reads NumPy's "
                f"own attribute of that name; rename it, for example to '{field}_'."
            )
    twin, plain = copy.copy(game), _Plain()
    rules = game.rules.items()
    twin.rules = {name: _watched(game, name, rule, plain(rule)) for name, rule in rules}
    for text in ("_render", "_action_name", "_position", "_parse_position"):
        setattr(twin, text, plain(getattr(game, text)))
    return twin


def _watched(game: Game, name: str, rule: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    whole = name in ("to_play", "legal_actions", "chance_outcomes", "outcome", "symmetry_action")
    kinds = (int, np.integer) if whole else (int, float, np.number)

    def call(*args: Any) -> Any:
        try:
            answer = plain(*args)
        except Exception as error:
            raise _failure(game, f"rule '{name}'", rule, error) from error
        asked = whole or name == "heuristic"
        if asked and (isinstance(answer, bool) or not isinstance(answer, kinds)):
            raise GameError(
                f"game '{game.name}': rule '{name}' at {_place(rule)} returns {answer!r}; "
                f"it must return a {'whole ' if whole else ''}number."
            )
        return answer

    return call


def _place(rule: Any) -> str:
    code = getattr(rule, "py_func", rule).__code__
    return f"{pathlib.Path(code.co_filename).name}:{code.co_firstlineno}"


def _failure(game: Game, what: str, rule: Any, error: Exception) -> GameError:
    """Return a GameError that names the line of the user's file at which `what` failed."""
    skip = (os.path.dirname(np.__file__), os.path.dirname(numba.__file__), __file__)
    frames = traceback.extract_tb(error.__traceback__)
    user = [f for f in frames if not f.filename.startswith(skip)]
    where = f"{pathlib.Path(user[-1].filename).name}:{user[-1].lineno}" if user else _place(rule)
    cause = f"{type(error).__name__}: {error}".rstrip(".")
    return GameError(f"game '{game.name}': {what} failed at {where}: {cause}.")


_HINTS = (
    (
        r"already jitted function",
        "it is decorated; leave rules plain and decorate only their helpers",
    ),
    (
        r"name '(\w+)': Cannot determine Numba type of <class 'function'>",
        "'{0}' is a plain function; decorate it with @helper",
    ),
    (
        r"name '(\w+)': Cannot determine Numba type of <class '([\w.]+)'>",
        "'{0}' is a {1}, which compiled rules cannot use; use numbers and arrays",
    ),
    (
        r"NRT required|Only accept returning of array passed",
        "it makes a new list, dict, array or text; rules allocate nothing: "
        "write into the buffers they are given",
    ),
    (
        r"[Cc]an(?:'t|not) unify (?:return type )?(?:from the following types: )?([^\n]*)",
        "one value is of two kinds ({0}); use one kind",
    ),
    (r"NameError: name '(\w+)' is not defined", "the name '{0}' is not defined"),
    (r"Unknown attribute '(\w+)'", "there is no attribute '{0}'"),
)
"""Patterns in Numba's messages, and what they mean for a rule."""


def _compile_cause(rule: Any, error: Exception) -> tuple[str, str]:
    """Return the line of the user's file and the short cause of a failed compilation."""
    text = str(error)
    lines = re.findall(r'File "([^"\n]+)", line (\d+)|(?:at|from) (\S+\.py) \((\d+)\)', text)
    found = [(a or c, int(b or d)) for a, b, c, d in lines if "site-packages" not in (a or c)]
    code = getattr(rule, "py_func", rule).__code__
    path, line = found[0] if found else (code.co_filename, code.co_firstlineno)
    if isinstance(error, KeyError):
        return _first_use(path, line, str(error.args[0])), f"the state has no field {error}"
    for pattern, hint in _HINTS:
        match = re.search(pattern, text)
        if match:
            name = match.group(1) if "name" in pattern else ""
            return _first_use(path, line, name), hint.format(*match.groups())
    return _first_use(path, line, ""), _shorten(text)


def _first_use(path: str, line: int, name: str) -> str:
    """Return file and line; from the given line on, the first line that has the name."""
    source = linecache.getlines(os.path.abspath(path))[line - 1 : line + 99]
    uses = (k for k, text in enumerate(source) if name and re.search(rf"\b{name}\b", text))
    return f"{pathlib.Path(path).name}:{line + next(uses, 0)}"


def _shorten(text: str) -> str:
    """Return the first telling line of a Numba message."""
    lines = [x.strip() for x in text.split("\n") if x.strip() and "pipeline (step" not in x]
    cause = re.sub(r"\s*Raised from .*", "", lines[0] if lines else "no reason given")
    return cause.rstrip(". ")[:160]
