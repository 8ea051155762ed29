"""Models: named by the hash of their bytes, refused by a plain sentence where they do not fit."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.material import CONNECT4, CUT_TREE, TICTACTOE, changed_tictactoe
from zeroloop import model
from zeroloop.config import NetworkConfig
from zeroloop.errors import ResumeError, StoreError, ZeroloopError
from zeroloop.evaluator.choice import shapes_of
from zeroloop.networks import build

SMALL = NetworkConfig(blocks=1, channels=4, policy_channels=2, value_channels=2, value_hidden=4)


def network(seed=0, game=TICTACTOE, **options):
    return build(replace(SMALL, **options), shapes_of(game), seed)


@pytest.fixture
def stored(tmp_path):
    name = model.save(network(), TICTACTOE, tmp_path)
    return tmp_path / f"{name}.safetensors"


# --- names --------------------------------------------------------------------------------------


def test_name_is_the_sha256_of_the_file(tmp_path):
    name = model.save(network(), TICTACTOE, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == f"{name}.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == name
    assert model.load(path, TICTACTOE).hash == name


def test_equal_weights_give_equal_bytes():
    a, b = model.encode(network(3), TICTACTOE), model.encode(network(3), TICTACTOE)
    assert a == b
    assert model.encode(network(4), TICTACTOE) != a
    assert model.encode(network(3).to(memory_format=torch.channels_last), TICTACTOE) == a
    assert model.encode(network(3).eval(), TICTACTOE) == a


def test_bytes_do_not_depend_on_the_history_of_a_network():
    first, second = network(1), network(2)
    second.load_state_dict(first.state_dict())
    assert model.encode(first, TICTACTOE) == model.encode(second, TICTACTOE)


def test_meaning_is_part_of_the_name():
    plain = model.encode(network(), TICTACTOE)
    assert model.encode(network(), changed_tictactoe(version=2)) != plain
    other = changed_tictactoe(observation=TICTACTOE.observation._replace(version=2))
    assert model.encode(network(), other) != plain


def test_saving_again_leaves_the_file_alone(stored):
    before = os.stat(stored).st_mtime_ns
    assert model.save(network(), TICTACTOE, stored.parent) == stored.stem
    assert os.stat(stored).st_mtime_ns == before and len(list(stored.parent.iterdir())) == 1


# --- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game", "options"),
    [
        (TICTACTOE, {}),
        (TICTACTOE, {"norm": "batch", "heads": ("reply",), "squeeze_excitation": True}),
        (CONNECT4, {"blocks": 2, "global_pooling": True}),
        (CUT_TREE, {"kind": "mlp"}),
    ],
    ids=["plain", "options", "connect4", "mlp"],
)
def test_loaded_network_is_the_saved_one(tmp_path, game, options):
    saved = network(5, game, **options)
    name = model.save(saved, game, tmp_path)
    loaded = model.load(tmp_path / f"{name}.safetensors", game)
    assert loaded.game is game and loaded.network.config == saved.config
    assert not loaded.network.training
    theirs = loaded.network.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in saved.state_dict().items())
    assert model.encode(loaded.network, game) == model.encode(saved, game)


def test_game_is_made_from_the_model_where_none_is_given(stored):
    assert model.load(stored).game is TICTACTOE


# --- damage -------------------------------------------------------------------------------------


def test_damage_of_any_byte_is_detected(stored):
    data = stored.read_bytes()
    rng = np.random.default_rng(3)
    for at in [0, 7, 8, 9, len(data) - 1, *rng.integers(0, len(data), 200).tolist()]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        stored.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"is damaged: its content has hash"):
            model.load(stored, TICTACTOE)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_truncated_model_is_detected(stored, keep):
    stored.write_bytes(stored.read_bytes()[:keep])
    with pytest.raises(StoreError, match="is damaged"):
        model.load(stored, TICTACTOE)


def test_absent_model_is_told(tmp_path):
    with pytest.raises(StoreError, match=r"none\.safetensors cannot be read \(No such file"):
        model.load(tmp_path / "none.safetensors", TICTACTOE)


def test_renamed_model_loads_under_its_real_hash(stored):
    path = stored.with_name("best.safetensors")
    stored.rename(path)
    assert model.load(path, TICTACTOE).hash == stored.stem


def test_random_damage_of_a_renamed_model_raises_nothing_but_plain_errors(stored):
    """Without a hash in the name only the header can tell; it never crashes."""
    data = stored.read_bytes()
    path = stored.with_name("best.safetensors")
    header = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(4)
    for trial in range(600):
        damaged = bytearray(data)
        for _ in range(int(rng.integers(1, 3))):
            at = int(rng.integers(header if trial % 4 else len(damaged)))
            if rng.integers(2):
                damaged[at] ^= 1 << int(rng.integers(8))
            else:
                del damaged[at : at + int(rng.integers(1, 30))]
        path.write_bytes(damaged)
        try:
            model.load(path, TICTACTOE)
        except ZeroloopError:
            continue


def with_metadata(data, changes):
    """Return the model's bytes with keys of its metadata changed; ... drops one."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if isinstance(changes, dict):
        about = json.loads(header["__metadata__"]["zeroloop"]) | changes
        changes = json.dumps({k: v for k, v in about.items() if v is not ...})
    header["__metadata__"]["zeroloop"] = changes
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    "changes",
    [
        "",
        "[]",
        "7",
        "{}",
        *(
            {key: ...}
            for key in ("format", "game", "options", "rules_identity", "observation_version", "network")
        ),
    ],
    ids=str,
)
def test_metadata_that_is_not_whole_is_refused(stored, changes):
    path = stored.with_name("best.safetensors")
    path.write_bytes(with_metadata(stored.read_bytes(), changes))
    for game in (TICTACTOE, None):
        with pytest.raises(StoreError, match=r"best\.safetensors.*\.$"):
            model.load(path, game)


def test_newer_format_is_refused_by_number(stored):
    path = stored.with_name("best.safetensors")
    path.write_bytes(with_metadata(stored.read_bytes(), {"format": 9}))
    with pytest.raises(StoreError, match=r"model format 9; this zeroloop reads 1\."):
        model.load(path, TICTACTOE)


def test_weights_that_do_not_fit_their_network_are_refused(stored):
    path = stored.with_name("best.safetensors")
    path.write_bytes(with_metadata(stored.read_bytes(), {"network": {"channels": 5}}))
    with pytest.raises(StoreError, match="does not hold the weights that it declares"):
        model.load(path, TICTACTOE)


def test_other_files_are_refused(tmp_path):
    for name, data in (("a", b""), ("b", b"text\n"), ("c", bytes(100)), ("d", b"\xff" * 100)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(StoreError, match="is not a zeroloop model, or is damaged"):
            model.load(tmp_path / name, TICTACTOE)


# --- meaning ------------------------------------------------------------------------------------


def test_model_of_another_game_is_refused(stored):
    with pytest.raises(ResumeError, match=r"plays tictactoe, not connect4; give a model of the same"):
        model.load(stored, CONNECT4)


def test_model_of_other_options_is_refused(stored):
    with pytest.raises(ResumeError, match=r"not tictactoe\(size=3\)"):
        model.load(stored, changed_tictactoe(options={"size": 3}))


def test_model_of_another_observation_is_refused(stored):
    game = changed_tictactoe(observation=TICTACTOE.observation._replace(version=2))
    with pytest.raises(ResumeError, match=r"reads observation version 1 .* offers version 2; train"):
        model.load(stored, game)


def test_model_of_changed_rules_is_refused(stored):
    def to_play(state):
        return -2 if state.plies == 8 else state.plies & 1

    def outcome(state):
        return 2

    game = changed_tictactoe(rules={**TICTACTOE.rules, "to_play": to_play, "outcome": outcome})
    with pytest.raises(ResumeError, match=r"was trained under rules \w{16} .* the rules have changed"):
        model.load(stored, game)


# --- finding ------------------------------------------------------------------------------------


def test_models_are_found_by_file_run_and_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "runs" / "one" / "models"
    models.mkdir(parents=True)
    names = [model.save(network(seed), TICTACTOE, models) for seed in (1, 2)]
    with pytest.raises(StoreError, match="holds no model yet"):
        model.find("runs/one")
    (models.parent / "champion").write_text(names[0])
    (models.parent / "newest").write_text(names[1])
    assert model.find("runs/one").stem == names[0]
    assert model.find("runs/one:newest").stem == names[1]
    assert model.find(str(models / f"{names[1]}.safetensors")).stem == names[1]
    assert model.find(names[1][:8]).stem == names[1]
    assert model.find("0" * 20) is None and model.find("no such thing") is None


def test_unknown_demo_is_refused_with_what_is_shipped():
    with pytest.raises(StoreError, match="no demo model of 'nim'; shipped: "):
        model.find("demo:nim")


def test_demo_is_small_named_by_its_hash_and_plays():
    path = model.find("demo:connect4")
    assert path.stat().st_size < 2 * 10**6
    loaded = model.load(path)
    assert path.stem == f"connect4-{loaded.hash}"
    assert loaded.game.id == CONNECT4.id


def test_damaged_demo_is_refused(tmp_path):
    path = model.find("demo:connect4")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    copy = tmp_path / path.name
    copy.write_bytes(data)
    with pytest.raises(StoreError, match="is damaged"):
        model.load(copy)
