"""A private redis-server on a free port, with its files in a folder of the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

from tests.games.oracles import need, need_program


def free_port():
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class RedisServer:
    """Start with `start`; `settings` are those of redis.conf, as keyword arguments with `_` for `-`."""

    def __init__(self, folder, tls=False, password=None, **settings):
        self.program = need_program("redis-server", "redis-server")
        self.folder, self.tls, self.password, self.port = folder, tls, password, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = {"save": "", "dir": str(folder), "bind": "127.0.0.1", "loglevel": "warning"}
        self.settings |= {"port": 0, "tls-port": self.port} if tls else {"port": self.port}
        self.settings |= {k.replace("_", "-"): v for k, v in settings.items()}
        if password:
            self.settings["requirepass"] = password
        self.process = None

    @property
    def url(self):
        return f"{'rediss' if self.tls else 'redis'}://127.0.0.1:{self.port}/0"

    def start(self):
        arguments = [x for key, value in self.settings.items() for x in (f"--{key}", str(value))]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([self.program, *arguments], stdout=log, stderr=log)
        for _ in range(200):
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    if self.tls:
                        return self
                    connection.sendall(b"PING\r\n")
                    if not connection.recv(64).startswith(b"-LOADING"):
                        return self
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.02)
        raise AssertionError("redis-server does not start")

    def client(self):
        """Return a plain client, to look and to do damage."""
        return need("redis").Redis(port=self.port, password=self.password, protocol=2)

    def ask(self, *words):
        """Return the answer to one command."""
        client = self.client()
        try:
            return client.execute_command(*words)
        finally:
            client.close()

    def freeze(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self):
        """SIGKILL: nothing that was in its memory only survives."""
        self.process.kill()
        self.process.wait()
