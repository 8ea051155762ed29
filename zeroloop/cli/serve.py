"""Command: serve."""

from __future__ import annotations

import json

import click

from .base import given, json_flag, main, tell


@main.command()
@click.argument("players", nargs=-1, required=True, metavar="RUN@SIMULATIONS...")
@click.option("--host", default="127.0.0.1", callback=given, show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one."
)
@click.option(
    "--queue",
    type=click.IntRange(1, 100_000),
    default=256,
    show_default=True,
    help="Questions open at a time; more are answered 503.",
)
@click.option(
    "--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="CPU threads of a network."
)
@json_flag
def serve(players: tuple[str, ...], host: str, port: int, queue: int, threads: int, as_json: bool) -> None:
    """Answer JSON over HTTP with models: RUN@64, HASH@64, demo:connect4@64; @0 evaluates only.

    Stops on SIGTERM or Ctrl-C when every question that was taken is answered. docs/serve.md is the manual.
    """
    import asyncio

    from ..serve import is_loopback, load_served
    from ..serve import serve as answer

    served = load_served(players, threads)
    if not is_loopback(host):
        tell(f"warning: {host} is reached from other machines, and whoever reaches it may ask.")

    def listening(url: str) -> None:
        for s in served:
            tell(f"serving {s.name} at most {s.desk.searcher.simulations} simulations a search")
        tell(f"listening on {url}, schema at {url}/v1/schema")
        if as_json:
            click.echo(json.dumps({"url": url, "models": [s.plain() for s in served]}))

    asyncio.run(answer(served, host, port, queue, listening))
    tell("stopped; every question that was taken is answered.")
