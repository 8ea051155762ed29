"""Command: inference."""

from __future__ import annotations

import json
import pathlib
import signal
import threading

import click

from .base import config_flags, given, json_flag, load_config, main, tell


@main.command()
@click.argument("what", callback=given, metavar="RUN|MODEL|GAME")
@click.option(
    "--bind",
    callback=given,
    default=None,
    help="HOST:PORT to listen at; port 0: any free one [inference.bind].",
)
@config_flags
@json_flag
def inference(
    what: str,
    bind: str | None,
    sets: tuple[str, ...],
    preset: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Evaluate leaves for workers on this machine or others, which set inference.server=HOST:PORT.

    With a run it follows the run's newest model; with a model it begins with that one; with a game alone it
    has none before a learner that names this server sends one. Stops on SIGTERM or Ctrl-C; workers wait, and
    go on when it is back. Whoever has WORKER_PASSWORD, where it is set, may use it. docs/inference.md is the
    manual.
    """
    from .. import model
    from ..distributed.door import warning
    from ..distributed.inference import InferenceServer, follow
    from ..errors import BackendError
    from ..evaluator.choice import choose
    from ..games import make

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    run = pathlib.Path(what)
    stored = run / "config.yaml" if run.is_dir() else None
    path = None if stored is not None else model.find(what)
    found = model.load(path) if path is not None else None
    config = load_config(what if found is None and stored is None else None, preset, sets, device, stored)
    game = found.game if found is not None else make(config.game.name, **config.game.options)
    mine = config.inference
    choice = choose(config.run.device, config.run.backend, config.run.precision)
    server = InferenceServer(
        game, choice, max_batch=mine.max_batch, deadline_ms=mine.deadline_ms, lanes=mine.lanes, say=tell
    )
    try:
        if path is not None and found is not None:
            server.publish(found.hash, path.read_bytes())
        name = "--bind" if bind else "inference.bind"
        address = server.listen(bind or mine.bind, name)
        if alert := warning(name, address):
            tell(f"warning: {alert}")
        has = server.newest[: model.SHORT] or "no model yet"
        tell(f"inference of {game.id} at {address}: {choice}, {server.lanes.number} lanes, {has}")
        if as_json:
            click.echo(json.dumps({"address": address, "game": game.id, "model": server.newest}))
        lanes = server.lanes
        if stored is not None:
            follow(server, run, lambda: stop.is_set() or lanes.failure is not None, tell)
        while not stop.wait(0.5) and lanes.failure is None:
            pass
    finally:
        server.close()
    if lanes.failure is not None:
        raise BackendError(f"the network could not be computed any longer: {lanes.failure!r}.")
    tell("stopped; workers keep their leaves and wait.")
