"""Chess as text: positions as FEN, moves as UCI, the board, and files of openings."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import GameError, InvalidState
from .chess_moves import PROMOTION_PLANES, legal_actions, passant_pawns, threats
from .chess_play import (
    DRAWN,
    LAST_CLOCK,
    OFFSET,
    apply_action,
    dead,
    set_up,
    state_dtype,
)
from .chess_tables import KING, PAWN, RANK_7, flip

START = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"
LETTERS = "PNBRQK"
FILES = "abcdefgh"
SEATS = ("White", "Black")
MOST_STARTS = 10_000
"""Openings that a file may have; they are part of the compiled code."""

Board = dict[int, str]
"""Letters of the pieces by square, 8 * rank + file as White sees them."""


def square_name(square: int) -> str:
    """Return the name of a square as White sees it: `e4`."""
    return FILES[square & 7] + str((square >> 3) + 1)


def board_of(state: Any) -> Board:
    """Return the pieces of a state."""
    board, turn = {}, 56 * int(state.mover)
    for side in range(2):
        seat = int(state.mover) ^ side
        for kind, letter in enumerate(LETTERS):
            squares = int(state.pieces[kind] & state.sides[side])
            for square in range(64):
                if squares >> square & 1:
                    board[square ^ turn] = letter.lower() if seat else letter
    return board


def render(state: Any) -> str:
    """Return the board from White's side; capitals are White's."""
    board = board_of(state)
    rows = []
    for rank in range(7, -1, -1):
        cells = " ".join(board.get(8 * rank + file, ".") for file in range(8))
        rows.append(f"{rank + 1} {cells}")
    return "\n".join([*rows, "  " + " ".join(FILES)])


def action_name(state: Any, action: int, chess960: bool) -> str:
    """Return the move as UCI: `e2e4`, `e7e8q`; castling is `e1g1`, in Chess960 `e1h1`."""
    turn, plane, square = 56 * int(state.mover), action >> 6, action & 63
    target = square + int(OFFSET[plane])
    if int(state.sides[0]) >> target & 1 and not chess960:
        target = 6 if target > square else 2
    promoted = ""
    if plane >= PROMOTION_PLANES:
        promoted = "nbr"[(plane - PROMOTION_PLANES) // 3]
    elif int(state.pieces[PAWN] & state.sides[0] & RANK_7) >> square & 1:
        promoted = "q"
    return square_name(square ^ turn) + square_name(target ^ turn) + promoted


def position(state: Any) -> str:
    """Return the position as FEN, with the en passant square only where such a capture is legal.

    The word `repetition` follows where the game was drawn by it, because a FEN does not tell.
    """
    board, mover = board_of(state), int(state.mover)
    rows = []
    for rank in range(7, -1, -1):
        row, empty = "", 0
        for file in range(8):
            letter = board.get(8 * rank + file)
            if letter is None:
                empty += 1
                continue
            row += (str(empty) if empty else "") + letter
            empty = 0
        rows.append(row + (str(empty) if empty else ""))
    passant = int(state.passant)
    square = square_name((passant.bit_length() - 1) ^ 56 * mover) if passant else "-"
    castling = castling_letters(state, board) or "-"
    fen = f"{'/'.join(rows)} {'wb'[mover]} {castling} {square} {state.clock} {state.number}"
    return fen + (" repetition" if drawn_by_repetition(state) else "")


def drawn_by_repetition(state: Any) -> bool:
    """Return whether nothing that a FEN tells has drawn the game."""
    if state.over != DRAWN or state.clock >= LAST_CLOCK or dead(state.pieces):
        return False
    return bool(legal_actions(state, np.zeros(256, np.int32)))


def castling_letters(state: Any, board: Board) -> str:
    """Return the rights as K and Q, or as the file of the rook where another one stands further out."""
    letters = ""
    for seat, king_letter, rook_letter in ((0, "K", "R"), (1, "k", "r")):
        base = 56 * seat
        rights = int(state.castling if state.mover == 0 else flip(state.castling)) >> base & 0xFF
        king = next((f for f in range(8) if board.get(base + f) == king_letter), 8)
        rooks = [file for file in range(8) if board.get(base + file) == rook_letter]
        for file in range(7, -1, -1):
            if rights >> file & 1:
                right = file > king
                outermost = file == (max(rooks) if right else min(rooks))
                letter = ("K" if right else "Q") if outermost else FILES[file].upper()
                letters += letter.lower() if seat else letter
    return letters


def parse_position(state: Any, text: str, chess960: bool) -> None:
    """Fill the record from a FEN; InvalidState says which field is wrong."""
    fields = text.split()
    drawn = fields[6:] == ["repetition"]
    words = parse_fen(" ".join(fields[:6]) if drawn else text, chess960)
    set_up(state, words)
    if drawn:
        state.over = state.over or DRAWN


def parse_fen(text: str, chess960: bool) -> npt.NDArray[np.uint64]:
    """Return the words of `chess_play.set_up`, `u64 [11]`; InvalidState says which field is wrong."""
    fields = text.split()
    if len(fields) != 6:
        raise InvalidState(
            f"chess: '{text}' has {len(fields)} fields; a FEN has 6: board, side to move, castling, "
            "en passant square, half-move clock, number of the move."
        )
    board = parse_board(fields[0])
    if fields[1] not in ("w", "b"):
        raise InvalidState(f"chess: side to move is '{fields[1]}'; it must be 'w' or 'b'.")
    mover = "wb".index(fields[1])
    clock = parse_number("half-move clock", fields[4], 0, LAST_CLOCK)
    number = parse_number("number of the move", fields[5], 1, 10_000_000)
    words = np.zeros(11, np.uint64)
    for square, letter in board.items():
        seat = int(letter.islower())
        one = np.uint64(1 << (square ^ 56 * mover))
        words[LETTERS.index(letter.upper())] |= one
        words[6 + (seat ^ mover)] |= one
    for square in parse_castling(fields[2], board, chess960):
        words[8] |= np.uint64(1 << (square ^ 56 * mover))
    if in_check_after_move(words):
        raise InvalidState(f"chess: {SEATS[1 - mover]} is in check, but the side to move is {SEATS[mover]}.")
    words[9] = parse_passant(fields[3], words, board, mover)
    words[10] = mover + 2 * clock + 256 * number
    return words


def in_check_after_move(words: npt.NDArray[np.uint64]) -> bool:
    """Return whether the seat that is not to move is in check."""
    turned = [flip(word) for word in words[:8]]
    return bool(threats(np.array(turned[:6]), turned[7], turned[6])[0] & turned[KING] & turned[7])


def parse_board(text: str) -> Board:
    """Return the pieces of the first field of a FEN."""
    rows = text.split("/")
    if len(rows) != 8:
        raise InvalidState(f"chess: board '{text}' has {len(rows)} ranks; it must have 8 between '/'.")
    board: Board = {}
    for rank, row in zip(range(7, -1, -1), rows, strict=True):
        cells = "".join("." * int(c) if c in "12345678" else c for c in row)
        strange = set(cells) - set("." + LETTERS + LETTERS.lower())
        if len(cells) != 8 or strange:
            raise InvalidState(
                f"chess: rank {rank + 1} of the board, '{row}', is not 8 squares of PNBRQK, pnbrqk and "
                "counts of empty squares."
            )
        board |= {8 * rank + file: letter for file, letter in enumerate(cells) if letter != "."}
    check_material(board)
    return board


def check_material(board: Board) -> None:
    """Raise InvalidState where no game can have these pieces; `max_legal` rests on it."""
    for seat, name in enumerate(SEATS):
        squares: dict[str, list[int]] = {letter: [] for letter in LETTERS}
        for square, letter in board.items():
            if letter.islower() == bool(seat):
                squares[letter.upper()].append(square)
        count = {letter: len(found) for letter, found in squares.items()}
        if count["K"] != 1:
            raise InvalidState(f"chess: board: {name} has {count['K']} kings; it must have 1.")
        for square in squares["P"]:
            if not 8 <= square < 56:
                raise InvalidState(f"chess: board: a pawn cannot stand on {square_name(square)}.")
        dark = sum((square + (square >> 3)) % 2 == 0 for square in squares["B"])
        bishops = max(0, dark - 1) + max(0, count["B"] - dark - 1)
        promoted = bishops + sum(max(0, count[x] - n) for x, n in (("N", 2), ("R", 2), ("Q", 1)))
        if count["P"] + promoted > 8:
            raise InvalidState(
                f"chess: board: {name} has {count['P']} pawns and at least {promoted} promoted pieces; "
                "together there can be 8."
            )


def parse_number(name: str, text: str, least: int, most: int) -> int:
    """Return a counter of a FEN."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise InvalidState(
            f"chess: {name} is '{text[:20]}'; it must be a whole number from {least} to {most}."
        )
    return int(text)


def parse_castling(text: str, board: Board, chess960: bool) -> list[int]:
    """Return the squares of the rooks that may castle."""
    found: dict[tuple[bool, bool], int] = {}
    for letter in "" if text == "-" else text:
        if letter.upper() not in "KQABCDEFGH" or not text:
            raise InvalidState(
                f"chess: castling is '{text}'; it must be '-', or K, Q (White), k, q (Black) or the files "
                "of the rooks."
            )
        black = letter.islower()
        base = 56 * black
        king = next((file for file in range(8) if board.get(base + file) == "Kk"[black]), 8)
        rooks = [file for file in range(8) if board.get(base + file) == "Rr"[black]]
        if letter.upper() == "K":
            rooks = [max(rooks)] if rooks and max(rooks) > king else []
        elif letter.upper() == "Q":
            rooks = [min(rooks)] if rooks and min(rooks) < king else []
        else:
            rooks = [file for file in rooks if FILES[file] == letter.lower()]
        usual = chess960 or (king == 4 and rooks in ([0], [7]))
        if king == 8 or not rooks or not usual:
            raise InvalidState(
                f"chess: castling is '{text}', but {SEATS[black]} has no king and rook for '{letter}'"
                + (" on the first rank." if chess960 else " on their first squares.")
            )
        side = (black, rooks[0] > king)
        if side in found:
            raise InvalidState(f"chess: castling is '{text}'; '{letter}' names a right a second time.")
        found[side] = base + rooks[0]
    return list(found.values())


def parse_passant(text: str, words: npt.NDArray[np.uint64], board: Board, mover: int) -> np.uint64:
    """Return the en passant square as the seat to move sees it, 0 where no such capture is legal."""
    if text == "-":
        return np.uint64(0)
    rank, up = (5, 8) if mover == 0 else (2, -8)
    square = 8 * rank + FILES.find(text[:1])
    if len(text) != 2 or text[0] not in FILES or text[1] != str(rank + 1):
        raise InvalidState(
            f"chess: en passant square is '{text}'; with {SEATS[mover]} to move it must be '-' or a square "
            f"of rank {rank + 1}."
        )
    pawn = "pP"[mover]
    if board.get(square - up) != pawn or square in board or square + up in board:
        raise InvalidState(
            f"chess: en passant square is '{text}', but no pawn of {SEATS[1 - mover]} has just passed it."
        )
    one = np.uint64(1 << (square ^ 56 * mover))
    return one if passant_pawns(words[:6], words[6], words[7], one) else np.uint64(0)


def starts(fen: str, openings: str, chess960: bool) -> npt.NDArray[np.uint64]:
    """Return the positions from which games start, `u64 [n, 11]` as `chess_play.set_up` takes them."""
    if openings:
        return read_openings(openings, chess960)
    if chess960 and not fen:
        return np.stack([parse_fen(chess960_fen(n), True) for n in range(960)])
    return parse_fen(fen or START, chess960)[None]


def chess960_fen(number: int) -> str:
    """Return start position 0 to 959 by Scharnagl's numbering."""
    row = [""] * 8
    rest, light = divmod(number, 4)
    rest, dark = divmod(rest, 4)
    knights, queen = divmod(rest, 6)
    row[2 * light + 1] = row[2 * dark] = "b"
    pairs = [(a, b) for a in range(5) for b in range(a + 1, 5)]
    for piece, index in [("q", queen), *(("n", i) for i in reversed(pairs[knights]))]:
        row[[file for file in range(8) if not row[file]][index]] = piece
    for piece in "rkr":
        row[row.index("")] = piece
    back = "".join(row)
    return f"{back}/pppppppp/8/8/8/8/PPPPPPPP/{back.upper()} w KQkq - 0 1"


def read_openings(path: str, chess960: bool) -> npt.NDArray[np.uint64]:
    """Return the starts of a file: a FEN, or UCI moves from the usual start, a line; `#` is a remark."""
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GameError(f"chess: the openings '{path}' cannot be read: {error}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            words = parse_fen(text, chess960) if "/" in text else play_moves(text.split(), chess960)
        except InvalidState as error:
            raise InvalidState(f"{path}:{number}: {error}") from error
        found.append(words)
    if not 1 <= len(found) <= MOST_STARTS:
        raise GameError(
            f"chess: the openings '{path}' have {len(found)} starts; allowed: 1 to {MOST_STARTS}."
        )
    return np.stack(found)


def play_moves(names: list[str], chess960: bool) -> npt.NDArray[np.uint64]:
    """Return the position after these moves from the usual start."""
    if chess960:
        raise InvalidState("chess: a list of moves has no start in Chess960; give a FEN.")
    state = np.zeros(1, np.dtype((np.record, state_dtype(0))))[0]
    set_up(state, parse_fen(START, False))
    ids = np.zeros(256, np.int32)
    for number, name in enumerate(names, 1):
        legal = {action_name(state, int(a), False): int(a) for a in ids[: legal_actions(state, ids)]}
        if state.over:
            raise InvalidState(f"chess: move {number}, '{name}', comes after the end of the game.")
        if name not in legal:
            raise InvalidState(
                f"chess: move {number}, '{name}', is not legal there; allowed: {', '.join(legal)}."
            )
        apply_action(state, legal[name])
    facts = int(state.mover) + 2 * int(state.clock) + 256 * int(state.number)
    words = [*state.pieces, *state.sides, state.castling, state.passant, np.uint64(facts)]
    return np.array(words, np.uint64)
