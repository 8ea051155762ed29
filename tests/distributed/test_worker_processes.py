"""`zeroloop worker ADDRESS --workers N`: the dead are replaced, signals passed on, the end is told."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from tests.distributed.stores import eventually
from tests.material import TICTACTOE, small_config
from zeroloop import model
from zeroloop.distributed import producers as module
from zeroloop.distributed.crew import about_run
from zeroloop.distributed.producers import Producers
from zeroloop.distributed.served import StoreServer
from zeroloop.distributed.store import MemoryStore, Weights
from zeroloop.distributed.worker import worker_of
from zeroloop.episode import Episode
from zeroloop.errors import StoreError
from zeroloop.evaluator.choice import shapes_of
from zeroloop.files import sha256
from zeroloop.networks import build

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIG = small_config(run={"precision": "fp32"}, collect={"queue": 100_000})

PROGRAM = """
import os, signal, sys
def say(text): print(text, file=sys.stderr, flush=True)
plan = os.environ["PLAN"].split()
for step in plan:
    if step.startswith("games"): say("games: " + step[5:])
    elif step.startswith("exit"): sys.exit(int(step[4:]))
    elif step == "killed": os.kill(os.getpid(), signal.SIGKILL)
    elif step == "words": say("zeroloop: the reason, in one sentence.")
    elif step == "odd": say("games: many"); say("games:"); say("games: -4")
sys.stdin.read()
say("games: 100")
if "late" in plan: say("zeroloop: the disk is full."); sys.exit(1)
"""


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Return a function that starts processes of a planned behaviour in the place of workers."""
    (tmp_path / "program.py").write_text(PROGRAM)
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{tmp_path}/program.py"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(module.sys, "executable", str(program))
    monkeypatch.setattr(module, "SHORTEST", 0.01)
    made = []

    def start(plan, number=1):
        monkeypatch.setenv("PLAN", plan)
        said = []
        made.append(Producers(number, "address", tmp_path, said.append, elsewhere=True))
        made[-1].said = said
        return made[-1]

    yield start
    for one in made:
        one.close(10)


def checked(one, fact):
    def looked():
        one.check()
        return fact()

    eventually(looked, 30)


def test_a_worker_that_has_heard_that_the_run_is_over_is_not_replaced(planned):
    one = planned("games3 games7 exit0", 2)
    checked(one, lambda: one.alive == 0 and one.over)
    one.check()
    assert one.restarts == 0 and one.games == 14 and one.exact and one.said == []


def test_who_cannot_join_at_first_is_the_error_of_the_whole_command_at_once(planned):
    one = planned("words exit1", 3)
    with pytest.raises(StoreError, match=r"^the reason, in one sentence\.$"):
        checked(one, lambda: False)
    assert one.restarts == 0


def test_the_reason_that_none_can_join_is_told_once_however_many_there_are(planned):
    one = planned("words exit1", 3)
    with pytest.raises(StoreError, match="the reason, in one sentence"):
        checked(one, lambda: False)
    one.close(30)
    assert one.said == [], "the error says it"


def test_who_ends_without_a_word_at_first_is_told_by_its_exit_code(planned):
    with pytest.raises(StoreError, match="ended with exit code 3 and said nothing"):
        checked(planned("exit3"), lambda: False)


def test_who_has_joined_and_fails_is_replaced_until_it_happens_too_often(planned):
    one = planned("games1 words exit1")
    with pytest.raises(StoreError, match="5 worker processes in a row .* the reason, in one sentence"):
        checked(one, lambda: False)
    assert one.restarts == 4


def test_who_is_killed_before_it_has_joined_is_replaced(planned):
    one = planned("killed")
    checked(one, lambda: one.restarts == 3)
    assert not one.exact


def test_games_of_the_dead_are_counted_once(planned):
    one = planned("games5 killed")
    checked(one, lambda: one.restarts == 3)
    eventually(lambda: one.alive == 0)
    assert one.games in (15, 20)
    eventually(lambda: one.games == 20)


def test_a_last_number_comes_at_the_end_and_what_is_no_number_is_words(planned):
    one = planned("odd games2", 2)
    eventually(lambda: one.games == 4)
    assert one.close(20) == 0
    assert one.games == 200 and one.exact


def test_who_fails_at_the_end_is_told_once_for_all_who_say_the_same_and_the_exit_code_is_given(planned):
    one = planned("games2 late", 2)
    eventually(lambda: one.games == 4)
    assert one.close(20) == 1
    assert len(one.said) == 1
    assert "ended with exit code 1 and said: zeroloop: the disk is full." in one.said[0]


# The command.


class Run:
    """A store as a learner has it, which takes every game, and the command that plays for it."""

    def __init__(self, folder, number=2, *more, password="", **environment):
        data = model.encode(build(CONFIG.network, shapes_of(TICTACTOE), 1), TICTACTOE)
        self.store = MemoryStore({**about_run("ttt", CONFIG, TICTACTOE), "identity": "a"}, 1000)
        self.store.publish(Weights(sha256(data), data), 0.0)
        self.server = StoreServer(self.store, "127.0.0.1:0", password=password)
        self.root, self.errors, self.taken = folder / "spool", folder / "errors", []
        words = [sys.executable, "-m", "zeroloop", "worker", self.server.address, "--workers", str(number)]
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [*words, "--spool", str(self.root), *more],
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, **environment},
            )
        self._ended = threading.Event()
        self._learner = threading.Thread(target=self._take)
        self._learner.start()

    def _take(self):
        while not self._ended.is_set():
            found = self.store.read(self.taken[-1].number if self.taken else 0, 1000)
            if found:
                self.store.acknowledge(found[-1].number, {g.worker: g.sequence for g in found})
                self.taken += found
            time.sleep(0.01)

    @property
    def said(self):
        return self.errors.read_text()

    def workers(self):
        """Return process numbers by spool."""
        found = {}
        for lock in self.root.glob("*/[0-9]*/lock"):
            words = lock.read_text().split()
            if len(words) == 2:
                found[lock.parent.name] = int(words[1])
        return found

    def played(self, number=2):
        """Wait until so many workers have given games."""

        def fact():
            assert self.process.poll() is None, self.said
            return len({g.worker for g in list(self.taken)}) >= number

        eventually(fact, 120)

    def ended(self):
        """Wait for the end, and return the exit code."""
        return self.process.wait(120)

    def close(self):
        pids = self.workers().values()
        self.process.kill()
        self.process.wait()
        eventually(lambda: not any(alive(pid) for pid in pids), 60)
        self._ended.set()
        self._learner.join()
        self.server.close()


def alive(pid):
    try:
        return b"zeroloop" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture
def begin(tmp_path):
    made = []

    def start(*args, **given):
        made.append(Run(tmp_path, *args, **given))
        return made[-1]

    yield start
    for one in made:
        one.close()


def keys(run):
    return [Episode.from_bytes(g.data, TICTACTOE).game_id for g in run.taken]


@pytest.mark.slow
def test_the_end_of_the_run_ends_all_and_the_number_of_games_is_told(begin):
    one = begin()
    one.played()
    pids = list(one.workers().values())
    one.store.stop()
    assert one.ended() == 0
    assert not any(alive(pid) for pid in pids)
    told = re.fullmatch(
        r"workers: the run is over, or was stopped; ([\d,]+) games were played here",
        one.said.splitlines()[-1],
    )
    found = keys(one)
    assert int(told[1].replace(",", "")) == len(found) == len(set(found)), one.said
    assert not list(one.root.glob("*/[0-9]*")), "every finished game was taken"


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_finished_games_are_sent(begin):
    one = begin()
    one.played()
    name, pid = sorted(one.workers().items())[0]
    os.kill(pid, signal.SIGKILL)
    one.played(3)
    eventually(lambda: pid not in one.workers().values() and len(one.workers()) == 2, 60)
    one.store.stop()
    assert one.ended() == 0
    assert f"worker process {pid} was killed by signal 9; another one takes its place" in one.said
    assert re.search(r"at least [\d,]+ games were played here; processes started again: 1", one.said)
    found = keys(one)
    assert len(found) == len(set(found))
    last = {}
    for g in one.taken:  # of each worker every game, without a gap
        assert g.sequence == last.get(g.worker, 0) + 1
        last[g.worker] = g.sequence
    assert len({worker_of(k) for k in found}) == 3 and int(name) in last
    assert not list(one.root.glob("*/[0-9]*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_parent_alone_ends_all_of_them_gracefully(begin, number):
    one = begin()
    one.played()
    pids = list(one.workers().values())
    one.process.send_signal(number)
    assert one.ended() == 130
    assert not any(alive(pid) for pid in pids)
    assert "workers: told to stop; " in one.said and "Traceback" not in one.said
    assert not list(one.root.glob("*/[0-9]*")), "what was finished was sent"


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(begin):
    one = begin()
    one.played()
    pids = list(one.workers().values())
    one.process.kill()
    eventually(lambda: not any(alive(pid) for pid in pids), 60)
    eventually(lambda: not list(one.root.glob("*/[0-9]*")), 30)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("given", ["wrong", ""])
def test_a_wrong_or_missing_password_ends_the_command_with_one_sentence(begin, workers, given):
    one = begin(workers, password="right", WORKER_PASSWORD=given)
    assert one.ended() == 1
    told = [line for line in one.said.splitlines() if line.startswith("zeroloop: ")]
    why = "client's password is not the server's" if given else "asks for a password, and the client has none"
    assert len(told) == 1 and f"{one.server.address} refuses: the " in told[0] and why in told[0]
    assert "Traceback" not in one.said and "right" not in one.said.replace("'right'", "")
    assert one.store.workers() == []


@pytest.mark.slow
def test_the_right_password_reaches_all_workers_by_the_environment(begin):
    one = begin(password="right", WORKER_PASSWORD="right")
    one.played()


def test_a_port_in_use_is_told_by_its_flag(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gauges = f"127.0.0.1:{taken.getsockname()[1]}"
        words = [sys.executable, "-m", "zeroloop", "worker", "127.0.0.1:1", "--gauges", gauges]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert done.returncode == 1
        assert f"--gauges is {gauges}, which cannot be listened at (" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_one_port_of_gauges_for_many_workers_is_refused(tmp_path):
    words = [sys.executable, "-m", "zeroloop", "worker", "127.0.0.1:1", "--gauges", "0.0.0.0:9190"]
    done = subprocess.run([*words, "--workers", "3"], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1
    assert "--gauges is 0.0.0.0:9190, one port for 3 workers; give port 0" in done.stderr
