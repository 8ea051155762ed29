"""Chess and Chess960 as bit boards of the seat to move; draws by repetition, 50 moves and material."""

from __future__ import annotations

import numpy as np

from .. import draws
from ..compiled import kernel
from ..errors import GameError
from . import chess_text
from .chess_moves import ACTIONS, legal_actions
from .chess_play import (
    LAST_CLOCK,
    OUTCOMES,
    apply_action,
    occurrences,
    set_up,
    state_dtype,
)
from .chess_tables import (
    BISHOP,
    END_VALUE,
    KING,
    KNIGHT,
    MIDDLE_VALUE,
    ONE,
    PAWN,
    PHASE,
    QUEEN,
    ROOK,
    WHOLE_PHASE,
    ZERO,
    eight,
    flip,
    part,
    trailing_zeros,
)
from .game import TERMINAL, Game, Observation
from .game import apply_action as apply_action_of
from .game import legal_actions as legal_actions_of

PLANES, PLANES_OF_PAST = 20, 12
"""Planes of the present position, and of each past one."""


def to_play(state):
    return TERMINAL if state.over != 0 else state.mover


# A rule is inlined at each of its calls; these two are too long for that and are compiled once.


def list_legal(state, out):
    return legal_actions(state, out)


def play(state, action):
    apply_action(state, action)


def outcome(state):
    return state.over - 1


@part
def mark(plane, squares):
    """Write 1 to the squares of a plane `f32 [8, 8]`."""
    while squares:
        square = trailing_zeros(squares)
        plane[square >> 3, square & 7] = 1.0
        squares &= squares - ONE


@part
def fact(state, channel):
    """Return what fills a plane whose squares are all alike, 0 for any other."""
    if channel == 12:
        return np.float32(occurrences(state) > 1)
    if channel == 18:
        return np.float32(state.clock / LAST_CLOCK)
    if channel == 19:
        return np.float32(1)
    side = 0 if channel <= 14 else 1
    rooks = state.castling & state.sides[side]
    # With the king on the far side of the board the bits below it are those to its left as well.
    left = (state.pieces[KING] & state.sides[side]) - ONE
    return np.float32(channel < 17 and rooks & (~left if channel & 1 else left) != ZERO)


@part
def write_planes(state, planes):
    """Write the planes of the present position, and zeros to all others."""
    for channel in range(planes.shape[0]):
        for rank in range(8):
            for file in range(8):
                planes[channel, rank, file] = 0.0
    for channel in range(eight(state.castling) + 4):
        side = channel // 6
        mark(planes[channel], state.pieces[channel - 6 * side] & state.sides[side])
    mark(planes[17], state.passant)
    for channel in range(12, eight(state.castling) + 12):
        value = fact(state, channel)
        if value:
            for rank in range(8):
                for file in range(8):
                    planes[channel, rank, file] = value


def observe(state, planes, global_facts):
    """Planes `[20, rank, file]`: 6 own and 6 other pieces (P N B R Q K), whether the position has occurred
    before, castling to the right and to the left for me and for the other seat, the en passant square, the
    clock / 100, ones.
    """
    write_planes(state, planes)


def observe_past(state, planes, global_facts):
    """The same, then 12 planes of pieces for each past board, the last one first."""
    write_planes(state, planes)
    for n in range(state.past.shape[0]):
        a, b, c, other = state.past[n, 0], state.past[n, 1], state.past[n, 2], state.past[n, 3]
        for kind in range(6):
            number = kind + 1
            squares = (a if number & 1 else ~a) & (b if number & 2 else ~b) & (c if number & 4 else ~c)
            mark(planes[PLANES + PLANES_OF_PAST * n + kind], squares & ~other)
            mark(planes[PLANES + PLANES_OF_PAST * n + 6 + kind], squares & other)


def apply_past(state, action):
    """Keep the board, then play."""
    for n in range(state.past.shape[0] - 1, 0, -1):
        for word in range(4):
            state.past[n, word] = flip(state.past[n - 1, word])
        # The squares of the other seat become those of the seat to move, and the other way round.
        state.past[n, 3] ^= state.past[n, 0] | state.past[n, 1] | state.past[n, 2]
    pieces = state.pieces
    state.past[0, 0] = flip(pieces[PAWN] | pieces[BISHOP] | pieces[QUEEN])
    state.past[0, 1] = flip(pieces[KNIGHT] | pieces[BISHOP] | pieces[KING])
    state.past[0, 2] = flip(pieces[ROOK] | pieces[QUEEN] | pieces[KING])
    state.past[0, 3] = flip(state.sides[0])
    apply_action(state, action)


@part
def balance(state, side):
    """Return (middle game, end game) value in centipawns and the weight of the pieces of a side."""
    middle, end, phase = 0, 0, 0
    for kind in range(6):
        squares = state.pieces[kind] & state.sides[side]
        while squares:
            square = trailing_zeros(squares) ^ 56 * side
            middle += MIDDLE_VALUE[kind, square]
            end += END_VALUE[kind, square]
            phase += PHASE[kind]
            squares &= squares - ONE
    return middle, end, phase


def heuristic(state, seat):
    """Material and squares, weighted between middle game and end game by the pieces left."""
    middle, end, phase = balance(state, 0)
    middle_other, end_other, phase_other = balance(state, 1)
    weight = min(phase + phase_other, WHOLE_PHASE) / WHOLE_PHASE
    ahead = weight * (middle - middle_other) + (1.0 - weight) * (end - end_other)
    value = ahead / (400.0 + abs(ahead))
    return value if seat == state.mover else -value


# From here on plain Python, but for the kernel of perft.


@kernel
def count_leaves(game, states, moves, next_move, count, depth):
    """Return the number of legal move sequences of this length from states[0]; 1 or longer."""
    leaves = 0
    ply = 0
    count[0] = legal_actions_of(game, states[0], moves[0])
    if depth == 1:
        return count[0]
    next_move[0] = 0
    while ply >= 0:
        if next_move[ply] == count[ply]:
            ply -= 1
            continue
        states[ply + 1] = states[ply]
        apply_action_of(game, states[ply + 1], moves[ply, next_move[ply]])
        next_move[ply] += 1
        k = legal_actions_of(game, states[ply + 1], moves[ply + 1])
        if ply + 2 == depth:
            leaves += k
        else:
            ply += 1
            count[ply], next_move[ply] = k, 0
    return leaves


UNSTOPPABLE = 5
"""Plies that are counted in one go."""


def perft(game, fen, depth):
    """Return the number of legal move sequences of this length from a position; draws do not end them.

    Raises:
      InvalidState: the position text is wrong.
      GameError: the depth is not a whole number from 0.
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise GameError(f"chess: perft depth is {depth!r}; it must be a whole number from 0.")
    return perft_of(game, game.parse_position(fen), depth)


def perft_of(game, start, depth):
    """Return the number of legal move sequences of this length from a state."""
    if depth == 0:
        return 1
    if depth > UNSTOPPABLE:  # a step in Python, so that Ctrl-C is heard
        total = 0
        for action in game.legal(start):
            after = game.copy(start)
            game.rules["apply_action"](after, action)
            total += perft_of(game, after, depth - 1)
        return total
    states = game.states(depth + 1)
    states[0] = start
    moves = np.zeros((depth + 1, game.max_legal), np.int32)
    next_move, count = np.zeros((2, depth + 1), np.int64)
    return int(count_leaves(game, states, moves, next_move, count, depth))


def repetitions(state):
    """Return how often the position of the record has occurred since the last capture or pawn move."""
    return int(occurrences(state))


def details(state, rolled):
    """Return what the command line tells of a position beside the contract."""
    return {"repetitions": repetitions(state)}


def make(fen="", openings="", chess960=False, history=0, max_plies=512):
    """Return chess.

    Args:
      fen: position from which every game starts; the usual start where it is empty.
      openings: file of positions or move lists, one a line, from which a game draws its start.
      chess960: castling by the rules of Chess960; without `fen` and `openings` the start is drawn from 960.
      history: past boards that the network sees.
      max_plies: bound on the plies of a game.

    Raises:
      GameError: an option is wrong.
      InvalidState: a position or opening is wrong.
    """
    texts = {"fen": fen, "openings": openings}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise GameError(f"chess: {name} is {text!r}; it must be a text.")
    if fen and openings:
        raise GameError("chess: both fen and openings are given; a game has one kind of start.")
    if not isinstance(chess960, bool):
        raise GameError(f"chess: chess960 is {chess960!r}; it must be true or false.")
    for name, number, least, most in (("history", history, 0, 8), ("max_plies", max_plies, 1, 100_000)):
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
            raise GameError(f"chess: {name} is {number!r}; it must be a whole number from {least} to {most}.")
    starts = chess_text.starts(fen, openings, chess960)
    dtype, choices = state_dtype(history), len(starts)

    def initial(state, seed):
        words = starts[draws.integer(seed, draws.INITIAL, 0, 0, 0, choices) if choices > 1 else 0]
        set_up(state, words)

    def initial_past(state, seed):
        initial_rule(state, seed)
        for n in range(history):
            for word in range(4):
                state.past[n, word] = ZERO

    initial_rule = part(initial)

    def parse_position(state, text):
        chess_text.parse_position(state, text, chess960)
        if history:
            state.past[:] = 0

    def action_name(state, action):
        return chess_text.action_name(state, action, chess960)

    given = {"fen": fen, "openings": openings, "chess960": chess960, "history": history}
    usual = {"fen": "", "openings": "", "chess960": False, "history": 0}
    return Game(
        "chess",
        version=1,
        options={name: value for name, value in given.items() if value != usual[name]}
        | ({"max_plies": max_plies} if max_plies != 512 else {}),
        state_dtype=dtype,
        num_players=2,
        num_actions=ACTIONS,
        max_legal=218,
        max_plies=max_plies,
        truncates=True,
        outcomes=OUTCOMES,
        observation=Observation(planes=(PLANES + PLANES_OF_PAST * history, 8, 8)),
        rules={
            "initial": initial_past if history else initial,
            "to_play": to_play,
            "legal_actions": list_legal,
            "apply_action": apply_past if history else play,
            "outcome": outcome,
            "observe": observe_past if history else observe,
            "heuristic": heuristic,
        },
        render=chess_text.render,
        action_name=action_name,
        position=chess_text.position,
        parse_position=parse_position,
        details=details,
    )
