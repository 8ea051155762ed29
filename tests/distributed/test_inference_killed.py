"""A standing inference server that is killed, or stopped for a while, costs time and no game."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from zeroloop import configfile, model
from zeroloop.config import Config
from zeroloop.distributed.leaves import RemoteEvaluator
from zeroloop.evaluator.choice import choose
from zeroloop.games import make
from zeroloop.selfplay.collector import LocalCollector

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def serve(bind):
    """Start `zeroloop inference` as a process of its own; return it and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "zeroloop", "inference", "demo:connect4", "--bind", bind, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )
    return process, json.loads(process.stdout.readline())["address"]


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "stopped"])
def test_self_play_outlives_a_server_that_is(fault):
    game = make("connect4")
    found = model.load(model.find("demo:connect4"))
    config = configfile.build(Config, {"search": {"simulations": 16}, "selfplay": {"games": 32}}, "test")
    config = replace(config, selfplay=replace(config.selfplay, threads=1))
    process, address = serve("127.0.0.1:0")
    episodes, said = [], []

    def connect(name):
        return RemoteEvaluator(game, address, name, 32, stop=lambda: False, tell=said.append, patience=1.0)

    collector = LocalCollector(game, config, choose("cpu"), episodes.append, connect=connect)
    collector.publish(None, found.hash)
    collector.begin(8000)
    playing = threading.Thread(target=collector.collect, args=(lambda: False,))
    playing.start()
    try:
        while len(episodes) < 20:
            time.sleep(0.05)
        if fault == "killed":
            end(process)
            before = len(episodes)
            time.sleep(2)
            assert len(episodes) <= before + 64  # nothing is made up while no network answers
            process, again = serve(address)
            assert again == address
        else:
            process.send_signal(signal.SIGSTOP)
            time.sleep(3)
            process.send_signal(signal.SIGCONT)
        playing.join(120)
        assert not playing.is_alive()
    finally:
        end(process)
        collector.close()
    ids = [e.game_id for e in episodes]
    assert len(ids) == len(set(ids)) > 100
    assert sum(len(e.action) for e in episodes) > 4000
    assert len(said) >= 2 and "sent again" in said[0]
    assert any("answers again" in text for text in said)
