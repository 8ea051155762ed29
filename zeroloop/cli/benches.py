"""Commands: bench."""

from __future__ import annotations

import click

from .base import config_flags, given, json_flag, load_config, main, print_answer


@main.group()
def bench() -> None:
    """Measure speed; figures are medians of interleaved rounds."""


def _bench(name: str, what: str, threads: int) -> None:
    @bench.command(name, help=what)
    @click.argument("game", callback=given)
    @click.option("--threads", default=threads, help="Threads.")
    @config_flags
    @json_flag
    def run(
        game: str,
        threads: int,
        sets: tuple[str, ...],
        preset: str | None,
        device: str | None,
        as_json: bool,
    ) -> None:
        from ..query import run_bench

        config = load_config(game, preset, (f"selfplay.threads={threads}", *sets), device)
        found = run_bench(name, config, threads)
        if as_json or isinstance(found, dict):
            print_answer(found, as_json)
        else:
            for row in found:
                click.echo(
                    f"{row['backend']:<10} {row['precision']:<5} batch {row['batch']:>5}"
                    f"  {row['positions_per_second']:>10,.0f} positions/s"
                )


_bench("search", "Simulations/s with the uniform evaluator, no network.", 1)
_bench("compile", "Seconds that a fresh process compiles, and loads from the cache.", 1)
_bench("inference", "Positions/s of every backend at several batches.", 1)
_bench("selfplay", "Real self-play against raw inference.", 2)
_bench("server", "Self-play through an inference server against self-play in one process.", 2)
_bench("rules", "Nanoseconds of each rule function.", 1)
_bench("match", "A match of two networks against self-play.", 2)
_bench("learn", "Positions/s of learning steps.", 2)
_bench("workers", "Worker processes against one, next to raw inference in as many processes.", 2)


@bench.command("store")
@click.argument("game", default="connect4")
@click.option("--threads", default=2, help="Threads of self-play.")
@click.option("--url", default="", help="Of a Redis server; empty: one is started for this.")
@config_flags
@json_flag
def store(
    game: str,
    threads: int,
    url: str,
    sets: tuple[str, ...],
    preset: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Positions/s written to Redis, time until a batch is ready, and what it costs self-play."""
    from ..bench import bench_store
    from ..games import make

    config = load_config(game, preset, (f"selfplay.threads={threads}", *sets), device)
    made = make(config.game.name, **config.game.options)
    print_answer(bench_store(made, config, threads, url), as_json)


@bench.command("ray")
@click.argument("game", default="connect4")
@click.option("--workers", default=2, help="Self-play actors, and threads of the plain loop.")
@click.option("--seconds", default=25.0, help="Of each run.")
@click.option("--rounds", default=5, help="Runs of each kind, alternated.")
@config_flags
@json_flag
def ray(
    game: str,
    workers: int,
    seconds: float,
    rounds: int,
    sets: tuple[str, ...],
    preset: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Positions/s through the whole loop, with actors of a local Ray against the plain loop."""
    from ..bench import bench_ray

    config = load_config(game, preset, ("selfplay.games=64", *sets), device)
    print_answer(bench_ray(config, workers, seconds, rounds), as_json)


@bench.command("crowd")
@click.argument("game", default="connect4")
@click.option("--workers", default=1000, help="Simulated workers; they play nothing and send recorded games.")
@click.option("--positions", default=635.0, help="Positions/s that each plays; bench workers measures it.")
@click.option("--learner", default=0.0, help="Positions/s that the learner takes; 0: all that it can.")
@click.option("--seconds", default=15.0, help="Of the measurement.")
@click.option("--processes", default=2, help="That simulate the workers.")
@config_flags
@json_flag
def crowd(
    game: str,
    workers: int,
    positions: float,
    learner: float,
    seconds: float,
    processes: int,
    sets: tuple[str, ...],
    preset: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Very many workers at one learner: games taken, answers, processor, a new model, all coming back."""
    from ..bench import bench_crowd
    from ..games import make

    config = load_config(game, preset, sets, device)
    made = make(config.game.name, **config.game.options)
    print_answer(bench_crowd(made, config, workers, positions, learner, seconds, processes), as_json)
