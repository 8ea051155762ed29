"""Load `zeroloop serve` with many clients at once, each on its own kept connection, and count.

    zeroloop serve demo:connect4@64 --port 8000
    python examples/http_load.py http://127.0.0.1:8000 --clients 200 --seconds 60
    python examples/http_load.py http://127.0.0.1:8000 --clients 200 --seconds 60 --endpoint evaluate

A client sends a question, reads the whole answer, sends the next: a closed loop. A request is lost when the
connection breaks or no answer comes within 30 seconds. The questions are positions of random games.
"""

import argparse
import asyncio
import json
import random
import time
import urllib.parse
import urllib.request

from zeroloop import make

LATE = 30.0


def questions(url, count, seed):
    """Return the bodies of questions: moves of random games of the server's first model, cut anywhere."""
    with urllib.request.urlopen(f"{url}/v1/models") as answer:
        model = json.load(answer)["models"][0]
    game, draw = make(model["game"], **model["options"]), random.Random(seed)
    out = []
    while len(out) < count:
        state, names, cuts = game.initial_state(), [], []
        while True:
            actions = game.legal(state)
            if actions:
                cuts.append(" ".join(names))
            actions = actions or [a for a, _ in game.chance(state)]
            if not actions:
                break
            action = draw.choice(actions)
            names.append(game.action_name(state, action))
            game.play(state, action)
        out.append(json.dumps({"model": model["model"], "moves": draw.choice(cuts)}).encode())
    return out


class Client(asyncio.Protocol):
    """One kept connection: `ask` sends a request and waits for its whole answer."""

    def __init__(self):
        self.buffer, self.answer = bytearray(), None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        field = self.buffer.index(b"Content-Length: ") + 16
        end = head + 4 + int(self.buffer[field : self.buffer.index(b"\r\n", field)])
        if len(self.buffer) >= end:
            status = int(self.buffer[9:12])
            del self.buffer[:end]
            self.answer.set_result(status)

    def connection_lost(self, error):
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("the server closed the connection"))

    async def ask(self, request):
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        async with asyncio.timeout(LATE):
            return await self.answer


async def ask_on(place, head, bodies, draw, end, seen):
    """Ask one question after the other until `end`; `seen` gets (status or None where lost, seconds)."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, *place)
    while time.perf_counter() < end:
        body = draw.choice(bodies)
        begun = time.perf_counter()
        try:
            status = await client.ask(head % len(body) + body)
        except (OSError, TimeoutError):
            status = None
        seen.append((status, time.perf_counter() - begun))
        if status is None:
            _, client = await loop.create_connection(Client, *place)
    client.transport.close()


async def load(url, endpoint, clients, seconds, bodies, seed):
    """Return what happened: requests a second, latencies, statuses."""
    place = urllib.parse.urlsplit(url)
    address = place.hostname, place.port
    head = (
        f"POST /v1/{endpoint} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        "Content-Length: %d\r\n\r\n"
    ).encode()
    seen, begun = [], time.perf_counter()
    draws = [random.Random(seed + i) for i in range(clients)]
    end = begun + seconds
    await asyncio.gather(*(ask_on(address, head, bodies, draw, end, seen) for draw in draws))
    wall = time.perf_counter() - begun
    late = sorted(s for status, s in seen if status == 200)
    statuses = {}
    for status, _ in seen:
        statuses[str(status)] = statuses.get(str(status), 0) + 1
    return {
        "endpoint": endpoint,
        "clients": clients,
        "seconds": round(wall, 2),
        "requests": len(seen),
        "requests_per_second": round(len(seen) / wall, 1),
        "p50_ms": round(1e3 * late[len(late) // 2], 1),
        "p99_ms": round(1e3 * late[int(len(late) * 0.99)], 1),
        "max_ms": round(1e3 * late[-1], 1),
        "statuses": statuses,
        "lost": statuses.get("None", 0),
    }


def main():
    flags = argparse.ArgumentParser(description="Load zeroloop serve and count.")
    flags.add_argument("url")
    flags.add_argument("--endpoint", choices=("search", "evaluate"), default="search")
    flags.add_argument("--clients", type=int, default=200)
    flags.add_argument("--seconds", type=float, default=60)
    flags.add_argument("--questions", type=int, default=20_000, help="Distinct games to ask about.")
    flags.add_argument("--seed", type=int, default=0)
    given = flags.parse_args()
    bodies = questions(given.url, given.questions, given.seed)
    found = load(given.url, given.endpoint, given.clients, given.seconds, bodies, given.seed)
    print(json.dumps(asyncio.run(found)))


if __name__ == "__main__":
    main()
