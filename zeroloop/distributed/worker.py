"""Worker: self-play that joins a run anywhere, plays its newest model and sends what is finished.

It needs the address of a store and nothing else: the run's configuration, model and orders come from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from .. import configfile, model
from ..config import Config
from ..episode import Episode
from ..errors import ConfigError, RefusedError, StoreError, UnreachableError
from ..evaluator.choice import choose, make_evaluator
from ..files import sha256
from ..games import make
from ..players import parse
from ..players.network import PolicyPlayer
from ..selfplay.collector import GROUPS, STRIDE, LocalCollector
from .frames import split_address
from .gauges import Gauges
from .lanes import StaleModelError
from .leaves import RemoteEvaluator, publish
from .sender import Sender
from .spool import Spool
from .store import PROTOCOL, EpisodeStore, check_meaning, meaning

UNSAFE = 4
"""Queues of games that a spool may hold while the store does not say that they are safe."""
PATIENCE = 10.0
"""Seconds that a worker that ends goes on sending what it has finished."""
FIRST = 60.0
"""Seconds for which an address that has never answered is asked again."""


def worker_of(game_id: int) -> int:
    """Return the number of the worker that played a game."""
    return game_id % STRIDE // GROUPS


def run_key(about: dict[str, Any]) -> str:
    """Return the name of a run's folder of spools: games of one run are never sent to another one.

    Args:
      about: see `EpisodeStore.about`; its `identity`, where it has one, stays when the run is renamed.
    """
    seed = about["config"].get("run", {}).get("seed")
    told = [about["run"], about["game"], about["rules_identity"], about["observation_version"], seed]
    return sha256(json.dumps(about.get("identity") or told).encode())[:16]


class Worker:
    """One self-play worker; `run` returns when the run is over or `stop()`.

    Args:
      root: folder of spools, in it a folder for each run; those of workers that died are sent first.
      stop: asked before every tick.
      say: takes a sentence for a person.
      endpoint: HOST:PORT of this process's gauges, port 0 for any; empty: any where the learner has some.

    Raises, from `run`:
      RefusedError: the run has another version, game or rules, or does not want this worker.
      UnreachableError: the store never answered.
    """

    def __init__(
        self,
        store: EpisodeStore,
        root: pathlib.Path,
        *,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        endpoint: str = "",
    ) -> None:
        def told(text: str) -> None:
            with contextlib.suppress(BrokenPipeError):  # whoever listened is gone; the work goes on
                say(text)

        self._store, self._stop, self._say = store, stop, told
        self._begun = time.monotonic()
        about = self._first_answer()
        # First the versions: another one may not know the keys of this run's configuration.
        check_meaning(about, {**about, "protocol": PROTOCOL, "zeroloop": version("zeroloop")})
        self._run_name, self._key = str(about["run"]), run_key(about)
        self.config = _own(configfile.build(Config, about["config"], "the run's configuration"))
        self.game = make(self.config.game.name, **self.config.game.options)
        mine = meaning(self.game)
        check_meaning(about, mine)
        self._server = self._server_of(about)
        device = (
            self.config.run.device if self.config.collect.device == "auto" else self.config.collect.device
        )
        self.choice = choose(
            "cpu" if self._server else device, self.config.run.backend, self.config.run.precision
        )
        shown = self.config.gauges
        host, port = split_address(endpoint) if endpoint else (shown.host, 0)
        self._gauges = Gauges(port, host, "worker") if endpoint or shown.port else None
        self.spool = Spool.make(root / self._key)
        adopted = Spool.adopt(root / self._key)
        for spool in adopted:
            told(f"{spool.waiting} finished games of worker {spool.number}, which is gone, are sent first")
        self.games = 0
        self._model, self._data = "", b""
        self._network: Any = None
        self._failed = False
        self.wait_seconds = 0.0
        self._senders: list[Sender] = []
        self.collector = LocalCollector(
            self.game,
            self.config,
            self.choice,
            self._finished,
            self._opponent,
            lambda player, key: player,
            numbers=(self.spool.number * GROUPS, STRIDE),
            connect=self._connect if self._server else None,
        )
        for spool in adopted:
            self._senders.append(Sender(store, spool, mine, None, told, self._same_run))
        self._sender = Sender(store, self.spool, mine, self.row, told, self._same_run)
        self._senders.append(self._sender)

    def _first_answer(self) -> dict[str, Any]:
        """Ask what the run is; while nobody answers, ask again for FIRST seconds."""
        told, wait = False, 0.1
        while True:
            try:
                return self._store.about()
            except UnreachableError as error:
                if self._stop() or time.monotonic() - self._begun > FIRST:
                    raise
                if not told:
                    self._say(f"{error} Asking again for {FIRST:.0f} s.")
                    told = True
                time.sleep(wait)
                wait = min(2.0, 2 * wait)

    def _server_of(self, about: dict[str, Any]) -> str:
        """Return the address of the run's inference server; empty where workers have the network."""
        server = str(about["config"].get("inference", {}).get("server", ""))
        if server != "learner":
            return server
        found = str(about["inference"])
        if found.startswith(":"):  # it listens at every address of the store's machine
            return split_address(getattr(self._store, "address", ""))[0] + found
        return found

    def _same_run(self) -> None:
        """Refuse a store that has come to serve another run: it would take our games for its own.

        A run that went on with its network elsewhere is refused too: the leaves of this worker wait for an
        inference server that may never come back.
        """
        try:
            about = self._store.about()
        except RefusedError:
            return  # it has no run, and joining it says so
        if run_key(about) != self._key:
            raise RefusedError(
                f"the store now serves another run, {about['run']}; this worker plays for {self._run_name} "
                f"and keeps its finished games in {self.spool.folder}. Start the worker again."
            )
        server = self._server_of(about)
        if server != self._server:
            raise RefusedError(
                f"the run now has its inference {_place(server)}, where this worker began with it "
                f"{_place(self._server)}. Start the worker again: the next one there sends what is in "
                f"{self.spool.folder}."
            )

    def run(self) -> None:
        """Play until the run is over, then send what is left."""
        try:
            while not self._stop():
                self._check()
                orders = self._sender.orders
                if orders is not None and orders.stopped:
                    break
                if orders is None or not orders.model or orders.paused or self._full():
                    begun = time.monotonic()
                    time.sleep(0.02)
                    self.wait_seconds += (time.monotonic() - begun) * self.collector.threads
                    continue
                if orders.model != self._model:
                    self._load(orders.progress)
                    continue
                self.collector.begin(1 << 60)
                try:
                    self.collector.collect(self._halt)
                except StaleModelError:
                    self._stale()
        except UnreachableError:
            self._check()
            if not self._ends():
                raise
            # Told to end while leaves waited for the inference server: those games are unfinished.
        finally:
            self.collector.close()
            self._close()

    def _stale(self) -> None:
        """Go on after the inference server has said that it no longer has, or never had, our model.

        Where the store knows none newer, a server that has begun anew is given ours.
        """
        orders = self._sender.orders
        if orders is None or orders.model != self._model:
            return  # the newer one is loaded next
        try:
            publish(self._server, self.game, self._model, self._data, newest=False)
        except UnreachableError:
            time.sleep(0.2)

    def _check(self) -> None:
        alive = self._sender.alive
        for sender in self._senders:
            if sender.error is not None:
                raise sender.error
        if not alive:
            raise StoreError(f"the thread that sends games has died; they are kept in {self.spool.folder}.")

    def _full(self) -> bool:
        """Return whether to wait: what is played now would only grow old before it is learnt from."""
        return self._sender.full or self.spool.waiting >= UNSAFE * self.config.collect.queue

    def _halt(self) -> bool:
        orders = self._sender.orders
        assert orders is not None
        turned = orders.model != self._model or orders.paused or orders.stopped
        return turned or self._full() or self._failed or not self._sender.alive or self._stop()

    def _ends(self) -> bool:
        """Return whether there is a reason to wait no longer for an inference server that is away."""
        orders = self._sender.orders
        over = orders is not None and orders.stopped
        return over or self._failed or not self._sender.alive or self._stop()

    def _load(self, progress: float) -> None:
        """Fetch the newest model and play on with it."""
        try:
            found = self._store.weights(self._model)
        except UnreachableError:
            time.sleep(0.1)  # the sender has said so
            return
        if found is None:
            time.sleep(0.05)  # the orders are older than our model; the next report brings new ones
            return
        if sha256(found.data) != found.hash:
            raise RefusedError(
                f"model {found.hash[: model.SHORT]} came with the hash {sha256(found.data)[: model.SHORT]}: "
                "its bytes were damaged on the way. Start the worker again."
            )
        if not self._server:
            self._network = model.decode(
                found.data, pathlib.Path(f"model {found.hash[: model.SHORT]}"), self.game
            )
        network = self._network.network if self._network is not None else None
        self.collector.publish(network, found.hash, progress=progress)
        self._model, self._data = found.hash, found.data

    def _connect(self, name: str) -> Any:
        size = self.config.selfplay.games
        return RemoteEvaluator(self.game, self._server, name, size, stop=self._ends, tell=self._say)

    def _finished(self, episode: Episode) -> None:
        try:
            self.spool.add(episode.to_bytes(), episode.positions)
        except StoreError:
            self._failed = True  # the other threads end too
            raise
        self.games += 1

    def _opponent(self, label: str) -> Any:
        if label != "policy":
            return parse(label, self.game, seed=self.config.run.seed)
        if self._network is None:
            raise ConfigError(
                "selfplay.opponents names policy, but inference.server gives workers no network; set "
                "inference.server='', or choose another opponent."
            )
        made = make_evaluator(self.game, self._network.network, self.choice, [self.config.selfplay.games])
        return PolicyPlayer(self.game, made, name=label, seed=self.config.run.seed)

    def row(self) -> dict[str, Any]:
        """Return the worker's figures, totals since it began."""
        counted, spent = self.collector.counters(), self.collector.seconds()
        found = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "gauges": self._gauges.address(getattr(self._store, "address", "")) if self._gauges else "",
            "model": self._model,
            "games": self.games,
            "moves": counted["moves"],
            "simulations": counted["simulations"],
            "evaluations": counted["evaluations"],
            "cache_hits": counted["cache_hits"],
            "overflows": counted["overflows"],
            "waiting": sum(s.spool.waiting for s in self._senders),
            "resent": sum(s.resent for s in self._senders),
            **{f"{phase}_seconds": seconds for phase, seconds in spent.items()},
            "wait_seconds": self.wait_seconds,
            "threads": self.collector.threads,
            "alive_seconds": time.monotonic() - self._begun,
        }
        if self._gauges is not None:
            self._gauges.set(found)
        return found

    def _close(self) -> None:
        """Send what is finished, for a while; what cannot be sent stays in the spool and is said."""
        end = time.monotonic() + PATIENCE
        for sender in self._senders:
            if sender.finish(max(0.1, end - time.monotonic())):
                sender.spool.remove()
            else:
                left, folder = sender.spool.waiting, sender.spool.folder
                self._say(f"{left} finished games are kept in {folder}; the next worker there sends them")
                sender.spool.close()
        if self._gauges is not None:
            self._gauges.close()
        self._store.close()


def _place(server: str) -> str:
    return f"at {server}" if server else "in each worker"


def _own(config: Config) -> Config:
    """Return the run's configuration as a worker plays it: with its own number of threads."""
    return replace(config, selfplay=replace(config.selfplay, threads=config.collect.threads))
