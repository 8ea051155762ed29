"""An exact Connect Four solver on bitboards; knows no games of the registry, no search, no book.

A board is two 64-bit sets, the stones of the side to move and those of the other side. Cell
(column, row) is bit 7 * column + row, row 0 at the bottom; bit 7 * column + 6 stays empty. With
n stones on the board, a side that wins with its next stone scores (43 - n) // 2, so a win with
the last stone scores 1; a draw scores 0 and a loss is negative.

Sources: Pascal Pons, "Solving Connect 4: how to build a perfect AI" (scores, keys, safe moves,
ordering by threats), and Victor Allis, "A Knowledge-based Approach of Connect-Four" (claimeven,
baseinverse and zugzwang, which `_follow_up` turns into bounds).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..compiled import helper, kernel
from ..errors import ConfigError, InvalidState

FULL_COLUMN = -1000
"""What `column_scores` and `column_values` say of a column without an empty cell."""

Mode = Literal["score", "value", "column_scores", "column_values"]
Bits: TypeAlias = Any  # np.uint64; mypy does not look into compiled code

_ONE_COLUMN = 0b0111111
_COLUMN_BITS = sum(1 << 7 * c for c in range(7))

U0, U1, U2, U3, U4, U6, U7, U8 = (np.uint64(i) for i in (0, 1, 2, 3, 4, 6, 7, 8))
U12, U14, U16, U18, U21, U24, U28, U42 = (np.uint64(i) for i in (12, 14, 16, 18, 21, 24, 28, 42))
COLUMN = np.uint64(_ONE_COLUMN)
FIELD = np.uint64(63)
BOTTOM = np.uint64(_COLUMN_BITS)
SENTINELS = np.uint64(_COLUMN_BITS << 6)
BOARD = np.uint64(_COLUMN_BITS * _ONE_COLUMN)
ROWS_135 = np.uint64(_COLUMN_BITS * 0b010101)
"""The odd rows as players count them, rows 0, 2 and 4 here: the first player's in a follow-up."""
ROWS_246 = np.uint64(_COLUMN_BITS * 0b101010)

PAIRS, NIBBLES = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
BYTES, ONES = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
U56 = np.uint64(56)

OUTER = np.uint64(0x7F | 0x7F << 42)
SECOND, THIRD, MIDDLE = np.uint64(0x7F << 7), np.uint64(0x7F << 14), np.uint64(0x7F << 21)
KEY = np.uint64((1 << 49) - 1)
SCATTER = np.uint64(0x1E3779B97F4A7 | 1)
"""Odd, so that multiplying by it modulo 2 ** 49 loses nothing of the key."""

KEPT_STONES = 36
"""Positions with this many stones are searched again sooner than looked up."""
EARLY_STONES = 22
LATE_SHIFT = U4
"""Late positions share a part of the table 2 ** LATE_SHIFT times smaller, which caches hold."""
NO_BOUND = 99

MINE, THEIRS, SAFE, HASH = range(4)
STONES, FLIPS, RANK = range(3)
BEST, BETA, NEXT, COUNT, PLY = range(5)


class Tables(NamedTuple):
    """What a search writes to. Row 8 * depth + i of the second group is a move at that depth."""

    entries: NDArray[np.uint64]  # [early + early / 16]: first the early positions, then the late
    early: int
    tag_bits: Bits  # so many low bits of a hash do not choose among the early clusters

    boards: NDArray[np.uint64]  # [344, 4]: MINE, THEIRS, SAFE and HASH after the move
    numbers: NDArray[np.int64]  # [344, 3]: STONES, FLIPS and RANK
    order: NDArray[np.int64]  # [344]: rows, the most promising first

    frames: NDArray[np.int64]  # [43, 5]: BEST, BETA, NEXT, COUNT and PLY of a depth
    hashes: NDArray[np.uint64]  # [43]
    nodes: NDArray[np.int64]  # [1]


@helper
def _count(x: Bits) -> Any:
    x = x - ((x >> U1) & PAIRS)
    x = (x & NIBBLES) + ((x >> U2) & NIBBLES)
    x = (x + (x >> U4)) & BYTES
    return np.int64((x * ONES) >> U56)


@helper
def _wins(s: Bits) -> Bits:
    """Cells that complete four in a row with the stones `s`; some of them may be taken."""
    found = (s << U1) & (s << U2) & (s << U3)
    two = (s << U7) & (s << U14)
    found |= two & ((s << U21) | (s >> U7))
    two = (s >> U7) & (s >> U14)
    found |= two & ((s >> U21) | (s << U7))
    two = (s << U6) & (s << U12)
    found |= two & ((s << U18) | (s >> U6))
    two = (s >> U6) & (s >> U12)
    found |= two & ((s >> U18) | (s << U6))
    two = (s << U8) & (s << U16)
    found |= two & ((s << U24) | (s >> U8))
    two = (s >> U8) & (s >> U16)
    found |= two & ((s >> U24) | (s << U8))
    return found & BOARD


@helper
def _has_four(s: Bits) -> Any:
    two = s & (s >> U7)
    found = two & (two >> U14)
    two = s & (s >> U6)
    found |= two & (two >> U12)
    two = s & (s >> U8)
    found |= two & (two >> U16)
    two = s & (s >> U1)
    found |= two & (two >> U2)
    return found != U0


@helper
def _safe(mask: Bits, their_wins: Bits) -> Bits:
    """Moves after which the opponent cannot win at once."""
    playable = (mask + BOTTOM) & BOARD
    forced = their_wins & playable
    if forced != U0:
        if forced & (forced - U1) != U0:
            return U0
        playable = forced
    return playable & ~(their_wins >> U1)


@helper
def _hash(mine: Bits, mask: Bits, mirrored: bool) -> Bits:
    """The position as a number below 2 ** 49, no two alike but a position and its mirror image."""
    key = mine + mask
    if mirrored:
        image = ((key & OUTER) << U42) | ((key & OUTER) >> U42) | (key & MIDDLE)
        image |= ((key & SECOND) << U28) | ((key >> U28) & SECOND)
        image |= ((key & THIRD) << U14) | ((key >> U14) & THIRD)
        if image < key:
            key = image
    return (key * SCATTER) & KEY


@helper
def _follow_up(mover: Bits, other: Bits, wins: Bits, stones: int) -> Any:
    """Upper bound of the mover's score if the other side only ever answers, or NO_BOUND.

    The other side answers each stone right above it. A column with an odd number of empty cells
    is paired with another one: the first stone in either is answered in the other. So the mover
    gets at most the cells of `reach`; where they hold no four, the mover cannot win, and where
    the other side's threat `wins` waits in an answering cell, the mover runs out of other cells.

    An odd number of odd columns leaves one unpaired. It serves if it holds a threat of the other
    side that an answer would fill, because the mover loses by climbing to it.
    """
    mask = mover | other
    empty = BOARD & ~mask
    playable = (mask + BOTTOM) & BOARD
    bases = playable & ROWS_246
    threats = wins & empty & ROWS_246 & ~playable
    threats &= ~(threats << U2) & ~(threats << U4)
    reach = mover | bases | (empty & ROWS_135 & ~(SENTINELS - threats))
    waiting = empty & ~(SENTINELS - (threats >> U1))
    if stones & 1 == 0:
        if _has_four(reach):
            return NO_BOUND
        if threats == U0:
            return 0
        return -((42 - stones - _count(waiting)) // 2)
    best = NO_BOUND
    zugzwangs = wins & ROWS_135 & ((bases << U1) | (bases << U3))
    while zugzwangs != U0:
        below = (zugzwangs & (~zugzwangs + U1)) - U1
        shift = _count(below)
        column = COLUMN << np.uint64(shift - shift % 7)
        zugzwangs &= ~column
        if not _has_four((reach & (mover | ~column)) | (empty & column & ROWS_246 & below)):
            free = _count((waiting & ~column) | (empty & column & (below >> U1)))
            best = min(best, -((42 - stones - free) // 2))
    if best > 0 and not _has_four(BOARD & ~other):
        best = 0
    return best


@helper
def _play(mine: Bits, theirs: Bits, move: Bits, stones: int) -> Any:
    """Play a safe move and every answer that is the only safe one.

    Returns (mine, theirs, their_wins, safe, stones, flips, threats, score): the position to
    search, for its side to move; `flips` is 1 if that is the opponent, 0 if it is the mover
    again; `threats` counts the mover's winning cells after the move itself; `score` is the
    mover's exact score where the game is decided, else NO_BOUND.
    """
    last, other = mine | move, theirs
    wins = _wins(last) & ~(last | other)
    safe = _safe(last | other, wins)
    threats = _count(wins)
    stones += 1
    flips = 1
    while safe != U0 and safe & (safe - U1) == U0 and stones < 40:
        last, other = other | safe, last
        wins = _wins(last) & ~(last | other)
        safe = _safe(last | other, wins)
        stones += 1
        flips = 1 - flips
    score = NO_BOUND
    if safe == U0:
        score = (42 - stones) // 2 if flips == 1 else -((42 - stones) // 2)
    elif stones >= 40:
        score = 0
    return other, last, wins, safe, stones, flips, threats, score


@helper
def _place(hashed: Bits, stones: int, tables: Tables) -> Any:
    """First of the four entries where a position may be, and the tag that tells it from others.

    The tag holds every bit of the hash that does not choose the entry, so it names one position.
    """
    slot = (hashed >> tables.tag_bits) << U2
    if stones >= EARLY_STONES:
        slot = np.uint64(tables.early) + ((slot >> (LATE_SHIFT + U2)) << U2)
    return slot, hashed & ((U1 << (tables.tag_bits + LATE_SHIFT)) - U1)


@helper
def _bounds(entry: Bits) -> Any:
    """The two bounds of an entry as stored: 31 - the upper one, and the lower one + 32."""
    return np.int64((entry >> U6) & FIELD), np.int64(entry & FIELD)


@helper
def _store(hashed: Bits, stones: int, score: int, beta: int, tables: Tables) -> None:
    """Note that a position scores at least `score` (if it reaches `beta`) or at most `score`.

    An entry holds the tag and `_bounds`; zeros say nothing. The newest position of a cluster
    comes first and pushes the oldest out.
    """
    table = tables.entries
    slot, tag = _place(hashed, stones, tables)
    entry = table[slot]
    for i in (U1, U2, U3):
        if entry >> U12 != tag:
            older = table[slot + i]
            table[slot + i] = entry
            entry = older
    high, low = 0, 0
    if entry >> U12 == tag:
        high, low = _bounds(entry)
    if score >= beta:
        low = max(low, score + 32)
    else:
        high = max(high, 31 - score)
    table[slot] = (tag << U12) | (np.uint64(high) << U6) | np.uint64(low)


@helper
def _generate(
    mine: Bits, theirs: Bits, safe: Bits, stones: int, beta: int, first: int, tables: Tables
) -> Any:
    """Write the children that bounds alone do not settle from row `first` on.

    Returns (best, count): a lower bound of the score if it reaches `beta`, else an upper bound
    over the settled children; and how many children were written.
    """
    best, count = -NO_BOUND, 0
    while safe != U0:
        move = safe & (~safe + U1)
        safe &= safe - U1
        a, b, b_wins, a_safe, n, flips, threats, score = _play(mine, theirs, move, stones)
        if score != NO_BOUND:
            low = high = score
        else:
            high = (41 - n) // 2
            low = -((40 - n) // 2)
            goal = -beta if flips == 1 else beta - 1
            rows = ROWS_246 if n & 1 == 0 else ROWS_135
            if goal >= 0 or b_wins & rows != U0:
                high = min(high, _follow_up(a, b, b_wins, n))
            if flips == 1:
                low, high = -high, -low
        if low >= beta:
            return low, count
        if high < beta:
            best = max(best, high)
            continue
        row = first + count
        tables.boards[row, MINE], tables.boards[row, THEIRS] = a, b
        tables.boards[row, SAFE], tables.boards[row, HASH] = a_safe, U0
        tables.numbers[row, STONES], tables.numbers[row, FLIPS] = n, flips
        cell = _count(move - U1)
        place = cell % 7 - 4 * abs(cell // 7 - 3)
        tables.numbers[row, RANK] = 64 * threats - 4 * _count(a_safe) + place
        count += 1
    return best, count


@helper
def _recall(first: int, count: int, best: int, beta: int, mirrored: bool, tables: Tables) -> Any:
    """Look the written moves up and order the open ones, most promising first.

    Returns (best, count) as `_generate` does; `order` lists the rows to search.
    """
    kept = 0
    for row in range(first, first + count):
        n = tables.numbers[row, STONES]
        if n < KEPT_STONES:
            mask = tables.boards[row, MINE] | tables.boards[row, THEIRS]
            hashed = _hash(tables.boards[row, MINE], mask, mirrored)
            tables.boards[row, HASH] = hashed
            slot, tag = _place(hashed, n, tables)
            low, high = -NO_BOUND, NO_BOUND
            for i in (U0, U1, U2, U3):
                entry = tables.entries[slot + i]
                if entry >> U12 == tag:
                    high, low = _bounds(entry)
                    high, low = 31 - high, low - 32
                    break
            if tables.numbers[row, FLIPS] == 1:
                low, high = -high, -low
            if low >= beta:
                return low, kept
            if high < beta:
                best = max(best, high)
                continue
        at = first + kept
        rank = tables.numbers[row, RANK]
        while at > first and tables.numbers[tables.order[at - 1], RANK] < rank:
            tables.order[at] = tables.order[at - 1]
            at -= 1
        tables.order[at] = row
        kept += 1
    return best, kept


@helper
def _search(
    mine: Bits, theirs: Bits, safe: Bits, stones: int, beta: int, mirrored: bool, tables: Tables
) -> Any:
    """A lower bound of the score if that reaches `beta`, else an upper bound.

    The side to move has no win at once and `safe` is not empty. Row 8 * depth + i of `boards`,
    `numbers` and `order` belongs to the position at `depth`, so the search needs no recursion.
    """
    depth = 0
    hashed = _hash(mine, mine | theirs, mirrored)
    searched = 0
    while True:
        searched += 1
        first = 8 * depth
        best, count = _generate(mine, theirs, safe, stones, beta, first, tables)
        if best < beta:
            best, count = _recall(first, count, best, beta, mirrored, tables)
        at = 0
        while best >= beta or at == count:
            if stones < KEPT_STONES:
                _store(hashed, stones, best, beta, tables)
            if depth == 0:
                tables.nodes[0] += searched
                return best
            depth -= 1
            row = tables.order[8 * depth + tables.frames[depth, NEXT]]
            score = -best if tables.numbers[row, FLIPS] == 1 else best
            best = max(tables.frames[depth, BEST], score)
            beta, count = tables.frames[depth, BETA], tables.frames[depth, COUNT]
            at, stones = tables.frames[depth, NEXT] + 1, tables.frames[depth, PLY]
            hashed = tables.hashes[depth]
        tables.frames[depth, BEST], tables.frames[depth, BETA] = best, beta
        tables.frames[depth, NEXT], tables.frames[depth, COUNT] = at, count
        tables.frames[depth, PLY] = stones
        tables.hashes[depth] = hashed
        row = tables.order[8 * depth + at]
        mine, theirs = tables.boards[row, MINE], tables.boards[row, THEIRS]
        safe, hashed = tables.boards[row, SAFE], tables.boards[row, HASH]
        stones = tables.numbers[row, STONES]
        if tables.numbers[row, FLIPS] == 1:
            beta = 1 - beta
        depth += 1


@kernel
def _solve(mine: Bits, theirs: Bits, weak: bool, mirrored: bool, tables: Tables) -> Any:
    """The score of a position without four in a row; if `weak`, only its sign is right."""
    mask = mine | theirs
    stones = _count(mask)
    if _wins(mine) & (mask + BOTTOM) & BOARD & ~mask != U0:
        return (43 - stones) // 2
    safe = _safe(mask, _wins(theirs) & ~mask)
    if stones >= 41 or (stones == 40 and safe != U0):
        return 0
    if safe == U0:
        return -((42 - stones) // 2)
    low, high = -((40 - stones) // 2), (41 - stones) // 2
    while low < high and not (weak and (low > 0 or high < 0)):
        if low > 0:
            beta = low + 1
        else:
            beta = min(high, 1)
        score = _search(mine, theirs, safe, stones, beta, mirrored, tables)
        if score >= beta:
            low = score
        else:
            high = score
    return low if low > 0 else high


class Solver:
    """Exact scores of Connect Four positions; one per thread, for it owns its tables.

    A position is (mine, theirs), the stones of the side to move and those of the other side, in
    the layout of this file. Every method raises InvalidState for a position that no game reaches
    or in which the side that moved last has four in a row. What one call learns serves the next.
    """

    def __init__(self, table_megabytes: int = 64) -> None:
        """Reserve a table of `table_megabytes`, rounded down to a power of two, and a sixteenth."""
        if table_megabytes < 1:
            raise ConfigError(
                f"table_megabytes of the Connect Four solver is {table_megabytes}; "
                "allowed is 1 or more; give the megabytes that one thread may use."
            )
        size = (table_megabytes << 17).bit_length() - 1
        early = 1 << size
        entries = early + (early >> int(LATE_SHIFT))
        raw = np.zeros(entries + 8, np.uint64)
        # A cluster of four entries that straddles two cache lines costs two misses.
        start = -raw.ctypes.data % 64 // 8
        self._tables = Tables(
            entries=raw[start : start + entries],
            early=early,
            tag_bits=np.uint64(49 - (size - 2)),
            boards=np.zeros((8 * 43, 4), np.uint64),
            numbers=np.zeros((8 * 43, 3), np.int64),
            order=np.zeros(8 * 43, np.int64),
            frames=np.zeros((43, 5), np.int64),
            hashes=np.zeros(43, np.uint64),
            nodes=np.zeros(1, np.int64),
        )

    @property
    def nodes(self) -> int:
        """Positions searched since the solver was made; those settled by bounds do not count."""
        return int(self._tables.nodes[0])

    def score(self, mine: int, theirs: int) -> int:
        """The score with best play, from -21 to 21 (see the head of this file)."""
        check_position(int(mine), int(theirs))
        return self._solve(int(mine), int(theirs), False)

    def value(self, mine: int, theirs: int) -> int:
        """The result with best play: 1 a win for the side to move, 0 a draw, -1 a loss."""
        check_position(int(mine), int(theirs))
        return self._solve(int(mine), int(theirs), True)

    def column_scores(self, mine: int, theirs: int) -> NDArray[np.int32]:
        """The score of each of the seven moves for the side to move, FULL_COLUMN for no move."""
        return self._columns(int(mine), int(theirs), False)

    def column_values(self, mine: int, theirs: int) -> NDArray[np.int32]:
        """The result of each of the seven moves (1, 0 or -1), FULL_COLUMN for no move."""
        return self._columns(int(mine), int(theirs), True)

    def _columns(self, mine: int, theirs: int, weak: bool) -> NDArray[np.int32]:
        check_position(mine, theirs)
        results = np.full(7, FULL_COLUMN, np.int32)
        mask = mine | theirs
        for column in range(7):
            cell = mask + (1 << 7 * column) & _ONE_COLUMN << 7 * column
            if not cell:
                continue
            if _four_in_a_row(mine | cell):
                results[column] = 1 if weak else (43 - mask.bit_count()) // 2
            else:
                results[column] = -self._solve(theirs, mine | cell, weak)
        return results

    def _solve(self, mine: int, theirs: int, weak: bool) -> int:
        # A mirror image can only turn up later if no two mirrored cells hold different stones.
        mirrored = not _mirror(mine) & theirs
        # Each thread has its own error state; interpreted, the hash would warn as it wraps around.
        with np.errstate(over="ignore"):
            score = int(_solve(np.uint64(mine), np.uint64(theirs), weak, mirrored, self._tables))
        return (score > 0) - (score < 0) if weak else score


def _mirror(stones: int) -> int:
    return sum((stones >> 7 * c & 0x7F) << 7 * (6 - c) for c in range(7))


def _four_in_a_row(stones: int) -> bool:
    return any(stones & stones >> d & stones >> 2 * d & stones >> 3 * d for d in (1, 6, 7, 8))


def check_position(mine: int, theirs: int) -> None:
    """Raise InvalidState unless the side to move may still move or the board is full.

    Stones must lie on the board, on each other and not in one cell, be even in number up to the
    first player's extra one, and hold no four in a row.
    """
    mask = mine | theirs
    # Adding one at the foot of each column carries to just above its stones.
    heaped = mask & (mask + int(BOTTOM)) == 0
    extra = theirs.bit_count() - mine.bit_count()
    if mine < 0 or theirs < 0 or mask & ~int(BOARD):
        fault, allowed = "a stone off the board", "bits 7 * column + row, row below 6"
    elif mine & theirs:
        fault, allowed = "two stones in one cell", "sets that share no bit"
    elif not heaped:
        fault, allowed = "a stone above an empty cell", "columns filled from the bottom"
    elif extra not in (0, 1):
        fault, allowed = f"{extra} more stones of the side that waits", "0 or 1 more"
    elif _four_in_a_row(theirs) or _four_in_a_row(mine):
        fault, allowed = "four in a row", "positions whose game goes on"
    else:
        return
    raise InvalidState(
        f"The Connect Four position mine={mine:#x}, theirs={theirs:#x} has {fault}; allowed are {allowed}."
    )


def parse_moves(text: str) -> tuple[int, int]:
    """Play `text`, one digit 1..7 for each column from the empty board; returns (mine, theirs).

    Raises InvalidState at a character that is no column, a full column, or a move after the end.
    """
    mine = theirs = 0
    for i, character in enumerate(text):
        where = f"Move {i + 1} of the Connect Four moves {text!r} is {character!r}"
        if character not in "1234567":
            raise InvalidState(f"{where}, no column; allowed are the digits 1 to 7.")
        if _four_in_a_row(theirs):
            raise InvalidState(f"{where}, but move {i} won; allowed are no moves after the end.")
        column = 7 * (int(character) - 1)
        cell = (mine | theirs) + (1 << column) & _ONE_COLUMN << column
        if not cell:
            raise InvalidState(f"{where}, a full column; allowed are columns with fewer than 6.")
        mine, theirs = theirs, mine | cell
    return mine, theirs


def solve_many(
    positions: Sequence[tuple[int, int]],
    mode: Mode,
    threads: int,
    progress: Callable[[int], None] | None = None,
    table_megabytes: int = 64,
) -> NDArray[np.int32]:
    """Solve positions on threads, each with its own Solver; returns the results in order.

    `mode` names the Solver's method; the result is [n], or [n, 7] for the modes by column.
    `progress` hears how many of the positions, from the first on, are done.
    """
    own = threading.local()

    def start() -> None:
        own.solver = Solver(table_megabytes)

    def one(position: tuple[int, int]) -> Any:
        return getattr(own.solver, mode)(*position)

    shape = (len(positions), 7) if mode.startswith("column") else (len(positions),)
    results = np.zeros(shape, np.int32)
    pool = ThreadPoolExecutor(threads, "connect4-solver", initializer=start)
    try:
        for i, result in enumerate(pool.map(one, positions)):
            results[i] = result
            if progress is not None:
                progress(i + 1)
    finally:
        pool.shutdown(cancel_futures=True)
    return results
