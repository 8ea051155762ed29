"""JSON over HTTP: the schema is kept, bad input is told, nothing taken is lost, and the limits hold."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

aiohttp = pytest.importorskip("aiohttp", reason="the extra `serve` is not installed")

from zeroloop import serve as serve_module  # noqa: E402
from zeroloop.errors import BackendError, ConfigError, GameError, PlayerError  # noqa: E402
from zeroloop.evaluator import UniformEvaluator  # noqa: E402
from zeroloop.games import make  # noqa: E402
from zeroloop.model import Model  # noqa: E402
from zeroloop.search.forest import Evaluation  # noqa: E402
from zeroloop.searcher import BATCHES, TREES, Searcher, trees_for  # noqa: E402
from zeroloop.serve import Api, Desk, Served, is_loopback, load_served, serve  # noqa: E402
from zeroloop.wire import BadQuestion, check_lengths, parse_question, state_of  # noqa: E402

JSON = {"Content-Type": "application/json"}
TICTACTOE = make("tictactoe")
BACKGAMMON = make("backgammon")


class Watched:
    """Another evaluator that counts batches and rows, and that waits at a gate where there is one."""

    def __init__(self, game, gate=None):
        self.inner, self.gate, self.batches, self.rows = UniformEvaluator(game, BATCHES[-1]), gate, 0, 0
        self.fail = False

    def submit(self, leaves):
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.fail:
            raise RuntimeError("the network is on fire")
        self.batches, self.rows = self.batches + 1, self.rows + len(leaves.count)
        return self.inner.submit(leaves)

    def result(self, ticket):
        return self.inner.result(ticket)


def served_of(game=TICTACTOE, simulations=64, gate=None, name="toy", digit="a"):
    """Return a served model that knows nothing: equal logits, value 0."""
    searcher = Searcher(game, Watched(game, gate), simulations)
    return Served(name, Model(digit * 64, None, game), Desk(searcher))


def on_server(script, *served, queue=256):
    """Run `script(session, url)` against a server of these models, stop the server, return the result."""

    async def run():
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        server = asyncio.ensure_future(serve(served, "127.0.0.1", 0, queue, ready.set_result, stop))
        await asyncio.wait([server, ready], return_when=asyncio.FIRST_COMPLETED)
        if server.done():
            server.result()
        try:
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector) as session:
                async with asyncio.timeout(60):
                    found = await script(session, ready.result())
        finally:
            stop.set()
            await server
        return found

    return asyncio.run(run())


async def post(session, url, body, headers=JSON):
    """Return (status, JSON, headers) of a POST; `body` is JSON or bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with session.post(url, data=data, headers=headers) as answer:
        return answer.status, json.loads(await answer.read()), answer.headers


def asked(endpoint, body, *served):
    """Return the (status, JSON) of one question."""

    async def script(session, url):
        return await post(session, f"{url}/v1/{endpoint}", body)

    return on_server(script, *(served or (served_of(),)))[:2]


def violations(value, schema, document, where="$"):
    """Yield how a value breaks a JSON schema, for the keywords that the document uses."""
    if "$ref" in schema:
        found = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        yield from violations(value, found, document, where)
        return
    known = {
        "type",
        "description",
        "required",
        "additionalProperties",
        "properties",
        "items",
        "const",
        "oneOf",
    }
    known |= {"minimum", "maximum", "minLength", "maxLength", "pattern"}
    assert set(schema) <= known, f"the validator does not know {set(schema) - known}"
    if "oneOf" in schema:
        fitting = [s for s in schema["oneOf"] if not list(violations(value, s, document))]
        if len(fitting) != 1:
            yield f"{where} fits {len(fitting)} of oneOf"
    if "const" in schema and value != schema["const"]:
        yield f"{where} is not {schema['const']}"
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": int | float}
    kinds["null"] = type(None)
    if "type" in schema and (not isinstance(value, kinds[schema["type"]]) or isinstance(value, bool)):
        yield f"{where} is no {schema['type']}"
        return
    if isinstance(value, dict) and "properties" in schema:
        yield from (f"{where} has no {key}" for key in schema.get("required", ()) if key not in value)
        for key, item in value.items():
            if key in schema["properties"]:
                yield from violations(item, schema["properties"][key], document, f"{where}.{key}")
            elif schema.get("additionalProperties") is False:
                yield f"{where} has {key}"
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from violations(item, schema.get("items", {}), document, f"{where}[{i}]")
    if isinstance(value, int | float):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            yield f"{where} is out of range"
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{where} has a bad length"
        if not re.search(schema.get("pattern", ""), value):
            yield f"{where} does not match"


def declared(document, method, path, status):
    """Return the schema that the document gives for an answer."""
    found = document["paths"][path][method]["responses"][str(status)]
    if "$ref" in found:
        found = document["components"]["responses"][found["$ref"].rsplit("/", 1)[1]]
    return found["content"]["application/json"]["schema"]


def test_every_endpoint_is_in_the_schema_and_the_other_way_round():
    api = Api([served_of()], 1)
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in api.app().router.routes()
        if route.method != "HEAD"
    }
    named = {(method, path) for path, item in api.schema["paths"].items() for method in item}
    assert routes == named
    assert api.schema["openapi"].startswith("3.1.")


def test_the_page_names_every_path_key_and_status():
    page = (pathlib.Path(__file__).parent.parent / "docs" / "serve.md").read_text()
    document = Api([], 1).schema
    for path, item in document["paths"].items():
        for method, told in item.items():
            assert f"`{method.upper()} {path}`" in page
            assert all(status == "200" or status in page for status in told["responses"])
    keys = document["components"]["schemas"]["SearchRequest"]["properties"]
    assert tuple(keys) == serve_module.SEARCH and all(f"| `{key}` |" in page for key in keys)


def test_every_answer_obeys_the_schema():
    async def script(session, url):
        async with session.get(f"{url}/v1/schema") as answer:
            document = await answer.json()
        seen = []
        for path in ("health", "models", "schema"):
            async with session.get(f"{url}/v1/{path}") as answer:
                seen.append(("get", f"/v1/{path}", answer.status, await answer.json()))
        for moves in ("", "a1 b2", "a1 b2 c3", "nonsense"):
            for path in ("evaluate", "search"):
                status, told, _ = await post(session, f"{url}/v1/{path}", {"moves": moves})
                seen.append(("post", f"/v1/{path}", status, told))
        return document, seen

    document, seen = on_server(script, served_of())
    for method, path, status, told in seen:
        assert list(violations(told, declared(document, method, path, status), document)) == [], path
    assert {status for *_, status, _ in seen} == {200, 400}


def test_the_validator_of_these_tests_sees_what_breaks_a_schema():
    document = Api([], 1).schema
    error = {"$ref": "#/components/schemas/Error"}
    assert list(violations({"error": "no"}, error, document)) == []
    for bad in ({}, {"error": ""}, {"error": 3}, {"error": "no", "more": 1}, []):
        assert list(violations(bad, error, document)), bad
    health = {"$ref": "#/components/schemas/Health"}
    assert list(violations({"status": "ok", "open": -1, "queue": 1}, health, document))


def test_evaluate_gives_each_legal_action_once_and_a_value_per_seat():
    state = TICTACTOE.initial_state()
    names = [TICTACTOE.action_name(state, a) for a in TICTACTOE.legal(state)]
    status, told = asked("evaluate", {"moves": names[4]})
    assert status == 200 and told["to_play"] == 1
    assert [row["action"] for row in told["policy"]] == [n for n in names if n != names[4]]
    assert sum(row["probability"] for row in told["policy"]) == pytest.approx(1)
    assert told["values"] == [0, 0] and told["model"] == "a" * 64


def near_win():
    """Return moves after which seat 0 wins at once, and the winning move: cells 0, 1 and then 2."""
    state = TICTACTOE.initial_state()
    name = [TICTACTOE.action_name(state, a) for a in range(9)]
    return f"{name[0]} {name[3]} {name[1]} {name[4]}", name[2]


def test_search_finds_the_win_and_its_visits_are_its_simulations():
    moves, win = near_win()
    status, told = asked("search", {"moves": moves, "simulations": 50})
    assert status == 200 and told["action"] == win and told["line"][0] == win
    assert told["simulations"] == 50 == sum(row["visits"] for row in told["actions"])
    best = next(row for row in told["actions"] if row["action"] == win)
    assert best["q"] == 1 and told["values"][0] > 0.5 and told["network_values"] == [0, 0]
    assert all(row["q"] is None for row in told["actions"] if not row["visits"])


def test_a_position_text_means_the_same_as_the_moves_that_led_to_it():
    async def script(session, url):
        _, first, _ = await post(session, f"{url}/v1/search", {"moves": near_win()[0]})
        _, second, _ = await post(session, f"{url}/v1/search", {"position": first["position"]})
        return first, second

    first, second = on_server(script, served_of())
    assert first == second


@pytest.mark.parametrize("game", [TICTACTOE, make("hex", size=5)], ids=lambda game: game.name)
def test_the_position_of_the_start_may_be_sent_back(game):
    async def script(session, url):
        _, first, _ = await post(session, f"{url}/v1/evaluate", {})
        _, second, _ = await post(session, f"{url}/v1/evaluate", {"position": first["position"]})
        return first, second

    first, second = on_server(script, served_of(game))
    assert first == second and first["to_play"] == 0


def test_points_are_those_of_the_game_and_dice_may_be_given():
    async def script(session, url):
        opening = await post(session, f"{url}/v1/evaluate", {})
        rolled = await post(session, f"{url}/v1/search", {"dice": "31", "simulations": 40})
        async with session.get(f"{url}/v1/models") as answer:
            return opening, rolled, (await answer.json())["models"][0]

    opening, rolled, model = on_server(script, served_of(BACKGAMMON))
    assert opening[0] == 400 and "give 'dice'" in opening[1]["error"]
    assert rolled[0] == 200 and rolled[1]["position"].endswith(" 31")
    assert model["scale"] == 3 and model["seats"] == 2 and model["game"] == "backgammon"


def test_a_forced_move_is_searched_and_evaluated():
    state = TICTACTOE.initial_state()
    name = [TICTACTOE.action_name(state, a) for a in range(9)]
    full = " ".join(name[i] for i in (0, 1, 2, 4, 3, 5, 7, 6))  # one cell is left
    status, told = asked("search", {"moves": full})
    assert status == 200 and told["action"] == name[8] and told["network_values"] is None
    status, told = asked("evaluate", {"moves": full})
    assert status == 200 and told["policy"] == [{"action": name[8], "id": 8, "probability": 1}]


def test_an_answer_is_the_same_alone_and_among_two_hundred():
    state = TICTACTOE.initial_state()
    names = [TICTACTOE.action_name(state, a) for a in range(9)]
    bodies = [{"moves": f"{a} {b}", "simulations": 30} for a in names for b in names if a != b] * 3

    async def script(session, url):
        alone = [await post(session, f"{url}/v1/search", body) for body in bodies[:5]]
        together = await asyncio.gather(*(post(session, f"{url}/v1/search", body) for body in bodies[:200]))
        return alone, together

    alone, together = on_server(script, served_of())
    assert all(status == 200 for status, *_ in together)
    assert [told for _, told, _ in together[:5]] == [told for _, told, _ in alone]
    assert together[0][1] == together[72][1]


def test_searches_share_batches_and_evaluations_ride_along():
    gate, n = threading.Event(), 60
    served = served_of(simulations=32)
    served.desk.searcher.evaluator.gate = None

    async def script(session, url):
        evaluator = served.desk.searcher.evaluator
        evaluator.gate, before = gate, evaluator.batches
        searches = [post(session, f"{url}/v1/search", {"moves": "", "simulations": 32}) for _ in range(n)]
        evaluations = [post(session, f"{url}/v1/evaluate", {}) for _ in range(n)]
        waiting = asyncio.gather(*searches, *evaluations)
        await asyncio.sleep(0.3)
        gate.set()
        found = await waiting
        return found, evaluator.batches - before

    found, batches = on_server(script, served)
    assert all(status == 200 for status, *_ in found)
    # Alone they would need one for each evaluation and up to 33 for each search.
    assert batches < 33 + 15


def test_a_full_queue_is_told_and_what_was_taken_is_answered():
    gate = threading.Event()
    gate.set()
    served = served_of(gate=gate)

    async def script(session, url):
        gate.clear()
        taken = [asyncio.ensure_future(post(session, f"{url}/v1/search", {})) for _ in range(4)]
        while len(taken) and json.loads(await (await session.get(f"{url}/v1/health")).read())["open"] < 4:
            await asyncio.sleep(0.01)
        refused = await asyncio.gather(*(post(session, f"{url}/v1/evaluate", {}) for _ in range(10)))
        gate.set()
        answered = await asyncio.gather(*taken)
        after = await post(session, f"{url}/v1/evaluate", {})
        return refused, answered, after

    refused, answered, after = on_server(script, served, queue=4)
    assert {status for status, *_ in refused} == {503}
    assert all(headers["Retry-After"] == "1" and "4 places" in told["error"] for _, told, headers in refused)
    assert [status for status, *_ in answered] == [200] * 4 and after[0] == 200


def test_a_client_that_goes_away_takes_its_search_with_it():
    gate = threading.Event()
    gate.set()
    served = served_of(simulations=100_000, gate=gate)

    async def script(session, url):
        gate.clear()
        port = int(url.rsplit(":", 1)[1])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"simulations": 100000}'
        head = f"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        while not served.desk.searcher._growing:
            await asyncio.sleep(0.01)
        writer.close()
        await asyncio.sleep(0.1)
        gate.set()
        status, told, _ = await post(session, f"{url}/v1/search", {"simulations": 8})
        health = json.loads(await (await session.get(f"{url}/v1/health")).read())
        return status, told["simulations"], health["open"], len(served.desk.searcher._growing)

    assert on_server(script, served) == (200, 8, 0, 0)
    assert served.desk.searcher.evaluator.rows < 1000


BAD = {
    "no JSON": (b"{", "is not JSON"),
    "nothing": (b"", "is not JSON"),
    "no UTF-8": (b'{"moves": "\xff"}', "is not JSON"),
    "not a number": (b'{"simulations": NaN}', "NaN is no number of JSON"),
    "infinity": (b'{"simulations": -Infinity}', "-Infinity is no number of JSON"),
    "a huge float": (b'{"simulations": 1e999}', "whole number from 1 to 64"),
    "26 digits": (b'{"simulations": ' + b"9" * 26 + b"}", f"from 1 to 64, not {'9' * 26}."),
    "a huge number": (b'{"simulations": ' + b"9" * 300 + b"}", "from 1 to 64, not a number of 300 digits."),
    "an endless number": (b'{"simulations": ' + b"9" * 9000 + b"}", "a number of 9000 digits; no key"),
    "an endless key": (b'{"position": ' + b"9" * 5000 + b"}", "a number of 5000 digits; no key"),
    "a fraction": (b'{"simulations": 1.5}', "not a number that is not whole"),
    "true": (b'{"simulations": true}', "not true or false"),
    "zero": (b'{"simulations": 0}', "from 1 to 64"),
    "too many": (b'{"simulations": 65}', "from 1 to 64"),
    "text for a number": (b'{"simulations": "8"}', "not text"),
    "deep": (b'{"moves":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "levels"),
    "a list": (b"[]", "the body is a list"),
    "a text": (b'"a1"', "the body is text"),
    "an unknown key": (b'{"move": "a1"}', "unknown key 'move'; allowed: model, position, moves, dice"),
    "a key twice": (b'{"moves": "", "moves": ""}', "twice"),
    "moves as a list": (b'{"moves": ["a1"]}', "'moves' is a list; it must be text"),
    "null": (b'{"position": null}', "'position' is null"),
    "a long position": (b'{"position": "' + b"x" * 5000 + b'"}', "5000 characters"),
    "too many moves": (b'{"moves": "' + b"a1 " * 5000 + b'"}', "5000 moves"),
    "an illegal move": (b'{"moves": "z9"}', "not a legal move"),
    "dice in a game without": (b'{"dice": "31"}', "dice '31' cannot be set"),
    "a wrong model": (b'{"model": "bbbbbbbb"}', "no model that is served; served: aaaaaaaaaaaa (toy)"),
    "half a surrogate": (b'{"moves": "\\ud800"}', "not a legal move"),
}


def test_bad_questions_are_told_in_one_sentence():
    async def script(session, url):
        return {name: await post(session, f"{url}/v1/search", body) for name, (body, _) in BAD.items()}

    for name, (status, told, _) in on_server(script, served_of()).items():
        assert status == 400, name
        assert BAD[name][1] in told["error"], (name, told)
        assert len(told["error"]) < 800


def test_the_end_of_a_game_has_nothing_to_search():
    moves, win = near_win()
    status, told = asked("search", {"moves": f"{moves} {win}"})
    assert status == 400 and "is the end of a game" in told["error"]


def test_paths_methods_types_and_sizes_are_told():
    async def script(session, url):
        seen = {}
        for name, method, path in (
            ("path", "GET", "/v2/search"),
            ("root", "GET", "/"),
            ("method", "GET", "/v1/search"),
            ("post", "POST", "/v1/models"),
            ("strange", "DELETE", "/v1/health"),
        ):
            async with session.request(method, url + path) as answer:
                seen[name] = answer.status, (await answer.json())["error"], answer.headers
        plain = {"Content-Type": "text/plain"}
        seen["type"] = await post(session, f"{url}/v1/search", b"{}", plain)
        seen["size"] = await post(session, f"{url}/v1/search", b" " * 70_000)
        garbled = {**JSON, "Content-Encoding": "deflate"}
        seen["garbled"] = await post(session, f"{url}/v1/search", b"not deflated", garbled)
        return seen

    seen = on_server(script, served_of())
    assert {name: status for name, (status, *_) in seen.items()} == {
        "path": 404,
        "root": 404,
        "method": 405,
        "post": 405,
        "strange": 405,
        "type": 415,
        "size": 413,
        "garbled": 400,
    }
    assert "Content-Encoding is 'deflate'" in seen["garbled"][1]["error"]
    assert seen["method"][2]["Allow"] == "POST" and "allowed: POST" in seen["method"][1]


def test_a_body_that_is_not_what_its_headers_say_is_told_and_fills_no_log(caplog):
    async def script(session, url):
        garbled = {**JSON, "Content-Encoding": "gzip"}
        bodies = [b"{}", b"not compressed", b"{" * 5000]
        seen = [await post(session, f"{url}/v1/search", body, garbled) for body in bodies]
        return seen, await post(session, f"{url}/v1/search", {})

    seen, after = on_server(script, served_of())
    for status, told, _ in seen:
        assert status == 400 and told["error"].startswith("the body is not what its headers say;")
        assert told["error"].count(".") == 1 and "\n" not in told["error"]
    assert after[0] == 200 and caplog.text == ""


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(serve_module, "BODY_SECONDS", 0.2)

    async def script(session, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
        writer.write(b"Content-Type: application/json\r\n\r\n{")
        head = await reader.readuntil(b"\r\n")
        writer.close()
        return head

    assert b" 408 " in on_server(script, served_of())


def mangled(draw):
    """Return the bytes of a question with something wrong or strange about it."""
    words = [
        "",
        "a1",
        "4 4 3",
        "31",
        "e2e4",
        "8/5 6/5",
        "\x00",
        "\ud800",
        "-1",
        "É" * 50,
        "9" * 40,
        "start",
        "-",
    ]
    values = [*words, None, True, 0, -1, 7, 1e308, 10**30, [], {}, [[]], {"moves": ""}]
    keys = ["model", "position", "moves", "dice", "simulations", "simulations ", "", "__proto__"]
    query = {draw.choice(keys): draw.choice(values) for _ in range(draw.randint(0, 4))}
    data = bytearray(json.dumps(query).encode())
    for _ in range(draw.choice([0, 0, 1, 3])):
        place = draw.randrange(len(data) + 1)
        if draw.random() < 0.5:
            data[place : place + draw.randint(0, 4)] = b""
        else:
            data[place:place] = draw.choice([b"\x00", b"\xff", b"NaN", b"[[[[", b'"', b"1e999", b"}", b","])
    return bytes(data)


def test_mangled_questions_are_answered_4xx_with_a_reason_and_never_5xx():
    draw = random.Random(5)
    bodies = [mangled(draw) for _ in range(600)]

    async def script(session, url):
        places = [f"{url}/v1/{draw.choice(['evaluate', 'search'])}" for _ in bodies]
        return await asyncio.gather(*(post(session, p, b) for p, b in zip(places, bodies, strict=True)))

    seen = on_server(script, served_of(), queue=1000)
    for body, (status, told, _) in zip(bodies, seen, strict=True):
        assert status in (200, 400), (status, body)
        assert status == 200 or told["error"].strip(), body
    statuses = [status for status, *_ in seen]
    assert statuses.count(400) > 300 and statuses.count(200) > 10


@pytest.mark.parametrize("name", ["tictactoe", "connect4", "hex", "chess", "backgammon"])
def test_mangled_positions_and_moves_of_every_game_are_refused_as_the_games_own_errors(name):
    game, draw = make(name), random.Random(11)
    texts = [game.position(game.initial_state())]
    state = game.initial_state()
    for _ in range(12):
        choices = game.legal(state) or [a for a, _ in game.chance(state)]
        if choices:
            game.play(state, draw.choice(choices))
            texts.append(game.position(state))
    for _ in range(400):
        text = list(draw.choice(texts))
        for _ in range(draw.randint(0, 3)):
            place = draw.randrange(len(text) + 1)
            text[place : place + 1] = draw.choice("0123456789 /-abcKQwxX,\x00é\ud800")
        query = {"position": "".join(text), "moves": draw.choice(["", "a1", "31", "e2e4", "\x00"])}
        query["dice"] = draw.choice(["", "", "31", "77", "x"])
        try:
            question = parse_question(json.dumps(query).encode(), ("position", "moves", "dice"))
            check_lengths(game, question)
            state_of(game, question)
        except (GameError, BadQuestion):
            pass


@pytest.mark.parametrize("name", ["connect4", "backgammon"])
def test_a_line_is_played_as_the_plain_rules_play_it(name):
    game, draw = make(name), random.Random(8)
    for _ in range(20):
        state, names = game.initial_state(), []
        while game.legal(state) or game.chance(state):
            action = draw.choice(game.legal(state) or [a for a, _ in game.chance(state)])
            names.append(game.action_name(state, action))
            before = game.copy(state)
            game.play(state, action)
            if game.legal(state) and draw.random() < 0.05:
                found = state_of(game, {"moves": " ".join(names)})
                assert found.tobytes() == state.tobytes()
                found = state_of(game, {"position": game.position(before), "moves": names[-1]})
                assert game.position(found) == game.position(state)


def test_bytes_that_are_no_http_are_answered_4xx_or_cut_off_and_fill_no_log(caplog):
    draw = random.Random(3)
    lines = [
        b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /v1/search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"GET /v1/health HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        *(bytes(draw.randrange(256) for _ in range(80)) + b"\r\n\r\n" for _ in range(20)),
    ]

    async def script(session, url):
        heads = []
        for line in lines:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
            writer.write(line)
            writer.write_eof()
            async with asyncio.timeout(20):
                heads.append(await reader.read(64))
            writer.close()
        status, *_ = await post(session, f"{url}/v1/search", {})
        return heads, status

    heads, after = on_server(script, served_of())
    for line, head in zip(lines, heads, strict=True):
        assert head == b"" or head.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), (line[:60], head)
    assert after == 200 and caplog.text == ""


def test_several_models_are_told_apart():
    async def script(session, url):
        seen = {}
        for name in (None, "second", "bbbbbb", "bbb"):
            body = {} if name is None else {"model": name}
            seen[name] = await post(session, f"{url}/v1/evaluate", body)
        return seen

    seen = on_server(script, served_of(name="first"), served_of(name="second", digit="b"))
    assert seen[None][0] == 400 and "'model' is missing" in seen[None][1]["error"]
    assert seen["second"][1]["model"] == seen["bbbbbb"][1]["model"] == "b" * 64
    assert seen["bbb"][0] == 400 and "served: aaaaaaaaaaaa (first), bbbbbbbbbbbb (second)" in str(seen["bbb"])


def test_a_model_is_named_with_its_simulations_or_without():
    (demo,) = load_served(["demo:connect4@8"])
    api = Api([demo, served_of()], 1)
    for name in ("demo:connect4@8", "demo:connect4", demo.model.hash[:6]):
        assert api._served({"model": name}) is demo
    for name in ("demo:connect4@9", "", "toy@64"):
        with pytest.raises(BadQuestion, match="no model that is served"):
            api._served({"model": name})


def test_a_model_served_at_0_simulations_only_evaluates():
    assert asked("evaluate", {}, served_of(simulations=0))[0] == 200
    status, told = asked("search", {}, served_of(simulations=0))
    assert status == 400 and "/v1/evaluate only" in told["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_when_all_that_was_taken_is_answered(number):
    gate = threading.Event()
    gate.set()
    served = served_of(gate=gate)

    async def script(session, url):
        gate.clear()
        taken = [asyncio.ensure_future(post(session, f"{url}/v1/search", {})) for _ in range(30)]
        while json.loads(await (await session.get(f"{url}/v1/health")).read())["open"] < 30:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.2)
        with pytest.raises(aiohttp.ClientConnectorError):
            await post(session, f"{url}/v1/search", {})
        gate.set()
        return await asyncio.gather(*taken)

    assert [status for status, *_ in on_server(script, served)] == [200] * 30


def test_a_network_that_fails_ends_the_server_and_tells_who_waits():
    served = served_of()
    told = []

    async def script(session, url):
        served.desk.searcher.evaluator.fail = True
        told.append(await post(session, f"{url}/v1/search", {}))

    with pytest.raises(RuntimeError, match="on fire"):
        on_server(script, served)
    assert told[0][0] == 500 and "searcher of tictactoe failed" in told[0][1]["error"]


def test_a_fault_of_the_server_is_told_as_its_own_and_logged(monkeypatch, caplog):
    def broken(game, question):
        return state_of(game, question) if question else 1 // 0

    monkeypatch.setattr(serve_module, "state_of", broken)
    status, told = asked("search", {})
    assert status == 500 and told == {"error": "the server failed on this request (ZeroDivisionError)."}
    assert "ZeroDivisionError" in caplog.text


def test_a_port_in_use_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = f"cannot listen on 127.0.0.1:{port} (Address already in use); give another --port."
        with pytest.raises(ConfigError, match=re.escape(told)):
            asyncio.run(serve([served_of()], "127.0.0.1", port, 1, lambda url: None))


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.org", False)],
)
def test_loopback_is_told_from_the_rest(host, local):
    assert is_loopback(host) is local


@pytest.mark.parametrize("name", ["random", "mcts:400", "nowhere"])
def test_only_models_are_served(name):
    with pytest.raises(PlayerError, match="to serve: give a run directory"):
        load_served([name])


def test_a_large_tree_leaves_room_for_fewer_of_them():
    chess = make("chess")
    assert trees_for(TICTACTOE, 80) == TREES
    assert 1 <= trees_for(chess, 20_000) < 40
    assert trees_for(chess, 2_000_000) == 1


def test_evaluations_do_not_wait_for_searches_to_end():
    """With every tree busy there are still rows of the batch for evaluations."""
    served = served_of(simulations=3000)
    order = []

    async def script(session, url):
        async def one(kind, body):
            await post(session, f"{url}/v1/{kind}", body)
            order.append(kind)

        searches = [asyncio.ensure_future(one("search", {})) for _ in range(TREES + 20)]
        while len(served.desk.searcher._growing) < TREES:
            await asyncio.sleep(0.01)
        await one("evaluate", {})
        for task in searches:
            task.cancel()
        await asyncio.gather(*searches, return_exceptions=True)

    on_server(script, served, queue=500)
    assert order[0] == "evaluate"


def test_values_are_rotated_to_seats_by_the_evaluator_alone():
    """What an evaluator says by absolute seat is what the client gets, whoever moves."""

    class Tilted(Watched):
        def result(self, ticket):
            found = self.inner.result(ticket)
            return Evaluation(found.logits, np.tile(np.float32([0.25, -0.25]), (len(found.values), 1)))

    served = Served(
        "tilted", Model("c" * 64, None, TICTACTOE), Desk(Searcher(TICTACTOE, Tilted(TICTACTOE), 8))
    )

    async def script(session, url):
        return [(await post(session, f"{url}/v1/evaluate", {"moves": m}))[1] for m in ("", near_win()[0][:2])]

    first, second = on_server(script, served)
    assert (first["to_play"], second["to_play"]) == (0, 1)
    assert first["values"] == second["values"] == [0.25, -0.25]


def test_without_the_package_the_line_to_type_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "zeroloop.serve")
    with pytest.raises(BackendError, match=r"pip install 'zeroloop\[serve\]'"):
        import zeroloop.serve  # noqa: F401


@pytest.mark.slow
def test_the_command_serves_the_demo_under_load_and_exits_0_on_a_signal(tmp_path):
    command = [sys.executable, "-m", "zeroloop", "serve", "demo:connect4@16", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        told = json.loads(server.stdout.readline())
        assert told["models"][0]["game"] == "connect4"
        script = pathlib.Path(__file__).parent.parent / "examples" / "http_load.py"
        flags = ["--clients", "50", "--seconds", "5", "--questions", "200"]
        done = subprocess.run([sys.executable, script, told["url"], *flags], capture_output=True, text=True)
        found = json.loads(done.stdout)
        begun = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0 and time.monotonic() - begun < 30
    assert found["lost"] == 0 and found["statuses"] == {"200": found["requests"]}
