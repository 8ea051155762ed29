"""Command: worker."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable

import click

from ..errors import ZeroloopError
from .base import main, tell

ENDING = 30.0
"""Seconds that worker processes have to send what they have finished."""
SAID = 0.5
"""Seconds between two looks at how many games a held worker has finished."""


@main.command()
@click.argument("address")
@click.option("--run", "namespace", default="", help="Name of the run in Redis.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Worker processes.")
@click.option(
    "--spool",
    type=click.Path(path_type=pathlib.Path),
    default=pathlib.Path("spool"),
    help="Folder of finished games that the learner has not got yet.",
)
@click.option("--ca", default="", help="File of the certificate authority of a rediss:// server.")
@click.option("--gauges", default="", metavar="HOST:PORT", help="Prometheus endpoint; port 0: any free one.")
@click.option("--held", is_flag=True, hidden=True)
def worker(
    address: str, namespace: str, workers: int, spool: pathlib.Path, ca: str, gauges: str, held: bool
) -> None:
    """Play for a run: ADDRESS is HOST:PORT of its learner, or redis://HOST:PORT/0.

    A password is read from WORKER_PASSWORD or WORKER_PASSWORD_FILE, that of a Redis from REDIS_PASSWORD. With
    --workers N dead processes are replaced until the run is over; SIGTERM or Ctrl-C ends all of them.
    """
    if gauges:
        _check_gauges(gauges, workers)
    if workers != 1:
        extra = [
            w for pair in (("--run", namespace), ("--ca", ca), ("--gauges", gauges)) if pair[1] for w in pair
        ]
        sys.exit(_many(workers, address, spool, tuple(extra)))
    from ..distributed.store import EpisodeStore
    from ..distributed.worker import Worker

    store: EpisodeStore
    if address.startswith(("redis://", "rediss://")):
        if not namespace:
            raise ZeroloopError(
                "a worker needs the name of its run in Redis; give --run NAME: its redis.namespace, or else "
                "the name of its directory."
            )
        from ..distributed.redis import RedisStore

        store = RedisStore(address, namespace, ca=ca)
    else:
        from ..distributed.served import StoreClient

        store = StoreClient(address)
    stop, interrupted = threading.Event(), threading.Event()
    _on_signals(stop, interrupted)
    if held:  # by the process that started this one: when it goes, so does its end of our standard input
        threading.Thread(target=_end_with_input, args=(stop,), daemon=True).start()
    one = Worker(store, spool, stop=stop.is_set, say=lambda text: tell(f"worker: {text}"), endpoint=gauges)
    if held:
        threading.Thread(target=_count, args=(lambda: one.games,), daemon=True).start()
    try:
        one.run()
    finally:
        if held:
            _tell_count(one.games)
    if not held:
        why = "told to stop" if stop.is_set() else "the run is over, or was stopped"
        tell(f"worker: {why}; {one.games:,} games were played here")
    if interrupted.is_set():
        sys.exit(130)


def _check_gauges(gauges: str, workers: int) -> None:
    """Refuse an endpoint that cannot be, by the name of its flag."""
    from ..distributed.frames import listen, split_address

    port = split_address(gauges)[1]
    if port and workers != 1:
        raise ZeroloopError(
            f"--gauges is {gauges}, one port for {workers} workers; give port 0: each takes a free one, and "
            "the learner's /targets lists them."
        )
    listen(gauges, "--gauges").close()


def _on_signals(*events: threading.Event) -> None:
    """Set these at SIGINT or SIGTERM; the second one ends at once: what is finished is in the spool."""

    def press(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        for event in events:
            event.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, press)


def _end_with_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def _count(games: Callable[[], int]) -> None:
    """Say to the process that holds this one how many games are finished, whenever there are more."""
    said = -1
    while True:
        if games() != said:
            said = games()
            _tell_count(said)
        time.sleep(SAID)


def _tell_count(games: int) -> None:
    from ..distributed.producers import COUNT

    with contextlib.suppress(BrokenPipeError):  # who held us is gone, and we are ending
        tell(f"{COUNT}{games}")


def _many(workers: int, address: str, spool: pathlib.Path, extra: tuple[str, ...]) -> int:
    """Keep so many processes of this command until the run is over or a signal comes; return exit code."""
    from ..distributed.producers import Producers

    stop = threading.Event()
    _on_signals(stop)
    found = Producers(workers, address, spool, tell, extra, elsewhere=True)
    code = 0
    try:
        while not stop.is_set() and not found.over:
            found.check()
            stop.wait(0.1)
    finally:
        code = found.close(ENDING)
    why = "told to stop" if stop.is_set() else "the run is over, or was stopped"
    least = "" if found.exact else "at least "  # a killed process has not said its last number
    restarts = f"; processes started again: {found.restarts:,}" if found.restarts else ""
    tell(f"workers: {why}; {least}{found.games:,} games were played here{restarts}")
    return 130 if stop.is_set() else code
