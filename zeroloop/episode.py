"""Episode: one finished game as arrays and as bytes. Knows its own format and nothing of stores.

Bytes: magic `ZLEP`, format version `u16`, header length `u32`, header as JSON, then the arrays in the
order of `_ARRAYS`, little-endian, without gaps. No pickle.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import StoreError
from .games.game import Game

FORMAT = 2
MAGIC = b"ZLEP"
_HEAD = struct.Struct("<4sHI")

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One game; T plies, P seats, chance and forced plies included with weight 0.

    `policy_ids[offsets[t]:offsets[t+1]]` are the actions of ply t with a target above 6e-5 and
    `policy_probs` their probabilities; a ply without a target has none.
    """

    game: str
    rules_identity: str
    observation_version: int
    seed: int
    game_id: int
    """Unique in its run: the key of all its random draws."""
    source: str
    """Where the episode comes from: `selfplay`, or `selfplay:PLAYER` with an opponent in a seat."""
    seats: tuple[str, ...]
    """Model hash or player name of each seat."""
    outcome: int
    """Row of the game's outcome table; -1 where the game was truncated."""
    final_value: Array
    """`f4 [P]`: points over the scale at the end; of a truncated game the last root value."""
    states: Array
    """`state_dtype [ceil(T / E)]`: before every E-th ply, E being the game's `keyframe_every`."""
    action: Array
    """`i4 [T]`."""
    to_play: Array
    """`i1 [T]`."""
    policy_weight: Array
    """`f4 [T]`: 0 for cheap searches and for players without a target."""
    value_weight: Array
    """`f4 [T]`."""
    simulations: Array
    """`i4 [T]`."""
    root_value: Array
    """`f4 [T, P]`: of the search; 0 where none was made."""
    surprise: Array
    """`f4 [T]`: KL of the policy target from the prior."""
    offsets: Array
    """`i4 [T + 1]`."""
    policy_ids: Array
    """`i4 [offsets[T]]`."""
    policy_probs: Array
    """`f2 [offsets[T]]`."""

    @property
    def plies(self) -> int:
        """T."""
        return len(self.action)

    @property
    def truncated(self) -> bool:
        """True where the game was cut at `max_plies` and has no outcome."""
        return self.outcome < 0

    @property
    def positions(self) -> int:
        """Plies that something can be learnt from."""
        return int(np.count_nonzero((self.policy_weight > 0) | (self.value_weight > 0)))

    def to_bytes(self) -> bytes:
        """Return the episode in the format of this module's page."""
        header = {
            "game": self.game,
            "rules_identity": self.rules_identity,
            "observation_version": self.observation_version,
            "seed": self.seed,
            "game_id": self.game_id,
            "source": self.source,
            "seats": list(self.seats),
            "outcome": self.outcome,
            "plies": self.plies,
            "policy_entries": len(self.policy_ids),
        }
        wide = bool((self.policy_ids > WIDEST).any())
        header["wide"] = wide
        text = json.dumps(header, separators=(",", ":")).encode()
        parts = [_HEAD.pack(MAGIC, FORMAT, len(text)), text]
        for name, dtype, _ in _ARRAYS:
            array = getattr(self, name)
            parts.append(np.ascontiguousarray(array, _kind(name, dtype, wide) or array.dtype).tobytes())
        return b"".join(parts)

    @staticmethod
    def from_bytes(data: bytes, game: Game) -> Episode:
        """Read an episode of this game.

        Raises:
          StoreError: not an episode, a newer format, another game, or a wrong length.
        """
        if len(data) < _HEAD.size or data[:4] != MAGIC:
            raise StoreError(f"these {len(data)} bytes are not an episode: they do not begin with ZLEP.")
        _, version, length = _HEAD.unpack_from(data)
        if version != FORMAT:
            raise StoreError(f"an episode has format {version}; this zeroloop reads format {FORMAT}.")
        header = _read_header(data[_HEAD.size : _HEAD.size + length], game)
        sizes = {
            "T": header["plies"],
            "F": -(-header["plies"] // game.keyframe_every),
            "T+1": header["plies"] + 1,
            "N": header["policy_entries"],
            "1": 1,
        }
        arrays, at = {}, _HEAD.size + length
        for name, dtype, shape in _ARRAYS:
            found = _kind(name, dtype, header["wide"])
            kind = np.dtype(found) if found else game.state_dtype
            dims = [game.num_players if d == "P" else sizes[d] for d in shape]
            count = math.prod(dims)
            if at + kind.itemsize * count > len(data):
                raise StoreError(f"an episode is cut short in its array '{name}'.")
            arrays[name] = np.frombuffer(data, kind, count, at).reshape(dims)
            at += kind.itemsize * count
        arrays["policy_ids"] = arrays["policy_ids"].astype(np.int32)
        if at != len(data):
            raise StoreError(f"an episode has {len(data) - at} bytes too many.")
        _check_indices(arrays, game)
        return Episode(
            game=header["game"],
            rules_identity=header["rules_identity"],
            observation_version=header["observation_version"],
            seed=header["seed"],
            game_id=header["game_id"],
            source=header["source"],
            seats=tuple(header["seats"]),
            outcome=header["outcome"],
            **arrays,
        )


_ARRAYS: tuple[tuple[str, str | None, tuple[str, ...]], ...] = (
    ("final_value", "<f4", ("P",)),
    ("states", None, ("F",)),
    ("action", "<i4", ("T",)),
    ("to_play", "i1", ("T",)),
    ("policy_weight", "<f4", ("T",)),
    ("value_weight", "<f4", ("T",)),
    ("simulations", "<i4", ("T",)),
    ("root_value", "<f4", ("T", "P")),
    ("surprise", "<f4", ("T",)),
    ("offsets", "<i4", ("T+1",)),
    ("policy_ids", "<i4", ("N",)),
    ("policy_probs", "<f2", ("N",)),
)

WIDEST = np.iinfo(np.uint16).max
"""The largest action id that is stored in two bytes."""


def _kind(name: str, dtype: str | None, wide: bool) -> str | None:
    """Return the dtype of an array in the bytes; action ids take two bytes where all of them fit."""
    return "<u2" if name == "policy_ids" and not wide else dtype


_HEADER: dict[str, type] = {
    "game": str,
    "rules_identity": str,
    "observation_version": int,
    "seed": int,
    "game_id": int,
    "source": str,
    "seats": list,
    "outcome": int,
    "plies": int,
    "policy_entries": int,
    "wide": bool,
}


def _read_header(text: bytes, game: Game) -> dict[str, Any]:
    """Return the header, whose every field is there, of its type and in its range."""
    try:
        header: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError("an episode's header is damaged: not JSON.") from error
    if not isinstance(header, dict):
        raise StoreError("an episode's header is damaged: not an object.")
    for name, kind in _HEADER.items():
        if type(header.get(name)) is not kind:
            raise StoreError(f"an episode's header is damaged: '{name}' is no {kind.__name__}.")
    if header["game"] != game.id:
        raise StoreError(f"an episode of {header['game']} was given to a run of {game.id}.")
    for name, low in (("plies", 0), ("policy_entries", 0), ("game_id", 0), ("outcome", -1)):
        if header[name] < low or (name == "outcome" and header[name] >= len(game.outcomes)):
            raise StoreError(f"an episode's header is damaged: '{name}' is {header[name]}.")
    seats = header["seats"]
    if len(seats) != game.num_players or not all(isinstance(seat, str) for seat in seats):
        raise StoreError(f"an episode's header is damaged: 'seats' is not {game.num_players} names.")
    return header


def _check_indices(arrays: dict[str, Array], game: Game) -> None:
    """Refuse what would lead outside of other arrays: compiled code indexes with these unchecked."""
    offsets, ids = arrays["offsets"], arrays["policy_ids"]
    if offsets[0] != 0 or offsets[-1] != len(ids) or (offsets[:-1] > offsets[1:]).any():
        raise StoreError(f"an episode's array 'offsets' is damaged: not ascending from 0 to {len(ids)}.")
    moves = arrays["action"][arrays["to_play"] >= 0]
    if ((moves < 0) | (moves >= game.num_actions)).any():
        raise StoreError(f"an episode's array 'action' is damaged: not all in 0..{game.num_actions - 1}.")
    for name, low, high in (("policy_ids", 0, game.num_actions), ("to_play", -1, game.num_players)):
        if ((arrays[name] < low) | (arrays[name] >= high)).any():
            raise StoreError(f"an episode's array '{name}' is damaged: not all in {low}..{high - 1}.")
