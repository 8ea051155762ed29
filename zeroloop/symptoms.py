"""Symptoms: what one measurement of a run says, against its limit; pure statistics, no state and no file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Row = dict[str, Any]

SIGMA = 4.0
"""Standard errors between an estimate and its limit before it counts: every iteration looks again."""
LEAST_GAMES = 100
"""Games below which nothing is said of rates, seats, values and openings."""
LEAST_SLOPE = 0.5
"""Change of the outcome per unit of value below which values claim what they do not know."""
LEAST_SURPRISE = 0.1
"""Nats of mean surprise below which seats are not compared: next to nothing doubles by chance."""


class Reading(NamedTuple):
    """One look at one thing."""

    name: str
    bad: bool
    good: bool
    """Clear of the limit again, by a margin; between `bad` and `good` a warning stays as it is."""
    n: int
    value: float
    limit: float
    text: str
    """One sentence with n and the numbers behind it."""


class Calibrated(NamedTuple):
    """How predicted values compare with what came."""

    n: int
    error: float
    """Expected calibration error: mean over predictions of |mean outcome - mean prediction| of their bin."""
    floor: float
    """What that is on average where the predictions are right and n is as it is."""
    slope: float
    """Of the outcome over the prediction; 1 where they agree, 0 where one says nothing of the other."""
    slope_error: float


def calibration(bins: Array, moments: Array) -> Calibrated | None:
    """Return the calibration of n predictions; None where all of them are the same.

    Args:
      bins: `f8 [B, 4]`: n and sums of prediction, outcome and squared outcome, by bin of the prediction.
      moments: `f8 [6]`: n and sums of v, z, v v, v z, z z.

    Source: Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning"; the floor is
    the mean absolute deviation of a normal mean, sqrt(2 / pi) standard errors, bin by bin.
    """
    n, v, z, vv, vz, zz = (float(x) for x in moments)
    spread = vv - v * v / n if n else 0.0
    if spread <= 1e-9:
        return None
    used = bins[bins[:, 0] > 0]
    count = used[:, 0]
    variance = np.maximum(used[:, 3] / count - (used[:, 2] / count) ** 2, 0)
    error = float(np.abs(used[:, 2] - used[:, 1]).sum() / n)
    floor = float((math.sqrt(2 / math.pi) * np.sqrt(variance / count) * count).sum() / n)
    slope = (vz - v * z / n) / spread
    rest = max(zz - z * z / n - slope * slope * spread, 0.0)
    return Calibrated(int(n), error, floor, slope, math.sqrt(rest / max(n - 2, 1) / spread))


def calibration_reading(found: Calibrated, limit: float) -> Reading:
    """Judge a calibration by its error beyond chance, and by a slope that is surely too flat."""
    excess = found.error - found.floor
    flat = found.slope + SIGMA * found.slope_error < LEAST_SLOPE
    text = (
        f"search values miss the outcomes by {found.error:.2f} on average over {found.n} games; "
        f"chance explains {found.floor:.2f} and {limit:g} more is the limit. An outcome changes by "
        f"{found.slope:.2f} +- {found.slope_error:.2f} per unit of value."
    )
    good = excess < 0.8 * limit and found.slope > LEAST_SLOPE
    return Reading(
        "calibration", excess > limit or flat, good, found.n, found.error, limit + found.floor, text
    )


def seat_surprises(sums: Array, limit: float) -> Iterator[Reading]:
    """Judge how far each seat's policy targets are from the raw policy, next to the other seats'.

    A network that sees one seat's positions wrongly cannot predict that seat's moves, whatever advantage the
    game gives to whom. `sums`: `f8 [P, 2]`, sum and number of the surprises of each seat, in nats.
    """
    total, n = sums.sum(0)
    for seat, (mine, count) in enumerate(sums):
        others = n - count
        if min(count, others) < 2 * LEAST_GAMES:
            continue
        mean, rest = mine / count, (total - mine) / others
        if mean < LEAST_SURPRISE:
            ratio = 1.0
        else:
            ratio = float(mean / max(rest, LEAST_SURPRISE / 10))
        text = (
            f"the search corrects the policy of seat {seat} by {mean:.2f} nats over {int(count)} positions, "
            f"and that of the other seats by {rest:.2f}: {ratio:.1f} times; the limit is {limit:g}."
        )
        name = f"surprise_seat_{seat}"
        yield Reading(name, ratio > limit, ratio < 0.9 * limit, int(count), ratio, limit, text)


def state_keys(states: Array) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each state's bytes, `u8 [n]`; equal states have equal keys."""
    words = np.ascontiguousarray(states).view(np.uint64).reshape(len(states), -1)
    keys = np.zeros(len(states), np.uint64)
    for column in words.T:
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)  # odd: a bijection, so no word is lost
        keys ^= keys >> np.uint64(32)
    return keys


def effective_number(keys: Array) -> float:
    """Return 1 / the chance that two of n draws are equal; at most n(n - 1)/2, where none are.

    Source: Hill 1973, "Diversity and evenness", number of order 2, with the unbiased estimate.
    """
    _, counts = np.unique(keys, return_counts=True)
    n, equal = len(keys), float((counts * (counts - 1.0)).sum()) / 2
    return min(n * (n - 1) / 2 / max(equal, 1.0), float(n))


def seat_reading(where: str, seat: int, mean: float, error: float, n: int, most: float) -> Reading:
    """Judge the mean points of a seat, over the scale, with their standard error."""
    text = (
        f"seat {seat} got {mean:+.2f} +- {error:.2f} points (of the scale) a game over {n} games in {where}; "
        f"the game allows at most {most:+.2f} (health.seat_most)."
    )
    name = f"seat_{seat}" if where == "self-play" else f"match_seat_{seat}"
    return Reading(name, mean - SIGMA * error > most, mean <= most, n, mean, most, text)


def match_seats(row: Row, seat_most: dict[str, float]) -> Iterator[Reading]:
    """Judge the seats of an evaluation's matches, each pair of games played from both seats of one opening.

    A seat's points are what both players got there: a game's advantage, and not the players' strength.
    Scores are 0..1, so that a rate's spread bounds theirs; two players only.
    """
    matches = [m["by_seat"] for m in (row["versus_champion"], *row["fixed"].values())]
    matches = [m for m in matches if len(m) == 2 and all(m[s]["games"] for s in m)]
    games = sum(m[s]["games"] for m in matches for s in m)
    if games < LEAST_GAMES:
        return
    total = variance = 0.0
    for m in matches:
        share = sum(m[s]["games"] for s in m) / games
        total += share * (m["0"]["score"] + 1 - m["1"]["score"]) / 2
        for s in m:
            variance += (share / 2) ** 2 * m[s]["score"] * (1 - m[s]["score"]) / m[s]["games"]
    for name, most in seat_most.items():
        if name in ("0", "1"):
            mean = (2 * total - 1) * (1 if name == "0" else -1)
            yield seat_reading("matches", int(name), mean, 2 * math.sqrt(variance), games, most)


def promotions(rows: Sequence[Row], patience: int) -> Iterator[Reading]:
    """Judge the evaluations since the last promotion.

    None at all is bad after `patience`. After some, equal strength is a plateau and not a fault: then it
    is bad that the candidates are worse than the champion, or better and yet refused.
    """
    last = max((i for i, row in enumerate(rows) if row["promoted"]), default=-1)
    since = rows[last + 1 :]
    if not since:
        yield Reading("promotions", False, True, len(rows), 0.0, patience, "a candidate was promoted.")
        return
    games = sum(row["versus_champion"]["games"] for row in since)
    score = sum(row["versus_champion"]["score"] * row["versus_champion"]["games"] for row in since) / games
    error = math.sqrt(score * (1 - score) / games) + 0.5 / games
    apart = abs(score - 0.5) > SIGMA * error
    bad = len(since) >= patience and (last < 0 or apart)
    text = (
        f"none of the last {len(since)} candidates was promoted{', nor any before' if last < 0 else ''}; "
        f"they scored {score:.1%} against the champion over {games} games. Last: {since[-1]['reason']}"
    )
    yield Reading("promotions", bad, not bad, len(since), float(len(since)), patience, text)
