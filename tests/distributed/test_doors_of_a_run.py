"""The doors that a run opens: what is said of them, the keys that are named, the password behind them."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tests.distributed.stores import eventually
from tests.material import TICTACTOE, small_config
from zeroloop.distributed.crew import Crew
from zeroloop.distributed.leaves import RemoteEvaluator
from zeroloop.distributed.served import StoreClient
from zeroloop.errors import RefusedError, StoreError
from zeroloop.evaluator.choice import choose

CPU = choose("cpu", precision="fp32")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    monkeypatch.delenv("WORKER_PASSWORD", raising=False)
    monkeypatch.delenv("WORKER_PASSWORD_FILE", raising=False)


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens a crew; `said` is what it says."""
    made = []

    def open_crew(said=None, **sections):
        config = small_config(run={"precision": "fp32"}, **sections)
        say = (said if said is not None else []).append
        made.append(Crew(tmp_path, config, TICTACTOE, CPU, lambda episode: None, say))
        return made[-1]

    yield open_crew
    for crew in made:
        crew.close(False)


@pytest.mark.parametrize(
    "key, sections",
    {
        "collect.bind": {"collect": {"bind": "{}"}},
        "inference.bind": {"inference": {"server": "learner", "bind": "{}"}, "collect": {"workers": 1}},
    }.items(),
)
def test_an_address_that_cannot_be_listened_at_is_told_by_its_key(opened, key, sections):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        filled = {
            name: {k: v.format(address) if isinstance(v, str) else v for k, v in section.items()}
            for name, section in sections.items()
        }
        with pytest.raises(
            StoreError, match=f"^{key} is {address}, which cannot be listened at .*another one"
        ):
            opened(**filled)


def test_a_run_that_others_reach_without_a_password_says_so_once_for_each_door(opened):
    said = []
    opened(
        said,
        collect={"bind": "0.0.0.0:0"},
        inference={"server": "learner", "bind": "0.0.0.0:0"},
    )
    alerts = [text for text in said if "there is no password" in text]
    assert [text.split()[0] for text in alerts] == ["inference.bind", "collect.bind"]


@pytest.mark.parametrize("bind, password", [("127.0.0.1:0", ""), ("0.0.0.0:0", "secret")])
def test_a_run_that_nobody_else_can_join_says_nothing(opened, monkeypatch, bind, password):
    said = []
    monkeypatch.setenv("WORKER_PASSWORD", password)
    opened(said, collect={"bind": bind})
    assert "password" not in "".join(said) and "secret" not in "".join(said)


def test_both_doors_of_a_run_ask_for_the_password_and_who_was_turned_away_is_told(opened, monkeypatch):
    said = []
    monkeypatch.setenv("WORKER_PASSWORD", "right")
    crew = opened(
        said,
        collect={"bind": "127.0.0.1:0"},
        inference={"server": "learner", "bind": "127.0.0.1:0"},
    )
    monkeypatch.setenv("WORKER_PASSWORD", "wrong")
    with pytest.raises(RefusedError, match="refuses: the client's password is not the server's"):
        StoreClient(crew.server.address).about()
    with pytest.raises(RefusedError, match="refuses: the client's password is not the server's"):
        RemoteEvaluator(TICTACTOE, crew.inference.address, "0" * 64, 8)
    eventually(lambda: sum("was turned away: the client's password" in text for text in said) == 2)
    monkeypatch.setenv("WORKER_PASSWORD", "right")
    client = StoreClient(crew.server.address)
    told = client.about()
    client.close()
    assert told["run"] == crew._folder.name
    assert "right" not in str(told), "the password is no part of what a run tells or stores"
    RemoteEvaluator(TICTACTOE, crew.inference.address, "0" * 64, 8).close()


@pytest.mark.slow
@pytest.mark.parametrize("flag", [True, False])
def test_the_server_of_its_own_names_what_gave_it_an_address_that_is_taken(flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        given = ["--bind", address] if flag else ["--set", f"inference.bind={address}"]
        words = [sys.executable, "-m", "zeroloop", "inference", "tictactoe", "--device", "cpu", *given]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    key = "--bind" if flag else "inference.bind"
    assert f"zeroloop: {key} is {address}, which cannot be listened at (" in done.stderr
