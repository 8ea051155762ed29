"""How much a watcher slows the learner: interleaved rounds of training with and without one beside it.

    python examples/watch_share.py --rounds 5 --minutes 3

Tells positions a second of the loop (play and learning), positions a processor second of the trainer, which
other work on the machine disturbs less, and the share of the machine that the watcher took.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

WATCH = "import pathlib, sys; from zeroloop.watch import watch_run; watch_run(pathlib.Path(sys.argv[1]))"
SETS = (
    "evaluate.by=watch",
    "evaluate.every_positions=4000",  # so that the watcher always has something to rate
    "evaluate.positions=0",
    "promote.max_pairs=20",
    "promote.floor_games=20",
)


def train(run: pathlib.Path, minutes: float, watched: bool) -> dict[str, float]:
    """Train from nothing for so long and return what it reached."""
    command = [sys.executable, "-m", "zeroloop", "train", "connect4", "--run", str(run), "--preset", "laptop"]
    command += [word for pair in (*SETS, f"budget.minutes={minutes}") for word in ("--set", pair)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    trainer = subprocess.Popen([*command, "--json", "--no-preflight"], **quiet)
    taken = 0.0
    if watched:
        while not (run / "newest").exists():
            time.sleep(0.1)
        watcher, began = subprocess.Popen([sys.executable, "-c", WATCH, str(run)], **quiet), time.monotonic()
    _, status, used = os.wait4(trainer.pid, 0)
    if status:
        raise SystemExit(f"training failed with status {status}")
    if watched:
        seconds = time.monotonic() - began
        watcher.send_signal(signal.SIGTERM)
        _, _, spent = os.wait4(watcher.pid, 0)
        taken = (spent.ru_utime + spent.ru_stime) / seconds / len(os.sched_getaffinity(0))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] == "metrics"]
    if len(rows) < 3:
        raise SystemExit(f"only {len(rows)} iterations in {minutes} minutes; give more --minutes.")
    positions = rows[-1]["positions"] - rows[0]["positions"]
    return {
        "positions_per_second": positions / sum(r["play_seconds"] + r["learn_seconds"] for r in rows[1:]),
        "positions_per_processor_second": positions / (used.ru_utime + used.ru_stime),
        "watcher_share": taken,
    }


def main() -> None:
    """Play the rounds and print medians."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--rounds", type=int, default=5)
    given.add_argument("--minutes", type=float, default=3.0)
    args = given.parse_args()
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(args.rounds):
            for watched in ((False, True), (True, False))[k % 2]:
                run = pathlib.Path(folder) / f"{k}-{watched}" / "run"
                found[watched].append(train(run, args.minutes, watched))
                print(f"round {k}, {'watched' if watched else 'alone'}: {found[watched][-1]}", flush=True)
    for name in found[True][0]:
        alone, watched = (statistics.median(row[name] for row in found[x]) for x in (False, True))
        print(f"{name}: alone {alone:.4g}, watched {watched:.4g}")


if __name__ == "__main__":
    main()
