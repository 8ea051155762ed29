"""Drives GNU Backgammon as an oracle: turns, Position IDs, bear-off equities, cubeless probabilities.

One `gnubg -t -q -r` serves all questions: its embedded Python reads them, one JSON line each, from
one pipe and answers into another, so its own talk on the terminal is never parsed. Boards are those
of `backgammon_slow`. Whatever is not as expected raises `GnubgError`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from tests.games.backgammon_slow import BAR, OFF, SLOTS, Board, moved, side

DRIVER = """
import json, os, traceback
import gnubg

READ, WRITE = int(os.environ["ORACLE_READ"]), int(os.environ["ORACLE_WRITE"])
for line in (
    "set automatic roll off", "set automatic game off", "set automatic bearoff off",
    "set automatic move off", "set player 0 human", "set player 1 human", "set display off",
    "set cube use off", "new session", "set evaluation chequerplay evaluation plies 0",
    "set evaluation chequerplay evaluation cubeful off",
):
    gnubg.command(line)

def moves(board, roll):
    gnubg.command("set turn 1")
    gnubg.command("set board " + gnubg.positionid(board))
    gnubg.command("set dice %d %d" % tuple(roll))
    return {"board": gnubg.board(), "dice": gnubg.posinfo()["dice"], "hint": gnubg.hint(10000)}

def position_id(board):
    return gnubg.positionid(board)

def board_of(text):
    return gnubg.positionfromid(text)

def evaluation(board, plies):
    context = {"cubeful": 0, "plies": plies, "deterministic": 1, "prune": 0, "noise": 0.0}
    return {"class": gnubg.classifypos(board, 0), "numbers": gnubg.evaluate(board, gnubg.cubeinfo(), context)}

ANSWERS = {"moves": moves, "position_id": position_id, "board_of": board_of, "evaluation": evaluation}
with os.fdopen(READ) as questions, os.fdopen(WRITE, "w") as answers:
    for line in questions:
        name, *given = json.loads(line)
        try:
            given = [tuple(map(tuple, x)) if isinstance(x, list) and len(x) == 2 and
                     isinstance(x[0], list) else x for x in given]
            answer = {"answer": ANSWERS[name](*given)}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + chr(10))
        answers.flush()
os._exit(0)
"""

BEAROFF_TWO_SIDED = 4
"""gnubg's class of the positions whose cubeless equity stands in its two-sided database: exact."""

MOVE = re.compile(r"(bar|\d+)((?:/(?:off|\d+)\*?)+)(?:\((\d)\))?")


class GnubgError(Exception):
    """gnubg is missing a step of the protocol or answers something unexpected."""


class Gnubg:
    """One running gnubg; a context manager.

    Args:
      program: its path.
    """

    def __init__(self, program):
        self.folder = tempfile.TemporaryDirectory()
        home = Path(self.folder.name)
        (home / "driver.py").write_text(DRIVER)
        read, self.write = os.pipe()
        self.read, write = os.pipe()
        self.said = (home / "said.txt").open("wb")
        self.process = subprocess.Popen(
            [program, "-t", "-q", "-r", "-p", str(home / "driver.py")],
            stdin=subprocess.DEVNULL,
            stdout=self.said,
            stderr=subprocess.STDOUT,
            pass_fds=(read, write),
            cwd=home,
            env={**os.environ, "HOME": str(home), "ORACLE_READ": str(read), "ORACLE_WRITE": str(write)},
        )
        os.close(read)
        os.close(write)
        self.questions = os.fdopen(self.write, "w")
        self.answers = os.fdopen(self.read)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End the program; its pipe closes, upon which it leaves."""
        with contextlib.suppress(BrokenPipeError):
            self.questions.close()
        try:
            self.process.wait(timeout=10)
        finally:
            self.process.kill()
            self.process.wait()
            self.answers.close()
            self.said.close()
            self.folder.cleanup()

    def ask(self, *question):
        """Return the driver's answer to (name, arguments...)."""
        try:
            self.questions.write(json.dumps(question) + "\n")
            self.questions.flush()
        except BrokenPipeError:
            raise GnubgError(f"gnubg has ended; it said: {self._last_words()}") from None
        line = self.answers.readline()
        if not line:
            raise GnubgError(f"gnubg gave no answer to {question}; it said: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise GnubgError(f"gnubg failed at {question}: {answer['error']}")
        return answer["answer"]

    def _last_words(self):
        return (Path(self.folder.name) / "said.txt").read_text(errors="replace")[-1000:]

    def position_id(self, board):
        """Return gnubg's Position ID of a board."""
        return str(self.ask("position_id", pair(board)))

    def board(self, position_id):
        """Return the board of a Position ID."""
        return unpair(self.ask("board_of", position_id))

    def results(self, board, roll):
        """Return the set of boards after every legal turn, seen by the same player."""
        found = self.ask("moves", pair(board), list(roll))
        hint = found["hint"]
        asked = (unpair(found["board"]), sorted(found["dice"]), hint["hinttype"])
        if asked != (board, sorted(roll), "chequer"):
            raise GnubgError(f"gnubg was asked about {board}, {roll} but answered about {found}.")
        played = [one["move"] for one in hint["hint"]]
        ends = {played_move(board, text) for text in played} if played else {board}
        if len(ends) < len(played):
            raise GnubgError(f"gnubg names one result of {board}, {roll} twice: {played}")
        return ends

    def probabilities(self, board, plies=0):
        """Return cubeless (win, win gammon, win backgammon, lose gammon, lose backgammon), each a part
        of the one before, for the player on roll."""
        numbers = self.ask("evaluation", pair(board), plies)["numbers"]
        if len(numbers) != 6 or not all(0 <= p <= 1 for p in numbers[:5]):
            raise GnubgError(f"gnubg evaluates {board} as {numbers}; expected five probabilities, equity.")
        return tuple(numbers[:5])

    def equity(self, board, plies=0):
        """Return the cubeless money equity, gammons counted, for the player on roll."""
        win, gammon, backgammon, lose_gammon, lose_backgammon = self.probabilities(board, plies)
        return 2 * win - 1 + gammon + backgammon - lose_gammon - lose_backgammon

    def bearoff_equity(self, board):
        """Return the exact cubeless equity of a bear-off of up to six checkers a side."""
        found = self.ask("evaluation", pair(board), 0)
        if found["class"] != BEAROFF_TWO_SIDED:
            raise GnubgError(f"{board} is not in gnubg's two-sided database (class {found['class']}).")
        return self.equity(board)


def pair(board):
    """Return gnubg's two lists of 25 counts: the player not on roll, then the one on roll."""
    return [[one[slot] for slot in SLOTS] for one in (board.theirs, board.mine)]


def unpair(lists):
    """Return the board of gnubg's two lists."""
    if [len(one) for one in lists] != [25, 25]:
        raise GnubgError(f"{lists} is not a board: expected two lists of 25 counts.")
    theirs, mine = (side(dict(zip(SLOTS, one, strict=True))) for one in lists)
    return Board(mine, theirs)


def played_move(board, text):
    """Return the board after a move in gnubg's notation, such as '13/7*/5 6/5(2)'."""
    hits = set()
    for part in text.split():
        match = MOVE.fullmatch(part)
        if not match:
            raise GnubgError(f"'{part}' of gnubg's move '{text}' is not a movement.")
        start, targets, times = match.groups()
        for _ in range(int(times or 1)):
            source = BAR if start == "bar" else int(start)
            for target in targets[1:].split("/"):
                point = OFF if target == "off" else int(target.rstrip("*"))
                enemies = 0 if point == OFF else board.theirs[25 - point]
                # '7/4*(2)': only the first checker hits, the mark stands for both.
                marked = target.endswith("*") and point not in hits
                if not board.mine[source] or enemies != int(marked):
                    raise GnubgError(f"gnubg's move '{text}' cannot be played on {board}.")
                hits |= {point} if marked else set()
                board = moved(board, source, point)
                source = point
    return board
