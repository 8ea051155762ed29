"""A killed run goes on: bit-identical when deterministic, else without lost or doubled games."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.material import RUN_BASE, run_config, session
from zeroloop.episode import Episode
from zeroloop.games import make
from zeroloop.replay.log import EpisodeLog
from zeroloop.run import checkpoint_names, read_checkpoint
from zeroloop.session import digest_run

SETTINGS = [
    "network.blocks=1",
    "network.channels=8",
    "network.value_hidden=8",
    "search.simulations=8",
    "selfplay.games=16",
    "selfplay.threads=2",
    "selfplay.cache_megabytes=1",
    "learn.batch_size=64",
    "learn.threads=2",
    "replay.window_min=500",
    "run.iteration_positions=600",
    "run.checkpoint_iterations=2",
    "evaluate.every_positions=4000",
    "evaluate.positions=0",
    "evaluate.opponents.random=null",
    "evaluate.opponents.minimax:3=null",
    "promote.floors.random=null",
    "promote.max_pairs=16",
    "match.simulations=4",
    "budget.positions=12000",
]


def command(folder, deterministic, *more):
    words = [sys.executable, "-m", "zeroloop", "train", "tictactoe", "--run", str(folder)]
    words += ["--seed", "5", "--no-preflight", *more]
    for setting in SETTINGS:
        words += ["--set", setting]
    return [*words, "--deterministic"] if deterministic else words


def finish(folder, deterministic):
    return subprocess.run(command(folder, deterministic), capture_output=True, text=True, timeout=300)


def digest(folder):
    out = subprocess.run(
        [sys.executable, "-m", "zeroloop", "digest", str(folder), "--json"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return json.loads(out)


def game_keys(folder):
    log = EpisodeLog(folder / "episodes.log")
    game = make("tictactoe")
    keys = [Episode.from_bytes(data, game).game_id for _, data in log.open_at(0)]
    log.close()
    return keys


def interrupt_at_random(folder, deterministic, how, times, rng):
    """Start the run and send the signal at a random moment, `times` times; return how many hit it alive."""
    hits = 0
    for _ in range(times):
        process = subprocess.Popen(
            command(folder, deterministic), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Wait for the run to be under way, so that a signal never lands in the imports alone.
        deadline = time.monotonic() + 120
        size = (folder / "episodes.log").stat().st_size if (folder / "episodes.log").exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            log = folder / "episodes.log"
            if log.exists() and log.stat().st_size != size:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.8))
        if process.poll() is None:
            os.kill(process.pid, how)
            hits += 1
        process.wait(timeout=120)
    return hits


# A run of a second, killed once at a known moment: the quick case of what follows below.

TINY = run_config(
    evaluate={"every_positions": 10**6, "opponents": {}},
    budget={"positions": 600},
    run={**RUN_BASE["run"], "deterministic": True, "checkpoint_iterations": 2},
)
KILLED_IN_LEARNING = """
import os, pathlib, signal, sys
from tests.test_resume import TINY
from zeroloop.run import Run
from zeroloop.train import train

def report(kind, values):
    if kind == "phase" and values["name"] == "learn" and values["iteration"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)

train(Run.open(pathlib.Path(sys.argv[1]), TINY), report)
"""


def test_killed_deterministic_run_goes_on_to_the_same_digest_and_keeps_its_games(tmp_path):
    folder, plain = tmp_path / "run", tmp_path / "plain"
    done = subprocess.run([sys.executable, "-c", KILLED_IN_LEARNING, str(folder)])
    assert done.returncode == -signal.SIGKILL
    before = game_keys(folder)
    state = read_checkpoint(folder, checkpoint_names(folder)[-1]).state
    assert 0 < state["games"] < len(before), "the kill came after games that no checkpoint knows"
    assert session(folder, TINY)[0].finished and session(plain, TINY)[0].finished
    assert digest_run(folder) == digest_run(plain)
    after = game_keys(folder)
    assert set(before) <= set(after) and max(Counter(after).values()) == 1


# Whole programs, killed at random.


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "run"
    done = finish(folder, deterministic=True)
    assert done.returncode == 0, done.stderr
    return digest(folder)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_deterministic_run_interrupted_at_random_is_bit_identical(tmp_path, uninterrupted, how):
    folder = tmp_path / "run"
    hits = interrupt_at_random(folder, True, how, times=4, rng=random.Random(int(how)))
    assert hits >= 2
    done = finish(folder, deterministic=True)
    assert done.returncode == 0, done.stderr
    assert digest(folder) == uninterrupted


@pytest.mark.slow
def test_killed_run_loses_and_doubles_no_finished_game(tmp_path):
    folder = tmp_path / "run"
    seen = set()
    rng, hits = random.Random(3), 0
    for _ in range(4):
        hits += interrupt_at_random(folder, False, signal.SIGKILL, 1, rng)
        keys = game_keys(folder)
        assert seen <= set(keys), "a finished game was lost"
        seen = set(keys)
    assert hits >= 2
    done = finish(folder, deterministic=False)
    assert done.returncode == 0, done.stderr
    keys = game_keys(folder)
    assert seen <= set(keys)
    assert max(Counter(keys).values()) == 1, "a finished game was played twice"


@pytest.mark.slow
def test_torn_tail_is_cut_and_reported(tmp_path):
    folder = tmp_path / "run"
    interrupt_at_random(folder, False, signal.SIGKILL, 1, random.Random(4))
    whole = len(game_keys(folder))
    with open(folder / "episodes.log", "ab") as file:
        file.write(b"\x40\x00\x00\x00torn")
    done = finish(folder, deterministic=False)
    assert done.returncode == 0, done.stderr
    assert "torn tail of 8 bytes was cut" in done.stderr
    assert len(game_keys(folder)) >= whole


@pytest.mark.slow
def test_second_process_on_one_run_is_refused(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(command(folder, False), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (folder / "episodes.log").exists():
            assert process.poll() is None
            time.sleep(0.02)
        other = finish(folder, deterministic=False)
        assert other.returncode == 1
        assert f"is in use by process {process.pid}" in other.stderr
        assert other.stderr.count("\n") == 1
    finally:
        process.kill()
        process.wait()
