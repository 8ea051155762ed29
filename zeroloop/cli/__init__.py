"""The command line: verbs of the domain, each a few lines over the library."""

from . import benches, matches, positions, serve, training
from .base import main

__all__ = ["benches", "main", "matches", "positions", "serve", "training"]
