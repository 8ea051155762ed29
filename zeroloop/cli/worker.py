"""Command: worker."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import threading

import click

from ..errors import ZeroloopError
from .base import main, tell


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
@click.option("--gauges", default="", metavar="HOST:PORT", help="Prometheus endpoint; port 0: any.")
@click.option("--held", is_flag=True, hidden=True)
def worker(
    address: str, namespace: str, workers: int, spool: pathlib.Path, ca: str, gauges: str, held: bool
) -> None:
    """Play for a run: ADDRESS is HOST:PORT of its learner, or redis://HOST:PORT/0."""
    if workers != 1:
        words = [address, "--run", namespace, "--spool", str(spool), "--ca", ca, "--gauges", gauges]
        sys.exit(_many(workers, words))
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

    def press(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # again: end at once; what is finished is in the spool
        interrupted.set()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, press)
    if held:  # by the process that started this one: when it goes, so does its end of our standard input
        threading.Thread(target=_end_with_input, args=(stop,), daemon=True).start()
    one = Worker(store, spool, stop=stop.is_set, say=lambda text: tell(f"worker: {text}"), endpoint=gauges)
    one.run()
    if not held:
        why = "told to stop" if stop.is_set() else "the run is over, or was stopped"
        tell(f"worker: {why}; {one.games:,} games were played here")
    if interrupted.is_set():
        sys.exit(130)


def _end_with_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def _many(workers: int, words: list[str]) -> int:
    """Run so many processes of this command, one worker each; return the first exit code that is not 0."""
    command = [sys.executable, "-m", "zeroloop", "worker", *words]
    processes = [subprocess.Popen(command) for _ in range(workers)]
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends it to the processes too

    def end(*_: object) -> None:
        for process in processes:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    codes = [p.wait() for p in processes]
    return next((code for code in codes if code), 0)
