"""Commands: cluster start-head, start-worker, status, stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .base import json_flag, main, print_answer, tell

PORT = click.IntRange(1, 65535)


@main.group()
def cluster() -> None:
    """A Ray cluster of several machines, for `zeroloop train GAME --ray auto`."""


def _machine(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what a machine gives to the cluster."""
    for option in (
        click.option("--ports", default="10001-10100", show_default=True, help="Open to other machines."),
        click.option("--address", default="", help="This machine's address for the others [found]."),
        click.option("--cpus", type=click.IntRange(0), default=None, help="Processors it gives [all]."),
        click.option("--gpus", type=click.IntRange(0), default=None, help="GPUs it gives [all]."),
        click.option("--object-megabytes", type=click.IntRange(0), default=0, help="Object store [30 %]."),
    ):
        command = option(command)
    return command


def _given(ports: str, address: str, cpus: int | None, gpus: int | None, object_megabytes: int) -> Any:
    from ..cluster import prepare

    prepare("cluster")
    from ..cluster.nodes import Machine, Ports

    return Machine(Ports.parse(ports), address, cpus, gpus, object_megabytes)


@cluster.command("start-head")
@click.option("--port", type=PORT, default=6379, show_default=True, help="Where machines join.")
@click.option("--dashboard-port", default=8265, show_default=True, help="Ray's own page; 0: none.")
@_machine
@json_flag
def start_head(port: int, dashboard_port: int, as_json: bool, **given: Any) -> None:
    """Start a cluster whose head is this machine."""
    machine = _given(**given)
    from ..cluster.nodes import start_head as start

    found = start(machine, port, dashboard_port)
    text = (
        f"head: {found}\n"
        "on every other machine, once ~/.ray/auth_token of this one is copied to ~/.ray/auth_token there:\n"
        f"    zeroloop cluster start-worker --head {found}\n"
        "then here: zeroloop train GAME --ray auto"
    )
    print_answer({"head": found}, as_json, text)


@cluster.command("start-worker")
@click.option("--head", required=True, metavar="HOST:PORT", help="What start-head printed.")
@_machine
@json_flag
def start_worker(head: str, as_json: bool, **given: Any) -> None:
    """Join this machine to the cluster at --head."""
    machine = _given(**given)
    from ..cluster.nodes import start_worker as start

    start(machine, head)
    print_answer({"head": head}, as_json, f"joined {head}; see: zeroloop cluster status")


@cluster.command("status")
@click.option("--address", default="auto", show_default=True, help="auto: this machine's cluster; HOST:PORT.")
@json_flag
def status(address: str, as_json: bool) -> None:
    """Show the machines of the cluster, what they have and what is free."""
    from ..cluster import prepare

    prepare(address)
    from ..cluster.nodes import cluster_status

    found = cluster_status(address)
    lines = [f"cluster {found['head']}: {found['free_cpus']:g} of {found['cpus']:g} CPUs free"]
    if found["gpus"]:
        lines[0] += f", {found['free_gpus']:g} of {found['gpus']:g} GPUs"
    for m in found["machines"]:
        lines.append(
            f"  {m['role']:<7} {m['host']:<20} {m['address']:<16} {m['cpus']:>4g} CPU {m['gpus']:>3g} GPU  "
            f"zeroloop {m['zeroloop'] or '?'}  Python {m['python'] or '?'}"
        )
    print_answer(found, as_json, "\n".join(lines))


@cluster.command("stop")
@click.option("--force", is_flag=True, help="Kill instead of asking.")
@json_flag
def stop(force: bool, as_json: bool) -> None:
    """End Ray on this machine, all of it; runs go on from their checkpoints."""
    from ..cluster import prepare

    prepare("cluster")
    from ..cluster.nodes import stop_here

    stop_here(force)
    print_answer({"stopped": True}, as_json, "Ray has ended on this machine.")
    if not as_json:
        tell("finished games that no learner has are in the spools; the next session sends them")
