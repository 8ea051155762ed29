"""A run on a Ray cluster: actors for self-play, replay, inference, learner. Only files here import Ray."""

from __future__ import annotations

import importlib.util
import os
import secrets

from ..errors import ConfigError

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Environment of every process that Ray starts: no telemetry, and one thread where a search thread is one."""


def prepare(address: str) -> None:
    """Set Ray's environment; to be called before Ray is imported.

    Who reaches a cluster's ports can run any program there, so a token guards them where the environment does
    not say otherwise: a fresh one for `local`, else the machine's own, `~/.ray/auth_token`.

    Raises:
      ConfigError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("Ray is not installed: pip install 'zeroloop[distributed]', on every machine.")
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        if address == "local":
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
