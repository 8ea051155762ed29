"""A run directory that somebody has edited, moved or damaged: one sentence each, and nothing lost."""

from __future__ import annotations

import shutil

import pytest

from tests.material import TICTACTOE, changed_tictactoe, run_config, session, small_config
from zeroloop import model
from zeroloop.errors import BackendError, GameError, ResumeError, StoreError
from zeroloop.evaluator.choice import choose
from zeroloop.files import DirectoryLock
from zeroloop.games import make
from zeroloop.run import Run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger") / "run"
    session(folder, run_config(run={"checkpoint_iterations": 1}))
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def resume(folder):
    return session(folder, run_config(run={"checkpoint_iterations": 1}, budget={"positions": 1200}))


@pytest.mark.slow
def test_unharmed_copy_goes_on(run):
    assert resume(run)[0].finished


@pytest.mark.parametrize(("old", "new"), [("seed: 7", "seed: 77"), ("c_puct: 1.5", "c_puct: 9.5")])
def test_edited_configuration_is_refused(run, old, new):
    path = run / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ResumeError, match=r"config\.yaml is not what the run was started with"):
        resume(run)


def test_lost_checkpoints_do_not_begin_the_run_again(run):
    before = (run / "matches.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(StoreError, match="holds no checkpoint, but the run had reached iteration"):
        resume(run)
    assert (run / "matches.jsonl").read_bytes() == before


@pytest.mark.parametrize("cut", ["removed", "short"])
def test_lost_games_are_told_and_not_taken_for_a_torn_tail(run, cut):
    path = run / "episodes.log"
    data = path.read_bytes()
    path.write_bytes(b"" if cut == "removed" else data[:-700])
    with pytest.raises(StoreError, match=r"episodes\.log has \d+ bytes, but its checkpoint counts on"):
        resume(run)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
def test_damaged_pointer_is_named(run, content):
    (run / "champion").write_bytes(content)
    with pytest.raises(StoreError, match=r"champion is damaged: .*64 hexadecimal digits"):
        model.find(str(run))


def test_directory_that_cannot_be_locked_is_told(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(StoreError, match="lock cannot be written"):
        DirectoryLock(tmp_path)


def test_absent_device_is_refused_by_name():
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="run.device is cuda"):
            choose("cuda")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "../evil name"}, "name is '../evil name'"),
        ({"num_symmetries": 0}, "num_symmetries is 0"),
        ({"num_players": "2"}, "num_players is '2'"),
        ({"outcomes": [[float("nan"), 1], [1, 0]]}, "points must be finite"),
        ({"outcomes": [[0, 0], [0, 0]]}, "not all equal"),
        ({"observation": TICTACTOE.observation._replace(planes=(1, 3))}, "planes is"),
        ({"observation": TICTACTOE.observation._replace(planes=(-1, 3, 3))}, "planes is"),
    ],
)
def test_facts_that_cannot_be_are_told_when_the_game_is_made(changes, told):
    changed_tictactoe()
    with pytest.raises(GameError, match=told):
        changed_tictactoe(**changes)


def test_what_a_game_file_prints_stays_off_standard_output(tmp_path, capsys):
    path = tmp_path / "loud.py"
    path.write_text("print('hello')\nfrom zeroloop.games.tictactoe import GAME\n")
    assert make(str(path)).name == "tictactoe"
    found = capsys.readouterr()
    assert found.out == "" and "hello" in found.err


def test_failure_in_a_game_files_make_names_its_line(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def make(size=3):\n    return [0][size]\n")
    with pytest.raises(GameError, match=r"broken\.py:2: .*IndexError"):
        make(str(path), size=7)


@pytest.mark.slow
def test_run_directory_is_free_again_after_a_refusal(run):
    with pytest.raises(ResumeError):
        Run.open(run, small_config(run={"seed": 1}))
    resume(run)
