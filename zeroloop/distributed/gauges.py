"""Gauges: what one process has counted and measured, for Prometheus; a learner lists its workers' endpoints.

In a worker, and in the process of an inference server:

    gauges = Gauges(0, host, "worker")         # or "server"; port 0: any that is free
    row["gauges"] = gauges.address(store)      # HOST:PORT as seen from there, for the learner's list
    gauges.set(row)                            # at every report; of a server, its `counters()`
    gauges.close()

In the learner, with what `Status.write` takes, and with the rows of `Events.scalars`:

    gauges = Gauges(config.gauges.port, config.gauges.host, "learner")
    gauges.show(learner, workers, store, inference, devices)
    gauges.metrics(values)

`/metrics` is for Prometheus, `/targets` its list of workers (HTTP service discovery). A name without a value
is not shown: nothing is made up. Labels come from the fixed sets below, so that the number of series is
bounded: never a model's hash, never a worker's number, which is the scraped instance.
"""

from __future__ import annotations

import errno
import json
import math
import socket
import socketserver
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple

from ..errors import BackendError, ConfigError
from ..metrics import METRICS
from .frames import split_address

Row = dict[str, Any]
Kind = Literal["learner", "worker", "server"]


class Gauge(NamedTuple):
    """One line of the table: how a key of a row is shown."""

    name: str
    """Counters end in `_total`; units are words at the end of the name."""
    help: str
    label: str = ""
    """`name=value`, both fixed here."""

    @property
    def counts(self) -> bool:
        """Whether it is a counter."""
        return self.name.endswith("_total")


def _phases(names: Iterable[str], of: str) -> dict[str, Gauge]:
    told = f"Seconds that {of} spent in each phase."
    return {f"{n}_seconds": Gauge("zeroloop_phase_seconds_total", told, f"phase={n}") for n in names}


def _shared(of: str) -> dict[str, Gauge]:
    """Return the totals of self-play, of a worker or of a learner's own threads."""
    names = {
        "moves": "Moves made in self-play.",
        "simulations": "Simulations in self-play, cache hits and terminals included.",
        "evaluations": "Positions that a network computed for self-play.",
        "cache_hits": "Evaluations answered from the cache.",
        "terminals": "Simulations that ended in the end of a game.",
        "overflows": "Simulations that stored no node because the tree was full.",
    }
    found = {key: Gauge(f"zeroloop_{key}_total", told) for key, told in names.items()}
    return found | _phases(("search", "inference", "transfer", "wait"), of)


WORKER: dict[str, Gauge] = {
    **_shared("the process, summed over its threads,"),
    "games": Gauge("zeroloop_games_total", "Finished games of self-play."),
    "waiting": Gauge("zeroloop_spool_games", "Finished games that no learner has on its disk yet."),
    "resent": Gauge("zeroloop_resent_games_total", "Games offered again after a loss or a lost answer."),
    "threads": Gauge("zeroloop_threads", "Search threads."),
    "alive_seconds": Gauge("zeroloop_alive_seconds_total", "Seconds since the worker began."),
    "updates_behind": Gauge("zeroloop_updates_behind", "Models that were published after the one in play."),
}
LEARNER: dict[str, Gauge] = {
    **_shared("the process, summed over its threads,"),
    **_phases(("play", "receive", "learn", "evaluate", "wait"), "the process, summed over its threads,"),
    "iteration": Gauge("zeroloop_iteration", "Number of the iteration."),
    "progress": Gauge("zeroloop_progress_ratio", "Share of the budget spent, 0..1."),
    "games": Gauge("zeroloop_replay_games_total", "Games added to replay."),
    "positions": Gauge("zeroloop_replay_positions_total", "Positions added to replay."),
    "steps": Gauge("zeroloop_optimiser_steps_total", "Optimiser steps."),
    "window": Gauge("zeroloop_window_positions", "Positions in the replay window."),
    "seconds": Gauge("zeroloop_run_seconds_total", "Wall-clock seconds of the run, all sessions."),
    "updates": Gauge("zeroloop_model_updates_total", "Models given to self-play."),
    "refused": Gauge("zeroloop_refused_games_total", "Games turned away for what they are."),
    "missed": Gauge("zeroloop_missed_games_total", "Numbers of workers' games that never came."),
    "restarts": Gauge("zeroloop_worker_restarts_total", "Worker processes started again."),
    "threads": Gauge("zeroloop_threads", "Search threads."),
}
STORE: dict[str, Gauge] = {
    "waiting": Gauge("zeroloop_store_waiting_games", "Games in the store that the learner has not read."),
    "capacity": Gauge("zeroloop_store_capacity_games", "Games that may wait in the store."),
    "games": Gauge("zeroloop_store_games_total", "Games that the store has taken."),
    "positions": Gauge("zeroloop_store_positions_total", "Positions in the games that the store has taken."),
    "evicted_games": Gauge("zeroloop_store_evicted_games_total", "Games evicted to make room."),
    "unread_evicted": Gauge(
        "zeroloop_store_unread_evicted_games_total", "Games evicted before they were read."
    ),
    "duplicates": Gauge("zeroloop_store_duplicate_games_total", "Games offered that the store had already."),
}
SERVER: dict[str, Gauge] = {
    "requests": Gauge("zeroloop_server_requests_total", "Requests answered by the inference server."),
    "batches": Gauge("zeroloop_server_batches_total", "Batches computed by the inference server."),
    "positions": Gauge("zeroloop_server_positions_total", "Positions asked of the inference server."),
    "evaluations": Gauge(
        "zeroloop_server_evaluations_total", "Positions computed, equal ones of a batch once."
    ),
    "refused": Gauge("zeroloop_server_refused_total", "Connections and requests turned away."),
    "stale": Gauge("zeroloop_server_stale_total", "Requests for a model that the server no longer has."),
    "bytes_received": Gauge(
        "zeroloop_server_received_bytes_total", "Bytes received by the inference server."
    ),
    "bytes_sent": Gauge("zeroloop_server_sent_bytes_total", "Bytes sent by the inference server."),
    "wait_seconds": Gauge(
        "zeroloop_server_wait_seconds_total", "Seconds that requests waited for their batch."
    ),
    "busy_seconds": Gauge("zeroloop_server_busy_seconds_total", "Seconds of computing, summed over lanes."),
    "askers": Gauge("zeroloop_server_askers", "Workers, here and elsewhere, that ask the inference server."),
    "clients": Gauge("zeroloop_server_clients", "Connections to the inference server."),
    "waiting": Gauge("zeroloop_server_waiting_positions", "Positions that wait for a batch."),
    "lanes": Gauge("zeroloop_server_lanes", "Batches that may be computed at a time."),
}
DEVICES: dict[str, Gauge] = {
    work: Gauge(
        "zeroloop_device_seconds_total", "Seconds that each kind of work had the device.", f"work={work}"
    )
    for work in ("learning", "inference")
}
WORKERS: dict[str, Gauge] = {
    "present": Gauge("zeroloop_workers", "Workers that have reported lately."),
    "spools": Gauge("zeroloop_workers_spool_games", "Finished games in the spools of all workers."),
    "behind": Gauge(
        "zeroloop_workers_updates_behind", "Models that the most stale worker is behind the newest."
    ),
}
EVENTS: dict[str, Gauge] = {
    **{
        f"loss/{head}": Gauge(
            "zeroloop_loss", "Mean loss of a head in the last iteration, as METRICS says.", f"head={head}"
        )
        for head in ("policy", "value", "reply")
    },
    **{
        key: Gauge(f"zeroloop_{name or key}", f"{METRICS[key][0].upper()}{METRICS[key][1:]}.")
        for key, name in {
            "replay_bytes_per_position": "replay_position_bytes",
            "cache_hit_rate": "cache_hit_ratio",
            "simulations_per_move": "",
            "plies_per_game": "",
            "first_seat_points": "",
            "draw_rate": "draw_ratio",
            "truncated_games": "",
            "learning_rate": "",
            "policy_entropy": "policy_entropy_ratio",
            "target_entropy": "target_entropy_ratio",
            "calibration_error": "",
            "calibration_floor": "",
            "calibration_slope": "",
            "openings": "effective_openings",
            "seat_surprise": "seat_surprise_ratio",
            "duplicates": "duplicate_positions_ratio",
            "elo": "",
            "accuracy": "accuracy_ratio",
            "accuracy_searched": "accuracy_searched_ratio",
            "accuracy_choice": "accuracy_choice_ratio",
            "accuracy_choice_searched": "accuracy_choice_searched_ratio",
        }.items()
    },
}
COUNTED = {
    "iteration", "seconds", "progress", "games", "positions", "steps", "window", "games_per_second",
    "positions_per_second", "simulations_per_second", "evaluations_per_second", "trained_per_second",
    "overflows", "play_seconds", "learn_seconds", "evaluate_seconds",
}  # fmt: skip
"""Names of METRICS that counters of the learner's row carry: Prometheus takes rates of them itself."""

TEXTS = {"host", "pid", "gauges", "model", "phase", "worker", "silent_seconds"}
"""Keys that are no measurements; a model's hash as a label would make a new series at every update."""

_SET: dict[str, dict[str, Gauge]] = {"learner": LEARNER, "worker": WORKER, "server": SERVER}


class Gauges:
    """The endpoint of this process, served by threads of its own.

    Args:
      port: 0 takes any that is free. host: where it listens. kind: what the rows of `set` are.

    Raises:
      BackendError: prometheus_client is not installed.
      ConfigError: nothing can listen there.
    """

    def __init__(self, port: int, host: str, kind: Kind) -> None:
        try:
            from prometheus_client import CollectorRegistry
            from prometheus_client.exposition import choose_encoder
        except ImportError as error:
            raise BackendError(
                "a Prometheus endpoint needs prometheus_client, which is not installed; "
                "pip install 'zeroloop[gauges]', or set gauges.port=0."
            ) from error
        self._kind, self._lock = kind, threading.Lock()
        self._values: dict[Gauge, float] = {}
        self._targets: list[str] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._encoder = choose_encoder
        self._server = _listen(host, port, self)
        self.host, self.port = host, int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), daemon=True, name="gauges"
        )
        self._thread.start()

    def set(self, row: Row) -> None:
        """Show a row of this process: of a worker's report, of a learner, or a server's counters.

        Raises:
          KeyError: a key that no table declares.
        """
        self._take(_SET[self._kind], row)

    def show(
        self,
        learner: Row,
        workers: Iterable[Row] = (),
        store: Row | None = None,
        inference: Row | None = None,
        devices: Row | None = None,
    ) -> None:
        """Show what `Status.write` takes; workers with an endpoint are listed at `/targets`."""
        rows = list(workers)
        self._take(LEARNER, learner)
        self._take(STORE, store or {})
        self._take(SERVER, inference or {})
        self._take(DEVICES, devices or {})
        spools = [r["waiting"] for r in rows if r.get("waiting") is not None]
        behind = [r["updates_behind"] for r in rows if r.get("updates_behind") is not None]
        found = {
            "present": len(rows),
            "spools": sum(spools) if spools else None,
            "behind": max(behind, default=None),
        }
        self._take(WORKERS, found)
        with self._lock:
            self._targets = sorted({r["gauges"] for r in rows if r.get("gauges")})

    def metrics(self, values: dict[str, float]) -> None:
        """Show a row of `Events.scalars`; what counters carry already is passed over."""
        self._take(EVENTS, {k: v for k, v in values.items() if k not in COUNTED})

    def address(self, towards: str = "") -> str:
        """Return HOST:PORT of this endpoint; where it listens at every address, that of the way `towards`."""
        host = self.host
        if host in ("0.0.0.0", "::", "") and towards:
            host = _own_address(towards)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def collect(self) -> Iterator[Any]:
        """Yield the families of what has a value: called by prometheus_client at every scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            found = dict(self._values)
        families: dict[str, Any] = {}
        for gauge, value in found.items():
            label, _, named = gauge.label.partition("=")
            if gauge.name not in families:
                made = CounterMetricFamily if gauge.counts else GaugeMetricFamily
                families[gauge.name] = made(gauge.name, gauge.help, labels=[label] if label else [])
            families[gauge.name].add_metric([named] if label else [], value)
        yield from families.values()

    def page(self, path: str, accept: str) -> tuple[str, bytes] | None:
        """Return content type and body of a page; None where there is none."""
        if path == "/metrics":
            encode, kind = self._encoder(accept)
            return kind, encode(self._registry)
        if path == "/targets" and self._kind == "learner":
            with self._lock:
                found = [{"targets": self._targets, "labels": {}}] if self._targets else []
            return "application/json", json.dumps(found).encode()
        return None

    def _take(self, table: dict[str, Gauge], row: Row) -> None:
        with self._lock:
            for key, value in row.items():
                if key in TEXTS:
                    continue
                if key not in table:
                    raise KeyError(f"'{key}' is not declared in distributed/gauges.py")
                if value is None or not math.isfinite(value):
                    self._values.pop(table[key], None)  # not measured any more
                else:
                    self._values[table[key]] = float(value)


class _Page(BaseHTTPRequestHandler):
    """Answers GET with a page of its server's gauges."""

    timeout = 10.0
    gauges: Gauges

    def do_GET(self) -> None:
        """Answer with the page, or 404."""
        found = self.gauges.page(self.path.partition("?")[0], self.headers.get("Accept", ""))
        kind, body = found or ("text/plain", b"here are /metrics, and /targets of a learner\n")
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape every few seconds is no news."""


def _listen(host: str, port: int, gauges: Gauges) -> ThreadingHTTPServer:
    page = type("_Page", (_Page,), {"gauges": gauges})
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0][0]
        bind = socketserver.TCPServer.server_bind  # without asking a name server for this machine's name
        facts = {"address_family": family, "daemon_threads": True, "server_bind": bind}
        made = type("_Server", (ThreadingHTTPServer,), facts)
        server: ThreadingHTTPServer = made((host, port), page)
    except OSError as error:
        used = (
            "another program listens there"
            if error.errno == errno.EADDRINUSE
            else error.strerror or str(error)
        )
        raise ConfigError(
            f"gauges cannot listen at {host}:{port}: {used}. Set gauges.host to an address of this machine "
            "(127.0.0.1, or 0.0.0.0 for all) and gauges.port to a free port, or to 0 for none."
        ) from error
    return server


def _own_address(towards: str) -> str:
    """Return this machine's address on the way to HOST:PORT; nothing is sent."""
    host, port = split_address(towards)
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port or 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(
            f"no way leads to {towards} ({error.strerror or error}), so this machine's address is not known; "
            "set gauges.host to it."
        ) from error
