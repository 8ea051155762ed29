"""The bytes of an episode: round trips, plain refusals, and damage that never crashes."""

from __future__ import annotations

import dataclasses
import json
import struct

import numpy as np
import pytest

from tests.material import CUT_TREE, ORDERS, TICTACTOE, made_episode, played
from zeroloop.episode import FORMAT, MAGIC, Episode
from zeroloop.errors import StoreError

HEAD = struct.Struct("<4sHI")


@pytest.fixture(scope="module")
def episodes():
    return {game.name: (game, played(game, 12)) for game in (TICTACTOE, CUT_TREE)}


@pytest.fixture(scope="module")
def data(episodes):
    return episodes["cut_tree"][1][0].to_bytes()


def header_of(data):
    length = HEAD.unpack_from(data)[2]
    return json.loads(data[HEAD.size : HEAD.size + length]), data[HEAD.size + length :]


def with_header(data, text, version=FORMAT):
    """Return the bytes with this header (text, or a dictionary of changes; None drops a key)."""
    if isinstance(text, dict):
        header, _ = header_of(data)
        header |= text
        text = json.dumps({k: v for k, v in header.items() if v is not ...})
    raw = text.encode()
    return HEAD.pack(MAGIC, version, len(raw)) + raw + header_of(data)[1]


def assert_equal(a, b):
    for field in dataclasses.fields(Episode):
        mine, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other, err_msg=field.name)
        else:
            assert mine == other, field.name


@pytest.mark.parametrize("name", ["tictactoe", "cut_tree"])
def test_episode_comes_back_from_its_bytes(episodes, name):
    game, found = episodes[name]
    for episode in found:
        data = episode.to_bytes()
        back = Episode.from_bytes(data, game)
        assert_equal(episode, back)
        assert back.to_bytes() == data


def test_truncated_and_finished_games_both_come_back(episodes):
    game, found = episodes["cut_tree"]
    assert {e.truncated for e in found} == {True, False}
    for episode in found:
        back = Episode.from_bytes(episode.to_bytes(), game)
        assert back.truncated == episode.truncated == (episode.outcome < 0)
        assert back.plies == len(episode.action) and back.positions == episode.positions


def test_episode_without_any_policy_target_comes_back():
    episode = made_episode(ORDERS, [0, 1, 2])
    assert len(episode.policy_ids) == 0
    assert_equal(episode, Episode.from_bytes(episode.to_bytes(), ORDERS))


def test_bytes_begin_with_magic_and_format_version(data):
    assert data[:4] == b"ZLEP"
    assert struct.unpack_from("<H", data, 4)[0] == FORMAT


@pytest.mark.parametrize("bad", [b"", b"ZL", b"ZLEP", b"PELZ" + bytes(200)])
def test_other_bytes_are_refused(bad):
    with pytest.raises(StoreError, match=r"not an episode.*ZLEP\."):
        Episode.from_bytes(bad, TICTACTOE)


def test_wrong_magic_is_refused(data):
    with pytest.raises(StoreError, match="not an episode"):
        Episode.from_bytes(b"ZLEQ" + data[4:], CUT_TREE)


@pytest.mark.parametrize("version", [0, FORMAT + 1, 65535])
def test_other_format_version_is_refused_by_number(data, version):
    changed = data[:4] + struct.pack("<H", version) + data[6:]
    with pytest.raises(StoreError, match=rf"format {version}; this zeroloop reads format {FORMAT}\."):
        Episode.from_bytes(changed, CUT_TREE)


def test_episode_of_another_game_is_refused_by_name(data):
    with pytest.raises(StoreError, match="cut_tree was given to a run of tictactoe"):
        Episode.from_bytes(data, TICTACTOE)


def test_truncated_bytes_of_every_length_are_refused(data):
    for end in range(len(data)):
        with pytest.raises(StoreError, match=r"\.$"):
            Episode.from_bytes(data[:end], CUT_TREE)


@pytest.mark.parametrize("extra", [1, 2, 4, 1000])
def test_extra_bytes_are_refused_with_their_number(data, extra):
    with pytest.raises(StoreError, match=f"{extra} bytes too many"):
        Episode.from_bytes(data + bytes(extra), CUT_TREE)


@pytest.mark.parametrize(
    "change",
    [
        {"plies": -1},
        {"plies": 2.0},
        {"plies": "5"},
        {"plies": None},
        {"plies": True},
        {"plies": 2**62},
        {"plies": 10**30},
        {"plies": ...},
        {"policy_entries": -1},
        {"policy_entries": 2**63},
        {"policy_entries": [3]},
        {"policy_entries": ...},
        {"game": ...},
        {"game": ["cut_tree"]},
        {"seats": ...},
        {"seats": 5},
        {"seats": ["one"]},
        {"seats": ["a", "b", 3]},
        {"outcome": ...},
        {"outcome": "0"},
        {"outcome": 64},
        {"outcome": -2},
        {"game_id": ...},
        {"game_id": "x"},
        {"game_id": -1},
        {"seed": None},
        {"source": 3},
        {"rules_identity": None},
        {"observation_version": "1"},
    ],
    ids=str,
)
def test_damaged_header_is_refused(data, change):
    with pytest.raises(StoreError):
        Episode.from_bytes(with_header(data, change), CUT_TREE)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '"text"', "[" * 100_000, '{"game": "cut_tree"}', "NaN"]
)
def test_header_that_is_no_record_is_refused(data, text):
    with pytest.raises(StoreError):
        Episode.from_bytes(with_header(data, text), CUT_TREE)


def test_header_that_is_no_text_is_refused(data):
    with pytest.raises(StoreError, match="header"):
        Episode.from_bytes(HEAD.pack(MAGIC, FORMAT, 3) + b"\xff\xfe\x80" + bytes(50), CUT_TREE)


def at_array(episode, name):
    """Return where an array begins in the bytes; they follow the order of the fields."""
    order = ["final_value", "states", "action", "to_play", "policy_weight", "value_weight"]
    order += ["simulations", "root_value", "surprise", "offsets", "policy_ids", "policy_probs"]
    data = episode.to_bytes()
    sizes = {n: getattr(episode, n).nbytes for n in order}
    sizes["policy_ids"] //= 2  # two bytes where every action id fits
    assert sum(sizes.values()) == len(header_of(data)[1])
    start = len(data) - sum(sizes.values())
    return start + sum(sizes[n] for n in order[: order.index(name)])


@pytest.mark.parametrize(
    ("name", "kind", "place", "value"),
    [
        ("offsets", "<i4", 0, 1),
        ("offsets", "<i4", 0, -1),
        ("offsets", "<i4", 1, 1 << 30),
        ("offsets", "<i4", -1, 0),
        ("policy_ids", "<u2", 0, 1 << 15),
        ("action", "<i4", 1, -1),
        ("action", "<i4", 1, 1 << 20),
        ("to_play", "<i1", 0, 3),
        ("to_play", "<i1", 0, -3),
    ],
)
def test_arrays_that_would_lead_outside_of_others_are_refused(episodes, name, kind, place, value):
    """Compiled code indexes with them unchecked."""
    game, found = episodes["cut_tree"]
    episode = next(e for e in found if e.plies >= 2 and len(e.policy_ids))
    size, length = np.dtype(kind).itemsize, len(getattr(episode, name))
    if name == "action":  # chance outcomes have ids of their own
        place = int(np.flatnonzero(episode.to_play >= 0)[0])
    at = at_array(episode, name) + (place % length) * size
    data = bytearray(episode.to_bytes())
    data[at : at + size] = np.array([value], kind).tobytes()
    with pytest.raises(StoreError, match=name):
        Episode.from_bytes(bytes(data), game)


def test_random_damage_raises_nothing_but_store_errors(episodes):
    rng = np.random.default_rng(20)
    survivors = 0
    for game, found in episodes.values():
        for trial in range(3000):
            data = bytearray(found[trial % len(found)].to_bytes())
            header = HEAD.size + HEAD.unpack_from(data)[2]
            for _ in range(rng.integers(1, 4)):
                end = (HEAD.size, header, len(data))[rng.integers(3)]
                at = int(rng.integers(end))
                how = rng.integers(4)
                if how == 0:
                    data[at] ^= 1 << int(rng.integers(8))
                elif how == 1:
                    data[at] = int(rng.integers(256))
                elif how == 2:
                    del data[at : at + int(rng.integers(1, 9))]
                else:
                    data[at:at] = rng.bytes(int(rng.integers(1, 9)))
                if len(data) < 20:
                    break
            try:
                back = Episode.from_bytes(bytes(data), game)
            except StoreError as error:
                assert str(error).endswith(".")
                continue
            survivors += 1
            assert (np.diff(back.offsets) >= 0).all() and back.offsets[-1] == len(back.policy_ids)
            assert back.to_bytes()[:4] == b"ZLEP"
    assert survivors > 100  # damage in the middle of an array of floats is not visible


def test_reading_an_episode_never_writes_into_its_bytes(data):
    kept = bytes(data)
    episode = Episode.from_bytes(data, CUT_TREE)
    assert not episode.action.flags.writeable
    assert data == kept
