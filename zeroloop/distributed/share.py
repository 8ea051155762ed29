"""DeviceShare: who may use a device next, where learning and inference in one process both want it.

Each party pays for the seconds it uses, divided by its share; who has paid less goes first. A party that
does not want the device costs nobody anything, and its idle time buys it nothing afterwards.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

LEARNING, INFERENCE = "learning", "inference"
PARTIES = (LEARNING, INFERENCE)


class DeviceShare:
    """Divides a device's time between learning and inference; used as `with share.use(LEARNING): ...`.

    Several threads of one party may use the device together; the two parties never do. What runs inside
    ends with the device idle (a synchronised step or batch), or its time is charged to the other party.

    Args:
      learner_share: share of learning while both want the device, inside 0..1.
      patience: seconds for which a party that has just left counts as wanting the device still: a loop
        comes back at once, and the other would else get every second turn, whatever the shares.
      clock: seconds, monotonic.

    Attributes:
      busy_seconds: by party, since the beginning.
      contended_seconds: the part of them in which the other party waited.
    """

    def __init__(
        self, learner_share: float, patience: float = 0.002, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not 0 < learner_share < 1:
            raise ValueError(f"learner_share is {learner_share}; it must lie inside 0..1.")
        self._weight = {LEARNING: learner_share, INFERENCE: 1 - learner_share}
        self._patience, self._clock = patience, clock
        self._changed = threading.Condition()
        self._paid = dict.fromkeys(PARTIES, 0.0)
        self._inside = dict.fromkeys(PARTIES, 0)
        self._waiting = dict.fromkeys(PARTIES, 0)
        self._left = dict.fromkeys(PARTIES, -float("inf"))
        self._since = 0.0
        self._since_contended: float | None = None
        self.busy_seconds = dict.fromkeys(PARTIES, 0.0)
        self.contended_seconds = dict.fromkeys(PARTIES, 0.0)

    @contextlib.contextmanager
    def use(self, party: str) -> Iterator[None]:
        """Wait for this party's turn, and keep the device until the block ends: a step or a batch."""
        with self._changed:
            self._enter(party)
        try:
            yield
        finally:
            with self._changed:
                self._leave(party)

    def _enter(self, party: str) -> None:
        other = _other(party)
        now = self._clock()
        absent = not self._inside[party] and not self._waiting[party]
        if absent and now - self._left[party] > self._patience:
            # It was idle: it begins level with the other, whose turns alone cost it nothing.
            self._paid[party] = max(self._paid[party], self._paid[other] + self._owed(other, now))
        self._waiting[party] += 1
        try:
            if self._inside[other] and self._since_contended is None:
                self._since_contended = now
            while (delay := self._delay(party)) is None or delay > 0:
                self._changed.wait(delay)
        finally:
            self._waiting[party] -= 1
        now = self._clock()
        if not self._inside[party]:
            self._since = now
            self._since_contended = now if self._waiting[other] else None
        self._inside[party] += 1

    def _delay(self, party: str) -> float | None:
        """Return the seconds to wait before this party may enter; None: until something changes."""
        other, now = _other(party), self._clock()
        if self._inside[other]:
            return None
        before = self._paid[other] < self._paid[party] + self._owed(party, now)
        if not before:
            return 0.0
        if self._waiting[other]:
            return None
        return self._left[other] + self._patience - now

    def _owed(self, party: str, now: float) -> float:
        """Return what the turn in progress costs so far."""
        return (now - self._since) / self._weight[party] if self._inside[party] else 0.0

    def _leave(self, party: str) -> None:
        self._inside[party] -= 1
        if not self._inside[party]:
            now = self._clock()
            spent = now - self._since
            self._paid[party] += spent / self._weight[party]
            self.busy_seconds[party] += spent
            if self._since_contended is not None:
                self.contended_seconds[party] += now - self._since_contended
            self._left[party] = now
        self._changed.notify_all()

    def learner_share(self) -> float | None:
        """Return learning's measured share of the time in which both wanted the device; None before any."""
        learning, inference = (self.contended_seconds[p] for p in PARTIES)
        both = learning + inference
        return learning / both if both else None


def _other(party: str) -> str:
    return INFERENCE if party == LEARNING else LEARNING
