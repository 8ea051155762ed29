"""The actors that compute: self-play, inference and the learner. Each has a thread free to be told things."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import threading
import time
from dataclasses import replace
from typing import Any

import ray

from .. import configfile
from ..config import Config
from ..distributed import door
from ..distributed.store import check_meaning, meaning
from ..errors import UnreachableError, ZeroloopError
from ..games import make
from .store import RayStore

untyped: Any = ray  # for what Ray has not annotated
STARTING = 60.0
"""Seconds that the learner has to open its run."""
ENDING = 15.0
"""Seconds that workers have at the end to send what they have finished."""


class _Actor:
    """What all of them have: a flag to stop, and where they are.

    Args:
      password: of the ports between the actors; empty: as the environment of their machine has it.
    """

    def __init__(self, replay: Any, password: str) -> None:
        if password:
            os.environ.pop(door.FILE, None)
            os.environ[door.PASSWORD] = password  # the process is this actor's alone
        self._store = RayStore(replay)
        self._stop = threading.Event()

    def where(self) -> tuple[str, str]:
        """Return the node's number and the machine's name."""
        return str(ray.get_runtime_context().get_node_id()), socket.gethostname()

    def stop(self) -> None:
        """Let the actor end its work."""
        self._stop.set()


class SelfPlay(_Actor):
    """Actor: one self-play worker, whose spool lies on its machine's disk."""

    def __init__(self, replay: Any, password: str, root: str) -> None:
        super().__init__(replay, password)
        self._root = pathlib.Path(root)

    def run(self) -> dict[str, str]:
        """Play until the run is over; return why it ended early: `unfit` (this machine) or `failed`."""
        from ..distributed.worker import Worker

        self._wait()
        try:
            worker = Worker(self._store, self._root, stop=self._stop.is_set, say=self._say)
        except UnreachableError as error:
            return {"failed": str(error)}
        except ZeroloopError as error:
            return {"unfit": str(error)}
        try:
            worker.run()
        except ZeroloopError as error:
            return {"failed": str(error)}
        return {}

    def _wait(self) -> None:
        """Wait quietly for the learner, which starts beside us; what else is wrong a worker says."""
        end = time.monotonic() + STARTING
        while time.monotonic() < end and not self._stop.wait(0.2):
            with contextlib.suppress(UnreachableError):
                self._store.about()
                return

    def _say(self, text: str) -> None:
        self._store.say(f"worker on {socket.gethostname()}: {text}")


class Inference(_Actor):
    """Actor: an inference server that follows the learner's models.

    Args:
      port: where it listens, at the address that its machine has in the cluster; 0: any that is free.
    """

    def __init__(self, replay: Any, password: str, port: int) -> None:
        super().__init__(replay, password)
        self._bind = f"{untyped.util.get_node_ip_address()}:{port}"

    def run(self) -> dict[str, str]:
        """Serve until stopped; return why it ended early: `failed`, a sentence."""
        from ..distributed.inference import InferenceServer
        from ..evaluator.choice import choose

        try:
            config = configfile.build(Config, self._store.run()["config"], "the run's configuration")
            c = config.inference
            choice = choose(config.run.device, config.run.backend, config.run.precision)
            game = make(config.game.name, **config.game.options)
            server = InferenceServer(
                game,
                choice,
                max_batch=c.max_batch,
                deadline_ms=c.deadline_ms,
                lanes=c.lanes,
                say=self._store.say,
            )
        except ZeroloopError as error:
            return {"failed": str(error)}
        try:
            self._follow(server)
        except ZeroloopError as error:
            return {"failed": str(error)}
        finally:
            server.close()
        return {}

    def _follow(self, server: Any) -> None:
        """Give the server each new model, and say so; again every second, for a store that began anew."""
        told = 0.0
        while not self._stop.wait(0.05):
            try:
                found = self._store.newest(server.newest)
                if found is not None:
                    server.publish(found.hash, found.data)
                    if not server.address:
                        server.listen(self._bind)
                if server.address and (found is not None or time.monotonic() - told > 1.0):
                    self._store.serves(server.address, server.newest)
                    told = time.monotonic()
            except UnreachableError:
                self._stop.wait(0.5)  # the driver says so


class Learner(_Actor):
    """Actor: opens the run directory on its machine and trains.

    Args:
      plain: the configuration; numbers of threads that are 0 become those of this machine, or of the run.
    """

    def __init__(self, replay: Any, password: str, folder: str, plain: dict[str, Any]) -> None:
        super().__init__(replay, password)
        self._folder, self._plain = pathlib.Path(folder), plain
        self._reports: list[tuple[str, dict[str, Any]]] = []
        self._ending = 0.0
        self._asked = -1.0

    def run(self) -> dict[str, Any]:
        """Train until the budget is spent, or `stop()`; return `outcome`, or the sentence `failed`."""
        from ..distributed.crew import identity as identity_of
        from ..run import Run
        from ..train import train

        try:
            config = _settled(
                self._folder, configfile.build(Config, self._plain, "the driver's configuration")
            )
            game = make(config.game.name, **config.game.options)
            check_meaning(self._store.run(), meaning(game))
            run = Run.open(self._folder, config)
            self._store.identify(identity_of(self._folder))
            try:
                return {"outcome": tuple(train(run, self._report, self._stopped, self._store))}
            finally:
                run.close()
        except ZeroloopError as error:
            return {"failed": str(error)}

    def _report(self, kind: str, values: dict[str, Any]) -> None:
        self._reports.append((kind, values))

    def reports(self, after: int) -> list[tuple[str, dict[str, Any]]]:
        """Return what `train` has reported since the first `after` reports."""
        return self._reports[after:]

    def _stopped(self) -> bool:
        """Return whether to stop: when asked to, and what workers had finished has been taken."""
        if not self._stop.is_set():
            return False
        now = time.monotonic()
        if not self._ending:
            self._ending = now + ENDING
        if now - self._asked < 0.1:
            return False
        self._asked = now
        if now > self._ending:
            return True
        with contextlib.suppress(UnreachableError):  # then the games stay in the spools
            self._store.stop()
            return self._store.present() == 0
        return False


def _settled(folder: pathlib.Path, config: Config) -> Config:
    """Fix numbers of threads that are 0: as the run there has them, else one per core of this machine."""
    from ..evaluator.choice import cores
    from ..run import stored_config

    play = learn = cores()
    if (folder / "run.json").exists():
        stored = stored_config(folder)
        play, learn = stored.selfplay.threads, stored.learn.threads
    return replace(
        config,
        selfplay=replace(config.selfplay, threads=config.selfplay.threads or play),
        learn=replace(config.learn, threads=config.learn.threads or learn),
    )
