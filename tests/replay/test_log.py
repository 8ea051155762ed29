"""The episode log: whole frames come back, torn tails are cut, damage is named, a full disk spares it."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from zeroloop.errors import StoreError
from zeroloop.replay.log import EpisodeLog

FRAME = 8
"""Bytes of a frame's head: length and CRC-32."""


def payloads(n=6, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.bytes(int(rng.integers(20, 200))) for _ in range(n)]


def filled(path, data):
    """Append payloads to a new log, close it and return the offset of each."""
    log = EpisodeLog(path)
    list(log.open_at(0))
    offsets = [log.append(payload) for payload in data]
    log.close()
    return offsets


def read(path, offset=0):
    """Return (frames, torn bytes, size) and close the log."""
    log = EpisodeLog(path)
    try:
        return list(log.open_at(offset)), log.torn, log.size
    finally:
        log.close()


def test_what_was_appended_is_read_in_order(tmp_path):
    data = payloads()
    offsets = filled(tmp_path / "log", data)
    size = (tmp_path / "log").stat().st_size
    assert size == sum(FRAME + len(payload) for payload in data)
    assert read(tmp_path / "log") == (list(zip(offsets, data, strict=True)), 0, size)


def test_reading_may_begin_at_any_frame(tmp_path):
    data = payloads()
    offsets = filled(tmp_path / "log", data)
    for k, offset in enumerate(offsets):
        assert read(tmp_path / "log", offset)[0] == list(zip(offsets, data, strict=True))[k:]
    end = (tmp_path / "log").stat().st_size
    assert read(tmp_path / "log", end) == ([], 0, end)


def test_appending_goes_on_behind_what_was_read(tmp_path):
    data = payloads(9)
    filled(tmp_path / "log", data[:3])
    for payload in data[3:]:
        log = EpisodeLog(tmp_path / "log")
        before = list(log.open_at(0))
        assert log.append(payload) == before[-1][0] + FRAME + len(before[-1][1])
        log.sync()
        log.close()
    assert [p for _, p in read(tmp_path / "log")[0]] == data


def test_new_log_is_empty(tmp_path):
    assert read(tmp_path / "log") == ([], 0, 0)
    assert (tmp_path / "log").exists()


def test_torn_tail_of_every_length_is_cut_and_reported(tmp_path):
    path = tmp_path / "log"
    data = payloads(3)
    filled(path, data)
    whole = path.read_bytes()
    begin = len(whole) - FRAME - len(data[2])
    for end in range(begin + 1, len(whole)):
        path.write_bytes(whole[:end])
        frames, torn, size = read(path)
        assert [p for _, p in frames] == data[:2]
        assert (torn, size) == (end - begin, begin)
        assert path.read_bytes() == whole[:begin]


def test_torn_tail_of_a_realistic_size_is_cut_quickly(tmp_path):
    """A long episode, cut anywhere: numbers in it may look like heads of frames."""
    path = tmp_path / "log"
    rng = np.random.default_rng(1)
    payload = rng.integers(0, 50, 60_000).astype("<i4").tobytes() + bytes(60_000)
    filled(path, [b"first game", payload])
    whole = path.read_bytes()
    for end in (40, 50_000, 200_000, len(whole) - 1):
        path.write_bytes(whole[:end])
        frames, torn, _ = read(path)
        assert [p for _, p in frames] == [b"first game"] and torn == end - 18


def test_appending_after_a_cut_tail_gives_a_whole_log(tmp_path):
    path = tmp_path / "log"
    data = payloads(3)
    filled(path, data)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 5)
    log = EpisodeLog(path)
    assert [p for _, p in log.open_at(0)] == data[:2] and log.torn > 0
    log.append(b"next")
    log.close()
    assert [p for _, p in read(path)[0]] == [*data[:2], b"next"]


@pytest.mark.parametrize("zeros", [1, 7, 8, 9, 500])
def test_zeros_at_the_end_are_cut_as_torn(tmp_path, zeros):
    """A power failure may leave a tail that was allotted and never written."""
    path = tmp_path / "log"
    data = payloads(3)
    filled(path, data)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(zeros))
    frames, torn, size = read(path)
    assert [p for _, p in frames] == data and (torn, size) == (zeros, len(whole))


def test_last_frame_with_a_wrong_checksum_is_cut_as_torn(tmp_path):
    """A killed machine may leave a frame of the right length with unwritten blocks in it."""
    path = tmp_path / "log"
    data = payloads(3)
    offsets = filled(path, data)
    with open(path, "r+b") as file:
        file.seek(offsets[2] + FRAME + 4)
        file.write(bytes(8))
    frames, torn, size = read(path)
    assert [p for _, p in frames] == data[:2]
    assert (torn, size) == (FRAME + len(data[2]), offsets[2])


@pytest.mark.parametrize("part", ["length", "checksum", "payload"])
def test_damage_of_any_byte_before_the_last_frame_is_an_error_that_names_the_byte(tmp_path, part):
    """Games behind the damage are neither lost nor cut."""
    path = tmp_path / "log"
    data = payloads(5, seed=3)
    offsets = filled(path, data)
    whole = path.read_bytes()
    begin, end = {"length": (0, 4), "checksum": (4, 8), "payload": (8, 8 + len(data[2]))}[part]
    for at in range(offsets[2] + begin, offsets[2] + end):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            log = EpisodeLog(path)
            with pytest.raises(StoreError, match=rf"damaged at byte {offsets[2]}\b.*\.$"):
                list(log.open_at(0))
            log.close()
            assert path.read_bytes() == bytes(damaged), "a damaged log must stay as it is"


def test_log_shorter_than_its_checkpoint_is_an_error(tmp_path):
    filled(tmp_path / "log", payloads(2))
    size = (tmp_path / "log").stat().st_size
    log = EpisodeLog(tmp_path / "log")
    with pytest.raises(StoreError, match=f"has {size} bytes, but its checkpoint counts on {size + 1}"):
        list(log.open_at(size + 1))
    log.close()


def test_cut_drops_everything_behind_it(tmp_path):
    data = payloads(4)
    offsets = filled(tmp_path / "log", data)
    log = EpisodeLog(tmp_path / "log")
    log.cut(offsets[2])
    assert log.size == offsets[2] == (tmp_path / "log").stat().st_size
    assert log.append(b"instead") == offsets[2]
    log.close()
    assert [p for _, p in read(tmp_path / "log")[0]] == [*data[:2], b"instead"]


class FullDisk:
    """A file on a disk that takes `room` more bytes."""

    def __init__(self, file, room, when):
        self._file, self.room, self.when = file, room, when
        self._waiting = b""

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        self._waiting += data
        if self.when == "write":
            self._put()
        return len(data)

    def flush(self):
        self._put()
        self._file.flush()

    def close(self):
        try:
            self._put()
        finally:
            self._file.close()

    def _put(self):
        fits, self._waiting = self._waiting[: self.room], self._waiting[self.room :]
        self._file.write(fits)
        self._file.flush()
        self.room -= len(fits)
        if self._waiting:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("when", ["write", "flush"])
@pytest.mark.parametrize("room", [0, 3, 8, 30])
def test_full_disk_is_told_and_leaves_whole_frames(tmp_path, when, room):
    path = tmp_path / "log"
    data = payloads(3)
    log = EpisodeLog(path)
    list(log.open_at(0))
    for payload in data:
        log.append(payload)
    whole = path.read_bytes()
    log._file = FullDisk(log._file, room, when)
    with pytest.raises(StoreError, match=r"could not be written \(No space left on device.*\.$"):
        log.append(bytes(range(100)))
    assert path.read_bytes() == whole and log.size == len(whole)
    assert log.append(b"there is room again") == len(whole)
    log.close()
    assert [p for _, p in read(path)[0]] == [*data, b"there is room again"]


def test_disk_that_is_full_at_sync_is_told(tmp_path, monkeypatch):
    log = EpisodeLog(tmp_path / "log")
    list(log.open_at(0))
    log.append(b"game")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device.*\.$"):
        log.sync()
    log.close()


def test_log_shorter_than_its_checkpoint_is_damaged_and_not_torn(tmp_path):
    """A checkpoint counts on synced bytes: none of them can be the tail of a killed process."""
    path = tmp_path / "log"
    data = payloads(4)
    filled(path, data)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    for known in (len(whole), len(whole) - 1):
        log = EpisodeLog(path)
        with pytest.raises(StoreError, match=r"counts on|damaged at byte"):
            list(log.open_at(0, known))
        with pytest.raises(StoreError, match="was truncated"):
            log.cut(len(whole))
        log.close()
        assert path.read_bytes() == whole[:-3]


def test_damaged_last_frame_that_a_checkpoint_knows_is_an_error(tmp_path):
    path = tmp_path / "log"
    filled(path, payloads(3))
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    log = EpisodeLog(path)
    with pytest.raises(StoreError, match="damaged at byte"):
        list(log.open_at(0, len(whole)))
    log.close()
    assert path.read_bytes() == whole
