"""Sizing: simulations/s of a set-up as the least of what its stages can do; docs/sizing.md has the formulas.

Everything comes in as measured numbers; nothing is measured here, and no number of a machine is assumed
beyond the defaults, which are this project's own two-core box and say so.
"""

from __future__ import annotations

import json
import math
import pathlib
import statistics
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import ConfigError

SERVERS = ("none", "shared", "own")
HEADS = 150
"""Bytes, about, of the head of a request or an answer."""
SERVED = 750e6
"""Bytes/s of models that one learner hands out, however fast the link is: `bench crowd`, 1,000 workers."""
IN_FLIGHT = 2
"""Groups of games of a search thread: while one waits for answers the other searches."""

ADVICE = {
    "workers": "add cores or machines; nothing else is full",
    "latency": "more games a group (selfplay.games), a shorter inference.deadline_ms, a nearer server",
    "inference": "a faster or second device, a larger cache, or the network in each worker again",
    "network": "a faster link, the network in each worker, or a server on each machine",
    "store": "Redis on a machine of its own, larger batches of games, or the learner's memory",
    "learner": "a faster learner (GPU, learn.processes), more simulations a move, or a lower learn.reuse",
}
"""What to do where a stage is the least."""


def _input(default: float, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What was measured, or is planned. Rates are per second; docs/sizing.md names each one's command."""

    cores: float = _input(1, "Search threads of a worker, a core each [c].")
    games: float = _input(256, "Games of a group, two groups a thread with a server: selfplay.games [g].")
    search_us: float = _input(3.3, "Core time of a simulation without its network, microseconds [s].")
    evaluations: float = _input(0.479, "Evaluations of a simulation; the rest hit the cache or an end [e].")
    core_rate: float = _input(10266, "Evaluations/s of a core, batched [E].")
    scaling: float = _input(1.0, "Share of that rate left where all cores of a machine compute [f].")
    request_us: float = _input(5.3, "Worker's core time of an evaluation elsewhere, microseconds [o].")
    answer_us: float = _input(
        5.3, "Server's core time of an evaluation beside the network, microseconds [q]."
    )
    server_rate: float = _input(100_000, "Evaluations/s of the server's device with endless batches [R].")
    batch_ms: float = _input(0.5, "Milliseconds of a batch of no size on that device [t0].")
    max_batch: float = _input(1024, "inference.max_batch [B].")
    deadline_ms: float = _input(2.0, "inference.deadline_ms [d].")
    rtt_ms: float = _input(0.3, "Milliseconds of a round trip on the network [n].")
    gigabits: float = _input(1.0, "Gigabits/s, each way, of the server's and learner's one link [G].")
    up_bytes: float = _input(39, "Bytes of a leaf sent: state and legal ids [u].")
    down_bytes: float = _input(22, "Bytes of a leaf's answer: logits and values [v].")
    game_bytes: float = _input(110, "Bytes of a finished game over its positions [a].")
    model_bytes: float = _input(1_300_000, "Bytes of a model [m].")
    publish_seconds: float = _input(30, "Seconds between models [p].")
    simulations: float = _input(32, "Simulations of a recorded position [k].")
    store_rate: float = _input(math.inf, "Positions/s that the store takes [Q].")
    trained_rate: float = _input(4580, "Positions/s of learning steps with the device to itself [T].")
    learner_share: float = _input(1.0, "Share of its device that the learner has [l].")
    reuse: float = _input(3.0, "Train-to-data ratio: learn.reuse [r].")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            free = each.name in (
                "request_us",
                "answer_us",
                "batch_ms",
                "deadline_ms",
                "rtt_ms",
                "model_bytes",
            )
            if not (value > 0 or (free and value == 0)):
                raise ConfigError(f"--{each.name.replace('_', '-')} is {value}; it must be above 0.")


def stages(sizes: Sizes, workers: float, server: str = "none") -> dict[str, float]:
    """Return simulations/s that each stage allows with so many workers.

    Args:
      server: `none`: each worker computes its network; `shared`: a server on the workers' own cores; `own`:
        on a device of its own behind the network.
    """
    if server not in SERVERS:
        raise ConfigError(f"--server is '{server}'; it must be one of {', '.join(SERVERS)}.")
    if not workers > 0:
        raise ConfigError(f"--workers is {workers}; it must be above 0.")
    s, e = sizes.search_us * 1e-6, sizes.evaluations
    network, sent = 1 / (sizes.core_rate * sizes.scaling), sizes.request_us * 1e-6
    core = {
        "none": s + e * network,
        "shared": s + e * (sent + sizes.answer_us * 1e-6 + network),
        "own": s + e * sent,
    }[server]
    threads = workers * sizes.cores
    found = {"workers": threads / core}
    link = sizes.gigabits * 1e9 / 8
    game = sizes.game_bytes / sizes.simulations
    found["network"] = link / game
    if server == "own":
        request = sizes.games * e
        up, down = sizes.up_bytes + HEADS / request, sizes.down_bytes + HEADS / request
        batch = min(sizes.max_batch, request * threads)
        lag = 1e-3 * (sizes.rtt_ms + sizes.deadline_ms + sizes.batch_ms)
        lag += request * (1 / sizes.server_rate + (up + down) / link)
        found["latency"] = threads * IN_FLIGHT * sizes.games / (sizes.games * core + lag)
        found["inference"] = batch / (1e-3 * sizes.batch_ms + batch / sizes.server_rate) / e
        found["network"] = link / max(e * up + game, e * down)
    found["store"] = sizes.store_rate * sizes.simulations
    found["learner"] = sizes.trained_rate * sizes.learner_share / sizes.reuse * sizes.simulations
    return found


def least(found: dict[str, float]) -> str:
    """Return the stage that is full first."""
    return min(found, key=lambda name: found[name])


def saturations(sizes: Sizes, server: str = "none", most: int = 100_000) -> dict[str, int]:
    """Return how many workers fill each other stage; one that `most` workers do not fill is left out.

    A stage is full where it allows less than the workers, answered as late as they are, would ask for.
    """
    out = {}
    for name in stages(sizes, 1, server):
        low, high = 0, most + 1
        while high - low > 1 and name != "workers":
            middle = (low + high) // 2
            found = stages(sizes, middle, server)
            asked = [found[grows] for grows in ("workers", "latency") if grows in found and grows != name]
            low, high = (low, middle) if found[name] <= min(asked) else (middle, high)
        if high <= most:
            out[name] = high
    return dict(sorted(out.items(), key=lambda item: item[1]))


def predict(sizes: Sizes, workers: float, server: str = "none") -> dict[str, Any]:
    """Return the rate, the stage that is full, what to do then, and what comes with it; plain data."""
    found = stages(sizes, workers, server)
    full = least(found)
    rate = found[full]
    handed = min(sizes.gigabits * 1e9 / 8, SERVED)
    spread = workers * sizes.model_bytes / handed if server == "none" else 0.0
    return {
        "workers": workers,
        "server": server,
        "simulations_per_second": rate,
        "full": full,
        "advice": ADVICE[full],
        "stages": {name: value if math.isfinite(value) else None for name, value in found.items()},
        "saturations": saturations(sizes, server),
        "evaluations_per_second": rate * sizes.evaluations,
        "positions_per_second": rate / sizes.simulations,
        "workers_busy": rate / found["workers"],
        "seconds_to_hand_out_a_model": spread,
        "models_in_time": spread <= sizes.publish_seconds,
    }


def read_bench(path: pathlib.Path) -> dict[str, float]:
    """Return the inputs that a `zeroloop bench ... --json` file holds.

    Raises:
      ConfigError: the file cannot be read, or is no answer of a benchmark that says something here.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--from {path}: it cannot be read as JSON ({error}).") from error
    rows = value if isinstance(value, list) else [value]
    one = rows[0] if rows and isinstance(rows[0], dict) else {}
    keys = set(one)
    if {"batch", "backend", "positions_per_second"} <= keys:
        return _line(rows)
    if {"raw_inference_positions_per_second", "evaluations_per_second", "threads"} <= keys:
        core = one["raw_inference_positions_per_second"] / one["threads"]
        share = one["evaluations_per_second"] / one["simulations_per_second"]
        spent = one["threads"] / one["simulations_per_second"] - share / core
        found = {"core_rate": core, "evaluations": share, "search_us": 1e6 * spent}
        return found | {"simulations": one["simulations_per_move"]}
    if {"here_simulations_per_second", "simulations_ratio", "megabytes_per_second"} <= keys:
        ways = {f"{way}_bytes": one[f"bytes_per_position_{way}"] for way in ("up", "down")}
        sent = 1e6 * one["megabytes_per_second"] / sum(ways.values())
        more = one["workers"] / one["here_simulations_per_second"] * (1 / one["simulations_ratio"] - 1)
        half = max(0.0, 5e5 * more * one["server_simulations_per_second"] / sent)
        head = HEADS / one["positions_per_request"]
        return {"request_us": half, "answer_us": half, **{k: v - head for k, v in ways.items()}}
    if "ns_per_simulation" in keys:
        return {"search_us": one["ns_per_simulation"] / 1000}
    if "sampling_share" in keys:
        return {"trained_rate": one["positions_per_second"]}
    if "written_positions_per_second" in keys:
        return {"store_rate": one["written_positions_per_second"], "game_bytes": one["bytes_per_position"]}
    if {"accepted_positions_per_second", "offered_positions_per_second", "learner"} <= keys:
        return _crowd(path, one)
    names = [each.name for each in fields(Sizes)]
    if keys and all(k in names and isinstance(one[k], int | float) for k in keys):
        return {name: float(value) for name, value in one.items()}
    raise ConfigError(
        f"--from {path}: it is no answer that sizing reads; give files of zeroloop bench search, inference, "
        "selfplay, learn, server, store or crowd with --json, or a JSON object of inputs such as "
        '{"cores": 16}.'
    )


def _crowd(path: pathlib.Path, one: dict[str, Any]) -> dict[str, float]:
    """Return what a learner without Redis took from a crowd, if the crowd had more."""
    taken = one["accepted_positions_per_second"]
    if one["learner"] or taken > 0.9 * one["offered_positions_per_second"]:
        raise ConfigError(
            f"--from {path}: its learner took nearly all that was offered, or was told to take no more, so "
            "it does not say what the store can take; run zeroloop bench crowd with more --workers and "
            "without --learner."
        )
    return {"store_rate": taken, "game_bytes": one["bytes_per_game"] / one["positions_per_game"]}


def _line(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Fit seconds = t0 + batch / R to the fastest backend of `bench inference`, by least squares."""
    best = max(rows, key=lambda row: row["positions_per_second"])
    same = [row for row in rows if all(row[k] == best[k] for k in ("backend", "device", "precision"))]
    sizes = [row["batch"] for row in same]
    times = [row["threads"] * row["batch"] / row["positions_per_second"] for row in same]
    found = {"server_rate": best["positions_per_second"], "batch_ms": 0.0}
    if best["device"] == "cpu":
        return found | {"core_rate": best["positions_per_second"] / best["threads"]}
    slope, rest = statistics.linear_regression(sizes, times)
    return {"server_rate": 1 / slope, "batch_ms": max(0.0, 1000 * rest)}


def draw(sizes: Sizes, path: pathlib.Path, most: int = 1000) -> None:
    """Write a picture: workers against simulations/s, without and with a server, saturation points named."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    xs = [round(10 ** (i / 40), 3) for i in range(1 + round(40 * math.log10(most)))]
    titles = {"none": "the network in each worker", "own": "an inference server on a device of its own"}
    for axes, (server, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        rows = [stages(sizes, x, server) for x in xs]
        for number, name in enumerate(ADVICE):
            line = [row.get(name, math.inf) for row in rows]
            if all(math.isfinite(y) for y in line):
                axes.plot(xs, line, label=name, linewidth=1.2, color=f"C{number}")
        axes.plot(xs, [min(row.values()) for row in rows], color="black", linewidth=2.5, label="the least")
        for number, (name, count) in enumerate(saturations(sizes, server, most).items()):
            place = (count, stages(sizes, count, server)[name])
            axes.plot(*place, "ko", markersize=4)
            side: dict[str, Any] = (
                {"xytext": (6, -13)} if number % 2 == 0 else {"xytext": (-6, 6), "ha": "right"}
            )
            side["bbox"] = {"fc": "white", "ec": "none", "pad": 1}
            axes.annotate(f"{name}: {count}", place, textcoords="offset points", **side)
        axes.set(xscale="log", yscale="log", xlabel="workers", title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("simulations/s")
    figure.axes[1].legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=110)
