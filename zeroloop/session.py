"""A session at the keyboard: measure first, train with a live view, end with what the agent can do."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from .config import Config
from .errors import StoreError
from .evaluator.choice import cores
from .games import make
from .games.check import check_game
from .model import SHORT
from .promotion import read_matches
from .registry import check as check_registry
from .replay.log import EpisodeLog
from .run import Run, checkpoint_names, read_checkpoint, stored_config
from .start import check_start
from .train import Outcome, train
from .view import View


def train_session(folder: pathlib.Path, config: Config, preflight: bool) -> dict[str, Any]:
    """Train in this folder until the budget is spent or Ctrl-C, and return a summary as plain data."""
    fresh = not checkpoint_names(folder)
    config = _resolved(config, new=not (folder / "run.json").exists())
    game = make(config.game.name, **config.game.options)
    if fresh and config.game.name.endswith(".py"):
        check_game(game, games=20)  # compiled code does not notice a rule that writes too far
    if config.ray.address:
        return _train_on_ray(folder, config)
    check_start(game, config)
    check_registry(folder.parent)
    run = Run.open(folder, config)
    console = Console(stderr=True)
    try:
        console.print(f"[bold]{run.game.id}[/bold] in {folder}: {settings(config)}", highlight=False)
        if config.run.deterministic:
            console.print("deterministic: the budget counts positions, and no decision reads a clock")
        if preflight and fresh:
            for line in estimate(run):
                console.print(line, highlight=False)
        stop = interruptible()
        with View(f"{run.game.id}  {folder}") as view:
            outcome = train(run, view.report, stop)
        _finish(console, folder, config, outcome)
        return _summary(folder, outcome)
    finally:
        run.close()


def _train_on_ray(folder: pathlib.Path, config: Config) -> dict[str, Any]:
    """Do the same with the learner and its workers on a Ray cluster; the run may lie on another machine."""
    from .cluster import prepare

    prepare(config.ray.address)
    from .cluster.training import train_on_ray

    console = Console(stderr=True)
    name = pathlib.Path(config.game.name).stem
    console.print(f"[bold]{name}[/bold] with Ray {config.ray.address}: {settings(config)}", highlight=False)
    stop = interruptible()
    with View(f"{name}  {folder}") as view:
        outcome = train_on_ray(folder.resolve(), config, view.report, stop)
    if (folder / "run.json").exists():
        _finish(console, folder, config, outcome)
    return _summary(folder, outcome)


def _summary(folder: pathlib.Path, outcome: Outcome) -> dict[str, Any]:
    return {
        "run": str(folder),
        "finished": outcome.finished,
        "iteration": outcome.iteration,
        "seconds": outcome.seconds,
        "champion": outcome.champion,
        "warnings": outcome.warnings,
    }


def _resolved(config: Config, new: bool) -> Config:
    """Make a game's path absolute; fix a new run's threads, so that it goes on alike with other cores."""
    if config.game.name.endswith(".py"):
        path = str(pathlib.Path(config.game.name).resolve())
        config = replace(config, game=replace(config.game, name=path))
    if not new or config.ray.address:  # with Ray the learner's machine settles its threads
        return config
    play, learn = config.selfplay, config.learn
    return replace(
        config,
        selfplay=replace(play, threads=play.threads or cores()),
        learn=replace(learn, threads=learn.threads or cores()),
    )


def settings(config: Config) -> str:
    """Return the main numbers of a configuration in one line."""
    s = config.search
    return (
        f"{s.rule} search, {s.simulations.to_plain()} simulations, "
        f"{config.network.blocks}x{config.network.channels} {config.network.kind} network"
    )


def estimate(run: Run) -> list[str]:
    """Measure for a few seconds and return what the budget will take: time, memory, disk."""
    from .bench import bench_learn, bench_selfplay

    config, game = run.config, run.game
    threads = config.selfplay.threads or cores()
    play = bench_selfplay(game, config, threads, seconds=3.0, rounds=1)
    learn = bench_learn(game, config, seconds=2.0, rounds=1)
    plies_per_second = play["simulations_per_second"] / config.search.simulations.value(0, 0.0)
    seconds = 1 / plies_per_second + config.learn.reuse / learn["positions_per_second"]
    seconds /= 1 - config.evaluate.max_share
    budget = config.budget
    positions = budget.positions
    if budget.minutes and not config.run.deterministic:
        positions = min(positions, int(60 * budget.minutes / seconds))
    per_position = game.state_dtype.itemsize + 40 + 6 * min(game.max_legal, 64)
    from .selfplay import needed_nodes

    nodes = config.search.max_nodes or needed_nodes(game, config)
    per_tree = nodes * (40 + game.state_dtype.itemsize + 28 * min(game.max_legal, 64))
    forest = per_tree * config.selfplay.games * threads
    cache = threads * (config.selfplay.cache_megabytes << 20)
    window = min(config.replay.window_max, positions) * 2 * (per_position + 40)
    free = shutil.disk_usage(run.folder).free
    disk = positions * per_position
    if disk > free:
        raise StoreError(
            f"{run.folder} has {free >> 20} MB free, but {positions:,} positions need about {disk >> 20} MB; "
            "free some space, or set a smaller budget.positions."
        )
    return [
        f"measured: {play['simulations_per_second']:,.0f} simulations/s "
        f"({play['ratio']:.0%} of raw inference, {play['backend']}), "
        f"{learn['positions_per_second']:,.0f} positions/s learning",
        f"estimate for the budget: {positions:,} positions in about {positions * seconds / 60:.0f} min; "
        f"memory {(forest + cache + window) >> 20} MB (forest {forest >> 20} MB), disk {disk >> 20} MB",
    ]


def _finish(console: Console, folder: pathlib.Path, config: Config, outcome: Outcome) -> None:
    if not outcome.finished:
        console.print(
            f"stopped at iteration {outcome.iteration}; go on with: "
            f"zeroloop train {config.game.name} --run {folder}",
            highlight=False,
        )
        return
    from .report import by_seat, next_commands, read_facts, write_report

    table = Table(title=f"What {outcome.champion[:SHORT]} can do ({config.match.simulations} simulations)")
    for name in ("against", "score", "95 % interval", "games", "by seat"):
        table.add_column(name)
    row = champion_row(folder, outcome.champion)
    for opponent, found in (row["fixed"] if row else {}).items():
        low, high = found["interval"]
        told = f"{found['score']:.1%}", f"{low:.1%} to {high:.1%}", str(found["games"])
        table.add_row(opponent, *told, by_seat(found).replace("; ", "\n"))
    if row and "accuracy" in row:
        n = "positions judged by the solver"
        table.add_row(n, f"{row['accuracy']:.1%} raw, {row['accuracy_searched']:.1%} searched", "", "", "")
    console.print(table)
    if row is None:
        console.print("no model was promoted over the random start; train longer.")
    console.print(f"report: {write_report(folder)}", highlight=False)
    for text in next_commands(read_facts(folder)):
        console.print(f"next: {text}", highlight=False, soft_wrap=True)


def champion_row(folder: pathlib.Path, champion: str) -> dict[str, Any] | None:
    """Return the evidence on which the champion was promoted, or None for the random start."""
    rows = read_matches(folder / "matches.jsonl")
    found = [r for r in rows if r["model"] == champion and r["promoted"]]
    return found[-1] if found else None


def digest_run(folder: pathlib.Path) -> dict[str, Any]:
    """Return SHA-256 hashes of all parts of a run's newest checkpoint.

    Raises:
      StoreError: no run, no checkpoint yet, or a damaged one.
    """
    config = stored_config(folder)
    names = checkpoint_names(folder)
    if not names:
        raise StoreError(f"{folder} has no checkpoint yet; train it first.")
    found = read_checkpoint(folder, names[-1])
    state = found.state

    def hashed(parts: dict[str, bytes]) -> str:
        total = hashlib.sha256()
        for name in sorted(parts):
            total.update(name.encode() + b"\0" + parts[name])
        return total.hexdigest()

    tensors = {k: v.view(-1).numpy().tobytes() for k, v in found.learner.items()}
    log = EpisodeLog(folder / "episodes.log")
    window = log.read(state["window_offset"], state["log_size"])
    log.close()
    games = {
        f"{i}.{k}": np.ascontiguousarray(v).tobytes()
        for i, arrays in enumerate(found.groups)
        for k, v in arrays.items()
    }
    counters = {k: v for k, v in state.items() if k not in ("seconds", "evaluate_seconds")}
    text = json.dumps(counters, sort_keys=True).encode()
    return {
        "checkpoint": names[-1],
        "weights": hashed({k: v for k, v in tensors.items() if k.startswith(("weights", "ema"))}),
        "optimiser": hashed({k: v for k, v in tensors.items() if not k.startswith(("weights", "ema"))}),
        "replay": hashed({"window": window, "first": str(state["window_first"]).encode()}),
        "random_state": hashed(
            {
                "seed": str(config.run.seed).encode(),
                "step": str(state["steps"]).encode(),
                **{f"{i}": arrays["rows"].tobytes() for i, arrays in enumerate(found.groups)},
            }
        ),
        "unfinished_games": hashed(games),
        "counters": hashed({"state": text}),
        "positions": state["positions"],
        "games": state["games"],
        "steps": state["steps"],
    }


def interruptible() -> Callable[[], bool]:
    """Return a function that says whether Ctrl-C was pressed; a second Ctrl-C ends at once."""
    pressed = [False]

    def press(signum: int, frame: Any) -> None:
        if pressed[0]:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        pressed[0] = True
        print(
            "\nfinishing this tick, then writing a checkpoint (again: stop at once) ...",
            file=sys.stderr,
        )

    signal.signal(signal.SIGINT, press)
    signal.signal(signal.SIGTERM, press)
    return lambda: pressed[0]
