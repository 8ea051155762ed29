"""JSON over HTTP: evaluate and search positions with trained models, for programs in any language.

GET /v1/health, /v1/models, /v1/schema; POST /v1/evaluate, /v1/search. `serve.yaml` is the schema that
/v1/schema answers; docs/serve.md explains it. The event loop reads and writes; each model's searcher thinks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import pathlib
import signal
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import yaml

from . import model as models
from .errors import BackendError, ConfigError, GameError, PlayerError, ZeroloopError
from .games import rules_identity
from .games.game import CHANCE, Game, State
from .model import Model
from .players import KINDS, split_name
from .searcher import Answer, Deliver, Question, Searcher, model_searcher
from .wire import (
    BadQuestion,
    budget,
    check_lengths,
    cut,
    parse_question,
    state_of,
    told_evaluation,
    told_search,
)

try:
    from aiohttp import http_exceptions, web
except ImportError as error:
    raise BackendError(
        "zeroloop serve needs the aiohttp package, which is not installed; pip install 'zeroloop[serve]'."
    ) from error

SCHEMA = pathlib.Path(__file__).with_suffix(".yaml")
SIMULATIONS = 64
"""The most of a search of a model whose name says no number."""
BODY = 1 << 16
"""The most bytes of a request's body."""
SHORT_LINE = 32
"""Moves up to which a line is played on the event loop; a longer one would hold up the others."""
BODY_SECONDS = 10.0
"""In which a request's body must have come."""
STOP_SECONDS = 120.0
"""In which a stopping server answers what it has taken."""

EVALUATE = ("model", "position", "moves", "dice")
SEARCH = (*EVALUATE, "simulations")
"""The keys of a question."""

log = logging.getLogger("zeroloop.serve")
"""Failures of the server itself. What is no HTTP, or a body that is not what its headers say, is the client's
failure: it is answered, not logged."""
CLIENTS = http_exceptions.HttpProcessingError, web.RequestPayloadError
log.addFilter(lambda said: not isinstance((said.exc_info or (None, None))[1], CLIENTS))

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Desk:
    """Where the event loop hands questions to a searcher's thread and takes answers back.

    Each way once a turn of the loop: two threads that wake one another for every question are slow.
    """

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self._new: list[Question] = []

    async def ask(self, state: State, simulations: int) -> Answer:
        """Return what the searcher says of a state; BackendError where it has failed."""
        loop = asyncio.get_running_loop()
        asker: asyncio.Future[Answer] = loop.create_future()
        if not self._new:
            loop.call_soon(self._hand_over)
        self._new.append(Question(state, simulations, asker))
        return await asker

    def _hand_over(self) -> None:
        new, self._new = self._new, []
        try:
            self.searcher.ask(new)
        except BackendError as error:
            self._settle([(question.asker, error) for question in new])

    def deliver(self, loop: asyncio.AbstractEventLoop) -> Deliver:
        """Return what the searcher's thread calls with its answers."""

        def deliver(pairs: Sequence[tuple[Any, Answer | BackendError]]) -> None:
            loop.call_soon_threadsafe(self._settle, pairs)

        return deliver

    def _settle(self, pairs: Sequence[tuple[Any, Answer | BackendError]]) -> None:
        for asker, answer in pairs:
            if asker.done():  # cancelled: the client has gone
                continue
            if isinstance(answer, BackendError):
                asker.set_exception(answer)
            else:
                asker.set_result(answer)


class Served(NamedTuple):
    """A model and the thread that answers for it."""

    name: str
    model: Model
    desk: Desk
    given: str = ""
    """The name with the simulations, as it was typed; a client may use either."""

    def plain(self) -> dict[str, Any]:
        """Return what a client may know."""
        game = self.model.game
        return {
            "name": self.name,
            "model": self.model.hash,
            "game": game.name,
            "options": game.options,
            "rules_identity": rules_identity(game),
            "seats": game.num_players,
            "scale": game.scale,
            "simulations": self.desk.searcher.simulations,
        }


def load_served(names: Sequence[str], threads: int = 1) -> list[Served]:
    """Load the models of these names, `RUN@SIMULATIONS`.

    Raises:
      PlayerError: a name that is no model's, or a model named twice.
    """
    out: list[Served] = []
    for text in names:
        name, simulations = split_name(text, SIMULATIONS)
        path = None if name.partition(":")[0] in KINDS else models.find(name)
        if path is None:
            raise PlayerError(
                f"there is no model '{text[:60]}' to serve: give a run directory, a model file, a model hash "
                "or demo:connect4, such as runs/connect4@64."
            )
        model = models.load(path)
        same = [s.name for s in out if s.model.hash == model.hash]
        if same:
            raise PlayerError(f"{same[0]} and {name} are the same model, {model.hash[: models.SHORT]}.")
        out.append(Served(name, model, Desk(model_searcher(model, simulations, threads=threads)), text))
    return out


class Refusal(Exception):
    """A request that gets this status and this sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


def answer_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a response of ASCII JSON; a number that JSON does not know is an error."""
    text = json.dumps(value, allow_nan=False)
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")


class Api:
    """The endpoints over the served models; at most `queue` questions are open at a time."""

    def __init__(self, served: Sequence[Served], queue: int) -> None:
        self.served, self.queue = served, queue
        self.open = 0
        """Questions taken and not yet answered."""
        self.stopping = False
        self.schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))

    def app(self) -> web.Application:
        """Return the application with its routes."""
        app = web.Application(middlewares=[sentences], client_max_size=BODY)
        for path, answer in (("health", self.health), ("models", self.models), ("schema", self.document)):
            app.router.add_get(f"/v1/{path}", answer)
        app.router.add_post("/v1/evaluate", self.evaluate)
        app.router.add_post("/v1/search", self.search)
        return app

    async def health(self, request: web.Request) -> web.Response:
        """Answer GET /v1/health."""
        if self.stopping:
            raise Refusal(503, "the server is stopping.")
        return answer_json({"status": "ok", "open": self.open, "queue": self.queue})

    async def models(self, request: web.Request) -> web.Response:
        """Answer GET /v1/models."""
        return answer_json({"models": [s.plain() for s in self.served]})

    async def document(self, request: web.Request) -> web.Response:
        """Answer GET /v1/schema."""
        return answer_json(self.schema)

    async def evaluate(self, request: web.Request) -> web.Response:
        """Answer POST /v1/evaluate."""
        question = parse_question(await read_body(request), EVALUATE)
        served = self._served(question)
        return answer_json(await self._ask(served, question, 0))

    async def search(self, request: web.Request) -> web.Response:
        """Answer POST /v1/search."""
        question = parse_question(await read_body(request), SEARCH)
        served = self._served(question)
        return answer_json(
            await self._ask(served, question, budget(question, served.desk.searcher.simulations))
        )

    async def _ask(self, served: Served, question: dict[str, Any], simulations: int) -> dict[str, Any]:
        """Hold one of the queue's places until a question is answered."""
        if self.open >= self.queue:
            raise Refusal(503, f"all {self.queue} places are taken; ask again later.", {"Retry-After": "1"})
        self.open += 1
        try:
            state = await read_state(served.model.game, question)
            answer = await served.desk.ask(state, simulations)
            return (told_search if simulations else told_evaluation)(served.model, state, answer)
        finally:
            self.open -= 1

    def _served(self, question: dict[str, Any]) -> Served:
        """Return the model that a question means."""
        name = question.get("model")
        if name is None:
            if len(self.served) == 1:
                return self.served[0]
            raise BadQuestion(f"'model' is missing; served: {self._names()}.")
        found = [
            s
            for s in self.served
            if name in (s.name, s.given or s.name) or (len(name) >= 6 and s.model.hash.startswith(name))
        ]
        if len(found) == 1:
            return found[0]
        what = "several models" if found else "no model that is served"
        raise BadQuestion(f"'model' is '{name[:64]}', which names {what}; served: {self._names()}.")

    def _names(self) -> str:
        return ", ".join(f"{s.model.hash[: models.SHORT]} ({s.name})" for s in self.served)


@web.middleware
async def sentences(request: web.Request, handler: Reply) -> web.StreamResponse:
    """Turn what goes wrong on purpose into JSON with one sentence."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return answer_json({"error": str(refusal)}, refusal.status, refusal.headers)
    except (GameError, BadQuestion) as error:
        return answer_json({"error": cut(str(error))}, 400)
    except ZeroloopError as error:
        return answer_json({"error": str(error)}, 500)
    except web.HTTPException as error:
        allow = {k: v for k, v in error.headers.items() if k == "Allow"}
        asked = f"{request.method[:20]} {request.path[:100]}"
        sentence = {
            404: f"there is no {asked}; GET /v1/schema lists what there is.",
            405: f"{asked} is not allowed; allowed: {allow.get('Allow')}.",
            413: f"the body has more than {BODY:,} bytes.",
        }.get(error.status, f"{asked}: {error.reason}.")
        return answer_json({"error": sentence}, error.status, allow)
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path)
        text = json.dumps({"error": f"the server failed on this request ({type(error).__name__})."})
        raise web.HTTPInternalServerError(text=text, content_type="application/json") from error


async def read_body(request: web.Request) -> bytes:
    """Return the body of a request.

    Raises:
      Refusal: no JSON by its own word, too slow, or not what its headers say.
    """
    if request.content_type != "application/json":
        raise Refusal(415, f"Content-Type is '{request.content_type[:60]}'; send application/json.")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {BODY_SECONDS:.0f} seconds.") from None
    except web.RequestPayloadError:
        coding = request.headers.get("Content-Encoding", "identity")[:60]
        told = f"the body is not what its headers say; its Content-Encoding is '{coding}'."
        raise Refusal(400, told, {"Connection": "close"}) from None  # what follows it cannot be found


async def read_state(game: Game, question: dict[str, Any]) -> State:
    """Return the state that a question means; see `wire.state_of`."""
    if check_lengths(game, question) <= SHORT_LINE:
        return state_of(game, question)
    return await asyncio.to_thread(state_of, game, question)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the address."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


async def serve(
    served: Sequence[Served],
    host: str,
    port: int,
    queue: int,
    listening: Callable[[str], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Answer requests until SIGTERM, SIGINT or `stop`, then what was taken, and return.

    Args:
      listening: called with the address, such as http://127.0.0.1:8000, when every model is ready.

    Raises:
      ConfigError: the address cannot be used. Whatever ended a searcher.
    """
    stop, loop, api = stop or asyncio.Event(), asyncio.get_running_loop(), Api(served, queue)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        api.app(),
        access_log=None,
        logger=log,
        handler_cancellation=True,
        shutdown_timeout=STOP_SECONDS,
    )
    pool = ThreadPoolExecutor(len(served), "searcher")
    threads: list[asyncio.Future[Any]] = [
        loop.run_in_executor(pool, s.desk.searcher.run, s.desk.deliver(loop)) for s in served
    ]
    asked: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    try:
        await warm_up(served)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, backlog=1024).start()
        except OSError as error:
            # asyncio's own text repeats the address; the resolver's numbers are negative
            code = error.errno or 0
            reason = os.strerror(code) if code > 0 else error.strerror
            raise ConfigError(f"cannot listen on {host}:{port} ({reason}); give another --port.") from error
        place = runner.addresses[0]
        name = f"[{place[0]}]" if ":" in place[0] else place[0]
        listening(f"http://{name}:{place[1]}")
        await asyncio.wait([asked, *threads], return_when=asyncio.FIRST_COMPLETED)
    finally:
        api.stopping = True
        await runner.cleanup()
        for s in served:
            s.desk.searcher.stop()
        asked.cancel()
        # The threads end by themselves: `stop` lets them finish what they hold.
        await asyncio.gather(*threads, return_exceptions=True)
        pool.shutdown()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    for thread in threads:
        thread.result()


async def warm_up(served: Sequence[Served]) -> None:
    """Compile what the first questions would else wait for."""
    for s in served:
        state = s.model.game.initial_state()
        while s.model.game.rules["to_play"](state) == CHANCE:
            s.model.game.play(state, s.model.game.chance(state)[0][0])
        name = s.model.game.action_name(state, s.model.game.legal(state)[0])
        with suppress(GameError):  # a line that ends the game, or comes to a roll
            state_of(s.model.game, {"position": s.model.game.position(state), "moves": name})
        for simulations in {0, min(s.desk.searcher.simulations, 1)}:
            await s.desk.ask(state, simulations)
