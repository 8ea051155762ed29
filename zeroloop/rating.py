"""Statistics of match results: intervals, a sequential test, Elo; it knows no game and no file.

Scores lie in [0, 1]: 1 is the best result, 0 the worst, 0.5 a draw of two. A *sample* is the mean
score over all seatings of one opening (for two players: a pair of games), because those games share
their opening and only whole groups are independent. Elo is logistic, 400 points per factor of 10.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, ZeroloopError

Array = npt.NDArray[np.float64]
Samples = Sequence[float] | Array

# Elo points per natural-log unit of strength: 400 / ln 10.
_ELO_PER_NAT = 400.0 / math.log(10.0)

# Pseudo-samples at score 0, and as many at score 1, that enter the variance in `score_interval`:
# "two successes and two failures" (Agresti and Coull 1998). One each is too few: 400 equal
# samples at 0.9 beside a 0.5 % chance of 0 were then covered 86 % of the time instead of 95 %.
_PSEUDO_SAMPLES = 2.0


class Interval(NamedTuple):
    """A two-sided confidence interval, in the unit of its estimate."""

    low: float
    high: float


class SprtResult(NamedTuple):
    """State of a sequential test: the log-likelihood ratio (nats), its bounds, and the decision."""

    llr: float
    lower: float
    upper: float
    decision: Literal["accept", "reject", "undecided"]


class Result(NamedTuple):
    """What `games` games of `a` against `b` came to: `score_a_sum` is wins plus half the draws."""

    a: str
    b: str
    score_a_sum: float
    games: int


class EloEstimate(NamedTuple):
    """A player's Elo relative to the anchor, its interval, and the number of games it played."""

    elo: float
    low: float
    high: float
    games: int


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Return the score interval of a success rate from `n` independent trials.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference":
    the rates p with |successes/n - p| <= z sqrt(p (1 - p) / n). `successes` may be fractional.
    Raises ConfigError for n < 1, successes outside [0, n] or confidence outside (0, 1).
    """
    if n < 1:
        raise ConfigError(f"n is {n}; a rate needs at least 1 trial")
    if not 0.0 <= successes <= n:
        raise ConfigError(f"successes is {successes}; allowed is 0 to n = {n}")
    return _score_bounds(successes / n, float(n), _normal_quantile(confidence), 0.0)


def score_interval(samples: Samples, confidence: float = 0.95) -> Interval:
    """Return an interval for the mean of independent samples in [0, 1]; `n` is len(samples).

    Wilson's interval with continuity correction (Newcombe 1998, method 4) at the *effective* size
    n / ratio, where ratio = variance / (mean (1 - mean)). The ratio is 1 when all samples are 0
    or 1 and smaller when draws or splits make the mean steadier; effective sizes are from Korn
    and Graubard 1998, "Confidence intervals for proportions with small expected number of
    positive counts". Both moments are taken after adding two pseudo-samples at 0 and two at 1.
    That leaves the ratio of 0-1 samples at exactly 1, and equal samples keep an honest width: it
    shrinks as 1/n, as it must, since an outcome rarer than about 3/n need not have shown up yet.
    (50 of 50 won: [0.911, 1]; 50 of 50 drawn: [0.462, 0.538].)

    The correction makes it conservative, like Clopper-Pearson but in closed form; without it the
    score interval dips to 86 % near means of 0 and 1. `n` must be fixed beforehand: after a stop by
    `sprt` the mean is biased away from the middle and the interval with it.
    Raises ConfigError for no samples, a sample outside [0, 1] or confidence outside (0, 1).
    """
    scores = _checked_samples(samples)
    z = _normal_quantile(confidence)
    n = len(scores)
    total = n + 2.0 * _PSEUDO_SAMPLES
    mean = (float(scores.sum()) + _PSEUDO_SAMPLES) / total
    square = (float(np.square(scores).sum()) + _PSEUDO_SAMPLES) / total
    ratio = min(1.0, (square - mean * mean) / (mean * (1.0 - mean)))
    effective = n / ratio
    return _score_bounds(float(scores.mean()), effective, z, 0.5 / effective)


def elo_from_score(score: float) -> float:
    """Return the Elo difference that expects `score`: 400 log10(score / (1 - score)).

    Score 0 gives -inf and 1 gives inf, which strict JSON cannot hold. Raises ConfigError outside
    [0, 1]. Source: Elo 1978, "The rating of chessplayers", with the logistic curve.
    """
    if not 0.0 <= score <= 1.0:
        raise ConfigError(f"score is {score}; allowed is 0 to 1")
    if score == 0.0:
        return -math.inf
    if score == 1.0:
        return math.inf
    return _ELO_PER_NAT * (math.log(score) - math.log1p(-score))


def score_from_elo(elo: float) -> float:
    """Return the expected score at an Elo difference, 1 / (1 + 10^(-elo/400)); takes -inf, inf."""
    if math.isnan(elo):
        raise ConfigError("elo is nan; allowed is any number, -inf and inf")
    odds = math.pow(10.0, -abs(elo) / 400.0)  # at most 1, so that a huge difference cannot overflow
    return 1.0 / (1.0 + odds) if elo >= 0.0 else odds / (1.0 + odds)


def elo_interval(interval: Interval) -> Interval:
    """Return an interval of scores as Elo differences; its ends may be -inf or inf."""
    return Interval(elo_from_score(interval.low), elo_from_score(interval.high))


def normalised_score(points: float, worst: float, best: float) -> float:
    """Return `points` on a scale where `worst` is 0 and `best` is 1.

    For ranks, worst is the number of players and best is 1. Raises ConfigError when worst equals
    best, or points is not between them.
    """
    if not (math.isfinite(worst) and math.isfinite(best)) or worst == best:
        raise ConfigError(f"worst is {worst} and best is {best}; allowed are two different numbers")
    if not min(worst, best) <= points <= max(worst, best):
        raise ConfigError(f"points is {points}; allowed is from worst {worst} to best {best}")
    return (points - worst) / (best - worst)


def sprt(samples: Samples, score0: float, score1: float, alpha: float, beta: float) -> SprtResult:
    """Test H0 "the mean score is at most score0" against H1 "it is at least score1".

    Decides 'accept' (H1) at llr >= ln((1 - beta) / alpha), 'reject' (H0) at llr <= ln(beta /
    (1 - alpha)); Wald 1945, "Sequential tests of statistical hypotheses". alpha bounds wrong
    accepts and beta wrong rejects, approximately. Call it after every batch with all samples so far
    and stop at the first decision; batches only make it stricter, since llr overshoots the bound.

    The score distribution is unknown, so llr is the generalized ratio: the log-likelihood under
    the best distribution of mean score1 less that under the best of mean score0 (Van den Bergh's
    notes on the generalized SPRT, cantate.be/Fishtest/support_MLE_multinomial.pdf; Li, Liu and
    Ying 2014). Those distributions put weight on the observed values and on 0 and 1, which makes
    any mean in (0, 1) possible. One pseudo-sample, split between 0 and 1 so that its mean is
    midway between the hypotheses, enters the likelihood and favours neither: few or equal samples
    cannot claim zero variance. (The published approximation of llr by the sample's variance is
    quicker still but wrong near the ends: with 0-1 samples of mean 0.9 it accepted a score1 of
    0.95 in 48 % of matches at alpha 0.05, where this test does in 4 %.)

    Raises ConfigError unless 0 < score0 < score1 < 1, alpha and beta lie in (0, 0.5), and there
    are samples, all in [0, 1].
    """
    scores = _checked_samples(samples)
    if not 0.0 < score0 < score1 < 1.0:
        raise ConfigError(f"score0 is {score0} and score1 is {score1}; allowed is 0 < score0 < score1 < 1")
    for name, rate in (("alpha", alpha), ("beta", beta)):
        if not 0.0 < rate < 0.5:
            raise ConfigError(f"{name} is {rate}; allowed is above 0 and below 0.5")
    observed, counts = np.unique(scores, return_counts=True)
    middle = 0.5 * (score0 + score1)
    values = np.append(observed, (0.0, 1.0))
    weights = np.append(counts, (1.0 - middle, middle))
    llr = _log_deficit(values, weights, score0) - _log_deficit(values, weights, score1)
    lower = math.log(beta / (1.0 - alpha))
    upper = math.log((1.0 - beta) / alpha)
    if llr >= upper:
        return SprtResult(llr, lower, upper, "accept")
    return SprtResult(llr, lower, upper, "reject" if llr <= lower else "undecided")


def maximum_likelihood_elo(
    players: Sequence[str], results: Iterable[Result], anchor: str, confidence: float = 0.95
) -> dict[str, EloEstimate]:
    """Return every player's Elo relative to `anchor`, which has Elo 0 with no width.

    Model: Bradley and Terry 1952, "Rank analysis of incomplete block designs": the expected score
    of a against b is 1 / (1 + 10^((elo_b - elo_a) / 400)); a draw counts as half a win. Prior:
    Jeffreys', which keeps a record of wins alone finite and removes the first-order bias (Firth
    1993, "Bias reduction of maximum likelihood estimates"). It adds virtual drawn games, shared
    out by how much each pair of opponents tells, len(players) - 1 in total: one for two players.
    (One per pair would pull players 1,200 Elo apart together by 220 after 20 games a pair.)

    Intervals are normal, from the observed Fisher information of the played games, every game
    taken for an independent win or loss. Draws, and most pairs of one opening, vary less: the
    intervals are then too wide. Short one-sided records make them too narrow (800 Elo apart, 20
    games: 82 % covered instead of 95 %); for two players alone use `elo_interval`.

    Raises ConfigError for an unknown or repeated player, a score outside [0, games], games < 1,
    and when the results do not connect all players (the message names the components);
    ZeroloopError when the iteration does not settle, which no table is known to cause.
    """
    scores, games = _tables(players, results, anchor)
    z = _normal_quantile(confidence)
    _require_connected(players, games)
    strength, covariance = _bradley_terry(scores, games, players.index(anchor))
    elo = _ELO_PER_NAT * strength
    margin = z * _ELO_PER_NAT * np.sqrt(np.diagonal(covariance))
    return {
        player: EloEstimate(
            float(elo[i]), float(elo[i] - margin[i]), float(elo[i] + margin[i]), int(games[i].sum())
        )
        for i, player in enumerate(players)
    }


def _normal_quantile(confidence: float) -> float:
    """Return z such that a standard normal lies in [-z, z] with probability `confidence`."""
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence is {confidence}; allowed is above 0 and below 1")
    return NormalDist().inv_cdf(0.5 + 0.5 * confidence)


def _checked_samples(samples: Samples) -> Array:
    """Return the samples as an array, or raise when there are none or one is outside [0, 1]."""
    scores = np.asarray(samples, dtype=np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise ConfigError(f"samples has shape {scores.shape}; allowed is a list of 1 or more")
    outside = ~((scores >= 0.0) & (scores <= 1.0))  # written so that nan counts as outside
    if outside.any():
        i = int(outside.argmax())
        raise ConfigError(f"samples[{i}] is {scores[i]}; allowed is 0 to 1")
    return scores


def _score_bounds(mean: float, size: float, z: float, correction: float) -> Interval:
    """Return the p at which |mean - p| - correction = z sqrt(p (1 - p) / size), within [0, 1]."""

    def lower(rate: float) -> float:
        if rate <= correction:
            return 0.0
        rate -= correction
        spread = math.sqrt(rate * (1.0 - rate) / size + (0.5 * z / size) ** 2)
        return max(0.0, (rate + 0.5 * z * z / size - z * spread) / (1.0 + z * z / size))

    return Interval(lower(mean), 1.0 - lower(1.0 - mean))


def _log_deficit(values: Array, weights: Array, mean: float) -> float:
    """Return how far, in nats, fixing the mean lowers the maximal log-likelihood of the weights.

    The best distribution on `values` with that mean is q_i = p_i / (1 + x (a_i - mean)), p being
    the empirical one, and x the root of sum_i w_i (a_i - mean) / (1 + x (a_i - mean)) (Owen 1988,
    "Empirical likelihood ratio confidence intervals for a single functional"). `values` holds 0
    and 1 with positive weights; so the sum falls from inf to -inf between the two poles below.
    """
    gap = values - mean
    low, high = -1.0 / (1.0 - mean), 1.0 / mean
    x = 0.0
    for _ in range(200):  # Newton's steps, and a bisection where one would leave the bracket
        term = gap / (1.0 + x * gap)
        slope = float(weights @ term)
        if slope > 0.0:
            low = x
        else:
            high = x
        following = x + slope / float(weights @ np.square(term))
        if not low < following < high:
            following = 0.5 * (low + high)
        moved, x = abs(following - x), following
        if moved <= 1e-12 * (1.0 + abs(x)):
            break
    return float(weights @ np.log1p(x * gap))


def _tables(players: Sequence[str], results: Iterable[Result], anchor: str) -> tuple[Array, Array]:
    """Return two square tables: the score of row against column, and the number of their games."""
    index = {player: i for i, player in enumerate(players)}
    if len(index) != len(players):
        twice = sorted({player for player in players if players.count(player) > 1})
        raise ConfigError(f"players names {twice} more than once; allowed is once")
    if anchor not in index:
        raise ConfigError(f"anchor is {anchor!r}; allowed is one of {list(players)}")
    scores = np.zeros((len(players), len(players)))
    games = np.zeros_like(scores)
    for result in results:
        a, b, score, count = result
        if a not in index or b not in index or a == b:
            raise ConfigError(f"{result} must name two different players of {list(players)}")
        if count < 1 or not 0.0 <= score <= count:
            raise ConfigError(f"{result} needs games >= 1 and score_a_sum from 0 to games")
        i, j = index[a], index[b]
        scores[i, j] += score
        scores[j, i] += count - score
        games[i, j] += count
        games[j, i] += count
    return scores, games


def _require_connected(players: Sequence[str], games: Array) -> None:
    """Raise unless a chain of opponents links every player to every other."""
    unseen = set(range(len(players)))
    components = []
    while unseen:
        frontier = [min(unseen)]
        component = set(frontier)
        while frontier:
            opponents = {int(j) for j in np.flatnonzero(games[frontier.pop()])} - component
            component |= opponents
            frontier.extend(opponents)
        unseen -= component
        components.append([players[i] for i in sorted(component)])
    if len(components) > 1:
        groups = " and ".join(str(component) for component in components)
        raise ConfigError(
            f"results leave the players in {len(components)} unconnected components, {groups};"
            " Elo differences need a chain of games between them"
        )


def _bradley_terry(scores: Array, games: Array, fixed: int) -> tuple[Array, Array]:
    """Return the strengths (nats; 0 at `fixed`) of largest posterior, and their covariance.

    Newton's method, with Jeffreys' prior as virtual drawn games that are counted anew at each
    step. If a step changes no difference of opponents by more than r, the third derivative along
    it is at most r times the second; the factor ln(1 + r) / r then improves the likelihood with
    those virtual games from any start (Sun and Tran-Dinh 2019, "Generalized self-concordant
    functions: a recipe for Newton-type methods"), and tends to 1 as r falls.
    """
    strength = np.zeros(len(games))
    for _ in range(500):
        expected = 0.5 + 0.5 * np.tanh(0.5 * (strength[:, None] - strength[None, :]))
        weight = expected * (1.0 - expected)
        covariance = _covariance(games * weight, fixed)
        variance = np.diagonal(covariance)
        virtual = games * weight * (variance[:, None] + variance[None, :] - 2.0 * covariance)
        excess = scores - games * expected + virtual * (0.5 - expected)
        step = _covariance((games + virtual) * weight, fixed) @ excess.sum(axis=1)
        reach = float(np.max(np.abs(step[None, :] - step[:, None]) * (games > 0)))
        if reach <= 1e-7:  # 0.00002 Elo
            return strength, covariance
        strength += step * (math.log1p(reach) / reach)
    raise ZeroloopError(f"Elo did not settle in 500 steps; the last one was {reach:.3g} nats")


def _covariance(information: Array, fixed: int) -> Array:
    """Return the inverse of the Fisher information, given as one weight per pair; 0 at `fixed`."""
    free = np.flatnonzero(np.arange(len(information)) != fixed)
    laplacian = np.diag(information.sum(axis=1)) - information
    covariance = np.zeros_like(information)
    covariance[np.ix_(free, free)] = np.linalg.inv(laplacian[np.ix_(free, free)])
    return covariance
