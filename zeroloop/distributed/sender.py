"""Sender: carries a spool's games to a store on its own thread, and hides the network from self-play."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import RefusedError, UnreachableError
from .spool import Spool
from .store import EpisodeStore, Orders

GROUP = 64
"""Games in one round trip at most."""
REPORT = 0.5
"""Seconds between two reports."""
SHORTEST, LONGEST = 0.05, 5.0
"""Seconds of back-off: doubled with every failure in a row."""


class Sender:
    """Sends until every game is safe; waits with back-off while the store does not answer, and says so.

    Args:
      about: a value for each of `store.MEANING`.
      row: gives the worker's figures for a report; None for the spool of a worker that is gone.
      say: takes a sentence for a person.

    Attributes:
      orders: what the store said last; None before its first answer.
      error: why the store turned the worker away; it sends no more then, and the spool keeps its games.
    """

    def __init__(
        self,
        store: EpisodeStore,
        spool: Spool,
        about: dict[str, Any],
        row: Callable[[], dict[str, Any]] | None,
        say: Callable[[str], None],
    ) -> None:
        self._store, self.spool, self._about, self._row, self._say = store, spool, about, row, say
        self.orders: Orders | None = None
        self.error: RefusedError | None = None
        self.stored = spool.safe
        self.resent = 0
        """Games offered again because the store had lost them, or its answer was lost."""
        self._offered = spool.safe
        self._joined = self._ending = False
        self._failures = 0
        self._reported = -REPORT
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sender {spool.number}", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> bool:
        """Send what is left, for so long at most; return whether every game is safe."""
        self._ending = True
        self._wake.set()
        self._thread.join(seconds)
        return self.spool.waiting == 0

    def _run(self) -> None:
        while not self._done():
            try:
                idle = self._exchange()
            except UnreachableError as error:
                self._back_off(error)
                continue
            except RefusedError as error:
                if not self._joined:
                    self.error = error
                    return
                self._joined = False  # a store that began anew knows nobody: join again, which may refuse
                continue
            if self._failures:
                self._say(f"the store answers again; {self.spool.waiting} finished games were kept meanwhile")
                self._failures = 0
            if idle and not self._done():
                self._wake.wait(REPORT / 5)

    def _done(self) -> bool:
        return self._ending and (self.spool.waiting == 0 or self._wake.is_set() and self._failures > 3)

    def _exchange(self) -> bool:
        """Make one round of questions; return whether there was nothing to send."""
        spool, store = self.spool, self._store
        if not self._joined:
            standing = store.join(spool.number, spool.token, self._about, spool.safe)
            self._joined, self._reported = True, -REPORT
            self.stored = standing.stored
        first, games, positions = spool.after(self.stored, GROUP)
        before = self.stored
        standing = store.add(spool.number, first, games, positions)
        if games:
            self.resent += max(0, min(self._offered, first + len(games) - 1) - first + 1)
            self._offered = max(self._offered, first + len(games) - 1)
        self.stored = standing.stored
        spool.release(standing.safe)
        now = time.monotonic()
        if self._row is not None and now - self._reported >= REPORT:
            self.orders = store.report(spool.number, self._row())
            self._reported = now
        return not games or self.stored == before

    def _back_off(self, error: UnreachableError) -> None:
        self._joined = False
        self._failures += 1
        if self._failures == 1:
            self._say(
                f"the store does not answer: {error} Finished games are kept in {self.spool.folder} "
                "until it does."
            )
        wait = min(LONGEST, SHORTEST * 2 ** min(self._failures - 1, 20))
        end = time.monotonic() + wait
        while time.monotonic() < end and not self._done():
            time.sleep(min(0.05, wait))
