"""Which positions replay draws, how often, and that nothing but window, seed and step decides it."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from tests.material import CUT_TREE, TICTACTOE, learnable, made_episode, observation, played
from zeroloop.config import ReplayConfig
from zeroloop.errors import ConfigError
from zeroloop.replay import Limiter, Replay, surprise_weights

LARGE = {"window_min": 1_000_000, "window_max": 1_000_000}


def replay_of(episodes, game=TICTACTOE, *, seed=3, root=0.0, **config):
    replay = Replay(game, ReplayConfig(**{**LARGE, **config}), seed=seed, root_value_weight=root)
    replay.add(episodes)
    return replay


def drawn_counts(replay, draws, size=20_000):
    """Return how often each position of the window was drawn, and every batch."""
    counts = np.zeros(len(replay))
    for step in range(draws // size):
        ids = replay.sample(size, step).position_id
        counts += np.bincount(ids - (replay.total - len(replay)), minlength=len(replay))
    return counts


def assert_proportional(counts, weights):
    """Assert that counts follow the weights: 5 sigma each, and 5 sigma of chi-square together."""
    n, share = counts.sum(), weights / weights.sum()
    assert not counts[weights == 0].any()
    live = weights > 0
    z = (counts - n * share)[live] / np.sqrt(n * share * (1 - share))[live]
    assert np.abs(z).max() < 5
    k = live.sum() - 1
    chi = ((counts - n * share)[live] ** 2 / (n * share[live])).sum()
    assert abs(chi - k) < 5 * math.sqrt(2 * k)


@pytest.fixture(scope="module")
def episodes():
    return played(TICTACTOE, 40)


@pytest.fixture(scope="module")
def surprises():
    """Fifteen plies with known surprises, three of them 0, and known root values."""
    rng = np.random.default_rng(5)
    parts = []
    for k, line in enumerate([[0, 3, 1, 4, 8, 5], [0, 1, 2, 4, 3, 5, 7, 6, 8]]):
        surprise = rng.gamma(0.5, 1.0, len(line))
        surprise[k : 2 * k + 1] = 0
        values = rng.uniform(-1, 1, (len(line), 1)) * [[1, -1]]
        parts.append(made_episode(TICTACTOE, line, game_id=k, surprise=surprise, root_value=values))
    return parts


# --- weights ------------------------------------------------------------------------------------


def test_surprise_weights_blend_uniform_with_surprise_of_mean_one():
    surprise = np.array([0.0, 1.0, 2.0, 5.0])
    np.testing.assert_allclose(surprise_weights(surprise, 0.0), np.ones(4))
    np.testing.assert_allclose(surprise_weights(surprise, 1.0), surprise / 2)
    np.testing.assert_allclose(surprise_weights(surprise, 0.3), 0.7 + 0.3 * surprise / 2)
    assert surprise_weights(surprise, 0.3).mean() == pytest.approx(1.0)


def test_no_surprise_at_all_means_uniform_sampling():
    np.testing.assert_array_equal(surprise_weights(np.zeros(5), 0.7), np.ones(5))
    assert len(surprise_weights(np.zeros(0), 0.7)) == 0


@pytest.mark.parametrize("surprise_weight", [0.0, 0.5, 1.0])
def test_drawn_frequencies_match_the_weights(surprises, surprise_weight):
    replay = replay_of(surprises, surprise_weight=surprise_weight)
    surprise = np.concatenate([e.surprise for e in surprises]).astype(float)
    want = 1 - surprise_weight + surprise_weight * surprise / surprise.mean()
    np.testing.assert_allclose(replay.weights(), want, rtol=1e-6)
    assert_proportional(drawn_counts(replay, 200_000), want)


def test_outcome_surprise_is_the_distance_of_root_value_and_outcome_for_the_mover(surprises):
    config = {"surprise": "outcome", "surprise_weight": 0.8, "correction_exponent": 1.0}
    replay = replay_of(surprises, **config)
    distance = np.concatenate(
        [
            [abs(e.root_value[t, e.to_play[t]] - e.final_value[e.to_play[t]]) for t in range(e.plies)]
            for e in surprises
        ]
    )
    want = 0.2 + 0.8 * distance / distance.mean()
    np.testing.assert_allclose(replay.weights(), want, rtol=1e-5)
    assert_proportional(drawn_counts(replay, 200_000), want)


# --- correction ---------------------------------------------------------------------------------


def importance_of(replay, size=20_000):
    """Return the importance that each position is given when it is drawn."""
    found = np.full(len(replay), np.nan)
    batch = replay.sample(size, 0)
    found[batch.position_id - (replay.total - len(replay))] = batch.importance
    return found


def test_full_correction_makes_weighted_means_uniform_exactly(surprises):
    replay = replay_of(surprises, surprise_weight=0.6, correction_exponent=1.0)
    share = replay.weights() / replay.weights().sum()
    importance = importance_of(replay)
    labels = np.random.default_rng(8).normal(size=(4, len(replay)))
    np.testing.assert_allclose((labels * share * importance).sum(1), labels.mean(1), atol=1e-6)
    assert (share * importance).sum() == pytest.approx(1.0, abs=1e-6)


def test_full_correction_makes_weighted_means_uniform_when_sampled(surprises):
    replay = replay_of(surprises, surprise_weight=0.6, correction_exponent=1.0)
    label = np.random.default_rng(9).normal(size=len(replay))
    seen = []
    for step in range(10):
        batch = replay.sample(20_000, step)
        seen.append(batch.importance * label[batch.position_id])
    seen = np.concatenate(seen)
    assert abs(seen.mean() - label.mean()) < 5 * seen.std() / math.sqrt(len(seen))  # 5 sigma


def test_full_correction_of_filtered_sources_gives_the_mean_over_those_left(surprises):
    parts = [surprises[0], made_episode(TICTACTOE, [0, 3, 1, 4, 2], game_id=5, source="other")]
    replay = replay_of(parts, surprise_weight=0.6, correction_exponent=1.0, sources={"other": 0.0})
    share = replay.weights() / replay.weights().sum()
    live = share > 0
    label = np.random.default_rng(10).normal(size=len(replay))
    found = (label * share * importance_of(replay))[live].sum()
    assert found == pytest.approx(label[live].mean(), abs=1e-6)


def test_full_correction_leaves_the_mix_of_sources_alone(surprises):
    """A source of factor 1/4 counts a quarter in every weighted mean, whatever was surprising."""
    parts = [surprises[0], made_episode(TICTACTOE, [0, 3, 1, 4, 2], game_id=5, source="other")]
    replay = replay_of(parts, surprise_weight=0.6, correction_exponent=1.0, sources={"other": 0.25})
    share = replay.weights() / replay.weights().sum()
    factor = np.ones(len(replay))
    factor[-5:] = 0.25  # the second episode
    label = np.random.default_rng(11).normal(size=len(replay))
    found = (label * share * importance_of(replay)).sum()
    assert found == pytest.approx((label * factor).sum() / factor.sum(), abs=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_partial_correction_is_a_power_of_the_full_one(surprises, exponent):
    full = importance_of(replay_of(surprises, surprise_weight=0.6, correction_exponent=1.0))
    part = importance_of(replay_of(surprises, surprise_weight=0.6, correction_exponent=exponent))
    np.testing.assert_allclose(part, full**exponent, rtol=1e-5)


def test_uniform_sampling_needs_no_correction(episodes):
    replay = replay_of(episodes, correction_exponent=1.0)
    np.testing.assert_array_equal(replay.sample(512, 0).importance, np.ones(512, np.float32))


# --- sources ------------------------------------------------------------------------------------


def with_sources():
    lines = [[0, 3, 1, 4, 2], [0, 1, 3, 4, 6], [4, 0, 3, 1, 5]]
    names = ["selfplay", "selfplay:random", "old"]
    return [
        made_episode(TICTACTOE, line, game_id=i, source=name)
        for i, (line, name) in enumerate(zip(lines, names, strict=True))
    ]


def test_sources_are_mixed_by_weight_and_weight_zero_is_never_drawn():
    replay = replay_of(with_sources(), sources={"selfplay:random": 0.25, "old": 0.0})
    want = np.repeat([1.0, 0.25, 0.0], 5)
    np.testing.assert_allclose(replay.weights(), want)
    assert_proportional(drawn_counts(replay, 200_000), want)


def test_source_of_weight_zero_is_not_drawn_even_by_surprise():
    parts = with_sources()
    parts[2] = made_episode(TICTACTOE, [4, 0, 3, 1, 5], source="old", surprise=[9.0] * 5)
    parts[0] = made_episode(TICTACTOE, [0, 3, 1, 4, 2], surprise=[0.5, 0, 1, 0, 2])
    replay = replay_of(parts, sources={"old": 0.0}, surprise_weight=0.7)
    counts = drawn_counts(replay, 40_000)
    assert not counts[10:].any() and counts[:10].all()


def test_all_sources_of_weight_zero_are_refused_by_name():
    replay = replay_of(with_sources()[2:], sources={"old": 0.0})
    with pytest.raises(ConfigError, match=r"replay\.sources .* weight 0 \(old\)"):
        replay.sample(4, 0)


def test_empty_replay_is_refused():
    with pytest.raises(ConfigError, match="empty"):
        replay_of([]).sample(4, 0)


# --- window -------------------------------------------------------------------------------------


def test_window_grows_with_the_run_and_drops_the_oldest(episodes):
    config = {"window_min": 40, "window_max": 130, "window_fraction": 0.5}
    replay = replay_of([], **config)
    total = games = 0
    lengths = []
    for _ in range(3):
        for episode in episodes:
            added = replay.add([episode])
            total, games = total + len(learnable(episode)), games + 1
            assert added == len(learnable(episode))
            assert (replay.total, replay.games) == (total, games)
            want = min(total, max(40, min(130, int(0.5 * total))))
            assert len(replay) == want
            lengths.append(want)
            assert replay.sample(1000, 0).position_id.min() >= total - want
    assert lengths == sorted(lengths) and lengths[-1] == 130
    seen = set()
    for step in range(5):
        seen |= set(replay.sample(1000, step).position_id.tolist())
    assert seen == set(range(total - 130, total))


def test_window_does_not_depend_on_how_games_are_added(episodes):
    """More positions than the buffers hold at first, so that they slide and grow."""
    games = [*episodes] * 12
    for config in (LARGE, {"window_min": 100, "window_max": 900, "window_fraction": 0.3}):
        together = replay_of(games, **config)
        one_by_one = replay_of([], **config)
        for episode in games:
            one_by_one.add([episode])
        in_parts = replay_of(games[:7], **config)
        in_parts.add(games[7:300])
        in_parts.add([])
        in_parts.add(games[300:])
        assert together.total > 2500
        for other in (one_by_one, in_parts):
            assert (len(other), other.total, other.games) == (len(together), together.total, len(games))
            np.testing.assert_array_equal(other.weights(), together.weights())
            assert_same_batch(other.sample(700, 4), together.sample(700, 4))


def test_sliding_keeps_every_position_whole(episodes):
    """After much sliding a position's observation and policy are still those of its ply."""
    games = [*episodes] * 6
    plies = [(e, t) for e in games for t in learnable(e)]
    config = {"window_min": 50, "window_max": 300, "symmetries": False}
    replay = replay_of([], **config)
    for i, episode in enumerate(games):
        replay.add([episode])
        if i % 40 != 39:
            continue
        batch = replay.sample(200, i)
        for row, number in enumerate(batch.position_id):
            episode, t = plies[number]
            planes, _ = observation(TICTACTOE, episode.states[t])
            np.testing.assert_array_equal(batch.planes[row], planes)
            low, high = episode.offsets[t], episode.offsets[t + 1]
            want = dict(zip(episode.policy_ids[low:high], episode.policy_probs[low:high], strict=True))
            for k, action in enumerate(batch.legal[row][batch.legal_mask[row]]):
                assert batch.targets["policy"][row, k] == pytest.approx(want.get(action, 0), abs=2e-3)


# --- purity -------------------------------------------------------------------------------------


def assert_same_batch(a, b):
    for name in ("planes", "global_facts", "legal", "legal_mask", "importance", "position_id"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for mine, other in ((a.targets, b.targets), (a.weights, b.weights)):
        assert mine.keys() == other.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name], err_msg=name)


def test_batch_is_a_function_of_window_seed_and_step(episodes):
    a, b = replay_of(episodes), replay_of(episodes)
    wanted = {step: a.sample(64, step) for step in range(5)}
    for step in (3, 0, 4, 4, 1, 2):
        assert_same_batch(b.sample(64, step), wanted[step])
    assert (wanted[0].position_id != wanted[1].position_id).any()
    other = replay_of(episodes, seed=4).sample(64, 0)
    assert (other.position_id != wanted[0].position_id).any()


def test_arrays_of_a_batch_are_not_overwritten_by_the_next(episodes):
    replay = replay_of(episodes)
    batch = replay.sample(64, 0)
    kept = [batch.planes.copy(), batch.targets["policy"].copy(), batch.targets["value"].copy()]
    replay.sample(64, 1)
    for now, then in zip([batch.planes, batch.targets["policy"], batch.targets["value"]], kept, strict=True):
        np.testing.assert_array_equal(now, then)


# --- what may be sampled ------------------------------------------------------------------------


def test_chance_forced_and_other_players_plies_are_never_sampled():
    """Position numbers count only the plies that something can be learnt from."""
    episodes = played(CUT_TREE, 60)
    left_out = [(e, t) for e in episodes for t in range(e.plies) if t not in set(learnable(e))]
    assert any(e.to_play[t] == -1 for e, t in left_out), "there is no chance ply to leave out"
    assert any(e.to_play[t] >= 0 for e, t in left_out), "there is no forced ply to leave out"
    opponent = made_episode(
        CUT_TREE,
        list(episodes[0].action),
        game_id=999,
        source="selfplay:random",
        final_value=[0.0, 0.0, 0.0],
        policy_weight=[1, *[0] * (episodes[0].plies - 1)],
        value_weight=[1, *[0] * (episodes[0].plies - 1)],
    )
    replay = replay_of([*episodes, opponent], CUT_TREE)
    plies = [(e, t) for e in [*episodes, opponent] for t in learnable(e)]
    assert len(replay) == len(plies) == replay.total
    batch = replay.sample(3000, 0)
    assert set(batch.position_id.tolist()) == set(range(len(plies)))
    for row, place in enumerate(batch.position_id):
        episode, t = plies[place]
        assert episode.to_play[t] >= 0 and batch.legal_mask[row].sum() > 1
        np.testing.assert_array_equal(batch.global_facts[row], observation(CUT_TREE, episode.states[t])[1])


def test_game_with_nothing_to_learn_counts_as_a_game_and_adds_no_position(episodes):
    replay = replay_of(episodes[:1])
    before = len(replay)
    empty = made_episode(TICTACTOE, [0, 3, 1, 4, 2], policy_weight=[0] * 5, value_weight=[0] * 5)
    assert replay.add([empty]) == 0
    assert (len(replay), replay.games) == (before, 2)
    replay.add(episodes[1:3])
    assert Counter(replay.sample(100, 0).weights["value"].tolist()) == {1.0: 100}


# --- limiter ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reuse", "batch_size"), [(3.0, 64), (0.37, 512), (1.0, 1), (7.9, 33)])
def test_limiter_never_exceeds_reuse_and_owes_what_was_not_done(reuse, batch_size):
    rng = np.random.default_rng(2)
    limiter = Limiter(reuse, batch_size)
    positions = steps = 0
    for _ in range(2000):
        positions += int(rng.integers(0, 200))
        owed = limiter.owed(positions, steps)
        assert isinstance(owed, int) and owed >= 0
        assert (steps + owed) * batch_size <= reuse * positions
        assert owed == 0 or (steps + owed + 1) * batch_size > reuse * positions * (1 - 1e-12)
        steps += int(rng.integers(0, owed + 1))
    assert limiter.owed(positions, steps) + steps == int(reuse * positions / batch_size)


def test_limiter_owes_nothing_after_more_steps_than_were_earned():
    assert Limiter(1.0, 10).owed(100, 11) == 0
    assert Limiter(0.0, 10).owed(10**9, 0) == 0
