"""Ray: the store behind an actor, the room for actors, machines turned away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading

import pytest

from tests.distributed import test_memory_store as suite
from tests.distributed.own_ray import ray
from tests.distributed.stores import ABOUT, eventually
from tests.material import small_config
from zeroloop.cluster import connection, nodes, room
from zeroloop.cluster.store import RayStore, Replay
from zeroloop.cluster.training import train_on_ray
from zeroloop.distributed.store import MEANING, Weights
from zeroloop.errors import ConfigError, RefusedError, StoreError, UnreachableError


@pytest.fixture(scope="module")
def machine():
    """A Ray of one machine, with this process as its driver."""
    with connection.connected("local", 2):
        yield


@pytest.fixture
def make(machine):
    @contextlib.contextmanager
    def made(capacity):
        actor = ray.remote(Replay).options(num_cpus=0, max_restarts=-1).remote(ABOUT, capacity, 30.0, False)
        yield RayStore(actor), lambda: RayStore(actor)
        ray.kill(actor)

    return made


def end(actor):
    """Let an actor's process die, and wait until Ray has made it anew."""
    pid = ray.get(actor.call.remote("pid", ())).value
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: answered(actor) not in (None, pid))


def answered(actor):
    with contextlib.suppress(ray.exceptions.RayError):
        return ray.get(actor.call.remote("pid", ()), timeout=5).value
    return None


# The suite of all stores, for this one.


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_store_does_what_a_slow_model_of_the_protocol_does(make, seed):
    suite.test_a_store_does_what_a_slow_model_of_the_protocol_does(make, seed)


@pytest.mark.slow
def test_many_workers_at_once_lose_and_double_nothing(make):
    suite.test_many_workers_at_once_lose_and_double_nothing(make)


@pytest.mark.slow
def test_a_store_that_is_full_takes_fewer_and_goes_on_when_there_is_room(make):
    suite.test_a_store_that_is_full_takes_fewer_and_goes_on_when_there_is_room(make)


# The store. A Ray takes ten seconds to start and to end: what needs one is slow.


@pytest.mark.slow
def test_a_replay_actor_that_died_costs_no_game_and_doubles_none(make):
    with make(10) as (learner, connect):
        worker = connect()
        learner.resume({})
        learner.publish(Weights("hash", b"model"), 0.5)
        worker.join(5, "t", ABOUT)
        worker.add(5, 1, [b"one", b"two", b"three"], [1, 1, 1])
        first = learner.read(0, 2)
        learner.acknowledge(first[-1].number, {5: 2})
        end(learner._actor)
        with pytest.raises(RefusedError, match="has not joined"):
            worker.add(5, 4, [b"four"], [1])
        assert worker.join(5, "t", ABOUT, safe=2).stored == 2
        worker.add(5, 3, [b"three", b"four"], [1, 1])
        second = []
        eventually(lambda: second.extend(learner.read(2, 10)) or len(second) == 2)
        assert [(g.number, g.sequence, g.data) for g in second] == [(3, 3, b"three"), (4, 4, b"four")]
        assert worker.report(5, {}).model == "hash", "the learner gives a new actor the model again"
        assert worker.weights("").data == b"model"
        learner.acknowledge(second[-1].number, {5: 4})
        assert worker.report(5, {}).safe == 4
        assert worker.join(5, "t", ABOUT, safe=0).stored == 4, "what the learner has is not taken again"


@pytest.mark.slow
def test_an_acknowledgement_that_a_dead_actor_missed_deletes_nothing_of_the_next_one(make):
    with make(10) as (learner, connect):
        worker = connect()
        worker.join(5, "t", ABOUT)
        worker.add(5, 1, [b"one", b"two"], [1, 1])
        read = learner.read(0, 10)
        end(learner._actor)
        worker.join(5, "t", ABOUT)
        worker.join(6, "t", ABOUT)
        worker.add(6, 1, [b"another's"], [1])
        learner.acknowledge(read[-1].number, {5: 2})
        assert [(g.worker, g.data) for g in learner.read(read[-1].number, 10)] == [(6, b"another's")]


@pytest.mark.slow
def test_a_new_actor_hears_from_the_learner_what_it_need_not_take_again(make):
    with make(10) as (learner, connect):
        worker = connect()
        worker.join(5, "t", ABOUT)
        worker.add(5, 1, [b"one", b"two"], [1, 1])
        learner.acknowledge(learner.read(0, 10)[-1].number, {5: 2})
        end(learner._actor)
        learner.read(2, 10)
        assert worker.join(5, "t", ABOUT, safe=0) == (2, 2), "the worker missed the acknowledgement"


@pytest.mark.slow
def test_a_worker_that_has_left_is_not_waited_for(make):
    with make(10) as (learner, connect):
        first, second = connect(), connect()
        first.join(5, "t", ABOUT)
        second.join(6, "t", ABOUT)
        assert learner.present() == 2
        first.close()
        eventually(lambda: learner.present() == 1)
        assert [row["worker"] for row in learner.workers()] == [6]


@pytest.mark.slow
def test_counters_go_on_growing_over_an_actor_that_died(make):
    with make(10) as (learner, connect):
        worker = connect()
        worker.join(5, "t", ABOUT)
        worker.add(5, 1, [b"one", b"two"], [3, 4])
        learner.read(0, 10)
        assert learner.counters()["positions"] == 7
        end(learner._actor)
        learner.read(2, 10)
        worker.join(5, "t", ABOUT, safe=2)
        worker.add(5, 3, [b"three"], [5])
        assert learner.counters()["positions"] == 12


@pytest.mark.slow
def test_a_store_whose_actor_is_gone_for_good_is_unreachable(make):
    with make(10) as (learner, _):
        ray.kill(learner._actor)
        with pytest.raises(UnreachableError, match="replay actor"):
            learner.read(0, 1)


@pytest.mark.slow
def test_nobody_joins_before_the_learner_has_opened_its_run(machine):
    unopened = {k: v for k, v in ABOUT.items() if k != "identity"}
    actor = ray.remote(Replay).options(num_cpus=0).remote(unopened, 10, 30.0, False)
    store = RayStore(actor)
    with pytest.raises(UnreachableError, match="not begun"):
        store.about()
    store.identify("this one")
    assert store.about()["identity"] == "this one"
    ray.kill(actor)


@pytest.mark.slow
def test_workers_hear_of_a_model_once_the_inference_actor_has_it(machine):
    actor = ray.remote(Replay).options(num_cpus=0).remote(dict(ABOUT), 10, 30.0, True)
    learner, worker, server = RayStore(actor), RayStore(actor), RayStore(actor)
    learner.identify("a")
    with pytest.raises(UnreachableError):
        worker.about()
    server.serves("host:1", "")
    assert worker.about()["inference"] == "host:1"
    worker.join(5, "t", ABOUT)
    learner.publish(Weights("new", b"model"), 0.0)
    assert worker.report(5, {}).model == "" and worker.weights("") is None
    assert server.newest("") == Weights("new", b"model")
    server.serves("host:1", "new")
    assert worker.report(5, {}).model == "new"
    assert worker.weights("") == Weights("new", b"model") and worker.weights("new") is None
    ray.kill(actor)


@pytest.mark.slow
@pytest.mark.parametrize("key", MEANING)
def test_a_worker_of_another_version_or_game_is_refused_by_name(make, key):
    with make(10) as (_, connect), pytest.raises(RefusedError, match=f"{key} 1.*the worker other"):
        connect().join(5, "t", {**ABOUT, key: "other"})


# Room.


def node(number, **resources):
    return room.Node(f"id{number}", f"host{number}", f"10.0.0.{number}", resources, {})


def wanted(**ray_section):
    workers = ray_section.pop("workers", 0)
    return small_config(ray=ray_section, collect={"workers": workers})


def test_the_learner_is_placed_where_the_driver_is_if_it_can():
    two = [node(1, CPU=4.0), node(2, CPU=4.0)]
    assert room.plan(two, wanted(), "id2").learner == two[1]
    assert room.plan(two, wanted(), "id1").workers == 7


def test_the_learner_is_placed_where_its_gpu_or_its_node_is():
    two = [node(1, CPU=4.0, head=1.0), node(2, CPU=4.0, GPU=1.0, worker=1.0)]
    assert room.plan(two, wanted(learner_gpus=0.5), "id1").learner == two[1]
    assert room.plan(two, wanted(learner_node="worker"), "id1").learner == two[1]


def test_two_actors_that_want_the_one_gpu_are_refused_with_what_to_do():
    one = [node(1, CPU=8.0, GPU=1.0)]
    want = {"learner_gpus": 1.0, "inference": True, "inference_gpus": 1.0}
    with pytest.raises(ConfigError, match=r"1 CPU, 1 GPU beside.*host1 with 8 CPU, 1 GPU.*gpus=0\.5"):
        room.plan(one, wanted(**want), "id1")
    assert room.plan(one, wanted(**{**want, "learner_gpus": 0.5, "inference_gpus": 0.5}), "id1").workers == 6


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"learner_gpus": 1.0}, "the learner wants 1 CPU, 1 GPU on one machine; .* host1 with 2 CPU"),
        ({"learner_cpus": 3.0}, "the learner wants 3 CPU"),
        ({"learner_node": "head"}, "the learner wants 1 CPU, 'head'"),
        ({"worker_cpus": 2.0}, "a self-play actor wants 2 CPU beside the learner's 1 CPU"),
        ({"worker_cpus": 0.0}, "set collect.workers"),
    ],
)
def test_what_cannot_be_placed_is_named_with_what_there_is(given, words):
    with pytest.raises(ConfigError, match=words):
        room.plan([node(1, CPU=2.0)], wanted(**given), "id1")


def test_a_learner_goes_on_only_on_the_machine_where_its_run_lies():
    two = [node(1, CPU=4.0), node(2, CPU=4.0)]
    assert room.plan(two, wanted(), "id1", "10.0.0.2").learner == two[1]
    with pytest.raises(ConfigError, match=r"at 10\.0\.0\.3, where the run directory lies"):
        room.plan(two, wanted(), "id1", "10.0.0.3")


# Machines.


@pytest.mark.parametrize("text", ["10001", "x-y", "10001-10010", "65530-70000", "2-1"])
def test_a_range_of_ports_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="ports"):
        nodes.Ports.parse(text)


def test_every_port_of_a_machine_lies_in_its_range_and_none_twice():
    options = nodes.Ports.parse("10001-10100").options(head=True)
    ports = [int(x.rpartition("=")[2]) for x in options]
    assert min(ports) == 10001 and max(ports) == 10100 and len(set(ports)) == len(ports)


def test_a_wrong_head_address_is_told_in_a_sentence():
    with pytest.raises(UnreachableError, match=r"no Ray head answers at 127\.0\.0\.1:1 .*firewall"):
        connection.answers("127.0.0.1:1")
    with pytest.raises(StoreError, match="is no address"):
        connection.answers("nonsense")


def test_another_server_at_the_heads_port_is_not_taken_for_ray():
    listening = socket.create_server(("127.0.0.1", 0))

    def redis():
        found, _ = listening.accept()
        found.recv(1000)
        found.sendall(b"-ERR unknown command 'PRI'\r\n")
        found.close()

    thread = threading.Thread(target=redis)
    thread.start()
    with pytest.raises(UnreachableError, match="is not Ray"):
        connection.answers(f"127.0.0.1:{listening.getsockname()[1]}")
    thread.join()
    listening.close()


def test_an_absent_cluster_is_told_in_a_sentence(monkeypatch, tmp_path):
    with pytest.raises(UnreachableError, match="no Ray head answers"):
        train_on_ray(tmp_path, small_config(ray={"address": "127.0.0.1:1"}), print, lambda: True)


@pytest.mark.parametrize("section", [{"store": "redis"}, {"bind": "127.0.0.1:0"}])
def test_a_second_store_beside_rays_is_refused(tmp_path, section):
    config = small_config(ray={"address": "local"}, collect=section)
    with pytest.raises(ConfigError, match="replay is an actor"):
        train_on_ray(tmp_path, config, print, lambda: True)
