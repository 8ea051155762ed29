"""How much paired dice narrow a backgammon interval: the same players with paired and with independent dice.

Paired, an opening and its dice are played twice with the seats changed, and a pair is one sample;
independent, every game has its own opening and dice. Both are means over the same number of games.

python examples/paired_dice.py runs/backgammon@0 minimax:1 1000
"""

import sys

import numpy as np

from zeroloop.games import make
from zeroloop.match import play_match
from zeroloop.openings import openings
from zeroloop.players import parse_all

first, second, games = sys.argv[1], sys.argv[2], int(sys.argv[3])
game, players = parse_all([first, second], make("backgammon"))

starts = openings(game, games, 2, seed=11)
paired = play_match(game, *players, starts=starts[: games // 2], seed=11)

# A match plays every opening in both seats, so a match of twice the games has each start in one seat of each
# half: its first seating is kept of even openings, its second of odd ones.
whole = play_match(game, *players, starts=starts, seed=12)
own = whole.seat == whole.opening % 2


def standard_error(samples):
    return samples.std(ddof=1) / np.sqrt(len(samples))


pairs = paired.own_points.reshape(-1, 2).mean(axis=1)
single = whole.own_points[own]
a, b = standard_error(pairs), standard_error(single)
correlation = np.corrcoef(paired.own_points.reshape(-1, 2).T)[0, 1]
for told, samples, error, n in (
    ("paired", pairs, a, 2 * len(pairs)),
    ("independent", single, b, len(single)),
):
    print(f"{told:<12} {n} games: {samples.mean():+.3f} points a game, standard error {error:.4f}")
print(f"ratio of standard errors {a / b:.3f}: {(b / a) ** 2:.2f} times the games' worth")
print(f"correlation of the two games of a pair {correlation:+.3f}")
