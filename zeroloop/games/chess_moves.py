"""The moves of chess: legal ids, playing one, and when a game ends. Knows nothing of text or networks.

Ids are AlphaZero's 73 planes x 64 squares, seen by the seat to move: 64 * plane + 8 * rank + file of the
square that is left. Planes 0 to 55 are 7 * direction + distance - 1 (N, NE, E, SE, S, SW, W, NW), 56 to 63
the knight's moves clockwise from the one two up and one right, 64 to 72 promotions to knight, bishop and
rook, each to the left, straight and to the right. Any other move of a pawn to the last rank makes a queen.
Castling is the king's move onto its own rook, in chess and in Chess960.
"""

from __future__ import annotations

import numpy as np

from .chess_tables import (
    ALL,
    BISHOP,
    DARK,
    KEYS,
    KING,
    KNIGHT,
    LEAP_LANDING,
    LEAP_ROTATION,
    LEAPS,
    LINES,
    ONE,
    PAWN,
    QUEEN,
    RANK_1,
    RANK_3,
    RANK_7,
    ROOK,
    S1,
    S8,
    S16,
    S63,
    S64,
    SPECIAL,
    STEP_ROTATION,
    STEPS,
    UP,
    UP_LEFT,
    UP_RIGHT,
    ZERO,
    bit,
    eight,
    fill,
    flip,
    inlined,
    king_attacks,
    knight_attacks,
    pawn_attacks_down,
    pawn_attacks_up,
    popcount,
    rotate,
    step,
    step_back,
    trailing_zeros,
)

OUTCOMES = [[1, -1], [-1, 1], [0, 0]]
"""White wins, Black wins, draw."""
DRAWN = 3
LAST_CLOCK = 100
"""Half-moves without capture or pawn move at which the game is drawn."""
MOST_KEYS = LAST_CLOCK + 1

KNIGHT_PLANES, PROMOTION_PLANES = 56, 64
ACTIONS = 73 * 64

OFFSET = np.array(
    [8 * dr * n + df * n for df, dr in STEPS for n in range(1, 8)]
    + [8 * dr + df for df, dr in LEAPS]
    + [7, 8, 9] * 3,
    np.int64,
)
"""From the square that is left to the square that is reached, by plane."""


def state_dtype(history):
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


@inlined
def threats(pieces, own, other):
    """Return what decides which moves leave the king safe.

    Returns:
      danger: squares that the other seat attacks, seen through the king.
      pinned: own pieces that may only move along the line through the king.
      target: squares where a move of another piece than the king ends a check; all without a check.
    """
    king = pieces[KING] & own
    free = ~(own | other)
    through = free | king
    danger = pawn_attacks_down(pieces[PAWN] & other)
    danger |= knight_attacks(pieces[KNIGHT] & other) | king_attacks(pieces[KING] & other)
    pinned = ZERO
    target = pawn_attacks_up(king) & pieces[PAWN] & other
    target |= knight_attacks(king) & pieces[KNIGHT] & other
    if target == ZERO:
        target = ALL
    elif target & (target - ONE):
        target = ZERO
    orthogonal = (pieces[ROOK] | pieces[QUEEN]) & other
    diagonal = (pieces[BISHOP] | pieces[QUEEN]) & other
    for d in range(eight(own)):
        sliders = diagonal if d & 1 else orthogonal
        seen = fill(sliders, through, d)
        # Where the view of the king meets that of a slider, nothing or one piece stands between them.
        view = fill(king, free, d ^ 4)
        danger |= seen
        if seen & king:
            target &= view
        else:
            pinned |= seen & view & own
    return danger, pinned, target


@inlined
def slider_attacks(square, pieces, occupied, other):
    """Return whether a slider of the other seat attacks the square."""
    for d in range(eight(square)):
        sliders = pieces[BISHOP] if d & 1 else pieces[ROOK]
        if fill(square, ~occupied, d) & (sliders | pieces[QUEEN]) & other:
            return True
    return False


@inlined
def passant_pawns(pieces, own, other, square):
    """Return the own pawns that may capture en passant on the square."""
    king = pieces[KING] & own
    captured = square >> S8
    if knight_attacks(king) & pieces[KNIGHT] & other:
        return ZERO
    if pawn_attacks_up(king) & pieces[PAWN] & other & ~captured:
        return ZERO
    pawns = pawn_attacks_down(square) & pieces[PAWN] & own
    legal = ZERO
    while pawns:
        pawn = pawns & ~(pawns - ONE)
        pawns ^= pawn
        # Two pawns leave the rank at once, which no pin mask tells.
        if not slider_attacks(king, pieces, ((own | other) ^ pawn ^ captured) | square, other):
            legal |= pawn
    return legal


@inlined
def span(a, b):
    """Return the squares from one square of the first rank to another, both included."""
    return (max(a, b) << S1) - min(a, b)


@inlined
def castling_rooks(state, danger, pinned):
    """Return the rooks with which castling is legal."""
    own, other = state.sides[0], state.sides[1]
    # A rook pinned on the first rank uncovers the king that passes it.
    rooks = state.castling & RANK_1 & ~pinned
    legal = ZERO
    while rooks:
        rook = rooks & ~(rooks - ONE)
        rooks ^= rook
        king = state.pieces[KING] & own
        king_to = bit(2) if rook < king else bit(6)
        rook_to = bit(3) if rook < king else bit(5)
        path = span(king, king_to)
        occupied = (own | other) ^ king ^ rook
        if not (danger & path) and not (occupied & (path | span(rook, rook_to))):
            legal |= rook
    return legal


@inlined
def pawn_moves(state, pinned, target):
    """Return the pawns that may move one up, two up, capture to the left and capture to the right."""
    own, other = state.sides[0], state.sides[1]
    line = trailing_zeros(state.pieces[KING] & own)
    pawns = state.pieces[PAWN] & own
    free = ~(own | other)
    up = ((pawns & (~pinned | LINES[0, line])) << S8) & free
    two = ((up & RANK_3) << S8) & free & target
    up &= target
    left = step(pawns & (~pinned | LINES[3, line]), UP_LEFT) & other & target
    right = step(pawns & (~pinned | LINES[1, line]), UP_RIGHT) & other & target
    left, right = step_back(left, UP_LEFT), step_back(right, UP_RIGHT)
    if state.passant:
        takers = passant_pawns(state.pieces, own, other, state.passant)
        left |= takers & step_back(state.passant, UP_LEFT)
        right |= takers & step_back(state.passant, UP_RIGHT)
    return up >> S8, two >> S16, left, right


@inlined
def can_move(state, danger, pinned, target):
    """Return whether the seat to move has a legal move."""
    own, pieces = state.sides[0], state.pieces
    king = pieces[KING] & own
    if king_attacks(king) & ~own & ~danger:
        return True
    target &= ~own
    if not target:
        return False
    if knight_attacks(pieces[KNIGHT] & own & ~pinned) & target:
        return True
    up, two, left, right = pawn_moves(state, pinned, target)
    if up | two | left | right:
        return True
    free = ~(own | state.sides[1])
    line = trailing_zeros(king)
    for d in range(eight(own)):
        sliders = pieces[BISHOP] if d & 1 else pieces[ROOK]
        sliders = (sliders | pieces[QUEEN]) & own & (~pinned | LINES[d & 3, line])
        if fill(sliders, free, d) & target:
            return True
    return castling_rooks(state, danger, pinned) != ZERO


@inlined
def list_plane(out, k, plane, squares):
    """Append the plane's actions from these squares and return how many there are."""
    while squares:
        out[k] = 64 * plane + trailing_zeros(squares)
        k += 1
        squares &= squares - ONE
    return k


@inlined
def legal_actions(state, out):
    """Write the legal ids, ascending, whether or not the game is drawn, and return how many."""
    pieces, own, other = state.pieces, state.sides[0], state.sides[1]
    danger, pinned, target = threats(pieces, own, other)
    target &= ~own
    king = pieces[KING] & own
    line = trailing_zeros(king)
    king_moves = king_attacks(king) & ~own & ~danger
    up, two, left, right = pawn_moves(state, pinned, target)
    rooks = castling_rooks(state, danger, pinned)
    k = 0
    for d in range(eight(own)):
        n = STEP_ROTATION[d]
        near = king if step(king, d) & king_moves else ZERO
        far, far_distance = ZERO, 0
        if d == UP:
            near, far, far_distance = near | up, two, 2
        elif d == UP_LEFT:
            near |= left
        elif d == UP_RIGHT:
            near |= right
        elif d & 3 == 2:
            rook = rooks & ~(king - ONE) if d == 2 else rooks & (king - ONE)
            if rook:
                far, far_distance = king, abs(trailing_zeros(rook) - line)
        if far_distance == 1:
            near |= far
        sliders = pieces[BISHOP] if d & 1 else pieces[ROOK]
        reached = (sliders | pieces[QUEEN]) & own & (~pinned | LINES[d & 3, line])
        back = ZERO
        for distance in range(1, eight(own)):
            reached = step(reached, d) & ~own
            back = (back + (S64 - n)) & S63
            squares = rotate(reached & target, back)
            if distance == 1:
                squares |= near
            elif distance == far_distance:
                squares |= far
            k = list_plane(out, k, 7 * d + distance - 1, squares)
            reached &= ~other
            if not reached and distance >= far_distance:
                break
    knights = pieces[KNIGHT] & own & ~pinned
    if knights:
        for leap in range(eight(own)):
            n = LEAP_ROTATION[leap]
            squares = rotate(rotate(knights, n) & LEAP_LANDING[leap] & target, S64 - n)
            k = list_plane(out, k, KNIGHT_PLANES + leap, squares)
    if (up | left | right) & RANK_7:
        for n in range(eight(own) + 1):
            squares = left if n % 3 == 0 else up if n % 3 == 1 else right
            k = list_plane(out, k, PROMOTION_PLANES + n, squares & RANK_7)
    return k


@inlined
def type_on(pieces, square):
    """Return the type of the piece on an occupied square."""
    kind = 0
    for other in range(KNIGHT, KING + 1):
        kind += other * int((pieces[other] >> np.uint64(square)) & ONE)
    return kind


@inlined
def toggle(state, side, kind, square):
    """Put a piece on a square, or take it off, and return its key."""
    state.pieces[kind] ^= bit(square)
    state.sides[side] ^= bit(square)
    seat = int(state.mover)
    return KEYS[64 * (6 * (seat ^ side) + kind) + (square ^ 56 * seat)]


@inlined
def special_keys(state, squares):
    """Return the keys of castling rights, or of an en passant square."""
    key = ZERO
    while squares:
        key ^= KEYS[SPECIAL + (trailing_zeros(squares) ^ 56 * int(state.mover))]
        squares &= squares - ONE
    return key


@inlined
def position_key(state):
    """Return the key of the position; equal positions of one seat have one key."""
    key = special_keys(state, state.castling | state.passant)
    seat, all_squares = int(state.mover), state.sides[0] | state.sides[1]
    while all_squares:
        square = trailing_zeros(all_squares)
        side = 1 - int((state.sides[0] >> np.uint64(square)) & ONE)
        key ^= KEYS[64 * (6 * (seat ^ side) + type_on(state.pieces, square)) + (square ^ 56 * seat)]
        all_squares &= all_squares - ONE
    return key


@inlined
def castle(state, square, target):
    """Castle the king on `square` with the rook on `target` and return the change of key."""
    right = target > square
    key = toggle(state, 0, KING, square) ^ toggle(state, 0, ROOK, target)
    return key ^ toggle(state, 0, KING, 6 if right else 2) ^ toggle(state, 0, ROOK, 5 if right else 3)


@inlined
def apply_action(state, action):
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


@inlined
def turn_board(state, passant):
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


@inlined
def remember(state, key, final):
    """Append the position's key; after a move that cannot be taken back it is the only one."""
    if final:
        for n in range(state.known):
            state.keys[n] = ZERO
        state.known = 0
    state.known = min(state.known + 1, MOST_KEYS)
    state.keys[state.known - 1] = key


@inlined
def occurrences(state):
    """Return how often the position has occurred, this time included."""
    n = int(state.known) - 1
    key, found = state.keys[n], 1
    while n >= 2:
        n -= 2
        if state.keys[n] == key:
            found += 1
    return found


@inlined
def dead(pieces):
    """Return whether neither seat has the material to mate: a lone minor piece, or bishops of one colour."""
    if pieces[PAWN] | pieces[ROOK] | pieces[QUEEN]:
        return False
    if pieces[KNIGHT]:
        return popcount(pieces[KNIGHT]) == 1 and pieces[BISHOP] == ZERO
    return (pieces[BISHOP] & DARK) == ZERO or (pieces[BISHOP] & ~DARK) == ZERO


@inlined
def settle(state):
    """Write `over`: mate and stalemate first, then the draws."""
    own = state.sides[0]
    danger, pinned, target = threats(state.pieces, own, state.sides[1])
    state.over = 0
    if not can_move(state, danger, pinned, target):
        mated = danger & state.pieces[KING] & own
        state.over = 2 - state.mover if mated else DRAWN
    elif state.clock >= LAST_CLOCK or occurrences(state) >= 3 or dead(state.pieces):
        state.over = DRAWN


@inlined
def set_up(state, words):
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
