"""Worker processes: started, watched, replaced, ended; and whole runs in which they are killed or stopped."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.distributed.stores import eventually
from zeroloop.distributed import producers as module
from zeroloop.distributed.producers import Producers
from zeroloop.distributed.worker import worker_of
from zeroloop.episode import Episode
from zeroloop.errors import StoreError
from zeroloop.games import make
from zeroloop.metrics import read_events
from zeroloop.replay.log import EpisodeLog

ROOT = pathlib.Path(__file__).parent.parent.parent
LAGGARD = pathlib.Path(__file__).parent / "laggard.py"


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Return a function that starts processes of a planned behaviour in the place of workers."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{LAGGARD}"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(module.sys, "executable", str(program))
    monkeypatch.setattr(module, "SHORTEST", 0.05)
    made = []

    def start(plan, number=1):
        monkeypatch.setenv("LAGGARD", plan)
        said = []
        made.append(Producers(number, "address", tmp_path, said.append))
        made[-1].said = said
        return made[-1]

    yield start
    for one in made:
        for pid in one.pids:
            if any(p.pid == pid and p.code() is None for p in one._processes):
                os.kill(pid, signal.SIGKILL)
        one.close(5)


def checked(one, fact, seconds=10):
    """Check the processes until this is true."""
    end = time.monotonic() + seconds
    while not fact():
        one.check()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_processes_run_until_they_are_let_go(started):
    one = started("good", 3)
    eventually(lambda: len(one.said) == 3)
    assert one.alive == 3 and len(set(one.pids)) == 3
    assert one.said[0].startswith("worker: hello of good (process ")
    begun, called = time.monotonic(), []
    one.close(20, lambda: called.append(1))
    assert one.alive == 0 and time.monotonic() - begun < 5 and called and one.restarts == 0
    one.check()
    assert one.alive == 0, "what was ended is not replaced"


def test_a_killed_process_is_replaced_and_that_is_said(started):
    one = started("good")
    (first,) = one.pids
    os.kill(first, signal.SIGKILL)
    checked(one, lambda: one.restarts == 1)
    eventually(lambda: one.alive == 1)
    assert one.pids != [first]
    assert f"worker process {first} was killed by signal 9; another one takes its place" in one.said


@pytest.mark.slow
def test_a_process_that_is_killed_each_time_is_replaced_ever_more_slowly_and_training_goes_on(started):
    one = started("killed")
    begun = time.monotonic()
    checked(one, lambda: one.restarts == 7)
    assert time.monotonic() - begun > 0.05 * (1 + 2 + 4 + 8 + 16 + 32)


@pytest.mark.parametrize(
    "plan, how", [("fails", "ended with exit code 1"), ("crashes", "killed by signal 11")]
)
def test_processes_that_fail_one_after_the_other_end_the_run_with_their_words(started, plan, how):
    one = started(plan, 2)
    words = "the reason, in one sentence" if plan == "fails" else "said nothing"
    with pytest.raises(StoreError, match=f"5 worker processes in a row .*{how}.*{words}"):
        checked(one, lambda: False)
    assert one.restarts <= 5
    told = [text for text in one.said if how in text]
    assert len(told) == 4 and (plan != "fails" or "the reason, in one sentence" in told[0])


def test_a_process_that_does_not_end_is_killed_after_the_time_given(started):
    one = started("deaf")
    eventually(lambda: one.said)
    begun = time.monotonic()
    one.close(0.5)
    assert 0.4 < time.monotonic() - begun < 5 and one.alive == 0
    assert f"worker process {one.pids[0]} did not end in 0 s and is killed" in one.said[-1]


def test_a_stopped_process_is_neither_replaced_nor_in_the_way_of_the_end(started):
    one = started("good")
    eventually(lambda: one.said)
    os.kill(one.pids[0], signal.SIGSTOP)
    for _ in range(5):
        one.check()
        time.sleep(0.02)
    assert one.restarts == 0 and one.alive == 1
    one.close(0.3)
    assert one.alive == 0


def test_what_a_process_writes_never_blocks_it(started):
    one = started("chatty")
    eventually(lambda: one.said)
    one.close(5)
    assert one.alive == 0 and "killed" not in " ".join(one.said)


def test_many_deaths_leave_no_file_open(started):
    one = started("good", 2)
    eventually(lambda: len(one.said) == 2)
    files = len(os.listdir("/proc/self/fd"))
    for n in range(1, 6):
        os.kill(one.pids[n % 2], signal.SIGKILL)
        checked(one, lambda n=n: one.restarts == n)
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= files)


# Whole runs.

SETTINGS = [
    "network.blocks=1",
    "network.channels=8",
    "network.value_hidden=8",
    "search.simulations=8",
    "selfplay.games=16",
    "selfplay.cache_megabytes=1",
    "learn.batch_size=64",
    "replay.window_min=500",
    "run.iteration_positions=600",
    "run.checkpoint_iterations=2",
    "evaluate.every_positions=1000000000",
    "evaluate.positions=0",
    "evaluate.opponents.random=null",
    "evaluate.opponents.minimax:3=null",
    "promote.floors.random=null",
    "promote.max_pairs=16",
    "match.simulations=4",
    "budget.positions=1000000000",
    "collect.workers=2",
]


def command(folder, *more):
    words = [sys.executable, "-m", "zeroloop", "train", "tictactoe", "--run", str(folder), "--seed", "5"]
    words += ["--no-preflight"]
    for setting in (*SETTINGS, *more):
        words += ["--set", setting]
    return words


class Run:
    """A training in processes of its own; killed with the test."""

    def __init__(self, folder, *more, **environment):
        self.folder, self.errors = folder, folder.with_name(f"{folder.name}.{time.monotonic_ns()}.err")
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                command(folder, *more),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **environment},
                cwd=ROOT,
            )

    @property
    def said(self):
        return self.errors.read_text()

    def workers(self):
        """Return the worker processes by the spools that they hold."""
        found = {}
        for lock in self.folder.glob("spool/*/[0-9]*/lock"):
            words = lock.read_text().split()
            if len(words) == 2:
                found[lock.parent] = int(words[1])
        return found

    def size(self):
        log = self.folder / "episodes.log"
        return log.stat().st_size if log.exists() else 0

    def grown(self, size=0, seconds=90):
        """Wait until the log is larger than this."""

        def fact():
            assert self.process.poll() is None, self.said
            return self.size() > size

        eventually(fact, seconds)

    def interrupted(self):
        """Press Ctrl-C and wait for the end."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        return self.process.returncode


@pytest.fixture
def begin(tmp_path):
    """Return a function that begins, or goes on with, the test's run."""
    made = []

    def start(*more, **environment):
        made.append(Run(tmp_path / "run", *more, **environment))
        return made[-1]

    yield start
    for one in made:
        for pid in one.workers().values():
            if f"{one.folder}/spool" in commandline(pid):
                os.kill(pid, signal.SIGKILL)
        one.process.kill()
        one.process.wait()


def commandline(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def keys(folder):
    """Return the keys of the log's games."""
    log, game = EpisodeLog(folder / "episodes.log"), make("tictactoe")
    found = [Episode.from_bytes(data, game).game_id for _, data in log.open_at(0)]
    log.close()
    return found


def spooled(folder):
    """Return the keys of the games that are finished and in spools."""
    game, found = make("tictactoe"), set()
    for path in sorted(folder.glob("spool/*/[0-9]*/*.log")):
        log = EpisodeLog(path)
        found |= {Episode.from_bytes(data[4:], game).game_id for _, data in log.open_at(0)}
        log.close()
    return found


def once(found):
    return max(Counter(found).values()) == 1


@pytest.mark.slow
def test_workers_killed_every_two_seconds_lose_no_finished_game(tmp_path):
    words = [sys.executable, str(ROOT / "examples" / "kill_workers.py"), str(tmp_path / "run")]
    words += ["--game", "tictactoe", "--every", "2", "--minutes", "0.2", "--json"]
    chosen = [s for s in SETTINGS if not s.startswith(("budget", "evaluate.positions", "collect"))]
    for setting in chosen:
        words += ["--set", setting]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= 1 and found["sent"] > 100 and found["steps_meanwhile"] > 0
    assert found["sent"] == found["stored"] + found["losses"]
    assert found["losses"] == found["doubled"] == found["invented"] == found["left_in_spools"] == 0


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_takes_their_last_games(begin):
    one = begin()
    one.grown(60_000)
    pids = list(one.workers().values())
    assert len(pids) == 2 and one.interrupted() == 130
    assert not any(commandline(pid) for pid in pids), "no worker outlives the run"
    assert list(one.folder.glob("spool/*/[0-9]*")) == [], "every finished game is in the log"
    assert once(keys(one.folder))
    assert "Traceback" not in one.said and "killed" not in one.said


@pytest.mark.slow
def test_a_killed_learner_goes_on_and_what_its_workers_had_finished_is_taken_once(begin):
    one = begin()
    one.grown(60_000)
    pids = list(one.workers().values())
    one.process.kill()
    one.process.wait()
    eventually(lambda: not any(commandline(pid) for pid in pids), 30)
    left, before = spooled(one.folder), keys(one.folder)
    assert once(before)
    two = begin()
    two.grown(one.size() + 60_000)
    assert two.interrupted() == 130
    found = keys(two.folder)
    assert once(found) and set(before) <= set(found) and left <= set(found)
    assert spooled(two.folder) == set()
    assert "which is gone, are sent first" in two.said or not left


@pytest.mark.slow
def test_a_worker_stopped_for_longer_than_it_may_be_silent_comes_back_and_nothing_is_lost(begin):
    one = begin("collect.lost_seconds=1")
    one.grown(60_000)
    folder, pid = sorted(one.workers().items())[0]

    def mine():
        return sum(worker_of(k) == int(folder.name) for k in keys_of_copy(one.folder))

    eventually(lambda: mine() > 0, 60)
    os.kill(pid, signal.SIGSTOP)
    try:
        before = one.size()
        time.sleep(3)
        one.grown(before)
        assert folder.exists(), "a stopped worker's spool is its own"
    finally:
        os.kill(pid, signal.SIGCONT)
    had = mine()
    eventually(lambda: mine() > had, 30)
    assert one.interrupted() == 130
    assert once(keys(one.folder)) and spooled(one.folder) == set()


def keys_of_copy(folder):
    """Return the keys of a log that is being written."""
    data, found, at, game = (folder / "episodes.log").read_bytes(), [], 0, make("tictactoe")
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        if at + 8 + length > len(data):
            break
        found.append(Episode.from_bytes(data[at + 8 : at + 8 + length], game).game_id)
        at += 8 + length
    return found


SHIFTED = """
import os, sys, time
if "worker" in sys.argv or "worker" in open("/proc/self/cmdline").read().split("\\0"):
    real = time.time
    time.time = lambda: real() + float(os.environ["SHIFT"])
    time.time_ns = lambda: int(time.time() * 1e9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("shift", [86_400.0, -86_400.0])
def test_workers_whose_clock_is_a_day_off_work_like_others(begin, tmp_path, shift):
    place = tmp_path / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text(SHIFTED)
    one = begin("collect.lost_seconds=2", PYTHONPATH=str(place), SHIFT=str(shift))
    one.grown(60_000)
    size, seen = one.size(), one.workers()
    time.sleep(3)
    one.grown(size)
    assert one.workers().keys() == seen.keys(), "nobody was taken for lost and replaced"
    assert one.interrupted() == 130
    assert once(keys(one.folder)) and spooled(one.folder) == set()


@pytest.mark.slow
def test_a_run_of_its_own_threads_goes_on_with_workers(begin):
    one = begin("collect.workers=0", "selfplay.threads=1")
    one.grown(20_000)
    assert one.interrupted() == 130
    before = keys(one.folder)
    two = begin("selfplay.threads=1")
    two.grown(one.size() + 60_000)
    assert two.interrupted() == 130
    found = keys(two.folder)
    assert once(found) and found[: len(before)] == before and len(found) > len(before)


@pytest.mark.slow
def test_phases_of_so_many_games_and_models_after_so_many_steps(begin):
    one = begin("collect.gate=games", "collect.games=50", "collect.publish_steps=30")
    eventually(lambda: "iteration 4" in one.said, 90)
    assert one.interrupted() == 130
    rows = read_events(one.folder, "metrics")
    games = [row["games"] for row in rows]
    assert all(50 <= b - a < 50 + 2 * 256 for a, b in zip([0, *games], games, strict=False))
    assert rows[-1]["steps"] > 0


@pytest.mark.slow
def test_the_workers_of_a_wrong_address_say_so_and_end_the_run():
    words = [sys.executable, "-m", "zeroloop", "worker", "nonsense"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert "'nonsense' is no address; give HOST:PORT" in done.stderr
