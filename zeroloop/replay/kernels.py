"""HOT: drawing positions and assembling a batch from states and sparse targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import draws
from ..compiled import helper, kernel
from ..games.game import apply_action, legal_actions, observe, symmetry, symmetry_action

f32 = np.float32


def position_dtype(outcomes: int) -> np.dtype[Any]:
    """Return the dtype of a position in the window.

    Its state is frame `frame` after the `plies` actions from `first` on. `value` is its target over R
    outcomes; `followed` is 1 where the next row is the game's next ply.
    """
    return np.dtype(
        [
            ("number", "i8"),
            ("start", "i8"),
            ("frame", "i8"),
            ("first", "i8"),
            ("plies", "i4"),
            ("count", "i4"),
            ("policy_weight", "f4"),
            ("value_weight", "f4"),
            ("surprise", "f4"),
            ("source", "i2"),
            ("followed", "i2"),
            ("value", "f4", (outcomes,)),
        ]
    )


@kernel
def draw(seed, step, cumulative, symmetries, picks, turns):
    """Draw positions in proportion to their weights, and a symmetry for each."""
    n = cumulative.shape[0]
    total = cumulative[n - 1]
    for i in range(picks.shape[0]):
        u = draws.uniform(seed, draws.SAMPLE, step, 0, i) * total
        low, high = 0, n - 1
        while low < high:
            middle = (low + high) // 2
            if cumulative[middle] > u:
                high = middle
            else:
                low = middle + 1
        picks[i] = low
        turns[i] = draws.integer(seed, draws.SYMMETRY, step, 0, i, symmetries)


@kernel
def assemble(
    game,
    frames,
    actions,
    positions,
    ids,
    probs,
    halves,
    index,
    turns,
    scratch,
    legal_scratch,
    dense,
    planes,
    facts,
    legal,
    count,
    policy,
    reply,
    end,
):
    """Observe each drawn state under its symmetry and lay its targets over the image's legal ids.

    Args:
      probs: `u2`, the bits of float16; halves: `f4 [65536]`, what they are worth.
      index: `i8 [n]`, rows of `positions`. dense: `f4 [A]` scratch, all zero before and after.
      policy: `f4 [n, L]` out. reply: `f4 [n or 0, A]` out: the next ply's policy in the same image.
    """
    for i in range(index.shape[0]):
        k, turn = index[i], turns[i]
        row = positions[k]
        scratch[0] = frames[row.frame]
        for ply in range(row.plies):
            apply_action(game, scratch[0], actions[row.first + ply])
        symmetry(game, scratch[0], turn)
        observe(game, scratch[0], planes[i], facts[i])
        n = legal_actions(game, scratch[0], legal_scratch)
        count[i] = n
        for j in range(legal.shape[1]):
            legal[i, j] = legal_scratch[j] if j < n else legal_scratch[0]
        start, entries = positions[k].start, positions[k].count
        total = f32(0)
        for e in range(start, start + entries):
            dense[symmetry_action(game, ids[e], turn)] = halves[probs[e]]
            total += halves[probs[e]]
        if total > f32(0):
            for j in range(n):
                policy[i, j] = dense[legal[i, j]] / total
        for e in range(start, start + entries):
            dense[symmetry_action(game, ids[e], turn)] = f32(0)
        if reply.shape[0] > 0 and positions[k].followed and k + 1 < end:
            start, entries, total = positions[k + 1].start, positions[k + 1].count, f32(0)
            for e in range(start, start + entries):
                total += halves[probs[e]]
            for e in range(start, start + entries):
                reply[i, symmetry_action(game, ids[e], turn)] = halves[probs[e]] / total


@helper
def add_distribution(points, values, mover, share, theta, prob, target):
    """Add `share` times the distribution of greatest entropy over outcomes whose mean is the value vector.

    It is an exponential tilt, `p_r ~ exp(theta . points_r)`; theta is found by Newton steps on the
    diagonal of the covariance, each at most 1. Values are drawn in by 0.05 % so that theta stays finite.

    Args:
      values: `f4 [P]`, absolute seats. theta: `f8 [P]` and prob: `f8 [R]`, scratch.
    """
    outcomes, seats = points.shape
    for s in range(seats):
        theta[s] = 0.0
    for _ in range(80):
        highest, total = -1e30, 0.0
        for r in range(outcomes):
            x = 0.0
            for s in range(seats):
                x += theta[s] * points[r, s]
            prob[r] = x
            highest = max(highest, x)
        for r in range(outcomes):
            prob[r] = math.exp(prob[r] - highest)
            total += prob[r]
        worst = 0.0
        for r in range(outcomes):
            prob[r] /= total
        for s in range(seats):
            mean, square, middle = 0.0, 0.0, 0.0
            for r in range(outcomes):
                mean += prob[r] * points[r, s]
                square += prob[r] * points[r, s] * points[r, s]
                middle += points[r, s] / outcomes
            wanted = 0.9995 * values[(mover + s) % seats] + 0.0005 * middle
            step = (wanted - mean) / (seats * max(square - mean * mean, 1e-6))
            theta[s] += max(-1.0, min(1.0, step))
            worst = max(worst, abs(wanted - mean))
        if worst < 1e-5:
            break
    for r in range(outcomes):
        target[r] += f32(share * prob[r])


@kernel
def value_targets(points, movers, outcome_row, values, ends, root_share, theta, prob, rows):
    """Fill `rows.value`: the game's outcome and the search's root value as one distribution over outcomes.

    Args:
      points: `f4 [R, P]`, seen from the mover. movers: `i4 [n]`. outcome_row: `i4 [n]`, row of
      `points`, -1 where truncated. values, ends: `f4 [n, P]`, absolute seats.
    """
    for i in range(movers.shape[0]):
        target = rows[i].value
        for r in range(points.shape[0]):
            target[r] = f32(0)
        if root_share > 0.0:
            add_distribution(points, values[i], movers[i], root_share, theta, prob, target)
        if root_share >= 1.0:
            continue
        if outcome_row[i] >= 0:
            target[outcome_row[i]] += f32(1.0 - root_share)
        else:
            add_distribution(points, ends[i], movers[i], 1.0 - root_share, theta, prob, target)
