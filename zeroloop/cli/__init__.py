"""The command line: verbs of the domain, each a few lines over the library."""

from . import (
    benches,
    export_model,
    gauntlet,
    gnubg_player,
    inference,
    matches,
    models,
    pause,
    positions,
    regret,
    serve,
    size,
    status,
    tournament,
    training,
    uci,
    worker,
)
from .base import main

__all__ = [
    "benches",
    "export_model",
    "gauntlet",
    "gnubg_player",
    "inference",
    "main",
    "matches",
    "models",
    "pause",
    "positions",
    "regret",
    "serve",
    "size",
    "status",
    "tournament",
    "training",
    "uci",
    "worker",
]
