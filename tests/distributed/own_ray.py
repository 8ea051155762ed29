"""Ray for tests: with a token of their own, which Ray reads when it is first imported."""

import importlib
import os
import secrets

from tests.games.oracles import need
from zeroloop.cluster import SETTINGS

os.environ |= {**SETTINGS, "RAY_AUTH_MODE": "token"}
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # nothing is written to the home directory
ray = need("ray")
Cluster = importlib.import_module("ray.cluster_utils").Cluster
