"""Training on a Ray cluster: the driver places actors, shows what the learner reports, replaces the dead.

Nothing of the run lives in the driver: the learner goes on from its checkpoint, a worker's finished games
lie in its spool, and the replay actor holds only copies of those.
"""

from __future__ import annotations

import pathlib
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

from .. import configfile
from ..config import Config
from ..distributed.crew import about_run
from ..distributed.door import own_password
from ..distributed.frames import split_address
from ..errors import ConfigError, RefusedError, StoreError, UnreachableError
from ..games import make
from ..outside import Report
from ..train import Outcome
from . import room
from .actors import Inference, Learner, SelfPlay
from .connection import common, connected
from .store import RayStore, Replay

untyped: Any = ray  # for what Ray has not annotated
QUICK, QUICK_DEATHS = 20.0, 5
"""An actor that ends within so many seconds, so many times in a row, is not started again."""
PLACING = 20.0
"""Seconds that the learner's actor has to start."""
LOOK = 1.0
"""Seconds between two looks at the cluster."""


def train_on_ray(folder: pathlib.Path, config: Config, report: Report, stop: Callable[[], bool]) -> Outcome:
    """Train in this folder of the learner's machine until the budget is spent, or until `stop()`.

    Args:
      folder: absolute; spools lie in its `spool` on each machine where `collect.spool` names no other.
      report: see `outside.Report`.

    Raises:
      UnreachableError: no such cluster. ConfigError: it has no room for the run; both within seconds.
      StoreError: an actor dies again and again; the run goes on from its checkpoint.
    """
    if config.collect.store != "memory" or config.collect.bind:
        raise ConfigError(
            "with --ray the replay is an actor of the cluster; leave out collect.store and collect.bind, or "
            "leave out --ray and start 'zeroloop worker' on each machine."
        )
    if config.run.deterministic:
        raise ConfigError("run.deterministic is on, but games of several actors arrive in any order.")
    learner, inference, worker = room.wants(config)
    cpus = learner["CPU"] + inference.get("CPU", 0.0) + worker["CPU"] * (config.collect.workers or 1)
    from ..evaluator.choice import cores

    with connected(config.ray.address, max(cpus, cores())):
        crew = _Crew(folder, config, report)
        try:
            return crew.run(stop)
        finally:
            crew.close()


class _Worker:
    """One self-play actor, wherever Ray has placed it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.placed = actor.where.remote()
        self.ended = actor.run.remote()
        self.node = self.host = ""
        self.begun = time.monotonic()


class _Crew:
    """The actors of one session."""

    def __init__(self, folder: pathlib.Path, config: Config, report: Report) -> None:
        self._folder, self._config, self._report = folder, config, report
        self._plain, self._password = configfile.to_plain(config), _password(config)
        self._nodes = room.nodes_of(untyped.nodes())
        self._unfit = {n.id: n.host for n in self._nodes if self._differs(n)}
        """Machines that are given no worker, by the number of their node."""
        here = str(ray.get_runtime_context().get_node_id())
        self._place, self._room = room.plan(self._fit(), config, here)
        # Beside the learner, and there again: soft affinity to a node is not kept by actors without CPUs.
        beside = {f"node:{self._place.address}": 0.001}
        self._replay = (
            ray.remote(Replay)
            .options(num_cpus=0, resources=beside, max_restarts=-1)
            .remote(self._about(), config.collect.queue, config.collect.lost_seconds, config.ray.inference)
        )
        self._store = RayStore(self._replay, timeout=5.0)
        self._gone = self._stopping = False
        self._workers: list[_Worker] = []
        self._counts: dict[str, tuple[int, float]] = {}
        self._looked, self._short = 0.0, -1
        self._port, self._serving = split_address(config.inference.bind)[1], ""
        self._inference: Any = None
        self._served: Any = None
        self._served_since = 0.0
        self._start_learner()
        self._say(f"learner on {self._place.host}, where the run lies: {folder}")

    def _about(self) -> dict[str, Any]:
        """Return what the run is, as a worker sees it."""
        config = self._config
        if config.ray.inference:
            config = replace(config, inference=replace(config.inference, server="learner"))
        return about_run(self._folder.name, config, make(config.game.name, **config.game.options))

    def _say(self, text: str) -> None:
        self._report("say", {"text": text})

    def _count(self, what: str, begun: float, why: str) -> None:
        """Count quick deaths in a row; those of one moment, as when a machine goes, are one."""
        now = time.monotonic()
        number, last = self._counts.get(what, (0, 0.0))
        if now - begun > QUICK:
            number = 0
        elif now - last > LOOK:
            number += 1
        self._counts[what] = number, now
        if number >= QUICK_DEATHS:
            raise StoreError(
                f"the {what} ended {number} times in a row within {QUICK:.0f} s; the last: {why}"
            )

    # The learner.

    def _start_learner(self) -> None:
        r, at = self._config.ray, self._place
        pinned = OnNode(at.id, soft=False)  # the run directory lies there
        self._learner: Any = (
            ray.remote(Learner)
            .options(
                num_cpus=r.learner_cpus,
                num_gpus=r.learner_gpus,
                max_concurrency=4,
                scheduling_strategy=pinned,
            )
            .remote(self._replay, self._password, str(self._folder), self._plain)
        )
        self._told, self._begun = 0, time.monotonic()
        actor: Any = self._learner
        self._alive: Any = actor.where.remote()
        self._trained: Any = actor.run.remote()
        if self._stopping:
            actor.stop.remote()

    def run(self, stop: Callable[[], bool]) -> Outcome:
        """See `train_on_ray`."""
        while True:
            refs = [w.ended for w in self._workers]
            if self._trained is not None:
                refs.append(self._trained)
            done = ray.wait(refs, num_returns=1, timeout=0.2)[0] if refs else []
            self._show()
            if stop() and not self._stopping:
                self._stopping = True
                if self._trained is not None:
                    self._learner.stop.remote()
            if self._trained in done:
                outcome = self._learner_ended()
                if outcome is not None:
                    return outcome
            for worker in [w for w in self._workers if w.ended in done]:
                self._worker_ended(worker)
            if time.monotonic() - self._looked > LOOK:
                self._look()
                self._looked = time.monotonic()

    def _show(self) -> None:
        """Show what the learner has reported."""
        if self._trained is None:
            return
        try:
            found = ray.get(self._learner.reports.remote(self._told), timeout=2.0)
        except RayTaskError:
            raise
        except RayError:
            return  # not placed yet, busy or dead: its end is seen elsewhere
        self._told += len(found)
        for kind, values in found:
            self._report(kind, values)

    def _learner_ended(self) -> Outcome | None:
        """Return the outcome, or let another learner go on."""
        found, why = _result(self._trained)
        self._show()
        if "outcome" in found:
            return Outcome(*found["outcome"])
        if found:
            raise StoreError(found["failed"])
        if self._stopping:
            raise StoreError(f"the learner died while it stopped ({why}); the same command goes on.")
        self._count("learner", self._begun, why)
        self._say("the learner died; another one goes on from its checkpoint")
        ray.kill(self._learner)
        self._trained = None
        return None

    def _replace_learner(self) -> None:
        """Start the learner again where the run lies, once that machine is there."""
        if self._stopping:
            raise StoreError(f"{self._place.host} is gone, where the run lies; the same command goes on.")
        try:
            self._place = room.plan(self._nodes, self._config, self._place.id, self._place.address).learner
        except ConfigError as error:
            if self._short != -2:
                self._say(f"{error} Until then workers keep their games.")
            self._short = -2
            return
        self._start_learner()

    # Workers and inference.

    def _look(self) -> None:
        """See which machines there are, keep the wished number of actors, and hear what they say."""
        nodes = room.nodes_of(untyped.nodes())
        known, present = {n.id for n in self._nodes}, {n.id for n in nodes}
        for node in nodes:
            if node.id not in known:
                self._say(f"machine {node.host} joined with {room.told(room.shown(node))}")
                if self._differs(node):
                    self._unfit[node.id] = node.host
        for node in self._nodes:
            if node.id not in present:
                self._say(f"machine {node.host} is gone")
        self._nodes = nodes
        if self._trained is None:
            self._replace_learner()
        self._hear()
        self._check_placed()
        if not self._stopping:
            self._keep_inference()
            self._keep_workers()

    def _fit(self) -> list[room.Node]:
        return [n for n in self._nodes if n.id not in self._unfit]

    def _differs(self, node: room.Node) -> bool:
        """Say whether a machine that `zeroloop cluster` started has another zeroloop or Python."""
        for name, own in common().items():
            if node.labels.get(name, own) != own:
                self._say(
                    f"machine {node.host} has {name} {node.labels[name]}, the driver {own}: it is given no "
                    "actor. Install the same on both and start it again."
                )
                return True
        return False

    def _hear(self) -> None:
        try:
            for text in self._store.sayings():
                self._say(text)
            if self._config.ray.inference:
                self._follow(str(self._store.run()["inference"]))
        except UnreachableError as error:
            if not self._gone:
                self._say(f"{error} Ray starts an empty one; finished games are in the workers' spools.")
            self._gone = True
            return
        if self._gone:
            self._say("the replay actor answers again")
        self._gone = False

    def _check_placed(self) -> None:
        """Give up where the learner finds no room: others use what the cluster has."""
        if self._alive is None or self._trained is None:
            return
        if ray.wait([self._alive], timeout=0)[0]:
            self._alive = None
        elif time.monotonic() - self._begun > PLACING:
            free = {k: v for k, v in untyped.available_resources().items() if k in ("CPU", "GPU")}
            raise StoreError(
                f"the learner wants {room.told(room.wants(self._config)[0])} on {self._place.host} and has "
                f"not started in {PLACING:.0f} s; {room.told(free)} of the cluster is free. Others use it: "
                "wait for them, or lower ray.learner_cpus."
            )

    def _keep_workers(self) -> None:
        if self._alive is not None and not self._workers:
            return  # the learner is placed first
        wished = self._config.collect.workers
        try:
            self._room = room.plan(self._fit(), self._config, self._place.id).workers
        except ConfigError:
            self._room = 0  # the learner's machine is gone, or has no room beside it
        count = wished or max(1, self._room)
        for worker in self._workers:
            if not worker.node and ray.wait([worker.placed], timeout=0)[0]:
                worker.node, worker.host = _result(worker.placed)[0] or ("", "")
        for worker in [w for w in self._workers if not w.node][: max(0, len(self._workers) - count)]:
            ray.kill(worker.actor)
            self._workers.remove(worker)
        while len(self._workers) < count:
            self._workers.append(self._new_worker())
        if wished > self._room and self._room != self._short:
            self._say(
                f"{wished} self-play actors are wanted with {room.told(room.wants(self._config)[2])} each; "
                f"the cluster has room for {self._room}. The others start when machines join."
            )
        self._short = self._room

    def _new_worker(self) -> _Worker:
        options: dict[str, Any] = {"num_cpus": self._config.ray.worker_cpus, "max_concurrency": 4}
        if self._unfit:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._unfit)})"}
        root = self._config.collect.spool or str(self._folder / "spool")
        return _Worker(ray.remote(SelfPlay).options(**options).remote(self._replay, self._password, root))

    def _worker_ended(self, worker: _Worker) -> None:
        """Take a worker out; the next look starts another, which sends what this one had finished."""
        self._workers.remove(worker)
        found, why = _result(worker.ended)
        node, host = worker.node, worker.host
        if not node and found:
            node, host = _result(worker.placed)[0] or ("", "")
        if self._stopping:
            return
        where = f"on {host}" if host else "not placed yet"
        if "unfit" in found:
            self._unfit[node] = host
            self._say(f"machine {host} is given no worker: {found['unfit']}")
            if not self._fit():
                raise RefusedError(found["unfit"])
        elif found or why:
            why = found.get("failed", why)
            self._say(f"the worker {where} ended ({why}); another one takes its place")
            self._count("worker", worker.begun, why)
        ray.kill(worker.actor)

    def _keep_inference(self) -> None:
        if not self._config.ray.inference:
            return
        if self._served is not None:
            if not ray.wait([self._served], timeout=0)[0]:
                return
            found, why = _result(self._served)
            why = found.get("failed", why)
            self._say(f"the inference actor ended ({why}); another one takes its place")
            self._count("inference actor", self._served_since, why)
            ray.kill(self._inference)
        r = self._config.ray
        options = {"num_cpus": r.inference_cpus, "num_gpus": r.inference_gpus, "max_concurrency": 4}
        made = ray.remote(Inference).options(**options)
        self._inference = made.remote(self._replay, self._password, self._port)
        self._served, self._served_since = self._inference.run.remote(), time.monotonic()

    def _follow(self, address: str) -> None:
        """Let workers begin anew where the inference actor has another address."""
        if self._serving and address and address != self._serving:
            self._say(f"inference is at {address} now; the workers begin anew")
            for worker in self._workers:
                ray.kill(worker.actor)
        if address:
            self._serving, self._port = address, split_address(address)[1]

    def close(self) -> None:
        """Let go of what is left; games that the learner has not taken stay in the spools."""
        try:
            rows = self._store.workers()
        except UnreachableError:
            rows = []
        left = sum(int(row.get("waiting", 0)) for row in rows)
        if left:
            root = self._config.collect.spool or self._folder / "spool"
            self._say(f"{left} finished games are kept in {root}; the next session takes them first")
        for actor in [w.actor for w in self._workers]:
            ray.kill(actor)


def _password(config: Config) -> str:
    """Return the password of the session's ports: the driver's, or one drawn for those that it opens."""
    opens = config.ray.inference or config.inference.server == "learner"
    return own_password() or (secrets.token_hex(32) if opens else "")


def _result(ref: Any) -> tuple[Any, str]:
    """Return what an actor's work returned and "", or nothing and how it died."""
    try:
        return ray.get(ref), ""
    except RayTaskError:
        raise  # a fault of the program
    except RayActorError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {}, lines[-1] if "creation task" in str(error) else "its process or machine died"
