"""The inference server: the same answers as in one process, refusals by name, and loss of the server."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from zeroloop import model
from zeroloop.config import Config, NetworkConfig
from zeroloop.distributed import door
from zeroloop.distributed import leaves as remote
from zeroloop.distributed.inference import InferenceServer, follow
from zeroloop.distributed.lanes import Lanes, StaleModelError, batch_sizes
from zeroloop.distributed.leaves import RemoteEvaluator
from zeroloop.distributed.ragged import Request, bytes_per_position
from zeroloop.distributed.share import INFERENCE, DeviceShare
from zeroloop.distributed.store import meaning
from zeroloop.errors import BackendError, RefusedError, StoreError, UnreachableError
from zeroloop.evaluator.choice import choose, make_evaluator, shapes_of
from zeroloop.games import make
from zeroloop.networks import build
from zeroloop.search.forest import Leaves
from zeroloop.selfplay.collector import LocalCollector

SMALL = NetworkConfig(blocks=1, channels=8)
CPU = choose("cpu", precision="fp32")
ANY = "127.0.0.1:0"


def network(game, seed=1):
    return build(SMALL, shapes_of(game), seed)


def encoded(game, seed=1):
    """Return (hash, bytes) of a model."""
    data = model.encode(network(game, seed), game)
    return hashlib.sha256(data).hexdigest(), data


def positions(game, n, seed=0):
    """Return leaves: n decision states from random play, from the beginning on."""
    rng = np.random.default_rng(seed)
    width = max(game.max_legal, game.max_chance)
    out = Leaves(game.states(n), np.zeros((n, width), np.int32), np.zeros(n, np.int32))
    rules, state, i = game.rules, None, 0
    while i < n:
        if state is None or rules["to_play"](state) < 0:
            state = game.states(1)[0]
            rules["initial"](state, int(rng.integers(1 << 30)))
        k = rules["legal_actions"](state, out.legal[i])
        out.states[i], out.count[i] = state, k
        rules["apply_action"](state, int(rng.choice(out.legal[i, :k])))
        i += 1
    return out


def probabilities(logits, count):
    inside = np.arange(logits.shape[1]) < count[:, None]
    z = np.where(inside, logits, -np.inf)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.fixture
def game():
    return make("connect4")


@pytest.fixture
def server(game):
    made = InferenceServer(game, CPU, max_batch=256, lanes=2)
    made.publish(*encoded(game))
    made.listen(ANY)
    yield made
    made.close()
    assert made.lanes.failure is None


def ask(evaluator, leaves):
    found = evaluator.result(evaluator.submit(leaves))
    n = len(leaves.count)
    return found.logits[:n].copy(), found.values[:n].copy()


@pytest.mark.parametrize("name", ["tictactoe", "connect4", "hex"])
def test_answers_agree_with_the_same_network_in_this_process_within_half_precision(name):
    game = make(name)
    hash_, data = encoded(game)
    server = InferenceServer(game, CPU, max_batch=128, lanes=1)
    server.publish(hash_, data)
    leaves = positions(game, 100)
    evaluator = RemoteEvaluator(game, server.listen(ANY), hash_, 128)
    logits, values = ask(evaluator, leaves)
    here = make_evaluator(game, network(game), CPU, [128])
    expected, expected_values = ask(here, leaves)
    server.close()
    inside = np.arange(logits.shape[1]) < leaves.count[:, None]
    assert np.isfinite(logits[inside]).all() and np.isfinite(values).all()
    difference = probabilities(logits, leaves.count) - probabilities(expected, leaves.count)
    assert np.abs(difference).max() < 2**-10
    assert np.abs(values - expected_values).max() < 1e-5


def test_logits_far_beyond_half_precision_keep_their_order_and_stay_finite(game):
    """A policy head scaled up gives logits beyond 65,504; the best action must stay the best."""
    import torch

    wild = network(game)
    with torch.no_grad():
        for p in wild.heads["policy"].parameters():
            p.mul_(3e3)
    data = model.encode(wild, game)
    hash_ = hashlib.sha256(data).hexdigest()
    server = InferenceServer(game, CPU, max_batch=64, lanes=1)
    server.publish(hash_, data)
    leaves = positions(game, 60)
    logits, _ = ask(RemoteEvaluator(game, server.listen(ANY), hash_, 64), leaves)
    expected, _ = ask(make_evaluator(game, wild, CPU, [64]), leaves)
    server.close()
    inside = np.arange(logits.shape[1]) < leaves.count[:, None]
    assert np.abs(expected[inside]).max() > 65504
    assert np.isfinite(logits[inside]).all()
    masked = [np.where(inside, x, -np.inf).argmax(axis=1) for x in (logits, expected)]
    assert (masked[0] == masked[1]).all()


def test_a_model_that_gives_nan_is_refused_by_name(game):
    import torch

    broken = network(game)
    with torch.no_grad():
        broken.heads["value"].linear.bias.fill_(float("nan"))
    data = model.encode(broken, game)
    hash_ = hashlib.sha256(data).hexdigest()
    server = InferenceServer(game, CPU, max_batch=64, lanes=1)
    server.publish(hash_, data)
    evaluator = RemoteEvaluator(game, server.listen(ANY), hash_, 64)
    with pytest.raises(RefusedError, match="no numbers"):
        ask(evaluator, positions(game, 4))
    server.close()


def test_equal_positions_of_a_request_travel_once(game, server):
    leaves = positions(game, 8)
    eight = Leaves(*(np.concatenate([x] * 8) for x in leaves))
    evaluator = RemoteEvaluator(game, server.address, server.newest, 64)
    logits, values = ask(evaluator, eight)
    once, once_values = ask(RemoteEvaluator(game, server.address, server.newest, 64), leaves)
    assert evaluator.rows <= 8
    inside = np.arange(logits.shape[1]) < eight.count[:, None]
    assert (np.where(inside, logits - np.concatenate([once] * 8), 0) == 0).all()
    assert (values == np.concatenate([once_values] * 8)).all()


def test_bytes_per_position_are_as_stated(game, server):
    leaves = positions(game, 200, seed=3)
    evaluator = RemoteEvaluator(game, server.address, server.newest, 256)
    ask(evaluator, leaves)
    distinct = {s.tobytes(): int(c) for s, c in zip(leaves.states, leaves.count, strict=True)}
    stated = bytes_per_position(game, sum(distinct.values()) / len(distinct))
    n = evaluator.rows
    assert n == len(distinct)
    assert stated.up * n < evaluator.bytes_sent < stated.up * n + 300
    assert stated.down * n < evaluator.bytes_received < stated.down * n + 300
    assert bytes_per_position(game, 7) == (24 + 1 + 14, 14 + 8)


def test_requests_of_many_workers_merge_and_each_gets_its_own_answer(game):
    """Eight clients at once, one lane: fewer batches than requests, and no answer goes astray."""
    server = InferenceServer(game, CPU, max_batch=256, deadline_ms=50, lanes=1)
    server.publish(*encoded(game))
    address = server.listen(ANY)
    all_leaves = [positions(game, 7 + i, seed=i) for i in range(8)]
    here = make_evaluator(game, network(game), CPU, [256])
    wrong, gate = [], threading.Barrier(8)

    def work(i):
        evaluator = RemoteEvaluator(game, address, server.newest, 32)
        expected = ask_alone[i]
        gate.wait()
        for _ in range(20):
            logits, values = ask(evaluator, all_leaves[i])
            p = probabilities(logits, all_leaves[i].count)
            if np.abs(p - expected[0]).max() > 1e-3 or np.abs(values - expected[1]).max() > 1e-4:
                wrong.append(i)

    ask_alone = []
    for leaves in all_leaves:
        logits, values = ask(here, leaves)
        ask_alone.append((probabilities(logits, leaves.count), values))
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    counted, batches = server.counters(), server.lanes.batches()
    server.close()
    assert not wrong
    assert counted["requests"] == 160
    assert counted["batches"] < 160 / 2
    assert max(batches) > 15 and max(batches) <= 256


def test_no_batch_is_larger_than_the_maximum(game):
    server = InferenceServer(game, CPU, max_batch=32, deadline_ms=20, lanes=1)
    server.publish(*encoded(game))
    address = server.listen(ANY)

    def work(i):
        evaluator = RemoteEvaluator(game, address, server.newest, 32)
        for _ in range(10):
            ask(evaluator, positions(game, 20, seed=i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    largest = max(server.lanes.batches())
    server.close()
    assert largest <= 32


def test_a_lone_request_waits_no_longer_than_the_deadline(game):
    """Another client is connected and silent: the request waits for it, but for the deadline only."""
    server = InferenceServer(game, CPU, max_batch=256, deadline_ms=150, lanes=1)
    server.publish(*encoded(game))
    address = server.listen(ANY)
    silent = RemoteEvaluator(game, address, server.newest, 64)
    mine = RemoteEvaluator(game, address, server.newest, 64)
    few = positions(game, 3)
    ask(mine, few)
    ask(silent, few)  # it may ask again at any time
    begun = time.monotonic()
    ask(mine, few)
    waited = time.monotonic() - begun
    time.sleep(0.7)  # now it counts as asleep
    begun = time.monotonic()
    ask(mine, few)
    alone = time.monotonic() - begun
    server.close()
    assert 0.12 < waited < 0.4
    assert alone < 0.1


def test_a_batch_goes_at_once_when_everybody_has_asked(game):
    """Two clients ask at the same time, with a deadline of 5 s that nobody should ever wait for."""
    server = InferenceServer(game, CPU, max_batch=256, deadline_ms=5000, lanes=1)
    server.publish(*encoded(game))
    two = [RemoteEvaluator(game, server.listen(ANY), server.newest, 64)]
    two.append(RemoteEvaluator(game, server.address, server.newest, 64))
    few = positions(game, 3)
    begun = time.monotonic()
    for _ in range(5):
        tickets = [e.submit(few) for e in two]
        for e, ticket in zip(two, tickets, strict=True):
            e.result(ticket)
    spent = time.monotonic() - begun
    server.close()
    assert spent < 2


def test_the_one_before_the_newest_is_answered_for_and_older_ones_are_refused_by_name(game, server):
    first = server.newest
    evaluator = RemoteEvaluator(game, server.address, first, 64)
    leaves = positions(game, 5)
    before = ask(evaluator, leaves)
    server.publish(*encoded(game, 2))
    after = ask(evaluator, leaves)
    assert (before[0] == after[0]).all() and (before[1] == after[1]).all()  # the model that it asked for
    assert evaluator.newest == server.newest != first
    server.publish(*encoded(game, 3))
    with pytest.raises(StaleModelError, match=f"stale model {first[:12]}; newest is {server.newest[:12]}"):
        ask(evaluator, leaves)
    assert server.counters()["stale"] == 1


def test_leaves_refused_for_a_stale_model_are_answered_by_the_newest_once_it_is_asked_for(game, server):
    evaluator = RemoteEvaluator(game, server.address, "0" * 64, 64)
    leaves = positions(game, 5)
    ticket = evaluator.submit(leaves)
    with pytest.raises(StaleModelError) as refused:
        evaluator.result(ticket)
    evaluator.model = refused.value.newest
    values = evaluator.result(ticket).values[:5].copy()
    expected = ask(make_evaluator(game, network(game), CPU, [64]), leaves)[1]
    assert np.abs(values - expected).max() < 1e-5


def test_a_ticket_outlives_its_evaluator(game, server):
    """A worker that gets a new model makes new evaluators while leaves wait."""
    old = RemoteEvaluator(game, server.address, "0" * 64, 64)
    leaves = positions(game, 5)
    ticket = old.submit(leaves)
    old.close()
    new = RemoteEvaluator(game, server.address, server.newest, 64)
    expected = ask(make_evaluator(game, network(game), CPU, [64]), leaves)[1]
    assert np.abs(new.result(ticket).values[:5] - expected).max() < 1e-5


def test_another_game_rules_version_or_observation_is_refused_at_the_hello(game, server):
    other = make("tictactoe")
    with pytest.raises(RefusedError, match=r"game connect4.*tictactoe"):
        RemoteEvaluator(other, server.address, server.newest, 8)
    for key, value in (("zeroloop", "0.0.1"), ("observation_version", 99), ("rules_identity", "else")):
        channel = door.connect(server.address)
        channel.send({"call": "hello", "about": {**meaning(game), key: value}, "batch": 8})
        head, _ = channel.receive()
        channel.close()
        assert key in head["refused"]


def test_a_client_with_larger_batches_is_refused_with_what_to_do(game, server):
    with pytest.raises(RefusedError, match=r"512.*takes 256.*inference.max_batch=512"):
        RemoteEvaluator(game, server.address, server.newest, 512)


def half(game, server, change):
    """Greet, send a request that `change` has damaged, and return the refusal."""
    leaves = positions(game, 3)
    ids = np.concatenate([leaves.legal[i, : leaves.count[i]] for i in range(3)]).astype(np.uint16)
    parts = [leaves.states.copy(), leaves.count.astype(np.uint8), ids]
    channel = door.connect(server.address)
    channel.set_timeout(10)
    channel.send({"call": "hello", "about": meaning(game), "batch": 8})
    channel.receive()
    head = {"call": "evaluate", "number": 1, "model": server.newest}
    head, parts = change(head, parts)
    channel.send(head, [p if isinstance(p, bytes) else p.tobytes() for p in parts])
    answer, _ = channel.receive()
    channel.close()
    return answer.get("refused", "")


def cut(head, parts):
    return head, [parts[0].tobytes()[:-1], *parts[1:]]


def many(head, parts):
    return head, [parts[0], np.full(3, 200, np.uint8), parts[2]]


def many_with_their_ids(head, parts):
    return head, [parts[0], np.full(3, 250, np.uint8), np.zeros(750, np.uint16)]


def none_legal(head, parts):
    return head, [parts[0], np.array([0, 7, 7], np.uint8), parts[2][:14]]


def few_ids(head, parts):
    return head, [*parts[:2], parts[2][:-1]]


def foreign(head, parts):
    return head, [*parts[:2], parts[2] + 7]


def nothing(head, parts):
    return head, [b"", b"", b""]


def two_parts(head, parts):
    return head, parts[:2]


def unknown(head, parts):
    return {**head, "call": "dance"}, parts


@pytest.mark.parametrize(
    "change", [cut, many, many_with_their_ids, none_legal, few_ids, foreign, nothing, two_parts, unknown]
)
def test_a_damaged_request_is_refused_by_name_and_the_server_goes_on(game, server, change):
    assert half(game, server, change)
    assert not half(game, server, lambda head, parts: (head, parts))


def test_a_stranger_and_a_silent_connection_harm_nobody(game, server):
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as stranger, socket.create_connection((host, int(port))):
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(64))
        ask(RemoteEvaluator(game, server.address, server.newest, 8), positions(game, 3))


@pytest.mark.slow
def test_a_client_that_never_reads_is_not_read_either_and_others_are_answered(game, server):
    greedy = door.connect(server.address)
    greedy.send({"call": "hello", "about": meaning(game), "batch": 64})
    greedy.receive()
    leaves = positions(game, 64)
    ids = np.concatenate([leaves.legal[i, : leaves.count[i]] for i in range(64)]).astype(np.uint16)
    parts = [leaves.states.tobytes(), leaves.count.astype(np.uint8).tobytes(), ids.tobytes()]
    (theirs,) = server._channels
    for channel in (greedy, theirs):  # small buffers fill sooner
        for kind in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            channel._socket.setsockopt(socket.SOL_SOCKET, kind, 4096)
    greedy.set_timeout(0.5)

    def flood():
        with pytest.raises(UnreachableError):  # the network is full: back-pressure
            while True:
                greedy.send({"call": "evaluate", "number": 1, "model": server.newest}, parts)

    flooding = threading.Thread(target=flood)
    flooding.start()
    polite = RemoteEvaluator(game, server.address, server.newest, 64)
    longest = 0.0
    while flooding.is_alive():
        begun = time.monotonic()
        ask(polite, positions(game, 3))
        longest = max(longest, time.monotonic() - begun)
        assert server.counters()["waiting"] <= 64 + 3
    flooding.join()
    greedy.close()
    assert longest < 1.0


def test_an_evaluator_takes_two_batches_in_flight_and_no_third(game, server):
    evaluator = RemoteEvaluator(game, server.address, server.newest, 64)
    leaves = positions(game, 5)
    evaluator.submit(leaves)
    evaluator.submit(leaves)
    with pytest.raises(BackendError, match="in flight"):
        evaluator.submit(leaves)
    with pytest.raises(BackendError, match="takes 64 states"):
        RemoteEvaluator(game, server.address, server.newest, 64).submit(positions(game, 65))


def test_submit_copies_its_leaves(game, server):
    evaluator = RemoteEvaluator(game, server.address, server.newest, 64)
    leaves = positions(game, 30)
    expected = ask(evaluator, leaves)
    ticket = evaluator.submit(leaves)
    for array in leaves:
        array[...] = np.zeros((), array.dtype)
    found = evaluator.result(ticket)
    assert (found.values[:30] == expected[1]).all()


def test_leaves_sent_before_the_server_died_are_answered_by_the_next_one(game):
    """The server is closed with leaves in flight; another starts at the same address a while later."""
    hash_, data = encoded(game)
    first = InferenceServer(game, CPU, max_batch=64, lanes=1)
    first.publish(hash_, data)
    address, said = first.listen(ANY), []
    evaluator = RemoteEvaluator(game, address, hash_, 64, stop=lambda: False, tell=said.append)
    leaves = positions(game, 20)
    expected = ask(evaluator, leaves)
    first.close()
    tickets = [evaluator.submit(leaves), evaluator.submit(leaves)]
    later = []

    def again():
        time.sleep(0.8)
        server = InferenceServer(game, CPU, max_batch=64, lanes=1)
        server.publish(hash_, data)
        server.listen(address)
        later.append(server)

    thread = threading.Thread(target=again)
    thread.start()
    for ticket in tickets:
        assert (evaluator.result(ticket).values[:20] == expected[1]).all()
    thread.join()
    later[0].close()
    assert evaluator.losses == 1
    assert len(said) == 2 and "sent again" in said[0] and "answers again" in said[1]


def test_a_server_that_stays_away_is_given_up_when_stop_says_so(game, server):
    stopped = threading.Event()
    evaluator = RemoteEvaluator(
        game, server.address, server.newest, 64, stop=stopped.is_set, tell=lambda _: None
    )
    server.close()
    threading.Timer(0.5, stopped.set).start()
    begun = time.monotonic()
    with pytest.raises(UnreachableError):
        ask(evaluator, positions(game, 3))
    assert 0.3 < time.monotonic() - begun < 3


def test_a_wrong_address_is_told_at_once():
    with pytest.raises(UnreachableError, match="nothing answers at 127.0.0.1:1"):
        RemoteEvaluator(make("tictactoe"), "127.0.0.1:1", "0" * 64, 8)
    with pytest.raises(StoreError, match="is no address"):
        RemoteEvaluator(make("tictactoe"), "gpu-box", "0" * 64, 8)


def test_a_server_started_anew_without_a_model_says_so_and_takes_it_from_a_worker(game):
    server = InferenceServer(game, CPU, max_batch=64, lanes=1)
    hash_, data = encoded(game)
    evaluator = RemoteEvaluator(game, server.listen(ANY), hash_, 64)
    ticket = evaluator.submit(positions(game, 3))
    with pytest.raises(StaleModelError, match="no model yet"):
        evaluator.result(ticket)
    remote.publish(server.address, game, hash_, data, newest=False)
    assert np.isfinite(evaluator.result(ticket).values[:3]).all()
    assert server.newest == hash_
    server.close()


def test_a_model_that_is_only_offered_is_answered_for_and_the_newest_stays(game, server):
    server.publish(*encoded(game, 2))
    newest = server.newest
    hash_, data = encoded(game, 3)
    remote.publish(server.address, game, hash_, data, newest=False)
    evaluator = RemoteEvaluator(game, server.address, hash_, 64)
    leaves = positions(game, 5)
    expected = ask(make_evaluator(game, network(game, 3), CPU, [64]), leaves)[1]
    assert np.abs(ask(evaluator, leaves)[1] - expected).max() < 1e-5
    assert server.newest == newest
    server.publish(*encoded(game, 4))  # now the former newest is the one before
    evaluator.model = newest
    ask(evaluator, leaves)
    evaluator.model = hash_
    with pytest.raises(StaleModelError):
        ask(evaluator, leaves)


def test_a_standing_server_follows_the_newest_model_of_a_run(game, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    server, said, done = InferenceServer(game, CPU, max_batch=64, lanes=1), [], threading.Event()
    following = threading.Thread(target=follow, args=(server, tmp_path, done.is_set, said.append, 0.05))
    following.start()
    for seed in (1, 2):
        hash_ = model.save(network(game, seed), game, models)
        (tmp_path / "newest").write_text(hash_)
        end = time.monotonic() + 10
        while server.newest != hash_ and time.monotonic() < end:
            time.sleep(0.02)
        assert server.newest == hash_
    done.set()
    following.join(5)
    server.close()
    assert len(said) == 2


def test_models_are_published_over_the_wire_and_damaged_ones_refused(game, server):
    hash_, data = encoded(game, 5)
    remote.publish(server.address, game, hash_, data)
    assert server.newest == hash_
    with pytest.raises(RefusedError, match="damaged"):
        remote.publish(server.address, game, hash_, data[:-1] + b"x")
    other = make("tictactoe")
    with pytest.raises(RefusedError, match="connect4"):
        remote.publish(server.address, game, *encoded(other))
    assert server.newest == hash_


def test_the_device_is_shared_while_a_batch_is_computed(game):
    share = DeviceShare(0.5)
    server = InferenceServer(game, CPU, max_batch=64, lanes=1, share=share)
    server.publish(*encoded(game))
    ask(RemoteEvaluator(game, server.listen(ANY), server.newest, 64), positions(game, 9))
    server.close()
    assert share.busy_seconds[INFERENCE] > 0


def test_batch_sizes_reach_the_maximum_and_pad_little():
    for most in (1, 31, 64, 1000, 1024):
        sizes = batch_sizes(most, cpu=True)
        assert sizes[-1] == most
        assert all(big <= 1.5 * small for small, big in zip(sizes[:-1], sizes[1:], strict=True))
    assert batch_sizes(1024, cpu=False) == [256, 1024]


def test_closed_lanes_leave_nobody_waiting(game):
    lanes = Lanes(game, CPU, 64, number=1)
    lanes.publish(*encoded(game))
    asker = lanes.join()
    lanes.close()
    with pytest.raises(UnreachableError, match="closed"):
        lanes.ask(asker, lanes.newest, Request(game.states(1), np.ones(1, np.int32), np.zeros(1, np.int32)))


def test_self_play_over_the_wire_plays_whole_games_with_the_statistics_of_self_play_here():
    """Same seed, same games: what the network says differs by half precision, the games stay as long."""
    game = make("tictactoe")
    config = Config()
    config = replace(
        config,
        selfplay=replace(config.selfplay, games=16, threads=1),
        search=replace(config.search, simulations=replace_constant(config, 16)),
        run=replace(config.run, device="cpu", precision="fp32"),
    )
    hash_, data = encoded(game)
    server = InferenceServer(game, CPU, max_batch=64, lanes=1)
    server.publish(hash_, data)
    address = server.listen(ANY)
    lengths, outcomes = {}, {}
    for where in ("here", "server"):
        episodes = []
        connect = None if where == "here" else (lambda name: RemoteEvaluator(game, address, name, 16))
        collector = LocalCollector(game, config, CPU, episodes.append, connect=connect)
        collector.publish(network(game) if where == "here" else None, hash_)
        collector.begin(3000)
        assert collector.collect(lambda: False)
        collector.close()
        assert all(np.isfinite(e.root_value).all() for e in episodes)
        assert all((np.diff(e.offsets)[e.policy_weight > 0] > 0).all() for e in episodes)
        lengths[where] = [len(e.action) for e in episodes]
        outcomes[where] = [e.outcome for e in episodes]
    server.close()
    assert len(lengths["server"]) > 200
    for found in (lengths, [*outcomes.items()] and {k: [x == 0 for x in v] for k, v in outcomes.items()}):
        a, b = (np.array(found[k], float) for k in ("here", "server"))
        error = np.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) < 4 * error + 1e-9


def replace_constant(config, value):
    """Return the schedule of a constant number."""
    from zeroloop import configfile

    return configfile.build(Config, {"search": {"simulations": value}}, "the test").search.simulations
