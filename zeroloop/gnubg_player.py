"""An agent behind GNU Backgammon's external-player protocol: `set player 0 external localhost:PORT` plays it.

gnubg sends a FIBS board string whenever its external player has something to decide, and reads one line:
a move (`8/5 6/5`, empty where none is possible), `roll`, `take` or `drop`. Facts that decide the rules here:

- The agent knows no cube. It never doubles. It takes a double if it expects at least -0.5 points of a game
  without cube, gammons counted, for then taking costs no more than the point that dropping costs.
- It never resigns. gnubg does not ask its external player about resignations: it accepts a resigned
  backgammon and declines anything less by itself. Match scores are not looked at.
- gnubg plays an illegal answer as no move at all and says nothing, so every move is checked here before it
  is sent, and every new board against the one that the last move left.
"""

from __future__ import annotations

import signal
import socketserver
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import InvalidState, PlayerError, ZeroloopError
from .games.backgammon import BAR, CHECKERS, GAME, PASS, START, recount
from .players import Player, SearchPlayer
from .players.backgammon_turns import turns

Array = npt.NDArray[Any]

FIELDS = 47
"""Fields of a FIBS board string up to both sides' checkers borne off; later ones are not read."""

LONGEST_LINE = 1000
"""Bytes of a question; gnubg's have about 150."""

MOST_CONNECTIONS = 8
"""At a time; further ones are refused with an error line."""

DEAD_CUBE_TAKE = -0.5
"""Least points per game, cube left out, with which a double is taken."""

PIPS = np.arange(1, 26)
"""What a checker has to go from each place; from the bar 25."""

LONGEST_TURN = 24
"""Pips of double sixes: a side that has moved more often than once has mostly gone further."""

Worth = Callable[[Any], tuple[float, float]]
"""Points that the seats expect of a state before the roll."""


class Question(NamedTuple):
    """A decision that gnubg asks for."""

    state: Any
    """The side on roll is seat 0; before the roll without dice."""
    doubled: bool
    """The side on roll has doubled, and the other, the agent, takes or drops."""
    players: tuple[str, str] = ("", "")
    score: tuple[int, int] = (0, 0)
    """Points that the players have won in the games finished so far."""


def read_board(line: str) -> Question:
    """Return what a FIBS board string asks.

    Source: the FIBS client protocol, "board state". Point counts are positive for X and negative for O.
    `turn` is the colour on roll, `colour` and `direction` belong to the player named first.

    Raises:
      InvalidState: it is no such string, or a board that cannot be.
    """
    fields = line.split(":")
    if fields[0] != "board" or len(fields) < FIELDS:
        raise InvalidState(
            f"'{line[:60]}' is no FIBS board string: 'board:' and {FIELDS - 1} fields with ':' between."
        )
    try:
        numbers = [int(field) for field in fields[3:FIELDS]]
    except ValueError:
        raise InvalidState(f"the FIBS board string '{line[:200]}' has a field that is no number.") from None
    board, turn, dice = numbers[3:29], numbers[29], numbers[30:34]
    doubled, colour, direction = numbers[37:40]
    if turn not in (-1, 1) or colour not in (-1, 1) or direction not in (-1, 1):
        raise InvalidState(
            f"the FIBS board string '{line[:200]}' has turn {turn}, colour {colour} and direction "
            f"{direction}; each must be 1 or -1."
        )
    # The way of the side on roll: down to point 1 with the bar at 25, or up to point 24 with the bar at 0.
    down = direction * colour * turn < 0
    seen = np.array(board if down else board[::-1]) * turn
    state = GAME.states(1)[0]
    state.checkers[0, : BAR + 1] = np.maximum(seen[1:], 0)
    state.checkers[1, : BAR + 1] = np.maximum(-seen[24::-1], 0)
    if state.checkers.sum(axis=1).max() > CHECKERS or np.abs(seen).max() > CHECKERS or seen[0] > 0:
        raise InvalidState(f"the FIBS board string '{line[:200]}' has more than 15 checkers of a side.")
    recount(state, 0)
    recount(state, 1)
    rolled = [die for die in dice[:2] if die] or [die for die in dice[2:] if die]
    if rolled and not doubled:
        if len(rolled) != 2 or not all(1 <= die <= 6 for die in rolled):
            raise InvalidState(f"the FIBS board string '{line[:200]}' has the dice {dice}; two from 1 to 6.")
        state.die = max(rolled)
        state.other = -3 if rolled[0] == rolled[1] else min(rolled)
    checked = GAME.parse_position(GAME.position(state))  # whatever else is wrong is told here
    if checked["over"]:
        raise InvalidState(f"the game of the FIBS board string '{line[:200]}' is over; nothing is to decide.")
    return Question(checked, bool(doubled), (fields[1], fields[2]), (numbers[1], numbers[2]))


def move_text(actions: list[int]) -> str:
    """Return a turn in gnubg's notation; empty where no checker moves."""
    parts = []
    for action in actions:
        if action != PASS:
            place, die = action // 6, action % 6 + 1
            target = place + 1 - die
            parts.append(f"{'bar' if place == BAR else place + 1}/{target if target > 0 else 'off'}")
    return " ".join(parts)


def expected_points(player: SearchPlayer, state: Any) -> tuple[float, float]:
    """Return what the seats expect of a state before the roll: the mean of a search after each roll."""
    rolls = GAME.chance(state)
    states = GAME.states(len(rolls))
    for row, (outcome, _) in enumerate(rolls):
        states[row] = state
        GAME.rules["apply_action"](states[row], outcome)
    found = player.search(states, np.zeros(len(rolls), np.uint64), np.zeros(len(rolls), np.int32))
    values = found.root_value if player.simulations else found.network_value
    weights = np.array([probability for _, probability in rolls])
    first, second = weights @ values.astype(np.float64) * GAME.scale / weights.sum()
    return float(first), float(second)


class ExternalPlayer:
    """Answers gnubg's questions, of one connection.

    Args:
      player: chooses the movements. worth: for takes and drops.
      warn: hears where a board does not follow from the last move. tell: hears of finished games.
    """

    def __init__(
        self, player: Player, worth: Worth, warn: Callable[[str], None], tell: Callable[[str], None]
    ) -> None:
        self.player, self.worth, self.warn, self.tell = player, worth, warn, tell
        self._score: tuple[int, int] | None = None
        self._left: npt.NDArray[np.int8] | None = None

    def answer(self, line: str) -> str:
        """Return the answer to a line; InvalidState where it is no question."""
        question = read_board(line)
        self._tell_finished(question)
        self._check_follows(question)
        if question.doubled:
            return "take" if self.worth(question.state)[1] >= DEAD_CUBE_TAKE else "drop"
        return self._turn(question.state) if question.state.die else "roll"

    def _tell_finished(self, question: Question) -> None:
        """Tell of a game that has ended since the last question: gnubg says it by the score alone."""
        before, self._score = self._score, question.score
        if before is not None and before != question.score:
            first, second = (
                f"{name} {points}" for name, points in zip(question.players, question.score, strict=True)
            )
            self.tell(f"a game is finished; points so far: {first}, {second}.")

    def _turn(self, state: Any) -> str:
        """Return the whole turn, movement by movement."""
        allowed, now, actions = turns(state), GAME.copy(state), list[int]()
        while GAME.rules["to_play"](now) == 0:
            one = np.array([now], GAME.state_dtype)
            ply = np.array([len(actions)], np.int32)
            action = int(self.player.choose(one, np.zeros(1, np.uint64), ply)[0])
            if action not in GAME.legal(now):
                raise PlayerError(
                    f"{self.player.name} chose action {action} in position {GAME.position(now)}, which is "
                    "not legal; nothing was sent to gnubg in its place."
                )
            GAME.rules["apply_action"](now, action)
            actions.append(action)
        if not (allowed.ends["checkers"] == now.checkers).all(axis=(1, 2)).any():
            raise PlayerError(f"'{move_text(actions)}' is no turn of position {GAME.position(state)}.")
        self._left = now.checkers[0].copy()
        return move_text(actions)

    def _check_follows(self, question: Question) -> None:
        """Warn where the own checkers are not where they were left or on the bar, nor a game has begun."""
        state, own = question.state, 1 if question.doubled else 0
        mine, theirs = (state.checkers[seat].astype(np.int8) for seat in (own, 1 - own))
        begun = follows(START, mine) and theirs @ PIPS >= START @ PIPS - LONGEST_TURN
        if self._left is not None and not begun and not follows(self._left, mine):
            self.warn(
                f"the position {GAME.position(state)} does not follow from the move sent before; gnubg "
                "plays an answer that it does not accept as no move."
            )
        self._left = None if state.die else mine


def follows(before: npt.NDArray[np.int8], now: npt.NDArray[np.int8]) -> bool:
    """Return whether a side's checkers are those of `before`, but for lone ones that were hit."""
    gone = before[:BAR] - now[:BAR]
    lone = (gone == 0) | ((gone == 1) & (before[:BAR] == 1))
    return bool(lone.all() and now[BAR] == before[BAR] + gone.sum())


class _Connection(socketserver.StreamRequestHandler):
    """Reads questions, writes answers, until gnubg hangs up."""

    server: GnubgServer

    def handle(self) -> None:
        places = self.server.places
        if not places.acquire(blocking=False):
            self._say(f"Error: {MOST_CONNECTIONS} connections are open already; close one.")
            return
        try:
            server = self.server
            self._converse(ExternalPlayer(server.player, server.worth, server.warn, server.tell))
        except ConnectionError:
            self.server.warn("gnubg broke the connection.")
        finally:
            places.release()

    def _converse(self, external: ExternalPlayer) -> None:
        while raw := self.rfile.readline(LONGEST_LINE + 1):
            # gnubg ends its lines with a zero byte after the newline.
            line = raw.decode("ascii", "replace").strip("\0\r\n ")
            if not line:
                continue
            if len(raw) > LONGEST_LINE:
                self._say(f"Error: a line has at most {LONGEST_LINE} bytes.")
                return
            with self.server.turn:  # until it is sent: a server that stops waits for it
                try:
                    answer = external.answer(line)
                except ZeroloopError as error:
                    self.server.warn(str(error))
                    self._say(f"Error: {error}")
                    return
                self.server.answers[answer if answer in ("roll", "take", "drop") else "move"] += 1
                self._say(answer)
        self.server.tell("gnubg has closed the connection; how its last game ended is not told to players.")

    def _say(self, line: str) -> None:
        self.wfile.write(line.encode("ascii", "replace").replace(b"\n", b" ") + b"\n")


class GnubgServer(socketserver.ThreadingTCPServer):
    """Listens for gnubg. The answers are given one at a time, whatever the number of connections.

    Args:
      port: 0 takes any free one; `server_address` has it.
      warn: hears what went wrong. tell: hears of finished games.

    Raises:
      PlayerError: the address cannot be had.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        player: Player,
        worth: Worth,
        host: str,
        port: int,
        warn: Callable[[str], None],
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.player, self.worth, self.warn, self.tell = player, worth, warn, tell
        self.turn = threading.Lock()
        self.places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self.answers = {"move": 0, "roll": 0, "take": 0, "drop": 0}
        try:
            super().__init__((host, port), _Connection)
        except OSError as error:
            raise PlayerError(
                f"gnubg-player cannot listen on {host}:{port} ({error.strerror or error}); give another port."
            ) from None


def serve_gnubg(
    player: Player,
    host: str,
    port: int,
    listening: Callable[[int], None],
    tell: Callable[[str], None],
) -> None:
    """Answer gnubg until SIGTERM or SIGINT, then send what is being answered, and return.

    Args:
      listening: is told the port when gnubg can connect. tell: hears of games and of failures.

    Raises:
      PlayerError: no model with a search, one of another game, or the address cannot be had.
    """
    if not isinstance(player, SearchPlayer) or player.game.name != "backgammon":
        raise PlayerError(
            f"gnubg-player needs a backgammon model, RUN@64 or HASH@64; '{player.name}' is none."
        )

    def worth(state: Any) -> tuple[float, float]:
        return expected_points(player, state)

    with GnubgServer(player, worth, host, port, tell, tell) as server:

        def stop(number: int, frame: Any) -> None:
            # Not here: `shutdown` waits for the loop that this handler interrupts.
            threading.Thread(target=server.shutdown, daemon=True).start()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            listening(int(server.server_address[1]))
            server.serve_forever()
            server.turn.acquire()  # for good: nothing else is answered
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
