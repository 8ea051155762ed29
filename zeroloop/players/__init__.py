"""Players: whoever chooses actions. `parse("runs/c4@128")` makes one from its name.

A choice is a function of seed, state, game key and ply alone, so a match can be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import PlayerError
from ..evaluator.choice import Choice
from ..games import make
from ..games.game import Game
from ..model import find, load
from .network import (
    PlaySettings,
    PolicyPlayer,
    Searches,
    SearchPlayer,
    forced_actions,
    model_player,
    smallest_win,
)

Array = npt.NDArray[Any]


class Player(Protocol):
    """Chooses actions for many games at once.

    It may also have `settings`, a dictionary of plain data with all that decides its play, and `close()`.
    """

    name: str
    """As shown in results, such as `minimax:4`."""

    def choose(self, states: Array, keys: Array, plies: Array) -> npt.NDArray[np.int32]:
        """Return `i4 [n]` action ids for `state_dtype [n]` states in which a seat is to move.

        Args:
          keys: `u8 [n]`, the games' keys. plies: `i4 [n]`.

        Raises:
          PlayerError: the player failed; no move is substituted.
        """


def describe(player: Player) -> dict[str, Any]:
    """Return name, model hash, simulations and settings of a player, as results store them."""
    settings = getattr(player, "settings", {})
    if isinstance(player, SearchPlayer):
        settings = {**player.settings._asdict(), "seed": player.seed, "inference": player.inference}
    return {
        "name": player.name,
        "model": getattr(player, "model_hash", None) or None,
        "simulations": getattr(player, "simulations", None),
        "settings": settings,
    }


def close(*players: Player) -> None:
    """End what the players hold, such as the processes of engines."""
    for player in players:
        if hasattr(player, "close"):
            player.close()


MOST_SIMULATIONS = 1_000_000
"""Of one search of a model: its tree is allocated at once."""


def split_name(text: str, default: int) -> tuple[str, int]:
    """Return (name, simulations) of `NAME@N`; PlayerError where N is no whole number from 0 to a million."""
    name, at, number = text.rpartition("@")
    if at and not _is_whole(number):
        raise PlayerError(
            f"player '{_cut(text)}': '{_cut(number)}' is not a number of simulations; write NAME@128."
        )
    found = _number(number) if at else default
    if found is None or found > MOST_SIMULATIONS:
        raise PlayerError(
            f"player '{_cut(text)}': {_cut(number) if at else found} simulations are too many; give at most "
            f"{MOST_SIMULATIONS:,}."
        )
    return (name if at else text), found


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _number(digits: str) -> int | None:
    """Return the number of these digits, or None where it is beyond every limit (and slow to read)."""
    return int(digits) if len(digits) <= 18 else None


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


ENGINES = ("stockfish", "uci", "gnubg")
KINDS = ("random", "heuristic", "minimax", "mcts", "solver", "bearoff", *ENGINES)
FIXED = (
    "random, heuristic, minimax:DEPTH, mcts:SIMULATIONS, solver, bearoff, stockfish:nodes=N,skill=S, "
    "uci:PROGRAM,nodes=N, gnubg:PLY"
)
EXAMPLES = {"minimax": "minimax:4", "mcts": "mcts:400"}


def parse(
    text: str,
    game: Game | None = None,
    *,
    simulations: int = 64,
    seed: int = 0,
    choice: Choice | None = None,
) -> Player:
    """Make the player of a name: RUN@N, HASH@N, demo:GAME@N, a fixed player or an outside engine.

    Args:
      game: needed by the fixed players; a model must be of this game where it is given.

    Raises:
      PlayerError: an unknown name, or a player that this game does not offer.
    """
    bare, at, _ = text.rpartition("@")
    kind, _, number = (bare if at else text).partition(":")
    if kind in ENGINES:
        return _engine(text, kind, game, seed)
    if kind in KINDS:
        if at:
            hint = bare if number else EXAMPLES.get(kind, kind)
            raise PlayerError(f"player '{_cut(text)}': {kind} takes no simulations after @; write {hint}.")
        if game is None:
            raise PlayerError(f"player '{text}' needs a game; give one with --game, such as connect4.")
        return _fixed(text, kind, number, game, seed)
    name, budget = split_name(text, simulations)
    path = find(name)
    if path is None:
        raise PlayerError(
            f"there is no player '{text}': it is no run directory, model file, model hash or demo, "
            f"nor one of {FIXED}."
        )
    return model_player(load(path, game), budget, choice=choice, seed=seed, name=f"{name}@{budget}")


def parse_all(
    names: Sequence[str], game: Game | None = None, *, simulations: int = 64, seed: int = 0
) -> tuple[Game, list[Player]]:
    """Make players of one game: the one given, else the models', else the engines', else Connect Four.

    Seeds are `seed`, `seed + 1`, ... Close the players when they are no longer needed.

    Raises:
      PlayerError, ResumeError: an unknown name, or a player of another game; none is left running.
    """
    kinds = [name.partition(":")[0] for name in names]
    if game is None:
        for name, kind in zip(names, kinds, strict=True):
            path = None if kind in KINDS else find(split_name(name, simulations)[0])
            if path is not None:
                game = load(path).game
                break
    if game is None:
        game = make(
            "chess" if {"stockfish", "uci"} & set(kinds) else "backgammon" if "gnubg" in kinds else "connect4"
        )
    made: list[Player] = []
    try:
        for i, name in enumerate(names):
            made.append(parse(name, game, simulations=simulations, seed=seed + i))
    except BaseException:
        close(*made)
        raise
    return game, made


def _engine(text: str, kind: str, game: Game | None, seed: int) -> Player:
    """Start an outside program; it proves itself before its first move."""
    if kind == "gnubg":
        from .gnubg import gnubg_player

        return gnubg_player(text, game or make("backgammon"), seed)
    from .uci import uci_player

    return uci_player(text, game or make("chess"), seed)


def _fixed(text: str, kind: str, number: str, game: Game, seed: int) -> Player:
    count = _number(number) if _is_whole(number) else None
    if kind == "heuristic":
        count = 1  # minimax of one decision
    if kind in EXAMPLES and count is None:
        raise PlayerError(f"player '{_cut(text)}' needs a whole number in reach, such as {EXAMPLES[kind]}.")
    if kind in ("random", "heuristic", "solver", "bearoff") and number:
        raise PlayerError(f"player '{kind}' takes no number, but got '{text}'.")
    if kind == "random":
        from .random import RandomPlayer

        return RandomPlayer(game, seed)
    if kind == "mcts":
        from .mcts import MctsPlayer

        return MctsPlayer(game, count or 0, seed)
    if kind == "bearoff":
        from .bearoff import BearoffPlayer, bearoff_table

        if game.name != "backgammon":
            raise PlayerError(f"player 'bearoff' plays backgammon, not {game.id}.")
        return BearoffPlayer(bearoff_table())
    if kind == "solver":
        from .solvers import SolverPlayer

        return SolverPlayer(game, seed)
    from .minimax import MinimaxPlayer

    return MinimaxPlayer(game, count or 0, seed)


__all__ = [
    "ENGINES",
    "KINDS",
    "PlaySettings",
    "Player",
    "PolicyPlayer",
    "SearchPlayer",
    "Searches",
    "close",
    "describe",
    "forced_actions",
    "model_player",
    "parse",
    "parse_all",
    "smallest_win",
    "split_name",
]
