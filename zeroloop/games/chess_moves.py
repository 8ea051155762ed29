"""The legal moves of chess as ids, from a record of `chess_play`.

Ids are AlphaZero's 73 planes x 64 squares, seen by the seat to move: 64 * plane + 8 * rank + file of the
square that is left. Planes 0 to 55 are 7 * direction + distance - 1 (N, NE, E, SE, S, SW, W, NW), 56 to 63
the knight's moves clockwise from the one two up and one right, 64 to 72 promotions to knight, bishop and
rook, each to the left, straight and to the right. Any other move of a pawn to the last rank makes a queen.
Castling is the king's move onto its own rook, in chess and in Chess960.
"""

from __future__ import annotations

from typing import Any

from .chess_tables import (
    ALL,
    BISHOP,
    KING,
    KNIGHT,
    LEAP_LANDING,
    LEAP_ROTATION,
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
    STEP_ROTATION,
    UP,
    UP_LEFT,
    UP_RIGHT,
    ZERO,
    bit,
    eight,
    fill,
    king_attacks,
    knight_attacks,
    part,
    pawn_attacks_down,
    pawn_attacks_up,
    rotate,
    step,
    step_back,
    trailing_zeros,
)

KNIGHT_PLANES, PROMOTION_PLANES = 56, 64
ACTIONS = 73 * 64


@part
def threats(pieces: Any, own: Any, other: Any) -> Any:
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


@part
def slider_attacks(square: Any, pieces: Any, occupied: Any, other: Any) -> Any:
    """Return whether a slider of the other seat attacks the square."""
    for d in range(eight(square)):
        sliders = pieces[BISHOP] if d & 1 else pieces[ROOK]
        if fill(square, ~occupied, d) & (sliders | pieces[QUEEN]) & other:
            return True
    return False


@part
def passant_pawns(pieces: Any, own: Any, other: Any, square: Any) -> Any:
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


@part
def span(a: Any, b: Any) -> Any:
    """Return the squares from one square of the first rank to another, both included."""
    return (max(a, b) << S1) - min(a, b)


@part
def castling_rooks(state: Any, danger: Any, pinned: Any) -> Any:
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


@part
def pawn_moves(state: Any, pinned: Any, target: Any) -> Any:
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


@part
def can_move(state: Any, danger: Any, pinned: Any, target: Any) -> Any:
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


@part
def list_plane(out: Any, k: Any, plane: Any, squares: Any) -> Any:
    """Append the plane's actions from these squares and return how many there are."""
    while squares:
        out[k] = 64 * plane + trailing_zeros(squares)
        k += 1
        squares &= squares - ONE
    return k


@part
def legal_actions(state: Any, out: Any) -> Any:
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
