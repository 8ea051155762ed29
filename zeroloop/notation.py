"""Records: a JSON object for a game of any kind; PGN, SGF and MAT for games that have their own notation.

Sources: PGN standard (Edwards 1994); SGF FF[4] and its page on Hex, GM[11]; Jellyfish's match files as
GNU Backgammon reads them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .compiled import kernel
from .errors import ConfigError, InvalidState
from .games.game import (
    CHANCE,
    TERMINAL,
    Game,
    State,
    apply_action,
    chance_outcomes,
    legal_actions,
    title,
    to_play,
)

Array = npt.NDArray[Any]
Row = dict[str, Any]

FORMAT = 1
"""Of a row; a row of another format is refused."""

_KEYS: dict[str, type] = (
    dict.fromkeys(("format", "opening", "seat", "opening_moves"), int)
    | dict.fromkeys(("game", "initial", "start", "ended", "date"), str)
    | dict.fromkeys(("seats", "models", "moves", "movers", "points"), list)
    | {"options": dict}
)
"""Every key of a row and the type of its value; docs/matches.md explains them."""


class Step(NamedTuple):
    """One ply of a recorded game."""

    before: State
    mover: int
    """The seat, or `CHANCE`."""
    action: int
    legal: list[int]
    """All actions or chance outcomes that were possible."""
    after: State


@kernel
def look(game: Any, state: Any, legal: Any, chance: Any) -> Any:
    """Return (who is to move, number of ids written to `legal`)."""
    mover = to_play(game, state)
    if mover == TERMINAL:
        return mover, 0
    if mover == CHANCE:
        return mover, chance_outcomes(game, state, legal, chance)
    return mover, legal_actions(game, state, legal)


@kernel
def advance(game: Any, state: Any, action: Any) -> None:
    """Apply an action or chance outcome in place."""
    apply_action(game, state, action)


def _steps(
    game: Game, initial: State, choose: Callable[[int, State, list[int]], int], plies: int
) -> Iterator[Step]:
    """Yield `plies` steps from a position; `choose(ply, state, legal)` says which one is made."""
    states = game.states(plies + 1)
    states[0] = initial
    legal = np.zeros(max(game.max_legal, game.max_chance), np.int32)
    chance = np.zeros(max(game.max_chance, 1), np.float32)
    for ply in range(plies):
        mover, k = look(game, states[ply], legal, chance)
        allowed = [int(a) for a in legal[:k]]
        action = choose(ply, states[ply], allowed)
        states[ply + 1] = states[ply]
        advance(game, states[ply + 1], action)
        yield Step(states[ply], int(mover), action, allowed, states[ply + 1])


def record(
    game: Game,
    initial: State,
    opening: Sequence[int],
    actions: Sequence[int],
    *,
    number: int,
    seat: int,
    seats: Sequence[str],
    models: Sequence[str | None],
    points: Sequence[float],
    date: str,
) -> Row:
    """Return a finished game as plain data.

    Args:
      opening, actions: ids of the opening's plies and of those that followed, chance outcomes included.
      number: of the opening. seat: the first side's. seats, models: names and model hashes by seat.
      date: `2026.01.31`.

    Raises:
      InvalidState: an action was not legal, so these are not the actions of this game.
    """
    line = [int(a) for a in (*opening, *actions)]

    def choose(ply: int, state: State, legal: list[int]) -> int:
        if line[ply] not in legal:
            raise InvalidState(
                f"{game.id}: ply {ply + 1}, action {line[ply]}, is not legal in {game.position(state)}."
            )
        return line[ply]

    names, movers, state = [], [], initial
    start = game.position(initial)
    for ply, step in enumerate(_steps(game, initial, choose, len(line)), 1):
        names.append(game.action_name(step.before, step.action))
        movers.append(step.mover)
        state = step.after
        if ply == len(opening):
            start = game.position(state)
    over = game.rules["to_play"](state) == TERMINAL
    return {
        "format": FORMAT,
        "game": game.name,
        "options": game.options,
        "opening": number,
        "seat": seat,
        "seats": list(seats),
        "models": list(models),
        "initial": game.position(initial),
        "start": start,
        "opening_moves": len(opening),
        "moves": names,
        "movers": movers,
        "points": [float(x) for x in points],
        "ended": "over" if over else "cut",
        "date": date,
    }


def check_row(row: Any) -> Row:
    """Return the row; InvalidState says what a record of a game lacks."""
    if not isinstance(row, dict):
        raise InvalidState("a record of a game is a JSON object, but this is something else.")
    for key, kind in _KEYS.items():
        if type(row.get(key)) is not kind:
            raise InvalidState(f"a record of a game needs '{key}', a JSON {kind.__name__}.")
    if row["format"] != FORMAT:
        raise InvalidState(f"the record has format {row['format']}; this zeroloop reads {FORMAT}.")
    return row


def walk(game: Game, row: Row) -> Iterator[Step]:
    """Yield every ply of a record, found by the names of its moves.

    Raises:
      InvalidState: the record is of another game, or a move is not legal where it stands.
    """
    if (row["game"], row["options"]) != (game.name, game.options):
        raise InvalidState(f"the record is of {title(row['game'], row['options'])}, not of {game.id}.")
    moves = row["moves"]

    def choose(ply: int, state: State, legal: list[int]) -> int:
        for action in legal:
            if game.action_name(state, action) == moves[ply]:
                return action
        allowed = ", ".join(game.action_name(state, a) for a in legal) or "none: the game is over"
        raise InvalidState(
            f"{game.id}: ply {ply + 1} of the record, '{moves[ply]}', is not possible in "
            f"{game.position(state)}; allowed: {allowed}."
        )

    yield from _steps(game, game.parse_position(row["initial"]), choose, len(moves))


def replay(game: Game, row: Row) -> State:
    """Play a record again by the names of its moves and return the last state.

    Raises:
      InvalidState: a move is not legal, or the end is not the recorded one.
    """
    state = game.parse_position(row["initial"])
    for step in walk(game, row):
        state = step.after
    points = game.points(state)
    if (points is not None) != (row["ended"] == "over") or (points is not None and points != row["points"]):
        raise InvalidState(
            f"{game.id}: the record says '{row['ended']}' with points {row['points']}, but its moves lead to "
            f"{game.position(state)} with points {points}."
        )
    return state


def pgn(game: Game, rows: Sequence[Row]) -> str:
    """Return games of chess as PGN; a game that was cut at the ply bound is drawn by adjudication."""
    return "\n".join(_pgn(game, row) for row in rows)


def _pgn(game: Game, row: Row) -> str:
    from .games.chess_text import START

    result = {1.0: "1-0", -1.0: "0-1", 0.0: "1/2-1/2"}[row["points"][0]]
    tags = {
        "Event": "zeroloop tournament",
        "Site": "?",
        "Date": row["date"],
        "Round": f"{row['opening'] + 1}.{row['seat'] + 1}",
        "White": row["seats"][0],
        "Black": row["seats"][1],
        "Result": result,
    }
    if row["initial"] != START or game.options.get("chess960"):
        tags |= {"SetUp": "1", "FEN": row["initial"]}
    if game.options.get("chess960"):
        tags["Variant"] = "Chess960"
    tags["Termination"] = "normal" if row["ended"] == "over" else "adjudication"
    tags["OpeningPlies"] = str(row["opening_moves"])
    tags |= {f"{side}Model": m for side, m in zip(("White", "Black"), row["models"], strict=True) if m}
    head = [f'[{tag} "{_escaped(value, chr(34))}"]' for tag, value in tags.items()]
    fields = row["initial"].split()
    number = 2 * int(fields[5]) + (fields[1] == "b")
    words: list[str] = []
    for step in walk(game, row):
        if number % 2 == 0 or not words:
            words.append(f"{number // 2}." + ".." * (number % 2))
        words.append(san(step))
        number += 1
    return "\n".join([*head, "", *_wrapped([*words, result]), ""])


def _escaped(text: str, end: str) -> str:
    """Return a text whose own backslashes and end marks do not end it."""
    return text.replace("\\", "\\\\").replace(end, f"\\{end}")


def _wrapped(words: Sequence[str]) -> list[str]:
    return textwrap.wrap(" ".join(words), 79, break_long_words=False, break_on_hyphens=False)


def san(step: Step) -> str:
    """Return a move of chess in standard algebraic notation: `Nbd7`, `exd8=Q+`, `O-O-O#`."""
    from .games.chess_moves import threats
    from .games.chess_play import OFFSET
    from .games.chess_tables import KING, PAWN
    from .games.chess_text import LETTERS, square_name

    before, after, turn = step.before, step.after, 56 * int(step.before.mover)

    def of(action: int) -> tuple[int, int, int]:
        """Return (kind of piece, square, target), the squares as the seat to move sees them."""
        square = action & 63
        kind = next(k for k in range(6) if int(before.pieces[k]) >> square & 1)
        return kind, square, square + int(OFFSET[action >> 6])

    kind, square, target = of(step.action)
    there, here = square_name(target ^ turn), square_name(square ^ turn)
    takes = "x" if int(before.sides[1]) >> target & 1 or (kind == PAWN and here[0] != there[0]) else ""
    if int(before.sides[0]) >> target & 1:
        text = "O-O" if target > square else "O-O-O"
    elif kind == PAWN:
        promoted = "NBR"[((step.action >> 6) - 64) // 3] if step.action >> 6 >= 64 else "Q"
        text = (here[0] + takes if takes else "") + there + (f"={promoted}" if target >= 56 else "")
    else:
        rivals = [s for k, s, t in map(of, step.legal) if (k, t) == (kind, target) and s != square]
        names = [square_name(s ^ turn) for s in rivals]
        apart = ""
        if names:
            by_file = here[0] not in {n[0] for n in names}
            by_rank = here[1] not in {n[1] for n in names}
            apart = here[0] if by_file else here[1] if by_rank else here
        text = LETTERS[kind] + apart + takes + there
    check = threats(after.pieces, after.sides[0], after.sides[1])[0] & after.pieces[KING] & after.sides[0]
    return text + (("#" if after.over in (1, 2) else "+") if check else "")


def sgf(game: Game, rows: Sequence[Row]) -> str:
    """Return games of Hex as a collection of SGF FF[4] trees; Black moves first and joins top and bottom."""
    return "\n".join(_sgf(game, row) for row in rows) + "\n"


def _sgf(game: Game, row: Row) -> str:
    result = "0" if row["points"][0] == row["points"][1] else "BW"[int(np.argmax(row["points"]))] + "+"
    black, white = (_escaped(name, "]") for name in row["seats"])
    root = f"FF[4]GM[11]CA[UTF-8]AP[zeroloop]SZ[{game.options['size']}]DT[{row['date'].replace('.', '-')}]"
    root += f"RO[{row['opening'] + 1}.{row['seat'] + 1}]PB[{black}]PW[{white}]RE[{result}]"
    root += f"RU[{'swap' if game.options['swap'] else 'no swap'}]"
    root += f"C[the first {row['opening_moves']} moves were drawn at random]"
    moves = []
    for step in walk(game, row):
        name = game.action_name(step.before, step.action)
        moves.append(f";{'BW'[step.mover]}[{'swap-pieces' if name == 'swap' else name}]")
    return f"(;{root}\n" + "\n".join(_wrapped(moves)) + ")"


def mat(game: Game, rows: Sequence[Row]) -> str:
    """Return games of two players as one money session without a cube; the score runs on from game to game.

    Raises:
      InvalidState: the games are not all between the same two players.
    """
    names = ["", ""]
    if rows:
        first = rows[0]["seat"]
        names = [rows[0]["seats"][first], rows[0]["seats"][1 - first]]
    lines, score = [" 0 point match", ""], [0, 0]
    left, right = _mat_names(names)
    for number, row in enumerate(rows, 1):
        if set(row["seats"]) != set(names):
            raise InvalidState(f"a session is between two players, {names}, but a game is of {row['seats']}.")
        column = [names.index(name) for name in row["seats"]]
        lines += [f" Game {number}", f" {left} : {score[0]}".ljust(35) + f" {right} : {score[1]}"]
        lines += _mat_lines(_mat_turns(game, row), column)
        points = max(row["points"])
        if row["ended"] == "over":
            winner = column[int(np.argmax(row["points"]))]
            score[winner] += int(points)
            told = f"Wins {int(points)} point{'s' if points > 1 else ''}"
            lines.append("      " + " " * (29 * winner) + told)
        lines.append("")
    return "\n".join(lines) + "\n"


def _mat_names(names: Sequence[str]) -> list[str]:
    """Return names that a line `NAME : SCORE` can hold: no colon, at most 30 characters, different."""
    found = [name.replace(":", "-")[-30:] for name in names]
    return found if found[0] != found[1] else [f"{n}-{name}"[:30] for n, name in enumerate(found, 1)]


def _mat_turns(game: Game, row: Row) -> list[tuple[int, str]]:
    """Return (seat, `31: 8/5 6/5`) of every turn; 25 is the bar and 0 is off, a hit has a star."""
    from .games.backgammon import PASS, ROLLS

    turns: list[tuple[int, str]] = []
    dice = ""
    for step in walk(game, row):
        if step.mover == CHANCE:
            a, b = sorted(map(int, ROLLS[step.action]), reverse=True)
            dice = f"{a}{b}:"
            continue
        if dice:
            turns.append((step.mover, dice))
            dice = ""
        if step.action == PASS:
            continue
        source, die = divmod(step.action, 6)
        point = source - die - 1
        hit = point >= 0 and int(step.before.checkers[1 - step.mover, 23 - point]) == 1
        seat, text = turns[-1]
        turns[-1] = seat, f"{text} {source + 1}/{max(point + 1, 0)}{'*' * hit}"
    return [(seat, text if " " in text else f"{text} Cannot Move") for seat, text in turns]


def _mat_lines(turns: Sequence[tuple[int, str]], column: Sequence[int]) -> list[str]:
    """Return numbered lines of two columns; the first one is half empty where the right side begins."""
    cells = [text for _, text in turns]
    if turns and column[turns[0][0]] == 1:
        cells.insert(0, "")
    found = []
    for n in range(0, len(cells), 2):
        found.append(
            f"{n // 2 + 1:3d}) {cells[n]:<28s} {cells[n + 1] if n + 1 < len(cells) else ''}".rstrip()
        )
    return found


FORMATS: dict[str, tuple[str, Callable[[Game, Sequence[Row]], str]]] = {
    "pgn": ("chess", pgn),
    "sgf": ("hex", sgf),
    "mat": ("backgammon", mat),
}
"""The game and the writer of each format beside JSON Lines, which holds every game."""


def formats_for(game: Game, asked: Sequence[str] | None = None) -> list[str]:
    """Return the formats to write beside JSON Lines: those asked for, else the game's usual one.

    Raises:
      ConfigError: an unknown format, or one of another game.
    """
    if asked is None:
        return [name for name, (plays, _) in FORMATS.items() if plays == game.name]
    for name in asked:
        if name not in ("jsonl", *FORMATS):
            raise ConfigError(f"--format {name} is unknown; allowed: jsonl, {', '.join(FORMATS)}.")
        if name != "jsonl" and FORMATS[name][0] != game.name:
            raise ConfigError(
                f"--format {name} writes games of {FORMATS[name][0]}, not of {game.id}; "
                "jsonl holds games of any kind."
            )
    return [name for name in asked if name != "jsonl"]
