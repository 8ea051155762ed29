"""THE loop: play, learn, measure, promote - until the budget is spent. Safe to kill at any line."""

from __future__ import annotations

import gc
import json
import pathlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from . import draws, judge, model, rating
from .config import Config
from .distributed.collector import RemoteCollector
from .distributed.crew import Crew
from .distributed.share import LEARNING
from .distributed.store import EpisodeStore
from .episode import Episode
from .errors import BusyError, ConfigError, LearningError, StoreError
from .evaluator.choice import Choice, choose, relative_points, require_pure, shapes_of
from .files import append_line, sha256, write_file
from .games.game import Game
from .health import Health, Warned
from .learner import Learner
from .metrics import Events, read_events
from .networks import Network, build
from .openings import openings
from .outside import Outside
from .players import Player, PlaySettings, SearchPlayer, model_player, parse
from .promotion import Decision, decide, gather, match_results, plan_of, read_matches
from .registry import Lineage, Registry
from .registry import check as check_registry
from .registry.evidence import record
from .registry.stages import promote_passed
from .replay import Batch, Limiter, Replay
from .replay.log import EpisodeLog
from .run import Checkpoint, Run, is_paused, read_json
from .selfplay.collector import LocalCollector
from .selfplay.hard import HardPositions

Report = Callable[[str, dict[str, Any]], None]
"""Called with (kind, values) as the run goes on: `say`, `phase`, `metrics`, `decision`, `warning`."""


RESTORED = (
    "phase",
    "iteration",
    "evaluations",
    "measured_steps",
    "next_evaluation",
    "past",
)
"""Attributes of the loop that a checkpoint holds under their own names."""


WAIT = 5.0
"""Seconds between two questions whether to stop, while another process holds the registry."""


SPAN = 5.0
"""Seconds at least over which rates of workers are taken."""


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
        self.run, self.report, self._stop = run, report, stop
        self.config, self.game = run.config, run.game
        c = self.config
        check_registry(run.folder.parent)
        self.opponents = check_start(self.game, c)
        cpu = c.run.deterministic  # whose configuration allows no other device
        self.choice: Choice = choose("cpu" if cpu else c.run.device, c.run.backend, c.run.precision)
        report("say", {"text": f"inference: {self.choice}"})
        for name, why in plan_of(self.game, c).left_out.items():
            report("say", {"text": f"no floor against {name}: {why}"})
        network = build(c.network, shapes_of(self.game), c.run.seed)
        if c.run.deterministic:
            require_pure(self.game, network, self.choice, c.selfplay.games)
        device = self.choice.device
        self.learner = Learner(network, c.learn, relative_points(self.game), device)
        self.replay = Replay(
            self.game,
            c.replay,
            seed=c.run.seed,
            root_value_weight=c.learn.root_value_weight,
            reply="reply" in c.network.heads,
        )
        self.limiter = Limiter(c.learn.reuse, c.learn.batch_size)
        self.log = EpisodeLog(run.folder / "episodes.log")
        self.offsets: deque[tuple[int, int]] = deque()
        """(number of its first position, offset in the log) of each episode that the window may hold."""
        self.crew: Crew | None = None
        self.collector: LocalCollector | RemoteCollector
        if c.remote or store is not None:
            keep_say = self._keep, lambda text: report("say", {"text": text})
            self.crew = Crew(run.folder, c, self.game, self.choice, *keep_say, store, self.log.sync)
            self.collector = self.crew.collector
        else:
            self.collector = LocalCollector(
                self.game, c, self.choice, self._keep, self._opponent, self._opponent_label
            )
        self.events = Events(run.folder)
        self.outside = Outside(run.folder, c, self.game, lambda text: report("say", {"text": text}))
        self.ended: Literal["finished", "stopped"] = "stopped"
        self.health = Health(self.game, c.health)
        self.judged = judge.judged_positions(self.game, c.evaluate.positions, run.folder, report)
        self.stopped = self.unsaved = False
        self.phase, self.iteration = "collect", 0
        self.evaluations, self.measured_steps = 0, 0
        self.next_evaluation = c.evaluate.every_positions
        self.evaluate_seconds = self._before = 0.0
        self.stats = {"points": 0.0, "draws": 0, "truncated": 0, "plies": 0, "games": 0}
        self.elo: float | None = None
        self.past: list[str] = []
        """Hashes of the models saved so far, oldest first."""
        self.play_seconds, self.overflows = 0.0, 0
        self.playing_since: float | None = None
        """Monotonic seconds at which the phase of play began; None outside of it."""
        self.published_steps = -1
        self.gate_games = 0
        self._status_lock = threading.Lock()
        self.totals: dict[str, float] = defaultdict(float)
        """What this process has played and how long each phase took, up to the current phase."""
        self.marks: deque[tuple[float, int, int, dict[str, int]]] = deque()
        """(monotonic seconds, positions, games, counters) since which rates are taken, and later."""
        self._noted: dict[str, int] = {}
        self._opened = False
        self._started = time.monotonic()
        try:
            self._resume()
        except BaseException:
            self.close()
            raise
        run.keep_config()
        if self.crew is not None:
            self.crew.start()
        owed = self.limiter.owed(self.replay.total, self.learner.steps)
        if self.finished() and (owed or self.learner.steps > self.measured_steps):
            self.phase = "learn"  # the games that spent the budget were kept, but nothing learnt from them
        self._opened = True

    # The clock and the budget.

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
            counted = self.collector.counters()
            for name in counted.keys() - {"moves"}:
                self.totals[name] += counted[name]
            self.collector.clear_counters()
            self._noted = {}
        self.playing_since = begun = time.monotonic()
        self._mark(begun)
        self.report("phase", {"name": "play", "iteration": self.iteration})
        if self.collector.collect(self._stop_or_spent):
            self.phase = "learn"
        elif not self.stop():
            self.collector.end()  # the time is up, or the gate is open
            self.phase = "learn"
        self.play_seconds, self.playing_since = time.monotonic() - begun, None
        self.totals["play_seconds"] += self.play_seconds
        counted, noted = self.collector.counters(), self._noted
        self._noted = counted
        self.overflows = counted["overflows"] - noted.get("overflows", 0)
        self.health.searched(counted["simulations"] - noted.get("simulations", 0), self.overflows)
        if self.phase == "learn" and len(self.replay):
            self._probe()

    def _mark(self, now: float) -> None:
        """Note since when rates are taken: this phase; of workers, who report twice a second, 5 s."""
        if self.crew is None or not self.marks:
            self.marks.clear()
        elif now - self.marks[-1][0] <= SPAN:
            return
        self.marks.append((now, self.replay.total, self.replay.games, self.collector.counters()))
        while len(self.marks) > 2:
            self.marks.popleft()

    def _wait_while_paused(self) -> None:
        told = False
        while is_paused(self.run.folder) and not self._stop_or_spent():
            if not told:
                self.report(
                    "say", {"text": f"self-play waits: zeroloop resume {self.run.folder} lets it go on"}
                )
                told = True
            time.sleep(0.2)

    def _probe(self) -> None:
        """Show the network that has just played a few positions of the window, for its raw policy."""
        backend = self.collector.backend()
        batch = self.replay.sample(backend.batch, self.learner.steps)
        legal = np.zeros((backend.batch, max(self.game.max_legal, self.game.max_chance)), np.int32)
        legal[:, : self.game.max_legal] = batch.legal
        logits = backend.result(backend.submit(batch.planes, batch.global_facts, legal)).logits
        if not backend.gathers:
            logits = np.take_along_axis(logits, batch.legal, 1)
        self.health.probe(logits[:, : self.game.max_legal], batch.legal_mask)

    def _stop_or_spent(self) -> bool:
        self._show_status("play" if self.playing_since else "paused")
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
        self.report("phase", {"name": "learn", "iteration": self.iteration, "steps": owed})
        done = 0
        for _ in range(owed):
            if self.stop():
                break
            batch = self.replay.sample(c.learn.batch_size, self.learner.steps)
            try:
                found = self._step(batch, progress)
            except LearningError as error:
                self._warn(self.health.failed(str(error)))
                raise
            for name, value in found.items():
                losses[name] = losses.get(name, 0.0) + value
                if name != "learning_rate":
                    self.health.loss(name, value)
            done += 1
            self.collector.poll()
            self._show_status("learn", time.monotonic() - begun)
        self.unsaved = True
        self.totals["learn_seconds"] += time.monotonic() - begun
        if self.stopped:
            return
        self.phase = "evaluate"
        self._write_metrics(losses, done, time.monotonic() - begun)

    def _step(self, batch: Batch, progress: float) -> dict[str, float]:
        if self.crew is None or self.crew.share is None:
            return self.learner.step(batch, progress)
        with self.crew.share.use(LEARNING):  # one GPU, and workers' leaves want it too
            found = self.learner.step(batch, progress)
            self.learner.wait()
        return found

    def evaluate(self) -> None:
        """Measure the newest model where that is due, promote it where the evidence says so, checkpoint."""
        c, last = self.config, self.progress() >= 1
        expected = self.evaluate_seconds / max(self.evaluations, 1)
        share = (self.evaluate_seconds + expected) / max(self.seconds() + expected, 1e-9)
        afford = c.run.deterministic or share <= c.evaluate.max_share
        due = last or (self.replay.total >= self.next_evaluation and afford)
        if due and self.learner.steps > self.measured_steps:
            begun = time.monotonic()
            try:
                if c.evaluate.by == "watch" and not last:
                    self._save_candidate()
                elif self._judge_candidate() is None:
                    return  # interrupted: the resumed session measures again
            except BusyError:  # told to stop while another process held the registry: likewise
                return
            self.evaluate_seconds += time.monotonic() - begun
            self.evaluations += 1
            self.measured_steps = self.learner.steps
            self.next_evaluation = self.replay.total + c.evaluate.every_positions
            gc.collect()  # players sit in cycles with their threads and networks
        self.phase = "collect"
        self.iteration += 1
        if due or self.iteration % c.run.checkpoint_iterations == 0:
            self.checkpoint()

    def _judge_candidate(self) -> Decision | None:
        c, run = self.config, self.run
        name, network = self._save_candidate()
        self.report("phase", {"name": "evaluate", "iteration": self.iteration})
        candidate = self._player(model.Model(name, network, self.game))
        champion = self._player(run.load_model(run.champion))

        def progress(text: str) -> None:
            self.report("note", {"text": text})
            self.collector.poll()
            self._show_status("evaluate")
            if self.stop():
                raise _Interrupted

        try:
            found = gather(
                self.game,
                c,
                candidate,
                champion,
                self.opponents,
                seed=c.run.seed + 1000 * (self.evaluations + 1),
                progress=progress,
            )
        except _Interrupted:
            return None
        decision = decide(c, found)
        values: dict[str, float] = {}
        if self.judged is not None:
            values = judge.live_accuracy(self.judged, candidate)
        row = {
            "iteration": self.iteration,
            "positions": self.replay.total,
            "seconds": self.seconds(),
            "model": name,
            **decision.summary(),
            **values,
        }

        def enter(registry: Registry) -> None:
            record(registry, self.game.id, decision.summary())
            if decision.promoted and c.promote.automatic != "none":
                lifted = promote_passed(registry, name, c.promote.automatic)
                self.report("say", {"text": f"{name[: model.SHORT]} in the registry: {lifted}"})

        self._registered(enter)
        append_line(run.folder / "matches.jsonl", json.dumps(row))
        self._rate(name)
        if decision.promoted:
            run.champion = name
        shown: dict[str, float] = {"iteration": self.iteration, "seconds": self.seconds(), **values}
        if self.elo is not None:
            shown["elo"] = self.elo
        self.events.scalars(shown, "evaluation")
        self.outside.metrics(shown)
        self.report("decision", {**row, "elo": self.elo})
        self._warn(self.health.close_evaluation(read_matches(run.folder / "matches.jsonl")))
        return decision

    def _save_candidate(self) -> tuple[str, Network]:
        """Save the averaged network as the newest model of the run, and enter it in the registry."""
        network = self.learner.averaged()
        name = self.run.save_model(network)
        self.outside.model(name)
        self._enter(name)
        if name not in self.past:
            self.past.append(name)
        return name, network

    def _enter_past(self) -> None:
        """Enter earlier models that the registry does not find, for the run was moved, or is older."""
        lineage = Lineage(run=str(self.run.folder.resolve()))

        def enter(registry: Registry) -> None:
            rows = registry.models(self.game.id)
            known = {r["hash"] for r in rows if registry.path(r).exists() and registry.run_of(r) is not None}
            for name in self.past:
                path = self.run.models / f"{name}.safetensors"
                if name not in known and path.exists():
                    registry.add(name, self.game, self.config.game.name, path, lineage)

        self._registered(enter)

    def _registered(self, change: Callable[[Registry], None]) -> None:
        """Change the registry; while another process holds it, try again until that is done.

        Raises:
          BusyError: a stop is asked for meanwhile.
        """
        told = False
        while True:
            try:
                with Registry(self.run.folder.parent, timeout=WAIT) as registry:
                    return change(registry)
            except BusyError as error:
                if self.stop():
                    raise
                if not told:
                    self.report("say", {"text": f"{error} This run waits for it."})
                told = True

    def _enter(self, name: str) -> None:
        lineage = Lineage(
            run=str(self.run.folder.resolve()),
            parent=next((past for past in reversed(self.past) if past != name), None),
            config_hash=read_json(self.run.folder / "run.json", "config_hash")["config_hash"],
            positions=self.replay.total,
            steps=self.learner.steps,
            games=self.replay.games,
        )
        path = self.run.models / f"{name}.safetensors"
        self._registered(lambda r: r.add(name, self.game, self.config.game.name, path, lineage))

    def _rate(self, name: str) -> None:
        """Rate all models of the run by maximum likelihood, the random start being 0."""
        players, results = match_results(self.run.folder / "matches.jsonl")
        label = f"{name[: model.SHORT]}@{self.config.match.simulations}"
        self.elo = None  # where it has met nobody but itself
        if label in players:
            self.elo = rating.maximum_likelihood_elo(players, results, results[0].b)[label].elo

    def _player(self, loaded: model.Model) -> SearchPlayer:
        return model_player(
            loaded, self.config.match.simulations, choice=self.choice, seed=self.config.run.seed
        )

    # What the collector needs.

    def _publish(self) -> None:
        if self.config.promote.mode == "gate":
            network: Network = self.run.load_model(self.run.champion).network
            name = self.run.champion
        else:
            since = self.learner.steps - self.published_steps
            if (
                self.crew is not None
                and self.published_steps >= 0
                and since < self.config.collect.publish_steps
            ):
                return
            network = self.learner.averaged()
            name = sha256(model.encode(network, self.game))
        self.published_steps = self.learner.steps
        # The evaluation cache of an interrupted deterministic phase came back with its checkpoint.
        self.collector.publish(network, name, self.collector.midway(), self.progress())

    def _keep(self, episode: Episode) -> None:
        """Store a finished game: first on disk, then in the window."""
        offset = self.log.append(episode.to_bytes())
        self._count(episode, offset)
        self.health.add(episode)

    def _count(self, episode: Episode, offset: int) -> None:
        self.offsets.append((self.replay.total, offset))
        self.replay.add([episode])
        oldest = self.replay.total - len(self.replay)
        while len(self.offsets) > 1 and self.offsets[1][0] <= oldest:
            self.offsets.popleft()
        self.health.keep(episode, len(self.offsets))
        s = self.stats
        s["games"] += 1
        s["plies"] += episode.plies
        s["points"] += float(episode.final_value[0]) * self.game.scale
        s["draws"] += int(np.ptp(episode.final_value) == 0)
        s["truncated"] += int(episode.truncated)

    def _opponent_label(self, player: str, key: int) -> str:
        """Return whom to seat: a past model by its hash, or the player itself."""
        if player != "past":
            return player
        seed = np.uint64(self.config.run.seed)
        return self.past[int(draws.integer(seed, draws.SEATING, key, 2, 0, len(self.past)))]

    def _opponent(self, label: str) -> Any:
        seed = self.config.run.seed
        if label == "policy":
            from .players import PolicyPlayer

            network = self.learner.averaged()
            from .evaluator.choice import make_evaluator

            evaluator = make_evaluator(self.game, network, self.choice, [self.config.selfplay.games])
            return PolicyPlayer(self.game, evaluator, name=label, seed=seed)
        if (self.run.models / f"{label}.safetensors").exists():
            past = self.run.load_model(label)
            size = self.config.selfplay.games
            settings = PlaySettings(batch=size, one_batch=True, cache_megabytes=4)
            return model_player(
                past, self.config.match.simulations, choice=self.choice, seed=seed, settings=settings
            )
        return parse(label, self.game, seed=seed)

    # Metrics, checkpoints, resume.

    def _write_metrics(self, losses: dict[str, float], steps: int, learn_seconds: float) -> None:
        c, s = self.config, self.stats
        rates = self._rates()
        values: dict[str, float] = {
            "iteration": self.iteration,
            "seconds": self.seconds(),
            "progress": self.progress(),
            "games": self.replay.games,
            "positions": self.replay.total,
            "steps": self.learner.steps,
            "window": len(self.replay),
            "replay_bytes_per_position": self.replay.bytes_per_position,
            "truncated_games": s["truncated"],
            "learn_seconds": learn_seconds,
            "evaluate_seconds": self.evaluate_seconds,
        }
        if rates:
            values |= rates | {"overflows": self.overflows, "play_seconds": self.play_seconds}
        if s["games"]:
            values["plies_per_game"] = s["plies"] / s["games"]
            values["first_seat_points"] = s["points"] / s["games"]
            values["draw_rate"] = s["draws"] / s["games"]
        if steps:
            values["trained_per_second"] = steps * c.learn.batch_size / max(learn_seconds, 1e-9)
            values["learning_rate"] = losses.pop("learning_rate") / steps
            values |= {f"loss/{head}": total / steps for head, total in losses.items()}
        found, turned = self.health.close_iteration(self.replay.total, len(self.replay))
        values |= found
        self.events.scalars(values)
        self.outside.metrics(values)
        self.report("metrics", values)
        self._warn(turned)
        s.update(points=0.0, draws=0, plies=0, games=0, truncated=0)

    def _rates(self) -> dict[str, float]:
        """Return what was played per second; nothing where an earlier session played the phase.

        Workers play on while the learner learns: their figures reach up to now.
        """
        if not self.marks:
            return {}
        begun, positions, games, before = self.marks[0]
        play = self.play_seconds if self.crew is None else time.monotonic() - begun
        grown = {k: n - before.get(k, 0) for k, n in self.collector.counters().items()}
        asked = grown["evaluations"] + grown["cache_hits"]
        values = {
            "games_per_second": (self.replay.games - games) / play,
            "positions_per_second": (self.replay.total - positions) / play,
        }
        if self.crew is None or grown["simulations"]:  # else no worker has reported meanwhile
            values["simulations_per_second"] = grown["simulations"] / play
            values["evaluations_per_second"] = grown["evaluations"] / play
        if asked:
            values["cache_hit_rate"] = grown["cache_hits"] / asked
        if grown["moves"]:
            values["simulations_per_move"] = grown["simulations"] / grown["moves"]
        return values

    def _warn(self, turned: list[Warned]) -> None:
        """Write the warnings that begin or end, and show them."""
        for warned in turned:
            row = {"iteration": self.iteration, "seconds": self.seconds(), **warned.plain()}
            self.events.event("warning", row)
            self.report("warning", row)

    def _show_status(self, phase: str, learning: float = 0.0) -> None:
        """Write the status file, unless that was done a moment ago; threads of self-play call this too."""
        if not self.outside.due() or not self._status_lock.acquire(blocking=False):
            return
        try:
            self._write_status(phase, learning)
        finally:
            self._status_lock.release()

    def _write_status(self, phase: str, learning: float) -> None:
        row: dict[str, Any] = {
            "iteration": self.iteration,
            "progress": self.progress(),
            "positions": self.replay.total,
            "games": self.replay.games,
            "steps": self.learner.steps,
            "window": len(self.replay),
            "seconds": self.seconds(),
            "evaluate_seconds": self.evaluate_seconds,
            "learn_seconds": self.totals["learn_seconds"] + learning,
            "phase": phase,
        }
        if not isinstance(self.collector, RemoteCollector):
            playing = time.monotonic() - self.playing_since if self.playing_since else 0.0
            row["play_seconds"] = self.totals["play_seconds"] + playing
            row |= {k: v + self.totals[k] for k, v in self.collector.counters().items()}
            row |= {f"{k}_seconds": v for k, v in self.collector.seconds().items()}
            row["threads"] = self.collector.threads
            self.outside.show(row, [], None, None, None)
            return
        crew, there = self.crew, self.collector
        assert crew is not None
        row |= {"receive_seconds": there.receive_seconds, "wait_seconds": there.wait_seconds}
        row |= {"updates": len(there.published), "refused": there.refused, "missed": there.missed}
        row["model"] = there.published[-1] if there.published else ""
        row["restarts"] = crew.producers.restarts if crew.producers else 0
        served = crew.inference.counters() if crew.inference else None
        shared = crew.share.busy_seconds if crew.share else None
        self.outside.show(row, there.present(), there.queue(), served, shared)

    def checkpoint(self) -> None:
        """Write everything that a resumed session needs."""
        self.log.sync()
        first, offset = self.offsets[0] if self.offsets else (0, 0)
        matches = self.run.folder / "matches.jsonl"
        state = {
            **{name: getattr(self, name) for name in RESTORED},
            "seconds": self.seconds() if not self.config.run.deterministic else 0.0,
            "evaluate_seconds": self.evaluate_seconds if not self.config.run.deterministic else 0.0,
            "games": self.replay.games,
            "positions": self.replay.total,
            "steps": self.learner.steps,
            "log_size": self.log.size,
            "window_first": first,
            "window_offset": offset,
            "window_games": len(self.offsets),
            "champion": self.run.champion,
            "matches": len(matches.read_bytes().splitlines()) if matches.exists() else 0,
            "health": self.health.state(),
            **self.collector.state(),
        }
        snapshot = self.collector.snapshot(self.collector.midway())
        self.run.checkpoint(Checkpoint(state, self.learner.tensors(), snapshot))
        self.unsaved = False

    def _resume(self) -> None:
        """Go on from the newest checkpoint, or begin: the random start is the first champion."""
        found = self.run.restore()
        if found is None:
            self._begin()
            return
        state, deterministic = found.state, self.config.run.deterministic
        self.learner.restore(found.learner)
        for name in RESTORED:
            setattr(self, name, state[name])
        self._before, self.evaluate_seconds = state["seconds"], state["evaluate_seconds"]
        if "health" in state:  # a run that is older than its warnings begins them here
            self.health.restore(state["health"])
        for name, text in self.health.active.items():
            self.report("warning", {"warning": name, "state": "begins", "text": text})
        if deterministic:
            self.log.cut(state["log_size"])
            self.run.champion = state["champion"]
        matches = self.run.folder / "matches.jsonl"
        if matches.exists():
            lines = [x for x in matches.read_bytes().splitlines(keepends=True) if x.endswith(b"\n")]
            write_file(matches, b"".join(lines[: state["matches"] if deterministic else None]))
        self.replay.total = state["window_first"]
        self.replay.games = state["games"] - state["window_games"]
        kept = self._read_log(state["window_offset"], state["log_size"])
        self.collector.restore(found.groups, state, kept)
        self._tell(f"resumed at iteration {self.iteration}, {self.replay.total} positions", kept)
        self._enter_past()

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
        kept: set[int] = set()
        if self.config.run.deterministic:
            self.log.cut(0)
        else:
            kept = self._read_log(0, 0)
            self.collector.skip(kept)
        (self.run.folder / "matches.jsonl").unlink(missing_ok=True)
        self.run.champion, _ = self._save_candidate()
        if kept or self.log.torn:
            self._tell("begun again: the last session ended before its first checkpoint", kept)

    def _read_log(self, offset: int, known: int) -> set[int]:
        """Fill the window from the log; return the keys of games stored at `known` bytes or later."""
        finished = set()
        for at, payload in self.log.open_at(offset, known):
            episode = Episode.from_bytes(payload, self.game)
            self._count(episode, at)
            if at >= known:
                finished.add(episode.game_id)
        self.stats.update(points=0.0, draws=0, plies=0, games=0, truncated=0)
        return finished

    def _tell(self, told: str, kept: set[int]) -> None:
        if kept:
            told += f"; {len(kept)} games were finished after it and are kept"
        if self.log.torn:
            told += f"; a torn tail of {self.log.torn} bytes was cut from the log"
        self.report("say", {"text": told})

    def close(self) -> None:
        """Stop threads and workers, and close files."""
        if self.crew is not None:
            self.crew.close(self.ended == "finished")
            if self._opened:
                self._write_status("end", 0.0)  # with the games that came to the end
        self.collector.close()
        self.learner.close()
        self.events.close()
        self.outside.close(self.ended)
        self.log.close()


def check_start(game: Game, config: Config) -> dict[str, Player]:
    """Make the opponents of evaluations and find what would fail only then.

    Raises:
      PlayerError: an opponent that the game cannot have.
      ConfigError: the game has too few distinct openings for `promote.max_pairs`; a server without workers.
      BackendError: the device or backend is absent.
      StoreError, InvalidState: a file of hard positions that is not one.
    """
    choose(config.run.device, config.run.backend, config.run.precision)
    if config.inference.server and not config.remote:
        raise ConfigError(
            f"inference.server is {config.inference.server}, but there are no workers for it to serve; set "
            "collect.workers=N or collect.bind=HOST:PORT, or leave out inference.server."
        )
    if config.search.bearoff and game.name != "backgammon":
        raise ConfigError(
            f"search.bearoff is {config.search.bearoff}, but {game.id} has no bear-off; set it to 0."
        )
    if config.selfplay.hard_positions:
        HardPositions(game, pathlib.Path(config.selfplay.hard_positions))
    for opponent in config.selfplay.opponents:
        if opponent.player not in ("past", "policy"):
            parse(opponent.player, game)
    opponents = {label: parse(label, game, seed=config.run.seed) for label in plan_of(game, config).games}
    openings(game, config.promote.max_pairs, config.match.opening_plies, config.run.seed)
    return opponents


class _Interrupted(Exception):
    """Raised out of a match when the person at the keyboard wants to stop."""


def settings(config: Config) -> str:
    """Return the main numbers of a configuration in one line."""
    s = config.search
    return (
        f"{s.rule} search, {s.simulations.to_plain()} simulations, "
        f"{config.network.blocks}x{config.network.channels} {config.network.kind} network"
    )
