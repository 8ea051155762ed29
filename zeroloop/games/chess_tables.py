"""Bit boards for chess: squares, directions, attack sets, position keys. Knows no rules of play.

A bit board is a uint64 whose bit 8 * rank + file is a square. Every board is seen by the seat to move:
rank 0 is its own first rank, so its pawns always move up, and a move ends with `flip`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic, overload, register_jitable

from ..compiled import OPTIONS

F = TypeVar("F", bound=Callable[..., Any])

PAWN, KNIGHT, BISHOP, ROOK, QUEEN, KING = range(6)

ZERO, ONE = np.uint64(0), np.uint64(1)
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
RANK_1, RANK_3, RANK_7, RANK_8 = (np.uint64(0xFF << 8 * rank) for rank in (0, 2, 6, 7))
NOT_A, NOT_H = np.uint64(0xFEFEFEFEFEFEFEFE), np.uint64(0x7F7F7F7F7F7F7F7F)
NOT_AB, NOT_GH = np.uint64(0xFCFCFCFCFCFCFCFC), np.uint64(0x3F3F3F3F3F3F3F3F)
DARK = np.uint64(0xAA55AA55AA55AA55)

S1, S2, S6, S8, S10 = (np.uint64(n) for n in (1, 2, 6, 8, 10))
S15, S16, S17, S63, S64 = (np.uint64(n) for n in (15, 16, 17, 63, 64))

STEPS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""Files and ranks of a step: N, NE, E, SE, S, SW, W, NW. Even ones are a rook's, odd ones a bishop's;
the opposite of d is d ^ 4, and d & 3 is its line."""
LEAPS = ((1, 2), (2, 1), (2, -1), (1, -2), (-1, -2), (-2, -1), (-2, 1), (-1, 2))
"""Files and ranks of a knight's move, clockwise."""

UP, UP_RIGHT, UP_LEFT = 0, 1, 7


def _board(squares: Any) -> int:
    return sum(1 << (8 * rank + file) for file, rank in squares if 0 <= file < 8 and 0 <= rank < 8)


def _landing(steps: Any) -> npt.NDArray[np.uint64]:
    """Return the squares on which a step can land without leaving the board, `u64 [steps]`."""
    squares = [(file, rank) for file in range(8) for rank in range(8)]
    return np.array([_board((f + df, r + dr) for f, r in squares) for df, dr in steps], np.uint64)


def _lines() -> npt.NDArray[np.uint64]:
    """Return all squares of the line through a square, itself included, `u64 [line, square]`."""
    lines = np.zeros((4, 64), np.uint64)
    for line, (df, dr) in enumerate(STEPS[:4]):
        for square in range(64):
            file, rank = square & 7, square >> 3
            lines[line, square] = _board((file + n * df, rank + n * dr) for n in range(-7, 8))
    return lines


def _random_keys(n: int) -> npt.NDArray[np.uint64]:
    """Return fixed random words (Philox of key 0)."""
    return np.random.Generator(np.random.Philox(key=0)).integers(1, 2**64 - 1, n, np.uint64)


STEP_ROTATION = np.array([(8 * dr + df) % 64 for df, dr in STEPS], np.uint64)
STEP_LANDING = _landing(STEPS)
LEAP_ROTATION = np.array([(8 * dr + df) % 64 for df, dr in LEAPS], np.uint64)
LEAP_LANDING = _landing(LEAPS)
LINES = _lines()

KEYS = _random_keys(13 * 64)
"""Keys of a piece of a seat on a square, 64 * (6 * seat + type) + square, and from SPECIAL on of a
castling right, by the square of its rook, and of the en passant square; squares are White's."""
SPECIAL = 12 * 64


def _values(material: Any, square_value: Callable[..., float]) -> npt.NDArray[np.int32]:
    """Return centipawns of a piece on a square of its own side, `i32 [type, square]`."""
    table = np.zeros((6, 64), np.int32)
    for kind in range(6):
        for square in range(64):
            file, rank = square & 7, square >> 3
            # 0 on the four squares in the middle, 3 on the rim.
            off_file, off_rank = max(3 - file, file - 4), max(3 - rank, rank - 4)
            value = square_value(kind, file, rank, off_file, off_rank)
            table[kind, square] = material[kind] + round(value)
    return table


def _middle(kind: int, file: int, rank: int, off_file: int, off_rank: int) -> float:
    """Return the worth of a square while queens are on: centre for most, a corner for the king."""
    off = off_file + off_rank
    pawn = (8 * rank + 12 - 8 * off_file) if rank >= 3 or off_file == 0 else 0
    king = (15 if file in (1, 2, 6) else -10) - 25 * rank
    return (pawn, 20 - 12 * off, 12 - 6 * off, 20 * (rank == 6) - 4 * off_file, 4 - 3 * off, king)[kind]


def _end(kind: int, file: int, rank: int, off_file: int, off_rank: int) -> float:
    """Return the worth of a square with few pieces left: pawns run, the king walks to the centre."""
    off = off_file + off_rank
    return (3 * rank * rank, 15 - 10 * off, 10 - 5 * off, 8 * (rank == 6), 12 - 6 * off, 25 - 14 * off)[kind]


MIDDLE_VALUE = _values((90, 320, 335, 490, 980, 0), _middle)
END_VALUE = _values((110, 300, 320, 520, 960, 0), _end)
PHASE = np.array([0, 1, 1, 2, 4, 0], np.int32)
"""Weight of a piece in the passage from middle game to end game."""
WHOLE_PHASE = 24
"""Weight of all pieces at the start."""


def part(function: F) -> F:
    """Mark a part of a rule: a `helper` that plain Python calls as plain Python, so that it compiles nothing.

    It is compiled once and not into each of its calls, which matters in rules as long as these.
    """
    return register_jitable(forceinline=False, **OPTIONS)(function)


def bit_operation(emit: Callable[[Any, Any], Any], plain: Callable[[Any], Any], result: Any) -> Any:
    """Return `plain`, a function of a uint64 that compiled code replaces by what `emit` builds."""

    def typed(context: Any, x: Any) -> Any:
        return types.uint64(types.uint64), lambda _, builder, signature, args: emit(builder, args[0])

    instruction: Any = intrinsic(typed)
    options: Any = OPTIONS

    @overload(plain, strict=False, jit_options=options)
    def resolve(x: Any) -> Any:
        return lambda x: result(instruction(x))

    return plain


def trailing_zeros(x: Any) -> Any:
    """Return the number of the lowest bit that is set; x is not 0."""
    return (int(x) & -int(x)).bit_length() - 1


def popcount(x: Any) -> Any:
    """Return how many bits are set."""
    return int(x).bit_count()


def flip(x: Any) -> Any:
    """Return the board seen from the other side: ranks in reverse."""
    return np.uint64(int.from_bytes(int(x).to_bytes(8, "little"), "big"))


def eight(x: Any) -> Any:
    """Return 8, which the compiler cannot know: an unrolled loop is no faster here and much more code."""
    return 8


def _hidden(builder: Any, x: Any) -> Any:
    kind = ir.IntType(64)
    return builder.asm(ir.FunctionType(kind, [kind]), "", "=r,0", [ir.Constant(kind, 8)], False)


_TRUE = ir.Constant(ir.IntType(1), 1)
bit_operation(lambda builder, x: builder.cttz(x, _TRUE), trailing_zeros, types.int64)
bit_operation(lambda builder, x: builder.ctpop(x), popcount, types.int64)
bit_operation(_hidden, eight, types.int64)
bit_operation(lambda builder, x: builder.bswap(x), flip, types.uint64)


@part
def bit(square: Any) -> Any:
    """Return the board with this square alone."""
    return ONE << np.uint64(square)


@part
def rotate(x: Any, n: Any) -> Any:
    """Return the board with bit i moved to i + n modulo 64; n from 1 to 63, uint64."""
    return (x << n) | (x >> (S64 - n))


@part
def fill(pieces: Any, free: Any, d: Any) -> Any:
    """Return the squares that sliders attack in direction d: over free squares, up to the first other one.

    Source: Kogge and Stone's parallel prefix, three doublings for seven steps.
    """
    n = STEP_ROTATION[d]
    landing = STEP_LANDING[d]
    open_ = free & landing
    reached = pieces | (open_ & rotate(pieces, n))
    open_ &= rotate(open_, n)
    twice = (n + n) & S63
    reached |= open_ & rotate(reached, twice)
    open_ &= rotate(open_, twice)
    reached |= open_ & rotate(reached, (twice + twice) & S63)
    return rotate(reached, n) & landing


@part
def step(pieces: Any, d: Any) -> Any:
    """Return the squares one step away in direction d."""
    return rotate(pieces, STEP_ROTATION[d]) & STEP_LANDING[d]


@part
def step_back(squares: Any, d: Any) -> Any:
    """Return the squares from which a step in direction d lands on `squares`, which a step can reach."""
    return rotate(squares, S64 - STEP_ROTATION[d])


@part
def knight_attacks(x: Any) -> Any:
    """Return what knights attack."""
    near = ((x >> S1) & NOT_H) | ((x << S1) & NOT_A)
    far = ((x >> S2) & NOT_GH) | ((x << S2) & NOT_AB)
    return (near << S16) | (near >> S16) | (far << S8) | (far >> S8)


@part
def king_attacks(x: Any) -> Any:
    """Return what kings attack."""
    beside = ((x >> S1) & NOT_H) | ((x << S1) & NOT_A)
    row = x | beside
    return beside | (row << S8) | (row >> S8)


@part
def pawn_attacks_down(x: Any) -> Any:
    """Return what the pawns of the seat that is not to move attack."""
    down = x >> S8
    return ((down >> S1) & NOT_H) | ((down << S1) & NOT_A)


@part
def pawn_attacks_up(x: Any) -> Any:
    """Return what the pawns of the seat to move attack."""
    up = x << S8
    return ((up >> S1) & NOT_H) | ((up << S1) & NOT_A)
