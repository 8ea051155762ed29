"""Producers: worker processes that a learner starts on its own machine, and starts again when they die."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from ..errors import StoreError

QUICK, QUICK_DEATHS = 10.0, 5
"""A process that dies within so many seconds, so many times in a row, is not started again."""


class Producers:
    """N processes `zeroloop worker ADDRESS`; each ends when this process ends, however it ends.

    Args:
      address: of the store. root: folder of spools. say: takes a sentence for a person.
      extra: further arguments of the command.
    """

    def __init__(
        self,
        number: int,
        address: str,
        root: pathlib.Path,
        say: Callable[[str], None],
        extra: tuple[str, ...] = (),
    ) -> None:
        self._command = [sys.executable, "-m", "zeroloop", "worker", address, "--spool", str(root), *extra]
        self._say = say
        self.restarts = 0
        """Processes started in place of dead ones."""
        self._ending = False
        self._quick = 0
        self._processes = [_Process(self._command, say) for _ in range(number)]

    @property
    def alive(self) -> int:
        """Processes that run."""
        return sum(p.code() is None for p in self._processes)

    @property
    def pids(self) -> list[int]:
        """Process numbers, for whoever wants to try what happens."""
        return [p.pid for p in self._processes]

    def check(self) -> None:
        """Start dead processes again; the finished games of the dead are sent by the new ones.

        Raises:
          StoreError: they die again and again; the last words of one are told.
        """
        for i, process in enumerate(self._processes):
            code = process.code()
            if code is None or self._ending:
                continue
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            self._quick = self._quick + 1 if process.seconds() < QUICK else 0
            if self._quick >= QUICK_DEATHS:
                raise StoreError(
                    f"{QUICK_DEATHS} worker processes in a row ended within {QUICK:.0f} seconds; the last "
                    f"{how} and said: {process.words() or 'nothing'}"
                )
            self._say(f"worker process {process.pid} {how}; another one takes its place")
            self.restarts += 1
            self._processes[i] = _Process(self._command, self._say)

    def close(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Let the processes end by themselves, for so long; `meanwhile` is called until they have."""
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
        meanwhile()


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
        self._lines: deque[str] = deque(maxlen=20)
        self._reader = threading.Thread(target=self._read, args=(say,), daemon=True)
        self._reader.start()

    def _read(self, say: Callable[[str], None]) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line.strip())
            if line.startswith("worker:"):
                say(f"{line.strip()} (process {self.pid})")

    def code(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self._process.poll()

    def seconds(self) -> float:
        """Return for how long it has run."""
        return time.monotonic() - self._begun

    def words(self) -> str:
        """Return the last line that it wrote."""
        self._reader.join(1)
        return self._lines[-1] if self._lines else ""

    def let_go(self) -> None:
        """Close its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
