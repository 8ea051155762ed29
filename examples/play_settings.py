"""Two ways of searching with one model at equal time: points a game and milliseconds a decision of each.

    python examples/play_settings.py runs/backgammon '50 chance=sampling' '12 chance=expectation' 1000

A side is a number of simulations and any of `players.PlaySettings`, such as `c_puct=3`. The CPU time of each
side's own thread is counted, so choose the numbers of simulations until the times are alike.
"""

from __future__ import annotations

import sys
import time

from zeroloop.errors import PlayerError
from zeroloop.match import play_match
from zeroloop.model import find, load
from zeroloop.openings import openings
from zeroloop.players import PlaySettings, model_player


class Timed:
    """A player whose CPU time is counted."""

    def __init__(self, player, name):
        self.player, self.name, self.seconds, self.moves = player, name, 0.0, 0

    def choose(self, states, keys, plies):
        begun = time.thread_time()
        actions = self.player.choose(states, keys, plies)
        self.seconds += time.thread_time() - begun
        self.moves += len(states)
        return actions


def side(model, text):
    simulations, *given = text.split()
    values = dict(pair.split("=", 1) for pair in given)
    typed = {k: type(PlaySettings._field_defaults[k])(v) for k, v in values.items()}
    return Timed(model_player(model, int(simulations), settings=PlaySettings(**typed)), text)


def main(name, first, second, games):
    path = find(name)
    if path is None:
        raise PlayerError(f"there is no model '{name}'; give a run directory or a model's hash.")
    model = load(path)
    sides = side(model, first), side(model, second)
    starts = openings(model.game, int(games) // model.game.num_players, 4, 11)
    found = play_match(model.game, *sides, starts=starts, seed=11).summary()
    low, high = found["points_interval"]
    print(f"{found['points_per_game']:+.3f} [{low:+.3f}, {high:+.3f}] points a game, n {found['games']}")
    for one in sides:
        print(f"{one.name}: {1e3 * one.seconds / one.moves:.2f} ms a decision")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
