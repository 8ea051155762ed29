"""Positions/s of every backend at several batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..config import Config
from ..evaluator.choice import Choice, choose, make_evaluator, shapes_of
from ..games.game import Game
from ..networks import build

BATCHES = (64, 128, 256, 512, 1024)


def bench_inference(
    game: Game, config: Config, threads: int, seconds: float = 0.5, repeats: int = 3
) -> list[dict[str, Any]]:
    """Measure positions/s of every backend of this machine, at several batches, rounds interleaved."""
    network = build(config.network, shapes_of(game), 1)
    rows: list[dict[str, Any]] = []
    runs: list[Callable[[float], float]] = []
    for choice in _choices():
        for batch in BATCHES:
            runs.append(inference_runner(game, network, choice, batch, threads))
            rows.append(
                {"backend": choice.backend, "device": choice.device, "precision": choice.precision}
                | {"batch": batch, "threads": threads}
            )
    rates: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for found, run in zip(rates, runs, strict=True):
            found.append(run(seconds / repeats))
    for row, found in zip(rows, rates, strict=True):
        row["positions_per_second"] = statistics.median(found)
        row["spread"] = [min(found), max(found)]
    return rows


def _choices() -> list[Choice]:
    best = choose()
    out = [best]
    for backend, precision in (("openvino", "fp32"), ("torch", "bf16"), ("torch", "fp32")):
        device = best.device if backend == "torch" else "cpu"
        found = Choice(backend, device, precision)
        if found != best and (backend == "torch" or best.backend == "openvino"):
            out.append(found)
    return out


def inference_runner(
    game: Game, network: Any, choice: Choice, batch: int, threads: int
) -> Callable[[float], float]:
    """Return a function that measures positions/s for some seconds, one compiled network per thread."""
    backends = [make_evaluator(game, network, choice, [batch], 1).backends[0] for _ in range(threads)]
    seen = game.observation
    planes = np.random.default_rng(0).random((batch, *seen.planes), np.float32).round()
    facts = np.zeros((batch, seen.globals), np.float32)
    legal = np.zeros((batch, max(game.max_legal, game.max_chance)), np.int32)

    def one(backend: Any, seconds: float) -> float:
        backend.result(backend.submit(planes, facts, legal))
        begun, n = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            backend.result(backend.submit(planes, facts, legal))
            n += batch
        return n / (time.perf_counter() - begun)

    def run(seconds: float) -> float:
        with ThreadPoolExecutor(threads) as pool:
            return sum(job.result() for job in [pool.submit(one, b, seconds) for b in backends])

    return run
