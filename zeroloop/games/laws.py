"""The laws of the contract, as comparisons of recorded answers in NumPy; see `check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .game import CHANCE, TERMINAL, Game
from .record import (
    AGAIN,
    ASK_MOVER,
    ASKED,
    DIRTY,
    IMAGES,
    JUNK,
    NEXT,
    STATE,
    Answers,
    raw_bytes,
)

TOLERANCE = 1e-5
"""Allowed error of a sum of probabilities, and of floats between compiled and plain Python."""
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

Check = tuple[str, Any, Any, Callable[[int], str]]
"""A law, the rows where it applies, the rows where it is broken, and what to say about a row."""


def law_checks(game: Game, t: Answers) -> Iterator[Check]:
    """Yield the laws over the answers, in the order in which the rules were asked."""
    decision, dice, over = t.mover >= 0, t.mover == CHANCE, t.mover == TERMINAL
    every, raw = np.ones(len(t.mover), bool), raw_bytes(t)
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
        ENDS, over, ~over & (t.where[:, 1] >= game.max_plies) & (not game.truncates),
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


def same_checks(plain: Answers, compiled: Answers) -> Iterator[Check]:
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
