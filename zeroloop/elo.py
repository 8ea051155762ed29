"""Elo by maximum likelihood: strengths, draws and seats of a table of games; it knows no game and no file.

Elo is logistic, 400 points per factor of 10 in the odds of a win against a loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, ZeroloopError
from .likelihood import ELO_PER_NAT as ELO_PER_NAT
from .likelihood import Outcomes as Outcomes
from .likelihood import Table, maximum, objective, slope, virtual_games

Array = npt.NDArray[np.float64]

# Virtual games that enter a variance, as a multiple of those that enter the estimate: for two players
# "two successes and two failures" (Agresti and Coull 1998), as in `rating.score_interval`.
_PSEUDO = 4.0


class Result(NamedTuple):
    """What `games` games of `a` against `b` came to: `score_a_sum` is wins plus half the draws."""

    a: str
    b: str
    score_a_sum: float
    games: int


class EloEstimate(NamedTuple):
    """A player's Elo, its interval, and the number of games it played."""

    elo: float
    low: float
    high: float
    games: int


class Estimate(NamedTuple):
    """A number and its interval."""

    value: float
    low: float
    high: float


class Ratings(NamedTuple):
    """What a table of games says."""

    players: dict[str, EloEstimate]
    seat_advantage: dict[int, Estimate]
    """Elo of sitting in each seat over the mean of the others (chess: seat 0 has White's advantage);
    empty where it was not asked for."""
    draw_rate: Estimate | None
    """Of two equal players without a seat advantage; None without a draw model."""
    groups: int
    """Independent groups of games, on which the intervals rest."""


def fit_elo(
    results: Iterable[Outcomes],
    anchors: Mapping[str, float],
    *,
    draws: Literal["half", "davidson"] = "half",
    seats: bool = False,
    confidence: float = 0.95,
) -> Ratings:
    """Return the Elo of every player of the results, the anchors' being fixed, with intervals.

    Model: with d = elo_first + advantage_first - elo_second - advantage_second in nats, a win, a draw
    and a loss have odds e^(d/2) : nu : e^(-d/2) (Davidson 1970, "On extending the Bradley-Terry model to
    accommodate ties"; the advantage as in Davidson and Beaver 1977). With draws="half", nu is 0 and a draw
    counts as half a win and half a loss (Bradley and Terry 1952), so d is what the expected score says;
    in Davidson's model more draws mean that the same score is a larger d.

    Prior: Jeffreys' of the Bradley-Terry model for strengths and seats, which keeps a record of wins
    alone finite (Firth 1993, "Bias reduction of maximum likelihood estimates"), and that of a rate for
    the draws of equal players.

    Intervals of players: the Elo at which the profile of the penalized likelihood falls by z^2 r / 2
    (Heinze and Schemper 2002, "A solution to the problem of separation"; r adjusts it vertically, as in
    Chandler and Bate 2007). r is the variance of the estimate from the scatter of whole groups (Huber's
    sandwich) over that from the model, both with virtual games as `rating.score_interval` has them, so
    that few or equal results cannot claim no variance. Drawn or paired games narrow the interval by r,
    games that share their luck widen it. Those of seats and draws are normal, from the sandwich.
    They hold from about 20 groups on for each player; below, the sandwich is too small.

    Raises:
      ConfigError: no anchor, a bad count or seat, or players whom no chain of games links to an anchor.
    """
    table = Table(list(results), anchors, draws == "davidson", seats)
    z = quantile(confidence)
    found = maximum(table, np.zeros(table.size))
    wide = maximum(table, found, pseudo=_PSEUDO)
    covariance, ratio = _spread(table, wide)
    players = {}
    for i, name in enumerate(table.players):
        games = int(round(table.games_of(i)))
        k = table.column[i]
        if k < 0:
            players[name] = EloEstimate(anchors[name], anchors[name], anchors[name], games)
        else:
            low, high = _profile(table, found, int(k), z * math.sqrt(ratio[k]), math.sqrt(covariance[k, k]))
            players[name] = EloEstimate(ELO_PER_NAT * float(found[k]), low, high, games)
    advantage = _advantages(table, found, covariance, z)
    rate = None
    if table.davidson:
        # The rate is nu / (2 + nu), so its logit is ln nu - ln 2.
        centre, margin = float(found[-1]) - math.log(2.0), z * math.sqrt(covariance[-1, -1])
        rate = Estimate(*(0.5 + 0.5 * math.tanh(0.5 * x) for x in (centre, centre - margin, centre + margin)))
    return Ratings(players, advantage, rate, table.groups)


def maximum_likelihood_elo(
    players: Sequence[str], results: Iterable[Result], anchor: str, confidence: float = 0.95
) -> dict[str, EloEstimate]:
    """Return every player's Elo relative to `anchor`, which has Elo 0 with no width.

    Model and prior are those of `fit_elo` with draws="half". The prior adds virtual drawn games, shared
    out by how much each pair of opponents tells, len(players) - 1 in total: one for two players.
    (One per pair would pull players 1,200 Elo apart together by 220 after 20 games a pair.)

    Intervals are those of the profile, every game taken for an independent win or loss, because sums say
    no more. Draws, and most pairs of one opening, vary less: the intervals are then too wide; `fit_elo`
    takes the games themselves.

    Raises ConfigError for an unknown or repeated player, a score outside [0, games], games < 1,
    and when the results do not connect all players (the message names the components);
    ZeroloopError when the iteration does not settle, which no table is known to cause.
    """
    z = quantile(confidence)
    rows = [_checked(result, players) for result in results]
    if len(set(players)) != len(players):
        twice = sorted({player for player in players if players.count(player) > 1})
        raise ConfigError(f"players names {twice} more than once; allowed is once")
    if anchor not in players:
        raise ConfigError(f"anchor is {anchor!r}; allowed is one of {list(players)}")
    table = Table(rows, {anchor: 0.0}, davidson=False, seats=False, players=players)
    found = maximum(table, np.zeros(table.size))
    covariance = np.linalg.inv(table.information(found)[0]) if table.size else np.zeros((0, 0))
    out = {}
    for i, name in enumerate(players):
        games, k = int(round(table.games_of(i))), int(table.column[i])
        if k < 0:
            out[name] = EloEstimate(0.0, 0.0, 0.0, games)
        else:
            low, high = _profile(table, found, k, z, math.sqrt(covariance[k, k]))
            out[name] = EloEstimate(ELO_PER_NAT * float(found[k]), low, high, games)
    return out


def _checked(result: Result, players: Sequence[str]) -> Outcomes:
    a, b, score, count = result
    if a not in players or b not in players or a == b:
        raise ConfigError(f"{result} must name two different players of {list(players)}")
    if count < 1 or not 0.0 <= score <= count:
        raise ConfigError(f"{result} needs games >= 1 and score_a_sum from 0 to games")
    return Outcomes(a, b, score, 0, count - score)


def quantile(confidence: float) -> float:
    """Return z such that a standard normal lies in [-z, z] with probability `confidence`."""
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence is {confidence}; allowed is above 0 and below 1")
    return NormalDist().inv_cdf(0.5 + 0.5 * confidence)


def _spread(table: Table, x: Array) -> tuple[Array, Array]:
    """Return the covariance `[K, K]` from the scatter of whole groups, and its ratio to the model's `[K]`."""
    if not table.size:
        return np.zeros((0, 0)), np.zeros(0)
    p, _ = table.chances(x)
    score = 0.5 * (p[:, 0] - p[:, 2])
    meat = np.zeros((table.size, table.size))
    one_each = table.group < 0
    for outcome, value in enumerate((0.5, 0.0, -0.5)):
        slopes = _per_game(table, value - score, (outcome == 1) - p[:, 1])
        meat += (slopes * (table.counts[:, outcome] * one_each)[:, None]).T @ slopes
    excess = 0.5 * (table.counts[:, 0] - table.counts[:, 2]) - table.total * score
    slopes = _per_game(table, excess, table.counts[:, 1] - table.total * p[:, 1])[~one_each]
    sums = np.zeros((table.shared, table.size))
    np.add.at(sums, table.group[~one_each], slopes)
    meat += sums.T @ sums
    meat *= table.groups / max(table.groups - 1.0, 1.0)
    virtual, weight = virtual_games(table, x)
    half = np.tanh(0.5 * table.difference(x)) * 0.5
    n = table.linear
    spread = _PSEUDO * virtual * (0.25 + half**2)  # of half a win and half a loss about their chances
    meat[:n, :n] += (table.design * spread[:, None]).T @ table.design
    curvature = slope(table, x, _PSEUDO)[1]
    if table.davidson:
        rate = 0.5 + 0.5 * math.tanh(0.5 * (float(x[-1]) - math.log(2.0)))
        meat[-1, -1] += _PSEUDO * 0.5 * (rate**2 + (1.0 - rate) ** 2)
    bread = np.linalg.inv(curvature)
    covariance: Array = bread @ meat @ bread
    return covariance, np.diagonal(covariance) / np.diagonal(bread)


def _per_game(table: Table, of_d: Array, of_draw: Array) -> Array:
    """Return the slopes in all parameters `[R, K]` from those in d and in ln nu."""
    slopes = np.zeros((len(of_d), table.size))
    slopes[:, : table.linear] = table.design * of_d[:, None]
    if table.davidson:
        slopes[:, -1] = of_draw
    return slopes


def _profile(table: Table, best: Array, k: int, depth: float, margin: float) -> tuple[float, float]:
    """Return the Elo below and above the best at which the profile's signed root is `depth`."""
    top = objective(table, best)
    ends = []
    for sign in (-1.0, 1.0):
        distance, power = depth * margin, 1.0
        last: tuple[float, float] | None = None
        x = best
        for _ in range(60):
            start = x.copy()
            start[k] = best[k] + sign * distance
            x = maximum(table, start, fixed=k)
            root = math.sqrt(max(2.0 * (top - objective(table, x)), 1e-12))
            if abs(root - depth) < 1e-4 * depth:
                break
            # Close to the end the root grows as a power of the distance; the last two points say which.
            if last is not None and root != last[1]:
                power = math.log(distance / last[0]) / math.log(root / last[1])
            last = (distance, root)
            distance *= min(max((depth / root) ** min(max(power, 0.3), 3.0), 0.2), 5.0)
        else:
            raise ZeroloopError(f"the interval of {table.players} did not settle in 60 steps")
        ends.append(ELO_PER_NAT * (float(best[k]) + sign * distance))
    return ends[0], ends[1]


def _advantages(table: Table, x: Array, covariance: Array, z: float) -> dict[int, Estimate]:
    """Return what each seat is worth over the mean of the others."""
    out: dict[int, Estimate] = {}
    count = table.seats
    for seat in range(count):
        contrast = np.zeros(table.size)
        contrast[table.seat_columns] = -1.0 / (count - 1)
        if seat < count - 1:
            contrast[table.seat_columns[seat]] = 1.0
        value = ELO_PER_NAT * float(contrast @ x)
        margin = z * ELO_PER_NAT * math.sqrt(float(contrast @ covariance @ contrast))
        out[seat] = Estimate(value, value - margin, value + margin)
    return out
