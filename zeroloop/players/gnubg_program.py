"""One running GNU Backgammon: started for money play without a cube, asked over a socket, ended for sure.

gnubg's embedded Python sets the rules, tells once what it holds to be legal in some positions, and then hands
over to gnubg's `external` command on a Unix socket in a folder of its own. One question is in flight at a
time, for gnubg loses lines that are sent ahead. It plays nonsense on boards that cannot be, and fills up a
line cut short from older ones, so boards must be right when sent; `gnubg_proof` shows how they are read.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from ..errors import PlayerError

RULES = (
    "set automatic roll off",
    "set automatic game off",
    "set automatic bearoff off",
    "set automatic move off",
    "set display off",
    "set player 0 human",
    "set player 1 human",
    "set variation standard",
    "set cube use off",
    "set jacoby off",
    "set beavers 0",
    "new session",
    "set evaluation chequerplay type evaluation",
    "set evaluation chequerplay evaluation cubeful off",
    "set evaluation chequerplay evaluation noise 0",
    "set evaluation chequerplay evaluation deterministic on",
)
"""What gnubg is told: money play without cube, Jacoby rule or beavers; noiseless, cubeless evaluation."""

DRIVER = """
import fcntl, json, os, gnubg

# Whoever started gnubg holds the other end of its input: when that process is gone, however it ended, the
# system sends SIGIO, and that ends gnubg.
fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
ask = json.load(open("ask.json"))
for line in ask["rules"]:
    gnubg.command(line)
gnubg.command("set evaluation chequerplay evaluation plies 0")
legal = []
for name, dice in ask["positions"]:
    gnubg.command("set turn 1")
    gnubg.command("set board " + name)
    gnubg.command("set dice %d %d" % tuple(dice))
    hint = gnubg.hint(10000)
    moves = [gnubg.parsemove(one["move"]) for one in hint["hint"]]
    legal.append({"position": gnubg.positionid(gnubg.board()), "points": gnubg.positionfromid(name),
                  "dice": gnubg.posinfo()["dice"], "kind": hint["hinttype"], "moves": moves})
gnubg.command("set evaluation chequerplay evaluation plies %d" % ask["ply"])
for line in ask["rules_after"]:
    gnubg.command(line)
gnubg.command("show beavers")
gnubg.command("show cube")
facts = {"evaluation": gnubg.evalcontext(), "cube": gnubg.cubeinfo(), "filter": gnubg.getevalhintfilter(),
         "met": gnubg.show("matchequitytable").splitlines()[0],
         "variation": gnubg.show("variation").splitlines()[0], "legal": legal}
with open("part.json", "w") as file:
    json.dump(facts, file)
os.replace("part.json", "facts.json")
gnubg.command("external " + ask["socket"])
os._exit(0)
"""

FOLDERS = ("/usr/games", "/usr/local/games", "/usr/local/bin")
"""Where systems put games, besides PATH."""

START_SECONDS = 60.0
PATIENCE = {0: 20.0, 1: 30.0, 2: 120.0, 3: 600.0}
"""Seconds by ply after which an answer is late."""

STEP = re.compile(r"(bar|\d+)/(off|\d+)\*?")
ECHO = re.compile(r"Position ID: (\S+).*?(with|without) Jacoby Rule.*?Roll: (\d)(\d)", re.S)

Points = Sequence[int]
"""25 counts of checkers on a side's own points 1 to 24 and its bar."""


class Asked(NamedTuple):
    """A board, the player on roll first, and its dice (0, 0 before the roll)."""

    mine: Points
    theirs: Points
    dice: tuple[int, int] = (0, 0)
    name: str = ""
    """The position as error messages show it."""


class Echo(NamedTuple):
    """What gnubg understood of a question, and its answer."""

    position: str
    jacoby: bool
    dice: tuple[int, int]
    answer: str


def find_gnubg() -> str:
    """Return the path of gnubg; PlayerError where it is not installed."""
    path = shutil.which("gnubg", path=os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS]))
    if path is None:
        raise PlayerError(
            "player gnubg: the program 'gnubg' was not found in PATH or in the folders of games; "
            "apt install gnubg."
        )
    return path


def fibs_board(asked: Asked, as_o: bool = False) -> str:
    """Return the FIBS board string of a money game with the cube in the middle.

    A FIBS board has points 0 to 25 with positive counts for X and negative ones for O, of whom one plays
    down to point 1 and bears off there. Source: the FIBS client protocol, "board state".

    Args:
      as_o: the player on roll is O and plays up, as the same position looks to the other colour.
    """
    home = -1 if as_o else 1
    board = [0] * 26
    for point in range(25):  # the 25th is the bar, behind the opponent's home
        if asked.mine[point]:
            board[24 - point if as_o else point + 1] = home * asked.mine[point]
        if asked.theirs[point]:
            board[point + 1 if as_o else 24 - point] = -home * asked.theirs[point]
    off = 15 - sum(asked.mine), 15 - sum(asked.theirs)
    dice, cube, colour = [*asked.dice, 0, 0], [1, 1, 1, 0], [home, -home]
    fields = [0, 0, 0, *board, home, *dice, *cube, *colour, 25 if as_o else 0, 0 if as_o else 25, *off]
    return ":".join(["board", "a", "b", *map(str, [*fields, 0, 0, 0, 0, 0, 0])])


def after(asked: Asked, steps: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Return both sides' points after movements (from, to), 25 the bar and 0 off, seen as before.

    Raises:
      ValueError: no checker of the player is where a movement begins, or one lands on a held point.
    """
    mine, theirs = list(asked.mine), list(asked.theirs)
    for source, target in steps:
        if not 1 <= source <= 25 or not 0 <= target < source or not mine[source - 1]:
            raise ValueError(f"there is no movement {source}/{target}")
        mine[source - 1] -= 1
        if target:
            mine[target - 1] += 1
            if theirs[24 - target] > 1:
                raise ValueError(f"the point {target} is held")
            if theirs[24 - target]:
                theirs[24 - target] = 0
                theirs[24] += 1
    return mine, theirs


def read_move(text: str) -> list[tuple[int, int]]:
    """Return the movements (from, to) of gnubg's move; ValueError where it is none. No text, no movement."""
    steps = []
    for part in text.split():
        found = STEP.fullmatch(part)
        if not found:
            raise ValueError(f"'{part}' is no movement")
        source, target = found.groups()
        steps.append((25 if source == "bar" else int(source), 0 if target == "off" else int(target)))
    return steps


class GnubgProgram:
    """One gnubg process and its socket.

    Args:
      ply: the depth of its moves, 0 to 3.
      positions: (Position ID, dice) whose legal moves it tells in `facts["legal"]`.
      path: the program; by default it is looked for.
      extra: commands after its rules, for tests that plant wrong ones.

    Raises:
      PlayerError: it is absent, does not start, or does not answer.
    """

    def __init__(
        self,
        ply: int,
        positions: Sequence[tuple[str, tuple[int, int]]] = (),
        *,
        path: str | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.ply, self.patience = ply, PATIENCE[ply]
        program = path or find_gnubg()
        folder = tempfile.TemporaryDirectory(prefix="gnubg-")
        home = pathlib.Path(folder.name)
        self._said = home / "said.txt"
        ask = {"rules": RULES, "positions": positions, "ply": ply, "rules_after": extra, "socket": "socket"}
        (home / "ask.json").write_text(json.dumps(ask))
        (home / "driver.py").write_text(DRIVER)
        # A home of its own, so that nobody's settings are read; English, so that answers can be.
        surroundings = {**os.environ, "HOME": str(home), "LC_ALL": "C", "LANGUAGE": "C"}
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [program, "-t", "-q", "-r", "-p", "driver.py"],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=home,
                env=surroundings,
            )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.close = weakref.finalize(self, _end, self.process, self._socket, folder)
        """Ends the process and waits for it; also done when nobody needs it any more, and at exit."""
        self._rest = b""
        try:
            self._connect(home / "socket")
            self.facts = json.loads((home / "facts.json").read_text())
            self.version = self._version()
        except BaseException:
            self.close()
            raise

    def _connect(self, path: pathlib.Path) -> None:
        end = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                self._socket.connect(str(path))
                return
            time.sleep(0.005)
        how = "did not listen within a minute" if self.process.poll() is None else "ended before it listened"
        raise PlayerError(
            f"gnubg {how}; it said: {self.last_words()}. It must be built with Python and sockets, as "
            "Debian's package is: apt install gnubg."
        )

    def last_words(self) -> str:
        """Return the end of what gnubg printed."""
        return " ".join(self._said.read_text(errors="replace")[-400:].split()) if self._said.exists() else "-"

    def shown(self) -> tuple[int, bool]:
        """Return how many beavers gnubg says are allowed, -1 where it says nothing, and whether a cube is."""
        said = self._said.read_text(errors="replace")
        beavers = re.findall(r"^(No|\d+) beavers.* allowed in money sessions", said, re.M)
        number = {"": -1, "No": 0}.get(beavers[-1] if beavers else "")
        return int(beavers[-1]) if number is None else number, "The doubling cube is disabled." not in said

    def _version(self) -> str:
        self._send("version", "version")
        while True:
            key, _, value = self._line("version").partition(": ")
            if key == "Software":
                return value.strip()

    def _send(self, line: str, name: str) -> None:
        if not self.close.alive:
            raise PlayerError(f"gnubg was asked about {name} after it had been closed.")
        self._socket.settimeout(self.patience)
        if len(line) > 240:
            raise PlayerError(f"gnubg reads lines of 255 bytes, but {name} takes {len(line)}.")
        try:
            self._socket.sendall(line.encode() + b"\n")
        except OSError as error:
            self._fail(f"gnubg could not be asked about {name} ({error}); it said: {self.last_words()}.")

    def _line(self, name: str) -> str:
        """Return the next line of gnubg's answer."""
        while b"\n" not in self._rest:
            try:
                part = self._socket.recv(65536)
            except TimeoutError:
                self._fail(f"gnubg gave no answer within {self.patience:g} seconds to {name}.")
            except OSError as error:
                self._fail(f"gnubg ended at {name} ({error}); it said: {self.last_words()}.")
            if not part:
                self._fail(f"gnubg ended at {name}; it said: {self.last_words()}.")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("ascii", "replace")

    def _fail(self, sentence: str) -> NoReturn:
        """Give the program up: an answer that comes later would be taken for that of the next question."""
        self.close()
        raise PlayerError(f"{sentence} The match is void; no move was substituted.")

    def ask(self, line: str, name: str) -> str:
        """Return the one line that gnubg answers; PlayerError where it is late, an error or not just one."""
        self._send(line, name)
        answer = self._line(name)
        if answer.startswith("Error") or self._rest:
            self._fail(f"gnubg answered '{answer} {self._rest.decode('ascii', 'replace')}' to {name}.")
        return answer.strip()

    def move(self, asked: Asked, as_o: bool = False) -> str:
        """Return gnubg's move, such as `8/5 6/5`; empty where no checker can move."""
        return self.ask(fibs_board(asked, as_o), asked.name)

    def evaluation(self, asked: Asked, ply: int, as_o: bool = False) -> tuple[float, ...]:
        """Return win, win gammon, win backgammon, lose gammon, lose backgammon, equity before the roll.

        Each gammon counts with its backgammons. The equity is cubeless; gammons count.
        """
        answer = self.ask(self._evaluation_line(asked, ply, as_o), asked.name)
        return self.read_evaluation(answer, asked.name)

    def _evaluation_line(self, asked: Asked, ply: int, as_o: bool) -> str:
        options = f"PLIES {ply} CRAWFORDRULE off JACOBYRULE off CUBE off NOISE 0.0 PRUNE on"
        return f"evaluation fibsboard {fibs_board(asked, as_o)} {options}"

    def read_evaluation(self, answer: str, name: str) -> tuple[float, ...]:
        """Return the six numbers of an evaluation; PlayerError where they are not sane."""
        try:
            found = tuple(map(float, answer.split()))
        except ValueError:
            found = ()
        slack = 2e-6
        if len(found) == 6:
            win, gammon, backgammon, lose_gammon, lose_backgammon, equity = found
            ordered = [0.0, backgammon, gammon, win, 1.0], [0.0, lose_backgammon, lose_gammon, 1 - win]
            sane = all(a <= b + slack for row in ordered for a, b in zip(row, row[1:], strict=False))
            counted = 2 * win - 1 + gammon + backgammon - lose_gammon - lose_backgammon
            if sane and abs(counted - equity) < 1e-5:
                return found
        self._fail(
            f"gnubg evaluates {name} as '{answer}'; expected are win, gammon, backgammon, lost gammon, lost "
            "backgammon, each within the one before, and the cubeless equity with gammons."
        )

    def echoed(self, asked: Asked, ply: int | None, as_o: bool = False) -> Echo:
        """Return gnubg's move (ply None) or evaluation and the board, dice and rule as gnubg read them."""
        name = asked.name
        if self.ask("set debug on", name) != "Debug output ON":
            self._fail(f"gnubg does not repeat questions (set debug on), asked about {name}.")
        line = fibs_board(asked, as_o) if ply is None else self._evaluation_line(asked, ply, as_o)
        self._send(line, name)
        told: list[str] = []
        while (answer := self._line(name)).startswith("DBG:") or not told:
            told.append(answer)
        found = ECHO.search("\n".join(told))
        if not found or not told[0].startswith("DBG:"):
            self._fail(f"gnubg did not repeat what it read of {name}; it answered '{answer}'.")
        self.ask("set debug off", name)
        position, jacoby, high, low = found.groups()
        return Echo(position, jacoby == "with", (int(high), int(low)), answer.strip())


def _end(
    process: subprocess.Popen[bytes], channel: socket.socket, folder: tempfile.TemporaryDirectory[str]
) -> None:
    """Kill and reap the process; nothing in it is worth a farewell."""
    channel.close()
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
    folder.cleanup()


def settings_of(program: GnubgProgram) -> dict[str, Any]:
    """Return gnubg's settings as it told them itself, plain data for results."""
    evaluation, cube = program.facts["evaluation"], program.facts["cube"]
    start = [0] * 25
    for point, checkers in ((6, 5), (8, 3), (13, 5), (24, 2)):
        start[point - 1] = checkers
    beavers, cube_used = program.shown()
    # The session and the socket each have their own Jacoby rule.
    heard = program.echoed(Asked(start, start, (3, 1), "the opening"), None).jacoby
    return {
        "program": "gnubg",
        "version": program.version,
        "ply": evaluation["plies"],
        "cubeful": bool(evaluation["cubeful"]),
        "noise": evaluation["noise"],
        "prune": bool(evaluation["prune"]),
        "match_length": cube["matchto"],
        "cube": "in use" if cube_used else "disabled",
        "jacoby": heard or bool(cube["jacoby"]),
        "beavers": beavers,
        "gammon_price": cube["gammonprice"],
        "met": program.facts["met"],
        "variation": program.facts["variation"],
        "move_filter": [f for f in program.facts["filter"] if f["ply"] == program.ply],
    }
