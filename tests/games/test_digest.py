"""The code digest changes with everything that compiled rules depend on, and with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import numpy as np
import pytest

from tests.games.test_check import ROOT
from zeroloop.compiled import helper
from zeroloop.errors import GameError
from zeroloop.games import Game, Observation, make
from zeroloop.games.digest import code_digest

HEADER = """
import enum
import numpy as np
from zeroloop.compiled import helper
"""


def module_of(source, name="sample", **names):
    """Return a module made of this source, always under the same name."""
    module = types.ModuleType(name)
    module.__dict__.update(names)
    exec(compile(HEADER + source, f"{name}.py", "exec"), module.__dict__)
    return module


def digest_of(source):
    """Return the digest of the function `rule` of this source."""
    return code_digest("sample", module_of(source).rule)


CHANGES = {
    "a rule": ("def rule(x): return x + 1", "def rule(x): return x - 1"),
    "a number in a rule": ("def rule(x): return x + 1", "def rule(x): return x + 2"),
    "a kind of number": ("def rule(x): return x + 1", "def rule(x): return x + 1.0"),
    "a truth value": ("def rule(x): return 1", "def rule(x): return True"),
    "a constant": ("A = 1\ndef rule(x): return A", "A = 2\ndef rule(x): return A"),
    "an array": (
        "A = np.array([1, 2])\ndef rule(x): return A[x]",
        "A = np.array([1, 3])\ndef rule(x): return A[x]",
    ),
    "the kind of an array": (
        "A = np.zeros(2, np.int32)\ndef rule(x): return A[x]",
        "A = np.zeros(2, np.float32)\ndef rule(x): return A[x]",
    ),
    "the shape of an array": (
        "A = np.zeros((2, 3))\ndef rule(x): return A[x]",
        "A = np.zeros((3, 2))\ndef rule(x): return A[x]",
    ),
    "a NumPy number": (
        "A = np.uint8(1)\ndef rule(x): return A",
        "A = np.uint16(1)\ndef rule(x): return A",
    ),
    "a value in a dict": (
        "A = {'a': 1, 'b': [2]}\ndef rule(x): return A['a']",
        "A = {'a': 1, 'b': [3]}\ndef rule(x): return A['a']",
    ),
    "a key in a dict": ("A = {1: 1}\ndef rule(x): return A", "A = {2: 1}\ndef rule(x): return A"),
    "a member of a set": (
        "def rule(x): return x in {1, 2, 3}",
        "def rule(x): return x in {1, 2, 4}",
    ),
    "a global set": (
        "A = {'a', 'b'}\ndef rule(x): return A",
        "A = {'a', 'c'}\ndef rule(x): return A",
    ),
    "a value of an enum": (
        "class A(enum.IntEnum):\n    X = 1\ndef rule(x): return A.X",
        "class A(enum.IntEnum):\n    X = 2\ndef rule(x): return A.X",
    ),
    "an enum member": (
        "class A(enum.IntEnum):\n    X = 1\n    Y = 2\nB = A.X\ndef rule(x): return B",
        "class A(enum.IntEnum):\n    X = 1\n    Y = 2\nB = A.Y\ndef rule(x): return B",
    ),
    "a helper": (
        "@helper\ndef f(x): return x\ndef rule(x): return f(x)",
        "@helper\ndef f(x): return -x\ndef rule(x): return f(x)",
    ),
    "a helper's helper": (
        "@helper\ndef g(x): return x\n@helper\ndef f(x): return g(x)\ndef rule(x): return f(x)",
        "@helper\ndef g(x): return -x\n@helper\ndef f(x): return g(x)\ndef rule(x): return f(x)",
    ),
    "a closure cell": (
        "def make(n):\n    def rule(x): return x + n\n    return rule\nrule = make(1)",
        "def make(n):\n    def rule(x): return x + n\n    return rule\nrule = make(2)",
    ),
    "a default": ("def rule(x, y=1): return y", "def rule(x, y=2): return y"),
    "a keyword default": ("def rule(x, *, y=1): return y", "def rule(x, *, y=2): return y"),
    "the default of a helper": (
        "@helper\ndef f(x, y=1): return y\ndef rule(x): return f(x)",
        "@helper\ndef f(x, y=2): return y\ndef rule(x): return f(x)",
    ),
    "a function inside a rule": (
        "def rule(x):\n    f = lambda y: y\n    return f(x)",
        "def rule(x):\n    f = lambda y: -y\n    return f(x)",
    ),
    "a constant that only an inner function reads": (
        "A = 1\ndef rule(x):\n    f = lambda y: y + A\n    return f(x)",
        "A = 2\ndef rule(x):\n    f = lambda y: y + A\n    return f(x)",
    ),
    "which NumPy function is called": (
        "f = np.floor\ndef rule(x): return f(x)",
        "f = np.ceil\ndef rule(x): return f(x)",
    ),
    "which builtin is called": ("def rule(x): return min(x, 1)", "def rule(x): return max(x, 1)"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_changes_with(what):
    before, after = CHANGES[what]
    assert digest_of(before) != digest_of(after)
    assert digest_of(before) == digest_of(before)


SAME = {
    "a comment": ("def rule(x): return x", "# why\n\ndef rule(x):  # so\n    return x"),
    "the order of a dict": (
        "A = {1: 2, 3: 4}\ndef rule(x): return A",
        "A = {3: 4, 1: 2}\ndef rule(x): return A",
    ),
    "a constant that no rule reads": (
        "A, B = 1, 2\ndef rule(x): return A",
        "A, B = 1, 3\ndef rule(x): return A",
    ),
    "a function that no rule calls": (
        "def other(x): return x\ndef rule(x): return x",
        "def other(x): return -x\ndef rule(x): return x",
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_the_digest_does_not_change_with(what):
    before, after = SAME[what]
    assert digest_of(before) == digest_of(after)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_digest_follows_attributes_through_modules(depth):
    digests = set()
    for sign in ("", "-"):
        value = module_of(f"@helper\ndef f(x): return {sign}x\nN = 5", "inner")
        for level in range(depth - 1):
            value = module_of("", f"outer{level}", b=value)
        path = ".".join(["a", *["b"] * (depth - 1), "f"])
        module = module_of(f"def rule(x): return {path}(x)", a=value)
        digests.add(code_digest("sample", module.rule))
    assert len(digests) == 2


def test_the_digest_follows_a_constant_of_another_module():
    digests = set()
    for number in (1, 2):
        module = module_of("def rule(x): return a.N + x", a=module_of(f"N = {number}", "inner"))
        digests.add(code_digest("sample", module.rule))
    assert len(digests) == 2


def test_a_library_in_a_closure_cell_is_known_by_its_name():
    source = "def make():\n    import {} as m\n    def rule(x): return m.floor(x)\n    return rule\n"
    digests = [digest_of(source.format(m) + "rule = make()") for m in ("math", "numpy", "math")]
    assert digests[0] == digests[2] != digests[1]


class Thing:
    pass


THING = Thing()


@helper
def uses_a_thing(x):
    return THING


def reaches_a_thing(x):
    return uses_a_thing(x)


def uses_a_class(x):
    return Thing()


def test_a_value_that_cannot_be_hashed_is_refused_with_the_way_to_it():
    with pytest.raises(GameError) as caught:
        code_digest("odd", reaches_a_thing)
    message = str(caught.value)
    assert message.startswith("game 'odd': ") and "a value of type Thing" in message
    assert "reaches_a_thing -> uses_a_thing -> " in message and "-> THING reaches" in message
    assert "Use numbers, strings, arrays" in message


def test_an_open_file_is_refused(tmp_path):
    with open(tmp_path / "log", "w") as log:
        module = module_of("def rule(x): return LOG.write('x')", LOG=log)
        with pytest.raises(GameError, match=r"rule -> LOG reaches a value of type TextIOWrapper"):
            code_digest("odd", module.rule)


def test_a_class_is_refused():
    with pytest.raises(GameError, match="uses the class Thing, which compiled rules cannot"):
        code_digest("odd", uses_a_class)


def test_a_game_with_a_value_that_cannot_be_hashed_is_refused():
    game = make("tictactoe")
    with pytest.raises(GameError, match="game 'odd': .*a value of type Thing"):
        Game(
            "odd",
            version=1,
            state_dtype=[("x", "i1")],
            num_players=2,
            num_actions=1,
            max_legal=1,
            max_plies=1,
            outcomes=[[0, 0]],
            observation=Observation(globals=1),
            rules={**game.rules, "outcome": reaches_a_thing},
        )


def test_arrays_of_objects_are_refused():
    module = module_of("def rule(x): return A", A=np.array([object()]))
    with pytest.raises(GameError, match="a value of type ndarray"):
        code_digest("odd", module.rule)


def run(script, *args, **env):
    """Return what a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *args],
        cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_digest_is_equal_in_two_processes():
    script = (
        "from tests.games.test_digest import CHANGES, digest_of\n"
        "from tests.toy_games import ANSWERS\n"
        "from zeroloop.games import make\n"
        "for name in ('tictactoe', 'connect4', 'examples/lucky_nim.py'):\n"
        "    print(make(name).code_digest)\n"
        "for game, _, _ in ANSWERS: print(game.code_digest)\n"
        "for before, _ in CHANGES.values(): print(digest_of(before))\n"
    )
    first, second = (run(script, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert first == second and len(first) > 20


# A cached kernel after an edit. The game counts down from START by one or two.

COUNTDOWN = """
from zeroloop.games import TERMINAL, Game, Observation
from {folder}_numbers import rest

START = 7


def initial(state, seed):
    state.left = START


def to_play(state):
    return TERMINAL if state.left <= 0 else 0


def legal_actions(state, out):
    out[0] = 0
    out[1] = 1
    return 2


def apply_action(state, action):
    state.left = rest(state.left, action + 1)


def outcome(state):
    return 0


def observe(state, planes, global_facts):
    global_facts[0] = state.left / 16


GAME = Game(
    "countdown",
    version=1,
    state_dtype=[("left", "i1")],
    num_players=1,
    num_actions=2,
    max_legal=2,
    max_plies=40,
    outcomes=[[1]],
    observation=Observation(globals=1),
    rules={{
        "initial": initial,
        "to_play": to_play,
        "legal_actions": legal_actions,
        "apply_action": apply_action,
        "outcome": outcome,
        "observe": observe,
    }},
)
"""
NUMBERS = """
from zeroloop.compiled import helper


@helper
def rest(left, take):
    return left - take
"""
IDENTITY = (
    "import sys; from zeroloop.games import make, rules_identity\n"
    "from zeroloop.games.identity import trace_games\n"
    "print(rules_identity(make(sys.argv[1])), sum(trace_games.stats.cache_hits.values()))"
)


@pytest.mark.slow
def test_an_edit_of_rule_helper_file_or_constant_reaches_the_cached_kernel(tmp_path):
    source = COUNTDOWN.format(folder=tmp_path.name)
    game, numbers = tmp_path / "countdown.py", tmp_path / f"{tmp_path.name}_numbers.py"

    def identity(game_text, numbers_text):
        game.write_text(game_text)
        numbers.write_text(numbers_text)
        cache = str(tmp_path / "cache")
        return run(IDENTITY, str(game), NUMBA_CACHE_DIR=cache, PYTHONDONTWRITEBYTECODE="1")

    first, hits = identity(source, NUMBERS)
    assert hits == "0"
    assert identity(source, NUMBERS) == [first, "1"]
    edits = {
        "rule": (source.replace("state.left / 16", "state.left / 8"), NUMBERS),
        "helper": (source, NUMBERS.replace("left - take", "left - take - 1")),
        "constant": (source.replace("START = 7", "START = 9"), NUMBERS),
    }
    for what, (game_text, numbers_text) in edits.items():
        other, hits = identity(game_text, numbers_text)
        assert other != first and hits == "0", what
