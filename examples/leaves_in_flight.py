"""What leaves in flight do to one search: simulations a second, and the score against one leaf.

python examples/leaves_in_flight.py runs/chess --leaves 8 --games 200 --milliseconds 25
python examples/leaves_in_flight.py demo:connect4 --leaves 8 --games 200 --simulations 128

Both sides are the same model; time is that of the searching thread, so a busy machine changes nothing. Every
move is searched from a bare tree.
"""

import argparse
import time

import numpy as np

from zeroloop.analysis import Analyst
from zeroloop.match import play_match
from zeroloop.model import find, load
from zeroloop.openings import openings


class Side:
    """A player that analyses one position after another, and counts what it did."""

    def __init__(self, model, leaves, simulations, seconds):
        self.name = f"{leaves} leaves"
        self.analyst = Analyst(model, leaves=leaves, clock=time.thread_time)
        self.limits = {"simulations": simulations, "seconds": seconds}
        self.analyst.analyse(model.game.initial_state(), simulations=64)  # compiled and warm
        self.moves = []  # simulations, evaluations and seconds of each

    def choose(self, states, keys, plies):
        actions = np.zeros(len(states), np.int32)
        for i, state in enumerate(states):
            self.analyst.forget()
            found = self.analyst.analyse(state, **self.limits)
            actions[i] = found.lines[0].actions[0]
            self.moves.append((found.simulations, found.evaluations, found.seconds))
        return actions

    def told(self):
        """Medians over moves: where the end is near, simulations cost next to nothing, and means mislead."""
        simulations, evaluations, seconds = np.array(self.moves).T
        rates = np.median(simulations / seconds), np.median(evaluations / seconds)
        shown = f"{rates[0]:,.0f} simulations/s, {rates[1]:,.0f} evaluations/s"
        return f"{self.name}: {shown}, {np.median(simulations):.0f} simulations a move, {len(seconds)} moves"


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("model")
parser.add_argument("--leaves", type=int, default=8)
parser.add_argument("--against", type=int, default=1)
parser.add_argument("--games", type=int, default=200)
parser.add_argument("--opening-plies", type=int, default=4)
parser.add_argument("--simulations", type=int, default=0)
parser.add_argument("--milliseconds", type=float, default=0)
parser.add_argument("--seed", type=int, default=1)
given = parser.parse_args()

model = load(find(given.model))
limits = given.simulations, given.milliseconds / 1000
first, second = (Side(model, n, *limits) for n in (given.leaves, given.against))
starts = openings(model.game, given.games // 2, given.opening_plies, given.seed)
began = time.perf_counter()
played = play_match(model.game, first, second, starts=starts, seed=given.seed)
low, high = played.interval
limit = f"{given.simulations} simulations" if given.simulations else f"{given.milliseconds:g} ms"
print(f"{model.game.id}, {limit} a move, {len(played.points)} games, {time.perf_counter() - began:.0f} s")
print(first.told())
print(second.told())
print(f"score of {first.name} against {second.name}: {played.score:.3f} [{low:.3f}, {high:.3f}]")
