"""Prove on random play that a game keeps the laws of the contract.

`record` plays random games, asks every rule at every ply and writes the answers down. It runs as
plain Python, where a mistake in a rule shows its line (`explain`), and compiled. `laws` compares what was
written with the contract, and the plain answers with the compiled ones. Random game number S draws
its setup and moves from the seed S, so `--seed S` plays it again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..compiled import INTERPRETED
from ..errors import GameError, LawBroken
from .explain import PLAIN_RECORD, explain_rules, failure, plain_twin, shorten
from .game import TERMINAL, Game
from .laws import LAWS, SAME, TEXT, Check, law_checks, same_checks
from .record import STATE, Answers, clear, limits_of, make_answers, record, written

PLAIN_PLIES = 300
"""Plies that are also played as plain Python."""


class CheckReport(NamedTuple):
    """What was proved: each law with the number of times it was tried."""

    games: int
    plies: int
    states_per_second: float
    laws: list[tuple[str, int]]
    notes: list[str]


def check_game(
    game: Game,
    *,
    games: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Prove the laws of the contract on random games number `seed` to `seed + games - 1`.

    Args:
      game: any game.
      games: random games to play.
      seed: number of the first one; a game depends on its number only.
      progress: called with the games done and `games`.

    Raises:
      LawBroken: the first broken law, with the game's number, the ply and the values.
      GameError: a rule that raises or does not compile, with its line.
    """
    twin, counts = plain_twin(game), dict.fromkeys(LAWS, 0)
    plain = _play_plain(game, twin, seed, seed + games, PLAIN_PLIES, counts)
    if not INTERPRETED:
        _compare(game, plain, seed, seed + games, counts)
    counts = {law: k if law in (TEXT, SAME) else 0 for law, k in counts.items()}
    player, play = (twin, PLAIN_RECORD) if INTERPRETED else (game, record)
    t, carry = make_answers(game, 2048), game.states(1)
    number, ply, plies, seconds = seed, 0, 0, 0.0
    while number < seed + games:
        clear(game, t)
        start = time.perf_counter()
        with np.errstate(all="ignore"):
            play(player, t, carry, limits_of(game), number, ply, seed + games)
        seconds += time.perf_counter() - start
        rows = written(t)
        _prove(game, rows, law_checks(game, rows), counts)
        plies += int((rows.mover != TERMINAL).sum())
        number, ply = (int(x) for x in rows.where[-1])
        over = rows.mover[-1] == TERMINAL or (game.truncates and ply >= game.max_plies)
        number, ply = (number + 1, 0) if over else (number, ply + 1)
        if progress:
            progress(number - seed, games)
    laws = [(law, k) for law, k in counts.items() if k]
    speed = (plies + games) / max(seconds, 1e-9)
    return CheckReport(games, plies, speed, laws, _notes(game, len(plain.mover)))


def _prove(game: Game, t: Answers, checks: Iterator[Check], counts: dict[str, int]) -> None:
    """Count the laws; raise for the first row that breaks one."""
    if not len(t.mover):
        return
    tried, worst = dict.fromkeys(LAWS, 0), None
    for law, applies, bad, say in checks:
        tried[law] = max(tried[law], int(np.sum(applies)))
        if bad.any() and (worst is None or int(bad.argmax()) < worst[0]):
            worst = int(bad.argmax()), law, say
    if worst is not None:
        row, law, say = worst
        raise _law(game, law, say(row), t.where[row])
    for law, number in tried.items():
        counts[law] += number


def _play_plain(game: Game, twin: Game, seed: int, end: int, plies: int, counts: dict[str, int]) -> Answers:
    """Play so many plies as plain Python, prove the laws and return the answers."""
    t, trouble = make_answers(game, plies), None
    clear(game, t)
    with np.errstate(all="ignore"):
        try:
            PLAIN_RECORD(twin, t, game.states(1), limits_of(game), seed, 0, end)
        except GameError as error:
            number, ply = t.where[int(t.used[0])]
            trouble = GameError(f"{str(error).rstrip('.')} (seed {number}, ply {ply}).")
            trouble.__cause__ = error.__cause__
        rows = written(t)
        _prove(game, rows, law_checks(game, rows), counts)  # a law broken earlier explains more
        if trouble is not None:
            raise trouble
        for row in range(len(rows.mover)):
            counts[TEXT] += _text_laws(game, twin, rows, row)
    return rows


def _compare(game: Game, plain: Answers, seed: int, end: int, counts: dict[str, int]) -> None:
    """Play the same plies compiled and prove that every rule answers the same."""
    t = make_answers(game, len(plain.mover))
    clear(game, t)
    try:
        record(game, t, game.states(1), limits_of(game), seed, 0, end)
    except Exception as error:
        explain_rules(game)
        cause = shorten(str(error))
        raise GameError(
            f"game '{game.name}': each rule compiles alone, but not together: {cause}."
        ) from error
    _prove(game, plain, same_checks(plain, written(t)), counts)


def _text_laws(game: Game, twin: Game, t: Answers, row: int) -> int:
    """Prove that names and position texts read back; return how many were tried."""
    state, where, mover = t.states[row, STATE], t.where[row], int(t.mover[row])
    before, names = state.tobytes(), dict[str, int]()

    def ask(function: str, *args: Any) -> Any:
        try:
            return getattr(twin, function)(*args)
        except GameError as error:
            raise _law(game, TEXT, f"{function} says: {str(error).rstrip('.')}", where) from error
        except Exception as error:
            raise failure(game, f"text function '{function}'", None, error) from error

    for action in t.ids[row, 0, : int(t.count[row, 0])].tolist():
        name = ask("action_name", state, action)
        if name in names:
            raise _law(game, TEXT, f"actions {names[name]} and {action} are both '{name}'", where)
        names[name] = action
    for name, action in names.items():
        if action == t.action[row] and ask("parse_action", state, name) != action:
            raise _law(game, TEXT, f"'{name}', the name of {action}, reads as another", where)
    ask("render", state)
    if game._position:
        text = ask("position", state)
        read = ask("parse_position", text)
        if ask("position", read) != text or twin.rules["to_play"](read) != mover:
            what = f"position '{text}' reads back as '{ask('position', read)}'"
            raise _law(game, TEXT, f"{what}, to_play {twin.rules['to_play'](read)}", where)
    if state.tobytes() != before:
        raise _law(game, TEXT, "a text function changes the state", where)
    return len(names) + 1


def _law(game: Game, law: str, what: str, where: Any) -> LawBroken:
    options = "".join(f" --set game.options.{k}={v}" for k, v in game.options.items())
    return LawBroken(
        f"{game.id}: {what} (law '{law}', seed {where[0]}, ply {where[1]}); "
        f"to repeat it: zeroloop check {_call_name(game)} --seed {where[0]}{options}"
    )


def _call_name(game: Game) -> str:
    """Return what the command line calls the game: its file where it was loaded from one."""
    module = getattr(game.rules["initial"], "__module__", "") or ""
    path = str(getattr(sys.modules.get(module), "__file__", ""))
    if not module.startswith("zeroloop_game_"):
        return game.name
    near = os.path.relpath(path)
    return near if len(near) < len(path) else path


def _notes(game: Game, plies: int) -> list[str]:
    notes = [f"{plies} plies were also played as plain Python and compared."]
    if INTERPRETED:
        notes = ["NUMBA_DISABLE_JIT is set: compiled rules were not compared with plain Python."]
    if not game._position:
        notes.append("The game gives no position text; a position is shown as its bytes.")
    if game.truncates:
        notes.append(f"Games of more than {game.max_plies} plies are cut there.")
    if game.num_symmetries == 1:
        notes.append("The game claims no symmetries.")
    return notes
