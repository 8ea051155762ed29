"""Benchmark: positions/s through the whole loop, with actors of a local Ray against the plain loop."""

import contextlib
import os
import pathlib
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from typing import Any

from .. import configfile
from ..config import Config

FOREVER = 1 << 40
WARM = 5.0
"""Seconds after the first learning phase that are not counted: all games begin at once."""


def bench_ray(config: Config, cores: int, seconds: float = 25.0, rounds: int = 5) -> dict[str, Any]:
    """Alternate both loops, evaluation off, and return the medians and the ratio of each round.

    Args:
      cores: search threads of the plain loop, and self-play actors of Ray's.
      seconds: of a run, warm-up included.
    """
    config = replace(
        config,
        evaluate=replace(config.evaluate, every_positions=FOREVER, positions=0),
        budget=replace(config.budget, positions=FOREVER, minutes=0.0),
        run=replace(config.run, iteration_positions=min(config.run.iteration_positions, 2_000)),
        selfplay=replace(config.selfplay, threads=cores),
    )
    spread = replace(
        config,
        collect=replace(config.collect, workers=cores),
        ray=replace(config.ray, address="local"),
    )
    found: dict[str, list[dict[str, float]]] = {"plain": [], "ray": []}
    for i in range(rounds):
        for name in ("plain", "ray") if i % 2 == 0 else ("ray", "plain"):
            found[name].append(_measure(config if name == "plain" else spread, seconds))

    def median(name: str, key: str) -> float:
        return float(statistics.median(row[key] for row in found[name]))

    def ratios(key: str) -> list[float]:
        return [b[key] / a[key] for a, b in zip(found["plain"], found["ray"], strict=True)]

    return {
        "game": config.game.name,
        "workers": cores,
        "rounds": rounds,
        "seconds": seconds,
        "plain_positions_per_second": median("plain", "positions_per_second"),
        "ray_positions_per_second": median("ray", "positions_per_second"),
        "ratio": statistics.median(ratios("positions_per_second")),
        "ratios": ratios("positions_per_second"),
        "ratio_per_processor_second": statistics.median(ratios("positions_per_processor_second")),
        "plain_start_seconds": median("plain", "start_seconds"),
        "ray_start_seconds": median("ray", "start_seconds"),
        "config": configfile.content_hash(config),
    }


def _measure(config: Config, seconds: float) -> dict[str, float]:
    """Train anew for so long and return the rate between the first report behind the warm-up and the last."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="zeroloop-bench-"))
    begun, rows = time.monotonic(), list[dict[str, Any]]()
    first = [0.0]

    def report(kind: str, values: dict[str, Any]) -> None:
        if kind == "metrics":
            first[0] = first[0] or time.monotonic()
            rows.append(values | {"processor": _processor_seconds()})

    def stop() -> bool:
        return bool(first[0]) and time.monotonic() - first[0] > seconds

    try:
        _train(folder / "run", config, report, stop)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    counted = [r for r in rows if WARM < r["seconds"] - rows[0]["seconds"] < seconds]
    a, b = counted[0], counted[-1]
    return {
        "positions_per_second": (b["positions"] - a["positions"]) / (b["seconds"] - a["seconds"]),
        "positions_per_processor_second": (b["positions"] - a["positions"])
        / (b["processor"] - a["processor"]),
        "start_seconds": first[0] - begun,
    }


def _processor_seconds() -> float:
    """Return what this process and its descendants have used: what other programs do matters less to it."""
    parents, used = dict[int, int](), dict[int, int]()
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)], used[int(path.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return sum(used[pid] for pid in own if pid in used) / os.sysconf("SC_CLK_TCK")


def _train(folder: pathlib.Path, config: Config, report, stop) -> None:
    if config.ray.address:
        from ..cluster import prepare

        prepare(config.ray.address)
        from ..cluster.training import train_on_ray

        train_on_ray(folder, config, report, stop)
        return
    from ..run import Run
    from ..train import train

    run = Run.open(folder, config)
    try:
        train(run, report, stop)
    finally:
        run.close()
