"""What gnubg must show before its first move counts: rules asked back, boards, legal moves, values, colours.

The rules are asked back from gnubg's own state, and again with every proof question. In gnubg 1.07 cubeless
chequer play counts gammons whatever the Jacoby rule says (0 of 27,846 moves differed), and cubeful play obeys
it. So in MUST_COUNT_GAMMONS the best move differs when gammons do not count, as under Jacoby with the cube
in the middle, and gnubg has to play the one that is best when they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import PlayerError
from ..games.backgammon import BAR, GAME, position_id
from .backgammon_turns import Turns, turns
from .gnubg_program import Asked, GnubgProgram, after, read_move, settings_of

POSITIONS = (
    ("4HPwATDgc/ABMA", "31", "opening"),
    ("4HPwATDgc/ABMA", "65", "opening"),
    ("4HPwATDgc/ABMA", "11", "opening, doubles"),
    ("4HPwATDgc/ABMA", "66", "opening, most sixes blocked"),
    ("mGfwATDgc/ABUA", "42", "enter one checker"),
    ("sOfgATDgc/ABYA", "33", "enter two checkers"),
    ("Y2bwATDg8+ABYA", "62", "two on the bar, one enters"),
    ("2+4OAADcvQcAQA", "61", "closed out"),
    ("22wGBwDg58EDQA", "41", "on the bar, only one die enters"),
    ("OGfwATDg58EDQA", "66", "on the bar, doubles blocked"),
    ("AADA/x8AEAAAAA", "65", "either die but not both: the larger"),
    ("bNsOBgDw/QAANg", "55", "no way on after part of the doubles"),
    ("4HPwASLgc+EBMA", "41", "hit"),
    ("4HPwgCLgc+IBMA", "54", "hit two"),
    ("yOfgATDgc/ABUA", "43", "hit on entering"),
    ("4HPwIDBwz8EBAw", "44", "doubles in the middle game"),
    ("zJ6zAQDYnh0DAA", "63", "a race"),
    ("7e4OAADb7g4AAA", "62", "bear off exactly"),
    ("zAYAgLYBAAAAAA", "65", "bear off by larger numbers"),
    ("DAAAgAAAAAAAAA", "61", "the last checker must play both numbers"),
    ("Hu8AALBtAwAAAA", "33", "bear off with doubles"),
    ("3L0HAEBtdwMAAA", "64", "bear off against a checker on the bar"),
    ("JgMAAHbvDAAIAA", "65", "a gammon to be saved"),
    ("sAEAIAAAAAAAAA", "21", "won for sure"),
)
"""Position ID, dice and why it is here; one sort of position after the other, as in a rulebook."""

MUST_COUNT_GAMMONS = (
    ("ZruBAWC2uwkGAA", "51", "two on the bar: play for the gammon"),
    ("bLuLAEC2bYsAIA", "41", "one on the bar: play for the gammon"),
    ("tnUDMEDb7gYAAA", "32", "bear off, or hold the bar against"),
)
"""Positions in which the best move with gammons is not the best one without."""

FILTER = 0.16
"""gnubg's move filter: from 1-ply on it chooses among the moves within so much of the best at 0-ply."""

TIE = 5e-6
"""gnubg prints its numbers to six places."""


class Ends(NamedTuple):
    """What gnubg says of each end of a turn, for the seat whose turn it is."""

    turns: Turns
    equity: list[float]
    """Points per game, gammons counted."""
    win: list[float]
    """The equity if gammons did not count: 2 x chance to win - 1."""


def asked_of(state: Any) -> Asked:
    """Return the question about a state: before the roll, or with whole dice to play."""
    seat = int(state.seat)
    high = max(int(state.die), 0)
    low = high if state.other < 0 else int(state.other)
    mine, theirs = (state.checkers[s].tolist() for s in (seat, 1 - seat))
    return Asked(mine, theirs, (high, low), f"position {GAME.position(state)}")


def state_of(position: str, dice: str, seat: int = 0) -> Any:
    """Return the state of a Position ID and a whole roll."""
    whole = dice if dice[0] != dice[1] else 4 * dice[0]
    return GAME.parse_position(f"{position} {seat} {whole}")


def end_after(state: Any, steps: Sequence[Sequence[int]], found: Turns) -> int:
    """Return the place of the end that gnubg's movements lead to.

    Raises:
      ValueError: they cannot be played, or no legal turn ends like that.
    """
    mine, theirs = after(asked_of(state), steps)
    seat = int(state.seat)
    same = (found.ends["checkers"][:, seat] == mine) & (found.ends["checkers"][:, 1 - seat] == theirs)
    rows = same.all(axis=1).nonzero()[0]
    if len(rows) != 1:
        raise ValueError(f"no legal turn of {GAME.position(state)} ends like that")
    return int(rows[0])


def gnubg_end(state: Any, answer: str, found: Turns, who: str) -> int:
    """Return the place of the end that gnubg's answer leads to; PlayerError where it leads to none."""
    try:
        return end_after(state, read_move(answer), found)
    except ValueError as error:
        raise PlayerError(
            f"{who} answered '{answer}' in position {GAME.position(state)}, which is not a legal move there "
            f"({error}). The match is void; no move was substituted."
        ) from None


def evaluate_ends(program: GnubgProgram, state: Any, found: Turns, ply: int) -> Ends:
    """Return what each end of the turn is worth to the seat of `state`; a finished game its points."""
    equity, win = [], []
    seat = int(state.seat)
    for end in found.ends:
        points = GAME.points(end)
        if points is not None:
            equity.append(float(points[seat]))
            win.append(1.0 if points[seat] > 0 else -1.0)
        else:
            numbers = program.evaluation(asked_of(end), ply)
            equity.append(-numbers[5])
            win.append(1 - 2 * numbers[0])
    return Ends(found, equity, win)


def prove(program: GnubgProgram) -> None:
    """Prove rules, boards, moves and values on the fixed positions.

    Args:
      program: started with `questions()`.

    Raises:
      PlayerError: something differs; the message names the position and both answers.
    """
    prove_settings(program)
    prove_legal_moves(program)
    prove_values(program)
    prove_moves(program)
    prove_gammons_count(program)


def questions() -> list[tuple[str, tuple[int, int]]]:
    """Return the positions whose legal moves gnubg tells when it starts."""
    return [(name, (int(dice[0]), int(dice[1]))) for name, dice, _ in (*POSITIONS, *MUST_COUNT_GAMMONS)]


def refuse(what: str, expected: object, found: object) -> None:
    """Raise PlayerError where gnubg shows something else than it must."""
    if found != expected:
        raise PlayerError(
            f"gnubg failed its proof before the first move: {what} must be {expected}, but is {found}. "
            "No game was played."
        )


def prove_settings(program: GnubgProgram) -> None:
    """Compare the rules and the kind of evaluation that gnubg says it uses with those it was told."""
    found = settings_of(program)
    needed = {
        "ply": program.ply,
        "cubeful": False,
        "noise": 0.0,
        "match_length": 0,
        "cube": "disabled",
        "jacoby": False,
        "beavers": 0,
        "gammon_price": [[1.0, 1.0], [1.0, 1.0]],
        "variation": "You are playing: Standard backgammon",
    }
    for key, value in needed.items():
        refuse(f"its setting {key}", value, found[key])


def prove_legal_moves(program: GnubgProgram) -> None:
    """Compare Position IDs, points and the ends of all legal moves with what gnubg says of them."""
    for (name, dice), told in zip(questions(), program.facts["legal"], strict=True):
        state = state_of(name, f"{dice[0]}{dice[1]}")
        what = f"of position {GAME.position(state)}"
        refuse(f"the Position ID {what}", name, told["position"])
        points = [state.checkers[1, : BAR + 1].tolist(), state.checkers[0, : BAR + 1].tolist()]
        refuse(f"the points {what}", points, told["points"])
        refuse(f"the dice {what}", (sorted(dice), "chequer"), (sorted(told["dice"]), told["kind"]))
        found = turns(state)
        try:
            reached = {end_after(state, steps, found) for steps in told["moves"] or [[]]}
        except ValueError as error:
            raise PlayerError(f"gnubg failed its proof before the first move: {error}.") from None
        refuse(f"the number of legal ends {what}", len(found.ends), len(reached))


def prove_values(program: GnubgProgram) -> None:
    """Compare what gnubg reads from the socket and how it evaluates it as X and as O; check the numbers."""
    for name, dice, _ in POSITIONS:
        asked = asked_of(state_of(name, dice))
        first = program.echoed(asked, 0)
        other = program.echoed(asked, 0, as_o=True)
        for echo in (first, other):
            refuse(f"the board read of {asked.name}", (name, asked.dice), (echo.position, echo.dice))
            program.read_evaluation(echo.answer, asked.name)
        refuse(f"the value of {asked.name} to the other colour", first.answer, other.answer)


def prove_moves(program: GnubgProgram) -> None:
    """Compare gnubg's moves as X and as O, and with what it says itself of all ends of the turn.

    From 2-ply on every fourth position is asked; the rules of the moves do not change with the depth.
    """
    for name, dice, _ in POSITIONS[:: 4 if program.ply > 1 else 1]:
        for seat in (0, 1):
            state = state_of(name, dice, seat)
            asked, found = asked_of(state), turns(state)
            first = program.echoed(asked, None)
            other = program.echoed(asked, None, as_o=True)
            for echo in (first, other):
                refuse(f"the board read of {asked.name}", (name, asked.dice), (echo.position, echo.dice))
                refuse(f"the Jacoby rule in the question about {asked.name}", False, echo.jacoby)
            refuse(f"the move of the other colour in {asked.name}", first.answer, other.answer)
            end = gnubg_end(state, first.answer, found, "gnubg")
            worth = evaluate_ends(program, state, found, 0).equity
            slack = TIE if program.ply == 0 else FILTER + TIE
            refuse(
                f"that '{first.answer}' in {asked.name}, worth {worth[end]:.6f} by gnubg's own values, is "
                f"the best ({max(worth):.6f}) or in reach of it",
                True,
                worth[end] >= max(worth) - slack,
            )


def prove_gammons_count(program: GnubgProgram) -> None:
    """Show that gnubg plays for gammons where a player to whom they did not count would play otherwise."""
    for name, dice, _ in MUST_COUNT_GAMMONS:
        state = state_of(name, dice)
        found = turns(state)
        ends = evaluate_ends(program, state, found, 0)
        counted, uncounted = (max(range(len(row)), key=row.__getitem__) for row in (ends.equity, ends.win))
        what = f"position {GAME.position(state)}"
        refuse(f"{what}: whether gammons make a difference there", True, counted != uncounted)
        end = gnubg_end(state, program.move(asked_of(state)), found, "gnubg")
        refuse(
            f"the end of gnubg's move in {what}, where gammons must count (without the Jacoby rule),",
            position_id(found.ends[counted]),
            position_id(found.ends[end]),
        )
