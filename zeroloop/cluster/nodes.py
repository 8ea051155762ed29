"""Machines of a cluster: start a head, join it, see who is there, leave; over `ray start` and `ray stop`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import ray

from ..errors import ConfigError, StoreError
from . import room
from .connection import check_head, common, connected

RESERVED = 7
"""Ports of a machine's own services; the rest of the range is the actors', one each."""


class Ports(NamedTuple):
    """A range of ports that other machines of the cluster must reach."""

    first: int
    last: int

    @staticmethod
    def parse(text: str) -> Ports:
        """Return the range `FIRST-LAST`; ConfigError where it is none or too small."""
        first, dash, last = text.partition("-")
        if not (dash and first.isdigit() and last.isdigit()):
            raise ConfigError(f"'{text}' is no range of ports; give FIRST-LAST, such as 10001-10100.")
        found = Ports(int(first), int(last))
        if found.last > 65535 or found.last - found.first < 2 * RESERVED:
            raise ConfigError(
                f"{text} are {found.last - found.first + 1} ports; give at least {2 * RESERVED + 1}, below "
                f"65536: {RESERVED} for Ray and one for each actor."
            )
        return found

    def options(self, head: bool) -> list[str]:
        """Return them as options of `ray start`."""
        names = ["node-manager", "object-manager", "dashboard-agent-grpc", "dashboard-agent-listen"]
        names += ["runtime-env-agent", "metrics-export", *(["ray-client-server"] if head else [])]
        out = [f"--{name}-port={self.first + i}" for i, name in enumerate(names)]
        return [*out, f"--min-worker-port={self.first + RESERVED}", f"--max-worker-port={self.last}"]


class Machine(NamedTuple):
    """What a machine gives to the cluster; None and 0: what Ray finds."""

    ports: Ports
    address: str = ""
    cpus: int | None = None
    gpus: int | None = None
    object_megabytes: int = 0

    def options(self, kind: str) -> list[str]:
        """Return them as options of `ray start`."""
        out = [
            f"--resources={json.dumps({kind: 1})}",
            "--disable-usage-stats",
            *self.ports.options(kind == "head"),
        ]
        out.append("--labels=" + ",".join(f"{k}={v}" for k, v in common().items()))
        for name, value in (
            ("node-ip-address", self.address),
            ("num-cpus", self.cpus),
            ("num-gpus", self.gpus),
        ):
            if value not in (None, ""):
                out.append(f"--{name}={value}")
        if self.object_megabytes:
            out.append(f"--object-store-memory={self.object_megabytes << 20}")
        return out


def start_head(machine: Machine, port: int, dashboard_port: int) -> str:
    """Start the cluster on this machine, and return the address for the others.

    Raises:
      StoreError: Ray does not start, such as where a port is in use.
    """
    _ray("get-auth-token", "--generate")
    own = [f"--port={port}", f"--dashboard-port={dashboard_port}"]
    if dashboard_port == 0:
        own[1:] = ["--include-dashboard=false"]
    _ray("start", "--head", *own, *machine.options("head"))
    untyped: Any = ray
    address = machine.address or untyped.util.get_node_ip_address()
    return f"{address}:{port}"


def start_worker(machine: Machine, head: str) -> None:
    """Join this machine to the cluster whose head is at HOST:PORT.

    Raises:
      UnreachableError: no Ray head answers there. RefusedError: it has another zeroloop, Python or token.
      StoreError: Ray does not start.
    """
    check_head(head)
    _ray("start", f"--address={head}", *machine.options("worker"))


def cluster_status(address: str) -> dict[str, Any]:
    """Return the machines of a cluster, what they have, and what is free."""
    with connected(address, 1):
        untyped: Any = ray
        nodes = room.nodes_of(untyped.nodes())
        free = untyped.available_resources()
        head = untyped.get_runtime_context().gcs_address
    rows = [
        {
            "host": n.host,
            "address": n.address,
            "role": "head" if "head" in n.resources else "worker",
            "cpus": n.resources.get("CPU", 0.0),
            "gpus": n.resources.get("GPU", 0.0),
            **{name: n.labels.get(name, "") for name in common()},
        }
        for n in nodes
    ]
    return {
        "head": head,
        "machines": rows,
        "cpus": sum(r["cpus"] for r in rows),
        "gpus": sum(r["gpus"] for r in rows),
        "free_cpus": float(free.get("CPU", 0.0)),
        "free_gpus": float(free.get("GPU", 0.0)),
    }


def stop_here(force: bool) -> None:
    """End everything of Ray on this machine: its part of any cluster."""
    _ray("stop", *(["--force"] if force else []))


def _ray(*arguments: str) -> str:
    """Run Ray's own command; its last words tell why where it fails."""
    done = subprocess.run(
        [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_LOG_TO_STDERR": "0"},
    )
    if done.returncode:
        lines = [x.strip() for x in (done.stdout + done.stderr).splitlines() if x.strip()]
        told = next((x for x in reversed(lines) if "Error" in x or "error" in x), lines[-1] if lines else "")
        raise StoreError(f"'ray {arguments[0]}' failed: {told}")
    return done.stdout
