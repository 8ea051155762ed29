"""Prove on random play that a game keeps the laws of the contract, and explain rules that fail.

The laws are written once, in `walk`. It runs as plain Python, where a mistake in a rule shows its
line; compiled, ply by ply beside the plain run; and compiled over all games. Random game number S
draws its setup and its moves from the seed S, so `--seed S` plays it again.
"""

from __future__ import annotations

import copy
import os
import pathlib
import re
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numba
import numpy as np

from .. import draws
from ..compiled import INTERPRETED, helper, kernel
from ..errors import GameError, LawBroken
from .game import (
    CHANCE,
    RULES,
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
"""Allowed error of probabilities' sum, and of floats between compiled and plain Python."""


class CheckReport(NamedTuple):
    """What was proved: each law with the number of times it was tried."""

    games: int
    plies: int
    states_per_second: float
    laws: list[tuple[str, int]]
    notes: list[str]


LAWS = (
    "initial writes the whole record, from its seed alone",
    "a rule that only asks leaves the state alone",
    "to_play is a seat, CHANCE or TERMINAL",
    "legal ids ascend, are in range and fit max_legal",
    "chance outcomes are unique and their probabilities sum to 1",
    "outcome is a row of the outcome table",
    "observe writes every cell, and finite numbers",
    "heuristic lies in [-1, 1]",
    "every image is the same game",
    "a state is its bytes and nothing else",
    "every game ends within max_plies",
    "names and position texts read back",
    "compiled rules do what they do as plain Python",
)
INITIAL, READ_ONLY, MOVER, LEGAL, DICE, OUTCOME, OBSERVE = 0, 1, 2, 3, 4, 5, 6
HEURISTIC, IMAGE, BYTES, ENDS, TEXT, SAME = 7, 8, 9, 10, 11, 12

R_TO_PLAY, R_LEGAL, R_CHANCE, R_OUTCOME, R_OBSERVE, R_HEURISTIC = 1, 2, 4, 5, 6, 9
"""Places in RULES."""

# What `walk` returns: 0, or a fault. Its values are noted as {a}, {b}, {c}; {a} is the byte of
# {field}, or {c} the number of {rule}, where the sentence has those.
(
    DIRTY, CHANGED, NO_MOVER, BAD_COUNT, PAST_END, ORDER, BAD_ID, UNSTEADY, TWICE, BAD_PROBABILITY,
    BAD_TOTAL, BAD_ROW, BAD_CELL, BAD_FACT, BAD_GUESS, NOT_IDENTITY, TURNED_MOVER, TURNED_ROW,
    TURNED_COUNT, TURNED_ID, TURNED_MOVE, HIDDEN, PADDING, ENDLESS,
) = range(1, 25)  # fmt: skip
FAULTS = {
    DIRTY: (INITIAL, "initial, called twice with one seed, on zeros and on 0xFF, differs in {field}"),
    CHANGED: (READ_ONLY, "{rule} changes {field}"),
    NO_MOVER: (MOVER, "to_play returns {a:g}; allowed: 0 to {b:g}, CHANCE (-1), TERMINAL (-2)"),
    BAD_COUNT: (LEGAL, "{rule} returns {a:g}; allowed: 1 to {b:g}"),
    PAST_END: (LEGAL, "{rule} writes entry {a:g} of its buffer; allowed: {b:g} entries"),
    ORDER: (LEGAL, "legal_actions lists id {a:g} after {b:g}; ids must ascend"),
    BAD_ID: (LEGAL, "legal_actions lists id {a:g}; allowed: 0 to {b:g}"),
    UNSTEADY: (LEGAL, "{rule}, called twice on one state, gives {a:g} and then {b:g}"),
    TWICE: (DICE, "chance_outcomes lists outcome {a:g} twice"),
    BAD_PROBABILITY: (DICE, "chance_outcomes gives outcome {a:g} the probability {b:g}"),
    BAD_TOTAL: (DICE, "the {b:g} probabilities of chance_outcomes sum to {a:.6g}"),
    BAD_ROW: (OUTCOME, "outcome returns {a:g}; allowed: 0 to {b:g}"),
    BAD_CELL: (OBSERVE, "plane {a:g}, row {b:g}, column {c:g} is not written or not finite"),
    BAD_FACT: (OBSERVE, "global {a:g} is not written or not finite"),
    BAD_GUESS: (HEURISTIC, "heuristic gives {a:g} for seat {b:g}"),
    NOT_IDENTITY: (IMAGE, "symmetry with k = 0 changes {field}"),
    TURNED_MOVER: (IMAGE, "to_play is {a:g} in image {b:g} and {c:g} in the state"),
    TURNED_ROW: (IMAGE, "outcome is {a:g} in image {b:g} and {c:g} in the state"),
    TURNED_COUNT: (IMAGE, "image {b:g} has {a:g} actions or chance outcomes, the state {c:g}"),
    TURNED_ID: (IMAGE, "action {a:g} turns into {c:g}, which is not legal in image {b:g}"),
    TURNED_MOVE: (IMAGE, "action {b:g}, played before or after turning to image {c:g}, "
                         "differs in {field}"),
    HIDDEN: (BYTES, "apply_action with {b:g}, called twice on one state, differs in {field}"),
    PADDING: (BYTES, "apply_action writes to the padding behind the record"),
    ENDLESS: (ENDS, "after {a:g} plies, which is max_plies, to_play is still {b:g}"),
}  # fmt: skip

# Rows of the bench's states; from IMAGES on two rows per image, the state's and the next one's.
HERE, BEFORE, NEXT, SPARE, IMAGES = 0, 1, 2, 3, 4
A_MOVER, A_COUNT, A_ROW, A_ACTION = 0, 1, 2, 3


class Limits(NamedTuple):
    """The facts of the game that the laws compare with."""

    seats: int
    actions: int
    legal: int
    chance: int
    plies: int
    rows: int
    images: int
    record: int
    payload: int


class Bench(NamedTuple):
    """All that a walk writes, so that two walks can be compared; two rows hold two calls of a rule."""

    states: Any
    raw: Any
    legal: Any
    probability: Any
    planes: Any
    facts: Any
    image_legal: Any
    moved: Any
    mark: Any
    guesses: Any
    answers: Any
    found: Any
    counts: Any
    where: Any


@helper
def fail(b: Any, fault: Any, x: Any, y: Any, z: Any) -> Any:
    """Note the values of a fault and return it."""
    b.found[0], b.found[1], b.found[2] = x, y, z
    return fault


@helper
def put(raw: Any, to: Any, source: Any) -> None:
    """Copy the bytes of one row to another."""
    for x in range(raw.shape[1]):
        raw[to, x] = raw[source, x]


@helper
def differ(raw: Any, i: Any, j: Any) -> Any:
    """Return the first byte at which two rows differ, or -1."""
    for x in range(raw.shape[1]):
        if raw[i, x] != raw[j, x]:
            return x
    return -1


@helper
def unchanged(b: Any, rule: Any) -> Any:
    """Prove that the rule left the state alone."""
    b.counts[READ_ONLY] += 1
    x = differ(b.raw, HERE, BEFORE)
    return fail(b, CHANGED, x, 0, rule) if x >= 0 else 0


@helper
def set_up(game: Any, b: Any, n: Any, seed: Any, ply: Any) -> Any:
    """Put the state of this ply into HERE and BEFORE."""
    if ply > 0:
        put(b.raw, HERE, NEXT)
        put(b.raw, BEFORE, NEXT)
        return 0
    setup = int(draws.bits(seed, draws.INITIAL, 0, 0, 0) >> np.uint64(1))
    for row in (HERE, BEFORE):
        for x in range(n.record):
            b.raw[row, x] = np.uint8(255 if row == BEFORE and x < n.payload else 0)
        initial(game, b.states[row], setup)
    b.counts[INITIAL] += 1
    x = differ(b.raw, HERE, BEFORE)
    return fail(b, DIRTY, x, 0, 0) if x >= 0 else 0


@helper
def choice_laws(game: Any, b: Any, n: Any, mover: Any) -> Any:
    """Ask twice for the actions or chance outcomes, over buffers with different content."""
    rule = R_CHANCE if mover == CHANCE else R_LEGAL
    bound = n.chance if mover == CHANCE else n.legal
    count = 0
    for run in range(2):
        ids, probability, junk = b.legal[run], b.probability[run], -7 - run
        for i in range(ids.shape[0]):
            ids[i] = probability[i] = junk
        if mover == CHANCE:
            k = chance_outcomes(game, b.states[HERE], ids, probability)
        else:
            k = legal_actions(game, b.states[HERE], ids)
        if k < 1 or k > bound:
            return fail(b, BAD_COUNT, k, bound, rule)
        for i in range(bound, ids.shape[0]):
            if ids[i] != junk or probability[i] != junk:
                return fail(b, PAST_END, i + 1, bound, rule)
        if run == 1 and k != count:
            return fail(b, UNSTEADY, count, k, rule)
        count = k
    b.answers[A_COUNT] = count
    for i in range(count):
        if b.legal[0, i] != b.legal[1, i]:
            return fail(b, UNSTEADY, b.legal[0, i], b.legal[1, i], rule)
    return unchanged(b, rule)


@helper
def order_law(b: Any, n: Any) -> Any:
    """Prove that the legal ids ascend and are in range."""
    b.counts[LEGAL] += 1
    last = -1
    for i in range(b.answers[A_COUNT]):
        action = b.legal[0, i]
        if action < 0 or action >= n.actions:
            return fail(b, BAD_ID, action, n.actions - 1, 0)
        if action <= last:
            return fail(b, ORDER, action, last, 0)
        last = action
    return 0


@helper
def dice_law(b: Any) -> Any:
    """Prove that the chance outcomes are unique and their probabilities positive, with sum 1."""
    b.counts[DICE] += 1
    total = 0.0
    for i in range(b.answers[A_COUNT]):
        p = b.probability[0, i]
        if not (p > 0.0 and p <= 1.0 + TOLERANCE) or p != b.probability[1, i]:
            return fail(b, BAD_PROBABILITY, b.legal[0, i], p, 0)
        for j in range(i):
            if b.legal[0, j] == b.legal[0, i]:
                return fail(b, TWICE, b.legal[0, i], 0, 0)
        total += p
    if abs(total - 1.0) > TOLERANCE:
        return fail(b, BAD_TOTAL, total, b.answers[A_COUNT], 0)
    return 0


@helper
def view_laws(game: Any, b: Any) -> Any:
    """Prove that observe writes every cell: twice, over buffers with different content."""
    for run in range(2):
        b.planes[run, :, :, :] = np.float32(77.5 - 100.25 * run)
        b.facts[run, :] = np.float32(77.5 - 100.25 * run)
        observe(game, b.states[HERE], b.planes[run], b.facts[run])
    b.counts[OBSERVE] += 1
    _, channels, height, width = b.planes.shape
    for c in range(channels):
        for row in range(height):
            for column in range(width):
                x = b.planes[0, c, row, column]
                if x != b.planes[1, c, row, column] or not np.isfinite(x):
                    return fail(b, BAD_CELL, c, row, column)
    for i in range(b.facts.shape[1]):
        if b.facts[0, i] != b.facts[1, i] or not np.isfinite(b.facts[0, i]):
            return fail(b, BAD_FACT, i, 0, 0)
    return unchanged(b, R_OBSERVE)


@helper
def guess_laws(game: Any, b: Any, n: Any) -> Any:
    """Prove the law of the heuristic for every seat."""
    for seat in range(n.seats):
        guess = float(heuristic(game, b.states[HERE], seat))
        b.guesses[seat] = guess
        b.counts[HEURISTIC] += 1
        if not (guess >= -1.0 and guess <= 1.0):
            return fail(b, BAD_GUESS, guess, seat, 0)
    return unchanged(b, R_HEURISTIC)


@helper
def image_laws(game: Any, b: Any, n: Any, mover: Any) -> Any:
    """Prove for every image that mover, outcome and the number of actions are the state's."""
    for k in range(n.images):
        row = IMAGES + 2 * k
        put(b.raw, row, HERE)
        symmetry(game, b.states[row], k)
        b.counts[IMAGE] += 1
        x = differ(b.raw, row, HERE)
        if k == 0 and x >= 0:
            return fail(b, NOT_IDENTITY, x, 0, 0)
        seen = to_play(game, b.states[row])
        if seen != mover:
            return fail(b, TURNED_MOVER, seen, k, mover)
        if mover == TERMINAL:
            end = outcome(game, b.states[row])
            if end != b.answers[A_ROW]:
                return fail(b, TURNED_ROW, end, k, b.answers[A_ROW])
            continue
        if mover == CHANCE:
            count = chance_outcomes(game, b.states[row], b.image_legal[k], b.probability[2])
        else:
            count = legal_actions(game, b.states[row], b.image_legal[k])
        if count != b.answers[A_COUNT]:
            return fail(b, TURNED_COUNT, count, k, b.answers[A_COUNT])
        if mover >= 0:
            fault = image_actions(game, b, n, k, count)
            if fault:
                return fault
    return 0


@helper
def image_actions(game: Any, b: Any, n: Any, k: Any, count: Any) -> Any:
    """Prove that the image's legal ids are the images of the legal ids, one to one."""
    for i in range(count):
        action = b.image_legal[k, i]
        if action >= 0 and action < n.actions:
            b.mark[action] = 1
    fault = 0
    for i in range(count):
        turned = symmetry_action(game, b.legal[0, i], k)
        b.moved[k, i] = turned
        if turned < 0 or turned >= n.actions or b.mark[turned] == 0:
            fault = fail(b, TURNED_ID, b.legal[0, i], k, turned)
            break
        b.mark[turned] = 0
    return fault


@helper
def play_on(game: Any, b: Any, n: Any, pick: Any, images: Any) -> Any:
    """Play entry `pick` into NEXT and prove that the bytes carry the game, in every image too."""
    action = b.legal[0, pick]
    b.answers[A_ACTION] = action
    b.counts[BYTES] += 1
    for row in (NEXT, SPARE):
        put(b.raw, row, HERE)
        apply_action(game, b.states[row], action)
    x = differ(b.raw, NEXT, SPARE)
    if x >= 0:
        return fail(b, HIDDEN, x, action, 0)
    for x in range(n.payload, n.record):
        if b.raw[NEXT, x] != 0:
            return fail(b, PADDING, x, 0, 0)
    for k in range(images):
        row = IMAGES + 2 * k
        put(b.raw, SPARE, row)
        apply_action(game, b.states[SPARE], b.moved[k, pick])
        put(b.raw, row + 1, NEXT)
        symmetry(game, b.states[row + 1], k)
        x = differ(b.raw, SPARE, row + 1)
        if x >= 0:
            return fail(b, TURNED_MOVE, x, action, k)
    return 0


@helper
def state_laws(game: Any, b: Any, n: Any, mover: Any) -> Any:
    """Prove the laws that belong to a state where `mover` is to play."""
    fault = 0
    if mover == TERMINAL:
        row = outcome(game, b.states[HERE])
        b.answers[A_ROW] = row
        b.counts[OUTCOME] += 1
        b.counts[ENDS] += 1
        if row < 0 or row >= n.rows:
            return fail(b, BAD_ROW, row, n.rows - 1, 0)
        fault = unchanged(b, R_OUTCOME)
    else:
        fault = choice_laws(game, b, n, mover)
        if fault == 0:
            fault = dice_law(b) if mover == CHANCE else order_law(b, n)
        if fault == 0 and mover != CHANCE:
            fault = view_laws(game, b)
        if fault == 0:
            fault = guess_laws(game, b, n)
    if fault == 0:
        fault = image_laws(game, b, n, mover)
    return fault


@helper
def one_ply(game: Any, b: Any, n: Any, seed: Any, ply: Any) -> Any:
    """Prove every law at one ply of a random game and play on; return the fault or 0."""
    fault = set_up(game, b, n, seed, ply)
    if fault:
        return fault
    mover = to_play(game, b.states[HERE])
    b.answers[A_MOVER] = mover
    b.counts[MOVER] += 1
    if mover < TERMINAL or mover >= n.seats:
        return fail(b, NO_MOVER, mover, n.seats - 1, 0)
    fault = unchanged(b, R_TO_PLAY)
    if fault:
        return fault
    if ply >= n.plies and mover != TERMINAL:
        return fail(b, ENDLESS, n.plies, mover, 0)
    fault = state_laws(game, b, n, mover)
    if fault or mover == TERMINAL:
        return fault
    pick = draws.integer(seed, draws.CHECK, 0, ply, 0, b.answers[A_COUNT])
    return play_on(game, b, n, pick, n.images if mover >= 0 else 0)


@kernel
def walk(game: Any, b: Any, n: Any, first: Any, games: Any, ply: Any, plies: Any) -> Any:
    """Play random games `first ...`, each from this ply for so many plies; return the fault or 0."""
    for seed in range(first, first + games):
        for p in range(ply, ply + plies):
            b.where[0], b.where[1] = seed, p
            fault = one_ply(game, b, n, seed, p)
            if fault:
                return fault
            if b.answers[A_MOVER] == TERMINAL:
                break
    return 0


# From here on plain Python: benches, comparisons and words.


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
    twin, limits, bench = plain_twin(game), limits_of(game), make_bench(game)
    plain, names_read = _play_plain(game, twin, seed, games, PLAIN_PLIES)
    compared = 0 if INTERPRETED else _compare(game, plain)
    player, play = (twin, _WALK) if INTERPRETED else (game, walk)
    chunk, seconds = max(1, games // 20), 0.0
    for first in range(0, games, chunk):
        count = min(chunk, games - first)
        start = time.perf_counter()
        with np.errstate(all="ignore"):
            fault = play(player, bench, limits, seed + first, count, 0, game.max_plies + 1)
        seconds += time.perf_counter() - start
        if fault:
            raise _broken(game, bench, fault)
        if progress:
            progress(first + count, games)
    bench.counts[TEXT], bench.counts[SAME] = names_read, compared
    laws = [(law, int(k)) for law, k in zip(LAWS, bench.counts, strict=True) if k]
    speed = float(bench.counts[MOVER]) / max(seconds, 1e-9)
    return CheckReport(games, int(bench.counts[BYTES]), speed, laws, _notes(game, len(plain)))


def explain_rules(game: Game) -> None:
    """Find the rule at fault after a kernel failed to compile; return if every rule compiles alone.

    Raises:
      GameError: the rule, its line and the cause, in one sentence.
    """
    _play_plain(game, plain_twin(game), 0, 2, 60)
    if INTERPRETED:
        return
    record, number = numba.from_dtype(game.state_dtype), numba.int64
    ids, floats = numba.int32[::1], numba.float32[::1]
    kinds = {
        "initial": (record, number),
        "legal_actions": (record, ids),
        "apply_action": (record, numba.int32),
        "chance_outcomes": (record, ids, floats),
        "observe": (record, numba.float32[:, :, ::1], floats),
        "symmetry": (record, number),
        "symmetry_action": (numba.int32, number),
        "heuristic": (record, number),
    }
    for name, rule in game.rules.items():
        try:
            helper(rule).compile(kinds.get(name, (record,)))
        except Exception as error:
            where, cause = _compile_cause(rule, error)
            raise GameError(
                f"game '{game.name}': rule '{name}' does not compile at {where}: {cause}."
            ) from error


def limits_of(game: Game) -> Limits:
    """Return the facts that the laws compare with."""
    fields, size = game.state_dtype.fields or {}, game.state_dtype.itemsize
    return Limits(
        seats=game.num_players,
        actions=game.num_actions,
        legal=game.max_legal,
        chance=game.max_chance,
        plies=game.max_plies,
        rows=len(game.outcomes),
        images=game.num_symmetries if game.num_symmetries > 1 else 0,
        record=size,
        payload=fields["_pad"][1] if "_pad" in fields else size,
    )


def make_bench(game: Game) -> Bench:
    """Return the buffers of a walk."""
    rows, images = IMAGES + 2 * game.num_symmetries, game.num_symmetries
    states, wide = game.states(rows), max(game.max_legal, game.max_chance) + GUARD
    c, h, w = game.observation.planes
    return Bench(
        states=states,
        raw=states.view(np.uint8).view(np.ndarray).reshape(rows, game.state_dtype.itemsize),
        legal=np.zeros((2, wide), np.int32),
        probability=np.zeros((3, wide), np.float32),
        planes=np.zeros((2, c, h, w), np.float32),
        facts=np.zeros((2, game.observation.globals), np.float32),
        image_legal=np.zeros((images, wide), np.int32),
        moved=np.zeros((images, wide), np.int32),
        mark=np.zeros(game.num_actions, np.int32),
        guesses=np.zeros(game.num_players, np.float64),
        answers=np.zeros(4, np.int64),
        found=np.zeros(3, np.float64),
        counts=np.zeros(len(LAWS), np.int64),
        where=np.zeros(2, np.int64),
    )


def _play_plain(game: Game, twin: Game, seed: int, games: int, plies: int) -> tuple[list[Bench], int]:
    """Play as plain Python for so many plies; return a copy of the bench at each, and texts read."""
    bench, limits, seen, read = make_bench(game), limits_of(game), [], 0
    with np.errstate(all="ignore"):
        for number in range(seed, seed + games):
            for ply in range(game.max_plies + 1):
                fault = _WALK(twin, bench, limits, number, 1, ply, 1)
                if fault:
                    raise _broken(game, bench, fault)
                read += _text_laws(game, twin, bench)
                seen.append(Bench(*(np.copy(x) for x in bench)))
                if len(seen) >= plies:
                    return seen, read
                if bench.answers[A_MOVER] == TERMINAL:
                    break
    return seen, read


def _compare(game: Game, plain: list[Bench]) -> int:
    """Play the same plies compiled and prove that every rule leaves the same behind."""
    bench, limits = make_bench(game), limits_of(game)
    for expected in plain:
        number, ply = (int(x) for x in expected.where)
        try:
            fault = walk(game, bench, limits, number, 1, ply, 1)
        except Exception as error:
            explain_rules(game)
            cause = _shorten(str(error))
            raise GameError(
                f"game '{game.name}': each rule compiles alone, but not all together: {cause}."
            ) from error
        if fault:
            raise _law(game, SAME, f"compiled, but not as plain Python, {_say(game, bench, fault)}", bench)
        difference = _difference(game, bench, expected)
        if difference:
            raise _law(game, SAME, difference, bench)
    return len(plain)


def _difference(game: Game, compiled: Bench, plain: Bench) -> str:
    """Return what the first rule with another result did, or an empty string."""
    mover = int(plain.answers[A_MOVER])
    choices = "chance_outcomes" if mover == CHANCE else "legal_actions"
    k = int(plain.answers[A_COUNT])
    pairs = [("to_play", compiled.answers[:1], plain.answers[:1])]
    if mover == TERMINAL:
        pairs.append(("outcome", compiled.answers[A_ROW : A_ROW + 1], plain.answers[A_ROW : A_ROW + 1]))
    else:
        pairs.append((choices, compiled.legal[0, : int(compiled.answers[A_COUNT])], plain.legal[0, :k]))
        pairs.append((choices, compiled.probability[0, :k], plain.probability[0, :k]))
    pairs += [
        ("observe", compiled.planes[0], plain.planes[0]),
        ("observe", compiled.facts[0], plain.facts[0]),
        ("heuristic", compiled.guesses, plain.guesses),
        ("symmetry_action", compiled.moved[:, :k], plain.moved[:, :k]),
    ]
    for row in range(len(plain.raw)):
        rule = {HERE: "initial", NEXT: "apply_action"}.get(row, "symmetry")
        for field in game.state_dtype.names or ():
            pairs.append((f"{rule} ({field})", compiled.states[row][field], plain.states[row][field]))
    for rule, x, y in pairs:
        if x.shape != y.shape or not _equal(x, y, rule):
            return f"{rule} gives {_values(x, y)} compiled and {_values(y, x)} as plain Python"
    return ""


def _equal(x: Any, y: Any, rule: str) -> bool:
    if x.dtype.kind == "f" and "(" not in rule:
        return bool(np.allclose(x, y, rtol=TOLERANCE, atol=TOLERANCE))
    return x.tobytes() == y.tobytes()


def _values(x: Any, other: Any) -> str:
    """Return a small array as text, or of a large one the first entry that differs."""
    if x.shape == other.shape and x.size > 12:
        place = tuple(int(i) for i in np.argwhere(~np.isclose(x, other, TOLERANCE, TOLERANCE))[0])
        return f"{x[place]} at {list(place)}"
    return str(x.tolist())


def _text_laws(game: Game, twin: Game, bench: Bench) -> int:
    """Prove that names and position texts read back; return how many were read."""
    state, before = bench.states[HERE], bytes(bench.raw[HERE])
    mover = int(bench.answers[A_MOVER])
    ids = [] if mover == TERMINAL else [int(a) for a in bench.legal[0, : int(bench.answers[A_COUNT])]]
    names: dict[str, int] = {}
    for action in ids:
        name = _said(game, "action_name", lambda a=action: twin.action_name(state, a), bench)
        if name in names:
            raise _law(game, TEXT, f"actions {names[name]} and {action} are both called '{name}'", bench)
        names[name] = action
    if ids:
        action = int(bench.answers[A_ACTION])
        name = next(text for text, a in names.items() if a == action)
        back = _said(game, "parse_action", lambda: twin.parse_action(state, name), bench)
        if back != action:
            raise _law(game, TEXT, f"'{name}' names action {action} but reads as {back}", bench)
    _said(game, "render", lambda: twin.render(state), bench)
    if game._position:
        text = _said(game, "position", lambda: twin.position(state), bench)
        read = _said(game, "parse_position", lambda: twin.parse_position(text), bench)
        again = _said(game, "position", lambda: twin.position(read), bench)
        if again != text or twin.rules["to_play"](read) != mover:
            raise _law(game, TEXT, f"position '{text}' reads back as '{again}'", bench)
    if bytes(bench.raw[HERE]) != before:
        raise _law(game, TEXT, "a text function changes the state", bench)
    return len(ids) + 1


def _said(game: Game, name: str, call: Callable[[], Any], bench: Bench) -> Any:
    """Return what a text function says; explain what it raises."""
    try:
        return call()
    except LawBroken:
        raise
    except GameError as error:
        raise _law(game, TEXT, f"{name} refuses its own text: {str(error).rstrip('.')}", bench) from error
    except Exception as error:
        raise _failure(game, f"text function '{name}'", None, error) from error


def _broken(game: Game, bench: Bench, fault: int) -> LawBroken:
    law = FAULTS[fault][0]
    if law == LEGAL and int(bench.found[2]) == R_CHANCE:
        law = DICE
    return _law(game, law, _say(game, bench, fault), bench)


def _law(game: Game, law: int, what: str, bench: Bench) -> LawBroken:
    number, ply = (int(x) for x in bench.where)
    options = f" with {game.id}" if game.options else ""
    return LawBroken(
        f"{game.id}: {what} (law '{LAWS[law]}', seed {number}, ply {ply}); "
        f"to repeat it{options}: zeroloop check {_call_name(game)} --seed {number}"
    )


def _say(game: Game, bench: Bench, fault: int) -> str:
    a, b, c = (float(x) for x in bench.found)
    rule = list(RULES)[int(c)] if 0 <= c < len(RULES) else ""
    field = next(
        (f"field '{name}'" for name, (kind, at, *_) in (game.state_dtype.fields or {}).items()
         if at <= a < at + kind.itemsize), "the record",
    )  # fmt: skip
    return FAULTS[fault][1].format(a=a, b=b, c=c, rule=rule, field=field)


def _call_name(game: Game) -> str:
    """Return what the command line calls the game: its file where it was loaded from one."""
    module = getattr(game.rules["initial"], "__module__", "") or ""
    path = getattr(sys.modules.get(module), "__file__", None)
    if not module.startswith("zeroloop_game_") or path is None:
        return game.name
    return min(path, os.path.relpath(path), key=len)


def _notes(game: Game, plies: int) -> list[str]:
    notes = [f"{plies} plies were played as plain Python and compared with the compiled rules."]
    if INTERPRETED:
        notes = ["NUMBA_DISABLE_JIT is set, so compiled rules were not compared with plain Python."]
    if not game._position:
        notes.append("The game gives no position text; positions are shown as bytes.")
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
        names, codes = set(), [value.__code__]
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


_WALK = _Plain()(walk)


def plain_twin(game: Game) -> Game:
    """Return the game with rules and texts as plain Python, which name rule and line when they fail."""
    twin, plain = copy.copy(game), _Plain()
    twin.rules = {name: _watched(game, name, rule, plain(rule)) for name, rule in game.rules.items()}
    for text in ("_render", "_action_name", "_position", "_parse_position"):
        setattr(twin, text, plain(getattr(game, text)))
    return twin


def _watched(game: Game, name: str, rule: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    whole = name in ("to_play", "legal_actions", "chance_outcomes", "outcome", "symmetry_action")

    def call(*args: Any) -> Any:
        try:
            answer = plain(*args)
        except Exception as error:
            raise _failure(game, f"rule '{name}'", rule, error) from error
        if whole and (isinstance(answer, bool) or not isinstance(answer, (int, np.integer))):
            raise GameError(
                f"game '{game.name}': rule '{name}' ({_place(rule)}) returns {answer!r}; "
                "it must return a whole number."
            )
        return answer

    return call


def _place(rule: Any) -> str:
    code = getattr(rule, "py_func", rule).__code__
    return f"{pathlib.Path(code.co_filename).name}:{code.co_firstlineno}"


def _failure(game: Game, what: str, rule: Any, error: Exception) -> GameError:
    """Return a GameError that names the line of the user's file at which `what` failed."""
    skip = (os.path.dirname(np.__file__), os.path.dirname(numba.__file__), __file__)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(skip)]
    where = f"{pathlib.Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else _place(rule)
    cause = f"{type(error).__name__}: {error}".rstrip(".")
    return GameError(f"game '{game.name}': {what} failed at {where}: {cause}.")


_HINTS = (
    (r"already jitted function", "it is decorated; leave rules plain and decorate their helpers"),
    (r"name '(\w+)': Cannot determine Numba type of <class 'function'>", "decorate '{0}' with @helper"),
    (r"name '(\w+)': Cannot determine Numba type of <class '([\w.]+)'>",
     "'{0}' is of the type {1}, which compiled rules cannot use; use numbers and arrays"),
    (r"NameError: name '(\w+)' is not defined", "the name '{0}' is not defined"),
    (r"NRT required|Only accept returning of array passed",
     "it makes a new list, array or text; rules allocate nothing: write into the buffers they are given"),
    (r"[Cc]an(?:'t|not) unify (?:return type )?(?:from the following types: )?([^\n]*)",
     "one value is of two kinds ({0}); use one kind of number"),
    (r"Unknown attribute '(\w+)'", "there is no attribute '{0}'"),
)  # fmt: skip


def _compile_cause(rule: Any, error: Exception) -> tuple[str, str]:
    """Return the line of the user's file and the short cause of a failed compilation."""
    text = str(error)
    lines = re.findall(r'File "([^"\n]+)", line (\d+)|at (\S+\.py) \((\d+)\)', text)
    found = [(a or c, b or d) for a, b, c, d in lines if "site-packages" not in (a or c)]
    where = f"{pathlib.Path(found[0][0]).name}:{found[0][1]}" if found else _place(rule)
    if isinstance(error, KeyError):
        return where, f"the state has no field {error}"
    for pattern, hint in _HINTS:
        match = re.search(pattern, text)
        if match:
            return where, hint.format(*match.groups())
    return where, _shorten(text)


def _shorten(text: str) -> str:
    """Return the first telling line of a Numba message."""
    lines = [x.strip() for x in text.split("\n") if x.strip() and "pipeline (step" not in x]
    return (lines[0] if lines else "no reason given").rstrip(". ")[:160]
