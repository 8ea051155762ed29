"""Evaluators: values by absolute seat, logits per legal id, equal answers of all backends, and purity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.material import CONNECT4, CUT_TREE, TICTACTOE, observation
from tests.test_networks import KINDS, made, stirred
from tests.toy_games import THREE_WAY_VOTE
from zeroloop.config import NetworkConfig
from zeroloop.errors import BackendError
from zeroloop.evaluator import NetworkEvaluator, Output, UniformEvaluator, distinct
from zeroloop.evaluator.choice import Choice, choose, make_evaluator, relative_points, shapes_of
from zeroloop.evaluator.openvino import OpenVinoBackend
from zeroloop.evaluator.torch import TorchBackend
from zeroloop.networks import build
from zeroloop.openings import openings
from zeroloop.search.forest import Leaves


class ScriptedBackend:
    """Answers with what a rule says of the inputs: `rule(planes, facts, legal) -> Output`."""

    name = "scripted"

    def __init__(self, batch, rule, gathers=False):
        self.batch, self.rule, self.gathers = batch, rule, gathers
        self.seen = []

    def submit(self, planes, global_facts, legal):
        self.seen.append((planes.copy(), global_facts.copy(), legal.copy()))
        return self.rule(planes, global_facts, legal)

    def result(self, ticket):
        return ticket


def leaves_of(game, states):
    width = max(game.max_legal, game.max_chance)
    legal = np.full((len(states), width), game.num_actions - 1, np.int32)
    count = np.zeros(len(states), np.int32)
    for i, state in enumerate(states):
        ids = game.legal(state)
        legal[i, : len(ids)], count[i] = ids, len(ids)
    return Leaves(np.array(states, game.state_dtype), legal, count)


def decisions(game, n, seed=0):
    """Return n states of random games in which a seat has a choice."""
    rng, out = np.random.default_rng(seed), []
    while len(out) < n:
        state = game.initial_state(int(rng.integers(100)))
        while (mover := game.rules["to_play"](state)) != -2 and len(out) < n:
            legal = game.legal(state)
            if mover >= 0 and len(legal) > 1:
                out.append(game.copy(state))
            choices = legal or [a for a, _ in game.chance(state)]
            game.play(state, int(rng.choice(choices)))
    return out


def ask(evaluator, leaves):
    """Return copies of (logits, values) of the leaves."""
    found = evaluator.result(evaluator.submit(leaves))
    n = len(leaves.count)
    return found.logits[:n].copy(), found.values[:n].copy()


def softmax(logits):
    share = np.exp(logits - logits.max(-1, keepdims=True))
    return share / share.sum(-1, keepdims=True)


# --- rotation, gathering, padding ---------------------------------------------------------------


def test_values_are_rotated_from_the_mover_to_absolute_seats():
    """A backend that always says (10, 20, 30) for mover, next and last."""
    game = THREE_WAY_VOTE
    states = []
    for plies in range(3):
        state = game.initial_state()
        for _ in range(plies):
            game.play(state, 1)
        states.append(state)

    def rule(planes, facts, legal):
        return Output(np.zeros((4, 2), np.float32), np.tile(np.float32([10, 20, 30]), (4, 1)))

    _, values = ask(NetworkEvaluator(game, [ScriptedBackend(4, rule)]), leaves_of(game, states))
    np.testing.assert_array_equal(values, [[10, 20, 30], [30, 10, 20], [20, 30, 10]])


@pytest.mark.parametrize("gathers", [False, True])
def test_logits_come_per_legal_id_in_their_order(gathers):
    states = decisions(CUT_TREE, 12)
    leaves = leaves_of(CUT_TREE, states)
    width = leaves.legal.shape[1]

    def rule(planes, facts, legal):
        by_id = np.arange(CUT_TREE.num_actions, dtype=np.float32) + 100
        logits = by_id[legal] if gathers else np.tile(by_id, (16, 1))
        return Output(logits, np.zeros((16, 3), np.float32))

    evaluator = NetworkEvaluator(CUT_TREE, [ScriptedBackend(16, rule, gathers)])
    logits, _ = ask(evaluator, leaves)
    assert logits.shape == (12, width)
    for i, state in enumerate(states):
        legal = CUT_TREE.legal(state)
        np.testing.assert_array_equal(logits[i, : len(legal)], np.array(legal) + 100)


def test_backend_sees_the_observation_of_each_state_and_always_a_full_batch():
    def rule(planes, facts, legal):
        assert planes.shape == (8, 2, 3, 3) and facts.shape == (8, 0) and legal.shape == (8, 9)
        return Output(np.zeros((8, 9), np.float32), np.zeros((8, 2), np.float32))

    backend = ScriptedBackend(8, rule)
    evaluator = NetworkEvaluator(TICTACTOE, [backend])
    states = decisions(TICTACTOE, 11)
    for part in (states[:8], states[8:]):
        ask(evaluator, leaves_of(TICTACTOE, part))
        for i, state in enumerate(part):
            np.testing.assert_array_equal(backend.seen[-1][0][i], observation(TICTACTOE, state)[0])
    assert evaluator.rows == 11


@pytest.mark.parametrize("choice", [("openvino", "cpu", "fp32"), ("torch", "cpu", "fp32")])
def test_padding_never_leaks_into_answers(choice):
    """Rows behind the last state hold an older, larger batch."""
    network = stirred(build(NetworkConfig(blocks=1, channels=8), shapes_of(TICTACTOE)))
    states = decisions(TICTACTOE, 24)
    used = make_evaluator(TICTACTOE, network, Choice(*choice), [16])
    ask(used, leaves_of(TICTACTOE, states[:16]))
    fresh = make_evaluator(TICTACTOE, network, Choice(*choice), [16])
    for n in (8, 1, 5):
        leaves = leaves_of(TICTACTOE, states[16 : 16 + n])
        for a, b in zip(ask(used, leaves), ask(fresh, leaves), strict=True):
            live = np.arange(9) < leaves.count[:, None] if a.shape[1] == 9 else np.ones_like(a, bool)
            np.testing.assert_array_equal(a[live], b[live])


@pytest.mark.parametrize("kind", ["openvino", "torch"])
@pytest.mark.parametrize("junk", [2**31 - 1, -1, 10_000])
def test_ids_beyond_the_count_are_never_looked_at(kind, junk):
    """Columns behind the legal ids hold whatever was there, such as ids of chance outcomes."""
    network = stirred(build(NetworkConfig(kind="mlp", blocks=1, channels=8), shapes_of(CUT_TREE)))
    evaluator = make_evaluator(CUT_TREE, network, Choice(kind, "cpu", "fp32"), [16])
    leaves = leaves_of(CUT_TREE, decisions(CUT_TREE, 12))
    inside = np.arange(leaves.legal.shape[1]) < leaves.count[:, None]
    assert not inside.all()
    want = ask(evaluator, leaves._replace(legal=np.where(inside, leaves.legal, 0).astype(np.int32)))
    given = np.where(inside, leaves.legal, junk).astype(np.int32)
    found = ask(evaluator, leaves._replace(legal=given.copy()))
    np.testing.assert_array_equal(found[0][inside], want[0][inside])
    np.testing.assert_array_equal(found[1], want[1])


def test_smallest_backend_that_fits_is_used():
    def rule_of(size):
        return lambda planes, facts, legal: Output(
            np.full((size, 9), size, np.float32), np.zeros((size, 2), np.float32)
        )

    backends = [ScriptedBackend(n, rule_of(n)) for n in (2, 4, 8)]
    evaluator = NetworkEvaluator(TICTACTOE, backends)
    states = decisions(TICTACTOE, 8)
    for n, want in ((1, 2), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8)):
        logits, _ = ask(evaluator, leaves_of(TICTACTOE, states[:n]))
        assert (logits[0, 0], len(logits)) == (want, n)


def test_more_leaves_than_the_largest_batch_are_refused():
    evaluator = NetworkEvaluator(TICTACTOE, [ScriptedBackend(4, None)])
    with pytest.raises(BackendError, match="5 states .* batches of 4"):
        evaluator.submit(leaves_of(TICTACTOE, decisions(TICTACTOE, 5)))


def test_leaves_are_copied_before_submit_returns():
    """The forest reuses their memory while a device computes."""

    def rule(planes, facts, legal):
        return Output(np.tile(np.arange(9, dtype=np.float32), (4, 1)), np.tile(np.float32([1, -1]), (4, 1)))

    evaluator = NetworkEvaluator(TICTACTOE, [ScriptedBackend(4, rule)])
    states = decisions(TICTACTOE, 4)
    leaves = leaves_of(TICTACTOE, states)
    want = ask(evaluator, leaves_of(TICTACTOE, states))
    ticket = evaluator.submit(leaves)
    leaves.states[:], leaves.legal[:], leaves.count[:] = states[::-1], 0, 1
    found = evaluator.result(ticket)
    np.testing.assert_array_equal(found.values, want[1])
    for i, state in enumerate(states):
        k = len(TICTACTOE.legal(state))
        np.testing.assert_array_equal(found.logits[i, :k], want[0][i, :k])


def test_uniform_evaluator_knows_nothing():
    evaluator = UniformEvaluator(CUT_TREE, 8)
    logits, values = ask(evaluator, leaves_of(CUT_TREE, decisions(CUT_TREE, 5)))
    assert not logits.any() and not values.any()
    assert values.shape == (5, 3) and logits.shape == (5, 5)


# --- backends agree -----------------------------------------------------------------------------

BATCH = 32


def points_of(shapes, seats=2):
    rng = np.random.default_rng(3)
    return rng.uniform(-1, 1, (shapes.outcomes, seats)).astype(np.float32)


def backend_of(kind, network, precision, points, batch=BATCH):
    shapes = network.shapes
    if kind == "openvino":
        return OpenVinoBackend(network, points, batch, precision, 1)
    return TorchBackend(network, points, batch, precision, "cpu", shapes.actions)


def answers(kind, network, precision, seed=0):
    """Return (policy over all actions, values) of random inputs."""
    shapes, rng = network.shapes, np.random.default_rng(seed)
    planes = rng.random((BATCH, *shapes.planes), np.float32).round()
    facts = rng.random((BATCH, shapes.globals), np.float32)
    legal = np.tile(np.arange(shapes.actions, dtype=np.int32), (BATCH, 1))
    backend = backend_of(kind, network, precision, points_of(shapes))
    assert backend.batch == BATCH and precision in backend.name and kind in backend.name
    found = backend.result(backend.submit(planes, facts, legal))
    return softmax(found.logits.astype(np.float64)), found.values.copy()


@pytest.fixture(scope="module")
def right():
    """Answers in float64 by the network itself, neither folded nor compiled."""

    def compute(name):
        network = stirred(made(name))
        shapes, rng = network.shapes, np.random.default_rng(0)
        planes = rng.random((BATCH, *shapes.planes), np.float32).round()
        facts = rng.random((BATCH, shapes.globals), np.float32)
        with torch.no_grad():
            heads = network.double()(*(torch.from_numpy(x).double() for x in (planes, facts)))
        return softmax(heads["policy"].numpy()), softmax(heads["value"].numpy()) @ points_of(shapes)

    return {name: compute(name) for name in KINDS}


@pytest.mark.parametrize("kind", ["openvino", "torch"])
@pytest.mark.parametrize("name", KINDS)
def test_fp32_backends_agree_with_the_network_for_every_kind_and_option(right, name, kind):
    policy, values = answers(kind, stirred(made(name)), "fp32")
    assert np.ptp(right[name][0]) > 0.02 and np.ptp(right[name][1]) > 0.05, "too even to tell"
    np.testing.assert_allclose(policy, right[name][0], atol=1e-4)
    np.testing.assert_allclose(values, right[name][1], atol=1e-4)


@pytest.mark.parametrize("kind", ["openvino", "torch"])
@pytest.mark.parametrize("name", KINDS)
def test_bf16_backends_stay_near_the_network_for_every_kind_and_option(right, name, kind):
    policy, values = answers(kind, stirred(made(name)), "bf16")
    np.testing.assert_allclose(policy, right[name][0], atol=0.03)
    np.testing.assert_allclose(values, right[name][1], atol=0.03)


@pytest.mark.parametrize("kind", ["openvino", "torch"])
def test_backend_takes_the_network_as_it_is_and_keeps_no_part_of_it(kind):
    """Training goes on in the same tensors while the backend plays."""
    network = stirred(made("batch norm")).train()
    before = answers(kind, network, "fp32")
    backend = backend_of(kind, network, "fp32", points_of(network.shapes))
    rng = np.random.default_rng(0)
    planes = rng.random((BATCH, *network.shapes.planes), np.float32).round()
    facts = rng.random((BATCH, network.shapes.globals), np.float32)
    legal = np.tile(np.arange(network.shapes.actions, dtype=np.int32), (BATCH, 1))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1.0)
    after = backend.result(backend.submit(planes, facts, legal))
    np.testing.assert_array_equal(softmax(after.logits.astype(np.float64)), before[0])
    np.testing.assert_array_equal(after.values, before[1])
    assert network.training


@pytest.mark.parametrize("kind", ["openvino", "torch"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch", [10, 64])
def test_answer_of_a_state_does_not_depend_on_its_row_or_companions(kind, precision, batch):
    """Bit for bit, for the one padded batch size of deterministic runs."""
    config = NetworkConfig(blocks=2, channels=32, squeeze_excitation=True, global_pooling=True)
    network = stirred(build(config, shapes_of(CONNECT4)))
    game = CONNECT4
    evaluator = make_evaluator(game, network, Choice(kind, "cpu", precision), [batch])
    states = decisions(game, 3 * batch, seed=4)
    rng, seen = np.random.default_rng(5), set()
    for row in range(batch):
        companions = [states[i] for i in rng.integers(0, len(states), batch)]
        companions[row] = states[0]
        n = int(rng.integers(row + 1, batch + 1))
        logits, values = ask(evaluator, leaves_of(game, companions[:n]))
        k = len(game.legal(states[0]))
        seen.add(logits[row, :k].tobytes() + values[row].tobytes())
    assert len(seen) == 1


def test_threads_of_openvino_do_not_change_the_answer():
    network = stirred(build(NetworkConfig(blocks=2, channels=32), shapes_of(CONNECT4)))
    leaves = leaves_of(CONNECT4, decisions(CONNECT4, 16))
    choice = Choice("openvino", "cpu", "fp32")
    one = ask(make_evaluator(CONNECT4, network, choice, [16], 1), leaves)
    two = ask(make_evaluator(CONNECT4, network, choice, [16], 2), leaves)
    np.testing.assert_allclose(one[1], two[1], atol=1e-6)


def test_evaluator_of_a_network_gives_its_policy_and_values_by_seat():
    """End to end: game, observation, network, gathering and rotation against torch by hand."""
    network = stirred(build(NetworkConfig(kind="mlp", blocks=1, channels=16), shapes_of(CUT_TREE)))
    states = decisions(CUT_TREE, 20, seed=2)
    assert {int(CUT_TREE.rules["to_play"](s)) for s in states} == {0, 1, 2}
    facts = torch.from_numpy(np.array([observation(CUT_TREE, s)[1] for s in states]))
    with torch.no_grad():
        heads = network(torch.zeros(20, 0, 0, 0), facts)
    relative = softmax(heads["value"].numpy()) @ relative_points(CUT_TREE)
    for kind in ("openvino", "torch"):
        evaluator = make_evaluator(CUT_TREE, network, Choice(kind, "cpu", "fp32"), [32])
        logits, values = ask(evaluator, leaves_of(CUT_TREE, states))
        for i, state in enumerate(states):
            legal, mover = CUT_TREE.legal(state), int(CUT_TREE.rules["to_play"](state))
            want = heads["policy"][i].numpy()[legal]
            np.testing.assert_allclose(logits[i, : len(legal)], want, atol=1e-5)
            np.testing.assert_allclose(values[i], np.roll(relative[i], mover), atol=1e-5)


def test_values_stay_inside_the_scale():
    network = stirred(build(NetworkConfig(blocks=1, channels=8), shapes_of(TICTACTOE)))
    with torch.no_grad():
        network.heads["value"].linear.bias.copy_(torch.tensor([60.0, 0.0, 0.0]))
    for kind in ("openvino", "torch"):
        evaluator = make_evaluator(TICTACTOE, network, Choice(kind, "cpu", "fp32"), [8])
        _, values = ask(evaluator, leaves_of(TICTACTOE, decisions(TICTACTOE, 8)))
        assert np.abs(values).max() <= 1.0 and np.abs(values).min() > 0.99


# --- choosing -----------------------------------------------------------------------------------


def test_unknown_device_is_refused_by_name():
    network = made("plain")
    with pytest.raises(BackendError, match="'tpu' is not present; available: .*cpu"):
        TorchBackend(network, points_of(network.shapes), 4, "fp32", "tpu", 7)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_absent_gpu_is_refused_and_never_replaced_by_the_cpu():
    with pytest.raises(BackendError, match="run.device is cuda"):
        choose("cuda")
    choice = Choice("torch", "cuda", "bf16")
    network = build(NetworkConfig(blocks=1, channels=8), shapes_of(TICTACTOE))
    with pytest.raises(BackendError, match="'cuda' is not present; available: cpu"):
        make_evaluator(TICTACTOE, network, choice, [4])


def test_combinations_that_cannot_be_are_refused():
    with pytest.raises(BackendError, match="openvino runs on the CPU only.*cuda"):
        choose("cuda", "openvino")
    for backend in ("openvino", "torch"):
        with pytest.raises(BackendError, match="fp16 needs a GPU"):
            choose("cpu", backend, "fp16")


def test_choice_by_name_is_kept_and_auto_is_resolved():
    assert choose("cpu", "torch", "fp32") == ("torch", "cpu", "fp32")
    assert choose("cpu", "openvino", "bf16") == ("openvino", "cpu", "bf16")
    found = choose("cpu")
    assert found.backend in ("openvino", "torch") and found.precision in ("bf16", "fp32")
    assert str(found) == f"{found.backend} on cpu, {found.precision}"


def test_a_backend_on_demand_is_made_at_its_first_batch_and_answers_as_the_one_made_at_once():
    network = stirred(build(NetworkConfig(blocks=1, channels=8), shapes_of(TICTACTOE)))
    leaves = leaves_of(TICTACTOE, [TICTACTOE.initial_state()] * 3)
    late = make_evaluator(TICTACTOE, network, choose("cpu"), [4, 16])
    first, last = late.backends
    assert first._made is None
    found = ask(late, leaves)
    assert first._made is not None and (first.batch, last.batch) == (4, 16)
    wanted = ask(make_evaluator(TICTACTOE, network, choose("cpu"), [4]), leaves)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])


def test_equal_states_of_a_batch_are_computed_once_and_answered_alike():
    network = stirred(build(NetworkConfig(kind="mlp", blocks=1, channels=8), shapes_of(CUT_TREE)))
    states = list(openings(CUT_TREE, 9, 2, seed=1))
    mixed = [states[i] for i in (0, 1, 0, 2, 3, 3, 3, 4, 5, 0, 6, 7, 8, 8)]
    evaluator = make_evaluator(CUT_TREE, network, choose("cpu"), [16])
    logits, values = ask(evaluator, leaves_of(CUT_TREE, mixed))
    assert (evaluator.rows, evaluator.same) == (9, 5)
    for i, state in enumerate(mixed):
        lonely = make_evaluator(CUT_TREE, network, choose("cpu"), [16])
        one, worth = ask(lonely, leaves_of(CUT_TREE, [state]))
        k = len(CUT_TREE.legal(state))
        np.testing.assert_array_equal(logits[i, :k], one[0, :k])
        np.testing.assert_array_equal(values[i], worth[0])


@pytest.mark.parametrize("seed", range(4))
def test_distinct_states_are_found_exactly(seed):
    """Against a dictionary; words of few values, so that sums and hashes of part of them collide."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 3, (200, 3)).astype(np.uint64) << rng.choice([0, 32, 61], 3).astype(np.uint64)
    table, first, index = np.zeros(512, np.int32), np.zeros(200, np.int64), np.zeros(200, np.int64)
    found = distinct(words, 150, table, first, index)
    known = {}
    for i in range(150):
        known.setdefault(words[i].tobytes(), (len(known), i))
        assert index[i] == known[words[i].tobytes()][0]
    assert found == len(known) and first[:found].tolist() == [row for _, row in known.values()]
