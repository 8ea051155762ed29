"""What a sampled position is to be learnt as: image under a symmetry, policy, value, reply."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.material import (
    CUT_TREE,
    GAMMON,
    ORDERS,
    TICTACTOE,
    learnable,
    made_episode,
    observation,
    played,
)
from zeroloop.config import ReplayConfig
from zeroloop.replay import Replay

GAMES = {game.name: game for game in (TICTACTOE, CUT_TREE, ORDERS, GAMMON)}


def batch_of(game, episodes, n=2000, *, root=0.0, reply=False, symmetries=True, step=0):
    config = ReplayConfig(window_min=10**6, window_max=10**6, symmetries=symmetries)
    replay = Replay(game, config, seed=11, root_value_weight=root, reply=reply)
    replay.add(episodes)
    batch = replay.sample(n, step)
    plies = [(e, t) for e in episodes for t in learnable(e)]
    return batch, [plies[number] for number in batch.position_id]


def image(game, state, k):
    """Return the state's k-th image by the game's own rule, in plain Python."""
    out = game.copy(state)
    if game.num_symmetries > 1:
        game.rules["symmetry"](out, k)
    return out


def image_action(game, action, k):
    return int(game.rules["symmetry_action"](action, k)) if game.num_symmetries > 1 else int(action)


def policy_of(episode, t):
    """Return {action: share} of a ply, normalised."""
    low, high = episode.offsets[t], episode.offsets[t + 1]
    probs = episode.policy_probs[low:high].astype(np.float64)
    ids = episode.policy_ids[low:high]
    return {int(a): p / probs.sum() for a, p in zip(ids, probs, strict=True)}


def relative(vector, mover):
    """Return a vector by absolute seats as seen from the mover."""
    return np.roll(vector, -int(mover))


def expected_points(game, batch):
    """Return the mean points over the scale of each value target, mover first."""
    return batch.targets["value"] @ (game.relative_outcomes / np.float32(game.scale))


# --- images -------------------------------------------------------------------------------------


def matching_images(game, batch, row, episode, t):
    """Return the symmetries under which observation, legal ids and policy are all the image's."""
    found = []
    legal = batch.legal[row][batch.legal_mask[row]].tolist()
    got = dict(zip(legal, batch.targets["policy"][row], strict=False))
    for k in range(game.num_symmetries):
        state = image(game, episode.states[t], k)
        planes, facts = observation(game, state)
        same = np.array_equal(batch.planes[row], planes) and np.array_equal(batch.global_facts[row], facts)
        if not same or legal != game.legal(state):
            continue
        want = {image_action(game, a, k): p for a, p in policy_of(episode, t).items()}
        if all(abs(got[a] - want.get(a, 0.0)) < 1e-6 for a in legal):
            found.append(k)
    return found


@pytest.mark.parametrize("name", ["tictactoe", "cut_tree"])
def test_sampled_row_is_one_image_of_its_ply_throughout(name):
    game = GAMES[name]
    batch, plies = batch_of(game, played(game, 20), 500)
    for row, (episode, t) in enumerate(plies):
        assert matching_images(game, batch, row, episode, t), f"row {row} is no image of its ply"


def lopsided():
    """One game whose ply 3 has no symmetry of its own and a policy with one action."""
    keep = [0, 0, 0, 1, 0, 0]
    return made_episode(
        TICTACTOE,
        [0, 1, 5, 3, 4, 8],
        policy={3: {3: 1.0}},
        policy_weight=keep,
        value_weight=keep,
        final_value=[0.0, 0.0],
    )


def test_every_symmetry_is_drawn_equally_often():
    episode = lopsided()
    batch, _ = batch_of(TICTACTOE, [episode], 16_000)
    counts = np.zeros(8)
    for k in range(8):
        state = image(TICTACTOE, episode.states[3], k)
        same = (batch.planes == observation(TICTACTOE, state)[0]).all((1, 2, 3))
        column = TICTACTOE.legal(state).index(image_action(TICTACTOE, 3, k))
        assert (batch.targets["policy"][same, column] == 1.0).all()
        counts[k] = same.sum()
    assert counts.sum() == 16_000, "a row is no image, or two images are alike"
    sigma = math.sqrt(16_000 / 8 * 7 / 8)
    assert np.abs(counts - 2000).max() < 5 * sigma  # 5 sigma


def test_without_symmetries_the_stored_state_itself_is_observed():
    batch, plies = batch_of(TICTACTOE, played(TICTACTOE, 20), 500, symmetries=False)
    for row, (episode, t) in enumerate(plies):
        state = episode.states[t]
        np.testing.assert_array_equal(batch.planes[row], observation(TICTACTOE, state)[0])
        assert batch.legal[row][batch.legal_mask[row]].tolist() == TICTACTOE.legal(state)


def test_symmetry_leaves_values_alone():
    episodes = played(TICTACTOE, 20)
    plain, _ = batch_of(TICTACTOE, episodes, root=0.5, symmetries=False)
    turned, _ = batch_of(TICTACTOE, episodes, root=0.5)
    np.testing.assert_array_equal(plain.position_id, turned.position_id)
    np.testing.assert_array_equal(plain.targets["value"], turned.targets["value"])
    assert (plain.planes != turned.planes).any()


@pytest.mark.parametrize("name", ["tictactoe", "cut_tree"])
def test_policy_targets_sum_to_one_and_illegal_ids_carry_nothing(name):
    game = GAMES[name]
    batch, plies = batch_of(game, played(game, 30, selfplay={"full_search_fraction": half()}))
    policy = batch.targets["policy"]
    assert policy.shape == (2000, game.max_legal) and policy.min() >= 0
    assert not policy[~batch.legal_mask].any()
    searched = np.array([len(policy_of(e, t)) > 0 for e, t in plies])
    assert searched.any() and not searched.all(), "both full and cheap searches are needed here"
    np.testing.assert_allclose(policy[searched].sum(1), 1.0, atol=1e-6)
    assert not policy[~searched].any()
    np.testing.assert_array_equal(batch.weights["policy"], searched.astype(np.float32))
    np.testing.assert_array_equal(batch.weights["value"], np.ones(2000, np.float32))


def half():
    from zeroloop.schedule import Schedule

    return Schedule.constant(0.5)


def test_legal_ids_are_padded_with_the_first_legal_id():
    """So that gathering logits by them stays inside, whatever the mask does later."""
    batch, _ = batch_of(TICTACTOE, played(TICTACTOE, 10), 300)
    count = batch.legal_mask.sum(1)
    assert (np.diff(batch.legal_mask.astype(int), axis=1) <= 0).all(), "the mask is a prefix"
    for row in range(300):
        assert (batch.legal[row, count[row] :] == batch.legal[row, 0]).all()
        assert (np.diff(batch.legal[row, : count[row]]) > 0).all()


# --- value: the outcome -------------------------------------------------------------------------


def test_value_target_is_the_outcome_seen_from_the_mover_for_both_seats():
    """A win of either seat gives winner and loser the same two targets: colours are symmetric."""
    first = made_episode(TICTACTOE, [0, 3, 1, 4, 2])
    second = made_episode(TICTACTOE, [8, 3, 0, 4, 1, 5])
    draw = made_episode(TICTACTOE, [0, 1, 2, 4, 3, 5, 7, 6, 8])
    batch, plies = batch_of(TICTACTOE, [first, second, draw])
    target = batch.targets["value"]
    assert ((target == 0) | (target == 1)).all() and (target.sum(1) == 1).all()
    rows = {"win": set(), "loss": set(), "draw": set()}
    for row, (episode, t) in enumerate(plies):
        won = {id(first): 0, id(second): 1, id(draw): None}[id(episode)]
        kind = "draw" if won is None else "win" if won == episode.to_play[t] else "loss"
        rows[kind].add(int(target[row].argmax()))
        points = {"win": [1, -1], "loss": [-1, 1], "draw": [0, 0]}[kind]
        np.testing.assert_array_equal(expected_points(TICTACTOE, batch)[row], points)
    assert all(len(found) == 1 for found in rows.values())
    assert len(set.union(*rows.values())) == 3


@pytest.mark.parametrize(("game", "choices"), [(ORDERS, 4), (GAMMON, 4)], ids=["orders", "gammon"])
def test_value_target_is_one_hot_for_every_ending_and_mover(game, choices):
    seats, rng = game.num_players, np.random.default_rng(0)
    episodes = [made_episode(game, rng.integers(0, choices, seats).tolist()) for _ in range(60)]
    assert {e.outcome for e in episodes} == set(range(6))
    batch, plies = batch_of(game, episodes)
    assert set(np.unique(batch.targets["value"])) == {0.0, 1.0}
    assert (batch.targets["value"].sum(1) == 1).all()
    for found, (episode, t) in zip(expected_points(game, batch), plies, strict=True):
        want = relative(game.outcomes[episode.outcome] / game.scale, episode.to_play[t])
        np.testing.assert_allclose(found, want, atol=1e-6)


# --- value: the search's root value -------------------------------------------------------------


def possible_values(game, n, rng):
    """Return mean points over the scale, by seats, of random distributions over the endings."""
    shares = rng.dirichlet(np.full(len(game.outcomes), 0.4), n)
    return shares @ (game.outcomes / game.scale)


def line_of(game, rng):
    state, line = game.initial_state(), []
    while legal := game.legal(state):
        line.append(int(rng.choice(legal)))
        game.play(state, line[-1])
    return line


@pytest.mark.parametrize("root", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("game", [TICTACTOE, GAMMON, ORDERS], ids=lambda g: g.name)
def test_mixture_of_outcome_and_root_value_has_the_right_mean_points(game, root):
    rng = np.random.default_rng(4)
    episodes = []
    for i in range(80):
        line = line_of(game, rng)
        values = possible_values(game, len(line), rng)
        episodes.append(made_episode(game, line, game_id=i, root_value=values))
    batch, plies = batch_of(game, episodes, root=root)
    target = batch.targets["value"]
    assert np.isfinite(target).all() and target.min() >= 0
    np.testing.assert_allclose(target.sum(1), 1.0, atol=1e-5)
    for found, (episode, t) in zip(expected_points(game, batch), plies, strict=True):
        mean = root * episode.root_value[t] + (1 - root) * episode.final_value
        np.testing.assert_allclose(found, relative(mean, episode.to_play[t]), atol=1e-3)


@pytest.mark.parametrize("game", [TICTACTOE, GAMMON, ORDERS], ids=lambda g: g.name)
def test_root_value_becomes_the_distribution_of_greatest_entropy(game):
    """It is an exponential tilt: its logarithm is an affine function of the points."""
    rng = np.random.default_rng(6)
    episodes = []
    for i in range(20):
        line = line_of(game, rng)
        inner = 0.8 * possible_values(game, len(line), rng) + 0.2 * game.outcomes.mean(0) / game.scale
        episodes.append(made_episode(game, line, game_id=i, root_value=inner))
    batch, _ = batch_of(game, episodes, 200, root=1.0)
    points = game.relative_outcomes / game.scale
    affine = np.column_stack([points, np.ones(len(points))])
    for target in batch.targets["value"].astype(np.float64):
        log = np.log(target)
        fit = affine @ np.linalg.lstsq(affine, log, rcond=None)[0]
        np.testing.assert_allclose(log, fit, atol=2e-3)


@pytest.mark.parametrize("root", [0.5, 1.0])
@pytest.mark.parametrize("game", [TICTACTOE, GAMMON, ORDERS], ids=lambda g: g.name)
def test_root_values_at_the_ends_of_the_scale_work(game, root):
    rng = np.random.default_rng(7)
    episodes = []
    for i, row in enumerate(game.outcomes):
        line = line_of(game, rng)
        values = np.tile(row / game.scale, (len(line), 1))
        episodes.append(made_episode(game, line, game_id=i, root_value=values))
    batch, plies = batch_of(game, episodes, 300, root=root)
    target = batch.targets["value"]
    assert np.isfinite(target).all() and target.min() >= 0
    np.testing.assert_allclose(target.sum(1), 1.0, atol=1e-5)
    for found, (episode, t) in zip(expected_points(game, batch), plies, strict=True):
        mean = root * episode.root_value[t] + (1 - root) * episode.final_value
        np.testing.assert_allclose(found, relative(mean, episode.to_play[t]), atol=1e-3)


@pytest.mark.parametrize("value", [(1, 1, 1), (-1, -1, -1), (1, -1, -1), (0, 0, 0)])
def test_root_values_that_no_ending_can_have_still_give_a_distribution(value):
    episode = made_episode(ORDERS, [0, 1, 2], root_value=[value] * 3)
    batch, _ = batch_of(ORDERS, [episode], 30, root=1.0)
    target = batch.targets["value"]
    assert np.isfinite(target).all() and target.min() >= 0
    np.testing.assert_allclose(target.sum(1), 1.0, atol=1e-5)


def test_value_target_of_real_games_follows_the_mover():
    """Three seats, dice, 192 endings; so fine a table is met less exactly near its corners."""
    episodes = played(CUT_TREE, 40)
    batch, plies = batch_of(CUT_TREE, episodes, root=0.6)
    assert {e.truncated for e, _ in plies} == {True, False}
    np.testing.assert_allclose(batch.targets["value"].sum(1), 1.0, atol=1e-5)
    for found, (episode, t) in zip(expected_points(CUT_TREE, batch), plies, strict=True):
        mean = 0.6 * episode.root_value[t] + 0.4 * episode.final_value
        np.testing.assert_allclose(found, relative(mean, episode.to_play[t]), atol=2e-2)


@pytest.mark.parametrize("root", [0.0, 0.5])
def test_truncated_game_is_worth_its_last_root_value(root):
    values = [[0.1, -0.1], [-0.4, 0.4], [0.3, -0.3]]
    episode = made_episode(TICTACTOE, [0, 1, 2], root_value=values, final_value=[0.3, -0.3], game_id=4)
    assert episode.truncated
    batch, plies = batch_of(TICTACTOE, [episode], 100, root=root)
    np.testing.assert_allclose(batch.targets["value"].sum(1), 1.0, atol=1e-5)
    for found, (_, t) in zip(expected_points(TICTACTOE, batch), plies, strict=True):
        mean = root * np.array(values[t]) + (1 - root) * np.array([0.3, -0.3])
        np.testing.assert_allclose(found, relative(mean, t % 2), atol=1e-3)


# --- reply --------------------------------------------------------------------------------------


def replies(game, episodes, n=2000, **options):
    batch, plies = batch_of(game, episodes, n, reply=True, **options)
    assert batch.targets["reply"].shape == (n, game.num_actions)
    np.testing.assert_array_equal(batch.weights["reply"], batch.targets["reply"].sum(1) > 0.5)
    return batch, plies


@pytest.mark.parametrize("name", ["tictactoe", "cut_tree"])
def test_reply_target_is_the_policy_of_the_next_ply(name):
    """Absent where the next ply has none: at the end, at dice, forced moves and cheap searches."""
    game = GAMES[name]
    episodes = played(game, 40, selfplay={"full_search_fraction": half()})
    batch, plies = replies(game, episodes, symmetries=False)
    present = 0
    for row, (episode, t) in enumerate(plies):
        want = np.zeros(game.num_actions)
        if t + 1 < episode.plies:
            for action, share in policy_of(episode, t + 1).items():
                want[action] = share
        np.testing.assert_allclose(batch.targets["reply"][row], want, atol=1e-6)
        present += want.any()
    assert 0 < present < len(plies)


def test_reply_target_is_absent_at_the_last_ply():
    policy = {t: {a: 1.0} for t, a in enumerate([0, 3, 1, 4, 2])}
    game = made_episode(TICTACTOE, [0, 3, 1, 4, 2], policy=policy)
    batch, plies = replies(TICTACTOE, [game, game], 200, symmetries=False)
    for row, (_, t) in enumerate(plies):
        target = batch.targets["reply"][row]
        assert target.argmax() == [3, 1, 4, 2, 0][t] and target.sum() == (t < 4)


def test_reply_target_never_comes_from_a_later_ply_of_the_same_seat():
    """Between two searched plies of a seat sits an opponent, whose ply has no policy."""
    policy = {t: {a: 1.0} for t, a in ((0, 0), (2, 1), (4, 2))}
    own = [1, 0, 1, 0, 1]
    game = made_episode(TICTACTOE, [0, 3, 1, 4, 2], policy=policy, policy_weight=own, value_weight=own)
    batch, _ = replies(TICTACTOE, [game], 50)
    assert not batch.targets["reply"].any()
    assert not batch.weights["reply"].any()


def test_reply_target_is_in_the_same_image_as_its_position():
    episode = made_episode(
        TICTACTOE,
        [0, 1, 5, 3, 4, 8],
        policy={3: {3: 1.0}, 4: {4: 0.25, 8: 0.75}},
        policy_weight=[0, 0, 0, 1, 1, 0],
        value_weight=[0, 0, 0, 1, 1, 0],
        final_value=[0.0, 0.0],
    )
    batch, plies = replies(TICTACTOE, [episode], 400)
    for row, (_, t) in enumerate(plies):
        if t == 4:
            assert not batch.targets["reply"][row].any()
            continue
        (k,) = matching_images(TICTACTOE, batch, row, episode, t)
        want = np.zeros(9)
        want[image_action(TICTACTOE, 4, k)], want[image_action(TICTACTOE, 8, k)] = 0.25, 0.75
        np.testing.assert_allclose(batch.targets["reply"][row], want, atol=1e-6)


def test_there_is_no_reply_target_unless_asked_for():
    batch, _ = batch_of(TICTACTOE, played(TICTACTOE, 3), 16)
    assert set(batch.targets) == set(batch.weights) == {"policy", "value"}
