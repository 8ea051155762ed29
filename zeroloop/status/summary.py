"""What the status of a run says: state, rates, queues, staleness, shares of wall time, warnings."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterable

from ..errors import StoreError
from ..health import spans
from ..metrics import read_events
from . import LEARNER, NAME, SERVER, WORKER, Row, holder, read

SILENT = 5.0
"""A worker that has not reported for so many seconds, on the learner's clock, is shown as silent."""

LEARNER_PHASES = ("play", "receive", "learn", "evaluate", "wait")
WORKER_PHASES = ("search", "inference", "transfer", "wait")
COUNTED = ("simulations", "evaluations", "games", "moves")


def summarise(folder: pathlib.Path) -> Row:
    """Return all that is known of a run as plain data; None stands for what was not measured.

    Raises:
      StoreError: no run, or a damaged file.
    """
    if not (folder / "config.yaml").exists():
        raise StoreError(
            f"{folder} is not a run: it has no config.yaml. Give the directory of a run, such as "
            "runs/connect4."
        )
    held = holder(folder)
    found = read(folder)
    state = _state(folder, held, found)
    paused = (folder / "paused").exists()  # as `run.is_paused`, without torch
    out: Row = {"run": str(folder), "state": state, "held_by": held, "paused": paused, "age_seconds": None}
    out |= _measured(folder)
    if found is None or state == "starting":
        return out
    live = state == "running"
    learner, before, first = found["learner"], found["before"] or {}, found["first"] or {}
    rows = [_worker(r, before.get("workers", {}).get(str(r["worker"]), {}), live) for r in found["workers"]]
    if not rows and "simulations" in learner:
        rows = [_own_threads(found, before, live)]
    out |= {k: learner.get(k) for k in LEARNER if not k.endswith("_seconds")}
    out |= {
        "age_seconds": time.time() - (folder / NAME).stat().st_mtime,  # shown, never decided upon
        "pid": found["pid"],
        "host": found["host"],
        "eta_seconds": _eta(learner) if live else None,
        "rates": _rates(learner, before.get("learner"), rows, live),
        "queues": _queues(found),
        "staleness": _staleness(found["workers"]),
        "shares": _learner_shares(learner, before.get("learner")) if live else {},
        "shares_session": _learner_shares(learner, first.get("learner")),
        "worker_shares": _mean_shares(rows, "shares"),
        "worker_shares_session": _mean_shares(rows, "shares_session"),
        "inference": _server(found["inference"], before.get("inference") if live else first.get("inference")),
        "devices": _device_shares(found, before if live else first),
        "present": sum(not r["silent"] for r in rows if r["worker"] is not None),
        "silent": sum(r["silent"] for r in rows),
        "gone": found["seen"] - len(found["workers"]),
        "workers": rows,
    }
    return out


def _state(folder: pathlib.Path, held: str | None, found: Row | None) -> str:
    """Return never begun, starting, running, finished, stopped or broken off."""
    if held:
        mine = (
            found is not None
            and not found["ended"]
            and held in (f"process {found['pid']}", "another process")
        )
        return "running" if mine else "starting"
    if found is not None:
        return found["ended"] or "broken off"
    return "stopped" if (folder / "metrics.jsonl").exists() else "never begun"


def _measured(folder: pathlib.Path) -> Row:
    """Return what the run's events say: losses, Elo, warnings."""
    metrics, rated = read_events(folder, "metrics"), read_events(folder, "evaluation")
    last = metrics[-1] if metrics else {}
    elos = [row["elo"] for row in rated if "elo" in row]
    warned = [w for w in spans(read_events(folder, "warning")) if "end" not in w]
    return {
        "losses": {k.removeprefix("loss/"): v for k, v in last.items() if k.startswith("loss/")},
        "elo": elos[-1] if elos else None,
        "warnings": [{"warning": w["warning"], "text": w["text"]} for w in warned],
    }


def _eta(learner: Row) -> float | None:
    done, seconds = learner.get("progress"), learner.get("seconds")
    return seconds * (1 - done) / done if done and seconds is not None else None


def _growth(now: Row, before: Row, key: str, seconds: str) -> float | None:
    """Return how fast a total grew per second of its own process; None where that was not measured."""
    if not {key, seconds} <= now.keys() & before.keys():
        return None
    spent, grown = now[seconds] - before[seconds], now[key] - before[key]
    return grown / spent if spent > 0 and grown >= 0 else None


def _shares(now: Row, before: Row, phases: Iterable[str], wall: float) -> dict[str, float]:
    """Return each phase's share of `wall`, and `other`; several threads may spend more than that together."""
    spent = {
        p: max(0.0, now[f"{p}_seconds"] - before.get(f"{p}_seconds", 0.0))
        for p in phases
        if f"{p}_seconds" in now
    }
    total = max(wall, sum(spent.values()))
    if not spent or total <= 0:
        return {}
    shares = {phase: seconds / total for phase, seconds in spent.items()}
    return {**shares, "other": max(0.0, 1 - sum(shares.values()))}


def _learner_shares(now: Row, before: Row | None) -> dict[str, float]:
    if before is None or "seconds" not in now or "seconds" not in before:
        return {}
    return _shares(now, before, LEARNER_PHASES, now["seconds"] - before["seconds"])


def _worker(row: Row, before: Row, live: bool) -> Row:
    """Return a worker's line: its rates and shares since `before`, or since it began."""
    alive = row.get("alive_seconds", 0.0)
    if before.get("alive_seconds", 0.0) > alive:
        before = {}  # begun again under the same number
    if not before:
        before = dict.fromkeys((*WORKER, "alive_seconds"), 0)
    threads = row.get("threads", 1)
    silent = row.get("silent_seconds", 0.0) > SILENT
    recent = alive - before.get("alive_seconds", 0.0)
    return {
        "worker": row["worker"],
        "host": row.get("host"),
        "pid": row.get("pid"),
        "threads": threads,
        "model": row.get("model") or None,
        "updates_behind": row.get("updates_behind"),
        "waiting": row.get("waiting"),
        "silent": silent,
        "silent_seconds": row.get("silent_seconds"),
        "rates": {k: _growth(row, before, k, "alive_seconds") if live else None for k in COUNTED},
        "shares": _shares(row, before, WORKER_PHASES, threads * recent) if live and recent > 0 else {},
        "shares_session": _shares(row, {}, WORKER_PHASES, threads * alive),
        "totals": {k: row[k] for k in WORKER if k in row},
    }


def _own_threads(found: Row, before: Row, live: bool) -> Row:
    """Return the line of a learner that plays in its own threads."""
    learner = found["learner"]
    row = {k: v for k, v in learner.items() if k != "wait_seconds"}  # which is the learner's own
    row |= {"worker": None, "host": found["host"], "pid": found["pid"]}
    row["alive_seconds"] = learner.get("seconds", 0.0)
    past = before.get("learner", row)
    line = _worker(row, {**past, "alive_seconds": past.get("seconds", 0.0)}, live)
    return {**line, "shares_session": {}}  # its totals may be older than the session


def _mean_shares(rows: list[Row], which: str) -> dict[str, float]:
    """Return the shares of all workers' thread time."""
    found = [(row["threads"], row[which]) for row in rows if row[which]]
    names = [n for n in (*WORKER_PHASES, "other") if any(n in shares for _, shares in found)]
    total = sum(threads for threads, _ in found)
    return {n: sum(threads * shares.get(n, 0.0) for threads, shares in found) / total for n in names}


def _rates(learner: Row, before: Row | None, rows: list[Row], live: bool) -> dict[str, float | None]:
    """Return totals over workers per second, and the learner's positions, games taken and steps."""
    rates: dict[str, float | None] = {}
    for key in COUNTED:
        known = [r["rates"][key] for r in rows if r["rates"][key] is not None and not r["silent"]]
        rates[key] = sum(known) if known else None
    for key in ("positions", "games", "steps"):
        name = "games_received" if key == "games" else key
        rates[name] = _growth(learner, before, key, "seconds") if live and before else None
    return rates


def _queues(found: Row) -> Row:
    store = found["store"]
    spools = [row["waiting"] for row in found["workers"] if row.get("waiting") is not None]
    kept = ("waiting", "capacity", "evicted_games", "unread_evicted", "duplicates")
    told = {k: found["learner"].get(k) for k in ("refused", "missed")}
    return {**{k: store.get(k) for k in kept}, **told, "spools": sum(spools) if spools else None}


def _staleness(workers: list[Row]) -> Row:
    """Return how many models workers are behind the newest: an order, no clock."""
    known = [row["updates_behind"] for row in workers if row.get("updates_behind") is not None]
    return {
        "most": max(known) if known else None,
        "mean": sum(known) / len(known) if known else None,
        "behind": sum(k > 0 for k in known),
        "known": len(known),
    }


def _device_shares(found: Row, before: Row) -> dict[str, float]:
    """Return the share of the wall time that each kind of work had the device."""
    past, began, now = before.get("devices", {}), before.get("learner", {}), found["learner"]
    shares = {}
    for name, busy in found["devices"].items():
        share = _growth({**now, "busy": busy}, {**began, "busy": past.get(name, 0.0)}, "busy", "seconds")
        if share is not None:
            shares[name] = share
    return shares


def _server(now: Row, before: Row | None) -> Row:
    """Return the inference server's mean batch and mean wait since `before`, beside what it gave."""
    if not now:
        return {}
    past = before or {}
    grown = {k: now[k] - past.get(k, 0) for k in SERVER if k in now}
    out: Row = dict(now)
    if grown.get("batches", 0) > 0 and "positions" in grown:
        out["mean_batch"] = grown["positions"] / grown["batches"]
    if grown.get("requests", 0) > 0 and "wait_seconds" in grown:
        out["mean_wait_seconds"] = grown["wait_seconds"] / grown["requests"]
    return out
