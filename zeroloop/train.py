"""THE loop: play, learn, measure, promote - until the budget is spent. Safe to kill at any line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

from . import model
from .distributed.collector import RemoteCollector
from .distributed.crew import Crew
from .distributed.share import LEARNING
from .distributed.store import EpisodeStore
from .errors import LearningError, StoreError
from .evaluation import Evaluation
from .evaluator.choice import Choice, choose, relative_points, require_pure, shapes_of
from .experience import Experience
from .files import sha256
from .health import Health
from .learner import Learner
from .metrics import read_events
from .models import Models
from .networks import build
from .outside import Outside, Report, Row
from .players import Player
from .promotion import plan_of
from .rates import Rates
from .registry import check as check_registry
from .replay import Batch, Limiter
from .run import Checkpoint, Run, is_paused
from .selfplay.collector import LocalCollector
from .start import check_start


class Outcome(NamedTuple):
    """How a session of training ended."""

    finished: bool
    """The budget is spent; False where it was interrupted."""
    iteration: int
    seconds: float
    champion: str
    warnings: int = 0
    """Warnings of the run's health that have begun, all sessions."""


def train(
    run: Run, report: Report, stop: Callable[[], bool] = lambda: False, store: EpisodeStore | None = None
) -> Outcome:
    """Train until the budget of `run.config` is spent, or until `stop()`; then the same call goes on.

    Args:
      store: where workers that somebody else has started send their games; None: as the configuration says.

    Raises:
      ResumeError, StoreError: the run cannot go on; nothing finished is lost.
    """
    loop = _Loop(run, report, stop, store)
    try:
        while not loop.stopped and not loop.finished():
            if loop.phase == "collect":
                loop.collect()  # 1 play: whole games, until the iteration's moves are made
            if loop.phase == "learn":
                loop.learn()  # 2 learn: as many steps as the new positions have earned
            if loop.phase == "evaluate":
                loop.evaluate()  # 3 measure the candidate, 4 judge, 5 promote
        if loop.stopped or loop.unsaved:
            loop.checkpoint()
        loop.ended = "stopped" if loop.stopped else "finished"
        return Outcome(not loop.stopped, loop.iteration, loop.seconds(), run.champion, loop.health.begun)
    finally:
        loop.close()


class _Loop:
    """The state of a session; everything that a resumed session needs is in its checkpoint."""

    def __init__(
        self, run: Run, report: Report, stop: Callable[[], bool], store: EpisodeStore | None
    ) -> None:
        self.run, self._stop = run, stop
        self.config, self.game = run.config, run.game
        check_registry(run.folder.parent)
        opponents = check_start(self.game, self.config)
        self.stopped = self.unsaved = self.begun = False
        self.ended: Literal["finished", "stopped"] = "stopped"
        self.phase, self.iteration = "collect", 0
        self.published_steps = -1
        self.gate_games = 0
        self.learn_seconds = 0.0
        self._before = 0.0
        with contextlib.ExitStack() as opened:
            self._open(opened, report, opponents, store)
            self._started = time.monotonic()
            self._resume()
            run.keep_config()
            if self.crew is not None:
                self.crew.start()
            self._opened = opened.pop_all()
        owed = self.limiter.owed(self.replay.total, self.learner.steps)
        if self.finished() and (owed or self.learner.steps > self.evaluation.measured_steps):
            self.phase = "learn"  # the games that spent the budget were kept, but nothing learnt from them
        self.begun = True

    # The phases.

    def collect(self) -> None:
        """Play this iteration's moves with the newest model, or the champion where promotion is a gate."""
        c = self.config
        self._publish()
        if not self.collector.midway():
            size = min(c.run.iteration_positions, max(2 * c.learn.batch_size, self.replay.total // 8))
            self.collector.begin(size if c.collect.gate == "ratio" else 1 << 40)
            self.gate_games = self.replay.games + c.collect.games
        if self.crew is None:
            self._wait_while_paused()
        self.rates.begin()
        self.outside.report("phase", {"name": "play", "iteration": self.iteration})
        if self.collector.collect(self._stop_or_spent):
            self.phase = "learn"
        elif not self.stop():
            self.collector.end()  # the time is up, or the gate is open
            self.phase = "learn"
        self.health.searched(*self.rates.end())
        if self.phase == "learn" and len(self.replay):
            self.experience.probe(self.collector.backend(), self.learner.steps)

    def _publish(self) -> None:
        """Let self-play go on with the newest model, or the champion, at this progress of the run."""
        learnt = self.learner.steps - self.published_steps
        if self.config.promote.mode == "gate":
            network, name = self.run.load_model(self.run.champion).network, self.run.champion
        elif self.crew and self.published_steps >= 0 and learnt < self.config.collect.publish_steps:
            return
        else:
            network = self.learner.averaged()
            name = sha256(model.encode(network, self.game))
        self.published_steps = self.learner.steps
        # The evaluation cache of an interrupted deterministic phase came back with its checkpoint.
        self.collector.publish(network, name, self.collector.midway(), self.progress())

    def _wait_while_paused(self) -> None:
        told = False
        while is_paused(self.run.folder) and not self._stop_or_spent():
            if not told:
                self.outside.say(f"self-play waits: zeroloop resume {self.run.folder} lets it go on")
                told = True
            time.sleep(0.2)

    def _stop_or_spent(self) -> bool:
        self._show("play" if self.rates.playing else "paused")
        minutes = self.config.budget.minutes
        spent = minutes > 0 and self.seconds() > 60 * minutes
        if self.config.collect.gate == "games" and self.replay.games >= self.gate_games:
            return True
        return self.stop() or (spent and not self.config.run.deterministic)

    def learn(self) -> None:
        """Make the optimiser steps that are owed."""
        c = self.config
        begun, progress, losses = time.monotonic(), self.progress(), dict[str, float]()
        owed = self.limiter.owed(self.replay.total, self.learner.steps)
        self.outside.report("phase", {"name": "learn", "iteration": self.iteration, "steps": owed})
        done = 0
        for _ in range(owed):
            if self.stop():
                break
            batch = self.replay.sample(c.learn.batch_size, self.learner.steps)
            try:
                found = self._step(batch, progress)
            except LearningError as error:
                self.outside.warn(self.health.failed(str(error)), self.iteration, self.seconds())
                raise
            for name, value in found.items():
                losses[name] = losses.get(name, 0.0) + value
                if name != "learning_rate":
                    self.health.loss(name, value)
            done += 1
            self.collector.poll()
            self._show("learn", time.monotonic() - begun)
        self.unsaved = True
        seconds = time.monotonic() - begun
        self.learn_seconds += seconds
        if self.stopped:
            return
        self.phase = "evaluate"
        self._write_metrics(losses, done, seconds)

    def _step(self, batch: Batch, progress: float) -> dict[str, float]:
        if self.crew is None or self.crew.share is None:
            return self.learner.step(batch, progress)
        with self.crew.share.use(LEARNING):  # one GPU, and workers' leaves want it too
            found = self.learner.step(batch, progress)
            self.learner.wait()
        return found

    def evaluate(self) -> None:
        """Measure the newest model where that is due, promote it where the evidence says so, checkpoint."""
        last = self.progress() >= 1
        due = self.evaluation.due(last)
        if due and self.learner.steps > self.evaluation.measured_steps:
            if not self.evaluation.measure(self.learner.averaged(), last):
                return  # interrupted: the resumed session measures again
        self.phase = "collect"
        self.iteration += 1
        if due or self.iteration % self.config.run.checkpoint_iterations == 0:
            self.checkpoint()

    # The clock, the budget, and where the run stands.

    def seconds(self) -> float:
        """Wall-clock seconds over all sessions."""
        return self._before + time.monotonic() - self._started

    def progress(self) -> float:
        """Share of the budget that is spent, 0..1; a deterministic run counts positions only."""
        budget = self.config.budget
        spent = self.replay.total / budget.positions
        if budget.minutes > 0 and not self.config.run.deterministic:
            spent = max(spent, self.seconds() / (60 * budget.minutes))
        return min(spent, 1.0)

    def finished(self) -> bool:
        """Return whether the budget is spent and what was played has been learnt from and measured."""
        return self.progress() >= 1 and self.phase == "collect" and not self.collector.midway()

    def stop(self) -> bool:
        """Return whether the person at the keyboard wants to stop."""
        self.stopped = self.stopped or self._stop()
        return self.stopped

    def facts(self) -> Row:
        """Return where the run stands."""
        return {
            "iteration": self.iteration,
            "seconds": self.seconds(),
            "progress": self.progress(),
            "games": self.replay.games,
            "positions": self.replay.total,
            "steps": self.learner.steps,
            "window": len(self.replay),
            "evaluate_seconds": self.evaluation.seconds,
        }

    # Metrics and status.

    def _write_metrics(self, losses: dict[str, float], steps: int, seconds: float) -> None:
        """Write what this iteration was, and tell the warnings that begin or end."""
        values: dict[str, float] = {**self.facts(), "learn_seconds": seconds}
        values |= self.experience.close_iteration() | self.rates.metrics()
        if steps:
            values["trained_per_second"] = steps * self.config.learn.batch_size / max(seconds, 1e-9)
            values["learning_rate"] = losses.pop("learning_rate") / steps
            values |= {f"loss/{head}": total / steps for head, total in losses.items()}
        found, turned = self.health.close_iteration(self.replay.total, len(self.replay))
        values |= found
        self.outside.metrics(values)
        self.outside.report("metrics", values)
        self.outside.warn(turned, self.iteration, self.seconds())

    def _tend(self, phase: str) -> bool:
        """Take what workers have sent, show the run, and return whether to stop."""
        self.collector.poll()
        self._show(phase)
        return self.stop()

    def _show(self, phase: str, learning: float = 0.0) -> None:
        self.outside.show(lambda: self._status(phase, learning), self.crew)

    def _status(self, phase: str, learning: float = 0.0) -> Row:
        """Return the learner's row of a status; `learning` are the seconds of a phase that goes on."""
        spent = {"learn_seconds": self.learn_seconds + learning}
        return {**self.facts(), **spent, "phase": phase, **self.rates.totals()}

    # Checkpoints.

    def checkpoint(self) -> None:
        """Write everything that a resumed session needs."""
        state = {
            "phase": self.phase,
            "iteration": self.iteration,
            "seconds": self.seconds() if not self.config.run.deterministic else 0.0,
            "steps": self.learner.steps,
            "past": self.models.past,
            "health": self.health.state(),
            **self.experience.state(),
            **self.evaluation.state(),
            **self.collector.state(),
        }
        snapshot = self.collector.snapshot(self.collector.midway())
        self.run.checkpoint(Checkpoint(state, self.learner.tensors(), snapshot))
        self.unsaved = False

    def _resume(self) -> None:
        """Go on from the newest checkpoint, or begin."""
        found = self.run.restore()
        if found is None:
            self._begin()
            return
        state = found.state
        self.learner.restore(found.learner)
        self.phase, self.iteration, self._before = state["phase"], state["iteration"], state["seconds"]
        if "health" in state:  # a run that is older than its warnings begins them here
            self.health.restore(state["health"])
        for name, text in self.health.active.items():
            self.outside.report("warning", {"warning": name, "state": "begins", "text": text})
        self.models.past = state["past"]  # before games begin, in which these may sit
        self.evaluation.restore(state)
        kept = self.experience.restore(state, cut=self.config.run.deterministic)
        self.collector.restore(found.groups, state, kept)
        self._tell(f"resumed at iteration {self.iteration}, {self.replay.total} positions", kept)
        self.models.enter_past()

    def _begin(self) -> None:
        """Start a run; games that a session finished before its first checkpoint are kept.

        Raises:
          StoreError: there was a checkpoint, and it is gone.
        """
        rows = read_events(self.run.folder, "metrics")
        if rows and rows[-1]["iteration"] >= self.config.run.checkpoint_iterations:
            raise StoreError(
                f"{self.run.folder / 'checkpoints'} holds no checkpoint, but the run had reached iteration "
                f"{rows[-1]['iteration']}. Restore the folder from a copy, or start a new run."
            )
        kept = self.experience.restore(None, cut=self.config.run.deterministic)
        self.collector.skip(kept)
        self.evaluation.begin(self.learner.averaged())
        if kept or self.experience.log.torn:
            self._tell("begun again: the last session ended before its first checkpoint", kept)

    def _tell(self, told: str, kept: set[int]) -> None:
        if kept:
            told += f"; {len(kept)} games were finished after it and are kept"
        if self.experience.log.torn:
            told += f"; a torn tail of {self.experience.log.torn} bytes was cut from the log"
        self.outside.say(told)

    # What is opened, and closed in the end.

    def _open(
        self,
        opened: contextlib.ExitStack,
        report: Report,
        opponents: dict[str, Player],
        store: EpisodeStore | None,
    ) -> None:
        """Make the parts of the loop; each is closed before those that it needs."""
        run, game, c = self.run, self.game, self.config
        cpu = c.run.deterministic  # whose configuration allows no other device
        choice: Choice = choose("cpu" if cpu else c.run.device, c.run.backend, c.run.precision)
        self.health = Health(game, c.health)
        self.experience = Experience(run.folder, game, c, self.health)
        opened.callback(self.experience.log.close)
        self.replay = self.experience.replay
        self.limiter = Limiter(c.learn.reuse, c.learn.batch_size)
        self.outside = Outside(run.folder, c, game, report)
        opened.callback(lambda: self.outside.close(self.ended))
        self.outside.say(f"inference: {choice}")
        for name, why in plan_of(game, c).left_out.items():
            self.outside.say(f"no floor against {name}: {why}")
        network = build(c.network, shapes_of(game), c.run.seed)
        if c.run.deterministic:
            require_pure(game, network, choice, c.selfplay.games)
        self.learner = Learner(network, c.learn, relative_points(game), choice.device)
        opened.callback(self.learner.close)
        self.models = Models(run, choice, self.outside, self.learner.averaged, self.stop)
        between = self.facts, lambda: self._tend("evaluate")
        self.evaluation = Evaluation(run, self.models, opponents, self.health, self.outside, *between)
        self.crew: Crew | None = None
        self.collector: LocalCollector | RemoteCollector
        keep = self.experience.keep
        if c.remote or store is not None:
            self.crew = Crew(
                run.folder, c, game, choice, keep, self.outside.say, store, self.experience.log.sync
            )
            self.collector = self.crew.collector
            opened.callback(self._dismiss, self.crew)
        else:
            self.collector = LocalCollector(game, c, choice, keep, self.models.opponent, self.models.label)
            opened.callback(self.collector.close)
        self.rates = Rates(self.collector, self.replay)

    def _dismiss(self, crew: Crew) -> None:
        crew.close(self.ended == "finished")
        if self.begun:
            self.outside.show_at_once(self._status("end"), crew)  # with the games that came to the end

    def close(self) -> None:
        """Stop threads and workers, and close files."""
        self._opened.close()
