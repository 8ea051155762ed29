"""Lanes: requests of many threads, merged into batches of one network. Knows no socket.

`ask` blocks the thread that asks. A lane computes one batch at a time: on a CPU one per core, on a GPU two,
so that one copies while the other computes.
"""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
from collections import Counter, OrderedDict, deque
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import model
from ..errors import BackendError, RefusedError, UnreachableError, ZeroloopError
from ..evaluator import NetworkEvaluator
from ..evaluator.choice import Choice, cores, make_evaluator
from ..files import sha256
from ..games.game import Game
from ..search.forest import Leaves
from .ragged import LOWEST, Request, pack_logits, unpack_ids
from .share import INFERENCE, DeviceShare

Array = npt.NDArray[Any]

KEPT = 2
"""Models that are answered for: the newest and the one before."""
ENOUGH = 64
"""Rows from which a CPU gains little by a larger batch: a lane does not wait for more."""
QUIET = 0.5
"""Seconds of silence after which a batch no longer waits for an asker."""


class StaleModelError(RefusedError):
    """The model that was asked for is not here; `newest` is the hash of the one that is, empty for none."""

    def __init__(self, name: str, newest: str) -> None:
        short, new = name[: model.SHORT] or "(no name)", newest[: model.SHORT]
        super().__init__(
            f"stale model {short}; newest is {new}." if newest else "the inference server has no model yet."
        )
        self.newest = newest


class Asker:
    """Somebody who asks, one request at a time: a batch waits for those who may be about to."""

    def __init__(self) -> None:
        self.asks = False
        self.answered = 0.0


class _Waiting:
    """A request and, once `done`, its answer or its error."""

    def __init__(self, name: str, request: Request) -> None:
        self.model, self.request, self.rows = name, request, len(request.count)
        self.arrived = time.monotonic()
        self.done = threading.Event()
        self.answer: tuple[Array, Array] | None = None
        self.error: ZeroloopError | None = None


class Lanes:
    """Computes what is asked, with the newest model or the one before.

    Args:
      max_batch: positions of a batch at most. deadline_ms: milliseconds that its first request waits at most.
      number: batches computed at a time; 0: one per core of a CPU, two on a GPU.
      share: whose turn on the device it is, where a learner in this process uses the same one.

    Attributes:
      newest: hash of the newest model; empty before the first.
      failure: what ended a lane by surprise; all are closed then.
    """

    def __init__(
        self,
        game: Game,
        choice: Choice,
        max_batch: int = 1024,
        deadline_ms: float = 2.0,
        number: int = 0,
        share: DeviceShare | None = None,
    ) -> None:
        self.game, self.choice, self.max_batch = game, choice, max_batch
        self.newest = ""
        self.failure: BaseException | None = None
        self._deadline, self._share = deadline_ms / 1000, share
        self._cpu = choice.device == "cpu"
        self._enough = min(ENOUGH, max_batch) if self._cpu else max_batch
        self.number = number or (cores() if self._cpu else 2)
        self._changed = threading.Condition()
        self._publishing = threading.Lock()
        self._models: OrderedDict[str, list[NetworkEvaluator]] = OrderedDict()
        self._waiting: deque[_Waiting] = deque()
        self._rows = self._idle = self._computing = 0
        self._held = self._closed = False
        self._askers: set[Asker] = set()
        self._counters: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._threads = [
            threading.Thread(target=self._lane, args=(i,), name=f"lane-{i}", daemon=True)
            for i in range(self.number)
        ]
        for thread in self._threads:
            thread.start()

    def publish(self, name: str, data: bytes, newest: bool = True) -> None:
        """Make a model the newest; the one before is answered for still, older ones no longer.

        Args:
          name: SHA-256 of `data`. data: see `model.encode`.
          newest: where false, it takes the place of the one before, and the newest stays; where there is
            none, it is the newest all the same.

        Raises:
          RefusedError: the bytes are not those of the name. StoreError: they are no model.
          ResumeError: a model of another game or of other rules.
        """
        if (found := sha256(data)) != name:
            raise RefusedError(
                f"the bytes of model {name[: model.SHORT]} have hash {found[: model.SHORT]}: they were "
                "damaged on the way. Send them again."
            )
        with self._publishing:
            if name == self.newest or (not newest and name in self._models):
                return
            made = self._models.get(name)
            if made is None:
                made = self._make(model.decode(data, pathlib.Path(f"model {name[: model.SHORT]}"), self.game))
            with self._changed:
                last = self.newest
                self._models[name] = made
                self._models.move_to_end(name)
                while len(self._models) > KEPT:
                    self._models.popitem(last=False)
                if last and not newest:
                    self._models.move_to_end(last)
                self.newest = next(reversed(self._models))

    def _make(self, found: model.Model) -> list[NetworkEvaluator]:
        """Return an evaluator for each lane. A GPU records its graphs while nothing else runs on it."""
        sizes, lanes = batch_sizes(self.max_batch, self._cpu), range(self.number)
        if self._cpu:
            return [make_evaluator(self.game, found.network, self.choice, sizes, 1) for _ in lanes]
        with self._changed:
            self._held = True
            self._changed.wait_for(lambda: not self._computing)
        try:
            with self._turn():
                made = [make_evaluator(self.game, found.network, self.choice, sizes, 1) for _ in lanes]
                for evaluator in made:
                    _warm(self.game, evaluator)
        finally:
            with self._changed:
                self._held = False
                self._changed.notify_all()
        return made

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        return self._share.use(INFERENCE) if self._share else contextlib.nullcontext()

    def join(self) -> Asker:
        """Take somebody in who will ask; batches wait for him as for the others."""
        asker = Asker()
        with self._changed:
            self._askers.add(asker)
        return asker

    def leave(self, asker: Asker) -> None:
        """Wait for him no longer."""
        with self._changed:
            self._askers.discard(asker)
            self._changed.notify()

    def ask(self, asker: Asker, name: str, request: Request) -> tuple[Array, Array]:
        """Return `f2` logits, ragged and each less its row's highest, and `f4 [n, P]` values.

        Args:
          name: hash of the model. request: at most `max_batch` rows.

        Raises:
          StaleModelError: the model is not here. BackendError: it gives values that are no numbers.
          UnreachableError: the lanes are closed.
        """
        waiting = _Waiting(name, request)
        with self._changed:
            if self._closed:
                raise UnreachableError("the inference server is closed.")
            if name not in self._models:
                self._counters["stale"] += 1
                raise StaleModelError(name, self.newest)
            asker.asks = True
            self._waiting.append(waiting)
            self._rows += waiting.rows
            self._counters["requests"] += 1
            self._changed.notify()
        waiting.done.wait()
        asker.answered, asker.asks = time.monotonic(), False
        if waiting.error is not None:
            raise waiting.error
        assert waiting.answer is not None
        return waiting.answer

    def _lane(self, lane: int) -> None:
        game, n = self.game, self.max_batch
        width = max(game.max_legal, game.max_chance)
        leaves = Leaves(game.states(n), np.zeros((n, width), np.int32), np.zeros(n, np.int32))
        flat = np.zeros(n * width, np.float32)
        try:
            while taken := self._take():
                self._compute(lane, taken, leaves, flat)
        except BaseException as error:
            self.failure = error
            self._shut()
            raise

    def _take(self) -> list[_Waiting]:
        """Wait for a batch and return its requests; none at the end."""
        with self._changed:
            self._idle += 1
            try:
                while not self._closed:
                    delay = None if self._held or not self._waiting else self._delay()
                    if delay is not None and delay <= 0:
                        return self._merge()
                    self._changed.wait(delay)
                return []
            finally:
                self._idle -= 1

    def _delay(self) -> float:
        """Return the seconds that the waiting requests should wait for others."""
        now = time.monotonic()
        left = self._waiting[0].arrived + self._deadline - now
        if self._rows >= self._enough or left <= 0:
            return 0.0
        awaited = any(not a.asks and now - a.answered < QUIET for a in self._askers)
        return left if awaited else 0.0

    def _merge(self) -> list[_Waiting]:
        """Take the requests of one batch: of one model, whole. Idle lanes of a CPU divide what waits."""
        goal = -(-self._rows // self._idle) if self._cpu else self.max_batch
        name, rows = self._waiting[0].model, 0
        taken: list[_Waiting] = []
        for waiting in self._waiting:
            if waiting.model == name:
                if rows >= goal or rows + waiting.rows > self.max_batch:
                    break
                taken.append(waiting)
                rows += waiting.rows
        for waiting in taken:
            self._waiting.remove(waiting)
        self._rows -= rows
        self._computing += 1
        if self._waiting:
            self._changed.notify()
        return taken

    def _compute(self, lane: int, taken: list[_Waiting], leaves: Leaves, flat: Array) -> None:
        """Evaluate a batch and give every request its part, or its error."""
        begun = time.monotonic()
        with self._changed:
            made = self._models.get(taken[0].model)
        try:
            if made is None:  # two newer ones came while it waited
                raise StaleModelError(taken[0].model, self.newest)
            before = made[lane].rows
            self._evaluate(made[lane], taken, leaves, flat)
            self._count(taken, made[lane].rows - before, begun)
        except (BackendError, StaleModelError) as error:
            for waiting in taken:
                waiting.error = error
        finally:
            with self._changed:
                self._computing -= 1
                if self._held:
                    self._changed.notify_all()
            for waiting in taken:
                waiting.done.set()

    def _evaluate(
        self, evaluator: NetworkEvaluator, taken: list[_Waiting], leaves: Leaves, flat: Array
    ) -> None:
        n = 0
        for w in taken:
            rows = slice(n, n + w.rows)
            leaves.states[rows], leaves.count[rows] = w.request.states, w.request.count
            unpack_ids(w.request.ids, w.request.count, n, leaves.legal)
            n += w.rows
        batch = Leaves(leaves.states[:n], leaves.legal[:n], leaves.count[:n])
        with self._turn():
            found = evaluator.result(evaluator.submit(batch))
        total = pack_logits(found.logits, batch.count, n, LOWEST, flat)
        logits, values = flat[:total].astype(np.float16), found.values[:n].copy()
        if not (np.isfinite(logits).all() and np.isfinite(values).all()):
            raise BackendError(
                f"model {taken[0].model[: model.SHORT]} gives values that are no numbers; use an older one."
            )
        at, row = 0, 0
        for w in taken:
            end = at + len(w.request.ids)
            w.answer = logits[at:end], values[row : row + w.rows]
            at, row = end, row + w.rows

    def _count(self, taken: list[_Waiting], distinct: int, begun: float) -> None:
        rows, now = sum(w.rows for w in taken), time.monotonic()
        with self._changed:
            self._sizes[rows] += 1
            self._counters["batches"] += 1
            self._counters["positions"] += rows
            self._counters["evaluations"] += distinct
            self._counters["wait_us"] += round(1e6 * sum(begun - w.arrived for w in taken))
            self._counters["busy_us"] += round(1e6 * (now - begun))

    def counters(self) -> dict[str, float]:
        """Return totals, and what is there at the moment.

        Totals: `requests`, `batches`, `positions` asked for, `evaluations` computed (equal positions of a
        batch once), `stale` requests, `wait_seconds` of requests before their batch, `busy_seconds` of
        lanes. At the moment: `askers`, `waiting` positions, `lanes`.
        """
        with self._changed:
            c = self._counters
            names = ("requests", "batches", "positions", "evaluations", "stale")
            out: dict[str, float] = {name: c[name] for name in names}
            out["wait_seconds"], out["busy_seconds"] = c["wait_us"] / 1e6, c["busy_us"] / 1e6
            out["askers"], out["waiting"], out["lanes"] = len(self._askers), self._rows, self.number
            return out

    def batches(self) -> dict[int, int]:
        """Return how often each number of positions was a batch."""
        with self._changed:
            return dict(sorted(self._sizes.items()))

    def close(self) -> None:
        """End; whoever waits gets an UnreachableError."""
        self._shut()
        for thread in self._threads:
            thread.join()

    def _shut(self) -> None:
        with self._changed:
            self._closed = True
            unanswered = list(self._waiting)
            self._waiting.clear()
            self._rows = 0
            self._changed.notify_all()
        for waiting in unanswered:
            waiting.error = UnreachableError("the inference server is closed.")
            waiting.done.set()


def batch_sizes(most: int, cpu: bool) -> list[int]:
    """Return batch sizes, so that little is padded; a GPU records each at every new model, so it has few."""
    if not cpu:
        return sorted({max(1, most // 4), most})
    steps = {s * k // 2 for s in (1 << i for i in range(5, 30)) for k in (2, 3)}
    return sorted({s for s in steps if s < most} | {most})


def _warm(game: Game, evaluator: NetworkEvaluator) -> None:
    """Run every backend once, so that none is made between two batches."""
    seen, width = game.observation, max(game.max_legal, game.max_chance)
    for backend in evaluator.backends:
        b = backend.batch
        planes, facts = np.zeros((b, *seen.planes), np.float32), np.zeros((b, seen.globals), np.float32)
        backend.result(backend.submit(planes, facts, np.zeros((b, width), np.int32)))
