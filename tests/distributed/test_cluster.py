"""Ray: the store behind an actor, the room for actors, machines turned away, and a run that loses parts."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import signal
import socket
import threading

import pytest

from tests.distributed.stores import ABOUT, eventually
from tests.distributed.test_memory_store import (  # noqa: F401 - the suite of all stores, for this one
    test_a_store_does_what_a_slow_model_of_the_protocol_does,
    test_a_store_that_is_full_takes_fewer_and_goes_on_when_there_is_room,
    test_many_workers_at_once_lose_and_double_nothing,
)
from tests.games.oracles import need
from tests.material import CONNECT4, small_config
from zeroloop.cluster import SETTINGS
from zeroloop.distributed.spool import Spool
from zeroloop.distributed.store import MEANING, Weights
from zeroloop.distributed.worker import worker_of
from zeroloop.episode import Episode
from zeroloop.errors import ConfigError, RefusedError, StoreError, UnreachableError
from zeroloop.replay.log import EpisodeLog

# A token of these tests alone, read when Ray is imported: nothing is written to the home directory.
os.environ |= {**SETTINGS, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
ray = need("ray")

from ray.cluster_utils import Cluster  # noqa: E402

from zeroloop.cluster import connection, nodes, room  # noqa: E402
from zeroloop.cluster.store import RayStore, Replay  # noqa: E402
from zeroloop.cluster.training import train_on_ray  # noqa: E402

# Ray leaves the files and sockets of the processes that it starts to the interpreter's end.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
SMALL = {"object_store_memory": 100 << 20}


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


# The store.


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


def test_a_store_whose_actor_is_gone_for_good_is_unreachable(make):
    with make(10) as (learner, _):
        ray.kill(learner._actor)
        with pytest.raises(UnreachableError, match="replay actor"):
            learner.read(0, 1)


def test_nobody_joins_before_the_learner_has_opened_its_run(machine):
    unopened = {k: v for k, v in ABOUT.items() if k != "identity"}
    actor = ray.remote(Replay).options(num_cpus=0).remote(unopened, 10, 30.0, False)
    store = RayStore(actor)
    with pytest.raises(UnreachableError, match="not begun"):
        store.about()
    store.identify("this one")
    assert store.about()["identity"] == "this one"
    ray.kill(actor)


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


# A run that loses its parts.


class Observer:
    """Watches a run through its reports, and at the iterations given does something to it.

    `steps`: what to do, one after another, each after so many iterations more.
    """

    def __init__(self, folder, steps, every=4):
        self.folder, self.steps, self.every = folder, list(steps), every
        self.next, self.said, self.games, self.done = every, [], {}, False

    def report(self, kind, values):
        if kind == "say":
            self.said.append(values["text"])
        if kind != "metrics":
            return
        with contextlib.suppress(FileNotFoundError):
            for row in json.loads((self.folder / "status.json").read_text())["workers"]:
                self.games[row["worker"]] = max(row["games"], self.games.get(row["worker"], 0))
        if values["iteration"] >= self.next:
            self.next = values["iteration"] + self.every
            if self.steps:
                self.steps.pop(0)()
            else:
                self.done = True

    def stop(self):
        return self.done

    def heard(self, words):
        return any(words in text for text in self.said)


def children(name):
    """Return the numbers of this process's descendants whose command begins with `name`."""
    parents, names = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(path.name)] = (path / "cmdline").read_bytes().decode(errors="replace")
    own = {os.getpid()}
    while more := {p for p, parent in parents.items() if parent in own} - own:
        own |= more
    return sorted(p for p in own if names[p].startswith(name))


def kill(name):
    def now():
        os.kill(children(name)[0], signal.SIGKILL)

    return now


def account(folder, seen):
    """Check that each game that a worker had finished is stored once, or still in its spool.

    `seen`: of each worker the most games that it has ever reported as finished.
    """
    log = EpisodeLog(folder / "episodes.log")
    logged = [Episode.from_bytes(data, CONNECT4).game_id for _, data in log.open_at(0)]
    log.close()
    assert len(set(logged)) == len(logged), "a game is stored twice"
    spools = [s for root in (folder / "spool").glob("*") for s in Spool.adopt(root)]
    waiting = {s.number: s for s in spools}
    for worker in seen | dict.fromkeys(waiting, 0):
        mine = {i for i in logged if worker_of(i) == worker}
        finished = len(mine)
        if worker in waiting:
            spool = waiting[worker]
            kept = {Episode.from_bytes(x, CONNECT4).game_id for x in spool.after(spool.safe, 1 << 30)[1]}
            assert spool.safe <= len(mine), "a game left the spool before it was stored"
            finished = len(mine | kept)
            assert finished == spool.last
        assert finished >= seen.get(worker, 0), "a finished game is lost"
    for spool in spools:
        spool.close()
    return len(logged)


def endless(address, **ray_section):
    return small_config(
        "connect4",
        ray={"address": address, **ray_section},
        collect={"workers": 3},
        evaluate={"every_positions": 1 << 40, "positions": 0},
        budget={"positions": 1 << 40},
        selfplay={"games": 32},
        run={"iteration_positions": 500, "checkpoint_iterations": 3},
    )


@pytest.mark.slow
def test_a_local_run_loses_worker_learner_replay_and_inference_and_no_game(tmp_path):
    folder = tmp_path / "run"
    kills = ["ray::SelfPlay", "ray::Learner", "ray::Replay", "ray::Inference"]
    observer = Observer(folder, [kill(name) for name in kills])
    outcome = train_on_ray(folder, endless("local", inference=True), observer.report, observer.stop)
    assert not outcome.finished and outcome.iteration > 16
    for words in ("the worker on", "the learner died", "the replay actor does not", "the inference actor"):
        assert observer.heard(words), observer.said
    assert account(folder, observer.games) > 0
    assert not children("ray::"), "processes are left"


@pytest.fixture
def cluster():
    made = Cluster()
    made.add_node(num_cpus=2, resources={"head": 1}, include_dashboard=False, **SMALL)
    yield made
    processes = [
        info.process for n in made.list_all_nodes() for infos in n.all_processes.values() for info in infos
    ]
    made.shutdown()
    for process in processes:
        process.wait(20)


@pytest.mark.slow
def test_a_machine_is_killed_in_mid_training_and_another_joins_and_no_game_is_lost(tmp_path, cluster):
    folder = tmp_path / "run"
    lost = cluster.add_node(num_cpus=2, resources={"worker": 1}, **SMALL)
    cluster.add_node(num_cpus=2, labels={"zeroloop": "0.0.1"}, **SMALL)

    def leave():
        cluster.remove_node(lost, allow_graceful=False)

    def join():
        cluster.add_node(num_cpus=2, resources={"worker": 1}, **SMALL)

    observer = Observer(folder, [leave, join], every=12)
    config = endless(cluster.address, learner_node="head")
    outcome = train_on_ray(folder, config, observer.report, observer.stop)
    assert not outcome.finished and outcome.iteration > 36
    assert observer.heard("has zeroloop 0.0.1, the driver"), observer.said
    assert observer.heard("is gone") and observer.heard("joined with 2 CPU"), observer.said
    assert len(observer.games) > 3, "the machine that joined plays"
    assert account(folder, observer.games) > 0


@pytest.mark.slow
def test_more_actors_than_there_is_room_for_are_told_at_once_and_the_others_play(tmp_path, cluster):
    observer = Observer(tmp_path / "run", [], every=1)
    config = endless(cluster.address)
    train_on_ray(tmp_path / "run", config, observer.report, observer.stop)
    assert observer.heard("3 self-play actors are wanted with 1 CPU each; the cluster has room for 1")
