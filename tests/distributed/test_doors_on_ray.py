"""The inference actor's port: asks for a password that nobody has to set."""

from __future__ import annotations

import socket

import pytest
import ray

from tests.material import CONNECT4, small_config
from zeroloop.cluster.training import train_on_ray
from zeroloop.distributed.leaves import publish
from zeroloop.errors import RefusedError


@pytest.mark.slow
@pytest.mark.parametrize("own", ["", "the driver's own"])
def test_workers_of_a_cluster_come_in_and_strangers_do_not(tmp_path, monkeypatch, own):
    monkeypatch.setenv("WORKER_PASSWORD", own)
    with socket.create_server(("", 0)) as found:
        port = found.getsockname()[1]
    config = small_config(
        "connect4",
        ray={"address": "local", "inference": True},
        collect={"workers": 1},
        inference={"bind": f"0.0.0.0:{port}"},
        evaluate={"every_positions": 1 << 40, "positions": 0},
        budget={"positions": 1 << 40},
        selfplay={"games": 32},
        run={"iteration_positions": 500},
    )
    told = []

    def report(kind, values):
        if kind != "metrics" or told:
            return
        address = f"{ray.util.get_node_ip_address()}:{port}"
        for given in ("", "a guess"):
            with pytest.raises(RefusedError) as refused:
                publish(address, CONNECT4, "0" * 64, b"", password=given)
            told.append(str(refused.value))
        if own:
            with pytest.raises(RefusedError, match="were damaged on the way"):  # taken in, and heard
                publish(address, CONNECT4, "0" * 64, b"", password=own)

    outcome = train_on_ray(tmp_path / "run", config, report, lambda: bool(told))
    assert outcome.iteration > 0, "the worker's leaves were evaluated"
    assert "asks for a password" in told[0] and "is not the server's" in told[1]
    if own:
        for path in (p for p in (tmp_path / "run").rglob("*") if p.is_file()):
            assert own.encode() not in path.read_bytes(), f"{path} holds the password"
