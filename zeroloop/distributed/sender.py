"""Sender: carries a spool's games to a store on its own thread, and hides the network from self-play."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import RefusedError, StoreError, UnreachableError
from .spool import Spool
from .store import EpisodeStore, Orders, Standing

GROUP = 64
"""Games in one round trip at most."""
REPORT = 0.5
"""Seconds between two reports."""
IDLE = 0.1
"""Seconds without a game to send, or with a full store, before the next look."""
SHORTEST, LONGEST = 0.05, 5.0
"""Seconds of back-off: doubled with every failure in a row."""
TRIES = 4
"""Failures in a row, after `finish`, that let the rest stay in the spool; refusals in a row after joining."""


class Sender:
    """Sends until every game is safe; waits with back-off while the store does not answer, and says so.

    Args:
      about: a value for each of `store.MEANING`.
      row: gives the worker's figures for a report; None for the spool of a worker that is gone, which is
        removed once all of it is safe.
      say: takes a sentence for a person.
      check: called before every joining; raises RefusedError where the store is no longer the worker's run.

    Attributes:
      orders: what the store said last; None before its first answer.
      error: why it sends no more: the store turned the worker away, or is none; the spool keeps its games.
    """

    def __init__(
        self,
        store: EpisodeStore,
        spool: Spool,
        about: dict[str, Any],
        row: Callable[[], dict[str, Any]] | None,
        say: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self.spool, self._about, self._row, self._say = store, spool, about, row, say
        self._check = check
        self.orders: Orders | None = None
        self.error: StoreError | None = None
        self.stored = spool.safe
        self.resent = 0
        """Games offered again because the store had lost them, or its answer was lost."""
        self._offered = spool.safe
        self._most = GROUP
        self._joined = self._ending = self._left = False
        self.full = False
        """Whether the store took less than it was offered: the learner has enough for now."""
        self._failures = self._refusals = 0
        self._asked = -REPORT
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sender {spool.number}", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> bool:
        """Send what is left, for so long at most; return whether every game is safe."""
        self._ending = True
        self._wake.set()
        self._thread.join(seconds)
        self._left = True
        return self.spool.waiting == 0

    @property
    def alive(self) -> bool:
        """Whether it still sends."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._done():
                self._turn()
            if self._row is None and self.spool.waiting == 0:
                self.spool.remove()
        except StoreError as error:
            self.error = error

    def _done(self) -> bool:
        if self.spool.waiting == 0 and (self._ending or self._row is None):
            return True
        return self._left or self._ending and self._failures >= TRIES

    def _turn(self) -> None:
        """Make one round of questions, and wait before the next where there was nothing to do."""
        try:
            idle = self._exchange()
        except UnreachableError as error:
            return self._back_off(error)
        except RefusedError:
            # A store that began anew knows nobody: join again, which may refuse for good.
            if not self._joined or self._refusals >= TRIES:
                raise
            self._joined, self._refusals = False, self._refusals + 1
            return None
        self._refusals = 0
        if self._failures:
            self._say(f"the store answers again; {self.spool.waiting} finished games were kept meanwhile")
            self._failures = 0
        if idle and self._ending:
            time.sleep(IDLE / 5)
        elif idle:
            self._wake.wait(IDLE)
        return None

    def _exchange(self) -> bool:
        """Join where that is due, offer games and report; return whether the store took no game."""
        if not self._joined:
            self._check()
            self._settle(self._join())
            self._joined, self._asked = True, -REPORT
        taken = self._offer()
        now = time.monotonic()
        if now - self._asked >= (IDLE / 5 if self._ending else REPORT):
            self._ask()
            self._asked = now
        return not taken

    def _join(self) -> Standing:
        return self._store.join(self.spool.number, self.spool.token, self._about, self.spool.safe)

    def _offer(self) -> int:
        """Offer the next games; return how many the store took."""
        first, games, positions = self.spool.after(self.stored, self._most)
        if not games:
            return 0
        before, last = self.stored, first + len(games) - 1
        standing = self._store.add(self.spool.number, first, games, positions)
        self.resent += max(0, min(self._offered, last) - first + 1)
        self._offered = max(self._offered, standing.stored)
        self._settle(standing)
        self.full = self.stored < last
        # A full store is asked with single games: their bytes would travel again and again.
        self._most = min(GROUP, 4 * self._most) if self.stored >= last else 1
        return self.stored - before

    def _ask(self) -> None:
        """Report, or without figures ask with an empty offer, how far the learner is."""
        if self._row is not None:
            self.orders = self._store.report(self.spool.number, self._row())
            self.spool.release(self.orders.safe)
        else:
            self._settle(self._store.add(self.spool.number, self.stored + 1, [], []))

    def _settle(self, standing: Standing) -> None:
        self.stored = standing.stored
        self.spool.release(standing.safe)

    def _back_off(self, error: UnreachableError) -> None:
        self._joined = False
        self._failures += 1
        if self._failures == 1:
            self._say(
                f"the store does not answer: {error} Finished games are kept in {self.spool.folder} "
                "until it does."
            )
        end = time.monotonic() + min(LONGEST, SHORTEST * 2 ** min(self._failures - 1, 20))
        while (left := end - time.monotonic()) > 0 and not self._done():
            time.sleep(min(0.05, left))
