"""Running UCI engines: processes on one event loop, their options, and one checked answer a position.

Knows boards of python-chess; nothing of games. The loop runs on a thread of its own that never keeps the
interpreter alive, and the processes are ended by `close`, by garbage collection or at exit.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import weakref
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import chess
import chess.engine

from ..errors import PlayerError

T = TypeVar("T")
VOID = "The match is void; no move was substituted."
HANDSHAKE_SECONDS = 30.0
"""In which an engine must answer `uci`, and `isready` after its options."""
LEAVE_SECONDS = 1.0
"""In which an engine may leave after `quit` before it is killed."""
LONGEST_LINE = 1 << 20
LINES_KEPT = 3
"""Of what the engine said last, for messages."""

# python-chess logs each remark of an engine; whoever wants to read them adds a logging handler.
logging.getLogger("chess.engine").addHandler(logging.NullHandler())


class Conversation(chess.engine.UciProtocol):
    """The protocol of python-chess, which keeps the engine's own words.

    It reads a move liberally (null moves, capitals, king takes rook); the words decide here instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.said: deque[str] = deque(maxlen=LINES_KEPT)
        self.searching = False
        self.answer = ""
        """The last `bestmove` line that followed a `go`."""
        self.stray = ""
        """A `bestmove` line that nobody asked for: with the one before it an ambiguous answer."""

    def send_line(self, line: str) -> None:
        """Send a line; a `go` makes the next `bestmove` its answer."""
        if line.startswith("go"):
            self.searching, self.answer = True, ""
        super().send_line(line)

    def line_received(self, line: str) -> None:
        """Keep what the engine said."""
        self.said.append(line[:200])
        if line.split()[:1] == ["bestmove"]:
            if self.searching:
                self.searching, self.answer = False, line
            else:
                self.stray = line

    def error_line_received(self, line: str) -> None:
        """Keep what the engine wrote to its error stream."""
        self.said.append(line[:200])

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        """Read on; an engine that never ends its line is killed before it fills the memory."""
        super().pipe_data_received(fd, data)
        if len(self.buffer[fd]) > LONGEST_LINE:
            self.said.append(f"a line of more than {LONGEST_LINE:,} bytes")
            self.buffer[fd].clear()
            if self.transport is not None:
                self.transport.kill()

    @property
    def words(self) -> str:
        """What the engine said last, for messages."""
        return f"it said: {' | '.join(self.said)[:400]}" if self.said else "it said nothing"


class Engines:
    """Equal processes of one engine.

    Args:
      program: path. name: of the player, for messages.
    """

    def __init__(self, program: str, name: str) -> None:
        self.program, self.name = program, name
        self._loop = asyncio.new_event_loop()
        self._running: list[Conversation] = []
        self._one_call = threading.Lock()
        self._failure = ""
        thread = threading.Thread(target=self._loop.run_forever, name=f"engines of {name}", daemon=True)
        thread.start()
        # Not a method of self: that would keep self alive. Called once, at the latest at exit.
        self.close = weakref.finalize(self, _end, self._loop, thread, self._running)

    @property
    def pids(self) -> list[int]:
        """Process ids."""
        return [one.transport.get_pid() for one in self._running if one.transport is not None]

    def start(self, count: int, options: Mapping[str, str | int | bool]) -> Conversation:
        """Start processes until there are `count`, set their options, and return the first.

        Raises:
          PlayerError: the program cannot be run, is no UCI engine, or refuses an option.
        """
        with self._one_call, self._ended_on_failure():
            while len(self._running) < count:
                self._do(self._start(options))
        return self._running[0]

    def configure(self, options: Mapping[str, str | int | bool]) -> None:
        """Set options of all processes.

        Raises:
          PlayerError: the engine has no such option, refuses the value, or does not answer.
        """
        with self._one_call, self._ended_on_failure():
            self._do(self._configure_all(options))

    def ask(self, boards: list[chess.Board], limit: chess.engine.Limit, seconds: float) -> list[str]:
        """Return the engine's move of each board, a legal one by its UCI name; a failure ends all processes.

        Every position is a new game to the engine (`ucinewgame`), so an answer depends neither on what it
        was asked before nor on which process is asked.

        Args:
          seconds: in which each answer must come, from the moment that its position is sent.

        Raises:
          PlayerError: died, hung, or answered anything else than one legal move.
        """
        with self._one_call, self._ended_on_failure():
            return self._do(self._ask_all(boards, limit, seconds))

    @contextlib.contextmanager
    def _ended_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # Ctrl-C as well
            self._failure = self._failure or str(error)
            self.close()
            raise

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop's thread and wait."""
        if not self.close.alive:
            work.close()
            if self._failure:
                raise PlayerError(f"{self.name} has failed before and was asked again: {self._failure}")
            raise PlayerError(f"{self.name} is closed; make the player anew.")
        try:
            return asyncio.run_coroutine_threadsafe(_or_kill(work, self._running), self._loop).result()
        except concurrent.futures.CancelledError:
            raise PlayerError(f"{self.name} was closed while it was thinking. {VOID}") from None

    async def _start(self, options: Mapping[str, str | int | bool]) -> None:
        try:
            # A group of its own: Ctrl-C is for the session, which may want to end its match first.
            transport, one = await Conversation.popen(self.program, setpgrp=True)
        except OSError as error:
            raise PlayerError(f"{self.name}: '{self.program}' cannot be run: {error.strerror}.") from error
        self._running.append(one)
        await self._greet(one, "uci", one.initialize())
        await self._greet(one, "setoption", one.configure(options))
        await self._greet(one, "isready", one.ping())

    async def _configure_all(self, options: Mapping[str, str | int | bool]) -> None:
        for one in self._running:
            await self._greet(one, "setoption", one.configure(options))
            await self._greet(one, "isready", one.ping())

    async def _greet(self, one: Conversation, asked: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await asyncio.wait_for(work, HANDSHAKE_SECONDS)
        except TimeoutError:
            raise PlayerError(
                f"{self.name}: '{self.program}' did not answer '{asked}' in {HANDSHAKE_SECONDS:g} s; "
                f"{one.words}. Is it a UCI engine?"
            ) from None
        except chess.engine.EngineError as error:
            raise PlayerError(
                f"{self.name}: '{self.program}' failed at '{asked}': {error}; {one.words}. "
                "Is it a UCI engine?"
            ) from error

    async def _ask_all(
        self, boards: list[chess.Board], limit: chess.engine.Limit, seconds: float
    ) -> list[str]:
        moves = [""] * len(boards)
        waiting = iter(range(len(boards)))

        async def work(one: Conversation) -> None:
            last = None
            for i in waiting:
                moves[i] = await self._ask(one, boards[i], limit, seconds)
                last = boards[i]
            if last is not None:  # A second answer to the last position would come before `readyok`.
                await self._settle(one, last)

        tasks = [asyncio.create_task(work(one)) for one in self._running]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return moves

    async def _ask(
        self, one: Conversation, board: chess.Board, limit: chess.engine.Limit, seconds: float
    ) -> str:
        try:
            # An object of its own for `game` makes python-chess send `ucinewgame` and wait for `readyok`.
            await asyncio.wait_for(one.play(board, limit, game=object()), seconds)
        except TimeoutError:
            self._fail(board, f"gave no move within {seconds:g} s; {one.words}")
        except chess.engine.EngineTerminatedError as error:
            self._fail(board, f"ended: {error}; {one.words}")
        except chess.engine.EngineError as error:
            if not one.answer:
                self._fail(board, f"failed: {error}; {one.words}")
        self._refuse_stray(one, board)
        tokens = one.answer.split()
        legal = {board.uci(move) for move in board.legal_moves}
        if len(tokens) < 2 or tokens[1] not in legal or tokens[2:3] not in ([], ["ponder"]):
            self._fail(board, f"answered '{one.answer[:200]}', which does not name one legal move")
        return tokens[1]

    async def _settle(self, one: Conversation, board: chess.Board) -> None:
        try:
            await asyncio.wait_for(one.ping(), HANDSHAKE_SECONDS)
        except (TimeoutError, chess.engine.EngineError) as error:
            self._fail(board, f"did not answer 'isready' after its move: {error or 'late'}; {one.words}")
        self._refuse_stray(one, board)

    def _refuse_stray(self, one: Conversation, board: chess.Board) -> None:
        if one.stray:
            self._fail(
                board, f"gave an answer that nobody asked for, '{one.stray[:200]}', before or after a move"
            )

    def _fail(self, board: chess.Board, what: str) -> NoReturn:
        fen = board.fen(en_passant="legal")
        raise PlayerError(f"{self.name} {what}, in position {fen}. {VOID}")


async def _or_kill(work: Coroutine[Any, Any, T], running: list[Conversation]) -> T:
    """Do the work; processes are killed where it fails, for an engine that hangs hears no `quit`."""
    try:
        return await work
    except BaseException:
        _kill(running)
        raise


def _kill(running: list[Conversation]) -> None:
    for one in running:
        if one.transport is not None:
            with contextlib.suppress(ProcessLookupError):
                one.transport.kill()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, running: list[Conversation]) -> None:
    """End the processes, wait for them, and stop the loop."""

    async def leave() -> None:
        for one in running:
            if not one.returncode.done():
                one.send_line("quit")
        ends = [one.returncode for one in running]
        if ends:
            await asyncio.wait(ends, timeout=LEAVE_SECONDS)
        _kill(running)
        if ends:
            await asyncio.wait(ends)
        for one in running:
            if one.transport is not None:
                one.transport.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    if threading.current_thread() is thread:  # collected here by chance: the loop cannot wait for itself
        _kill(running)
        loop.call_soon(loop.stop)
        return
    asyncio.run_coroutine_threadsafe(leave(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
