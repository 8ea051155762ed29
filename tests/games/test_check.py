"""Every law of the contract is broken on purpose once; correct games keep them all."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.toy_games import random_tree
from zeroloop.errors import GameError, InvalidState, LawBroken
from zeroloop.games import CHANCE, TERMINAL, Game, Observation, check, laws, make
from zeroloop.games.check import check_game
from zeroloop.games.explain import explain_rules

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "lucky_nim.py"
NAN = float("nan")

# A correct game to break: a coin sets two equal heaps, each move takes 1 to 3 stones of one heap.


def initial(state, seed):
    state.heaps[0] = 0
    state.heaps[1] = 0
    state.mover = CHANCE


def to_play(state):
    if state.mover >= 0 and state.heaps[0] == 0 and state.heaps[1] == 0:
        return TERMINAL
    return state.mover


def chance_outcomes(state, out, probability):
    out[0] = 0
    out[1] = 1
    probability[0] = 0.25
    probability[1] = 0.75
    return 2


def legal_actions(state, out):
    k = 0
    for action in range(6):
        if state.heaps[action // 3] > action % 3:
            out[k] = action
            k += 1
    return k


def apply_action(state, action):
    if state.mover == CHANCE:
        state.heaps[0] = 4 + action
        state.heaps[1] = 4 + action
        state.mover = 0
    else:
        state.heaps[action // 3] -= 1 + action % 3
        state.mover = 1 - state.mover


def outcome(state):
    return 1 - state.mover


def observe(state, planes, global_facts):
    planes[0, 0, 0] = state.heaps[0]
    planes[0, 0, 1] = state.heaps[1]
    global_facts[0] = 1.0


def symmetry(state, k):
    if k == 1:
        left = state.heaps[0]
        state.heaps[0] = state.heaps[1]
        state.heaps[1] = left


def symmetry_action(action, k):
    return (action + 3 * k) % 6


def heuristic(state, seat):
    return 0.5 if state.heaps[0] > state.heaps[1] else -0.5


def action_name(state, action):
    return f"coin{action}" if state.mover == CHANCE else "ab"[action // 3] + str(1 + action % 3)


def position(state):
    return f"{state.heaps[0]},{state.heaps[1]},{state.mover}"


def parse_position(state, text):
    left, right, mover = text.split(",")
    state.heaps = [int(left), int(right)]
    state.mover = int(mover)


RULES = {
    "initial": initial,
    "to_play": to_play,
    "chance_outcomes": chance_outcomes,
    "legal_actions": legal_actions,
    "apply_action": apply_action,
    "outcome": outcome,
    "observe": observe,
    "symmetry": symmetry,
    "symmetry_action": symmetry_action,
    "heuristic": heuristic,
}
FACTS = {
    "version": 1,
    "state_dtype": [("heaps", "u1", (2,)), ("mover", "i1")],
    "num_players": 2,
    "num_actions": 6,
    "max_legal": 6,
    "max_chance": 2,
    "max_plies": 11,
    "num_symmetries": 2,
    "outcomes": [[1, -1], [-1, 1]],
    "observation": Observation(planes=(1, 1, 2), globals=1),
    "action_name": action_name,
    "position": position,
    "parse_position": parse_position,
}


def coins(**changes):
    """Return the game with some of its rules or facts replaced."""
    rules = {**RULES, **{k: v for k, v in changes.items() if k in RULES}}
    facts = {**FACTS, **{k: v for k, v in changes.items() if k not in RULES}}
    return Game("coins", rules=rules, **facts)


# The faults. Each takes the place of the rule that it is listed for.


def initial_forgets_a_field(state, seed):
    state.heaps[1] = 0
    state.mover = CHANCE


def to_play_seat_2(state):
    return 2


def to_play_ticks(state):
    state.heaps[0] += 1
    return state.mover


def to_play_nothing(state):
    return None


def legal_none(state, out):
    return 0


def legal_descends(state, out):
    out[0] = 4
    out[1] = 3
    return 2


def legal_twice(state, out):
    out[0] = 3
    out[1] = 3
    return 2


def legal_foreign(state, out):
    out[0] = 1
    out[1] = 6
    return 2


def legal_scribbles(state, out):
    out[7] = 1
    return legal_actions(state, out)


def legal_reads_the_buffer(state, out):
    k = legal_actions(state, out)
    return k - (out[5] == -8)


def legal_eats(state, out):
    k = legal_actions(state, out)
    state.heaps[1] = 9
    return k


def chance_twice(state, out, probability):
    chance_outcomes(state, out, probability)
    out[1] = 0
    return 2


def chance_sums_to_less(state, out, probability):
    chance_outcomes(state, out, probability)
    probability[1] = 0.5
    return 2


def chance_has_a_zero(state, out, probability):
    chance_outcomes(state, out, probability)
    probability[0], probability[1] = 0, 1
    return 2


def chance_changes_its_mind(state, out, probability):
    chance_outcomes(state, out, probability)
    out[1] = 1 if out[5] == -7 else 2
    return 2


def chance_rolls_itself(state, out, probability):
    state.mover = 0
    return chance_outcomes(state, out, probability)


def outcome_row_2(state):
    return 2


def outcome_ends_twice(state):
    state.mover = 7
    return 0


def observe_forgets_a_cell(state, planes, global_facts):
    planes[0, 0, 0] = 1
    global_facts[0] = 1


def observe_adds(state, planes, global_facts):
    observe(state, planes, global_facts)
    global_facts[0] += planes[0, 0, 0]
    planes[0, 0, 1] = NAN


def observe_forgets_a_fact(state, planes, global_facts):
    planes[:] = 0


def observe_touches(state, planes, global_facts):
    observe(state, planes, global_facts)
    state.heaps[0] = 200


def heuristic_too_sure(state, seat):
    return 1.5


def heuristic_not_a_number(state, seat):
    return NAN


def heuristic_spends(state, seat):
    state.heaps[seat] = 0
    return 0.0


def symmetry_always(state, k):
    symmetry(state, 1)


def symmetry_fills(state, k):
    symmetry(state, k)
    if k == 0 and state.mover == CHANCE:
        state.heaps[0] = 9


def symmetry_swaps_movers(state, k):
    symmetry(state, k)
    if k == 1 and state.mover >= 0:
        state.mover = 1 - state.mover


def symmetry_moves_nothing(state, k):
    return None


def symmetry_action_stays(action, k):
    return action


def symmetry_action_turns_far(action, k):
    return action + 3 * k


def to_play_ends_early(state):
    if state.mover >= 0 and state.heaps[0] + state.heaps[1] <= 2:
        return TERMINAL
    return state.mover


def outcome_by_the_left_heap(state):
    return 1 if state.heaps[0] > 0 else 0


def legal_spares_the_left_heap(state, out):
    k = legal_actions(state, out)
    return k - 1 if k > 2 and state.heaps[0] < state.heaps[1] else k


TICKS = [0]


def apply_counts_calls(state, action):
    TICKS[0] += 1
    apply_action(state, action)
    state.heaps[0] += TICKS[0] % 2


def apply_pads(state, action):
    apply_action(state, action)
    state._pad[0] = 1


def apply_prefers_the_left(state, action):
    apply_action(state, action)
    if state.heaps[0] == 2:
        state.heaps[0] = 1


def same_name(state, action):
    return "take"


def dull_position(state):
    return "0,0,0"


def refuse_position(state, text):
    raise InvalidState(f"coins: '{text}' is not to my taste.")


def render_and_spoil(state):
    state.heaps[1] = 3
    return ""


FAULTS = [
    ({"initial": initial_forgets_a_field}, "initial writes", "'heaps' ([0, 0] and [255, 0])", 0),
    ({"to_play": to_play_seat_2}, "to_play is", "to_play returns 2; allowed: 0 to 1, CHANCE", 0),
    ({"to_play": to_play_ticks}, "leaves the state alone", "to_play changes 'heaps'", 0),
    ({"legal_actions": legal_none}, "legal ids", "legal_actions returns 0; allowed: 1 to 6", 1),
    ({"max_legal": 5}, "legal ids", "legal_actions returns 6; allowed: 1 to 5", 1),
    ({"legal_actions": legal_descends}, "legal ids", "lists [4, 3]; ids must ascend", 1),
    ({"legal_actions": legal_twice}, "legal ids", "lists [3, 3]; ids must ascend", 1),
    ({"legal_actions": legal_foreign}, "legal ids", "lists [1, 6]; ids are 0 to 5", 1),
    ({"legal_actions": legal_scribbles}, "legal ids", "writes beyond the 6 entries", 1),
    ({"legal_actions": legal_reads_the_buffer}, "legal ids", "called twice on one state", None),
    ({"legal_actions": legal_eats}, "leaves the state alone", "legal_actions changes 'heaps'", 1),
    ({"chance_outcomes": chance_twice}, "chance outcomes", "lists [0, 0]; outcomes must be", 0),
    ({"chance_outcomes": chance_sums_to_less}, "chance outcomes", "[0.25, 0.5] with sum 0.75", 0),
    ({"chance_outcomes": chance_has_a_zero}, "chance outcomes", "each must be above 0", 0),
    ({"chance_outcomes": chance_changes_its_mind}, "chance outcomes", "gives [0, 1] and [0, 2]", 0),
    ({"chance_outcomes": chance_rolls_itself}, "leaves the state", "chance_outcomes changes", 0),
    ({"max_chance": 1}, "chance outcomes", "chance_outcomes returns 2; allowed: 1 to 1", 0),
    ({"outcome": outcome_row_2}, "outcome is", "outcome returns 2; allowed: 0 to 1", None),
    ({"outcome": outcome_ends_twice}, "leaves the state alone", "outcome changes 'mover'", None),
    ({"observe": observe_forgets_a_cell}, "observe writes", "plane, row, column 0, 0, 1 unwr", 1),
    ({"observe": observe_adds}, "observe writes", "plane, row, column 0, 0, 1 unwr", 1),
    ({"observe": observe_forgets_a_fact}, "observe writes", "global 0 unwritten", 1),
    ({"observe": observe_touches}, "leaves the state alone", "observe changes 'heaps'", 1),
    ({"heuristic": heuristic_too_sure}, "heuristic lies", "heuristic gives the seats [1.5", 0),
    ({"heuristic": heuristic_not_a_number}, "heuristic lies", "the seats [nan, nan]", 0),
    ({"heuristic": heuristic_spends}, "leaves the state alone", "heuristic changes 'heaps'", 1),
    ({"symmetry": symmetry_always}, "every image", "played in image 0, does not give image 0", 1),
    ({"symmetry": symmetry_fills}, "every image", "symmetry with k = 0 changes 'heaps'", 0),
    ({"symmetry": symmetry_swaps_movers}, "every image", "to_play is 1 in image 1, but 0", 1),
    ({"symmetry": symmetry_moves_nothing}, "every image", "turned and played in image 1", None),
    ({"symmetry_action": symmetry_action_stays}, "every image", "turned and played in image", 1),
    ({"symmetry_action": symmetry_action_turns_far}, "every image", "image 1 of the legal act", 1),
    ({"outcome": outcome_by_the_left_heap, "to_play": to_play_ends_early},
     "every image", "outcome is ", None),
    ({"legal_actions": legal_spares_the_left_heap},
     "every image", "the number of legal actions or chance outcomes is", None),
    ({"apply_action": apply_prefers_the_left}, "every image", "turned and played in", None),
    ({"apply_action": apply_counts_calls}, "a state is its bytes", "called twice on one state", 0),
    ({"apply_action": apply_pads}, "a state is its bytes", "apply_action fills '_pad'", 0),
    ({"max_plies": 3}, "every game ends", "the game goes on after max_plies = 3 plies", 3),
    ({"action_name": same_name}, "names and", "actions 0 and 1 are both 'take'", 0),
    ({"position": dull_position}, "names and", "position '0,0,0' reads back as", None),
    ({"parse_position": refuse_position}, "names and", "parse_position says: coins: '0,0,-1'", 0),
    ({"parse_position": None}, "names and", "parse_position says", 0),
    ({"render": render_and_spoil}, "names and", "a text function changes the state", 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "law", "what", "ply"),
    FAULTS,
    ids=[getattr(next(iter(c.values())), "__name__", next(iter(c))) for c, *_ in FAULTS],
)
def test_a_broken_law_is_named_with_its_seed_ply_and_values(change, law, what, ply):
    TICKS[0] = 0
    with pytest.raises(LawBroken) as caught:
        check_game(coins(**change), games=20, seed=40)
    message = str(caught.value)
    assert what in message
    found = re.search(r"\(law '(.+)', seed (\d+), ply (\d+)\); to repeat it: (.+)$", message)
    assert found and law in found[1]
    assert found[4] == f"zeroloop check coins --seed {found[2]}"
    assert int(found[2]) == 40 if ply is not None else 40 <= int(found[2]) < 60
    assert ply is None or int(found[3]) == ply


def subtracts_in_one_byte(state, seat):
    """Where heap 1 is the larger, plain Python wraps around at 2^8 and compiled code at 2^64."""
    return (state.heaps[0] - state.heaps[1]) / 300.0


def test_a_rule_that_is_another_compiled_is_named_with_both_values():
    with pytest.raises(LawBroken) as caught:
        check_game(coins(heuristic=subtracts_in_one_byte), games=20)
    message = str(caught.value)
    assert "law 'compiled rules do what they do as plain Python'" in message
    assert re.search(r"heuristic gives \S+ compiled and 0\.8\d+ as plain Python at \[0\]", message)


def test_a_fault_in_a_late_game_is_found_by_the_compiled_games(monkeypatch):
    monkeypatch.setattr(check, "PLAIN_PLIES", 5)
    game = coins(heuristic=rare_heuristic)
    with pytest.raises(LawBroken, match="heuristic gives the seats") as caught:
        check_game(game, games=400)
    seed = int(re.search(r"seed (\d+)", str(caught.value))[1])
    assert seed > 5
    with pytest.raises(LawBroken, match=f"seed {seed}, ply"):
        check_game(game, games=1, seed=seed)


def rare_heuristic(state, seat):
    return 3.0 if state.heaps[0] == 5 and state.heaps[1] == 1 and state.mover == 1 else 0.0


def test_the_numba_free_run_proves_every_law_of_the_toy_games():
    script = (
        "import json; from tests.toy_games import *; from zeroloop.games.check import check_game\n"
        "games = [game for game, _, _ in ANSWERS] + [random_tree(0, 2), random_tree(1, 3)]\n"
        "print(json.dumps([check_game(game, games=20) for game in games]))"
    )
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reports = [check.CheckReport(*report) for report in json.loads(done.stdout)]
    assert all(report.games == 20 and len(report.laws) >= 8 for report in reports)
    assert all("NUMBA_DISABLE_JIT" in report.notes[0] for report in reports)


@pytest.mark.parametrize("name", ["tictactoe", "connect4", "examples/lucky_nim.py"])
def test_the_games_that_come_with_zeroloop_keep_every_law(name):
    seen = []
    report = check_game(make(name), games=200, progress=lambda *done: seen.append(done))
    proved = dict(report.laws)
    assert set(laws.LAWS) - set(proved) <= {laws.DICE}
    assert proved[laws.ENDS] == proved[laws.INITIAL] == 200
    assert proved[laws.MOVER] == report.plies + 200
    assert proved[laws.SAME] == check.PLAIN_PLIES
    assert seen[-1] == (200, 200)
    assert report.states_per_second > 0


def test_a_game_with_dice_and_without_symmetries_keeps_every_law():
    report = check_game(random_tree(0, 3), games=50)
    assert laws.IMAGE not in dict(report.laws)
    assert dict(report.laws)[laws.DICE] > 10
    assert any("no symmetries" in note for note in report.notes)


def test_the_same_seed_gives_the_same_report():
    first, second = (check_game(make("tictactoe"), games=7, seed=3) for _ in range(2))
    assert first[:2] == second[:2] and first.laws == second.laws


# Mistakes in a user's file.


def broken_example(tmp_path, old, new, name):
    """Return the example with one change, as the game file `name`.py, and the change's line."""
    text = EXAMPLE.read_text()
    assert old in text
    path = tmp_path / f"{name}.py"
    path.write_text(text.replace(old, new, 1))
    marked = [k for k, line in enumerate(path.read_text().split("\n"), 1) if "# here" in line]
    return make(str(path)), f"{name}.py:{marked[0]}" if marked else f"{name}.py"


RUNS = {
    "index": ("out[k] = FACES", "out[k + 50] = FACES", "'legal_actions' failed", "IndexError"),
    "field": ("if state.die == 0:", "if state.dye == 0:", "'apply_action' failed", "no attribute"),
    "kind": ("return 1 - state.mover", "return None", "'outcome' at", "returns None"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_rule_that_fails_is_named_with_its_line(case, tmp_path):
    old, new, rule, cause = RUNS[case]
    game, line = broken_example(tmp_path, old, f"{new}  # here", f"runs_{case}")
    with pytest.raises(GameError) as caught:
        check_game(game)
    message = str(caught.value)
    assert message.startswith("game 'lucky_nim': rule ") and rule in message and cause in message
    assert (line if case != "kind" else "runs_kind.py:") in message
    assert re.search(r"\(seed 0, ply \d+\)\.$", message)


COMPILES = {
    "helper": (
        "@helper\ndef stones_left(", "def stones_left(",
        "'to_play'", "'stones_left' is a plain function; decorate it with @helper",
    ),
    "field": (
        "def outcome(state):", "def outcome(state):\n    if state.mover > 5: state.dye = 1  # here",
        "'outcome'", "the state has no field 'dye'",
    ),
    "array": (
        "    k = 0\n", "    k = len(np.zeros(2)) - 2  # here\n",
        "'legal_actions'", "rules allocate nothing: write into the buffers they are given",
    ),
    "table": (
        "    return 1 - state.mover", "    return TABLE[state.mover]  # here",
        "'outcome'", "'TABLE' is a dict, which compiled rules cannot use; use numbers and arrays",
    ),
    "python": (
        "    k = 0\n", "    k = sum(0 for _ in range(3))  # here\n",
        "'legal_actions'", "The use of yield in a closure is unsupported",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPILES)
def test_a_rule_that_does_not_compile_is_named_with_line_and_remedy(case, tmp_path):
    old, new, rule, cause = COMPILES[case]
    path = tmp_path / f"compiles_{case}.py"
    text = EXAMPLE.read_text()
    assert old in text
    path.write_text("import numpy as np\nTABLE = {0: 1, 1: 0}\n" + text.replace(old, new, 1))
    lines = path.read_text().split("\n")
    mark = "# here" if case != "helper" else "    if stones_left(state) == 0:"
    line = next(k for k, line in enumerate(lines, 1) if mark in line)
    with pytest.raises(GameError) as caught:
        explain_rules(make(str(path)))
    message = str(caught.value)
    where = rf"game 'lucky_nim': rule {rule} does not compile at compiles_{case}\.py:(\d+): "
    assert int(re.match(where, message)[1]) == line
    assert message.endswith(f"{cause}.")
    assert "\n" not in message


@pytest.mark.slow
def test_a_check_explains_a_game_that_does_not_compile(tmp_path):
    game, line = broken_example(
        tmp_path, "return 1 - state.mover", "return [1, 0][state.mover]  # here", "whole_check"
    )
    with pytest.raises(GameError, match=f"rule 'outcome' does not compile at {line}: it makes"):
        check_game(game)


def test_a_field_with_the_name_of_an_attribute_of_numpy_is_refused():
    dtype = [("heaps", "u1", (2,)), ("mover", "i1"), ("round", "i1")]
    with pytest.raises(GameError, match="a field 'round', .*rename it, for example to 'round_'"):
        check_game(coins(state_dtype=dtype))


def test_rules_that_compile_need_no_explanation():
    explain_rules(make("tictactoe"))


def test_the_message_of_a_game_file_names_the_file_and_the_options(tmp_path):
    path = tmp_path / "file_game.py"
    path.write_text(EXAMPLE.read_text().replace("max_plies=2 * heaps", "max_plies=1 * heaps"))
    with pytest.raises(LawBroken) as caught:
        check_game(make(str(path), heaps=2, stones=9))
    command = r"to repeat it: zeroloop check \S+/file_game\.py --seed \d+"
    options = " --set game.options.heaps=2 --set game.options.stones=9"
    assert re.search(f"{command}{options}$", str(caught.value))


# The page for those who write their own game.


def test_the_page_shows_the_example_file():
    page = (ROOT / "docs" / "own-game.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert EXAMPLE.read_text() in blocks


def test_the_example_is_short_and_its_positions_read_back():
    text = EXAMPLE.read_text()
    rules = text[: text.index("    return Game(")].split("\n")
    assert sum(bool(line.strip()) for line in rules) < 100
    game = make(str(EXAMPLE))
    state = game.initial_state()
    for name in ("d3", "b2", "d1"):
        game.play(state, game.parse_action(state, name))
    assert game.position(state) == "7,5,7 2 d1"
    assert game.parse_position("7,5,7 2 d1").tobytes() == state.tobytes()
    heaps = ("7,7 1 d0", "8,7,7 1 d0", "7,-1,7 1 d0", "7,7,700 1 d0")
    for wrong in ("", *heaps, "7,7,7 3 d0", "7,7,7 1 d7", "7,7,7 1 x"):
        with pytest.raises(InvalidState, match="lucky_nim"):
            game.parse_position(wrong)
    np.testing.assert_allclose([p for _, p in game.chance(game.initial_state())], 1 / 6)


def test_a_name_that_is_not_defined_above_the_game_is_refused(tmp_path):
    with pytest.raises(GameError, match=r"'outcome' uses 'winner', which is not defined where Game"):
        broken_example(tmp_path, "return 1 - state.mover", "return winner  # here", "undefined")


@pytest.mark.slow
def test_a_decorated_rule_is_taken_as_it_is(tmp_path):
    game, _ = broken_example(tmp_path, "def outcome(state):", "@helper\ndef outcome(state):", "decorated")
    assert check_game(game, games=3).games == 3
