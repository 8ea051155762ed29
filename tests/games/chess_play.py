"""Ways to play chess at random, so that games end in every way, and python-chess as the judge of the end."""

from __future__ import annotations

from zeroloop.compiled import kernel
from zeroloop.games import TERMINAL
from zeroloop.games.game import apply_action, legal_actions, outcome, to_play

DRAW, MATED = 2, (1, 0)
"""Rows of the outcome table: a draw, and the row by the seat that is mated."""

SPARSE = [
    "8/8/8/3k4/8/3K4/3R4/8 w - - 0 1",
    "8/8/4k3/8/2r5/8/3K1R2/8 w - - 10 40",
    "8/2q5/4k3/8/8/2Q5/3K4/8 b - - 60 80",
    "8/5n2/4k3/8/5B2/8/3K3p/8 w - - 0 1",
    "2b5/5n2/4k3/8/5B2/8/3K4/8 w - - 0 1",
    "8/5b2/4k3/8/2B5/7p/3K4/8 b - - 0 1",
    "8/1P6/4k3/8/8/8/3K2p1/8 w - - 0 1",
    "8/4b3/4k3/8/5B2/8/3K1P2/8 w - - 0 1",
    "8/5nn1/4k3/8/8/8/3K4/8 w - - 0 1",
    "4k2r/7p/8/8/8/8/P7/R3K3 w Qk - 90 60",
    "6k1/8/8/8/8/8/R7/1R4K1 w - - 94 60",
    "8/8/8/8/8/4k3/4p3/4K3 w - - 0 1",
    "7k/8/8/8/8/5Q2/8/K7 w - - 0 1",
]
"""Few pieces, and high clocks: games from here end in all the ways in which a game can be drawn."""


def end_of(board):
    """Return (row of the outcome table, reason), (None, "") while the game goes on."""
    if board.is_checkmate():
        return MATED[0 if board.turn else 1], "checkmate"
    for reason, holds in (
        ("stalemate", board.is_stalemate()),
        ("material", board.is_insufficient_material()),
        ("clock", board.halfmove_clock >= 100),
        ("repetition", board.is_repetition(3)),
    ):
        if holds:
            return DRAW, reason
    return None, ""


def uniform(board, rng):
    return rng.choice(list(board.legal_moves))


def back_and_forth(board, rng):
    """Take the last move back in seven of ten cases, where that is legal."""
    if len(board.move_stack) >= 2 and rng.random() < 0.7:
        last = board.move_stack[-2]
        back = type(last)(last.to_square, last.from_square)
        if board.is_legal(back) and not board.is_zeroing(back):
            return back
    return uniform(board, rng)


def patient(board, rng):
    """Neither capture nor move a pawn, where there is a choice."""
    moves = list(board.legal_moves)
    return rng.choice([move for move in moves if not board.is_zeroing(move)] or moves)


@kernel
def play_on(game, states, out, action):
    """Play an action, none where it is negative; return the number of legal ones, or -1 - outcome row."""
    if action >= 0:
        apply_action(game, states[0], action)
    if to_play(game, states[0]) == TERMINAL:
        return -1 - outcome(game, states[0])
    return legal_actions(game, states[0], out)


POLICIES = uniform, back_and_forth, patient
