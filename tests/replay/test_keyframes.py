"""A game that keeps few states and replays its actions gives the same batches as one that keeps all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.material import played
from zeroloop.config import ReplayConfig
from zeroloop.episode import Episode
from zeroloop.games import connect4
from zeroloop.games.game import Game
from zeroloop.replay import Replay


def connect4_with(every):
    facts = ("name", "version", "num_players", "num_actions", "max_legal", "max_plies", "outcomes")
    base = connect4.GAME
    return Game(
        **{fact: getattr(base, fact) for fact in facts},
        state_dtype=connect4.STATE,
        observation=base.observation,
        num_symmetries=base.num_symmetries,
        rules=base.rules,
        keyframe_every=every,
    )


ALL, FEW = connect4_with(1), connect4_with(5)


def thinned(episode, every, weights):
    """The same game with other weights, and with every so many states."""
    return dataclasses.replace(episode, states=episode.states[::every].copy(), policy_weight=weights)


@pytest.fixture(scope="module")
def episodes():
    return played(ALL, 40)


def replays(episodes, **limits):
    config = ReplayConfig(**{"window_min": 100, "window_max": 100_000, **limits})
    both = Replay(ALL, config, seed=3, reply=True), Replay(FEW, config, seed=3, reply=True)
    rng = np.random.default_rng(0)
    for episode in episodes:
        weights = (rng.random(episode.plies) < 0.7).astype(np.float32)
        plain = dataclasses.replace(episode, value_weight=weights)
        both[0].add([thinned(plain, 1, weights)])
        data = thinned(plain, 5, weights).to_bytes()
        both[1].add([Episode.from_bytes(data, FEW)])
    return both


@pytest.mark.parametrize("limits", [{}, {"window_max": 150}])
def test_batches_are_the_same_with_and_without_keyframes(episodes, limits):
    full, few = replays(episodes, **limits)
    assert len(full) == len(few) >= 100
    for step in range(20):
        a, b = full.sample(64, step), few.sample(64, step)
        for one, two in zip(a, b, strict=True):
            for key in one if isinstance(one, dict) else [None]:
                np.testing.assert_array_equal(
                    one if key is None else one[key], two if key is None else two[key]
                )


def test_keyframes_keep_one_state_in_five(episodes):
    full, few = replays(episodes, window_min=100_000)
    saved = full.bytes_per_position - few.bytes_per_position
    size = ALL.state_dtype.itemsize
    plies = sum(e.plies for e in episodes) / len(full)
    assert saved == pytest.approx(size - plies * (size / 5 + 4), rel=0.2)


def test_a_large_state_is_kept_every_so_many_plies():
    assert connect4_with(0).keyframe_every == 1
    base = connect4.GAME
    fields = [(name, base.state_dtype.fields[name][0]) for name in ("stones", "plies", "over")]
    facts = ("name", "version", "num_players", "num_actions", "max_legal", "max_plies", "outcomes")
    large = Game(
        **{fact: getattr(base, fact) for fact in facts},
        state_dtype=[*[(n, *(d.subdtype or (d,))) for n, d in fields], ("keys", "u8", (100,))],
        observation=base.observation,
        rules={k: v for k, v in base.rules.items() if k not in ("symmetry", "symmetry_action")},
    )
    assert large.state_dtype.itemsize == 824 and large.keyframe_every == 26
