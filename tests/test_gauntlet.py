"""The gauntlet: whom a candidate meets, what is kept with it, what is refused before a game is played."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner

from tests.material import run_config, session
from zeroloop import model
from zeroloop.cli import main
from zeroloop.errors import PlayerError, ResumeError, StoreError
from zeroloop.evaluator.choice import shapes_of
from zeroloop.games import make
from zeroloop.gauntlet import find_candidate, run_gauntlet
from zeroloop.networks import build
from zeroloop.promotion import read_matches
from zeroloop.registry import Lineage, Registry
from zeroloop.registry.evidence import show
from zeroloop.registry.stages import promote

PROMOTE = {"max_pairs": 4, "floors": {"random": 0.1}, "floor_games": 100, "automatic": "staging"}
GIVEN = run_config(promote=PROMOTE, evaluate={"opponents": {"minimax:1": 4}})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gauntlet") / "runs"
    session(folder / "a", GIVEN)
    return folder


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """Return a copy of a folder with a run and its registry, which is also the current folder's `runs`."""
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def registry(runs):
    with Registry(runs) as opened:
        yield opened


def fight(registry, name, settings=GIVEN, **given):
    return run_gauntlet(find_candidate(str(name), registry), settings, registry, **given)


def newest(runs):
    return model.read_pointer(runs / "a" / "newest")


# --- the loop feeds the registry ----------------------------------------------------------------


def test_every_evaluation_of_the_loop_is_in_the_registry_with_its_lineage(trained):
    rows = read_matches(trained / "a" / "matches.jsonl")
    with Registry(trained) as registry:
        entered = {r["hash"]: r for r in registry.models()}
        for row in rows:
            found = show(registry, row["model"])
            assert [d["reason"] for d in found["decisions"]] == [row["reason"]]
            assert len(found["decisions"][0]["matches"]) and found["config_hash"]
            assert found["positions"] == row["positions"] and found["steps"] > 0 and found["games"] > 0
            assert entered[found["parent"]]["positions"] < found["positions"]
            assert found["stage"] == ("staging" if row["promoted"] else "development")
    assert len(entered) == len(rows) + 1 and rows


def test_evidence_of_the_loop_names_floors_players_and_seed(trained):
    row = read_matches(trained / "a" / "matches.jsonl")[0]
    assert row["floors"] == {"random": 0.1} and row["left_out"] == {}
    assert row["fixed"]["random"]["games"] == 100 and row["fixed"]["minimax:1"]["games"] == 4
    assert row["players"]["candidate"]["model"] == row["model"] and row["seed"] > 0


# --- whom the candidate meets -------------------------------------------------------------------


def test_run_means_its_newest_model_against_its_champion(runs, registry):
    (runs / "a" / "newest").write_text(registry.models()[-1]["hash"])  # the random start
    (runs / "a" / "champion").write_text(registry.models()[0]["hash"])
    found = fight(registry, runs / "a")
    assert found["model"] == newest(runs)
    assert found["players"]["champion"]["model"] == registry.models()[0]["hash"]
    assert set(found["fixed"]) == {"random", "minimax:1"}
    assert show(registry, found["model"])["decisions"][-1]["id"] == found["decision"]


def test_model_of_a_copied_run_is_found_with_the_run_beside_it_though_the_first_one_is_still_there(
    trained, runs, registry
):
    stored = registry.rows("SELECT DISTINCT run FROM models")
    assert [row["run"] for row in stored] == ["a"]
    assert find_candidate(newest(runs), registry).run.resolve() == (runs / "a").resolve()
    with registry.change() as db:  # as older registries hold it
        db.execute("UPDATE models SET run = ?", (str(trained / "a"),))
    assert find_candidate(newest(runs), registry).run.resolve() == (runs / "a").resolve()


def test_model_in_production_is_to_be_beaten_before_the_runs_champion(runs, registry):
    first = registry.models()[-1]["hash"]
    promote(registry, first, "production", force="test")
    (runs / "a" / "champion").write_text(newest(runs))
    found = fight(registry, newest(runs)[:10])
    assert found["players"]["champion"]["model"] == first


@pytest.mark.slow
def test_candidate_in_production_meets_the_model_that_it_replaced(runs, registry):
    first, last = registry.models()[-1]["hash"], newest(runs)
    promote(registry, first, "production", force="test")
    assert fight(registry, first)["versus_champion"] is None
    promote(registry, last, "production", force="test")
    assert fight(registry, last)["players"]["champion"]["model"] == first


def test_champion_of_its_own_run_meets_the_fixed_opponents_only(runs, registry):
    (runs / "a" / "champion").write_text(newest(runs))
    found = fight(registry, runs / "a")
    assert found["versus_champion"] is None and "no champion" in found["reason"]
    assert found["promoted"] is (found["fixed"]["random"]["score"] >= 0.1)


def test_engines_are_met_and_reported_without_a_floor(runs, registry):
    settings = replace(GIVEN, promote=replace(GIVEN.promote, engines={"minimax:2": 4}))
    found = fight(registry, runs / "a", settings)
    assert found["fixed"]["minimax:2"]["games"] == 4 and "minimax:2" not in found["floors"]


def test_number_of_games_may_be_given_for_all(runs, registry):
    settings = replace(GIVEN, promote=replace(GIVEN.promote, rule="threshold"))
    first = registry.models()[-1]["hash"]
    found = fight(registry, newest(runs), settings, champion=first, games=8)
    assert {m["games"] for m in (found["versus_champion"], *found["fixed"].values())} == {8}


def test_gauntlet_of_few_games_is_a_report_and_never_a_pass(runs, registry):
    (runs / "a" / "champion").write_text(newest(runs))
    found = fight(registry, runs / "a", games=2)
    assert found["fixed"]["random"]["games"] == 2 and not found["promoted"]
    assert found["reason"].startswith("not promoted: not enough games: 2 against random")
    assert not show(registry, found["model"])["decisions"][-1]["passed"]


# --- what is stored -----------------------------------------------------------------------------


def test_floor_that_is_not_met_is_a_refusal_with_its_reason_in_the_registry(runs, registry):
    settings = replace(GIVEN, promote=replace(GIVEN.promote, floors={"minimax:3": 1.0}))
    found = fight(registry, runs / "a", settings)
    assert not found["promoted"] and "against minimax:3" in found["reason"]
    assert "below the floor of 100 %" in show(registry, found["model"])["decisions"][-1]["reason"]


@pytest.mark.slow
def test_same_gauntlet_with_the_same_seed_is_the_same_evidence(runs, registry):
    one, two, other = (fight(registry, runs / "a", seed=s) for s in (5, 5, 6))
    assert one["decision"] == two["decision"] != other["decision"]
    assert one["fixed"] == two["fixed"]


def test_gauntlet_writes_nothing_that_the_trainer_writes(runs, registry):
    files = {p: p.read_bytes() for p in (runs / "a").rglob("*") if p.is_file()}
    fight(registry, runs / "a")
    assert {p: p.read_bytes() for p in (runs / "a").rglob("*") if p.is_file()} == files


# --- what is refused ----------------------------------------------------------------------------


def decisions(registry):
    return registry.rows("SELECT count(*) AS n FROM decisions")[0]["n"]


@pytest.mark.parametrize("name", ["nobody", "minimax:x", "stockfish:nodes=10"])
def test_player_that_cannot_play_leaves_no_evidence(runs, registry, name):
    before = decisions(registry)
    settings = replace(GIVEN, promote=replace(GIVEN.promote, engines={name: 4}))
    with pytest.raises(PlayerError):
        fight(registry, runs / "a", settings)
    assert decisions(registry) == before


def test_champion_of_another_game_is_refused_by_name(runs, registry):
    game, place = make("connect4"), runs / "other" / "models"
    place.mkdir(parents=True)
    name = model.save(build(GIVEN.network, shapes_of(game), 1), game, place)
    registry.add(name, game, "connect4", place / f"{name}.safetensors", Lineage())
    before = decisions(registry)
    with pytest.raises(ResumeError, match="plays connect4, not tictactoe"):
        fight(registry, runs / "a", champion=name)
    assert decisions(registry) == before


def test_damaged_candidate_is_refused_by_name(runs, registry):
    path = runs / "a" / "models" / f"{newest(runs)}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for name in (runs / "a", newest(runs)):
        with pytest.raises(StoreError, match=r"is damaged|wrong SHA-256"):
            fight(registry, name)


def test_candidate_is_no_champion_of_itself_and_strangers_are_unknown(runs, registry):
    with pytest.raises(StoreError, match="is the candidate itself"):
        fight(registry, runs / "a", champion=newest(runs))
    with pytest.raises(StoreError, match="knows no model 'abcdefabcdef'"):
        fight(registry, "abcdefabcdef")


# --- the commands -------------------------------------------------------------------------------


def invoke(*words):
    return CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)


def answer(*words):
    found = invoke(*words, "--json")
    assert found.exit_code == 0, found.stderr
    assert found.stdout.count("\n") == 1
    return json.loads(found.stdout)


def test_commands_from_gauntlet_to_production_and_back(runs):
    first = answer("models", "list")["models"][-1]["hash"]
    assert (
        answer("models", "promote", first, "--to", "production", "--force", "start")["stage"] == "production"
    )
    found = answer("gauntlet", "runs/a", "--games", 4, "--set", "promote.floors.random=0")
    assert found["players"]["champion"]["model"] == first and found["game"] == "tictactoe"
    name = found["model"]
    told = invoke("gauntlet", "runs/a", "--games", 4, "--set", "promote.floors.random=0")
    assert told.exit_code == 0 and "random" in told.stdout and "by seat" in told.stdout
    answer("models", "promote", name, "--to", "production", "--force", "test")
    assert answer("models", "tag", name, "good")["tags"] == ["good"]
    assert answer("models", "show", "good")["history"][-1]["forced"] == 1
    assert answer("models", "rollback", "tictactoe", "--reason", "test")["hash"] == first
    assert [r["hash"] for r in answer("models", "list", "--stage", "production")["models"]] == [first]
    assert name not in answer("models", "prune", "--best", 0, "--newest", 0)["removed"]
    for words in (("models", "list"), ("models", "show", name), ("models", "prune", "--dry-run")):
        assert invoke(*words).exit_code == 0


def test_refusals_are_one_sentence(runs, tmp_path):
    for words, told in (
        (("models", "promote", newest(runs), "--to", "production", "--registry", tmp_path), "no registry in"),
        (("models", "show", "nobody"), "knows no model"),
        (("models", "rollback", "chess", "--reason", "x"), "no model in production"),
        (("gauntlet", "nobody"), "knows no model"),
        (("gauntlet", "runs/nothere"), "there is no run or model file 'runs/nothere'"),
        (("models", "tag", newest(runs), "abcdef12"), "beginning of a hash"),
    ):
        found = invoke(*words)
        assert found.exit_code == 1 and told in found.stderr and not found.stdout
        assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("abcdef12", "there is no model 'abcdef12'"),
        ("runs/nothere", "there is no run"),
        ("x.sft", "no model"),
    ],
)
def test_mistyped_name_makes_no_registry(tmp_path, monkeypatch, name, told):
    monkeypatch.chdir(tmp_path)
    found = invoke("gauntlet", name)
    assert found.exit_code == 1 and told in found.stderr
    assert not list(tmp_path.iterdir())


def test_list_without_models_says_so(tmp_path):
    with Registry(tmp_path):
        pass
    found = invoke("models", "list", "--registry", tmp_path)
    assert found.exit_code == 0 and found.stderr == "no models\n" and not found.stdout


def test_tag_that_another_model_has_is_told(runs):
    with Registry(runs) as registry:
        a, b = (row["hash"] for row in registry.models()[:2])
    assert not invoke("models", "tag", a, "good").stderr
    assert f"is a tag of {a[:12]} too, so it names none" in invoke("models", "tag", b, "good").stderr


def test_flag_alone_is_blamed_for_a_floor_that_cannot_be(runs):
    found = invoke("gauntlet", "runs/a", "--set", "promote.floors.random=2")
    assert found.exit_code == 1 and "config.yaml" not in found.stderr
    assert "--set promote.floors.random: promote.floors.random is 2" in found.stderr
