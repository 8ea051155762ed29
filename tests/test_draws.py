"""Random draws against NumPy's Philox and the distributions that they claim; 200,000 draws each."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
import torch

from zeroloop import draws

N = 200_000
PURPOSES = {name: value for name, value in vars(draws).items() if name.isupper() and isinstance(value, int)}


@numba.njit(nogil=True, error_model="numpy")
def fill(kind, seed, purpose, game, ply, index, alpha, words, out):
    """Write the draws of these indices; not cached, because the cache would not see `draws` change."""
    for i in range(index.shape[0]):
        k = index[i]
        if kind == 0:
            words[i] = draws.bits(seed, purpose, game, ply, k)
        elif kind == 1:
            out[i] = draws.uniform(seed, purpose, game, ply, k)
        elif kind == 2:
            out[i] = draws.gumbel(seed, purpose, game, ply, k)
        elif kind == 3:
            out[i] = draws.gamma(seed, purpose, game, ply, k, alpha)
        else:
            out[i] = draws.integer(seed, purpose, game, ply, k, int(alpha))


def drawn(kind, n=N, *, seed=1, purpose=draws.CHECK, game=0, ply=0, alpha=1.0, index=None):
    index = np.arange(n) if index is None else np.asarray(index)
    words, out = np.zeros(len(index), np.uint64), np.zeros(len(index))
    number = ("bits", "uniform", "gumbel", "gamma", "integer").index(kind)
    keys = (np.uint64(seed), purpose, np.uint64(game), ply)
    fill(number, *keys, index, float(alpha), words, out)
    return words if kind == "bits" else out


def philox(seed, purpose, game, ply, blocks):
    """Return the words of the first blocks as NumPy makes them: it counts up before each block."""
    counter = (ply << 64) + (game << 128) - 1
    key = seed + (purpose << 64)
    return np.random.Philox(counter=counter % (1 << 256), key=key).random_raw(4 * blocks)


def ks(sample, cdf):
    """Return sqrt(n) times the Kolmogorov-Smirnov distance; above 2.23 with a chance of 1e-4."""
    grid = cdf(np.sort(sample))
    n = len(sample)
    steps = np.arange(n)
    return math.sqrt(n) * max((grid - steps / n).max(), ((steps + 1) / n - grid).max())


@pytest.mark.parametrize(
    ("seed", "purpose", "game", "ply"),
    [(0, 1, 0, 0), (1, 2, 0, 3), (2**63 - 1, 13, 2**40 + 17, 1 << 20), (123456789, 8, 2**63, 511)],
)
def test_bits_are_numpys_philox_words(seed, purpose, game, ply):
    found = drawn("bits", 40, seed=seed, purpose=purpose, game=game, ply=ply)
    np.testing.assert_array_equal(found, philox(seed, purpose, game, ply, 10))


def test_uniform_is_the_52_high_bits_and_a_half():
    words = philox(5, draws.ACTION, 9, 4, N // 4)
    want = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    np.testing.assert_array_equal(drawn("uniform", seed=5, purpose=draws.ACTION, game=9, ply=4), want)


def test_uniform_lies_strictly_inside_its_ends():
    lowest, highest = (0 + 0.5) * 2.0**-52, (float(2**52 - 1) + 0.5) * 2.0**-52
    assert 0.0 < lowest < highest < 1.0
    assert math.isfinite(math.log(-math.log(highest))) and math.isfinite(math.log(-math.log(lowest)))
    found = drawn("uniform")
    assert found.min() > 0.0 and found.max() < 1.0


def test_uniform_is_uniform():
    found = drawn("uniform")
    assert abs(found.mean() - 0.5) < 5 * math.sqrt(1 / 12 / N)  # 5 sigma
    assert ks(found, lambda x: x) < 2.23  # a chance of 1e-4


def test_integer_is_uniform_below_its_bound():
    found = drawn("integer", alpha=7).astype(int)
    counts = np.bincount(found, minlength=7)
    assert len(counts) == 7
    sigma = math.sqrt(N / 7 * 6 / 7)
    assert np.abs(counts - N / 7).max() < 5 * sigma  # 5 sigma
    assert set(drawn("integer", 1000, alpha=1)) == {0.0}


def test_gumbel_has_its_moments_and_its_distribution():
    found = drawn("gumbel")
    variance = math.pi**2 / 6
    assert abs(found.mean() - np.euler_gamma) < 5 * math.sqrt(variance / N)  # 5 sigma
    fourth = variance**2 * (3 + 12 / 5)
    sigma = math.sqrt((fourth - variance**2) / N)
    assert abs(found.var() - variance) < 5 * sigma  # 5 sigma
    assert ks(found, lambda x: np.exp(-np.exp(-x))) < 2.23  # a chance of 1e-4


@pytest.mark.parametrize("alpha", [0.03, 0.3, 1.0, 1.43, 12.0])
def test_gamma_has_its_moments_and_its_distribution(alpha):
    found = drawn("gamma", alpha=alpha)
    assert found.min() >= 0.0
    assert abs(found.mean() - alpha) < 5 * math.sqrt(alpha / N)  # 5 sigma
    sigma = math.sqrt((2 * alpha**2 + 6 * alpha) / N)
    assert abs(found.var() - alpha) < 5 * sigma  # 5 sigma

    def cdf(x):
        shape = torch.full((len(x),), alpha, dtype=torch.float64)
        return torch.special.gammainc(shape, torch.from_numpy(x)).numpy()

    assert ks(found, cdf) < 2.23  # a chance of 1e-4


@pytest.mark.parametrize("kind", ["bits", "uniform", "gumbel", "gamma"])
def test_draws_do_not_depend_on_their_order(kind):
    order = np.random.default_rng(0).permutation(500)
    together = drawn(kind, 500, alpha=0.4)
    np.testing.assert_array_equal(drawn(kind, index=order, alpha=0.4), together[order])
    alone = [drawn(kind, index=[k], alpha=0.4)[0] for k in range(0, 500, 50)]
    np.testing.assert_array_equal(alone, together[::50])


def test_every_purpose_has_a_stream_of_its_own():
    assert len(set(PURPOSES.values())) == len(PURPOSES) >= 13
    streams = [drawn("bits", 1000, purpose=p) for p in PURPOSES.values()]
    assert len(np.unique(np.concatenate(streams))) == 1000 * len(PURPOSES)


@pytest.mark.parametrize("change", [{"seed": 2}, {"purpose": draws.ACTION}, {"game": 1}, {"ply": 1}])
def test_changing_any_key_gives_an_independent_stream(change):
    a, b = drawn("uniform"), drawn("uniform", **change)
    assert not (a == b).any()
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(N)  # 5 sigma


def test_neighbouring_gamma_indices_share_no_uniform():
    a = drawn("gamma", alpha=0.3)
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 5 / math.sqrt(N)  # 5 sigma
