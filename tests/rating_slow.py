"""Slow references for ratings, written from the papers in plain Python: no arrays, no derivatives.

Davidson 1970, "On extending the Bradley-Terry model to accommodate ties in paired comparison experiments":
with worths p_i and p_j a win of i, a tie and a win of j are as p_i : nu sqrt(p_i p_j) : p_j. Davidson and
Beaver 1977: whoever sits first has his worth multiplied. Elo is 400 log10 of a worth.
"""

import itertools
import math


def davidson(elo_first, elo_second, advantage, nu):
    """Return the chances of win, draw and loss of the first player."""
    first, second = 10 ** ((elo_first + advantage) / 400), 10 ** (elo_second / 400)
    tie = nu * math.sqrt(first * second)
    total = first + tie + second
    return first / total, tie / total, second / total


def determinant(matrix):
    """Return the determinant by expansion along the first row."""
    if not matrix:
        return 1.0
    return sum(
        (-1) ** k * matrix[0][k] * determinant([row[:k] + row[k + 1 :] for row in matrix[1:]])
        for k in range(len(matrix))
    )


def penalized(elo, advantage, nu, results, free, seats):
    """Return the log-likelihood with Jeffreys' prior of strengths and seat, and of the rate of draws.

    Args:
      elo: Elo by player; results: (first, second, wins, draws, losses); free: the players rated.
      nu: None where a draw is half a win and half a loss. seats: whether the advantage is a parameter.
    """
    size = len(free) + seats
    information = [[0.0] * size for _ in range(size)]
    total = 0.0
    for first, second, wins, draws, losses in results:
        win, tie, loss = davidson(elo[first], elo[second], advantage, nu or 0.0)
        total += wins * math.log(win) + losses * math.log(loss)
        if nu is None:
            total += draws * 0.5 * (math.log(win) + math.log(loss))
        else:
            total += draws * math.log(tie)
        sure, _, other = davidson(elo[first], elo[second], advantage, 0.0)
        signs = [(player == first) - (player == second) for player in free] + [1] * seats
        for i, j in itertools.product(range(size), repeat=2):
            information[i][j] += (wins + draws + losses) * sure * other * signs[i] * signs[j]
    total += 0.5 * math.log(determinant(information))
    if nu is not None:
        rate = nu / (2 + nu)  # of draws between equals
        total += 0.5 * math.log(rate) + 0.5 * math.log(1 - rate)
    return total


def golden(function, low, high):
    """Return where a function with one maximum in [low, high] has it."""
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if function(left) < function(right):
            low = left
        else:
            high = right
    return 0.5 * (low + high)


def maximum(results, anchors, *, draws, seats, held=None, rounds=40):
    """Improve one parameter at a time; return (Elo by player, advantage, nu, the maximum reached).

    Args:
      anchors: Elo of the players that are not rated. held: Elo of rated players that stay where they are.
    """
    rated = [p for p in dict.fromkeys(n for r in results for n in r[:2]) if p not in anchors]
    elo = {**anchors, **dict.fromkeys(rated, 0.0), **(held or {})}
    found = {"advantage": 0.0, "nu": 1.0 if draws else None}

    def value(elo=elo, **other):
        now = {**found, **other}
        return penalized(elo, now["advantage"], now["nu"], results, rated, seats)

    for _ in range(rounds):
        for name in [p for p in rated if p not in (held or {})]:
            elo[name] = golden(lambda x, name=name: value({**elo, name: x}), -2500, 2500)
        if seats:
            found["advantage"] = golden(lambda x: value(advantage=x), -1500, 1500)
        if draws:
            found["nu"] = math.exp(golden(lambda x: value(nu=math.exp(x)), -8, 8))
    return elo, found["advantage"], found["nu"], value()


def profile_drop(results, anchors, name, elo, **options):
    """Return how far, in nats, holding a player at this Elo lowers the maximum."""
    best = maximum(results, anchors, **options)[3]
    return best - maximum(results, anchors, held={name: elo}, **options)[3]
