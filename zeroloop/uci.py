"""UCI engine: a chess model that graphical boards and tournament programs can use (docs/uci.md).

The protocol is the Universal Chess Interface of April 2006. One thread reads; everything else, the search
included, runs in the calling thread, which looks at what has been read after each batch of the network.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import TextIO

from . import __version__
from .analysis import LEAVES, Analysis, Analyst, Line, nodes_within
from .errors import ConfigError, PlayerError, ZeroloopError
from .evaluator.choice import Choice
from .games.game import State
from .model import SHORT, Model, find, load
from .players import PlaySettings, split_name
from .uci_text import Board, Limits, Option, centipawns, parse_go, seconds_for_move

USUAL_SIMULATIONS = 800
"""Of a `go` without limits, where the player's name has none."""
NO_PONDER = "ponder is not offered: this engine thinks in its own time only."
NO_MOVE = "bestmove (none)"
DURING_SEARCH = ("uci", "debug", "isready", "register", "ponderhit", "quit")
"""Commands that are answered while a search runs; `stop` ends it, the others wait."""


class Engine:
    """Answers the commands of the protocol, one after the other.

    Args:
      out: where the protocol is written; nothing else may write there.
      simulations: of a `go` without limits.

    Raises:
      PlayerError: the model plays another game than chess.
    """

    def __init__(
        self, model: Model, simulations: int, out: TextIO, *, name: str = "", choice: Choice | None = None
    ) -> None:
        if model.game.name != "chess":
            raise PlayerError(
                f"{name or model.hash[:SHORT]} plays {model.game.id}, and UCI is a protocol for chess; "
                "give a model of chess, or use zeroloop play or serve."
            )
        self.model, self.simulations, self.choice, self._out = model, simulations, choice, out
        self.board = Board(model.game)
        self.values = {option.name: option.default for option in self.options()}
        self._analyst: Analyst | None = None
        self._debug = self._stopping = self._quitting = False
        self._lines: queue.SimpleQueue[tuple[float, str | None]] = queue.SimpleQueue()
        self._later: deque[str] = deque()
        self._moves: frozenset[int] = frozenset()
        self.commands = {
            "uci": self._uci,
            "debug": self._set_debug,
            "isready": self._isready,
            "setoption": self._setoption,
            "register": self._register,
            "ucinewgame": self._ucinewgame,
            "position": self._position,
            "go": self._go,
            "stop": self._nothing,
            "ponderhit": self._ponderhit,
            "quit": self._quit,
        }

    def options(self) -> list[Option]:
        """Return the options that this model offers."""
        offered = [
            Option("Hash", "spin", 256, 1, 65_536),
            Option("Clear Hash", "button"),
            Option("MultiPV", "spin", 1, 1, self.model.game.max_legal),
            Option("Threads", "spin", 1, 1, 1),
            Option("Move Overhead", "spin", 20, 0, 5000),
        ]
        if self.model.game.options.get("chess960"):
            offered.append(Option("UCI_Chess960", "check", 0))
        return offered

    def run(self, lines: Iterable[str]) -> None:
        """Obey until `quit` or the end of the lines, which a thread reads."""
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        while not self._quitting:
            # A command that had to wait begins now; any other began when it was read.
            now = time.perf_counter()
            received, line = (now, self._later.popleft()) if self._later else self._lines.get()
            self._obey(line, received)

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._lines.put((time.perf_counter(), line))
        self._lines.put((time.perf_counter(), None))

    def _say(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def _tell(self, text: str) -> None:
        self._say("info string " + " ".join(text.split()))

    def _command(self, line: str | None) -> tuple[str, list[str]]:
        """Return the command of a line and its words; as the protocol wants it, unknown words are skipped."""
        words = line.split() if line is not None else ["quit"]
        for place, word in enumerate(words):
            if word in self.commands:
                return word, words[place + 1 :]
        if words:
            shown = " ".join(words)[:60]
            self._tell(f"'{shown}' is no command; known: {', '.join(self.commands)}.")
        return "", []

    def _obey(self, line: str | None, received: float) -> None:
        command, words = self._command(line)
        if not command:
            return
        try:
            self.commands[command](words, received)
        except ZeroloopError as error:
            self._tell(str(error))
            if command == "go":
                self._say(NO_MOVE)

    # --- commands ----------------------------------------------------------------------------------

    def _uci(self, words: list[str], received: float) -> None:
        self._say(f"id name zeroloop {__version__} {self.model.hash[:SHORT]}")
        self._say("id author the zeroloop project")
        for option in self.options():
            self._say(str(option))
        self._say("uciok")

    def _set_debug(self, words: list[str], received: float) -> None:
        self._debug = words[:1] == ["on"]

    def _isready(self, words: list[str], received: float) -> None:
        self._ready()
        self._say("readyok")

    def _register(self, words: list[str], received: float) -> None:
        self._tell("nothing needs to be registered.")

    def _nothing(self, words: list[str], received: float) -> None:
        """Ignore `stop` where no search runs, as the protocol wants it."""

    def _ponderhit(self, words: list[str], received: float) -> None:
        self._tell(NO_PONDER)

    def _quit(self, words: list[str], received: float) -> None:
        self._quitting = self._stopping = True

    def _ucinewgame(self, words: list[str], received: float) -> None:
        if self._analyst is not None:
            self._analyst.forget()

    def _position(self, words: list[str], received: float) -> None:
        self.board.set(words)

    def _setoption(self, words: list[str], received: float) -> None:
        place = words.index("value") if "value" in words else len(words)
        name, value = " ".join(words[1:place]), " ".join(words[place + 1 :])
        option = next((o for o in self.options() if o.name.lower() == name.lower()), None)
        if words[:1] != ["name"] or option is None:
            known = ", ".join(o.name for o in self.options())
            why = " This model plays chess without Chess960." if name.lower() == "uci_chess960" else ""
            raise ConfigError(f"there is no option '{name[:40]}'; known: {known}.{why}")
        if option.kind == "button":
            self._ucinewgame(words, received)
            return
        number = option.parse(value)
        if option.name == "Hash":
            self._analyst = None
            self._made(number)  # refused here, and not where the next search would need it
        elif option.name == "UCI_Chess960":
            self.board = Board(self.model.game)
            self.board.chess960 = bool(number)
        self.values[option.name] = number

    # --- the search --------------------------------------------------------------------------------

    def _ready(self) -> Analyst:
        """Return the analyst; a new one has compiled its kernels and warmed its network."""
        if self._analyst is None:
            # Not in the protocol: some programs expect nothing but `readyok` here.
            print("zeroloop: warming up; compiling takes minutes, the first time only.", file=sys.stderr)
            made = self._made(self.values["Hash"])
            board = Board(self.model.game)
            for moves in ([], ["e2e4"]):
                board.set(["startpos", "moves", *moves])
                found = made.analyse(board.state, simulations=8 * LEAVES)
                board.line(found.lines[0].actions)
            made.forget()
            self._analyst = made
        return self._analyst

    def _made(self, megabytes: int) -> Analyst:
        """Return a new analyst of this memory; ConfigError where the machine has not as much."""
        cache = min(32, megabytes // 4)
        nodes = nodes_within(self.model.game, megabytes - cache)
        settings = PlaySettings(cache_megabytes=cache)
        try:
            return Analyst(self.model, choice=self.choice, settings=settings, max_nodes=nodes)
        except MemoryError as error:
            raise ConfigError(f"Hash is {megabytes} MB, more than this machine gives; set less.") from error

    def _go(self, words: list[str], received: float) -> None:
        limits, state = parse_go(words), self.board.known()
        if limits.ponder:
            raise ConfigError(NO_PONDER)
        self._moves = frozenset(self.board.action(state, name) for name in limits.moves)
        for note in (*self.board.notes, *self._notes(limits)):
            self._tell(note)
        if state.over:
            moves = self.board.allowed(state)  # any is as good as another where nobody can mate
            self._tell(f"the game is over: {'neither side can mate' if moves else 'no move is legal'}.")
            self._say(f"bestmove {self.board.name(state, moves[0])}" if moves else NO_MOVE)
            return
        found = self._search(limits, state, received)
        self._report(found)
        if found.overflow:
            self._tell(f"the tree is full: {found.overflow} simulations stored no node; a larger Hash helps.")
        self._say(f"bestmove {self.board.name(state, self._allowed(found)[0].actions[0])}")

    def _search(self, limits: Limits, state: State, received: float) -> Analysis:
        """Search to the limits, or until stopped where they are infinite."""
        analyst = self._ready()
        seconds = self._seconds(limits, state, received)
        nodes = limits.numbers.get("nodes", 0)
        if not (limits.infinite or seconds or nodes):
            nodes = self.simulations
        self._stopping = not (limits.infinite or seconds or nodes)  # @0: the policy alone
        found = analyst.analyse(
            state, simulations=nodes, seconds=seconds, stop=self._asked_to_stop, report=self._report
        )
        while limits.infinite and not self._stopping:
            self._during_search(*self._lines.get())
        return found

    def _notes(self, limits: Limits) -> list[str]:
        """Return what a person should know of what was asked."""
        notes = [f"go: '{word[:20]}' is unknown and was skipped." for word in limits.unknown]
        for word in ("depth", "mate"):
            if word in limits.numbers:
                notes.append(f"go {word} is no limit of a search by visits, and was skipped; use nodes.")
        if limits.moves:
            notes.append("searchmoves: all moves are searched, and the best of those is answered.")
        return notes

    def _seconds(self, limits: Limits, state: State, received: float) -> float:
        """Return the seconds left for the search, 0: no limit; what has passed since `go` is taken off."""
        numbers, overhead = limits.numbers, self.values["Move Overhead"] / 1000
        own = "bw"[int(state.mover == 0)]
        asked = []
        if "movetime" in numbers:
            asked.append(numbers["movetime"] / 1000 - overhead)
        if f"{own}time" in numbers:
            left, more = numbers[f"{own}time"] / 1000, numbers.get(f"{own}inc", 0) / 1000
            asked.append(seconds_for_move(left, more, numbers.get("movestogo", 0), overhead))
        if not asked or limits.infinite:
            return 0.0
        return max(min(asked) - (time.perf_counter() - received), 0.001)

    def _asked_to_stop(self) -> bool:
        """Look at what has been read, up to a command that ends the search."""
        while not self._stopping and not self._lines.empty():
            self._during_search(*self._lines.get())
        return self._stopping

    def _during_search(self, received: float, line: str | None) -> None:
        command, words = self._command(line)
        if command == "stop":
            self._stopping = True
        elif command in DURING_SEARCH:
            self.commands[command](words, received)
        elif command:
            self._later.append(" ".join([command, *words]))
            self._tell(f"{command} waits until the search has ended; send stop to end it.")

    def _allowed(self, found: Analysis) -> list[Line]:
        """Return the lines of the moves that may be answered, best first."""
        return [line for line in found.lines if not self._moves or line.actions[0] in self._moves]

    def _report(self, found: Analysis) -> None:
        """Print one line of information for each of the best moves that were visited."""
        analyst = self._ready()
        nps = round(found.simulations / found.seconds) if found.seconds else 0
        filled = 1000 * analyst.nodes // analyst.max_nodes
        common = f"nodes {found.simulations} nps {nps} hashfull {filled} time {round(1000 * found.seconds)}"
        shown = self._allowed(found)[: self.values["MultiPV"]]
        for place, line in enumerate(shown, 1):
            value = line.value
            if value is None and place > 1:
                continue
            if value is None:  # nothing was visited: the network's word on the whole position
                value = float(found.values[self.board.seat])
            self._say(
                f"info depth {len(line.actions)} multipv {place} score cp {centipawns(value)} {common} "
                f"pv {self.board.line(line.actions)}"
            )
        if self._debug:
            self._tell(f"{found.evaluations} evaluations, {analyst.nodes} nodes stored.")


def serve_uci(player: str) -> None:
    """Be the engine of a player's name on standard input and output; what else is printed goes to stderr.

    Raises:
      PlayerError: no such model, or none of chess.
      StoreError, ResumeError: the model cannot be used.
    """
    # Whatever prints from here on, a library or compiled code, must not end up in the protocol.
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    name, simulations = split_name(player, USUAL_SIMULATIONS)
    path = find(name)
    if path is None:
        raise PlayerError(
            f"there is no player '{player[:60]}': it is no run directory, model file or model hash; a UCI "
            "engine needs a model of chess, such as runs/chess@800."
        )
    engine = Engine(load(path), simulations, out, name=name)
    lines = os.fdopen(os.dup(0), encoding="utf-8", errors="replace")
    engine.run(lines)
