"""Playing a move of chess, and when a game ends. Knows nothing of text or networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from .chess_moves import PROMOTION_PLANES, can_move, passant_pawns, threats
from .chess_tables import (
    BISHOP,
    DARK,
    KEYS,
    KING,
    KNIGHT,
    LEAPS,
    ONE,
    PAWN,
    QUEEN,
    RANK_1,
    ROOK,
    SPECIAL,
    STEPS,
    ZERO,
    bit,
    flip,
    part,
    popcount,
    trailing_zeros,
)

OUTCOMES = [[1, -1], [-1, 1], [0, 0]]
"""White wins, Black wins, draw."""
DRAWN = 3
LAST_CLOCK = 100
"""Half-moves without capture or pawn move at which the game is drawn."""
MOST_KEYS = LAST_CLOCK + 1

OFFSET = np.array(
    [8 * dr * n + df * n for df, dr in STEPS for n in range(1, 8)]
    + [8 * dr + df for df, dr in LEAPS]
    + [7, 8, 9] * 3,
    np.int64,
)
"""From the square that is left to the square that is reached, by plane."""


def state_dtype(history: Any) -> Any:
    """Return the record. All boards are seen by the seat to move (`flip` turns them after each move).

    `pieces[type]` of both seats; `sides[0]` the seat to move, `sides[1]` the other; `castling`, the rooks
    that may castle; `passant`, the square of a legal en passant capture, if there is one; `keys`, the keys
    of the positions since the last move that cannot be taken back, the present one last, `known` of them;
    `clock`, half-moves since a capture or pawn move; `number` of the full move; `over`, 0 while the game
    goes on, then 1 + the row of OUTCOMES. `past[n]`, the boards n + 1 plies ago: three bits of 1 + type and
    the squares of the seat that is not to move now.
    """
    fields = [
        ("pieces", "u8", (6,)),
        ("sides", "u8", (2,)),
        ("castling", "u8"),
        ("passant", "u8"),
        ("keys", "u8", (MOST_KEYS,)),
        ("number", "i4"),
        ("clock", "i2"),
        ("known", "i1"),
        ("mover", "i1"),
        ("over", "i1"),
    ]
    return [*fields, ("past", "u8", (history, 4))] if history else fields


@part
def type_on(pieces: Any, square: Any) -> Any:
    """Return the type of the piece on an occupied square."""
    kind = 0
    for other in range(KNIGHT, KING + 1):
        kind += other * int((pieces[other] >> np.uint64(square)) & ONE)
    return kind


@part
def toggle(state: Any, side: Any, kind: Any, square: Any) -> Any:
    """Put a piece on a square, or take it off, and return its key."""
    state.pieces[kind] ^= bit(square)
    state.sides[side] ^= bit(square)
    seat = int(state.mover)
    return KEYS[64 * (6 * (seat ^ side) + kind) + (square ^ 56 * seat)]


@part
def special_keys(state: Any, squares: Any) -> Any:
    """Return the keys of castling rights, or of an en passant square."""
    key = ZERO
    while squares:
        key ^= KEYS[SPECIAL + (trailing_zeros(squares) ^ 56 * int(state.mover))]
        squares &= squares - ONE
    return key


@part
def position_key(state: Any) -> Any:
    """Return the key of the position; equal positions of one seat have one key."""
    key = special_keys(state, state.castling | state.passant)
    seat, all_squares = int(state.mover), state.sides[0] | state.sides[1]
    while all_squares:
        square = trailing_zeros(all_squares)
        side = 1 - int((state.sides[0] >> np.uint64(square)) & ONE)
        key ^= KEYS[64 * (6 * (seat ^ side) + type_on(state.pieces, square)) + (square ^ 56 * seat)]
        all_squares &= all_squares - ONE
    return key


@part
def castle(state: Any, square: Any, target: Any) -> Any:
    """Castle the king on `square` with the rook on `target` and return the change of key."""
    right = target > square
    key = toggle(state, 0, KING, square) ^ toggle(state, 0, ROOK, target)
    return key ^ toggle(state, 0, KING, 6 if right else 2) ^ toggle(state, 0, ROOK, 5 if right else 3)


@part
def apply_action(state: Any, action: Any) -> Any:
    """Play a legal action and settle whether the game is over."""
    square, plane = int(action) & 63, int(action) >> 6
    target = square + OFFSET[plane]
    kind = type_on(state.pieces, square)
    key = state.keys[state.known - 1] ^ special_keys(state, state.passant)
    zeroing, passant = kind == PAWN, ZERO
    if state.sides[0] & bit(target):
        key ^= castle(state, square, target)
    else:
        taken = target
        if kind == PAWN and state.passant == bit(target):
            taken = target - 8
        if state.sides[1] & bit(taken):
            zeroing = True
            key ^= toggle(state, 1, type_on(state.pieces, taken), taken)
        key ^= toggle(state, 0, kind, square)
        if kind == PAWN:
            if plane == 1:
                passant = bit(target - 8)
            elif target >= 56:
                kind = QUEEN if plane < PROMOTION_PLANES else KNIGHT + (plane - PROMOTION_PLANES) // 3
        key ^= toggle(state, 0, kind, target)
    lost = state.castling & (bit(square) | bit(target))
    if kind == KING:
        lost |= state.castling & RANK_1
    state.castling ^= lost
    key ^= special_keys(state, lost)
    turn_board(state, passant)
    state.clock = 0 if zeroing else state.clock + 1
    remember(state, key ^ special_keys(state, state.passant), zeroing or lost != ZERO)
    settle(state)


@part
def turn_board(state: Any, passant: Any) -> Any:
    """Give the move to the other seat; `passant` is the square that a pawn has just passed, if any."""
    for kind in range(6):
        state.pieces[kind] = flip(state.pieces[kind])
    own = flip(state.sides[1])
    other = flip(state.sides[0])
    state.sides[0], state.sides[1] = own, other
    state.castling = flip(state.castling)
    state.number += state.mover
    state.mover = 1 - state.mover
    state.passant = ZERO
    if passant:
        passant = flip(passant)
        if passant_pawns(state.pieces, own, other, passant):
            state.passant = passant


@part
def remember(state: Any, key: Any, final: Any) -> Any:
    """Append the position's key; after a move that cannot be taken back it is the only one."""
    if final:
        for n in range(state.known):
            state.keys[n] = ZERO
        state.known = 0
    state.known = min(state.known + 1, MOST_KEYS)
    state.keys[state.known - 1] = key


@part
def occurrences(state: Any) -> Any:
    """Return how often the position has occurred, this time included."""
    n = int(state.known) - 1
    key, found = state.keys[n], 1
    while n >= 2:
        n -= 2
        if state.keys[n] == key:
            found += 1
    return found


@part
def dead(pieces: Any) -> Any:
    """Return whether neither seat has the material to mate: a lone minor piece, or bishops of one colour."""
    if pieces[PAWN] | pieces[ROOK] | pieces[QUEEN]:
        return False
    if pieces[KNIGHT]:
        return popcount(pieces[KNIGHT]) == 1 and pieces[BISHOP] == ZERO
    return (pieces[BISHOP] & DARK) == ZERO or (pieces[BISHOP] & ~DARK) == ZERO


@part
def settle(state: Any) -> Any:
    """Write `over`: mate and stalemate first, then the draws."""
    own = state.sides[0]
    danger, pinned, target = threats(state.pieces, own, state.sides[1])
    state.over = 0
    if not can_move(state, danger, pinned, target):
        mated = danger & state.pieces[KING] & own
        state.over = 2 - state.mover if mated else DRAWN
    elif state.clock >= LAST_CLOCK or occurrences(state) >= 3 or dead(state.pieces):
        state.over = DRAWN


@part
def set_up(state: Any, words: Any) -> Any:
    """Fill the record with a start: pieces, sides, castling, passant, mover + 2 clock + 256 number."""
    for kind in range(6):
        state.pieces[kind] = words[kind]
    state.sides[0] = words[6]
    state.sides[1] = words[7]
    state.castling = words[8]
    state.passant = words[9]
    facts = np.int64(words[10])
    state.mover = facts & 1
    state.clock = (facts >> 1) & 127
    state.number = facts >> 8
    state.known = 1
    for n in range(MOST_KEYS):
        state.keys[n] = ZERO
    state.keys[0] = position_key(state)
    settle(state)
