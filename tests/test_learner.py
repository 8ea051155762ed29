"""The learner: gradients independent of how work is split, schedules, averages, exact resume."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.material import TICTACTOE, played
from zeroloop.config import LearnConfig, NetworkConfig, ReplayConfig
from zeroloop.errors import BackendError, LearningError
from zeroloop.evaluator.choice import relative_points, shapes_of
from zeroloop.learner import Learner, learning_rate
from zeroloop.networks import build
from zeroloop.replay import Batch, Replay

NETWORK = NetworkConfig(blocks=1, channels=16, policy_channels=4, value_channels=4, value_hidden=16)
LEARN = LearnConfig(
    optimizer="adamw",
    batch_size=64,
    learning_rate=3e-3,
    warmup_steps=1,
    weight_decay=0.0,
    threads=1,
    precision="fp32",
)
POINTS = relative_points(TICTACTOE)


@pytest.fixture(scope="module")
def replay():
    config = ReplayConfig(window_min=10**5, window_max=10**5, surprise_weight=0.5, correction_exponent=1.0)
    found = Replay(TICTACTOE, config, seed=2, root_value_weight=0.5, reply=True)
    found.add(played(TICTACTOE, 40))
    return found


@pytest.fixture
def make():
    """Return a function that makes learners, which are closed at the end of the test."""
    made = []

    def learner(network=NETWORK, seed=1, **changes):
        made.append(Learner(build(network, shapes_of(TICTACTOE), seed), replace(LEARN, **changes), POINTS))
        return made[-1]

    yield learner
    for each in made:
        each.close()


def gradients(learner, batch):
    """Return the gradients of one step, which is not made."""
    found = []
    (optimizer,) = learner._optimizers
    optimizer.step = lambda *a, **k: found.extend(
        p.grad.detach().clone() for p in learner.network.parameters()
    )
    learner.step(batch)
    return found


def same_tensors(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


def head_parameters(learner, head):
    return [p.detach().clone() for p in learner.network.heads[head].parameters()]


# --- losses -------------------------------------------------------------------------------------


def by_hand(learner, batch, value_loss="cross_entropy"):
    """Return the mean loss of each head from the network's outputs, in NumPy."""
    with torch.no_grad():
        heads = learner.network(torch.from_numpy(batch.planes), torch.from_numpy(batch.global_facts))
    out = {}
    for head, logits in heads.items():
        target = batch.targets[head].astype(np.float64)
        logits = logits.numpy().astype(np.float64)
        if head == "policy":
            logits = np.take_along_axis(logits, batch.legal, 1)
            logits[~batch.legal_mask] = -np.inf
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        if head == "value" and value_loss == "mse":
            each = (share @ POINTS[:, 0] - target @ POINTS[:, 0]) ** 2
        else:
            each = -(target * np.log(np.where(target > 0, share, 1))).sum(1)
        weight = batch.weights[head] * batch.importance
        out[head] = float((each * weight).sum() / weight.sum())
    return out


@pytest.mark.parametrize("value_loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("threads", [1, 2])
def test_losses_are_weighted_means_over_legal_ids_and_outcomes(make, replay, value_loss, threads):
    learner = make(replace(NETWORK, heads=("reply",)), value_loss=value_loss, threads=threads)
    for step in range(3):
        batch = replay.sample(64, step)
        want = by_hand(learner, batch, value_loss)
        got = learner.step(batch)
        assert set(got) == {"policy", "value", "reply", "learning_rate"}
        for head, loss in want.items():
            assert got[head] == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_learner_overfits_one_batch(make, replay, threads):
    """Both losses fall to near the entropy of their targets, which they cannot pass."""
    batch = replay.sample(32, 0)._replace(importance=np.ones(32, np.float32))
    floor = {}
    for head in ("policy", "value"):
        target = batch.targets[head].astype(np.float64)
        floor[head] = -(target * np.log(np.where(target > 0, target, 1))).sum(1).mean()
    learner = make(replace(NETWORK, channels=32), threads=threads, learning_rate=1e-2)
    first = learner.step(batch)
    for _ in range(400):
        last = learner.step(batch, progress=0.0)
    for head, entropy in floor.items():
        assert last[head] > entropy - 1e-3
        assert last[head] - entropy < 0.1 * (first[head] - entropy), head


def test_reply_head_trains(make, replay):
    learner = make(replace(NETWORK, heads=("reply",)))
    batch = replay.sample(64, 0)
    target = batch.targets["reply"].astype(np.float64)
    floor = -(target * np.log(np.where(target > 0, target, 1))).sum(1) @ batch.importance / 64
    first = learner.step(batch)["reply"]
    for _ in range(150):
        last = learner.step(batch)["reply"]
    assert floor < last and last - floor < 0.5 * (first - floor)


def test_mse_value_loss_brings_expected_points_to_their_target(make, replay):
    learner = make(value_loss="mse", learning_rate=1e-2)
    batch = replay.sample(64, 0)
    first = learner.step(batch)["value"]
    for _ in range(200):
        last = learner.step(batch)["value"]
    assert last < 0.05 * first


def test_bf16_learns_too(make, replay):
    learner = make(precision="bf16", threads=2)
    batch = replay.sample(64, 0)
    first = learner.step(batch)
    for _ in range(100):
        last = learner.step(batch)
    assert last["policy"] < 0.9 * first["policy"] and last["value"] < 0.9 * first["value"]
    assert all(v.dtype != torch.bfloat16 for v in learner.tensors().values())


def test_loss_that_is_not_finite_stops_the_step(make, replay):
    learner = make()
    batch = replay.sample(16, 0)
    batch.planes[3] = np.nan
    before = learner.tensors()
    with pytest.raises(LearningError, match="not finite at step 0"):
        learner.step(batch)
    same_tensors(learner.tensors(), before)


# --- splitting the work -------------------------------------------------------------------------


def assert_close(a, b):
    largest = max(float(x.abs().max()) for x in a)
    assert largest > 0
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6 * max(largest, 1.0))


@pytest.mark.parametrize("n", [64, 37, 3])
def test_one_thread_and_two_give_the_same_gradients(make, replay, n):
    batch = replay.sample(n, 0)
    assert_close(gradients(make(threads=1), batch), gradients(make(threads=2), batch))


@pytest.mark.parametrize("n", [64, 52, 4])
@pytest.mark.parametrize("threads", [1, 2])
def test_accumulation_gives_the_same_gradients(make, replay, n, threads):
    batch = replay.sample(n, 0)
    whole = gradients(make(), batch)
    assert_close(whole, gradients(make(accumulate=4, threads=threads), batch))


def test_training_of_one_and_two_threads_stays_together(make, replay):
    one, two = make(threads=1), make(threads=2, accumulate=2)
    for step in range(10):
        batch = replay.sample(64, step)
        a, b = one.step(batch), two.step(batch)
        assert a["policy"] == pytest.approx(b["policy"], rel=1e-3)
    for x, y in zip(one.network.parameters(), two.network.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-2, atol=1e-3)


def test_step_with_two_threads_is_reproducible_bit_for_bit(make, replay):
    parts = []
    for _ in range(2):
        learner = make(threads=2, precision="bf16")
        for step in range(5):
            learner.step(replay.sample(64, step))
        parts.append(learner.tensors())
    same_tensors(*parts)


def test_batch_norm_trains_and_its_averages_follow(make, replay):
    learner = make(replace(NETWORK, norm="batch"), threads=2, learning_rate=1e-2)
    before = {k: v.clone() for k, v in learner.network.state_dict().items() if "running" in k}
    assert before
    batch = replay.sample(64, 0)
    first = learner.step(batch)
    for _ in range(60):
        last = learner.step(batch)
    assert last["policy"] < first["policy"] and last["value"] < 0.7 * first["value"]
    after = learner.averaged().state_dict()
    for name, value in before.items():
        assert torch.isfinite(after[name]).all()
        assert not torch.equal(after[name], value), name


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["policy", "value", "reply"])
def test_head_of_weight_zero_stays_untouched(make, replay, head):
    learner = make(replace(NETWORK, heads=("reply",)), head_weights={head: 0.0})
    before = {h: head_parameters(learner, h) for h in ("policy", "value", "reply")}
    for step in range(3):
        learner.step(replay.sample(64, step))
    for name, parameters in before.items():
        now = head_parameters(learner, name)
        same = all(torch.equal(a, b) for a, b in zip(parameters, now, strict=True))
        assert same == (name == head), name


@pytest.mark.parametrize("head", ["policy", "value", "reply"])
def test_head_without_any_weighted_row_stays_untouched(make, replay, head):
    learner = make(replace(NETWORK, heads=("reply",)))
    before = head_parameters(learner, head)
    batch = replay.sample(64, 0)
    batch.weights[head][:] = 0
    assert head not in learner.step(batch)  # there is nothing to take the mean of
    for a, b in zip(before, head_parameters(learner, head), strict=True):
        assert torch.equal(a, b)


def test_row_of_weight_zero_adds_nothing(make, replay):
    batch = replay.sample(32, 0)
    for weights in batch.weights.values():
        weights[16:] = 0
    other = replay.sample(32, 1)
    mixed = Batch(*(join(a, b) for a, b in zip(batch, other, strict=True)))
    for weights in mixed.weights.values():
        weights[16:] = 0
    mixed.importance[:] = batch.importance
    assert_close(gradients(make(), batch), gradients(make(), mixed))


def join(a, b):
    """Return the first 16 rows of one and the rest of the other."""
    if isinstance(a, dict):
        return {k: join(a[k], b[k]) for k in a}
    return np.concatenate([a[:16], b[16:]])


def test_head_weights_scale_gradients_and_not_reported_losses(make, replay):
    batch = replay.sample(64, 0)
    plain, heavy = make(), make(head_weights={"policy": 3.0, "value": 3.0})
    assert_close([3 * g for g in gradients(plain, batch)], gradients(heavy, batch))
    assert make().step(batch)["value"] == make(head_weights={"value": 3.0}).step(batch)["value"]


def test_default_weight_of_a_further_head_is_small(make, replay):
    network, batch = replace(NETWORK, heads=("reply",)), replay.sample(64, 0)
    named = make(network, head_weights={"policy": 1.0, "value": 1.0, "reply": 0.15})
    assert_close(gradients(make(network), batch), gradients(named, batch))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weight_decay_shrinks_matrices_and_leaves_biases(make, replay, optimizer):
    learner = make(weight_decay=0.5, learning_rate=1e-2, optimizer=optimizer)
    batch = replay.sample(8, 0)
    for weights in batch.weights.values():
        weights[:] = 0
    before = {k: v.detach().clone() for k, v in learner.network.named_parameters()}
    learner.step(batch)
    for name, now in learner.network.named_parameters():
        want = before[name] * (1 - 1e-2 * 0.5) if now.ndim > 1 else before[name]
        torch.testing.assert_close(now, want, rtol=1e-6, atol=0)


def test_muon_steps_along_an_orthogonal_matrix_in_hidden_layers_and_adamw_elsewhere(make, replay):
    """Jordan et al. 2024: the update is the gradient's matrix [out, rest] with singular values near 1."""
    batch, rate = replay.sample(64, 0), 1e-3
    network = replace(NETWORK, blocks=2)
    plain = make(network, learning_rate=rate)
    before = {k: v.detach().clone() for k, v in plain.network.named_parameters()}
    grads = dict(zip(before, gradients(make(network, learning_rate=rate), batch), strict=True))
    plain.step(batch)
    muon = make(network, learning_rate=rate, optimizer="muon", threads=2)
    muon.step(batch)
    after = dict(plain.network.named_parameters())
    hidden = 0
    for name, now in muon.network.named_parameters():
        if not (name.startswith("tower.blocks") and now.ndim == 4):
            torch.testing.assert_close(now, after[name], rtol=1e-4, atol=1e-6)
            continue
        step = (before[name] - now).flatten(1) / (rate * 0.2 * math.sqrt(9 * 16))
        slope = grads[name].flatten(1)
        if not slope.any():  # the layer behind one that begins at zero has no gradient yet
            assert not step.any()
            continue
        hidden += 1
        strong = torch.linalg.svdvals(slope) > 0.05 * torch.linalg.svdvals(slope).max()
        found = torch.linalg.svdvals(step)[: int(strong.sum())]
        assert found.min() > 0.5 and found.max() < 1.3
        left, _, right = torch.linalg.svd(slope, full_matrices=False)
        along = torch.diagonal(left.T @ step @ right.T)[strong]
        assert (along > 0.4).all()
    assert hidden == 2


@pytest.mark.parametrize("clip", [0.01, 0.5])
def test_clip_norm_bounds_the_gradient(make, replay, clip):
    batch = replay.sample(64, 0)
    free = gradients(make(), batch)
    norm = math.sqrt(sum(float((g**2).sum()) for g in free))
    bound = gradients(make(clip_norm=clip * norm, threads=2, accumulate=2), batch)
    found = math.sqrt(sum(float((g**2).sum()) for g in bound))
    assert found == pytest.approx(clip * norm, rel=1e-3)
    assert_close([g * clip for g in free], bound)
    loose = gradients(make(clip_norm=2 * norm), batch)
    assert_close(free, loose)


# --- learning rate ------------------------------------------------------------------------------


def rate(schedule, step, progress, **changes):
    given = {"learning_rate": 0.1, "warmup_steps": 10, "decay_from": 0.5, "final_rate": 0.2}
    return learning_rate(LearnConfig(schedule=schedule, **{**given, **changes}), step, progress)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "linear"])
def test_warm_up_is_linear_for_every_schedule(schedule):
    assert [rate(schedule, s, 0.0) for s in (0, 4, 9, 10, 500)] == pytest.approx([0.01, 0.05, 0.1, 0.1, 0.1])
    assert rate(schedule, 0, 0.0, warmup_steps=0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("schedule", "want"),
    [
        ("constant", [0.1, 0.1, 0.1, 0.1, 0.1]),
        ("linear", [0.1, 0.1, 0.08, 0.06, 0.02]),
        ("cosine", [0.1, 0.1, 0.02 + 0.08 * (0.5 + math.sqrt(0.125)), 0.06, 0.02]),
        ("step", [0.1, 0.1, 0.02, 0.02, 0.02]),
    ],
)
def test_schedules_at_known_points(schedule, want):
    """Progress 0, where the decay begins, a quarter and half way through it, and the end."""
    found = [rate(schedule, 1000, p) for p in (0.0, 0.5, 0.625, 0.75, 1.0)]
    assert found == pytest.approx(want)


@pytest.mark.parametrize("schedule", ["step", "cosine", "linear"])
def test_decay_that_begins_at_the_end_or_is_passed_stays_in_range(schedule):
    assert rate(schedule, 1000, 0.999, decay_from=1.0) == pytest.approx(0.1)
    assert rate(schedule, 1000, 1.7) == pytest.approx(0.02)


def test_step_uses_the_rate_of_its_number_and_progress(make, replay):
    learner = make(warmup_steps=4, learning_rate=0.01, schedule="linear", final_rate=0.1)
    batch = replay.sample(16, 0)
    assert [learner.step(batch)["learning_rate"] for _ in range(5)] == pytest.approx(
        [0.0025, 0.005, 0.0075, 0.01, 0.01]
    )
    assert learner.step(batch, progress=1.0)["learning_rate"] == pytest.approx(0.001)


def test_learning_rate_zero_changes_nothing(make, replay):
    learner = make(learning_rate=0.0, weight_decay=0.1)
    before = {k: v.clone() for k, v in learner.network.state_dict().items()}
    learner.step(replay.sample(16, 0))
    same_tensors(learner.network.state_dict(), before)


# --- averages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [0.0, 0.6, 0.995])
def test_average_follows_its_formula(make, replay, ema):
    """Decay min(ema, 1 - 1 / (t / 4 + 1)) after step t: a young average forgets the random start."""
    learner = make(ema=ema)
    want = {k: v.double() for k, v in learner.network.state_dict().items()}
    for t in range(1, 13):
        learner.step(replay.sample(16, t))
        decay = min(ema, 1 - 1 / (t / 4 + 1))
        for name, now in learner.network.state_dict().items():
            want[name] = decay * want[name] + (1 - decay) * now.double()
    found = learner.averaged().state_dict()
    for name, value in want.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6)


def test_averaged_network_is_a_copy(make, replay):
    learner = make()
    learner.step(replay.sample(16, 0))
    network = learner.averaged()
    kept = {k: v.clone() for k, v in network.state_dict().items()}
    assert not network.training and learner.network.training
    learner.step(replay.sample(16, 1))
    same_tensors(network.state_dict(), kept)


def test_before_the_first_step_the_average_is_the_start(make):
    learner = make()
    same_tensors(learner.averaged().state_dict(), learner.network.state_dict())


# --- resume -------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_restored_learner_goes_on_bit_for_bit(make, replay, threads, norm, precision, optimizer):
    network = replace(NETWORK, norm=norm, squeeze_excitation=True, heads=("reply",))
    settings = {"threads": threads, "precision": precision, "optimizer": optimizer}
    settings |= {"clip_norm": 1.0, "weight_decay": 0.01}
    first = make(network, **settings)
    for step in range(5):
        first.step(replay.sample(64, step))
    saved = {k: v.clone() for k, v in first.tensors().items()}
    second = make(network, seed=99, **settings)
    second.restore(saved)
    assert second.steps == 5
    same_tensors(second.tensors(), saved)
    for step in range(5, 10):
        batch = replay.sample(64, step)
        assert first.step(batch, step / 10) == second.step(batch, step / 10)
    same_tensors(first.tensors(), second.tensors())
    same_tensors(first.averaged().state_dict(), second.averaged().state_dict())


def test_learner_restored_over_its_own_past_goes_on_bit_for_bit(make, replay):
    first = make(threads=2)
    for step in range(3):
        first.step(replay.sample(64, step))
    saved = {k: v.clone() for k, v in first.tensors().items()}
    for step in range(3, 6):
        first.step(replay.sample(64, step))
    want = {k: v.clone() for k, v in first.tensors().items()}
    first.restore(saved)
    for step in range(3, 6):
        first.step(replay.sample(64, step))
    same_tensors(first.tensors(), want)


def test_unused_learner_restores(make, replay):
    saved = make(seed=4).tensors()
    other = make(seed=5)
    other.restore(saved)
    same_tensors(other.tensors(), saved)
    other.step(replay.sample(16, 0))


def test_scale_of_fp16_survives_a_restore(make, replay):
    """The loss scaler belongs to fp16 on a GPU; here it is put into a learner on the CPU."""
    first, second = make(), make(seed=3)
    for learner in (first, second):
        learner._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for step in range(3):
        first.step(replay.sample(16, step))
    saved = first.tensors()
    assert float(saved["scale"]) == 2.0**11
    second.restore(saved)
    same_tensors(second.tensors(), saved)
    for step in range(3, 6):
        first.step(replay.sample(16, step))
        second.step(replay.sample(16, step))
    same_tensors(second.tensors(), first.tensors())


# --- refusals -----------------------------------------------------------------------------------


def test_fp16_on_a_cpu_is_refused(make):
    with pytest.raises(BackendError, match=r"learn\.precision=fp16 needs a GPU.*bf16 or fp32\.$"):
        make(precision="fp16")
