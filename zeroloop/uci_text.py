"""What UCI says as text: options, the limits of `go`, positions and moves. Knows no search."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

import numpy as np

from .compiled import kernel
from .errors import ConfigError, IllegalAction
from .games import chess_text
from .games.chess_play import LAST_CLOCK, dead
from .games.game import Game, State, apply_action, legal_actions
from .players import Array

NUMBERS = ("wtime", "btime", "winc", "binc", "movestogo", "movetime", "nodes", "depth", "mate")
LEAST = {"movestogo": 1, "movetime": 0, "nodes": 1, "depth": 1, "mate": 1}
"""The least that the numbers of `go` may be; a clock may have run out."""
MOST = 10**12
FLAGS = ("infinite", "ponder")
MOST_TOLD = 24
"""Moves of a line that are printed."""
USUAL_MOVES = 40
"""Moves for which the remaining time is kept, where the time control names no number or more."""


def centipawns(value: float) -> int:
    """Return the score of a mean value in [-1, 1]: 100 is an expected score of 64 %, as 100 Elo give."""
    v = min(max(value, -1 + 1e-6), 1 - 1e-6)
    return round(400 * math.log10((1 + v) / (1 - v)))


def seconds_for_move(remaining: float, increment: float, moves_to_go: int, overhead: float) -> float:
    """Return the seconds to think about one move, so that the clock never runs out; all in seconds.

    Args:
      moves_to_go: 0 where the time must last for the whole game.
      overhead: what a move costs beside its search.
    """
    moves = min(moves_to_go or USUAL_MOVES, USUAL_MOVES)
    # The overhead of the moves to come is set aside; without an increment nothing would pay for it later.
    share = max(remaining - moves * overhead, 0.0) / moves + 0.75 * max(increment, 0.0)
    return min(share, max(remaining - overhead, 0.0) * (0.8 if moves == 1 else 0.4))


@kernel
def follow(game: Any, states: Any, actions: Any) -> None:
    """Write the states after each of the actions behind states[0]."""
    for i in range(actions.shape[0]):
        states[i + 1] = states[i]
        apply_action(game, states[i + 1], actions[i])


@kernel
def legal_ids(game: Any, states: Any, out: Any) -> Any:
    """Write the legal actions of states[0] and return how many, whether or not its game is over."""
    return legal_actions(game, states[0], out)


def claimed(fen: str) -> str:
    """Return a FEN whose half-move clock stands where a draw can be claimed, if it is beyond.

    Without a claim a game goes on to 75 moves, by the laws of chess (FIDE 2023, 9.6.2).
    """
    fields = fen.split()
    if len(fields) == 6 and fields[4].isascii() and fields[4].isdigit() and len(fields[4]) == 3:
        if LAST_CLOCK < int(fields[4]) < 150:
            fields[4] = str(LAST_CLOCK)
    return " ".join(fields)


class Limits(NamedTuple):
    """What a `go` command asks for; times in milliseconds, None: not given."""

    numbers: dict[str, int]
    infinite: bool = False
    ponder: bool = False
    moves: tuple[str, ...] = ()
    """Of `searchmoves`."""
    unknown: tuple[str, ...] = ()


def parse_go(words: list[str]) -> Limits:
    """Return the limits of a `go` command; ConfigError where a number is missing or out of range."""
    numbers: dict[str, int] = {}
    flags: set[str] = set()
    moves: list[str] = []
    unknown: list[str] = []
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word in FLAGS:
            flags.add(word)
        elif word == "searchmoves":
            while rest and rest[0] not in (*NUMBERS, *FLAGS):
                moves.append(rest.popleft())
        elif word in NUMBERS:
            text = rest.popleft() if rest else ""
            least = LEAST.get(word, -MOST)
            digits = text.removeprefix("-")
            whole = digits.isascii() and digits.isdigit() and len(digits) <= 15
            if not whole or not least <= int(text) <= MOST:
                allowed = f"a whole number from {least} to {MOST}"
                raise ConfigError(f"go {word} is '{text[:20]}'; it must be {allowed}.")
            numbers[word] = int(text)
        else:
            unknown.append(word)
    return Limits(numbers, "infinite" in flags, "ponder" in flags, tuple(moves), tuple(unknown))


class Option(NamedTuple):
    """An option as the protocol describes it; a check is 0 or 1."""

    name: str
    kind: str
    default: int = 0
    least: int = 0
    most: int = 0

    def __str__(self) -> str:
        text = f"option name {self.name} type {self.kind}"
        if self.kind == "spin":
            return f"{text} default {self.default} min {self.least} max {self.most}"
        return text if self.kind == "button" else f"{text} default {'true' if self.default else 'false'}"

    def parse(self, text: str) -> int:
        """Return the value of a text; ConfigError where it is out of range."""
        if self.kind == "check":
            if text.lower() not in ("true", "false"):
                raise ConfigError(f"option {self.name} is '{text[:20]}'; it must be true or false.")
            return int(text.lower() == "true")
        whole = text.isascii() and text.isdigit() and len(text) <= 9
        if not whole or not self.least <= int(text) <= self.most:
            allowed = f"a whole number from {self.least} to {self.most}"
            raise ConfigError(f"option {self.name} is '{text[:20]}'; it must be {allowed}.")
        return int(text)


class Board:
    """The position of the last `position` command, and how its moves are written."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self.chess960 = False
        """Whether castling is written as in Chess960: the king takes its own rook."""
        self.notes: list[str] = []
        """What a person should know of the position."""
        self._start = ""
        self._moves: list[str] = []
        self.state: State | None = None
        self.set(["startpos"])

    def set(self, words: list[str]) -> None:
        """Follow a `position` command; a longer list of the same moves is played on from where it was.

        Raises:
          ConfigError, InvalidState, IllegalAction: there is no such position; `state` is None then.
        """
        before, self.state, self.notes = self.state, None, []
        place = words.index("moves") if "moves" in words else len(words)
        head, moves = words[:place], words[place + 1 :]
        if head != ["startpos"] and head[:1] != ["fen"]:
            raise ConfigError("position must be followed by startpos or fen FEN, then by moves, if any.")
        text = claimed(" ".join(head[1:])) if head[0] == "fen" else chess_text.START
        known = len(self._moves)
        if before is not None and text == self._start and moves[:known] == self._moves:
            state = before
        else:
            chess_text.parse_fen(text, self.chess960)
            state, known = self.game.parse_position(text), 0
        for name in moves[known:]:
            state = self.after(self._open(state), name)
        opened = self._open(state)
        if opened is not state:
            self.notes = ["a draw by repetition or 50 moves, not claimed: played on as from a new start."]
        self.state, self._start, self._moves = opened, text, moves

    @property
    def seat(self) -> int:
        """Return the seat to move: 0 White, 1 Black."""
        return int(self.known().mover)

    def after(self, state: State, name: str) -> State:
        """Return the state after a move; IllegalAction where it is none."""
        return self._along(state, (self.action(state, name),))[1]

    def action(self, state: State, name: str) -> int:
        """Return the action of a move's name; IllegalAction where it is none."""
        names = self.names(state)
        if name not in names:
            allowed = ", ".join(names) or "none: the game is over"
            where = chess_text.position(state)
            raise IllegalAction(f"move '{name[:20]}' is not legal in {where}; allowed: {allowed}.")
        return names[name]

    def names(self, state: State) -> dict[str, int]:
        """Return the legal moves of a state by name."""
        legal = [] if state.over else self.allowed(state)
        return {self.name(state, action): action for action in legal}

    def name(self, state: State, action: int) -> str:
        """Return a move as it is written now."""
        return chess_text.action_name(state, action, self.chess960)

    def line(self, actions: tuple[int, ...]) -> str:
        """Return the moves of a line from the position."""
        told = actions[:MOST_TOLD]
        states = self._along(self.known(), told)
        return " ".join(self.name(state, action) for state, action in zip(states, told, strict=False))

    def allowed(self, state: State) -> list[int]:
        """Return the moves that the pieces allow, whether or not the game is over."""
        states = self.game.states(1)
        states[0] = state
        ids = np.zeros(self.game.max_legal, np.int32)
        return [int(x) for x in ids[: legal_ids(self.game, states, ids)]]

    def known(self) -> State:
        """Return the position; ConfigError where the last one was refused."""
        if self.state is None:
            raise ConfigError("the last position was refused; send a legal one before go.")
        return self.state

    def _along(self, state: State, actions: tuple[int, ...]) -> Array:
        """Return the state and those after each of the actions."""
        states = self.game.states(len(actions) + 1)
        states[0] = state
        follow(self.game, states, np.array(actions, np.int32))
        return states

    def _open(self, state: State) -> State:
        """Return the state, without its past where only a claim would have ended the game.

        The model's games end at the third repetition and after 50 moves; a board may play on.
        """
        if not state.over or not self.claimable(state):
            return state
        fields = chess_text.position(state).split()
        return self.game.parse_position(" ".join([*fields[:4], "0", fields[5]]))

    def claimable(self, state: State) -> bool:
        """Return whether an ended game has legal moves, and pieces to mate with."""
        return bool(self.allowed(state)) and not dead(state.pieces)
