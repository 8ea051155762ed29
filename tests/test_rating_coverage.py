"""Error rates and interval coverage of 2,000 simulated matches between players of known strength.

Nominal is 5 % on each side of the sequential test and 95 % for intervals; measured rates must lie within
two points of that, which is 4.1 sigma of 2,000 matches. Two exceptions, by construction and on the safe
side: the sequential test overshoots its bounds, so wrong decisions may be rarer than nominal; intervals of
scores carry a continuity correction, and those of few results virtual games, so that coverage may be
higher (`SAFE`). Within two points on both sides lie intervals of points and scores of 400 pairs, and Elo
intervals of 100 games or more of which each side wins, or half wins, 10.
"""

import itertools
import math

import numpy as np
import pytest

from tests.rating_slow import davidson
from zeroloop.elo import Outcomes, Result, fit_elo, maximum_likelihood_elo
from zeroloop.rating import elo_from_score, grouped_interval, score_from_elo, score_interval, sprt

MATCHES = 2000
NEAR, SAFE = (0.93, 0.97), (0.93, 1.0)


def within(rate, bounds):
    """Say whether a coverage lies in the bounds, and print it for the record."""
    print(f"coverage {100 * rate:.1f} %")
    return bounds[0] <= rate <= bounds[1]


# --- intervals of scores and points -------------------------------------------------------------

# What a pair of games, one in each seat, is worth on a scale of 0 to 1, and its chances.
BACKGAMMON = np.array([-3, -2, -1, 1, 2, 3])
POINTS = {  # money play of equals: about 27 % gammons, 1 % backgammons; and of a player who loses 1.4 a game
    "even": [0.005, 0.135, 0.36, 0.36, 0.135, 0.005],
    "beaten": [0.04, 0.47, 0.394, 0.08, 0.015, 0.001],
}


def pair_points(name, luck):
    """Return the sums of two games' points, scaled to 0..1, and their chances.

    luck: the share of pairs in which the second game repeats the first one's dice with the seats changed,
    and both sides play alike, so that the points cancel out.
    """
    one = np.array(POINTS[name]) / np.sum(POINTS[name])
    sums: dict[int, float] = {}
    for (i, a), (j, b) in itertools.product(enumerate(BACKGAMMON), repeat=2):
        sums[int(a + b)] = sums.get(int(a + b), 0.0) + (1 - luck) * one[i] * one[j]
    sums[0] = sums.get(0, 0.0) + luck
    values = np.array(sorted(sums))
    return (values + 6) / 12, np.array([sums[v] for v in values])


SCORES = {
    "draw-heavy": (np.array([0, 0.25, 0.5, 0.75, 1]), np.array([0.002, 0.05, 0.85, 0.09, 0.008])),
    "one-sided 90 %": (np.array([0, 0.5, 1]), np.array([0.01, 0.18, 0.81])),
    "single games": (np.array([0.0, 1.0]), np.array([0.4, 0.6])),
    "single games, one-sided": (np.array([0.0, 1.0]), np.array([0.1, 0.9])),
    "backgammon, even": pair_points("even", 0.0),
    "backgammon, paired dice": pair_points("even", 0.5),
    "backgammon, beaten": pair_points("beaten", 0.0),
}


@pytest.mark.parametrize("pairs", [100, 400])
@pytest.mark.parametrize("name", SCORES)
def test_intervals_of_scores_and_points_cover_the_true_mean(name, pairs):
    values, chances = SCORES[name]
    bounds = NEAR if pairs >= 400 else SAFE
    chances = chances / chances.sum()
    true, rng = float(values @ chances), np.random.default_rng(41)
    hits = 0
    for counts in rng.multinomial(pairs, chances, MATCHES):
        low, high = score_interval(np.repeat(values, counts))
        hits += low <= true <= high
    assert within(hits / MATCHES, bounds)


@pytest.mark.parametrize(
    "spread", [pytest.param(0.0, marks=pytest.mark.slow), 1.0, pytest.param(3.0, marks=pytest.mark.slow)]
)
def test_grouped_intervals_cover_where_decisions_of_a_game_are_alike(spread):
    """Losses of decisions, 0 to 1, of which a game has many or few; `spread`: games differ in quality."""
    rng, hits = np.random.default_rng(42), 0

    def play(games):
        sizes = rng.integers(5, 30, games)
        quality = rng.normal(-3, spread, games)
        groups = np.repeat(np.arange(games), sizes)
        wrong = rng.random(len(groups)) < 1 / (1 + np.exp(-quality[groups]))
        return wrong * rng.beta(1, 3, len(groups)), groups

    true = float(np.mean([play(20_000)[0].mean() for _ in range(10)]))
    for _ in range(MATCHES):
        samples, groups = play(80)
        low, high = grouped_interval(samples, groups)
        hits += low <= true <= high
    assert within(hits / MATCHES, (0.93, 0.98))


def test_an_interval_that_takes_grouped_samples_for_single_ones_is_caught():
    """The check above can fail: games of unlike quality, taken for independent decisions."""
    rng, hits = np.random.default_rng(43), 0
    for _ in range(300):
        samples = np.repeat(rng.random(40), 20)
        low, high = score_interval(samples)
        hits += low <= 0.5 <= high
    assert hits / 300 < 0.6


# --- Elo of two players -------------------------------------------------------------------------


def two_player_coverage(elo, nu, games, draws, seed=51):
    """Play matches of independent games by Davidson's model and return how many intervals hold the truth."""
    chances = davidson(elo, 0.0, 0.0, nu)
    true = elo if draws == "davidson" else elo_from_score(chances[0] + chances[1] / 2)
    rng, known, hits = np.random.default_rng(seed), {}, 0
    for counts in map(tuple, rng.multinomial(games, chances, MATCHES)):
        if counts not in known:
            found = fit_elo([Outcomes("a", "b", *counts)], {"b": 0.0}, draws=draws).players["a"]
            known[counts] = found.low <= true <= found.high
        hits += known[counts]
    return hits / MATCHES


@pytest.mark.parametrize(
    ("elo", "nu", "games", "draws"),
    [
        (0, 0, 400, "half"),
        (190, 0, 200, "half"),
        (380, 0, 400, "half"),
        pytest.param(0, 1, 100, "half", marks=pytest.mark.slow),
        pytest.param(50, 18, 400, "half", marks=pytest.mark.slow),
        pytest.param(0, 1, 100, "davidson", marks=pytest.mark.slow),
        pytest.param(380, 1, 100, "davidson", marks=pytest.mark.slow),
        pytest.param(800, 1, 400, "half", marks=pytest.mark.slow),
        pytest.param(800, 1, 400, "davidson", marks=pytest.mark.slow),
        pytest.param(50, 18, 400, "davidson", marks=pytest.mark.slow),
    ],
)
def test_elo_intervals_of_two_players_cover(elo, nu, games, draws):
    assert within(two_player_coverage(elo, nu, games, draws), NEAR)


@pytest.mark.parametrize(("elo", "games"), [(0, 20), (400, 20), (800, 20), (800, 100), (1200, 20)])
def test_short_one_sided_records_do_not_make_the_interval_too_narrow(elo, games):
    assert within(two_player_coverage(elo, 0, games, "half"), SAFE)


# --- Elo with openings --------------------------------------------------------------------------


def opening_coverage(matches, openings, *, shared, own, seed):
    """Play pairs of games, seats swapped, whose openings favour a seat (`own`) or a player (`shared`).

    Both in nats of standard deviation. Returns the coverage of the Elo that belongs to the mean score, by
    whole openings and by single games.
    """
    rng = np.random.default_rng(seed)
    strength = 0.5
    many = rng.normal(size=(2, 400_000))
    true = elo_from_score(float(np.mean(1 / (1 + np.exp(-(strength + shared * many[0] + own * many[1]))))))
    hits = np.zeros(2)
    for _ in range(matches):
        player, seat = shared * rng.normal(size=openings), own * rng.normal(size=openings)
        first = rng.random(openings) < 1 / (1 + np.exp(-(strength + player + seat)))
        second = rng.random(openings) < 1 / (1 + np.exp(-(strength + player - seat)))
        rows = []
        for k, (x, y) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            rows += [Outcomes("a", "b", x, 0, 1 - x, k), Outcomes("b", "a", 1 - y, 0, y, k)]
        wins = int(first.sum() + second.sum())
        single = [Outcomes("a", "b", wins, 0, 2 * openings - wins)]
        for i, results in enumerate((rows, single)):
            found = fit_elo(results, {"b": 0.0}).players["a"]
            hits[i] += found.low <= true <= found.high
    return hits / matches


@pytest.mark.slow
def test_elo_intervals_by_opening_cover_where_those_by_game_do_not():
    by_opening, by_game = opening_coverage(300, 60, shared=8.0, own=0.0, seed=61)
    # A quick look: sigma of 300 matches is 1.3 points, so three of them beside the two points.
    assert by_opening > 0.93 - 3 * 0.013
    assert by_game < 0.88


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shared", "own"),
    [(0.0, 0.0), (3.0, 0.0), (0.0, 3.0), (1.5, 1.5)],
    ids=["none", "player", "seat", "both"],
)
def test_elo_intervals_by_opening_cover_over_2000_matches(shared, own):
    by_opening, by_game = opening_coverage(MATCHES, 100, shared=shared, own=own, seed=62)
    print(f"by game {100 * by_game:.1f} %")
    assert within(by_opening, NEAR)


# --- Elo of a round robin -----------------------------------------------------------------------

FIELD = {"a": 0.0, "b": 150.0, "c": 300.0, "d": 450.0}


@pytest.mark.slow
def test_elo_intervals_of_a_round_robin_cover_and_are_unbiased():
    rng, errors, held = np.random.default_rng(31), [], []
    for _ in range(MATCHES):
        results = []
        for a, b in itertools.combinations(FIELD, 2):
            wins = rng.binomial(30, score_from_elo(FIELD[a] - FIELD[b]))
            results.append(Result(a, b, float(wins), 30))
        estimates = maximum_likelihood_elo(list(FIELD), results, "a")
        errors.append([estimates[name].elo - FIELD[name] for name in "bcd"])
        held.append([estimates[name].low <= FIELD[name] <= estimates[name].high for name in "bcd"])
    rates = np.mean(held, axis=0)
    print(rates)
    assert all(within(rate, NEAR) for rate in rates)
    sigma = np.std(errors, axis=0) / math.sqrt(MATCHES)
    assert np.all(np.abs(np.mean(errors, axis=0)) < 4 * sigma)


@pytest.mark.slow
def test_strengths_draws_and_seats_of_an_anchored_round_robin_cover():
    rng, nu, white = np.random.default_rng(32), 2.0, 40.0
    held = []
    for _ in range(MATCHES):
        rows = [
            Outcomes(a, b, *rng.multinomial(20, davidson(FIELD[a], FIELD[b], white, nu)))
            for a, b in itertools.permutations(FIELD, 2)
        ]
        found = fit_elo(rows, {"a": 0.0, "d": 450.0}, draws="davidson", seats=True)
        truths = [
            (found.players["b"], 150.0),
            (found.players["c"], 300.0),
            (found.seat_advantage[0], white),
            (found.draw_rate, nu / (2 + nu)),
        ]
        held.append([e.low <= x <= e.high for e, x in truths])
    rates = np.mean(held, axis=0)
    print(rates)
    assert all(within(rate, NEAR) for rate in rates)


# --- the sequential test ------------------------------------------------------------------------


def tilted(values, chances, mean):
    """Return chances proportional to chances * exp(t * value) that have this mean."""
    low, high = -300.0, 300.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        weights = np.array(chances) * np.exp(middle * (values - 0.5))
        if weights @ values / weights.sum() < mean:
            low = middle
        else:
            high = middle
    return weights / weights.sum()


def wrong_decisions(values, chances, wrong, score0, score1, seed, batch=16):
    """Play matches, tested after each batch; return how many end with the wrong decision."""
    rng, count, known = np.random.default_rng(seed), 0, {}
    totals = np.zeros((MATCHES, len(values)), np.int64)
    while len(totals):
        totals += rng.multinomial(batch, chances, len(totals))
        for n in map(tuple, totals):
            if n not in known:
                known[n] = sprt(np.repeat(values, n), score0, score1, 0.05, 0.05).decision
        decisions = [known[n] for n in map(tuple, totals)]
        count += decisions.count(wrong)
        totals = totals[[d == "undecided" for d in decisions]]
    return count / MATCHES


SEQUENTIAL = {
    "draw-heavy": (*SCORES["draw-heavy"], 0.5, 0.54),
    "one-sided 90 %": (*SCORES["one-sided 90 %"], 0.9, 0.95),
    "backgammon, even": (*pair_points("even", 0.0), 0.5, 0.57),
    "backgammon, paired dice": (*pair_points("even", 0.5), 0.5, 0.56),
}


@pytest.mark.parametrize(
    "name",
    [
        "draw-heavy",
        "one-sided 90 %",
        pytest.param("backgammon, even", marks=pytest.mark.slow),
        pytest.param("backgammon, paired dice", marks=pytest.mark.slow),
    ],
)
def test_the_sequential_test_errs_no_more_than_two_points_above_nominal(name):
    values, chances, score0, score1 = SEQUENTIAL[name]
    accepts = wrong_decisions(values, tilted(values, chances, score0), "accept", score0, score1, 71)
    rejects = wrong_decisions(values, tilted(values, chances, score1), "reject", score0, score1, 72)
    print(f"wrong accepts {100 * accepts:.1f} %, wrong rejects {100 * rejects:.1f} %")
    assert accepts <= 0.07 and rejects <= 0.07
