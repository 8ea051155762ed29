"""A run on Ray that loses its parts, one after another: training goes on, and no finished game is lost."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from tests.distributed.own_ray import Cluster
from tests.material import CONNECT4, small_config
from zeroloop.cluster.training import train_on_ray
from zeroloop.distributed.spool import Spool
from zeroloop.distributed.worker import worker_of
from zeroloop.episode import Episode
from zeroloop.replay.log import EpisodeLog

SMALL = {"object_store_memory": 100 << 20}


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
                self.games[row["worker"]] = max(row.get("games", 0), self.games.get(row["worker"], 0))
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


def zeroloop(*arguments, **environment):
    command = [sys.executable, "-m", "zeroloop", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.mark.slow
def test_the_commands_make_a_cluster_of_two_refuse_a_stranger_and_end_it():
    if any("gcs_server" in command for command in commands()):
        pytest.skip("another Ray runs on this machine, and `cluster stop` would end it")
    machine = ("--cpus", "1", "--object-megabytes", "100")
    port = str(free_port())
    try:
        head = ("start-head", "--port", port, "--dashboard-port", "0", "--ports", "21001-21040")
        made = zeroloop("cluster", *head, *machine, "--json")
        assert made.returncode == 0, made.stderr
        address = json.loads(made.stdout)["head"]
        join = ("cluster", "start-worker", "--head", address, "--ports", "21101-21140", *machine)
        stranger = zeroloop(*join, RAY_AUTH_TOKEN="0" * 64)
        assert stranger.returncode == 1 and "does not take this machine's token" in stranger.stderr
        assert zeroloop(*join).returncode == 0
        found = json.loads(zeroloop("cluster", "status", "--json").stdout)
        assert sorted(m["role"] for m in found["machines"]) == ["head", "worker"]
        assert found["cpus"] == found["free_cpus"] == 2
        assert len({m["zeroloop"] for m in found["machines"]} | {""}) == 2
    finally:
        assert zeroloop("cluster", "stop", "--json").stdout.strip() == '{"stopped": true}'
    gone = zeroloop("cluster", "status")
    assert gone.returncode == 1 and "no Ray cluster of this machine" in gone.stderr


def commands():
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            yield path.read_bytes().decode(errors="replace")


@pytest.mark.slow
def test_a_wrong_head_is_one_sentence_and_exit_code_1(tmp_path):
    for arguments in (
        ("cluster", "start-worker", "--head", "127.0.0.1:1"),
        ("train", "tictactoe", "--run", str(tmp_path / "run"), "--ray", "127.0.0.1:1"),
    ):
        done = zeroloop(*arguments)
        assert done.returncode == 1
        assert "zeroloop: no Ray head answers at 127.0.0.1:1 (" in done.stderr
        assert "Traceback" not in done.stderr and not done.stdout
