"""Statistics of match results: scores, returns, intervals, a sequential test; it knows no game and no file.

Scores lie in [0, 1]: 1 is the best result, 0 the worst, 0.5 a draw of two. A *sample* is the mean
score over all seatings of one opening (for two players: a pair of games), because those games share
their opening and only whole groups are independent. Strengths of many players are in `elo`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .elo import ELO_PER_NAT, quantile
from .elo import EloEstimate as EloEstimate
from .elo import Result as Result
from .elo import maximum_likelihood_elo as maximum_likelihood_elo
from .errors import ConfigError

Array = npt.NDArray[np.float64]
Samples = Sequence[float] | Array

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
    return _score_bounds(successes / n, float(n), quantile(confidence), 0.0)


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
    effective = len(scores) / _variance_ratio(scores, len(scores))
    return _score_bounds(float(scores.mean()), effective, quantile(confidence), 0.5 / effective)


def grouped_interval(
    samples: Samples, groups: Sequence[Hashable] | npt.NDArray[np.int64], confidence: float = 0.95
) -> Interval:
    """Return an interval for the mean of samples in [0, 1] of which those of one group may depend.

    As `score_interval`, with the effective size divided by the design effect: the variance of the mean
    from whole groups over that from single samples (Kish 1965, "Survey sampling"), at least 1. Groups may
    differ in size; the mean is over samples, so large groups count more. From about 20 groups on.

    Raises ConfigError as `score_interval` does, and where there is not one group for each sample.
    """
    scores = _checked_samples(samples)
    if len(groups) != len(scores):
        raise ConfigError(f"groups has {len(groups)} entries for {len(scores)} samples; give one for each")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(g, len(numbers)) for g in groups])
    n, count = len(scores), len(numbers)
    gaps = scores - scores.mean()
    alone = float(np.square(gaps).sum())
    together = float(np.square(np.bincount(index, gaps)).sum()) * count / max(count - 1, 1)
    effect = together / alone if alone > 0 else n / count
    size = n / max(effect, 1.0)
    ratio = _variance_ratio(scores, size)
    effective = size / ratio
    return _score_bounds(float(scores.mean()), effective, quantile(confidence), 0.5 / effective)


def ordinal_returns(players: int) -> list[float]:
    """Return what each place is worth, first place first: evenly spaced from 1 to -1.

    Two players: 1, -1; three: 1, 0, -1; four: 1, 1/3, -1/3, -1. Raises ConfigError for fewer than two.
    """
    if players < 2:
        raise ConfigError(f"players is {players}; returns need at least 2")
    return [1.0 - 2.0 * place / (players - 1) for place in range(players)]


def returns_from_points(points: Sequence[Sequence[float]] | npt.NDArray[np.generic]) -> Array:
    """Return the ordinal returns of games, `f8 [G, P]`, from points by seat `[G, P]`; more points are better.

    Seats with equal points share the mean of the places that they take together. Every game's returns add
    up to 0. Raises ConfigError unless points are finite and have two or more columns.
    """
    table = np.asarray(points, dtype=np.float64)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ConfigError(f"points has shape {table.shape}; allowed are finite numbers, [games, players]")
    players = len(ordinal_returns(table.shape[1]))
    beaten = (table[:, :, None] > table[:, None, :]).sum(axis=2)
    losing = (table[:, :, None] < table[:, None, :]).sum(axis=2)
    # Returns are linear in the place, so the mean of shared places is the return of the mean place.
    out: Array = (beaten - losing) / (players - 1)
    return out


def returns_from_ranks(ranks: Sequence[Sequence[float]] | npt.NDArray[np.generic]) -> Array:
    """Return the ordinal returns of games, `f8 [G, P]`, from ranks by seat; 1 is the best, ties are equal."""
    return returns_from_points(-np.asarray(ranks, dtype=np.float64))


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
    return ELO_PER_NAT * (math.log(score) - math.log1p(-score))


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


def _variance_ratio(scores: Array, size: float) -> float:
    """Return variance / (mean (1 - mean)) with pseudo-samples added to `size` samples of these moments."""
    total = size + 2.0 * _PSEUDO_SAMPLES
    mean = (float(scores.mean()) * size + _PSEUDO_SAMPLES) / total
    square = (float(np.square(scores).mean()) * size + _PSEUDO_SAMPLES) / total
    return min(1.0, (square - mean * mean) / (mean * (1.0 - mean)))


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
