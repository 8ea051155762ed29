"""UCI engines as players of chess and Chess960: `stockfish:nodes=1000,skill=0`, `uci:PATH,depth=6`.

An engine runs with one thread, a hash table of fixed size and no pondering, and forgets between moves:
`ucinewgame` goes before every position. With a limit of nodes or depth, at full strength, its answer is
then a function of the position and its repetitions alone, whichever process is asked and whatever was asked
before; with `skill`, `elo` or `movetime` it is not, for engines draw their weaker moves from the clock.

Forgetting has a price: at 1,000 nodes Stockfish 15.1 scores 24.7 % [18.0, 31.4] against itself with the
table of the game so far (150 games), at `skill=0` 47.5 % [38.2, 56.8] (120 games). So a result against
`nodes=N` holds for N nodes from scratch, as `settings` says, not for the engine as tournaments run it.

It is told the FEN from which nothing can be taken back and the moves since, so it knows repetitions and the
50-move clock: told the FEN alone it scores 43.8 % [40.7, 46.9] against itself (50 nodes, 200 games).
It is not told which game it is in, the moves before that FEN, the time that is left, the bound on plies, or
that a third occurrence ends our games without a claim.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import PlayerError
from ..evaluator.choice import cores
from ..files import sha256
from ..games.chess_tables import KEYS, SPECIAL
from ..games.game import TERMINAL, Game

if TYPE_CHECKING:
    import chess

Array = npt.NDArray[Any]

HASH_MEGABYTES = 16
GRACE_SECONDS = 10.0
"""On top of the time that a limit should take, before an engine counts as hanging."""
SLOWEST_NODES_PER_SECOND = 5_000
DEPTH_SECONDS = 300.0
"""Given to a search that only its depth ends."""

LIMITS = {"nodes": 10**12, "depth": 1000, "movetime": 3_600_000}
"""Keys of which one is needed, and the most of each; movetime is in milliseconds."""
STRENGTHS = {"skill": "Skill Level", "elo": "UCI_Elo"}
"""Keys that weaken the engine, and the option behind each."""
TOLD = ("Threads", "Hash", "Ponder", "Skill Level", "UCI_LimitStrength", "UCI_Elo", "UCI_Chess960")
"""Options whose value always stands in `settings`, None where the engine has no such option."""

PROOF = (
    "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1",
    "rnbqkbnr/pppppppp/8/8/4P3/8/PPPP1PPP/RNBQKBNR b KQkq - 0 1",
    "r3k2r/pppq1ppp/2npbn2/2b1p3/2B1P3/2NPBN2/PPPQ1PPP/R3K2R w KQkq - 4 8",
    "r3k2r/pppq1ppp/2npbn2/2b1p3/2B1P3/2NPBN2/PPPQ1PPP/R3K2R b Qk - 5 8",
    "rnbqkbnr/ppp1p1pp/8/3pPp2/8/8/PPPP1PPP/RNBQKBNR w KQkq f6 0 3",
    "rnbqkbnr/pppp1ppp/8/8/3Pp3/2N5/PPP1PPPP/R1BQKBNR b KQkq d3 0 3",
    "8/8/8/8/k2Pp2Q/8/8/3K4 b - d3 0 1",
    "1n2k3/P7/8/8/8/8/7p/4K1N1 w - - 0 40",
    "1n2k3/P7/8/8/8/8/7p/4K1N1 b - - 0 40",
    "4k3/8/8/8/8/8/4R3/4K3 b - - 99 80",
)
"""The start, black to move, castling to both sides, en passant legal, by black, and pinned, promotions with
and without capture, check on the last half-move before a draw."""
PROOF_960 = (
    "bqnbnrkr/pppppppp/8/8/8/8/PPPPPPPP/BQNBNRKR w KQkq - 0 1",
    "1rk3r1/pppppppp/8/8/8/8/PPPPPPPP/1RK3R1 b KQkq - 2 9",
    "rk2r3/pppp1ppp/8/8/8/8/PPPP1PPP/RK2R3 w KQkq - 0 1",
    "5rkr/5ppp/8/8/8/8/5PPP/RR2K2R w Bk - 0 1",
)
"""Castling where king and rook cross, touch or stay, and where an outer rook has lost the right."""


class Wanted(NamedTuple):
    """What a player's name asks for."""

    program: str
    """`stockfish`, or the path after `uci:`."""
    limits: dict[str, int]
    strengths: dict[str, int]
    name: str
    """The same with its keys in one order, so that equal players have one name."""


def parse_name(text: str) -> Wanted:
    """Read `stockfish:KEY=NUMBER,...` or `uci:PATH,KEY=NUMBER,...`.

    Raises:
      PlayerError: an unknown, repeated or unreadable key, or no limit.
    """
    kind, _, rest = text.partition(":")
    parts = [part.strip() for part in rest.split(",")] if rest else []
    program = "stockfish"
    if kind == "uci":
        if not parts or not parts[0] or "=" in parts[0]:
            raise PlayerError(f"player '{text}' names no program; write uci:PATH,nodes=1000.")
        program = parts.pop(0)
    keys = {**LIMITS, **dict.fromkeys(STRENGTHS, 10**6)}
    given: dict[str, int] = {}
    for part in parts:
        key, _, number = part.partition("=")
        if key not in keys:
            raise PlayerError(f"player '{text}': unknown key '{key}'; allowed: {', '.join(keys)}.")
        if key in given:
            raise PlayerError(f"player '{text}': '{key}' is given twice.")
        least = 1 if key in LIMITS else 0
        digits = number.isascii() and number.isdecimal() and len(number) <= 13
        if not digits or not least <= int(number) <= keys[key]:
            raise PlayerError(
                f"player '{text}': {key} is '{number[:20]}'; it must be a whole number from {least} to "
                f"{keys[key]:,}."
            )
        given[key] = int(number)
    limits = {key: given[key] for key in LIMITS if key in given}
    strengths = {key: given[key] for key in STRENGTHS if key in given}
    first = kind if kind == "stockfish" else f"uci:{program}"
    if not limits:
        raise PlayerError(
            f"player '{text}' has no limit; give {', '.join(LIMITS)}, such as "
            f"{first}{':' if kind == 'stockfish' else ','}nodes=1000."
        )
    if len(strengths) > 1:
        raise PlayerError(f"player '{text}': elo overrules skill; give one of them.")
    tail = ",".join(f"{key}={number}" for key, number in {**limits, **strengths}.items())
    return Wanted(program, limits, strengths, f"{first}{':' if kind == 'stockfish' else ','}{tail}")


def find_program(wanted: Wanted) -> str:
    """Return the path of the engine; PlayerError where it is absent."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/games"])
    found = shutil.which(wanted.program, path=folders)
    if found is None:
        absent = wanted.program == "stockfish"
        raise PlayerError(
            f"player '{wanted.name}': there is no program '{wanted.program}' that can be run; "
            + ("apt install stockfish." if absent else "give the path of a UCI engine.")
        )
    return found


def most_seconds(limits: dict[str, int]) -> float:
    """Return the seconds after which a move is late: what the limits should take at worst, and a grace."""
    bounds = {"nodes": 1 / SLOWEST_NODES_PER_SECOND, "movetime": 1e-3}
    each = [DEPTH_SECONDS if key == "depth" else n * bounds[key] for key, n in limits.items()]
    return GRACE_SECONDS + min(each)


def uci_player(text: str, game: Game, seed: int = 0) -> UciPlayer:
    """Return the player of a name, proved on fixed positions.

    Args:
      seed: has no effect: UCI has no way to seed an engine.

    Raises:
      PlayerError: the name is wrong, the game is not chess, the program is absent or fails its proof.
    """
    wanted = parse_name(text)
    if game.name != "chess":
        raise PlayerError(f"player '{wanted.name}' plays chess, not {game.id}.")
    if importlib.util.find_spec("chess") is None:
        raise PlayerError(f"player '{wanted.name}' needs python-chess; pip install 'zeroloop[chess]'.")
    return UciPlayer(game, wanted, find_program(wanted))


class UciPlayer:
    """A UCI engine in as many processes as there are cores and positions. Close it after use."""

    name: str
    settings: dict[str, Any]
    """What plays, as plain data: the engine's name for itself, its program's hash, limits, all options."""

    def __init__(self, game: Game, wanted: Wanted, path: str) -> None:
        import chess.engine

        from .uci_engine import Engines

        self.game, self.name = game, wanted.name
        self.chess960 = bool(game.options.get("chess960", False))
        limits = wanted.limits
        time = limits["movetime"] / 1000 if "movetime" in limits else None
        self._limit = chess.engine.Limit(nodes=limits.get("nodes"), depth=limits.get("depth"), time=time)
        self._seconds = most_seconds(limits)
        self._engines = Engines(path, self.name)
        try:
            first = self._engines.start(1, {})
            self._options = self._choose_options(first.options, wanted.strengths)
            self._engines.configure(self._options)
            self._prove()
            self.settings = {
                "engine": dict(first.id),
                "program": os.path.basename(path),
                "sha256": sha256(pathlib.Path(path).read_bytes()),
                "limits": dict(limits),
                "seconds_a_move_at_most": self._seconds,
                "new_game_before": "every position",
                "options_set": dict(self._options),
                "options": {**dict.fromkeys(TOLD), **dict(first.config)},
            }
        except BaseException:
            self.close()
            raise

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """Return the engine's action of each state; see Player.

        Args:
          keys, plies: not looked at.

        Raises:
          PlayerError: the engine died, was late, or answered no legal move; it is ended then.
        """
        boards = [self.board(state) for state in states]
        self._engines.start(min(len(boards), cores()), self._options)
        moves = self._engines.ask(boards, self._limit, self._seconds)
        found = [self.game.parse_action(state, move) for state, move in zip(states, moves, strict=True)]
        return np.array(found, np.int32).reshape(len(states))

    def close(self) -> None:
        """End the processes; nothing can be asked afterwards."""
        self._engines.close()

    def board(self, state: Any) -> chess.Board:
        """Return the python-chess board of a state, with the moves since the last one that is for good.

        Raises:
          PlayerError: the record contradicts itself.
        """
        import chess

        fen = self.game.position(state)
        board = chess.Board(fen, chess960=self.chess960)
        # By the files of the rooks: what K means changes when another rook walks past.
        castling = board.castling_shredder_fen() if self.chess960 else board.castling_xfen()
        start, moves = line_of(state, fen, castling)
        if moves:
            board = chess.Board(start, chess960=self.chess960)
        for move in moves:
            board.push(chess.Move.from_uci(move))
        if board.fen(en_passant="legal") != fen:
            raise PlayerError(
                f"{self.name}: the moves {' '.join(moves)} from {start} lead to "
                f"{board.fen(en_passant='legal')}, not to {fen}. The match is void; no move was substituted."
            )
        return board

    def _choose_options(self, known: Any, strengths: dict[str, int]) -> dict[str, str | int | bool]:
        """Return the options to set; PlayerError where the engine has not what the name asks for."""
        options: dict[str, str | int | bool] = {}
        if "Threads" in known:
            options["Threads"] = 1
        if "Hash" in known:
            least, most = known["Hash"].min or 0, known["Hash"].max or HASH_MEGABYTES
            options["Hash"] = min(max(HASH_MEGABYTES, least), most)
        if self.chess960 and "UCI_Chess960" not in known:
            raise PlayerError(f"{self.name}: this engine has no option UCI_Chess960, so it cannot play it.")
        for key, value in strengths.items():
            option = STRENGTHS[key]
            needed = [option, "UCI_LimitStrength"] if key == "elo" else [option]
            absent = [name for name in needed if name not in known]
            if absent:
                raise PlayerError(
                    f"{self.name}: this engine has no option '{absent[0]}', so leave {key} out."
                )
            least, most = known[option].min, known[option].max
            if (least is not None and value < least) or (most is not None and value > most):
                raise PlayerError(
                    f"{self.name}: {key} is {value}; this engine takes {least} to {most} ('{option}')."
                )
            options[option] = value
        if "elo" in strengths:
            options["UCI_LimitStrength"] = True
        return options

    def _prove(self) -> None:
        """Compare game and engine with python-chess on fixed positions, and have one move played in each."""
        import chess
        import chess.engine

        boards = []
        for text in PROOF + (PROOF_960 if self.chess960 else ()):
            state = self.game.parse_position(text)
            board = chess.Board(text, chess960=self.chess960)
            fen, ours = board.fen(en_passant="legal"), self.game.position(state)
            if fen != ours:
                raise PlayerError(
                    f"{self.name} fails its proof: {text} is {ours} here, {fen} in python-chess."
                )
            legal = {board.uci(move) for move in board.legal_moves}
            named = {self.game.action_name(state, action) for action in self.game.legal(state)}
            if legal != named or self.game.rules["to_play"](state) == TERMINAL:
                raise PlayerError(
                    f"{self.name} fails its proof: in {fen} the moves {sorted(legal ^ named)} are legal "
                    f"either in {self.game.id} or in python-chess, not in both."
                )
            boards.append(self.board(state))
        self._engines.ask(boards, chess.engine.Limit(depth=1), self._seconds)


@functools.cache
def quiet_moves() -> dict[int, tuple[str, int, int]]:
    """Return, by change of a position's key, piece and two squares of all moves that can be taken back."""
    keys = [int(key) for key in KEYS]
    return {
        keys[64 * piece + a] ^ keys[64 * piece + b]: (letter, a, b)
        for piece, letter in enumerate("PNBRQKpnbrqk")
        for a in range(64 if letter not in "Pp" else 0)
        for b in range(a)
    }


def line_of(state: Any, fen: str, castling: str) -> tuple[str, list[str]]:
    """Return the FEN after the last move that cannot be taken back and the UCI moves since.

    The record holds no boards, but the key of each position since then (`chess_play.state_dtype`). Two
    neighbours differ by one quiet move of a piece, which the difference of their keys names; the moves are
    taken back one by one.

    Args:
      fen: the position of the state. castling: its field of rights, the same since that move.

    Raises:
      PlayerError: the keys do not fit the board.
    """
    from ..games.chess_text import FILES, board_of, square_name

    known = int(state.known)
    if known == 1:
        return fen, []
    board, seat, passant = board_of(state), int(state.mover), "-"
    moves: list[str] = []
    quiet = quiet_moves()
    for n in range(known - 1, 0, -1):
        change, seat = int(state.keys[n]) ^ int(state.keys[n - 1]), 1 - seat
        # Only the first position can have followed a pawn's two steps, which its key then counts in.
        rank = 40 if seat == 0 else 16
        extra = {0: "-"}
        if n == 1:
            extra |= {int(KEYS[SPECIAL + rank + f]): square_name(rank + f) for f in range(8)}
        found = [(quiet[change ^ key], name) for key, name in extra.items() if change ^ key in quiet]
        if len(found) != 1:
            raise PlayerError(f"chess: {fen} holds keys of earlier positions that no quiet move connects.")
        (letter, a, b), passant = found[0]
        if (
            letter.islower() != (seat == 1)
            or board.get(a, board.get(b)) != letter
            or (a in board and b in board)
        ):
            raise PlayerError(f"chess: {fen} holds the key of a move that its board does not allow.")
        to, start = (a, b) if a in board else (b, a)
        board[start] = board.pop(to)
        moves.append(square_name(start) + square_name(to))
    rows = []
    for rank in range(7, -1, -1):
        cells = "".join(board.get(8 * rank + file, " ") for file in range(len(FILES)))
        for run in range(8, 0, -1):
            cells = cells.replace(" " * run, str(run))
        rows.append(cells)
    number = int(state.number) - (known - 1 + (1 - int(state.mover))) // 2
    clock = int(state.clock) - (known - 1)
    start_fen = f"{'/'.join(rows)} {'wb'[seat]} {castling} {passant} {clock} {number}"
    return start_fen, moves[::-1]
