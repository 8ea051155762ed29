"""A trained Hex agent against the exact solver: as first player, and after every opening.

python examples/hex_openings.py runs/hex5@64
"""

import sys

import numpy as np

from zeroloop.match import play_match
from zeroloop.openings import openings
from zeroloop.players import parse
from zeroloop.players.solvers import solver_for

agent = parse(sys.argv[1])
game, solver = agent.game, parse("solver", agent.game, seed=7)
start = game.states(1)
start[0] = game.initial_state()
played = play_match(game, agent, solver, starts=np.repeat(start, 100), seed=3)
first = played.own_points[played.seat == 0]
print(f"first player against the solver: {(first > 0).sum()} of {len(first)} won")

cells = game.num_actions
boards = openings(game, cells, 1, 0)
judge = solver_for(game)
values = judge.values(boards)
chosen = agent.choose(boards, np.arange(cells, dtype=np.uint64), np.ones(cells, np.int32))
kept = judge.action_values(boards)[np.arange(cells), chosen] == values
print(f"after each opening: value kept in {kept.sum()} of {cells}")
for i in np.flatnonzero(~kept):
    print(game.render(boards[i]), f"\nmissed: {game.action_name(boards[i], chosen[i])}")

played = play_match(game, agent, solver, starts=np.repeat(boards, 20), seed=5)
to_win = (np.repeat(np.repeat(values, 20), 2) > 0) == (played.seat == 1)
print(
    f"played out in the seat that should win: {(played.own_points[to_win] > 0).sum()} of {to_win.sum()} won"
)
