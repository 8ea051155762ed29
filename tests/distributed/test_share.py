"""A device that learning and inference both want is divided as configured; idle time belongs to the other."""

from __future__ import annotations

import threading
import time

import pytest

from zeroloop.distributed.share import INFERENCE, LEARNING, DeviceShare


def busy(share, party, step, until, gap=0.0):
    """Use the device in steps of so many seconds until a moment."""
    while time.monotonic() < until:
        with share.use(party):
            time.sleep(step)
        if gap:
            time.sleep(gap)


def run(share, *parties, seconds=1.5):
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=busy, args=(share, *p[:2], until, *p[2:])) for p in parties]
    for t in threads:
        t.start()
    for t in threads:
        t.join(seconds + 5)
        assert not t.is_alive()


@pytest.mark.parametrize(
    "wanted", [pytest.param(0.3, marks=pytest.mark.slow), pytest.param(0.5, marks=pytest.mark.slow), 0.7]
)
def test_two_busy_parties_get_their_shares_within_5_points(wanted):
    share = DeviceShare(wanted)
    run(share, (LEARNING, 0.007), (INFERENCE, 0.003))
    learning, inference = share.busy_seconds[LEARNING], share.busy_seconds[INFERENCE]
    assert learning / (learning + inference) == pytest.approx(wanted, abs=0.05)
    assert share.learner_share() == pytest.approx(wanted, abs=0.05)


@pytest.mark.slow
def test_a_party_that_comes_back_at_once_does_not_lose_every_second_turn():
    """Equal steps taken in turns would divide evenly, whatever the share."""
    share = DeviceShare(0.7, patience=0.02)
    run(share, (LEARNING, 0.005, 0.0005), (INFERENCE, 0.005))
    assert share.learner_share() == pytest.approx(0.7, abs=0.05)


@pytest.mark.slow
def test_shares_hold_where_inference_has_two_lanes():
    share = DeviceShare(0.5)
    run(share, (LEARNING, 0.008), (INFERENCE, 0.003), (INFERENCE, 0.003))
    assert share.learner_share() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("party", [LEARNING, INFERENCE])
def test_a_party_alone_gets_all_of_the_device(party):
    share = DeviceShare(0.3)
    run(share, (party, 0.002), seconds=0.5)
    assert share.busy_seconds[party] > 0.42  # the rest is Python between steps
    assert share.learner_share() is None


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [0.05, 0.95])
def test_nobody_starves_at_the_ends_of_the_range(wanted):
    share = DeviceShare(wanted)
    run(share, (LEARNING, 0.004), (INFERENCE, 0.004))
    assert min(share.busy_seconds.values()) > 0.02 * 1.5


@pytest.mark.slow
def test_a_party_that_was_idle_gets_no_arrears():
    """Inference ran alone for a while; learning, back again, must not keep it out for as long."""
    share = DeviceShare(0.5)
    run(share, (INFERENCE, 0.005), seconds=0.8)
    before = dict(share.busy_seconds)
    run(share, (LEARNING, 0.005), (INFERENCE, 0.005), seconds=0.8)
    spent = {p: share.busy_seconds[p] - before[p] for p in before}
    assert spent[INFERENCE] / sum(spent.values()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_the_gaps_of_a_slow_learner_go_to_inference():
    share = DeviceShare(0.9)
    run(share, (LEARNING, 0.005, 0.02), (INFERENCE, 0.005))
    assert sum(share.busy_seconds.values()) > 0.8 * 1.5  # the device is not kept idle for the learner
    assert share.busy_seconds[INFERENCE] > 0.4 * 1.5


def test_the_parties_are_never_inside_together():
    share, inside, seen = DeviceShare(0.5), {LEARNING: 0, INFERENCE: 0}, []

    def work(party):
        for _ in range(100):
            with share.use(party):
                inside[party] += 1
                time.sleep(0.0005)
                seen.append(inside[LEARNING] > 0 and inside[INFERENCE] > 0)
                inside[party] -= 1

    threads = [threading.Thread(target=work, args=(p,)) for p in (LEARNING, INFERENCE)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    assert len(seen) == 200 and not any(seen)


def test_an_error_inside_gives_the_device_back():
    share = DeviceShare(0.5)
    with pytest.raises(RuntimeError), share.use(LEARNING):
        raise RuntimeError
    with share.use(INFERENCE):
        pass


@pytest.mark.parametrize("wrong", [0, 1, -1, 2])
def test_a_share_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="learner_share"):
        DeviceShare(wrong)
