"""Kills a worker of a run again and again, at last the learner too, and accounts for every finished game.

    python examples/kill_workers.py runs/killed --game connect4 --every 20 --minutes 5

What a killed worker had finished is read from its spool at its death: games 1 to N, the last of them perhaps
not sent. Then everything is killed, the run goes on for as long as the spools of the dead take, and each of
those games must be in the run's log exactly once: sent = stored + losses, losses = 0.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from typing import NamedTuple

from zeroloop.distributed.worker import worker_of
from zeroloop.episode import Episode
from zeroloop.games import make
from zeroloop.metrics import read_events
from zeroloop.replay.log import EpisodeLog


class Death(NamedTuple):
    """What a worker had finished when it was killed."""

    worker: int
    finished: int
    """Its games up to this number."""
    waiting: set[int]
    """Keys of games in its spool; a learner may have some of them already."""
    torn: int
    """Bytes of a game that it was writing: not finished."""


def command(run: pathlib.Path, game: str, workers: int, sets: list[str]) -> list[str]:
    """Return the command that begins the run, or goes on with it."""
    words = [sys.executable, "-m", "zeroloop", "train", game, "--run", str(run), "--no-preflight"]
    given = [f"collect.workers={workers}", "budget.positions=1000000000", "evaluate.positions=0", *sets]
    return [*words, *(word for pair in given for word in ("--set", pair))]


def living(run: pathlib.Path) -> dict[pathlib.Path, int]:
    """Return the spools that hold a game, with the process that their lock names."""
    found = {}
    for folder in run.glob("spool/*/[0-9]*"):
        try:
            words = (folder / "lock").read_text().split()
            if len(words) == 2 and any(path.stat().st_size for path in folder.glob("*.log")):
                found[folder] = int(words[1])
        except OSError:
            continue  # it has just been sent and removed
    return found


def is_mine(pid: int, run: pathlib.Path) -> bool:
    """Return whether this process is a worker of this run: a number may belong to another one by now."""
    try:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"worker" in words and str(run / "spool").encode() in words


def kill(pid: int, run: pathlib.Path, game: object) -> list[Death]:
    """Kill this worker and read the spools that it held, adopted ones too, before others adopt them."""
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.05)
    return [autopsy(folder, game) for folder, holder in living(run).items() if holder == pid]


def autopsy(folder: pathlib.Path, game: object) -> Death:
    """Read a dead worker's spool, from a copy."""
    with tempfile.TemporaryDirectory() as place:
        copy = pathlib.Path(shutil.copytree(folder, pathlib.Path(place) / "copy"))
        finished, waiting, torn = 0, set(), 0
        for path in sorted(copy.glob("*.log")):
            log = EpisodeLog(path)
            found = [Episode.from_bytes(data[4:], game).game_id for _, data in log.open_at(0)]
            torn += log.torn
            log.close()
            finished = int(path.stem) - 1 + len(found)
            waiting |= set(found)
        return Death(int(folder.name), finished, waiting, torn)


def logged(run: pathlib.Path, game: object) -> list[int]:
    """Return the keys of all games in the run's log."""
    with tempfile.TemporaryDirectory() as place:
        log = EpisodeLog(pathlib.Path(shutil.copy(run / "episodes.log", place)))
        found = [Episode.from_bytes(data, game).game_id for _, data in log.open_at(0)]
        log.close()
        return found


def steps(run: pathlib.Path) -> int:
    """Return the optimiser steps of the run so far."""
    rows = read_events(run, "metrics")
    return int(rows[-1]["steps"]) if rows else 0


def until(fact: object, seconds: float, what: str, learner: subprocess.Popen[bytes]) -> None:
    """Wait until `fact()` is true."""
    end = time.monotonic() + seconds
    while not fact():
        if learner.poll() is not None:
            sys.exit(f"the learner ended with exit code {learner.returncode} before {what}")
        if time.monotonic() > end:
            sys.exit(f"{what} did not come about in {seconds:.0f} s")
        time.sleep(0.05)


def account(run: pathlib.Path, deaths: list[Death], game: object) -> dict[str, int]:
    """Return the balance over all games that killed workers had finished."""
    keys = logged(run, game)
    stored = Counter(worker_of(key) for key in set(keys))
    return {
        "sent": sum(d.finished for d in deaths),
        "stored": sum(min(stored[d.worker], d.finished) for d in deaths),
        "losses": sum(max(0, d.finished - stored[d.worker]) for d in deaths)
        + len(set().union(*(d.waiting for d in deaths)) - set(keys)),
        "invented": sum(max(0, stored[d.worker] - d.finished) for d in deaths),
        "doubled": len(keys) - len(set(keys)),
        "in_spools_at_death": sum(len(d.waiting) for d in deaths),
        "torn": sum(d.torn > 0 for d in deaths),
        "games_in_log": len(keys),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--game", default="connect4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=20.0, help="seconds")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    game, rng, run = make(given.game), random.Random(given.seed), given.run
    words = command(run, given.game, given.workers, given.sets)
    quiet = None if not given.json else subprocess.DEVNULL
    learner = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=quiet)
    deaths: dict[int, Death] = {}
    kills = 0
    try:
        until(lambda: (run / "episodes.log").exists() and living(run), 300, "the first game", learner)
        began, before = time.monotonic(), steps(run)
        while (left := began + 60 * given.minutes - time.monotonic()) > 0:
            time.sleep(min(given.every * rng.uniform(0.8, 1.2), left))
            mine = {pid for pid in living(run).values() if is_mine(pid, run)}
            if mine:
                deaths |= {d.worker: d for d in kill(rng.choice(sorted(mine)), run, game)}
                kills += 1
        seconds, after = time.monotonic() - began, steps(run)
        learner.kill()  # its workers see their standard input end; they are killed before they have sent
        for pid in {pid for pid in living(run).values() if is_mine(pid, run)}:
            deaths |= {d.worker: d for d in kill(pid, run, game)}
    finally:
        learner.kill()
        learner.wait()
    begun_again = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=quiet)
    try:
        gone = lambda: not any(int(p.name) in deaths for p in run.glob("spool/*/[0-9]*"))  # noqa: E731
        until(gone, 300, "sending the games of the dead", begun_again)
        begun_again.send_signal(signal.SIGINT)
        begun_again.wait(120)
    finally:
        begun_again.kill()
        begun_again.wait()
    found = {
        "kills": kills,
        "seconds": round(seconds, 1),
        "steps_meanwhile": after - before,
        **account(run, list(deaths.values()), game),
        "left_in_spools": len(list(run.glob("spool/*/[0-9]*"))),
        "exit_code": begun_again.returncode,
    }
    print(json.dumps(found) if given.json else "\n".join(f"{k:<20} {v}" for k, v in found.items()))
    sys.exit(1 if found["losses"] or found["doubled"] or found["invented"] or not found["sent"] else 0)


if __name__ == "__main__":
    main()
