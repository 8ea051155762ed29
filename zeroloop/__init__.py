"""zeroloop trains agents for board games by self-play, and proves how strong they are.

The public names below load on first use, so that `import zeroloop` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "CHANCE": "games",
    "TERMINAL": "games",
    "Game": "games",
    "Observation": "games",
    "helper": "games",
    "make": "games",
    "rules_identity": "games",
    "check_game": "games.check",
    "Config": "config",
    "Schedule": "schedule",
    "Forest": "search",
    "Episode": "episode",
    "Model": "model",
    "parse": "players",
    "play_match": "match",
    "openings": "match",
    "Run": "run",
    "ZeroloopError": "errors",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'zeroloop' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
