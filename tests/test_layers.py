"""The house rules that a machine can check: layers, lengths, compiled calls, the README's tree."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "zeroloop"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = {
    "errors compiled draws schedule configfile config metrics likelihood elo rating symptoms files": 0,
    "games": 1,
    "search networks": 2,
    "evaluator model onnx openings players episode replay health experience": 3,
    "gradients gradient_processes": 4,
    "selfplay learner match notation crosstable judge action_values regret tournament": 4,
    "promotion registry run distributed": 4,
    "models evaluation rates start": 5,
    "analysis searcher train cluster gauntlet watch bench report play query view status outside sizing": 5,
    "uci_text uci gnubg_player wire serve session": 6,
    "cli __main__ __init__": 7,
}
LAYER = {name: level for names, level in LAYERS.items() for name in names.split()}
TORCH = {"networks", "evaluator", "gradients", "gradient_processes", "learner", "model", "onnx", "run"}

LONG_FILES = {
    "config.py": "every key of the tree with its meaning",
    "players/connect4_solver.py": "one algorithm whose parts share a table and a layout",
    "configfile.py": "reading, building and describing share one set of type rules",
    "report.py": "one page with its picture",
    "games/game.py": "the contract on one page",
    "games/backgammon.py": "the rules, texts and heuristic of a game",
    "games/hex.py": "the rules, texts and heuristic of a game",
    "search/kernels.py": "the hot kernels, inlined into one another",
}
LONG_FUNCTIONS = {
    "games/game.py:__init__": "the facts of a game and the text that explains each",
}


def top(path):
    """Return the name of the module or package directly under zeroloop."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Yield (absolute dotted module, line) of each import, those inside functions included."""
    package = ["zeroloop", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            dotted = ".".join([*base, *([node.module] if node.module else [])])
            if dotted == "zeroloop":
                for alias in node.names:
                    yield f"zeroloop.{alias.name}", node.lineno
            else:
                yield dotted, node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_the_layers(path):
    here = top(path)
    if here == "__init__":
        return
    for dotted, line in imports(path):
        words = dotted.split(".")
        if words[0] == "zeroloop" and len(words) > 1 and words[1] in LAYER:
            place = f"{path.relative_to(ROOT)}:{line}"
            assert LAYER[words[1]] <= LAYER[here], f"{place} imports {dotted} from a higher layer"
            if here == "search":
                assert words[1] != "networks", f"{place}: search knows no network"
        if words[0] == "torch":
            assert here in TORCH, f"{path.relative_to(ROOT)}:{line}: torch belongs to {sorted(TORCH)}"
        assert words[0] not in ("pickle", "shelve", "marshal"), f"{path}:{line}: no pickle"
        assert words[0] != "ray" or here == "cluster"
        assert words[0] != "redis" or path.name == "redis.py"


def test_every_module_has_a_layer():
    assert {top(path) for path in FILES} <= set(LAYER)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_short_or_have_a_reason(path):
    name = path.relative_to(PACKAGE).as_posix()
    source = path.read_text()
    if name not in LONG_FILES:
        assert source.count("\n") <= 400, f"{name} is long; split it or give a reason"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if f"{name}:{node.name}" not in LONG_FUNCTIONS:
                assert node.end_lineno - node.lineno < 80, f"{name}:{node.name} is long"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_broad_except_and_no_forbidden_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            ends = any(isinstance(n, ast.Raise) for n in ast.walk(node))
            broad = caught in ("everything", "Exception", "BaseException")
            assert not broad or ends, f"{path}:{node.lineno} catches {caught} and goes on"
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            assert not re.search(r"(?i)manager|coordinator|handler|utils|_v2", node.name), node.name
    assert not re.search(r"(?i)manager|coordinator|handler|utils|_v2", path.name)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_kernels_without_a_game_call_helpers_of_their_own_file_only(path):
    """Numba's cache sees only the kernel's file; a game's type carries a digest of the rest."""
    tree = ast.parse(path.read_text())
    foreign = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level and node.module != "compiled":
            foreign |= {a.asname or a.name: node.module or a.name for a in node.names}
    for node in tree.body:
        marks = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
        if "kernel" not in marks or any(a.arg == "game" for a in node.args.args):
            continue
        for call in ast.walk(node):
            if isinstance(call, ast.Call):
                name = ast.unparse(call.func).split(".")[0]
                assert foreign.get(name, "draws") in ("draws", ""), f"{path}:{node.name} calls {name}"


def test_import_zeroloop_loads_nothing_heavy():
    code = (
        "import sys, zeroloop; bad = [m for m in ('torch', 'ray', 'numba', 'numpy', 'openvino') "
        "if m in sys.modules]; sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_constraints_and_pyproject_pin_the_same_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["uv"]["constraint-dependencies"] == pinned
    assert "torch==2.13.0" in pinned


def test_readme_tree_is_the_real_one():
    """The README ends with the tree of the package, one line per file."""
    text = (ROOT / "README.md").read_text()
    tree = text.split("## The whole tree")[1]
    named = set(re.findall(r"^ *([\w/]+\.py) ", tree, re.M))
    real = {p.relative_to(PACKAGE).as_posix() for p in FILES if p.name != "__main__.py"}
    assert named == real


def test_no_file_names_a_registry_host_or_machine_path():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    for name in listed.split():
        path = ROOT / name
        if path.suffix in (".md", ".py", ".toml", ".txt", ".yaml", "") and path.is_file():
            text = path.read_text(errors="ignore")
            for word in ("pypi" + ".org", "python" + "hosted", "/wo" + "rk/", "/op" + "t/wheels"):
                assert word not in text, f"{name} names {word}"
