"""Gradients of several processes: equal to those of one, and every way in which a helper can fail.

Tolerances: the same numbers are added in another order. A gradient is a sum of at most 64 rows of 9 cells;
float32 keeps 6e-8 of every partial sum, so 1e-4 of a gradient is generous and 1e-6 of the largest covers
those whose terms cancel. Against one process with as many threads even the order is the same: bit for bit.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.material import TICTACTOE, played, run_config, session
from zeroloop import gradient_processes
from zeroloop.config import LearnConfig, NetworkConfig, ReplayConfig
from zeroloop.errors import BackendError, LearningError
from zeroloop.evaluator.choice import relative_points, shapes_of
from zeroloop.learner import Learner
from zeroloop.networks import build
from zeroloop.replay import Replay

SLOW = pytest.mark.slow
NETWORK = NetworkConfig(
    blocks=1, channels=16, policy_channels=4, value_channels=4, value_hidden=16, heads=("reply",)
)
LEARN = LearnConfig(
    optimizer="adamw", batch_size=64, learning_rate=3e-3, warmup_steps=1, threads=1, precision="fp32"
)


@pytest.fixture(scope="module")
def replay():
    """Positions of which some are drawn more often than others, so that importance differs by row."""
    config = ReplayConfig(window_min=10**5, window_max=10**5, surprise_weight=0.5, correction_exponent=1.0)
    found = Replay(TICTACTOE, config, seed=2, root_value_weight=0.5, reply=True)
    found.add(played(TICTACTOE, 40))
    assert np.ptp(found.sample(64, 0).importance) > 0.1
    return found


@pytest.fixture
def make():
    """Return a function that makes learners, which are closed at the end of the test."""
    made = []

    def learner(network=NETWORK, seed=1, device="cpu", **changes):
        points = relative_points(TICTACTOE)
        shapes = shapes_of(TICTACTOE)
        made.append(Learner(build(network, shapes, seed), replace(LEARN, **changes), points, device))
        return made[-1]

    yield learner
    for each in made:
        each.close()
    assert not multiprocessing.active_children()


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


def stepped(learner, batch):
    """Make a step; return its losses and the gradients that the optimisers were given."""
    found = []
    for optimizer in learner._optimizers:

        def noted(*given, optimizer=optimizer, step=optimizer.step, **named):
            found.extend(p.grad.clone() for g in optimizer.param_groups for p in g["params"])
            return step(*given, **named)

        optimizer.step = noted
    losses = learner.step(batch)
    for optimizer in learner._optimizers:
        del optimizer.step
    return losses, found


def close_to(found, want, rtol, atol):
    assert len(found) == len(want) > 0
    largest = max(float(w.abs().max()) for w in want)
    assert largest > 0
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol * max(largest, 1.0))


def helpers(learner):
    return [helper.process.pid for helper in learner._gradients._helpers]


def alive(pid):
    """Whether a process runs; one that has ended and is not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds=10.0):
    limit = time.monotonic() + seconds
    while any(alive(p) for p in pids) and time.monotonic() < limit:
        time.sleep(0.02)
    return not any(alive(p) for p in pids)


# --- equality -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processes", "changes"),
    [
        (2, {"optimizer": "adamw", "clip_norm": 0.3, "accumulate": 2}),
        pytest.param(
            2, {"optimizer": "muon", "accumulate": 2, "threads": 2, "value_loss": "mse"}, marks=SLOW
        ),
        pytest.param(3, {"optimizer": "muon", "accumulate": 4, "head_weights": {"reply": 0.5}}, marks=SLOW),
    ],
    ids=["two", "threads", "three"],
)
def test_gradients_of_several_processes_equal_those_of_one(make, replay, processes, changes):
    """Also where rows do not split evenly, and where there are fewer rows than processes."""
    one, many = make(**changes | {"threads": 1, "accumulate": 1}), make(processes=processes, **changes)
    for step, n in enumerate([64, 37, 64, 2, 1]):
        many.restore(one.tensors())
        batch = replay.sample(n, step)
        wanted, gradients = stepped(one, batch)
        losses, found = stepped(many, batch)
        close_to(found, gradients, 1e-4, 1e-6)
        assert losses == pytest.approx(wanted, rel=1e-4)


@SLOW
def test_training_of_one_process_and_of_two_stays_together(make, replay):
    """Adam divides by a gradient's size, so what is near zero magnifies rounding: hence the tolerance."""
    for optimizer in ("adamw", "muon"):
        one, two = make(optimizer=optimizer), make(optimizer=optimizer, processes=2, accumulate=2)
        for step in range(10):
            batch = replay.sample(64, step)
            wanted = one.step(batch)
            assert two.step(batch) == pytest.approx(wanted, rel=1e-3)
        close_to(two.network.state_dict().values(), one.network.state_dict().values(), 1e-2, 1e-3)
        two.close()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=SLOW)])
def test_two_processes_do_bit_for_bit_what_two_threads_do(make, replay, precision):
    """Across a checkpoint in either direction too: it knows nothing of processes."""
    threads = make(threads=2, optimizer="muon", precision=precision)
    processes = make(threads=1, processes=2, optimizer="muon", precision=precision)
    for step in range(4):
        batch = replay.sample([64, 37, 5, 64][step], step)
        assert threads.step(batch, 0.1) == processes.step(batch, 0.1)
    same(threads.tensors(), processes.tensors())
    other = make(seed=9, threads=2, optimizer="muon", precision=precision)
    other.restore(processes.tensors())
    processes.restore(threads.tensors())
    for step in range(4, 7):
        batch = replay.sample(64, step)
        assert threads.step(batch) == processes.step(batch) == other.step(batch)
    same(threads.tensors(), processes.tensors())
    same(threads.tensors(), other.tensors())
    same(threads.averaged().state_dict(), processes.averaged().state_dict())


@SLOW
def test_bf16_gradients_are_near_those_of_fp32(make, replay):
    """bf16 keeps 8 bits: an activation is within 0.4 %, a gradient through six layers within a few."""
    full, half = make(), make(precision="bf16", processes=2)
    batch = replay.sample(64, 0)
    wanted, found = stepped(full, batch)[1], stepped(half, batch)[1]
    distance = sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True))
    assert 0 < distance < 0.05**2 * sum(float(b.square().sum()) for b in wanted)


# --- numbers that are not finite ----------------------------------------------------------------


@pytest.mark.slow
def test_loss_that_is_not_finite_in_a_helper_stops_the_step(make, replay):
    learner, batch = make(processes=2), replay.sample(64, 0)
    before = learner.tensors()
    batch.planes[63] = np.nan
    with pytest.raises(LearningError, match=r"not finite at step 0 .*policy nan"):
        learner.step(batch)
    same(learner.tensors(), before)


@pytest.mark.slow
def test_overflow_in_one_process_skips_the_step_of_all_and_lowers_the_scale(make, replay):
    """The loss scaler belongs to fp16 on a GPU; here it is put into a learner on the CPU."""
    learner, batch = make(processes=2), replay.sample(64, 0)
    learner._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=10)
    learner.step(batch)
    before = learner.tensors()
    batch.importance[63] = 1e36  # the loss is finite, its gradient times the scale is not
    learner.step(batch)
    after = learner.tensors()
    assert float(before["scale"]) == 2.0**20 and float(after["scale"]) == 2.0**19
    for name in before:
        if name.startswith(("weights.", "optimizer.")):
            assert torch.equal(before[name], after[name]), name
    losses, found = stepped(learner, replay.sample(64, 1))
    assert all(torch.isfinite(g).all() for g in found) and losses["policy"] > 0


# --- helpers that fail --------------------------------------------------------------------------


def before_call(monkeypatch, owner, name, act):
    """Do something each time before the function is called."""
    call = getattr(owner, name)

    def changed(*given, **named):
        act()
        return call(*given, **named)

    monkeypatch.setattr(owner, name, changed)


MOMENTS = {
    "before the step": None,
    "before the weights": (gradient_processes.distributed, "broadcast"),
    "while it computes": (gradient_processes.Gradients, "add_part"),
    "before the gradients": (gradient_processes.distributed, "reduce"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["before the step", *[pytest.param(m, marks=SLOW) for m in list(MOMENTS)[1:]]]
)
def test_killed_helper_fails_the_step_by_name_and_a_new_learner_goes_on(make, replay, monkeypatch, moment):
    learner, batch = make(processes=3), replay.sample(64, 0)
    learner.step(batch)
    first, second = helpers(learner)
    with monkeypatch.context() as patch:
        if MOMENTS[moment]:
            before_call(patch, *MOMENTS[moment], lambda: os.kill(second, signal.SIGKILL))
        else:
            os.kill(second, signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(BackendError, match=rf"Helper process 2 of learn\.processes=3 \(pid {second}, "):
            while True:  # one that had given its gradients fails the next step
                saved = learner.tensors()
                learner.step(batch)
        assert time.monotonic() - begun < 5
    assert gone([first, second])
    same(learner.tensors(), saved)
    with pytest.raises(BackendError, match=f"pid {second}.* was ended by SIGKILL"):
        learner.step(batch)
    if moment == "before the step":
        other = make(seed=8, processes=2)
        other.restore(saved)
        other.step(batch)
        assert other.steps == learner.steps + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["before the step", *[pytest.param(m, marks=SLOW) for m in list(MOMENTS)[1:]]]
)
def test_helper_that_hangs_fails_the_step_by_name_in_seconds(make, replay, monkeypatch, moment):
    monkeypatch.setattr(gradient_processes, "SECONDS", 1.5)
    learner, batch = make(processes=3), replay.sample(64, 0)
    learner.step(batch)
    first, second = helpers(learner)
    with monkeypatch.context() as patch:
        if MOMENTS[moment]:
            before_call(patch, *MOMENTS[moment], lambda: os.kill(first, signal.SIGSTOP))
        else:
            os.kill(first, signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(BackendError, match=rf"Helper process 1 of .*\(pid {first}, cpu\) (has|did) not"):
            while True:  # one that had given its gradients fails the next step
                saved = learner.tensors()
                learner.step(batch)
        assert time.monotonic() - begun < 10
    assert gone([first, second])
    same(learner.tensors(), saved)


@SLOW
def test_helper_that_does_not_read_a_large_batch_is_named_too(make, replay, monkeypatch):
    monkeypatch.setattr(gradient_processes, "SECONDS", 1.0)
    learner, batch = make(processes=2), replay.sample(64, 0)
    learner.step(batch)
    large = batch._replace(
        **{k: np.repeat(v, 4000, 0) for k, v in batch._asdict().items() if not isinstance(v, dict)},
        targets={k: np.repeat(v, 4000, 0) for k, v in batch.targets.items()},
        weights={k: np.repeat(v, 4000, 0) for k, v in batch.weights.items()},
    )
    os.kill(helpers(learner)[0], signal.SIGSTOP)
    with pytest.raises(BackendError, match=r"has not read what it was sent in 1 s"):
        learner.step(large)


@SLOW
def test_exception_in_a_helper_is_told_with_its_text(make, replay):
    learner, batch = make(processes=2), replay.sample(64, 0)
    batch.legal[60:] = 99
    with pytest.raises(BackendError, match=r"Helper process 1 .* failed: RuntimeError: .*index 99.*go"):
        learner.step(batch)


@pytest.mark.slow
def test_stop_signals_are_for_the_learner_and_not_for_its_helpers(make, replay):
    """Ctrl-C goes to all processes of a terminal, SIGTERM often to all of a service."""
    learner, batch = make(processes=2), replay.sample(64, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(helpers(learner)[0], number)  # while it starts
    learner.step(batch)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(helpers(learner)[0], number)
    learner.step(batch)
    pids = helpers(learner)
    learner.close()
    assert gone(pids, 0)


OWNER = """
import sys
if __name__ == "__main__":
    import time
    import numpy as np
    from zeroloop.config import LearnConfig, NetworkConfig
    from zeroloop.gradient_processes import GradientProcesses
    from zeroloop.networks import Shapes, build
    network = build(NetworkConfig(blocks=1, channels=8), Shapes((2, 3, 3), 0, 9, 3))
    config = LearnConfig(processes=3, precision="fp32")
    shared = GradientProcesses(network, config, np.ones((3, 2), np.float32), "cpu", 1)
    print(*[helper.process.pid for helper in shared._helpers], flush=True)
    if "join" in sys.argv:
        shared._join()
    print("up", flush=True)
    if "stay" in sys.argv:
        time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    ["killed", pytest.param("killed at once", marks=SLOW), pytest.param("ended without close", marks=SLOW)],
)
def test_helpers_end_with_their_learner(tmp_path, how):
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    words = {"killed": ["join", "stay"], "killed at once": ["stay"], "ended without close": ["join"]}[how]
    owner = subprocess.Popen(
        [sys.executable, str(script), *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "TMPDIR": str(tmp_path)},
    )
    with owner:
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert owner.stdout.readline() == "up\n" and len(pids) == 2
        if how == "ended without close":
            assert owner.wait(60) == 0
        else:
            assert all(alive(p) for p in pids)
            owner.kill()
        assert gone(pids, 60)  # on a busy machine they may still be starting
        assert not list(tmp_path.glob("zeroloop-*"))


# --- a run --------------------------------------------------------------------------------------


@SLOW
def test_run_whose_helper_is_killed_goes_on_from_its_checkpoint(tmp_path):
    from zeroloop.run import Run
    from zeroloop.train import train

    config = run_config(learn={"processes": 2}, run={"checkpoint_iterations": 1})
    seen = []

    def report(kind, values):
        if kind == "phase" and values["name"] == "learn" and values["steps"]:
            seen.append(values["iteration"])
            if len(seen) == 3:
                (helper,) = multiprocessing.active_children()
                os.kill(helper.pid, signal.SIGKILL)

    run = Run.open(tmp_path / "run", config)
    try:
        with pytest.raises(BackendError, match="was ended by SIGKILL, perhaps for want of memory"):
            train(run, report, lambda: False)
    finally:
        run.close()
    _, told = session(tmp_path / "run", replace(config, learn=replace(config.learn, processes=1)))
    assert any("resum" in str(values) for _, values in told), told[:5]
    assert not multiprocessing.active_children()


# --- refusals -----------------------------------------------------------------------------------


def test_more_processes_than_gpus_are_refused(make, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    want = (
        r"^learn\.processes is 3, each on a GPU of its own, but torch sees 2; set .*CUDA_VISIBLE_DEVICES\.$"
    )
    with pytest.raises(BackendError, match=want):
        make(device="cuda", processes=3)
    with pytest.raises(BackendError, match=r"^learn\.processes is 2, but on mps there is one; set .*\.$"):
        make(device="mps", processes=2)


@SLOW
def test_second_learner_with_helpers_in_one_process_is_refused(make, replay):
    first, second = make(processes=2), make(processes=2)
    batch = replay.sample(16, 0)
    first.step(batch)
    with pytest.raises(BackendError, match=r"group of torch\.distributed already; close its other learner"):
        second.step(batch)
    first.step(batch)  # unharmed
