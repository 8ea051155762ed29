"""Checks of the statistics against published tables, slow references and simulated matches.

Every simulation is seeded. A simulated rate over T matches has sigma = sqrt(rate (1 - rate) / T);
each bound on one says how many sigma it allows for chance.
"""

import itertools
import math
import time

import numpy as np
import pytest

from tests.rating_slow import davidson, maximum, profile_drop
from zeroloop.elo import Outcomes, fit_elo
from zeroloop.errors import ConfigError, ZeroloopError
from zeroloop.rating import (
    Interval,
    Result,
    elo_from_score,
    elo_interval,
    grouped_interval,
    maximum_likelihood_elo,
    normalised_score,
    ordinal_returns,
    returns_from_points,
    returns_from_ranks,
    score_from_elo,
    score_interval,
    sprt,
    wilson,
)

PAIR_SCORES = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
MATCHES = 2000

# Chances of a pair scoring 0, 1/4, 1/2, 3/4, 1 at mean one half, for tilting to other means.
PAIR_SHAPES = {
    "ordinary": [0.05, 0.20, 0.50, 0.20, 0.05],
    "drawish": [0.01, 0.09, 0.80, 0.09, 0.01],
    "decisive": [0.25, 0.0, 0.50, 0.0, 0.25],
    "one-sided openings": [0.05, 0.0, 0.90, 0.0, 0.05],
    "single games": [0.5, 0.0, 0.0, 0.0, 0.5],
}


def tilted(shape, mean):
    """Return the chances proportional to shape * exp(t * score) that have this mean."""
    low, high = -200.0, 200.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        weights = np.array(shape) * np.exp(middle * (PAIR_SCORES - 0.5))
        chances = weights / weights.sum()
        if chances @ PAIR_SCORES < mean:
            low = middle
        else:
            high = middle
    return chances


# --- wilson -------------------------------------------------------------------------------------


# Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_the_published_table(successes, n, low, high):
    interval = wilson(successes, n)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_wilson_bounds_solve_the_score_equation_also_for_fractional_successes():
    z = 2.5758293035489004  # the 99.5 % quantile of the standard normal
    for bound in wilson(12.5, 40, confidence=0.99):
        assert abs(12.5 / 40 - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / 40))


def test_wilson_ends_exactly_at_zero_and_one():
    assert wilson(0, 7).low == 0.0
    assert wilson(7, 7).high == 1.0


# --- score_interval -----------------------------------------------------------------------------


# The same table, method 4: with samples of 0 and 1 alone the variance ratio must be 1.
@pytest.mark.parametrize(
    ("ones", "n", "low", "high"),
    [
        (81, 263, 0.2535, 0.3682),
        (15, 148, 0.0598, 0.1644),
        (0, 20, 0.0000, 0.2005),
        (1, 29, 0.0018, 0.1963),
    ],
)
def test_samples_of_zero_and_one_give_the_published_corrected_interval(ones, n, low, high):
    interval = score_interval([1.0] * ones + [0.0] * (n - ones))
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_equal_samples_leave_room_for_an_outcome_not_yet_seen(value):
    # With chance 0.05 an outcome of chance 1 - 0.05^(1/50) = 0.058 has not shown up in 50 samples;
    # the farthest such outcome moves the mean by half of that from 0.5, by all of it from 1.
    interval = score_interval([value] * 50)
    unseen = 1 - 0.05 ** (1 / 50)
    assert interval.low <= value - unseen * value
    assert interval.high >= value + unseen * (1 - value)
    assert interval.high - interval.low < 0.12


def test_draws_and_splits_narrow_the_interval_below_that_of_single_games():
    splits = score_interval([0.5] * 80 + [1.0] * 15 + [0.0] * 5)
    wins_and_losses = score_interval([1.0] * 55 + [0.0] * 45)
    assert splits.high - splits.low < 0.6 * (wins_and_losses.high - wins_and_losses.low)


def test_the_interval_of_the_opponent_is_the_mirror_image():
    samples = np.array([1.0, 1.0, 0.75, 0.5, 0.5, 0.25, 1.0, 1.0])
    own, other = score_interval(samples), score_interval(1.0 - samples)
    assert own.low == pytest.approx(1.0 - other.high, abs=1e-12)
    assert own.high == pytest.approx(1.0 - other.low, abs=1e-12)


def test_a_long_match_has_the_width_of_the_normal_interval():
    samples = np.repeat(PAIR_SCORES, [500, 1500, 4000, 2500, 1500])
    interval = score_interval(samples)
    half_width = 1.959964 * samples.std() / math.sqrt(len(samples))
    assert interval.high - interval.low == pytest.approx(2 * half_width, rel=0.02)


def exact_coverage(n, distributions):
    """Return the chance that the interval of n samples holds the mean, by summing all outcomes."""
    log_factorial = np.cumsum(np.log(np.maximum(np.arange(n + 1), 1)))
    outcomes = [
        (a, b, c, d, n - a - b - c - d)
        for a, b, c, d in itertools.product(range(n + 1), repeat=4)
        if a + b + c + d <= n
    ]
    counts = np.array(outcomes)
    intervals = np.array([score_interval(np.repeat(PAIR_SCORES, count)) for count in outcomes])
    ways = log_factorial[n] - log_factorial[counts].sum(axis=1)
    coverage = []
    for chances in distributions:
        mean = chances @ PAIR_SCORES
        likelihood = np.exp(ways + counts @ np.log(np.maximum(chances, 1e-300)))
        holds = (intervals[:, 0] <= mean + 1e-12) & (mean - 1e-12 <= intervals[:, 1])
        assert likelihood.sum() == pytest.approx(1.0)
        coverage.append(likelihood[holds].sum())
    return np.array(coverage)


def test_twenty_samples_cover_nearly_95_percent_whatever_the_distribution():
    rng = np.random.default_rng(11)
    means = [0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99]
    distributions = [tilted(shape, mean) for shape in PAIR_SHAPES.values() for mean in means]
    distributions += [np.array([1 - p, 0, 0, 0, p]) for p in np.linspace(0.5, 0.999, 100)]
    distributions += list(rng.dirichlet([0.2] * 5, size=150))
    coverage = exact_coverage(20, distributions)  # exact: no sigma
    assert coverage.min() > 0.935
    assert 0.95 < coverage.mean() < 0.985


@pytest.mark.parametrize("n", [20, 50, 400])
@pytest.mark.parametrize("usual", [0.5, 2 / 3, 0.75, 0.9, 1.0])
def test_a_rare_loss_beside_one_usual_score_is_covered(n, usual):
    intervals = [score_interval([0.0] * k + [usual] * (n - k)) for k in range(n + 1)]
    for expected_losses in (0.1, 0.5, 1, 1.5, 2, 2.5, 3, 4, 6, 8):
        chance = expected_losses / n
        mean = (1 - chance) * usual
        held = [k for k, (low, high) in enumerate(intervals) if low <= mean <= high]
        coverage = sum(math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in held)
        assert coverage > 0.935, expected_losses  # exact: no sigma


@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("shape", PAIR_SHAPES)
def test_longer_matches_cover_nearly_95_percent(n, shape):
    # Allowed: 1.5 points below nominal and 3 sigma of chance, sigma = 0.0055 at 0.935.
    floor = 0.935 - 3 * math.sqrt(0.935 * 0.065 / MATCHES)
    rng = np.random.default_rng(12)
    for mean in (0.5, 0.6, 0.9, 0.98):
        chances = tilted(PAIR_SHAPES[shape], mean)
        matches = rng.multinomial(n, chances, size=MATCHES)
        distinct, times = np.unique(matches, axis=0, return_counts=True)
        intervals = [score_interval(np.repeat(PAIR_SCORES, counts)) for counts in distinct]
        held = [low - 1e-12 <= mean <= high + 1e-12 for low, high in intervals]
        assert np.average(held, weights=times) > floor, (mean, n)


# --- Elo and points -----------------------------------------------------------------------------


def test_elo_differences_are_400_points_per_factor_of_ten_in_odds():
    assert elo_from_score(0.5) == 0.0
    assert elo_from_score(10 / 11) == pytest.approx(400.0)
    assert elo_from_score(1 / 101) == pytest.approx(-800.0)
    assert elo_from_score(0.75) == pytest.approx(400 * 0.4771212547)  # log10(3)


@pytest.mark.parametrize("elo", [-2500.0, -120.0, 0.0, 3.5, 700.0])
def test_score_and_elo_are_inverse(elo):
    assert elo_from_score(score_from_elo(elo)) == pytest.approx(elo)


def test_certain_scores_are_infinite_elo_and_back():
    assert elo_interval(Interval(0.0, 1.0)) == (-math.inf, math.inf)
    assert score_from_elo(math.inf) == 1.0
    assert score_from_elo(-math.inf) == 0.0
    assert score_from_elo(-1e9) == 0.0


def test_points_map_to_the_unit_interval_and_ranks_do_too():
    assert normalised_score(30, worst=-10, best=70) == pytest.approx(0.5)
    assert [normalised_score(rank, worst=4, best=1) for rank in (1, 2, 4)] == [1.0, 2 / 3, 0.0]


# --- sprt ---------------------------------------------------------------------------------------


def grid_llr(losses, draws, wins, score0, score1):
    """Return the generalized llr over distributions on {0, 1/2, 1}, by a grid over P(1/2).

    The pseudo-sample that the docstring of `sprt` states: mean midway, split between 0 and 1.
    """
    middle = 0.5 * (score0 + score1)
    best = []
    for mean in (score0, score1):
        half = np.linspace(0.0, 2 * min(mean, 1 - mean), 400_002)[1:-1]
        one, zero = mean - half / 2, 1 - mean - half / 2
        likelihood = (losses + 1 - middle) * np.log(zero) + (wins + middle) * np.log(one)
        best.append(np.max(likelihood + draws * np.log(half)))
    return best[1] - best[0]


@pytest.mark.parametrize(
    ("losses", "draws", "wins"),
    [(10, 25, 20), (1, 100, 3), (0, 30, 0), (0, 5, 40), (3, 1, 0), (200, 300, 260)],
)
@pytest.mark.parametrize(("score0", "score1"), [(0.5, 0.55), (0.4, 0.6), (0.9, 0.95)])
def test_llr_agrees_with_a_grid_search_over_distributions(losses, draws, wins, score0, score1):
    samples = [0.0] * losses + [0.5] * draws + [1.0] * wins
    llr = sprt(samples, score0, score1, 0.05, 0.05).llr
    assert llr == pytest.approx(grid_llr(losses, draws, wins, score0, score1), abs=1e-6, rel=1e-7)


def test_llr_of_wins_and_losses_is_that_of_wald():
    # Two outcomes leave nothing to estimate; only the pseudo-sample, fair to both, is added.
    result = sprt([1.0] * 30 + [0.0] * 20, 0.5, 0.6, 0.05, 0.05)
    expected = 30.55 * math.log(0.6 / 0.5) + 20.45 * math.log(0.4 / 0.5)
    assert result.llr == pytest.approx(expected)


def test_bounds_are_those_of_wald():
    result = sprt([0.5], 0.5, 0.55, alpha=0.01, beta=0.1)
    assert result.upper == pytest.approx(math.log(0.9 / 0.01))
    assert result.lower == pytest.approx(math.log(0.1 / 0.99))


def test_a_clear_winner_is_accepted_and_a_clear_loser_rejected():
    assert sprt([1.0, 0.75] * 40, 0.5, 0.55, 0.05, 0.05).decision == "accept"
    assert sprt([0.0, 0.25] * 40, 0.5, 0.55, 0.05, 0.05).decision == "reject"


@pytest.mark.parametrize("value", [0.0, 0.5, 0.526, 1.0])
def test_a_few_equal_samples_decide_nothing(value):
    assert sprt([value] * 10, 0.5, 0.55, 0.05, 0.05).decision == "undecided"


def test_the_order_of_the_samples_does_not_matter():
    samples = np.random.default_rng(1).choice(PAIR_SCORES, 200)
    forward = sprt(samples, 0.5, 0.55, 0.05, 0.05)
    assert forward == sprt(samples[::-1], 0.5, 0.55, 0.05, 0.05)


def test_exchanging_the_players_and_the_hypotheses_turns_the_sign():
    samples = np.random.default_rng(2).choice(PAIR_SCORES, 150)
    own = sprt(samples, 0.52, 0.6, 0.05, 0.1)
    other = sprt(1.0 - samples, 1 - 0.6, 1 - 0.52, 0.1, 0.05)
    assert own.llr == pytest.approx(-other.llr)
    assert own.upper == pytest.approx(-other.lower)


def decision_rates(chances, score0, score1, batch, seed):
    """Play seeded matches, tested after each batch of pairs; return the two decisions' rates."""
    rng = np.random.default_rng(seed)
    decided = {"accept": 0, "reject": 0}
    counts = np.zeros((MATCHES, 5), dtype=np.int64)
    while len(counts):
        counts += rng.multinomial(batch, chances, size=len(counts))
        undecided = np.ones(len(counts), dtype=bool)
        known = {}  # matches with the same counts so far have the same result
        for i, match in enumerate(map(tuple, counts)):
            if match not in known:
                samples = np.repeat(PAIR_SCORES, match)
                known[match] = sprt(samples, score0, score1, 0.05, 0.05).decision
            if known[match] != "undecided":
                decided[known[match]] += 1
                undecided[i] = False
        counts = counts[undecided]
    return decided["accept"] / MATCHES, decided["reject"] / MATCHES


# Two points above the nominal 5 % are 4.1 sigma (sigma = 0.49 points over 2,000 matches).
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param("ordinary", marks=pytest.mark.slow),
        pytest.param("decisive", marks=pytest.mark.slow),
        "drawish",
        "one-sided openings",
        "single games",
    ],
)
def test_wrong_decisions_stay_within_two_points_of_nominal(shape):
    wrong_accepts, _ = decision_rates(tilted(PAIR_SHAPES[shape], 0.5), 0.5, 0.6, 8, seed=21)
    _, wrong_rejects = decision_rates(tilted(PAIR_SHAPES[shape], 0.6), 0.5, 0.6, 8, seed=22)
    assert wrong_accepts < 0.07
    assert wrong_rejects < 0.07


def test_single_games_are_tested_at_both_nominal_rates():
    # The pure Wald test: overshoot makes both rates a little smaller, two points are 4.1 sigma.
    chances0, chances1 = (tilted(PAIR_SHAPES["single games"], mean) for mean in (0.5, 0.62))
    assert decision_rates(chances0, 0.5, 0.62, 2, seed=23)[0] == pytest.approx(0.05, abs=0.02)
    assert decision_rates(chances1, 0.5, 0.62, 2, seed=24)[1] == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("shape", ["single games", "decisive"])
def test_wrong_decisions_stay_rare_near_the_end_of_the_scale(shape):
    # The normal approximation wrongly accepts 48 % and 24 % here; again 4.1 sigma above nominal.
    assert decision_rates(tilted(PAIR_SHAPES[shape], 0.9), 0.9, 0.95, 8, seed=25)[0] < 0.07
    assert decision_rates(tilted(PAIR_SHAPES[shape], 0.95), 0.9, 0.95, 8, seed=26)[1] < 0.07


def test_a_thousand_pairs_are_tested_within_five_milliseconds():
    samples = np.random.default_rng(3).random(1000)  # all values different: the slowest case
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        sprt(samples, 0.5, 0.55, 0.05, 0.05)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.005


# --- maximum_likelihood_elo ---------------------------------------------------------------------

THREE = ["ada", "bob", "cyd"]
THREE_RESULTS = [
    Result("ada", "bob", 31.5, 50),
    Result("bob", "cyd", 4, 24),
    Result("cyd", "ada", 20, 20),
    Result("bob", "ada", 7.5, 12),
]


def log_likelihood(elo, results):
    """Return the Bradley-Terry log-likelihood of the results at these Elo values (a dict)."""
    total = 0.0
    for a, b, score, games in results:
        expected = 1 / (1 + 10 ** ((elo[b] - elo[a]) / 400))
        total += score * math.log(expected) + (games - score) * math.log(1 - expected)
    return total


def posterior(elo, results):
    """Return the log-likelihood plus Jeffreys' prior, half the log determinant in closed form."""
    weights = []
    for first, second in (("ada", "bob"), ("ada", "cyd"), ("bob", "cyd")):
        games = sum(r.games for r in results if {r.a, r.b} == {first, second})
        expected = 1 / (1 + 10 ** ((elo[second] - elo[first]) / 400))
        weights.append(games * expected * (1 - expected))
    ab, ac, bc = weights
    return log_likelihood(elo, results) + 0.5 * math.log(ab * ac + ab * bc + ac * bc)


def golden_section(function, low, high):
    """Return where a function with one maximum in [low, high] has it."""
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if function(left) < function(right):
            low = left
        else:
            high = right
    return 0.5 * (low + high)


def brute_force_elo(results):
    """Return the best Elo of bob and cyd beside ada at 0, improving one at a time."""
    elo = dict.fromkeys(THREE, 0.0)
    for _, name in itertools.product(range(60), THREE[1:]):
        elo[name] = golden_section(lambda x, name=name: posterior({**elo, name: x}, results), -2000, 2000)
    return elo


def test_elo_of_three_players_agrees_with_a_brute_force_search():
    expected = brute_force_elo(THREE_RESULTS)
    estimates = maximum_likelihood_elo(THREE, THREE_RESULTS, "ada")
    for name in THREE:
        assert estimates[name].elo == pytest.approx(expected[name], abs=0.01)


def as_outcomes(results):
    return [(r.a, r.b, r.score_a_sum, 0, r.games - r.score_a_sum) for r in results]


@pytest.mark.slow
def test_elo_intervals_end_where_the_penalized_profile_has_fallen_by_half_the_squared_quantile():
    estimates = maximum_likelihood_elo(THREE, THREE_RESULTS, "ada", confidence=0.9)
    fall = 0.5 * 1.6448536**2
    for name in THREE[1:]:
        for end in (estimates[name].low, estimates[name].high):
            drop = profile_drop(as_outcomes(THREE_RESULTS), {"ada": 0.0}, name, end, draws=False, seats=False)
            assert drop == pytest.approx(fall, rel=1e-3)


def test_elo_intervals_of_a_long_match_have_the_width_of_the_normal_interval():
    # A score of p over n games has the variance 1 / (n p (1 - p)) in nats.
    estimate = maximum_likelihood_elo(["a", "b"], [Result("a", "b", 6000, 10_000)], "b")["a"]
    sigma = 400 / math.log(10) / math.sqrt(10_000 * 0.6 * 0.4)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.959964 * sigma, rel=1e-3)


@pytest.mark.parametrize(("score", "games"), [(1, 1), (50, 50), (0, 3), (12.5, 20), (700, 1000)])
def test_two_players_get_one_virtual_draw(score, games):
    estimate = maximum_likelihood_elo(["a", "b"], [Result("a", "b", score, games)], "b")["a"]
    expected = 400 * math.log10((score + 0.5) / (games - score + 0.5))
    assert estimate.elo == pytest.approx(expected, abs=0.01)
    assert math.isfinite(estimate.low) and math.isfinite(estimate.high)
    assert estimate.games == games


def test_elo_differences_do_not_depend_on_the_anchor():
    by_ada = maximum_likelihood_elo(THREE, THREE_RESULTS, "ada")
    by_cyd = maximum_likelihood_elo(THREE, THREE_RESULTS, "cyd")
    for name in THREE:
        assert by_ada[name].elo - by_ada["cyd"].elo == pytest.approx(by_cyd[name].elo, abs=0.01)
    assert by_ada["cyd"].high - by_ada["cyd"].low == pytest.approx(
        by_cyd["ada"].high - by_cyd["ada"].low, abs=0.01
    )
    assert by_cyd["cyd"] == (0.0, 0.0, 0.0, 44)


def test_a_long_chain_of_clean_sweeps_stays_finite():
    players = [str(i) for i in range(40)]
    results = [Result(a, b, 0, 1000) for a, b in itertools.pairwise(players)]
    estimates = maximum_likelihood_elo(players, results, "0")
    step = 400 * math.log10(1000.5 / 0.5)
    assert estimates["39"].elo == pytest.approx(39 * step, rel=1e-6)


def test_a_lone_player_needs_no_results():
    assert maximum_likelihood_elo(["a"], [], "a") == {"a": (0.0, 0.0, 0.0, 0)}


def test_unconnected_players_are_named_by_component():
    results = [Result("a", "c", 3, 4), Result("d", "b", 1, 2)]
    with pytest.raises(ConfigError, match=r"\['a', 'c'\] and \['b', 'd'\] and \['e'\]"):
        maximum_likelihood_elo(list("abcde"), results, "a")


# --- fit_elo ------------------------------------------------------------------------------------

TABLE = [
    ("ada", "bob", 9, 14, 7),
    ("bob", "ada", 12, 11, 7),
    ("bob", "cyd", 20, 6, 2),
    ("cyd", "bob", 3, 9, 13),
    ("dan", "ada", 4, 12, 9),
    ("ada", "dan", 11, 10, 3),
]
"""First player, second player; wins, draws and losses of the first."""


@pytest.mark.parametrize("draws", ["half", "davidson"])
@pytest.mark.parametrize("seats", [False, True])
def test_strengths_seats_and_draws_agree_with_a_slow_maximum_written_from_the_papers(draws, seats):
    anchors = {"ada": 100.0, "dan": -20.0}
    found = fit_elo([Outcomes(*row) for row in TABLE], anchors, draws=draws, seats=seats)
    elo, advantage, nu, _ = maximum(TABLE, anchors, draws=draws == "davidson", seats=seats)
    for name in ("bob", "cyd"):
        assert found.players[name].elo == pytest.approx(elo[name], abs=0.02)
    assert found.players["dan"] == (-20.0, -20.0, -20.0, 49)
    if seats:
        assert found.seat_advantage[0].value == pytest.approx(advantage, abs=0.02)
        assert found.seat_advantage[1].value == pytest.approx(-advantage, abs=0.02)
    else:
        assert found.seat_advantage == {}
    if draws == "davidson":
        assert found.draw_rate.value == pytest.approx(nu / (2 + nu), abs=1e-5)
    else:
        assert found.draw_rate is None


def test_several_anchors_join_players_that_no_game_links():
    results = [Outcomes("a", "b", 6, 0, 4), Outcomes("c", "d", 3, 0, 7)]
    found = fit_elo(results, {"b": 50.0, "d": 1000.0})
    assert found.players["a"].elo == pytest.approx(50 + 400 * math.log10(6.5 / 4.5), abs=0.01)
    assert found.players["c"].elo == pytest.approx(1000 + 400 * math.log10(3.5 / 7.5), abs=0.01)
    with pytest.raises(ConfigError, match=r"unconnected components, \['a', 'b'\] and \['c', 'd'\]"):
        fit_elo(results, {"b": 50.0})


def test_pairs_that_split_narrow_the_interval_and_shared_luck_widens_it():
    def width(first, second):
        rows = []
        for k, (x, y) in enumerate(zip(first, second, strict=True)):
            rows += [Outcomes("a", "b", x, 0, 1 - x, k), Outcomes("b", "a", 1 - y, 0, y, k)]
        found = fit_elo(rows, {"b": 0.0})
        assert found.groups == 60
        return found.players["a"].high - found.players["a"].low

    ones, zeros = [1] * 30, [0] * 30
    split, equal = width(ones + zeros, zeros + ones), width(ones + zeros, ones + zeros)
    games = [Outcomes("a", "b", 60, 0, 60)]
    alone = fit_elo(games, {"b": 0.0}).players["a"]
    assert split < 0.4 * (alone.high - alone.low)
    assert equal == pytest.approx(math.sqrt(2) * (alone.high - alone.low), rel=0.05)


def test_drawn_games_narrow_the_interval():
    wins = fit_elo([Outcomes("a", "b", 50, 0, 50)], {"b": 0}).players["a"]
    drawn = fit_elo([Outcomes("a", "b", 10, 80, 10)], {"b": 0}).players["a"]
    assert drawn.high - drawn.low < 0.55 * (wins.high - wins.low)


def test_seats_of_three_players_are_told_apart_from_their_strengths():
    rng, true, rows = np.random.default_rng(5), {"a": 0.0, "b": 120.0, "c": -80.0}, []
    worth = {0: 60.0, 1: 0.0, 2: -90.0}
    for game in range(4000):
        order = rng.permutation(list(true))
        for i, j in ((0, 1), (0, 2), (1, 2)):
            d = true[order[i]] + worth[i] - true[order[j]] - worth[j]
            won = int(rng.random() < score_from_elo(d))
            rows.append(Outcomes(str(order[i]), str(order[j]), won, 0, 1 - won, game, (i, j)))
    found = fit_elo(rows, {"a": 0.0}, seats=True, confidence=0.999)
    for name in "bc":
        assert found.players[name].low < true[name] < found.players[name].high
    for seat, other in ((0, -45.0), (1, -15.0), (2, 30.0)):
        assert found.seat_advantage[seat].low < worth[seat] - other < found.seat_advantage[seat].high
    assert found.groups == 4000


def test_a_planted_seat_advantage_is_found_and_none_is_claimed_where_there_is_none():
    rng = np.random.default_rng(8)
    for true in (0.0, 40.0):
        wins = rng.multinomial(3000, davidson(0.0, 0.0, true, 2.0), 2)
        rows = [Outcomes("a", "b", *wins[0]), Outcomes("b", "a", *wins[1])]
        found = fit_elo(rows, {"b": 0.0}, draws="davidson", seats=True)
        assert found.seat_advantage[0].low < true < found.seat_advantage[0].high
        assert (found.seat_advantage[0].low > 0) == (true > 0)
        assert found.draw_rate.low < 0.5 < found.draw_rate.high


# --- grouped_interval and returns ---------------------------------------------------------------


def test_groups_of_one_give_the_interval_of_single_samples():
    samples = np.random.default_rng(4).choice(PAIR_SCORES, 80)
    found = grouped_interval(samples, list(range(80)))
    # Without groups the effect is n / (n - 1), by which a variance from whole groups is larger.
    assert found == pytest.approx(score_interval(samples), abs=1e-3)


def test_samples_that_repeat_within_their_group_count_once():
    samples = np.random.default_rng(4).choice([0.0, 1.0], 100)
    repeated = grouped_interval(np.repeat(samples, 7), np.repeat(np.arange(100), 7))
    assert repeated == pytest.approx(score_interval(samples), abs=3e-3)


def test_equal_samples_of_few_groups_keep_the_width_of_so_many_samples():
    assert grouped_interval([1.0] * 200, [i // 10 for i in range(200)]).low == pytest.approx(
        score_interval([1.0] * 20).low
    )


def test_ordinal_returns_are_evenly_spaced_from_one_to_minus_one():
    assert ordinal_returns(2) == [1, -1]
    assert ordinal_returns(3) == [1, 0, -1]
    assert ordinal_returns(4) == pytest.approx([1, 1 / 3, -1 / 3, -1])


@pytest.mark.parametrize(
    ("points", "returns"),
    [
        ([7, 3], [1, -1]),
        ([2, 2], [0, 0]),
        ([0, 5, 2], [-1, 1, 0]),
        ([5, 5, 1], [0.5, 0.5, -1]),
        ([1, 5, 5, 5], [-1, 1 / 3, 1 / 3, 1 / 3]),
        ([4, 4, 1, 1], [2 / 3, 2 / 3, -2 / 3, -2 / 3]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_tied_seats_share_the_mean_of_their_places(points, returns):
    assert returns_from_points([points])[0] == pytest.approx(returns)
    ranks = [1 + sum(p > q for p in points) for q in points]
    assert returns_from_ranks([ranks])[0] == pytest.approx(returns)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(1, 0), "n is 0"),
        (lambda: wilson(4, 3), "successes is 4; allowed is 0 to n = 3"),
        (lambda: wilson(math.nan, 3), "successes is nan"),
        (lambda: wilson(1, 3, confidence=1.0), "confidence is 1.0"),
        (lambda: score_interval([]), "allowed is a list of 1 or more"),
        (lambda: score_interval([0.5, 1.5]), r"samples\[1\] is 1.5; allowed is 0 to 1"),
        (lambda: score_interval([math.nan]), r"samples\[0\] is nan"),
        (lambda: elo_from_score(-0.1), "score is -0.1"),
        (lambda: score_from_elo(math.nan), "elo is nan"),
        (lambda: normalised_score(3, 1, 1), "worst is 1 and best is 1"),
        (lambda: normalised_score(5, 4, 1), "points is 5; allowed is from worst 4 to best 1"),
        (lambda: sprt([0.5], 0.6, 0.5, 0.05, 0.05), "score0 is 0.6 and score1 is 0.5"),
        (lambda: sprt([0.5], 0.5, 0.6, 0.0, 0.05), "alpha is 0.0"),
        (lambda: sprt([0.5], 0.5, 0.6, 0.05, 0.5), "beta is 0.5"),
        (lambda: sprt([2.0], 0.5, 0.6, 0.05, 0.05), r"samples\[0\] is 2.0"),
        (lambda: grouped_interval([0.5], [1, 2]), "groups has 2 entries for 1 samples"),
        (lambda: ordinal_returns(1), "players is 1"),
        (lambda: returns_from_points([[1.0, math.nan]]), "allowed are finite numbers"),
        (lambda: fit_elo([Outcomes("a", "b", 1, 0, 0)], {}), "anchors is empty"),
        (lambda: fit_elo([Outcomes("a", "b", 1, 0, 0)], {"z": 0}), "anchors has 'z'"),
        (lambda: fit_elo([Outcomes("a", "a", 1, 0, 0)], {"a": 0}), "two different players"),
        (lambda: fit_elo([Outcomes("a", "b", 0, 0, 0)], {"a": 0}), "at least one game"),
        (lambda: fit_elo([Outcomes("a", "b", 1, -1, 0)], {"a": 0}), "counts of games from 0"),
        (lambda: fit_elo([Outcomes("a", "b", 1, 0, 0, None, (1, 1))], {"a": 0}), "two different seats"),
        (lambda: fit_elo([Outcomes("a", "b", 1, 0, 3)], {"a": 0}, seats=True), "seats cannot be told"),
        (lambda: maximum_likelihood_elo(["a", "a"], [], "a"), r"\['a'\] more than once"),
        (lambda: maximum_likelihood_elo(["a"], [], "z"), "anchor is 'z'"),
        (
            lambda: maximum_likelihood_elo(["a", "b"], [Result("a", "z", 1, 1)], "a"),
            "two different players",
        ),
        (
            lambda: maximum_likelihood_elo(["a", "b"], [Result("a", "b", 2, 1)], "a"),
            "score_a_sum from 0 to games",
        ),
        (
            lambda: maximum_likelihood_elo(["a", "b"], [Result("a", "b", 0, 0)], "a"),
            "games >= 1",
        ),
    ],
)
def test_bad_input_is_refused_with_one_clear_sentence(call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert isinstance(caught.value, ZeroloopError)
    assert "\n" not in str(caught.value)
