"""What a schedule is worth at each ply and progress, and which schedules are refused."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from zeroloop.errors import ConfigError
from zeroloop.schedule import Schedule

PLY = Schedule.from_plain({"over": "ply", "at": {2: 1.0, 4: 0.5}})
RUN = Schedule.from_plain({"over": "run", "at": {0.2: 10, 0.6: 30}})


def test_constant_is_the_same_everywhere():
    schedule = Schedule.constant(1.5)
    assert schedule.value(0, 0.0) == schedule.value(300, 1.0) == 1.5


def test_over_ply_steps_by_default():
    assert [PLY.value(ply, 0.0) for ply in (2, 3, 4)] == [1.0, 1.0, 0.5]


def test_over_ply_can_be_linear():
    plain = {"over": "ply", "at": {2: 1.0, 4: 0.5}, "interpolation": "linear"}
    assert Schedule.from_plain(plain).value(3, 0.0) == 0.75


def test_over_run_is_linear_by_default():
    assert RUN.value(0, 0.4) == pytest.approx(20)


def test_over_run_can_step():
    plain = {"over": "run", "at": {0: 16, 0.5: 64}, "interpolation": "step"}
    schedule = Schedule.from_plain(plain)
    assert [schedule.value(0, progress) for progress in (0, 0.49, 0.5, 1)] == [16, 16, 64, 64]


@pytest.mark.parametrize("schedule", [PLY, RUN])
def test_first_value_holds_before_the_first_point(schedule):
    assert schedule.value(0, 0.0) == schedule.points[0][1]


@pytest.mark.parametrize("schedule", [PLY, RUN])
def test_last_value_holds_after_the_last_point(schedule):
    assert schedule.value(100, 1.0) == schedule.points[-1][1]


def test_value_over_ply_ignores_progress():
    assert PLY.value(4, 0.0) == PLY.value(4, 1.0)


def test_value_over_run_ignores_ply():
    assert RUN.value(0, 0.3) == RUN.value(99, 0.3)


@pytest.mark.parametrize("schedule", [PLY, RUN, Schedule.constant(3)])
def test_table_holds_the_value_of_each_ply(schedule):
    table = schedule.table(6, 0.3)
    assert table.dtype == np.float64
    assert table.tolist() == [schedule.value(ply, 0.3) for ply in range(6)]


def test_table_of_no_plies_is_empty():
    assert PLY.table(0, 0.0).shape == (0,)


def test_minimum_and_maximum_are_over_all_points():
    assert (RUN.minimum, RUN.maximum) == (10, 30)


def test_only_a_constant_is_constant():
    assert Schedule.constant(1).is_constant and not PLY.is_constant


def test_equal_values_make_a_constant():
    schedule = Schedule.from_plain({"over": "run", "at": {0: 2, 0.5: 2}})
    assert schedule == Schedule.constant(2) and schedule.to_plain() == 2


def test_equality_and_hash_are_by_content():
    written_out = {"over": "ply", "at": {2: 1, 4: 0.5}, "interpolation": "step"}
    schedule = Schedule.from_plain(written_out)
    assert schedule == PLY and hash(schedule) == hash(PLY) and schedule != RUN


def test_ints_stay_ints_and_floats_stay_floats():
    assert type(Schedule.from_plain(16).to_plain()) is int
    assert type(Schedule.from_plain(16.0).to_plain()) is float


def test_number_that_yaml_leaves_a_string_is_a_number():
    assert Schedule.from_plain(yaml.safe_load("3e-4")) == Schedule.constant(3e-4)


@pytest.mark.parametrize("schedule", [PLY, RUN, Schedule.constant(7)])
def test_plain_form_survives_yaml(schedule):
    text = yaml.safe_dump(schedule.to_plain())
    assert Schedule.from_plain(yaml.safe_load(text)) == schedule


def test_plain_form_spells_out_the_interpolation():
    assert PLY.to_plain() == {"over": "ply", "at": {2: 1.0, 4: 0.5}, "interpolation": "step"}


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ([1], "a value of a schedule is [1]; it must be a finite number."),
        ("many", "a value of a schedule is 'many'; it must be a finite number."),
        (True, "a value of a schedule is True; it must be a finite number."),
        (float("nan"), "a value of a schedule is nan; it must be a finite number."),
        (10**400, f"a value of a schedule is {10**400}; it must be a finite number."),
        (
            {"over": "ply", "att": {0: 1}},
            "unknown key 'att' in a schedule; its keys are over, at, interpolation.",
        ),
        ({"at": {0: 1}}, "a schedule with points needs the key 'over'."),
        ({"over": "ply"}, "a schedule with points needs the key 'at'."),
        (
            {"over": "run", "at": [1, 2]},
            "the points of a schedule are a mapping from position to value, not [1, 2].",
        ),
        ({"over": "run", "at": {}}, "a schedule needs at least one point under 'at'."),
        (
            {"over": "game", "at": {0: 1}},
            "a schedule goes over 'ply' or 'run', not 'game'.",
        ),
        (
            {"over": "ply", "at": {0: 1, 5: 2}, "interpolation": "cubic"},
            "the interpolation of a schedule is 'step' or 'linear', not 'cubic'.",
        ),
        (
            {"over": "ply", "at": {12: 1, 0: 2}},
            "the points of a schedule must ascend, but 0 follows 12.",
        ),
        (
            {"over": "ply", "at": {"start": 1}},
            "a position of a schedule is 'start'; it must be a finite number.",
        ),
        (
            {"over": "ply", "at": {0: True}},
            "a value of a schedule is True; it must be a finite number.",
        ),
        (
            {"over": "ply", "at": {-1: 1}},
            "a schedule over plies has a point at -1; a ply is a whole number from 0.",
        ),
        (
            {"over": "ply", "at": {0.5: 1}},
            "a schedule over plies has a point at 0.5; a ply is a whole number from 0.",
        ),
        (
            {"over": "run", "at": {0: 1, 30: 2}},
            "a schedule over the run has a point at 30; the run goes from 0 to 1, as a part of its budget.",
        ),
    ],
)
def test_faulty_schedule_is_refused_in_one_sentence(plain, message):
    with pytest.raises(ConfigError) as raised:
        Schedule.from_plain(plain)
    assert str(raised.value) == message


def test_several_values_without_over_are_refused():
    with pytest.raises(ConfigError, match="of several values needs 'over': 'ply' or 'run'"):
        Schedule(((0, 1), (1, 2)))


def test_value_refuses_a_negative_ply():
    with pytest.raises(ValueError, match="ply is -1; it must be at least 0"):
        PLY.value(-1, 0.0)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_value_refuses_progress_outside_the_run(progress):
    with pytest.raises(ValueError, match="it must be from 0 to 1"):
        RUN.value(0, progress)


def test_table_refuses_progress_outside_the_run():
    with pytest.raises(ValueError, match="progress is 2; it must be from 0 to 1"):
        PLY.table(3, 2)


def test_table_refuses_a_negative_number_of_plies():
    with pytest.raises(ValueError, match="plies is -1; it must be at least 0"):
        PLY.table(-1, 0.0)
