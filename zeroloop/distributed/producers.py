"""Producers: worker processes of one machine, started again when they die."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from ..errors import StoreError

YOUNG, DEATHS = 60.0, 5
"""Where so many processes in a row end by themselves, younger than so many seconds, that is an error."""
SHORTEST, LONGEST = 0.5, 10.0
"""Seconds before another process takes the place of one that died younger than LONGEST; doubled each time."""
COUNT = "games: "
"""Begins a line in which a process says how many games it has finished."""
OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
"""Ends that somebody else has brought about, or the system for want of memory."""


class Producers:
    """N processes `zeroloop worker ADDRESS`; each ends when this process ends, however it ends.

    Args:
      address: of the store. root: folder of spools. say: takes a sentence for a person.
      extra: further arguments of the command.
      elsewhere: the learner is no parent of theirs. One that ends with exit code 0 has heard that the run is
        over; and while none has joined, one that fails is not started again: its words are the error.
    """

    def __init__(
        self,
        number: int,
        address: str,
        root: pathlib.Path,
        say: Callable[[str], None],
        extra: tuple[str, ...] = (),
        elsewhere: bool = False,
    ) -> None:
        self._command = [sys.executable, "-m", "zeroloop", "worker", address, "--spool", str(root), *extra]
        self._say = say
        self.restarts = 0
        """Processes started in place of dead ones."""
        self.over = False
        """Whether a worker has ended because the run is over; with `elsewhere` only."""
        self.exact = True
        """Whether every process that has died had said its last number of games."""
        self._elsewhere, self._joined, self._played = elsewhere, False, 0
        self._ending = False
        self._reason = ""
        """The last words of the process that was the error of all."""
        self._failed = 0
        self._processes = [_Process(self._command, say) for _ in range(number)]
        self._deaths = [0] * number  # in a row, each younger than LONGEST
        self._due: list[float | None] = [None] * number  # when a dead one is replaced

    @property
    def alive(self) -> int:
        """Processes that run."""
        return sum(p.code() is None for p in self._processes)

    @property
    def pids(self) -> list[int]:
        """Process numbers, for whoever wants to try what happens."""
        return [p.pid for p in self._processes]

    @property
    def games(self) -> int:
        """Games that they have finished, those included that are dead, as they last said."""
        return self._played + sum(p.games or 0 for p in self._processes)

    def check(self) -> None:
        """Start dead processes again; the finished games of the dead are sent by the new ones.

        Raises:
          StoreError: they die again and again, or none can join; the last words of one are told.
        """
        self._joined = self._joined or any(p.games is not None for p in self._processes)
        for i, process in enumerate(self._processes):
            code = process.code()
            if code is None or self._ending:
                continue
            if self._elsewhere and self._has_left(process, code):
                self.over = True
                continue
            due = self._due[i]
            if due is None:
                self._due[i] = due = time.monotonic() + self._bury(i, process, code)
            if time.monotonic() >= due:
                self.restarts += 1
                self._due[i] = None
                self._played += process.games or 0
                self._processes[i] = _Process(self._command, self._say)

    def _has_left(self, process: _Process, code: int) -> bool:
        """Return whether a worker has ended with its run; where none has ever joined, raise why not."""
        words = process.words()
        joined = self._joined or process.games is not None
        if code and code not in OUTSIDE and not joined:
            self._reason = words
            raise StoreError(
                words.removeprefix("zeroloop: ") or f"a worker process {_how(code)} and said nothing."
            )
        return code == 0

    def _bury(self, place: int, process: _Process, code: int) -> float:
        """Say how a process died; return the seconds until another one takes its place."""
        words = f" and said: {process.words().rstrip('.')}" if process.words() else ""
        how = _how(code)
        self.exact = self.exact and code >= 0
        age = process.seconds()
        self._failed = self._failed + 1 if code not in OUTSIDE and age < YOUNG else 0
        if self._failed >= DEATHS:
            raise StoreError(
                f"{DEATHS} worker processes in a row ended within {YOUNG:.0f} seconds; the last one "
                f"{how}{words or ' and said nothing'}."
            )
        self._deaths[place] = self._deaths[place] + 1 if age < LONGEST else 0
        self._say(f"worker process {process.pid} {how}{words}; another one takes its place")
        process.bury()
        if not self._deaths[place]:
            return 0.0
        return min(LONGEST, SHORTEST * 2.0 ** min(self._deaths[place] - 1, 10))

    def close(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Let the processes end by themselves, for so long; `meanwhile` is called until they have.

        Of processes that fail with the same words one is told.

        Returns:
          The first exit code of a process that failed meanwhile, which is said; 0: none did.
        """
        self._ending = True
        end = time.monotonic() + seconds
        for process in self._processes:
            process.let_go()
        while self.alive and time.monotonic() < end:
            meanwhile()
            time.sleep(0.02)
        for process in self._processes:
            if process.code() is None:
                self._say(f"worker process {process.pid} did not end in {seconds:.0f} s and is killed")
                process.kill()
            process.bury()
        meanwhile()
        failed, told = 0, {self._reason} - {""}
        for i, process in enumerate(self._processes):
            code = process.code() or 0
            self.exact = self.exact and code >= 0
            if code > 0 and self._due[i] is None:  # else its end was told
                if process.words() not in told:
                    self._say(f"worker process {process.pid} {_how(code)} and said: {process.words()}")
                told.add(process.words())
                failed = failed or code
        return failed


def _how(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


class _Process:
    """One worker process; it ends when its standard input does, which is held here."""

    def __init__(self, command: list[str], say: Callable[[str], None]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        self._begun = time.monotonic()
        self._process = subprocess.Popen(
            [*command, "--held"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            process_group=0,  # Ctrl-C reaches the learner, which tells its workers
        )
        self.pid = self._process.pid
        self.games: int | None = None
        """Games that it has finished, as it last said; None until it has joined."""
        self._lines: deque[str] = deque(maxlen=20)
        self._reader = threading.Thread(target=self._read, args=(say,), daemon=True)
        self._reader.start()

    def _read(self, say: Callable[[str], None]) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                if line.startswith("worker:"):
                    say(f"{line.strip()} (process {self.pid})")
                elif line.startswith(COUNT) and line[len(COUNT) :].strip().isdigit():
                    self.games = int(line[len(COUNT) :])
                elif line.strip():
                    self._lines.append(line.strip())

    def code(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.poll()

    def seconds(self) -> float:
        """Return for how long it has run."""
        return time.monotonic() - self._begun

    def words(self) -> str:
        """Return the last line that it wrote and that was not passed on."""
        self._reader.join(1)
        return self._lines[-1] if self._lines else ""

    def let_go(self) -> None:
        """Close its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def bury(self) -> None:
        """Let go of what a dead process leaves behind."""
        self.let_go()
        self._process.wait()
        self._reader.join(1)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
