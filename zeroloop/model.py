"""Model: weights with what they mean - network, game, rules, observation - named by content hash.

The file is safetensors; its name is the SHA-256 of its bytes and is checked at every load.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError

from . import configfile
from .config import Config, NetworkConfig
from .errors import ResumeError, StoreError
from .evaluator.choice import shapes_of
from .files import sha256, write_file
from .games import make, rules_identity
from .games.game import Game, title
from .networks import Network, build

FORMAT = 1
SHORT = 12
"""Hex digits of a hash that are shown to people."""


class Model(NamedTuple):
    """A network that plays one game, and its name."""

    hash: str
    """SHA-256 of the file's bytes, 64 hex digits."""
    network: Network
    game: Game


def encode(network: Network, game: Game) -> bytes:
    """Return the file's bytes; equal weights and meaning give equal bytes."""
    about = {
        "format": FORMAT,
        "game": game.name,
        "options": game.options,
        "rules_identity": rules_identity(game),
        "observation_version": game.observation.version,
        "network": configfile.to_plain(network.config),
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    # One metadata entry only: safetensors does not keep the order of several.
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))
    return safetensors.torch.save(tensors, {"zeroloop": text})


def save(network: Network, game: Game, folder: pathlib.Path) -> str:
    """Write the model into the folder under its hash and return the hash."""
    data = encode(network, game)
    name = sha256(data)
    path = folder / f"{name}.safetensors"
    if not path.exists():
        write_file(path, data)
    return name


def load(path: pathlib.Path, game: Game | None = None) -> Model:
    """Read a model; `game` is checked against it, or made: as its run says, which may name a user's file.

    Raises:
      StoreError: absent, damaged, or not a model.
      ResumeError: made for another game, other rules or another observation.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}).") from error
    name = sha256(data)
    named = path.stem.rpartition("-")[2]  # HASH, or GAME-HASH of a demo
    if len(named) == 64 and named != name:
        raise StoreError(
            f"{path} is damaged: its content has hash {name[:SHORT]}, its name says {named[:SHORT]}. "
            "Restore the file from a copy or use another model."
        )
    return decode(data, path, game)


def decode(data: bytes, path: pathlib.Path, game: Game | None = None) -> Model:
    """Read a model's bytes; `path` is what messages call it. Arguments and errors as for `load`."""
    name = sha256(data)
    about = _metadata(path, data)
    if game is None:
        game = make(_game_name(path) or about["game"], **about["options"])
    _check_meaning(path, about, game)
    network = build(configfile.build(NetworkConfig, about["network"], str(path)), shapes_of(game))
    try:
        network.load_state_dict(safetensors.torch.load(data))
    except (RuntimeError, SafetensorError) as error:
        raise StoreError(f"{path} does not hold the weights that it declares: {error}.") from error
    return Model(name, network.eval(), game)


def _game_name(path: pathlib.Path) -> str | None:
    """Return how the run around a model names its game, or None outside of runs."""
    stored = path.parent.parent / "config.yaml"
    if path.parent.name != "models" or not stored.exists():
        return None
    config = configfile.load(Config, configfile.Layer.from_file(stored))
    return config.game.name


_ABOUT: dict[str, type] = {
    "game": str,
    "options": dict,
    "rules_identity": str,
    "observation_version": int,
    "network": dict,
}


def _metadata(path: pathlib.Path, data: bytes) -> dict[str, Any]:
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        about: dict[str, Any] = dict(json.loads(header["__metadata__"]["zeroloop"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise StoreError(f"{path} is not a zeroloop model, or is damaged.") from error
    if about.get("format") != FORMAT:
        raise StoreError(f"{path} has model format {about.get('format')}; this zeroloop reads {FORMAT}.")
    for name, kind in _ABOUT.items():
        if type(about.get(name)) is not kind:
            raise StoreError(f"{path} is damaged: its '{name}' is no {kind.__name__}.")
    return about


def _check_meaning(path: pathlib.Path, about: dict[str, Any], game: Game) -> None:
    if about["game"] != game.name or about["options"] != game.options:
        raise ResumeError(
            f"{path} plays {title(about['game'], about['options'])}, not {game.id}; "
            "give a model of the same game, or leave out --game."
        )
    if about["observation_version"] != game.observation.version:
        raise ResumeError(
            f"{path} reads observation version {about['observation_version']} of {game.id}, "
            f"which offers version {game.observation.version}; train a new model."
        )
    if about["rules_identity"] != rules_identity(game):
        raise ResumeError(
            f"{path} was trained under rules {about['rules_identity']} of {game.id}, which are "
            f"{rules_identity(game)} here: the rules have changed. Train a new model, or use the old rules."
        )


def find(name: str) -> pathlib.Path | None:
    """Return the model file that a name means, or None.

    A name is a model file; a run directory (its champion), or `RUN:newest`; the first digits of a
    hash, looked for in `runs/*/models`; or `demo:GAME`, shipped with zeroloop.

    Raises:
      StoreError: a run without models, or digits that several models share.
    """
    if name.startswith("demo:"):
        return _demo(name.removeprefix("demo:"))
    path = pathlib.Path(name.removesuffix(":newest"))
    if path.is_dir():
        pointer = path / ("newest" if name.endswith(":newest") else "champion")
        if not pointer.exists():
            raise StoreError(f"{path} holds no model yet; train it first: zeroloop train GAME --run {path}.")
        return path / "models" / f"{read_pointer(pointer)}.safetensors"
    if path.is_file():
        return path
    if len(name) >= 6 and all(c in "0123456789abcdef" for c in name):
        found = sorted(
            {p.name: p for p in pathlib.Path("runs").glob(f"*/models/{name}*.safetensors")}.values()
        )
        if len(found) > 1:
            raise StoreError(f"'{name}' is the beginning of {len(found)} model hashes; give more digits.")
        return found[0] if found else None
    return None


def read_pointer(path: pathlib.Path) -> str:
    """Return the hash that a file such as RUN/champion holds; StoreError where it holds none."""
    try:
        name = path.read_bytes().decode("ascii", "replace").strip()
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}).") from error
    if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
        raise StoreError(
            f"{path} is damaged: it holds '{name[:20]}' and not the hash of a model, 64 hexadecimal digits. "
            f"Write the name of a file of {path.parent / 'models'} into it, without the ending."
        )
    return name


def _demo(game: str) -> pathlib.Path:
    folder = pathlib.Path(__file__).parent / "demo"
    found = sorted(p for p in folder.glob("*.safetensors") if p.name.split("-")[0] == game)
    if not found:
        known = ", ".join(sorted(p.name.split("-")[0] for p in folder.glob("*.safetensors"))) or "none"
        raise StoreError(f"there is no demo model of '{game}'; shipped: {known}.")
    return found[0]
