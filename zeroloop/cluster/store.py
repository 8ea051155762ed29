"""The replay actor, and RayStore: an `EpisodeStore` that asks it. Batches of games travel, never positions.

A model goes into Ray's object store once, and each machine fetches it from there once. When the actor dies
Ray makes an empty one behind the same handle; its epoch tells, and learner and workers give it again what
it must know. The games that it held are in the workers' spools.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from ..distributed.store import MemoryStore, Orders, Standing, Stored, Weights
from ..errors import RefusedError, UnreachableError

TIMEOUT = 20.0
"""Seconds that a call waits for the actor."""
SILENT = 5.0
"""Seconds of silence after which nobody waits for a worker that should end."""


class Answer(NamedTuple):
    """What the replay actor says to a call."""

    epoch: str
    """Drawn when the actor began: another one means that it began anew and knows nothing."""
    value: Any = None
    refused: str = ""
    stale: bool = False
    """The call was meant for an earlier epoch, and nothing was done."""


class Replay:
    """Actor: a `MemoryStore`, with the place of the newest model instead of its bytes."""

    def __init__(self, about: dict[str, Any], queue: int, lost_seconds: float, inference: bool) -> None:
        self._store = MemoryStore(about, queue, lost_seconds)
        self._about, self._inference = about, inference
        self._epoch = secrets.token_hex(8)
        self._placed: dict[str, list[Any]] = {}
        self._served = ""
        self._left: set[int] = set()
        self._said: deque[str] = deque(maxlen=100)

    def call(self, name: str, args: tuple[Any, ...], epoch: str = "") -> Answer:
        """Make one call of the store; with `epoch`, only where it is this one's."""
        if epoch and epoch != self._epoch:
            return Answer(self._epoch, stale=True)
        try:
            own = getattr(self, name, None)
            return Answer(self._epoch, (own or getattr(self._store, name))(*args))
        except RefusedError as error:
            return Answer(self._epoch, refused=str(error))

    def about(self) -> dict[str, Any] | None:
        """Return what the run is; None until learner and inference actor have said what is theirs to say."""
        ready = "identity" in self._about and (self._about["inference"] or not self._inference)
        return self._about if ready else None

    def identify(self, identity: str) -> None:
        """Hear from the learner what tells its run directory from all others."""
        self._about["identity"] = identity

    def pid(self) -> int:
        """Return the number of its process."""
        return os.getpid()

    def run(self) -> dict[str, Any]:
        """Return what the run is, before workers may join it too."""
        return self._about

    def serves(self, address: str, model: str) -> None:
        """Hear from the inference actor where it listens and which model it has."""
        self._about["inference"], self._served = address, model

    def publish(self, name: str, placed: list[Any], progress: float) -> None:
        """Keep the reference to a model's bytes; a list, or Ray would fetch them here."""
        kept = {k: v for k, v in self._placed.items() if k == self._served}
        self._placed = kept | {name: placed}
        self._store.publish(Weights(name, b""), progress)

    def weights(self, known: str) -> tuple[str, list[Any]] | None:
        """Return hash and reference of the model that workers play; None where it is `known`."""
        if not self._inference:
            return self.newest(known)
        found = self._placed.get(self._served)
        return (self._served, found) if found is not None and self._served != known else None

    def newest(self, known: str) -> tuple[str, list[Any]] | None:
        """Return hash and reference of the learner's newest model; None where it is `known`."""
        found = self._store.weights(known)
        return (found.hash, self._placed[found.hash]) if found is not None else None

    def report(self, worker: int, row: dict[str, Any]) -> Orders:
        """Tell a worker of a model once the inference actor has it, where there is one."""
        orders = self._store.report(worker, row)
        return orders._replace(model=self._served) if self._inference else orders

    def workers(self) -> list[dict[str, Any]]:
        """Return the rows of workers that have not left."""
        return [row for row in self._store.workers() if row["worker"] not in self._left]

    def leave(self, numbers: list[int]) -> None:
        """Forget these workers: they have ended by themselves."""
        self._left.update(numbers)

    def present(self) -> int:
        """Return how many workers are neither gone nor silent."""
        return sum(row["silent_seconds"] < SILENT for row in self.workers())

    def say(self, text: str) -> None:
        """Keep a sentence for the driver."""
        self._said.append(text)

    def sayings(self) -> list[str]:
        """Return the sentences since the last call."""
        out = list(self._said)
        self._said.clear()
        return out


class RayStore:
    """An `EpisodeStore` that asks the replay actor; a Ray error of a call is an UnreachableError."""

    def __init__(self, actor: Any, timeout: float = TIMEOUT) -> None:
        self._actor, self._timeout = actor, timeout
        self._joined: set[int] = set()
        # Of a learner: what an actor that began anew is told again, and how its numbers go on.
        self._epoch = ""
        self._base = self._highest = 0
        self._taken: dict[int, int] = {}
        self.identity = ""
        self._published: tuple[str, list[Any], float] | None = None
        self._seen: Counter[str] = Counter()
        self._carried: Counter[str] = Counter()

    @property
    def address(self) -> str:
        """HOST:PORT of the cluster's head: the way on which others reach this machine."""
        context: Any = ray.get_runtime_context()
        return str(context.gcs_address)

    def _ask(self, name: str, *args: Any, epoch: str = "") -> Answer:
        try:
            found: Answer = ray.get(self._actor.call.remote(name, args, epoch), timeout=self._timeout)
        except RayTaskError:
            raise  # a fault of the program, which no second try mends
        except RayError as error:
            raise UnreachableError(f"the replay actor does not answer ({type(error).__name__}).") from error
        self._epoch = self._epoch or found.epoch
        if found.refused:
            raise RefusedError(found.refused)
        return found

    def _numbered(self, name: str, number: int, *args: Any) -> Any:
        """Make a learner's call about numbers of games; None where the actor began anew."""
        found = self._ask(name, max(0, number - self._base), *args, epoch=self._epoch)
        if found.epoch == self._epoch:
            return found.value
        if self.identity:
            self._ask("identify", self.identity)
        self._ask("resume", self._taken)
        if self._published is not None:
            self._ask("publish", *self._published)
        self._base, self._epoch = self._highest, found.epoch
        self._carried += self._seen
        self._seen.clear()
        return None

    def about(self) -> dict[str, Any]:
        """See `EpisodeStore`."""
        found: dict[str, Any] | None = self._ask("about").value
        if found is None:
            raise UnreachableError("the learner, or the inference actor, has not begun yet.")
        return found

    def join(self, worker: int, token: str, about: dict[str, Any], safe: int = 0) -> Standing:
        """See `EpisodeStore`."""
        self._joined.add(worker)
        return Standing(*self._ask("join", worker, token, about, safe).value)

    def resume(self, safe: dict[int, int]) -> None:
        """Go on where a learner's disk ends: these games of these workers are not taken again."""
        self._taken = dict(safe)
        self._ask("resume", safe)

    def add(self, worker: int, first: int, episodes: Sequence[bytes], positions: Sequence[int]) -> Standing:
        """See `EpisodeStore`."""
        return Standing(*self._ask("add", worker, first, list(episodes), list(positions)).value)

    def read(self, after: int, most: int) -> list[Stored]:
        """See `EpisodeStore`."""
        found = self._numbered("read", after, most)
        out = [Stored(s.number + self._base, s.worker, s.sequence, s.data) for s in found or []]
        if out:
            self._highest = max(self._highest, out[-1].number)
        return out

    def acknowledge(self, number: int, safe: dict[int, int]) -> None:
        """See `EpisodeStore`; an actor that began anew is told of all workers."""
        self._taken |= safe
        self._numbered("acknowledge", number, safe)

    def publish(self, weights: Weights, progress: float) -> None:
        """See `EpisodeStore`."""
        self._published = (weights.hash, [ray.put(weights.data)], progress)
        self._ask("publish", *self._published)

    def weights(self, known: str) -> Weights | None:
        """See `EpisodeStore`; the bytes come from the object store of this machine."""
        return self._fetch("weights", known)

    def _fetch(self, call: str, known: str) -> Weights | None:
        found = self._ask(call, known).value
        if found is None:
            return None
        try:
            return Weights(found[0], ray.get(found[1][0], timeout=self._timeout))
        except RayError as error:  # the learner that put it there is gone; the next one puts its own
            raise UnreachableError(f"model {found[0][:12]} is gone with its learner.") from error

    def report(self, worker: int, row: dict[str, Any]) -> Orders:
        """See `EpisodeStore`."""
        return Orders(*self._ask("report", worker, row).value)

    def workers(self) -> list[dict[str, Any]]:
        """See `EpisodeStore`."""
        return list(self._ask("workers").value)

    def pause(self, paused: bool) -> None:
        """See `EpisodeStore`."""
        self._ask("pause", paused)

    def stop(self) -> None:
        """See `EpisodeStore`."""
        self._ask("stop")

    def counters(self) -> dict[str, int]:
        """See `EpisodeStore`; they go on growing over an actor that began anew."""
        self._seen = Counter(self._ask("counters").value)
        return {name: self._seen[name] + self._carried[name] for name in self._seen}

    def close(self) -> None:
        """Tell the actor that the workers that joined here are leaving, if it still answers."""
        leaving, self._joined = sorted(self._joined), set()
        if leaving:
            self._actor.call.remote("leave", (leaving,))

    # What only zeroloop's own actors ask.

    def run(self) -> dict[str, Any]:
        """Return what `about()` does, before workers may join too."""
        return dict(self._ask("run").value)

    def present(self) -> int:
        """Return how many workers have joined, have not left and are not silent."""
        return int(self._ask("present").value)

    def identify(self, identity: str) -> None:
        """Say what tells the run directory from all others."""
        self.identity = identity
        self._ask("identify", identity)

    def serves(self, address: str, model: str) -> None:
        """Say where the inference actor listens, and which model it has."""
        self._ask("serves", address, model)

    def newest(self, known: str) -> Weights | None:
        """Return the learner's newest model, which the inference actor has not got yet."""
        return self._fetch("newest", known)

    def say(self, text: str) -> None:
        """Leave a sentence for the driver, without waiting."""
        self._actor.call.remote("say", (text,))

    def sayings(self) -> list[str]:
        """Return the sentences left since the last call."""
        return list(self._ask("sayings").value)
