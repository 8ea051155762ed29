"""Start: what would fail only later, found before a run's first game."""

from __future__ import annotations

import pathlib

from .config import Config
from .errors import ConfigError
from .evaluator.choice import choose
from .games.game import Game
from .openings import openings
from .players import Player, parse
from .promotion import plan_of
from .selfplay.hard import HardPositions


def check_start(game: Game, config: Config) -> dict[str, Player]:
    """Make the opponents of evaluations and find what would fail only then.

    Raises:
      PlayerError: an opponent that the game cannot have.
      ConfigError: the game has too few distinct openings for `promote.max_pairs`; a server without workers.
      BackendError: the device or backend is absent.
      StoreError, InvalidState: a file of hard positions that is not one.
    """
    choose(config.run.device, config.run.backend, config.run.precision)
    if config.inference.server and not config.remote:
        raise ConfigError(
            f"inference.server is {config.inference.server}, but there are no workers for it to serve; set "
            "collect.workers=N or collect.bind=HOST:PORT, or leave out inference.server."
        )
    if config.search.bearoff and game.name != "backgammon":
        raise ConfigError(
            f"search.bearoff is {config.search.bearoff}, but {game.id} has no bear-off; set it to 0."
        )
    if config.selfplay.hard_positions:
        HardPositions(game, pathlib.Path(config.selfplay.hard_positions))
    for opponent in config.selfplay.opponents:
        if opponent.player not in ("past", "policy"):
            parse(opponent.player, game)
    opponents = {label: parse(label, game, seed=config.run.seed) for label in plan_of(game, config).games}
    openings(game, config.promote.max_pairs, config.match.opening_plies, config.run.seed)
    return opponents
