"""Crew: everything beside the learner that a run with workers needs, opened and closed together."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable
from typing import Any

from .. import configfile
from ..config import Config
from ..episode import Episode
from ..evaluator.choice import Choice
from ..games.game import Game
from ..run import is_paused
from .collector import RemoteCollector
from .producers import Producers
from .served import StoreServer
from .store import EpisodeStore, MemoryStore, meaning

ENDING = 15.0
"""Seconds that workers have at the end to send what they have finished."""


class Crew:
    """The store, its server, the worker processes and the collector of one session of training.

    Args:
      folder: the run directory.
      keep, say: see `RemoteCollector`.
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
    ) -> None:
        c = config.collect
        self._say = say
        self.server: StoreServer | None = None
        self.producers: Producers | None = None
        address = ""
        about: dict[str, Any] = {
            **meaning(game),
            "config": configfile.to_plain(config),
            "run": folder.name,
            "inference": "",
        }
        if store is None and c.store == "redis":
            from .redis import RedisStore

            store = RedisStore.open_run(config.redis, about)
            address = config.redis.url
        elif store is None:
            store = MemoryStore(about, c.queue, c.lost_seconds)
            self.server = StoreServer(store, c.bind or "127.0.0.1:0")
            address = self.server.address
            if c.bind:
                say(f"on other machines: zeroloop worker THIS_HOST:{address.rpartition(':')[2]}")
        self.collector = RemoteCollector(game, config, choice, store, keep, say, self._tend)
        self._workers = c.workers if address else 0
        self._address = address
        self._root = pathlib.Path(c.spool) if c.spool else folder / "spool"
        self._folder = folder
        self._paused = False
        self._extra = ("--run", config.redis.namespace or folder.name) if c.store == "redis" else ()

    def start(self) -> None:
        """Start the worker processes; the first model is published by then, or they wait for it."""
        if self._workers:
            self.producers = Producers(self._workers, self._address, self._root, self._say, self._extra)

    def _tend(self) -> None:
        if self.producers is not None:
            self.producers.check()
        if is_paused(self._folder) != self._paused:
            self._paused = not self._paused
            self.collector.store.pause(self._paused)
            self._say(
                "self-play waits: zeroloop resume lets it go on" if self._paused else "self-play goes on"
            )

    def close(self) -> None:
        """Stop the workers, take what they have finished, and let go of everything."""
        collector = self.collector
        if self.producers is not None:
            collector.store.stop()
            self.producers.close(ENDING, lambda: _drain(collector))
        if self.server is not None:
            self.server.close()
        collector.close()


def _drain(collector: RemoteCollector) -> None:
    while collector.drain():
        time.sleep(0)
