"""A run directory: atomic writes, one process at a time, checkpoints that are whole or named as damaged."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from tests.material import TICTACTOE, small_config
from zeroloop import files
from zeroloop.config import BudgetConfig, GameConfig
from zeroloop.errors import ResumeError, StoreError
from zeroloop.evaluator.choice import shapes_of
from zeroloop.files import DirectoryLock, pack, sha256, unpack, write_directory, write_file
from zeroloop.networks import build
from zeroloop.run import (
    VOLATILE,
    Checkpoint,
    Run,
    checkpoint_names,
    read_checkpoint,
    read_json,
    stored_config,
)

NESTED = np.dtype([("key", "u8"), ("value", "f4", (3,)), ("flag", "i1"), ("moves", "i2", (2, 2))])


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens runs, which are closed at the end of the test."""
    made = []

    def open_run(config=None, name="run"):
        made.append(Run.open(tmp_path / name, config or small_config()))
        return made[-1]

    yield open_run
    for run in made:
        run.close()


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    nested = np.zeros((4, 3), np.dtype((np.record, NESTED)))
    nested["key"] = rng.integers(0, 2**63, (4, 3))
    nested["value"] = rng.random((4, 3, 3))
    nested["moves"] = rng.integers(-9, 9, (4, 3, 2, 2))
    states = TICTACTOE.states(5)
    states["stones"] = rng.integers(0, 511, (5, 2))
    return {
        "nested": nested,
        "states": states,
        "plain": rng.integers(0, 99, (2, 0, 3)),
        "bytes": rng.integers(0, 255, 7).astype(np.uint8),
        "one": np.float32(rng.random(1)),
        "tree.nodes": rng.random((2, 2)).astype(np.float16),
    }


def checkpoint(iteration=1, groups=2):
    random = torch.Generator().manual_seed(iteration)
    learner = {
        "weights.a": torch.randn(3, 4, generator=random),
        "steps": torch.tensor(7 * iteration),
        "half": torch.randn(2, generator=random).bfloat16(),
    }
    state = {"iteration": iteration, "phase": "collect", "quotas": [1, 2], "champion": "abc"}
    return Checkpoint(state, learner, [arrays(10 * iteration + i) for i in range(groups)])


def assert_same(a, b):
    assert a.state == b.state
    assert a.learner.keys() == b.learner.keys()
    assert all(torch.equal(v, b.learner[k]) for k, v in a.learner.items())
    assert len(a.groups) == len(b.groups)
    for mine, other in zip(a.groups, b.groups, strict=True):
        assert mine.keys() == other.keys()
        for name, array in mine.items():
            assert array.shape == other[name].shape
            into = np.zeros_like(array)
            into[...] = other[name]  # as a resumed run does
            assert into.tobytes() == array.tobytes(), name


class NoSpace:
    """Makes a function of `os` fail as on a full disk, from its n-th call on."""

    def __init__(self, monkeypatch, name, after=0):
        self.calls, real = 0, getattr(os, name)

        def fail(*args, **kwargs):
            self.calls += 1
            if self.calls > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        monkeypatch.setattr(files.os, name, fail)


# --- files --------------------------------------------------------------------------------------


def test_written_file_has_its_bytes_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    for data in (b"first", b"", b"third" * 1000):
        write_file(path, data)
        assert path.read_bytes() == data and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_leaves_the_old_content_and_says_so(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_file(path, b"old")
    NoSpace(monkeypatch, step)
    with pytest.raises(StoreError, match=r"file could not be written \(No space left.*unharmed"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_write_into_an_absent_folder_is_told(tmp_path):
    with pytest.raises(StoreError, match="could not be written"):
        write_file(tmp_path / "absent" / "file", b"new")


def test_directory_is_whole_or_absent(tmp_path, monkeypatch):
    def fill(folder):
        (folder / "a").write_bytes(b"1")
        (folder / "b").write_bytes(b"2")

    write_directory(tmp_path / "one", fill)
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["a", "b"]
    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            NoSpace(patch, step)
            with pytest.raises(StoreError, match=r"two could not be written \(No space left"):
                write_directory(tmp_path / "two", fill)
        assert [p.name for p in tmp_path.iterdir()] == ["one"]

    def full(folder):
        (folder / "a").write_bytes(b"1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match="two could not be written"):
        write_directory(tmp_path / "two", full)
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_remains_of_a_killed_process_with_the_same_number_do_not_matter(tmp_path):
    """Process numbers repeat, in containers at every start."""
    (tmp_path / f".one.{os.getpid()}.tmp").mkdir()
    (tmp_path / f".one.{os.getpid()}.tmp" / "old").write_bytes(b"half")
    write_directory(tmp_path / "one", lambda folder: (folder / "a").write_bytes(b"1") and None)
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["a"]


def test_arrays_come_back_from_their_bytes_without_pickle():
    given = arrays()
    data = pack(given)
    found = unpack(data)
    assert_same(Checkpoint({}, {}, [given]), Checkpoint({}, {}, [found]))
    assert pack(found).find(b"pickle") == -1
    assert pack({}) and unpack(pack({})) == {}
    with pytest.raises(ValueError, match="Object arrays"):
        pack({"object": np.array([{}], object)})


# --- the lock -----------------------------------------------------------------------------------

HOLD = """
import pathlib, sys
from zeroloop.files import DirectoryLock
lock = DirectoryLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_directory_belongs_to_one_process_at_a_time(tmp_path):
    lock = DirectoryLock(tmp_path)
    with pytest.raises(ResumeError, match=f"is in use by process {os.getpid()}; .*another --run"):
        DirectoryLock(tmp_path)
    lock.release()
    DirectoryLock(tmp_path).release()


def test_lock_of_another_process_is_refused_by_its_number_and_ends_with_it(tmp_path):
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert held.stdout.readline() == b"held\n"
        with pytest.raises(ResumeError, match=f"is in use by process {held.pid};"):
            DirectoryLock(tmp_path)
    finally:
        held.kill()
        held.communicate()
    DirectoryLock(tmp_path).release()


# --- opening ------------------------------------------------------------------------------------


def test_new_run_holds_its_configuration_and_identity(opened, tmp_path):
    config = small_config()
    run = opened(config)
    assert stored_config(run.folder) == config
    about = read_json(run.folder / "run.json")
    assert about["game"] == "tictactoe" and len(about["rules_identity"]) == 16
    assert set(about["versions"]) == {"zeroloop", "torch", "numpy", "numba"}
    assert run.restore() is None and run.champion == ""
    run.close()
    opened(config)


def test_second_opening_is_refused_while_the_first_lives(opened):
    opened()
    with pytest.raises(ResumeError, match="is in use by"):
        opened()


def test_refused_opening_lets_go_of_the_directory(opened, tmp_path):
    opened().close()
    with pytest.raises(ResumeError):
        opened(small_config(run={"seed": 8}))
    opened()


def test_directory_with_other_things_is_refused(opened, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(ResumeError, match=r"is not a run and not empty \(it holds thesis\.txt\)"):
        opened()
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_configuration_of_somebody_else_is_not_overwritten(opened, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("game:\n  name: connect4\n")
    with pytest.raises(ResumeError, match=r"is not a run and not empty \(it holds config\.yaml\)"):
        opened()
    assert (tmp_path / "run" / "config.yaml").read_text() == "game:\n  name: connect4\n"


@pytest.mark.parametrize("calls", [0, 1])
def test_run_whose_making_was_killed_is_made_again(opened, tmp_path, monkeypatch, calls):
    """Between any two files, and in the middle of one, which leaves a temporary file."""
    made = [0]

    def killed(source, target):
        made[0] += 1
        if made[0] > calls:
            raise KeyboardInterrupt
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            opened()
    assert not (tmp_path / "run" / "run.json").exists()
    assert any(p.name.endswith(".tmp") for p in (tmp_path / "run").iterdir())
    run = opened()
    assert stored_config(run.folder) == run.config


def test_run_of_another_game_is_refused(opened):
    opened().close()
    with pytest.raises(ResumeError, match=r"is a run of tictactoe, not of connect4; give another --run"):
        opened(small_config("connect4"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"run": {"seed": 8}}, r"with run\.seed=7, not 8"),
        ({"network": {"channels": 9}}, r"with network\.channels=8, not 9"),
        ({"learn": {"reuse": 4.0}}, r"with learn\.reuse=3\.0, not 4\.0"),
    ],
)
def test_changed_configuration_is_refused_by_its_key(opened, changes, told):
    opened().close()
    with pytest.raises(ResumeError, match=told):
        opened(small_config(**changes))


def test_budget_and_checkpoints_may_change_and_are_kept_once_the_run_goes_on(opened):
    opened().close()
    config = replace(
        small_config(run={"keep_checkpoints": 5, "checkpoint_iterations": 1}),
        budget=BudgetConfig(positions=5, minutes=3.0),
    )
    run = opened(config)
    assert stored_config(run.folder) == small_config()  # it may still turn out that it cannot go on so
    run.keep_config()
    assert stored_config(run.folder) == config


def test_how_a_run_is_measured_may_change(opened):
    opened().close()
    opened(small_config(evaluate={"opponents": {"random": 6}}, promote={"max_pairs": 9}))


def test_deterministic_run_goes_on_with_its_versions_only(opened, tmp_path):
    given = small_config(run={"deterministic": True})
    run = opened(given)
    run.close()
    path = run.folder / "run.json"
    about = read_json(path)
    about["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(about))
    with pytest.raises(ResumeError, match=r"started with torch 1\.0, which is .* here"):
        opened(given)


@pytest.mark.parametrize(
    ("key", "value"), [("rules_identity", "0123456789abcdef"), ("observation_version", 7)]
)
def test_changed_rules_are_refused(opened, tmp_path, key, value):
    opened().close()
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ResumeError, match=rf"was started with {key} {value} .* the rules have changed"):
        opened()


@pytest.mark.parametrize("text", ["{", "", "[]", "{}", '{"game": "tictactoe"}'])
def test_damaged_run_file_is_named(opened, tmp_path, text):
    opened().close()
    (tmp_path / "run" / "run.json").write_text(text)
    with pytest.raises(StoreError, match=r"run\.json is damaged"):
        opened()


def test_run_without_its_configuration_is_refused(opened, tmp_path):
    opened().close()
    (tmp_path / "run" / "config.yaml").unlink()
    with pytest.raises(StoreError, match=r"is not a run: it has no config\.yaml"):
        opened()


def test_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be made"):
        Run.open(tmp_path / "file" / "run", small_config())


def test_unknown_game_leaves_no_lock(tmp_path):
    config = replace(small_config(), game=GameConfig(name="no_such_game"))
    with pytest.raises(Exception, match="no_such_game"):
        Run.open(tmp_path / "run", config)
    Run.open(tmp_path / "run", small_config()).close()


# --- models -------------------------------------------------------------------------------------


def test_models_of_a_run_are_named_and_pointed_at(opened):
    run = opened()
    names = [run.save_model(build(run.config.network, shapes_of(TICTACTOE), s)) for s in (1, 2)]
    assert (run.folder / "newest").read_text() == names[1]
    run.champion = names[0]
    assert run.champion == names[0]
    assert run.load_model(names[0]).hash == names[0]
    run.close()
    assert opened().champion == names[0]


# --- checkpoints --------------------------------------------------------------------------------


def test_checkpoint_comes_back_with_structured_arrays(opened):
    run = opened()
    given = checkpoint(3)
    run.checkpoint(given)
    assert_same(given, run.restore())
    run.close()
    assert_same(given, opened().restore())


def test_checkpoint_with_many_groups_keeps_their_order(opened):
    run = opened()
    given = checkpoint(1, groups=12)
    run.checkpoint(given)
    assert_same(given, run.restore())


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_last_checkpoints_are_kept(opened, keep):
    run = opened(small_config(run={"keep_checkpoints": keep}))
    for iteration in range(1, 6):
        run.checkpoint(checkpoint(iteration))
        kept = checkpoint_names(run.folder)
        assert [int(name) for name in kept] == list(range(1, iteration + 1))[-keep:]
        assert_same(checkpoint(iteration), run.restore())
    assert len(list((run.folder / "checkpoints").iterdir())) == keep


def test_checkpoints_are_ordered_by_number_beyond_nine(opened):
    run = opened()
    for iteration in (9, 10, 11, 100):
        run.checkpoint(checkpoint(iteration))
    assert run.restore().state["iteration"] == 100


def test_checkpoint_of_the_same_iteration_replaces_the_earlier(opened):
    """A run that is interrupted twice in one iteration writes two."""
    run = opened()
    run.checkpoint(checkpoint(4))
    later = checkpoint(4)._replace(groups=[arrays(77)])
    run.checkpoint(later)
    assert_same(later, run.restore())
    assert len(list((run.folder / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize("iteration", [4, 5])
@pytest.mark.parametrize(("step", "after"), [("fsync", 0), ("fsync", 2), ("replace", 0), ("replace", 1)])
def test_full_disk_leaves_earlier_checkpoints_unharmed(opened, monkeypatch, iteration, step, after):
    """Also the one of the same iteration, which may be the only one."""
    run = opened(small_config(run={"keep_checkpoints": 1}))
    run.checkpoint(checkpoint(4))
    with monkeypatch.context() as patch:
        NoSpace(patch, step, after if iteration == 4 else 0)
        with pytest.raises(StoreError, match=r"could not be written \(No space left.*unharmed"):
            run.checkpoint(checkpoint(iteration)._replace(groups=[arrays(77)]))
    assert_same(checkpoint(4), run.restore())
    run.checkpoint(checkpoint(6))
    assert_same(checkpoint(6), run.restore())
    assert len(list((run.folder / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize("file", ["learner.safetensors", "games-0.npz", "games-1.npz", "state.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_damaged_file_of_a_checkpoint_is_named_with_what_to_do(opened, file, how):
    run = opened()
    run.checkpoint(checkpoint(1))
    run.checkpoint(checkpoint(2))
    path = run.folder / "checkpoints" / "00000002" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if how == "flip" else data[:-1])
    if how == "remove":
        path.unlink()
    with pytest.raises(StoreError, match=rf"{file} is damaged.*go on from checkpoint 00000001") as caught:
        run.restore()
    assert str(caught.value).endswith(".")
    assert_same(checkpoint(1), read_checkpoint(run.folder, "00000001"))


def test_damage_of_the_only_checkpoint_names_no_other(opened):
    run = opened()
    run.checkpoint(checkpoint(1))
    (run.folder / "checkpoints" / "00000001" / "state.json").write_text("{}")
    with pytest.raises(StoreError, match=r"state\.json is damaged.*Restore it from a copy\.$"):
        run.restore()


def test_damage_of_any_byte_of_the_manifest_is_detected(opened):
    run = opened()
    run.checkpoint(checkpoint(1))
    path = run.folder / "checkpoints" / "00000001" / "manifest.json"
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(7))
        path.write_bytes(damaged)
        if json_equal(data, damaged):
            continue
        with pytest.raises(StoreError, match="00000001"):
            run.restore()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
            run.restore()


def json_equal(a, b):
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


@pytest.mark.parametrize("text", ["[]", "7", '{"format": 1}', '{"format": 1, "sha256": []}'])
def test_manifest_that_is_none_is_refused(opened, text):
    run = opened()
    run.checkpoint(checkpoint(1))
    (run.folder / "checkpoints" / "00000001" / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
        run.restore()


def test_newer_checkpoint_format_is_refused_by_number(opened):
    run = opened()
    run.checkpoint(checkpoint(1))
    path = run.folder / "checkpoints" / "00000001" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(StoreError, match="checkpoint format 2; this zeroloop reads 1"):
        run.restore()


def test_unfinished_checkpoint_of_a_killed_process_is_not_read(opened):
    run = opened()
    run.checkpoint(checkpoint(1))
    (run.folder / "checkpoints" / ".00000002.123.tmp").mkdir()
    assert checkpoint_names(run.folder) == ["00000001"]
    assert_same(checkpoint(1), run.restore())


@pytest.mark.parametrize("after", [0, 1])
def test_checkpoint_survives_a_kill_while_another_of_its_iteration_takes_its_place(
    opened, monkeypatch, after
):
    """Either the earlier or the later one is there afterwards, whole."""
    run = opened(small_config(run={"keep_checkpoints": 1}))
    run.checkpoint(checkpoint(4))
    made = [0]

    def killed(source, target):
        made[0] += 1
        if made[0] > after:
            raise KeyboardInterrupt
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run.checkpoint(checkpoint(4)._replace(groups=[arrays(77)]))
    run.close()
    run = opened(small_config(run={"keep_checkpoints": 1}))
    assert_same(checkpoint(4), run.restore())
    assert [p.name for p in (run.folder / "checkpoints").iterdir()] == ["00000004"]


def test_json_that_is_absent_or_damaged_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"none\.json cannot be read"):
        read_json(tmp_path / "none.json")
    for data in (b"", b"{", b"\xff\xfe"):
        (tmp_path / "bad.json").write_bytes(data)
        with pytest.raises(StoreError, match=r"bad\.json is damaged"):
            read_json(tmp_path / "bad.json")


def test_hash_is_sha256_in_hex():
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_folders_may_have_any_name(tmp_path):
    folder = pathlib.Path(tmp_path / "ein Lauf (1) [neu] %")
    run = Run.open(folder, small_config())
    run.checkpoint(checkpoint(1))
    assert_same(checkpoint(1), run.restore())
    run.close()


def test_a_run_that_is_older_than_a_key_goes_on_with_its_default(opened, tmp_path):
    opened().close()
    config, about = tmp_path / "run" / "config.yaml", tmp_path / "run" / "run.json"
    plain = yaml.safe_load(config.read_text())
    del plain["selfplay"]["hard_positions"]
    fixed = {
        f"{section}.{key}": value
        for section, keys in plain.items()
        for key, value in keys.items()
        if not f"{section}.{key}".startswith(VOLATILE)
    }
    digest = sha256(json.dumps(fixed, sort_keys=True).encode())
    about.write_text(json.dumps(json.loads(about.read_text()) | {"config_hash": digest}))
    config.write_text(yaml.safe_dump(plain))
    opened().close()
    plain["selfplay"]["games"] += 1
    config.write_text(yaml.safe_dump(plain))
    with pytest.raises(ResumeError, match="not what the run was started with"):
        opened()
