"""Evaluation: when a run's candidate is measured, what is found, and what follows from it."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from typing import Any

from . import judge, model, rating
from .errors import BusyError
from .files import append_line, write_file
from .health import Health
from .models import Models
from .networks import Network
from .outside import Outside, Row
from .players import Player
from .promotion import Decision, decide, gather, match_results, read_matches
from .registry import Registry
from .registry.evidence import record
from .registry.stages import promote_passed
from .run import Run

RESTORED = ("evaluations", "measured_steps", "next_evaluation")
"""Attributes that a checkpoint holds under their own names."""


class _Interrupted(Exception):
    """Raised out of a match when the run is told to stop."""


class Evaluation:
    """Measures the candidates of an open run and promotes those that pass.

    Args:
      opponents: beside the champion, see `promotion.gather`.
      facts: returns the run's `iteration`, `positions`, `games`, `steps` and `seconds`.
      tend: called between matches; returns whether to stop.
    """

    def __init__(
        self,
        run: Run,
        models: Models,
        opponents: dict[str, Player],
        health: Health,
        outside: Outside,
        facts: Callable[[], Row],
        tend: Callable[[], bool],
    ) -> None:
        self._run, self._models, self._opponents = run, models, opponents
        self._health, self._outside, self._facts, self._tend = health, outside, facts, tend
        self._matches = run.folder / "matches.jsonl"
        count = run.config.evaluate.positions
        self._judged = judge.judged_positions(run.game, count, run.folder, outside.report)
        self.evaluations = self.measured_steps = 0
        self.next_evaluation = run.config.evaluate.every_positions
        """Positions of the run from which on a candidate is measured."""
        self.seconds = 0.0
        """Spent in evaluation, over all sessions."""

    def due(self, last: bool) -> bool:
        """Return whether it is time to measure, within the share of the time that evaluation may take.

        Args:
          last: the budget is spent.
        """
        c, now = self._run.config, self._facts()
        expected = self.seconds / max(self.evaluations, 1)
        share = (self.seconds + expected) / max(now["seconds"] + expected, 1e-9)
        afford = c.run.deterministic or share <= c.evaluate.max_share
        return last or (now["positions"] >= self.next_evaluation and afford)

    def measure(self, network: Network, last: bool) -> bool:
        """Save a candidate, and judge it unless a watcher does; return False where told to stop before."""
        begun = time.monotonic()
        try:
            name = self._models.save(network, self._facts())
            if self._run.config.evaluate.by == "loop" or last:
                self._judge(model.Model(name, network, self._run.game))
        except (_Interrupted, BusyError):  # in a match, or while another process held the registry
            return False
        self.seconds += time.monotonic() - begun
        self.evaluations += 1
        self.measured_steps = self._facts()["steps"]
        self.next_evaluation = self._facts()["positions"] + self._run.config.evaluate.every_positions
        gc.collect()  # players sit in cycles with their threads and networks
        return True

    def _judge(self, loaded: model.Model) -> None:
        c, run, name = self._run.config, self._run, loaded.hash
        self._outside.report("phase", {"name": "evaluate", "iteration": self._facts()["iteration"]})
        candidate = self._models.player(loaded)
        champion = self._models.player(run.load_model(run.champion))
        seed = c.run.seed + 1000 * (self.evaluations + 1)
        told = self._between_matches
        found = gather(run.game, c, candidate, champion, self._opponents, seed=seed, progress=told)
        decision = decide(c, found)
        values = judge.live_accuracy(self._judged, candidate) if self._judged is not None else {}
        now = self._facts()
        row = {key: now[key] for key in ("iteration", "positions", "seconds")}
        row |= {"model": name, **decision.summary(), **values}
        self._models.register(lambda registry: self._record(registry, name, decision))
        append_line(self._matches, json.dumps(row))
        elo = self._elo(name)
        if decision.promoted:
            run.champion = name
        now = self._facts()
        shown: dict[str, float] = {"iteration": now["iteration"], "seconds": now["seconds"], **values}
        if elo is not None:
            shown["elo"] = elo
        self._outside.metrics(shown, "evaluation")
        self._outside.report("decision", {**row, "elo": elo})
        turned = self._health.close_evaluation(read_matches(self._matches))
        self._outside.warn(turned, now["iteration"], now["seconds"])

    def _between_matches(self, text: str) -> None:
        self._outside.report("note", {"text": text})
        if self._tend():
            raise _Interrupted

    def _record(self, registry: Registry, name: str, decision: Decision) -> None:
        record(registry, self._run.game.id, decision.summary())
        stage = self._run.config.promote.automatic
        if decision.promoted and stage != "none":
            lifted = promote_passed(registry, name, stage)
            self._outside.say(f"{name[: model.SHORT]} in the registry: {lifted}")

    def _elo(self, name: str) -> float | None:
        """Rate all models of the run by maximum likelihood, the random start being 0.

        None: it has met nobody but itself.
        """
        players, results = match_results(self._matches)
        label = f"{name[: model.SHORT]}@{self._run.config.match.simulations}"
        if label not in players:
            return None
        return rating.maximum_likelihood_elo(players, results, results[0].b)[label].elo

    # What a checkpoint holds.

    def state(self) -> dict[str, Any]:
        """Return what a resumed session needs, as plain data."""
        matches = self._matches
        return {
            **{name: getattr(self, name) for name in RESTORED},
            "evaluate_seconds": 0.0 if self._run.config.run.deterministic else self.seconds,
            "champion": self._run.champion,
            "matches": len(matches.read_bytes().splitlines()) if matches.exists() else 0,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`; only a deterministic run measures again what was measured after it."""
        for name in RESTORED:
            setattr(self, name, state[name])
        self.seconds = state["evaluate_seconds"]
        again = self._run.config.run.deterministic
        if again:
            self._run.champion = state["champion"]
        if self._matches.exists():
            lines = self._matches.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            write_file(self._matches, b"".join(whole[: state["matches"] if again else None]))

    def begin(self, network: Network) -> None:
        """Begin a run: its random start is the first champion."""
        self._matches.unlink(missing_ok=True)
        self._run.champion = self._models.save(network, self._facts())
