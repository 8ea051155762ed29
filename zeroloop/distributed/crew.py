"""Crew: everything beside the learner that a run with workers needs, opened and closed together."""

from __future__ import annotations

import contextlib
import pathlib
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

from .. import configfile
from ..config import Config
from ..episode import Episode
from ..errors import BackendError, StoreError, UnreachableError
from ..evaluator.choice import Choice
from ..files import write_file
from ..games.game import Game
from ..run import is_paused
from .collector import RemoteCollector
from .door import warning
from .inference import InferenceServer
from .leaves import publish
from .producers import Producers
from .served import StoreServer
from .share import DeviceShare
from .store import EpisodeStore, MemoryStore, meaning

ENDING = 15.0
"""Seconds that workers have at the end to send what they have finished."""
LEFT = 2.0
"""Seconds of silence after which a worker of a run that is over has left: it reports all the time."""


class Crew:
    """The store, its server, the worker processes and the collector of one session of training.

    Args:
      folder: the run directory.
      keep, say, sync: see `RemoteCollector`.
      store: a store made elsewhere; None: as `config.collect` says.

    Raises:
      StoreError: an address cannot be listened at, or the store refuses the run.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        config: Config,
        game: Game,
        choice: Choice,
        keep: Callable[[Episode], None],
        say: Callable[[str], None],
        store: EpisodeStore | None = None,
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        c = config.collect
        self._say = say
        self.server: StoreServer | None = None
        self.producers: Producers | None = None
        self.inference: InferenceServer | None = None
        self.share: DeviceShare | None = None
        """Shared by learning and inference, where both use one GPU of this process."""
        if config.inference.server == "learner":
            self.inference = self._inference(config, game, choice)
        about = about_run(folder.name, config, game)
        about |= {"inference": self._inference_address(config), "identity": identity(folder)}
        address = ""
        if store is None and c.store == "redis":
            from .redis import RedisStore

            store = RedisStore.open_run(config.redis, about, identity(folder), c.lost_seconds)
            address = config.redis.url
        elif store is None:
            store = MemoryStore(about, c.queue, c.lost_seconds)
            self.server = StoreServer(store, c.bind or "127.0.0.1:0", "collect.bind", say=say)
            address = self.server.address
            if c.bind:
                if alert := warning("collect.bind", c.bind):
                    say(alert)
                say(f"on other machines: zeroloop worker THIS_HOST:{address.rpartition(':')[2]}")
        tend, give = self._tend, self._give if config.inference.server else None
        self.collector = RemoteCollector(game, config, choice, store, keep, say, tend, give, sync)
        self._game, self._remote = game, config.inference.server
        self._workers = c.workers if address else 0
        self._address = address
        self._root = pathlib.Path(c.spool) if c.spool else folder / "spool"
        self._folder = folder
        self._paused = False
        self._extra: tuple[str, ...] = ()
        if c.store == "redis":
            self._extra = ("--run", config.redis.namespace or folder.name)
            self._extra += ("--ca", config.redis.ca) if config.redis.ca else ()

    def _inference(self, config: Config, game: Game, choice: Choice) -> InferenceServer:
        i = config.inference
        if choice.device != "cpu":
            self.share = DeviceShare(i.learner_share)
        server = InferenceServer(
            game,
            choice,
            max_batch=i.max_batch,
            deadline_ms=i.deadline_ms,
            lanes=i.lanes,
            share=self.share,
            say=self._say,
        )
        server.listen(i.bind)
        if alert := warning("inference.bind", i.bind):
            self._say(alert)
        return server

    def _inference_address(self, config: Config) -> str:
        """Return where workers find the server in this process; `:PORT` is at the address of the store.

        Raises:
          StoreError: it listens at every address, and workers know this machine by none.
        """
        if self.inference is None:
            return ""
        host, _, port = self.inference.address.rpartition(":")
        if host not in ("0.0.0.0", "::"):
            return self.inference.address
        if config.collect.store != "memory":
            raise StoreError(
                f"inference.bind is {config.inference.bind}, but workers that come by collect.store="
                f"{config.collect.store} do not know this machine; give its own address, such as "
                "192.168.1.100:6391."
            )
        return f":{port}"

    def _give(self, name: str, data: bytes) -> None:
        """Give the inference server a model, before any worker asks for it."""
        if self.inference is not None:
            self.inference.publish(name, data)
        else:
            publish(self._remote, self._game, name, data)

    def start(self) -> None:
        """Start the worker processes; the first model is published by then, or they wait for it."""
        if self._workers:
            self.producers = Producers(self._workers, self._address, self._root, self._say, self._extra)

    def _tend(self) -> None:
        if self.inference is not None and self.inference.lanes.failure is not None:
            raise BackendError(
                f"the inference server in this process has failed: {self.inference.lanes.failure!r}. Start "
                "the same command again: it goes on from the last checkpoint."
            ) from self.inference.lanes.failure
        if self.server is not None and self.server.failure is not None:
            raise StoreError(
                f"the server of workers in this process has failed: {self.server.failure!r}. Start the same "
                "command again: it goes on from the last checkpoint."
            ) from self.server.failure
        if self.producers is not None:
            self.producers.check()
        if is_paused(self._folder) != self._paused:
            self._paused = self.collector.paused = not self._paused
            self._say(
                f"self-play waits: zeroloop resume {self._folder} lets it go on"
                if self._paused
                else "self-play goes on"
            )

    def close(self, finished: bool) -> None:
        """Take what the workers have finished, and let go of everything.

        Own worker processes end. Those that somebody else has started end where the run is over; else they
        wait until its learner comes back.
        """
        collector = self.collector
        collector.over = True
        if finished:
            with contextlib.suppress(UnreachableError):  # a store that is away: they learn it from the next
                collector.store.stop()
        own = self.producers.pids if self.producers is not None else []
        if self.producers is not None:
            self.producers.close(ENDING, lambda: _drain(collector))
        if finished:
            self._see_off({(socket.gethostname(), pid) for pid in own})
        collector.look()
        if self.inference is not None:
            self.inference.close()
        if self.server is not None:
            self.server.close()
        collector.close()

    def _see_off(self, own: set[tuple[Any, Any]]) -> None:
        """Take what workers of other people still send, until they have left, or for ENDING seconds."""
        store, end = self.collector.store, time.monotonic() + ENDING
        while time.monotonic() < end:
            _drain(self.collector)
            try:
                rows = store.workers()
            except UnreachableError:
                return
            others = [r for r in rows if "pid" in r and (r.get("host"), r["pid"]) not in own]
            if all(r["silent_seconds"] > LEFT for r in others):
                return
            time.sleep(0.05)


def about_run(name: str, config: Config, game: Game) -> dict[str, Any]:
    """Return what a store tells workers of a run: see `EpisodeStore.about`."""
    return {**meaning(game), "config": configfile.to_plain(config), "run": name, "inference": ""}


def identity(folder: pathlib.Path) -> str:
    """Return what tells this run directory from all others, wherever it is moved."""
    path = folder / "identity"
    if not path.exists():
        write_file(path, secrets.token_hex(8).encode())
    return path.read_text()


def _drain(collector: RemoteCollector) -> None:
    while collector.drain():
        time.sleep(0)
