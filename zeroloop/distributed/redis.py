"""RedisStore: an `EpisodeStore` that many machines share, over one Redis server.

The run's learner is the one that opened it: its acknowledgements make games safe, and while it is attached
no game that it has not acknowledged is evicted; the store is full instead. Any other learner follows: it
reads what is kept. Where the server's append-only file is synced at every write, what is stored is safe.
docs/redis.md says how a server is set up and what each fault costs.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..config import RedisConfig
from ..errors import BackendError, RefusedError, StoreError, UnreachableError
from .redis_address import TIMEOUT, Address, in_words
from .redis_scripts import BOOT, KEYS, LAYOUT, SCRIPTS
from .store import MEANING, Orders, Standing, Stored, Weights, check_meaning

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError as error:
    raise BackendError(
        "collect.store=redis needs the redis package, which is not installed; pip install 'zeroloop[redis]'."
    ) from error

T = TypeVar("T")

FORGET_SECONDS = 3600
"""A worker's last figures are deleted so long after them; its numbers stay."""
OLDEST = (7, 0)
"""Version of the server."""
SYNCED = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
"""Settings with which a write is on disk before it is answered."""
COUNTERS = ("games", "positions", "evicted_games", "unread_evicted", "duplicates")


class RedisStore:
    """An `EpisodeStore`. Use `RedisStore.open_run` or `RedisStore.connect`.

    Args:
      url: `redis://HOST:PORT/DB` or `rediss://` for TLS; the password comes from REDIS_PASSWORD, or stands
        in the address. ca: file of the certificate authority. learner: name of the learner; empty: none.
      own: this is the run's learner, not a follower.
      lost_seconds: silence after which a worker counts as gone, on the server's clock.

    Raises, from every method:
      UnreachableError: the server does not answer, does not work at present, or lost the run.
      RefusedError: it turns us away: the password, its version, what it may do.
      StoreError: what is in its keys is not a run's.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        ca: str = "",
        learner: str = "",
        own: bool = False,
        lost_seconds: float = 30.0,
    ) -> None:
        if not re.fullmatch(r"[\w.-]{1,100}", namespace, re.ASCII):
            raise StoreError(
                f"redis.namespace is '{namespace}'; it must be 1 to 100 letters, digits, '_', '.' or '-'."
            )
        address = Address.parse(url, ca)
        self.name, self._gives_password = address.name, bool(address.password)
        self.namespace, self._learner, self._own, self._lost = namespace, learner, own, lost_seconds
        self._keys = [f"{namespace}:{key}" for key in KEYS]
        greet: Any = self._greet
        self._client = redis.Redis(
            **address.settings(),
            protocol=2,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            socket_read_size=1 << 18,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=greet,
        )
        self._sums = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in SCRIPTS.items()}
        self._lock = threading.Lock()
        self._server = self._life = ""  # lives of the server: the one connected to, the one last read from
        self._offset = self._handed = 0
        self._asks_synced = True
        self.missed = 0  # games that a follower never saw: they were evicted before it read them
        self._opening: list[Any] = []
        self._weights: tuple[Weights, float] | None = None
        self._taken: dict[int, int] = {}
        self._owed: tuple[int, dict[int, int]] | None = None

    # Who is who.

    @staticmethod
    def open_run(
        settings: RedisConfig,
        about: dict[str, Any],
        learner: str | None = None,
        lost_seconds: float = 30.0,
    ) -> RedisStore:
        """Open a run as its learner, anew or again, and attach to it.

        Args:
          about: what `about()` returns; its `run` is the namespace where `redis.namespace` is empty.
          learner: tells this run directory from all others, the same whenever it comes back; None: its name;
            empty: nobody attaches yet, and the store drops what is oldest, read or not.

        Raises:
          RefusedError: the namespace holds a run of another game or rules, or of another learner.
        """
        namespace = settings.namespace or str(about["run"])
        learner = str(about["run"]) if learner is None else learner
        store = RedisStore(
            settings.url, namespace, ca=settings.ca, learner=learner, own=True, lost_seconds=lost_seconds
        )
        same = {key: about.get(key) for key in MEANING if key != "zeroloop"}
        texts = [json.dumps(value, sort_keys=True) for value in (about, same)]
        store._opening = [learner, *texts, settings.positions, settings.episodes]
        try:
            store._check_eviction()
            store._open()
        except StoreError:
            store.close()
            raise
        return store

    @staticmethod
    def connect(
        url: str, namespace: str, ca: str = "", learner: str = "", lost_seconds: float = 30.0
    ) -> RedisStore:
        """Return the store of a worker, or of a `learner` that follows; RefusedError if there is no run."""
        store = RedisStore(url, namespace, ca=ca, learner=learner, lost_seconds=lost_seconds)
        try:
            store.about()
        except StoreError:
            store.close()
            raise
        return store

    def _open(self) -> None:
        server = self._ask(lambda: self._client.info("server"))["run_id"]
        answer = self._call("open", server, *self._opening)
        if answer[0] == b"meaning":
            theirs, ours = json.loads(answer[1]), json.loads(self._opening[2])
            key = next(k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k))
            raise RefusedError(
                f"namespace '{self.namespace}' at {self.name} holds another run, with {key} "
                f"{theirs.get(key)}; this one has {ours.get(key)}. Give another redis.namespace."
            )
        self._expect(answer)
        if self._taken:
            self.resume(self._taken)
        if self._weights is not None:
            self.publish(*self._weights)

    def detach(self) -> None:
        """Let go of the run as its learner: nobody waits for this learner, and another may attach."""
        self._do("set", "learner", "")

    def clear(self) -> None:
        """Delete the run from the server; its learner's disk keeps what it has taken."""
        self._ask(lambda: self._client.unlink(*self._keys))

    # The protocol.

    def about(self) -> dict[str, Any]:
        """See `EpisodeStore`."""
        answer = self._call("about")
        if answer[0] == b"none":
            raise RefusedError(
                f"namespace '{self.namespace}' at {self.name} holds no run; start its learner first, or "
                "check the namespace."
            )
        return dict(json.loads(self._expect(answer)[0]))

    def join(self, worker: int, token: str, about: dict[str, Any], safe: int = 0) -> Standing:
        """See `EpisodeStore`."""
        check_meaning(json.loads(self._do("about")[0]), about)
        answer = self._call("join", worker, token, safe, FORGET_SECONDS)
        if answer[0] == b"taken":
            raise RefusedError(f"worker number {worker} is another worker's; draw another one.")
        stored, known = self._expect(answer)
        return Standing(int(stored), int(known))

    def add(self, worker: int, first: int, episodes: Sequence[bytes], positions: Sequence[int]) -> Standing:
        """See `EpisodeStore`; `safe` is `stored` where the server syncs every write."""
        items: list[Any] = [worker, first]
        for data, count in zip(episodes, positions, strict=True):
            items += (count, zlib.crc32(data), data)
        answer, synced = self._call_synced("add", items)
        if answer[0] == b"gap":
            raise RefusedError(
                f"worker {worker} offered its game {first}, but its game {int(answer[1]) + 1} comes next."
            )
        stored, safe = map(int, self._expect(answer, worker))
        return Standing(stored, stored if synced else safe)

    def read(self, after: int, most: int) -> list[Stored]:
        """See `EpisodeStore`.

        Numbers go up for as long as this object lives, whatever happens to the server. When the server was
        started again it may have lost its last second, and given the numbers of lost games to others: all
        games that it keeps then come again under new numbers, and the learner passes over those that it
        has, by worker and sequence. A new process begins with `after=0`.
        """
        if self._owed is not None:
            self.acknowledge(*self._owed)
        with self._lock:
            offset, life = self._offset, self._life
        now, anew, first, start, *chunks = self._do("read", max(0, after - offset), most, life)
        with self._lock:
            if anew:
                self._offset = offset = max(after, self._handed) - (first - 1)
            elif life and not self._own and start > after - offset + 1:
                self.missed += start - (after - offset) - 1
            self._life = now.decode()
            found: list[Stored] = []
            for heads, games in zip(chunks[::2], chunks[1::2], strict=True):
                for head, data in zip(heads, games, strict=True):
                    if head is None or data is None:
                        raise StoreError(
                            f"game {start + len(found)} of namespace '{self.namespace}' at {self.name} is "
                            "gone: its keys were deleted or damaged by another program."
                        )
                    _, worker, sequence, crc = map(int, head.split())
                    if zlib.crc32(data) != crc:
                        data = b""  # no episode begins so: the learner refuses it by its name
                    found.append(Stored(start + offset + len(found), worker, sequence, data))
            if found:
                self._handed = max(self._handed, found[-1].number)
            return found

    def acknowledge(self, number: int, safe: dict[int, int]) -> None:
        """See `EpisodeStore`; a follower's makes no game safe."""
        with self._lock:
            place, life = max(0, number - self._offset), self._life
            safe = {**(self._owed[1] if self._owed else {}), **safe}
            self._owed = (number, safe)  # until it is known to have arrived: `read` says it again
        self._note(safe)
        pairs = [x for pair in safe.items() for x in pair] if self._own else []
        self._do("acknowledge", self._learner, int(self._own), life, place, *pairs)
        self._owed = None

    def resume(self, safe: dict[int, int]) -> None:
        """Go on where a learner's disk ends: these games of these workers are not taken again."""
        self._note(safe)
        self._do("acknowledge", self._learner, 1, "", 0, *(x for pair in safe.items() for x in pair))

    def _note(self, safe: dict[int, int]) -> None:
        for worker, sequence in safe.items():
            self._taken[worker] = max(sequence, self._taken.get(worker, 0))

    def publish(self, weights: Weights, progress: float) -> None:
        """See `EpisodeStore`; only the run's learner may.

        The model is given again by itself to a server that has lost it.
        """
        if self._own:
            self._weights = (weights, progress)
        self._do("publish", self._learner, weights.hash, weights.data, repr(progress))

    def weights(self, known: str) -> Weights | None:
        """See `EpisodeStore`."""
        return Weights(found[0].decode(), found[1]) if (found := self._do("weights", known)) else None

    def report(self, worker: int, row: dict[str, Any]) -> Orders:
        """See `EpisodeStore`."""
        answer = self._call("report", worker, json.dumps(row))
        model, progress, paused, stopped, safe = self._expect(answer, worker)
        return Orders(model.decode(), float(progress), paused == b"1", stopped == b"1", int(safe))

    def workers(self) -> list[dict[str, Any]]:
        """See `EpisodeStore`; silence is measured by the server's clock alone."""
        now, rows = self._do("workers")
        found = []
        for worker, text in zip(rows[::2], rows[1::2], strict=True):
            seen, _, row = text.partition(b" ")
            silent = max(0.0, float(now) - float(seen))
            if silent <= self._lost:
                found.append({**json.loads(row), "worker": int(worker), "silent_seconds": silent})
        return found

    def pause(self, paused: bool) -> None:
        """See `EpisodeStore`."""
        self._do("set", "paused", int(paused))

    def stop(self) -> None:
        """See `EpisodeStore`."""
        self._do("set", "stopped", 1)

    def counters(self) -> dict[str, int]:
        """See `EpisodeStore`; a server that lost its last second counts on from before it."""
        return dict(zip(COUNTERS, map(int, self._do("state", *COUNTERS)[0]), strict=True))

    def close(self) -> None:
        """Let go of connections; the run's learner stays attached, and unread games wait for it."""
        self._client.connection_pool.disconnect()
        self._client.close()

    # Talking to the server.

    def _greet(self, connection: Any) -> None:
        """Log in on a new connection, and note in which life the server is."""
        connection.on_connect()
        connection.send_command("INFO", "server")
        text = connection.read_response()
        lines = (text if isinstance(text, bytes) else str(text).encode()).decode().splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        version = facts.get("redis_version", "")
        if tuple(int(x) for x in re.findall(r"\d+", version)[:2]) < OLDEST:
            connection.disconnect()
            raise RefusedError(
                f"{self.name} is Redis {version or 'of no known version'}; zeroloop needs "
                f"{OLDEST[0]}.{OLDEST[1]} or newer."
            )
        connection.send_command("EVAL", BOOT, 1, self._keys[0], facts["run_id"])
        connection.read_response()

    def _do(self, name: str, *values: Any) -> list[Any]:
        return self._expect(self._call(name, *values))

    def _expect(self, answer: list[Any], worker: int | None = None) -> list[Any]:
        """Return what a script answered, or raise what it did not like."""
        word, *rest = answer
        if word == b"ok":
            return rest
        if word == b"stranger":
            raise RefusedError(f"worker {worker} has not joined this store; join first.")
        if word == b"learner":
            raise RefusedError(
                f"namespace '{self.namespace}' at {self.name} belongs to learner "
                f"'{rest[0].decode()}', not to '{self._learner}'; give another redis.namespace."
            )
        if word == b"layout":
            raise RefusedError(
                f"namespace '{self.namespace}' at {self.name} has layout {rest[0].decode()}; this zeroloop "
                f"knows {LAYOUT}. Give another redis.namespace."
            )
        assert word == b"none", word
        if self._opening:
            self._open()
            raise UnreachableError(f"{self.name} had lost the run, which is opened there again now.")
        raise UnreachableError(f"{self.name} has lost the run; its learner opens it again when it is there.")

    def _call(self, name: str, *values: Any) -> list[Any]:
        return self._ask(lambda: self._run(self._client, name, values))

    def _run(self, client: Any, name: str, values: Sequence[Any]) -> Any:
        try:
            return client.evalsha(self._sums[name], len(KEYS), *self._keys, *values)
        except redis.exceptions.NoScriptError:  # a server that was just started
            return client.eval(SCRIPTS[name], len(KEYS), *self._keys, *values)

    def _call_synced(self, name: str, values: Sequence[Any]) -> tuple[list[Any], bool]:
        """Call a script, and ask in the same round trip whether what it wrote is on the server's disk."""
        if not self._asks_synced or len(values) <= 2:
            return self._call(name, *values), False

        def both() -> tuple[Any, Any]:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.evalsha(self._sums[name], len(KEYS), *self._keys, *values)
            pipeline.config_get(*SYNCED)
            answer, found = pipeline.execute(raise_on_error=False)
            if isinstance(answer, redis.exceptions.NoScriptError):
                answer = self._run(self._client, name, values)
            if isinstance(answer, redis.exceptions.RedisError):
                raise answer
            return answer, found

        answer, found = self._ask(both)
        self._asks_synced = not isinstance(found, redis.exceptions.RedisError)  # untold, nothing is assumed
        return answer, self._asks_synced and found == SYNCED

    def _check_eviction(self) -> None:
        """Refuse a server that would delete our keys by itself, where it tells."""
        try:
            found = self._client.config_get("maxmemory", "maxmemory-policy")
        except redis.exceptions.ResponseError:
            return  # may not be asked
        except redis.exceptions.RedisError as error:
            raise in_words(error, self.name, self.namespace, self._gives_password) from error
        policy = found.get("maxmemory-policy") or ""
        if found.get("maxmemory", "0") != "0" and policy.startswith("allkeys"):
            raise RefusedError(
                f"{self.name} deletes any key when its memory is full (maxmemory-policy {policy}), finished "
                "games too; set maxmemory-policy noeviction."
            )

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except redis.exceptions.RedisError as error:
            raise in_words(error, self.name, self.namespace, self._gives_password) from error
