"""Counter-based random draws: a draw is a pure function of (seed, purpose, game, ply, index).

There is no generator state to keep, so draws do not depend on threads, on batch order or on
where a run was interrupted. The bit source is Philox4x64-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), the same stream as `numpy.random.Philox`.
"""

from __future__ import annotations

import math

import numpy as np

from .compiled import helper

# Purposes: one word of the Philox key each, so that no two uses share a stream.
OPENING = 1
BUDGET = 2
ROOT_NOISE = 3
SEARCH_CHANCE = 4
ACTION = 5
CHANCE = 6
SEATING = 7
SAMPLE = 8
SYMMETRY = 9
ROLLOUT = 10
CHECK = 11
PLAYER = 12
INITIAL = 13

_M0 = np.uint64(0xD2E7470EE14C6C93)
_M1 = np.uint64(0xCA5A826395121157)
_W0 = np.uint64(0x9E3779B97F4A7C15)
_W1 = np.uint64(0xBB67AE8584CAA73B)
_LOW = np.uint64(0xFFFFFFFF)
_S32 = np.uint64(32)
_S12 = np.uint64(12)
_UNIT = 1.0 / 4503599627370496.0  # 2^-52


@helper
def _high_product(a, b):
    """Return the upper 64 bits of the 128-bit product of two uint64."""
    a0, a1 = a & _LOW, a >> _S32
    b0, b1 = b & _LOW, b >> _S32
    middle = a1 * b0 + ((a0 * b0) >> _S32)
    carry = a0 * b1 + (middle & _LOW)
    return a1 * b1 + (middle >> _S32) + (carry >> _S32)


@helper
def bits(seed, purpose, game, ply, index):
    """Return 64 random bits: word `index % 4` of the block with counter `(index // 4, ply, game, 0)`."""
    k0 = np.uint64(seed)
    k1 = np.uint64(purpose)
    x0 = np.uint64(index) >> np.uint64(2)
    x1 = np.uint64(ply)
    x2 = np.uint64(game)
    x3 = np.uint64(0)
    for _ in range(10):
        h0, l0 = _high_product(_M0, x0), _M0 * x0
        h1, l1 = _high_product(_M1, x2), _M1 * x2
        x0, x1, x2, x3 = h1 ^ x1 ^ k0, l1, h0 ^ x3 ^ k1, l0
        k0 = k0 + _W0
        k1 = k1 + _W1
    word = np.uint64(index) & np.uint64(3)
    if word == np.uint64(0):
        return x0
    if word == np.uint64(1):
        return x1
    if word == np.uint64(2):
        return x2
    return x3


@helper
def uniform(seed, purpose, game, ply, index):
    """Return a float64 in (0, 1): (52 high bits + 0.5) x 2^-52, exact, so neither end is reached."""
    return (float(bits(seed, purpose, game, ply, index) >> _S12) + 0.5) * _UNIT


@helper
def integer(seed, purpose, game, ply, index, n):
    """Return an int in [0, n): floor of n times a uniform draw."""
    return min(int(uniform(seed, purpose, game, ply, index) * n), n - 1)


@helper
def pick(weights, count, u):
    """Return the first of `count` weights (sum 1) whose running sum in f64 exceeds u, else the last."""
    running = 0.0
    for i in range(count - 1):
        running += np.float64(weights[i])
        if running > u:
            return i
    return count - 1


@helper
def gumbel(seed, purpose, game, ply, index):
    """Return a standard Gumbel draw, -log(-log(u))."""
    return -math.log(-math.log(uniform(seed, purpose, game, ply, index)))


@helper
def gamma(seed, purpose, game, ply, index, alpha):
    """Return a Gamma(alpha, 1) draw; reads the indices from `1024 * index` on.

    Source: Marsaglia and Tsang 2000, "A simple method for generating gamma variables", with
    their boost u^(1/alpha) for alpha < 1. Each attempt takes three uniforms: two for the normal
    (Box and Muller, cosine branch), one for the acceptance test; the boost takes the first.
    """
    i = 1024 * index
    boost = 1.0
    shape = alpha
    if alpha < 1.0:
        boost = uniform(seed, purpose, game, ply, i) ** (1.0 / alpha)
        shape = alpha + 1.0
    i += 1
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        radius = math.sqrt(-2.0 * math.log(uniform(seed, purpose, game, ply, i)))
        x = radius * math.cos(2.0 * math.pi * uniform(seed, purpose, game, ply, i + 1))
        u = uniform(seed, purpose, game, ply, i + 2)
        i += 3
        v = (1.0 + c * x) ** 3
        if v > 0.0 and math.log(u) < 0.5 * x * x + d - d * v + d * math.log(v):
            return boost * d * v
