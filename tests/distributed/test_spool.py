"""The spool: a finished game is kept, whatever is killed and whenever, and one worker sends it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from zeroloop.distributed import spool as module
from zeroloop.distributed.spool import Spool
from zeroloop.errors import StoreError
from zeroloop.replay.log import EpisodeLog


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART_GAMES", 4)


def data(i):
    return b"game %d " % i + random.Random(i).randbytes(5 + i % 7)


def filled(root, count):
    """Return a spool with so many games in it."""
    spool = Spool.make(root)
    for i in range(1, count + 1):
        assert spool.add(data(i), i) == i
    return spool


def held(spool):
    """Return the numbers of the games that wait, whose content is checked."""
    first, games, positions = spool.after(0, 10_000)
    numbers = list(range(first, first + len(games)))
    assert games == [data(i) for i in numbers] and positions == numbers
    return numbers


def test_games_are_numbered_from_1_and_handed_out_in_order(tmp_path):
    spool = filled(tmp_path, 11)
    assert (spool.last, spool.waiting, spool.safe) == (11, 11, 0)
    assert spool.after(0, 3) == (1, [data(1), data(2), data(3)], [1, 2, 3])
    assert spool.after(9, 64) == (10, [data(10), data(11)], [10, 11])
    assert spool.after(11, 64) == (12, [], [])
    spool.close()


def test_a_spool_is_whole_after_its_worker_is_gone(tmp_path):
    spool = filled(tmp_path, 11)
    who = spool.number, spool.token
    spool.close()
    (found,) = Spool.adopt(tmp_path)
    assert (found.number, found.token) == who and held(found) == list(range(1, 12))
    assert (found.last, found.torn) == (11, 0)
    found.close()


def test_cut_at_any_byte_a_spool_keeps_every_game_that_was_whole(tmp_path):
    spool = filled(tmp_path / "whole", 7)
    sizes = [0]
    for i in (5, 6, 7):
        sizes.append(sizes[-1] + 8 + 4 + len(data(i)))
    spool.close()
    last = spool.folder / "00000005.log"
    assert last.stat().st_size == sizes[-1]
    for size in range(sizes[-1] + 1):
        root = tmp_path / "cut"
        shutil.copytree(tmp_path / "whole", root)
        os.truncate(root / spool.folder.name / last.name, size)
        (found,) = Spool.adopt(root)
        whole = sum(size >= s for s in sizes[1:])
        assert held(found) == list(range(1, 5 + whole)), f"cut at {size}"
        assert found.torn == size - sizes[whole]
        found.close()
        shutil.rmtree(root)


def test_damage_before_the_end_is_an_error_and_no_loss_in_silence(tmp_path):
    spool = filled(tmp_path, 3)
    spool.close()
    path = spool.folder / "00000001.log"
    content = bytearray(path.read_bytes())
    content[12] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"{path}, .* is damaged; restore .*move {spool.folder} away"):
        Spool.adopt(tmp_path)


def test_parts_are_deleted_only_when_all_their_games_are_safe(tmp_path):
    spool = filled(tmp_path, 11)

    def parts():
        return sorted(int(p.stem) for p in spool.folder.glob("*.log"))

    assert parts() == [1, 5, 9]
    for safe, left in ((3, [1, 5, 9]), (4, [5, 9]), (7, [5, 9]), (2, [5, 9]), (8, [9]), (11, [9])):
        spool.release(safe)
        assert parts() == left, f"safe up to {safe}"
        assert spool.waiting == 11 - spool.safe
    assert spool.safe == 11
    spool.release(99)
    assert spool.safe == 11, "no game beyond the last is safe"
    assert spool.add(data(12), 12) == 12 and held(spool) == [12]
    spool.close()


@pytest.mark.parametrize("safe", range(12))
def test_a_killed_spool_offers_again_at_least_what_is_not_safe(tmp_path, safe):
    spool = filled(tmp_path, 11)
    spool.release(safe)
    spool.close()
    (found,) = Spool.adopt(tmp_path)
    numbers = held(found)
    assert set(range(safe + 1, 12)) <= set(numbers) and numbers[-1] == 11
    assert found.safe == numbers[0] - 1
    found.close()


def test_what_is_not_kept_any_more_is_not_given_a_wrong_number(tmp_path):
    spool = filled(tmp_path, 6)
    spool.release(3)
    first, games, _ = spool.after(1, 64)  # a store that has forgotten games 2 and 3
    assert (first, games) == (4, [data(4), data(5), data(6)])
    spool.close()


def test_the_spool_of_a_living_worker_is_left_alone(tmp_path):
    spool = filled(tmp_path, 2)
    assert Spool.adopt(tmp_path) == []
    spool.close()
    (found,) = Spool.adopt(tmp_path)
    assert Spool.adopt(tmp_path) == []
    found.close()


def test_finished_spools_are_removed(tmp_path):
    spool = filled(tmp_path, 6)
    spool.release(6)
    spool.remove()
    assert list(tmp_path.iterdir()) == []
    Spool.make(tmp_path).close()  # a worker that was killed before its first game
    assert Spool.adopt(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_what_a_worker_left_that_was_killed_while_it_removed_its_spool_goes_too(tmp_path):
    spool = filled(tmp_path, 6)
    spool.folder.rename(spool.folder.with_name(f".{spool.folder.name}.done"))
    spool.close()
    assert Spool.adopt(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_other_things_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "123").mkdir()
    (tmp_path / "123" / "mine.txt").write_text("mine")
    (tmp_path / "notes").write_text("mine")
    assert Spool.adopt(tmp_path) == []
    assert (tmp_path / "123" / "mine.txt").exists() and (tmp_path / "notes").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=f"{tmp_path / 'file'} cannot be written .*another --spool"):
        Spool.make(tmp_path / "file")
    assert Spool.adopt(tmp_path / "absent") == []


STARTER = """
import pathlib, sys, time
from zeroloop.distributed.spool import Spool
root = pathlib.Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
mine = Spool.make(root)
found = Spool.adopt(root)
print(*[s.number for s in found], flush=True)
sys.stdin.readline()
for spool in found:
    spool.release(spool.last)
    spool.remove()
mine.remove()
"""


def test_of_many_that_start_at_once_exactly_one_adopts_each_spool(tmp_path):
    gone = [filled(tmp_path, 3) for _ in range(20)]
    for spool in gone:
        spool.close()
    words = [sys.executable, "-c", STARTER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    starters = [subprocess.Popen(words, **pipes) for _ in range(3)]
    for one in starters:
        assert one.stdout.readline() == "ready\n"
    for one in starters:
        one.stdin.write("\n")
        one.stdin.flush()
    found = [int(n) for one in starters for n in one.stdout.readline().split()]
    assert sorted(found) == sorted(s.number for s in gone)
    for one in starters:
        one.communicate("\n")
        assert one.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_removing_and_adopting_at_once_never_fail_nor_send_a_safe_spool_again(tmp_path):
    failed, adopted, running = [], [], [True]

    def adopt():
        try:
            while running[0]:
                for spool in Spool.adopt(tmp_path):
                    adopted.append(spool.number)
                    spool.close()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=adopt) for _ in range(2)]
    for thread in threads:
        thread.start()
    done = []
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        spool = filled(tmp_path, 1)
        spool.release(1)
        spool.remove()
        done.append(spool.number)
    running[0] = False
    for thread in threads:
        thread.join()
    assert not failed and len(done) > 20 and not adopted


WRITER = """
import pathlib, sys
from zeroloop.distributed import spool as module
module.PART_GAMES = 4
spool = module.Spool.make(pathlib.Path(sys.argv[1]))
i = 0
while True:
    i += 1
    spool.add(b"game %d " % i * 50, 1)
    print(i, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_killed_while_it_writes_loses_no_game_that_it_had_finished(tmp_path, seed):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    told = []
    reader = threading.Thread(target=lambda: told.extend(writer.stdout))
    reader.start()
    while len(told) < 10:
        time.sleep(0.001)
    time.sleep(random.Random(seed).uniform(0, 0.1))
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    reader.join()
    writer.stdout.close()
    (found,) = Spool.adopt(tmp_path)
    finished = sum(line.endswith("\n") for line in told)
    _, games, _ = found.after(0, 1 << 30)
    assert len(games) >= finished and games == [b"game %d " % i * 50 for i in range(1, len(games) + 1)]
    found.close()


class Full:
    """A file that has room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, frame):
        self.file.write(frame[: self.room])
        if len(frame) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("room", [0, 3, 8, 15])
def test_a_full_disk_is_told_in_one_sentence_and_keeps_what_was_there(tmp_path, room):
    spool = filled(tmp_path, 2)
    log = spool._parts[-1][1]
    log._file = Full(log._file, room)
    with pytest.raises(
        StoreError,
        match=rf"^{spool.folder} cannot keep a finished game \(No space left on device\); free some space "
        r"and start the worker again: the 2 games that wait there are sent first\.$",
    ):
        spool.add(data(3), 3)
    assert held(spool) == [1, 2]
    assert spool.add(data(3), 3) == 3, "there is room again"
    spool.close()
    (found,) = Spool.adopt(tmp_path)
    assert held(found) == [1, 2, 3] and found.torn == 0
    found.close()


def test_a_disk_on_which_no_part_can_be_made_is_told(tmp_path, monkeypatch):
    spool = filled(tmp_path, 4)

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "EpisodeLog", full)
    with pytest.raises(StoreError, match="cannot keep a finished game .No space left on device.*the 4 games"):
        spool.add(data(5), 5)
    monkeypatch.setattr(module, "EpisodeLog", EpisodeLog)
    assert spool.add(data(5), 5) == 5
    spool.close()


LIMITED = """
import pathlib, resource, signal, sys
from zeroloop.distributed.spool import Spool
from zeroloop.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool.make(pathlib.Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
i = 0
try:
    while True:
        i += 1
        spool.add(b"game %d " % i * 50, 1)
except StoreError as error:
    print(i - 1, spool.waiting)
    sys.exit(str(error))
"""


def test_a_file_system_that_takes_no_more_bytes_ends_the_worker_and_loses_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "cannot keep a finished game (File too large)" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    kept, waiting = map(int, done.stdout.split())
    (found,) = Spool.adopt(tmp_path)
    assert found.waiting == kept == waiting > 10
    assert found.after(0, 1 << 20)[1] == [b"game %d " % i * 50 for i in range(1, kept + 1)]
    found.close()


def test_keeping_a_game_costs_little(tmp_path, monkeypatch):
    """A game takes milliseconds to play; a tenth of one to keep it is the bar."""
    monkeypatch.setattr(module, "PART_GAMES", 256)
    spool, costs = Spool.make(tmp_path), []
    payload = bytes(4000)
    for _ in range(500):
        begun = time.perf_counter()
        spool.add(payload, 30)
        costs.append(time.perf_counter() - begun)
    spool.release(spool.last)
    spool.remove()
    assert sorted(costs)[250] < 1e-4
