"""The registry: stages that follow evidence, files that are checked, and changes that are whole or absent.

Real processes: two promoters at once, and one killed with SIGKILL in mid-promotion.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time

import pytest

from zeroloop import model
from zeroloop.config import NetworkConfig
from zeroloop.errors import BusyError, ResumeError, StoreError
from zeroloop.evaluator.choice import shapes_of
from zeroloop.games import make
from zeroloop.networks import build
from zeroloop.registry import Lineage, Registry, check
from zeroloop.registry.evidence import listed, ratings, record, show
from zeroloop.registry.pruning import prune
from zeroloop.registry.stages import promote, promote_passed, rollback

TICTACTOE, CONNECT4 = make("tictactoe"), make("connect4")
SMALL = NetworkConfig(kind="mlp", blocks=1, channels=4, value_hidden=4, policy_channels=4, value_channels=4)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def registry(folder):
    with Registry(folder) as opened:
        yield opened


def entered(registry, seed, game=TICTACTOE, run="a", **lineage):
    """Save a small model in a run, enter it and return its hash."""
    place = registry.folder / run / "models"
    place.mkdir(parents=True, exist_ok=True)
    name = model.save(build(SMALL, shapes_of(game), seed), game, place)
    run_folder = str((registry.folder / run).resolve())
    registry.add(name, game, game.name, place / f"{name}.safetensors", Lineage(run=run_folder, **lineage))
    return name


def player(name, simulations=64):
    if len(name) < 64:
        return {"name": name, "model": None, "simulations": None, "settings": {}}
    return {"name": f"{name[:12]}@{simulations}", "model": name, "simulations": simulations, "settings": {}}


def met(a, b, score, games=400, half=0.05):
    low, high = max(0.0, score - half), min(1.0, score + half)
    return {
        "players": [player(a)["name"], player(b)["name"]],
        "games": games,
        "pairs": games // 2,
        "score": score,
        "interval": [low, high],
    }


def summary(candidate, champion=None, score=0.6, fixed=None, **changes):
    """Return a decision as `promotion.Decision.summary` gives it."""
    passed = changes.pop("promoted", score > 0.55)
    games = changes.pop("games", 400)
    test = changes.pop("test", "accept" if passed else "undecided")
    return {
        "promoted": passed,
        "reason": "promoted: it won." if passed else "not promoted: it lost.",
        "rule": "sprt",
        "candidate": player(candidate)["name"],
        "champion": player(champion)["name"] if champion else None,
        "test": test if champion else None,
        "llr": 3.0,
        "llr_bounds": [-2.9, 2.9],
        "versus_champion": met(candidate, champion, score, games) if champion else None,
        "fixed": {name: met(candidate, name, s, 100) for name, s in (fixed or {}).items()},
        "floors": {},
        "left_out": {},
        "seed": 1,
        "players": {
            "candidate": player(candidate),
            **({"champion": player(champion)} if champion else {}),
            **{name: player(name) for name in fixed or {}},
        },
        **changes,
    }


def stages(registry):
    return {r["hash"]: r["stage"] for r in registry.models()}


# --- promotion on evidence ----------------------------------------------------------------------


def test_model_without_evidence_is_not_promoted_and_nothing_changes(registry):
    name = entered(registry, 1)
    with pytest.raises(StoreError, match="has no evidence; run: zeroloop gauntlet"):
        promote(registry, name)
    assert stages(registry) == {name: "development"} and not show(registry, name)["history"]
    assert not registry.kept.exists()


def test_newest_evidence_decides_and_a_failed_one_is_told(registry):
    a, b = entered(registry, 1), entered(registry, 2)
    record(registry, "tictactoe", summary(a, b, 0.6))
    record(registry, "tictactoe", summary(a, b, 0.4, seed=2))
    with pytest.raises(StoreError, match="not promoted: it lost"):
        promote(registry, a)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"fixed": {"random": 1.0}, "floors": {"random": 0.85}, "fixed_games": 2}, "2 against random"),
        ({"fixed": {"random": 1.0}, "floors": {"random": 0.85}, "fixed_games": 98}, "98 against random"),
        ({"fixed": {"random": 1.0}, "floors": {}}, "no champion to beat and no floor"),
    ],
)
def test_decision_on_too_few_games_is_no_evidence_for_a_stage(registry, given, told):
    a, fixed_games = entered(registry, 1), given.pop("fixed_games", 100)
    found = summary(a, None, promoted=True, **given)
    found["fixed"]["random"]["games"] = fixed_games
    record(registry, "tictactoe", found)
    for stage in ("staging", "production"):
        with pytest.raises(StoreError, match=f"not enough games.*{told}"):
            promote(registry, a, stage)
        assert told in promote_passed(registry, a, stage)
    assert stages(registry) == {a: "development"}


def test_threshold_over_few_games_against_the_champion_is_no_evidence_and_the_sequential_test_is(registry):
    a, b, c = (entered(registry, k) for k in (1, 2, 3))
    promote(registry, a, "production", force="first")
    record(registry, "tictactoe", summary(b, a, 1.0, rule="threshold", games=20))
    with pytest.raises(StoreError, match="not enough games: 20 against the champion"):
        promote(registry, b, "production")
    record(registry, "tictactoe", summary(c, a, 0.9, rule="sprt", games=64))
    assert promote(registry, c, "production")["stage"] == "production"


def test_history_tells_how_many_decisions_failed_before_the_one_that_passed(registry):
    a, b = entered(registry, 1), entered(registry, 2)
    for seed in (2, 3):
        record(registry, "tictactoe", summary(a, b, 0.5, seed=seed))
    record(registry, "tictactoe", summary(b, a, 0.5, seed=4))
    record(registry, "tictactoe", summary(a, b, 0.6, seed=5))
    promote(registry, a)
    reason = show(registry, a)["history"][0]["reason"]
    assert reason == "promoted: it won. 2 decisions about it before this one had failed."


def test_promotion_goes_by_stages_and_keeps_reason_evidence_and_a_copy_of_the_file(registry):
    a = entered(registry, 1)
    floors = {"fixed": {"random": 0.9}, "floors": {"random": 0.85}}
    number = record(registry, "tictactoe", summary(a, None, promoted=True, **floors))
    assert promote(registry, a[:8])["stage"] == "staging"
    assert promote(registry, a)["stage"] == "production" and registry.production("tictactoe") == a
    history = show(registry, a)["history"]
    assert [(h["before"], h["after"], h["decision"], h["forced"]) for h in history] == [
        ("development", "staging", number, 0),
        ("staging", "production", number, 0),
    ]
    assert all(h["reason"] == "promoted: it won." for h in history)
    shutil.rmtree(registry.folder / "a")
    assert registry.load(a).hash == a


def test_forced_promotion_is_recorded_as_such_with_its_reason(registry):
    a = entered(registry, 1)
    promote(registry, a, "production", force="demonstration")
    row = show(registry, a)["history"][0]
    assert (row["forced"], row["reason"], row["decision"]) == (1, "demonstration", None)


def test_blank_reason_forces_nothing(registry):
    a = entered(registry, 1)
    with pytest.raises(StoreError, match="no evidence"):
        promote(registry, a, "production", force="  ")


def test_there_is_one_production_model_of_a_game_and_its_options(registry):
    a, b, c = entered(registry, 1), entered(registry, 2), entered(registry, 1, CONNECT4)
    for name in (a, c):
        promote(registry, name, "production", force="first")
    record(registry, "tictactoe", summary(b, a, 0.6))
    promote(registry, b, "production")
    assert stages(registry) == {a: "staging", b: "production", c: "production"}
    with sqlite3.connect(registry.file) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute("UPDATE models SET stage = 'production' WHERE hash = ?", (a,))
    db.close()


def test_production_needs_evidence_against_the_model_that_is_there_now(registry):
    a, b, c = (entered(registry, k) for k in (1, 2, 3))
    promote(registry, a, "production", force="first")
    record(registry, "tictactoe", summary(b, a, 0.6))
    record(registry, "tictactoe", summary(c, a, 0.7))
    promote(registry, b, "production")
    with pytest.raises(StoreError, match=f"no evidence against {b[:12]}, which is in production now"):
        promote(registry, c, "production")
    assert promote(registry, c, "staging")["stage"] == "staging"


def test_model_that_is_there_already_is_refused(registry):
    a = entered(registry, 1)
    promote(registry, a, "production", force="first")
    for stage in ("staging", "production", None):
        with pytest.raises(StoreError, match="is in production already"):
            promote(registry, a, stage, force="again")


@pytest.mark.parametrize(
    ("rule", "met_it", "stage"),
    [
        ("none", True, "development"),
        ("staging", True, "staging"),
        ("production", True, "production"),
        ("production", False, "staging"),
    ],
)
def test_automatic_promotion_goes_no_further_than_the_evidence(registry, rule, met_it, stage):
    a, b, c = (entered(registry, k) for k in (1, 2, 3))
    promote(registry, a, "production", force="first")
    record(registry, "tictactoe", summary(b, a if met_it else c, 0.6))
    promote_passed(registry, b, rule)
    assert stages(registry)[b] == stage


# --- rollback -----------------------------------------------------------------------------------


def line_of(registry, count):
    """Put models into production one after the other and return their hashes."""
    names = [entered(registry, k) for k in range(1, count + 1)]
    promote(registry, names[0], "production", force="first")
    for before, after in zip(names, names[1:], strict=False):
        record(registry, "tictactoe", summary(after, before, 0.6))
        promote(registry, after, "production")
    return names


def test_rollback_puts_the_former_model_back_and_the_next_one_the_model_before_it(registry):
    a, b, c = line_of(registry, 3)
    assert rollback(registry, "tictactoe", "loses to people")["hash"] == b
    assert rollback(registry, "tictactoe", "that one too")["hash"] == a
    assert stages(registry) == {a: "production", b: "staging", c: "staging"}
    assert show(registry, c)["history"][-1]["reason"] == "loses to people"
    with pytest.raises(StoreError, match="nothing to go back to"):
        rollback(registry, "tictactoe", "once more")


def test_rollback_needs_a_reason_and_a_game_in_production(registry):
    a, _ = line_of(registry, 2)
    with pytest.raises(StoreError, match="needs a reason"):
        rollback(registry, "tictactoe", " ")
    with pytest.raises(StoreError, match=r"hex.*no model in production.*tictactoe"):
        rollback(registry, "hex", "why not")


def test_rolled_back_model_needs_newer_evidence_to_come_back(registry):
    a, b = line_of(registry, 2)
    rollback(registry, "tictactoe", "bad")
    with pytest.raises(StoreError, match="no evidence since it was rolled back"):
        promote(registry, b, "production")
    record(registry, "tictactoe", summary(b, a, 0.7, seed=9))
    assert promote(registry, b, "production")["stage"] == "production"


def test_damaged_former_model_stops_a_rollback_and_nothing_changes(registry):
    a, b = line_of(registry, 2)
    (registry.kept / f"{a}.safetensors").write_bytes(b"else")
    with pytest.raises(StoreError, match="wrong SHA-256"):
        rollback(registry, "tictactoe", "bad")
    assert stages(registry) == {a: "staging", b: "production"}


@pytest.mark.parametrize(
    ("evidence", "back"),
    [
        # The former one challenges: the sequential test accepts it, or not.
        ({"candidate": "former", "score": 0.6, "test": "accept"}, True),
        ({"candidate": "former", "score": 0.52, "test": "undecided"}, False),
        # A floor failed, but the match itself is decided.
        ({"candidate": "former", "score": 0.6, "test": "accept", "promoted": False}, True),
        # The one in production meets the former one over a fixed number of games.
        ({"candidate": "reigning", "score": 0.4, "rule": "threshold"}, True),
        ({"candidate": "reigning", "score": 0.47, "rule": "threshold"}, False),
        ({"candidate": "reigning", "score": 0.4, "rule": "threshold", "games": 98}, False),
        ({"candidate": "reigning", "score": 0.4, "rule": "sprt"}, False),
    ],
)
def test_production_model_that_its_predecessor_beats_is_rolled_back(registry, evidence, back):
    a, b = line_of(registry, 2)
    given = dict(evidence)
    sides = (a, b) if given.pop("candidate") == "former" else (b, a)
    number = record(registry, "tictactoe", summary(*sides, given.pop("score"), seed=3, **given))
    assert registry.production("tictactoe") == (a if back else b)
    if back:
        row = show(registry, b)["history"][-1]
        assert row["kind"] == "rollback" and row["decision"] == number and "automatic" in row["reason"]


def test_strangers_take_nobody_out_of_production(registry):
    a, b = line_of(registry, 2)
    c = entered(registry, 9)
    record(registry, "tictactoe", summary(c, b, 0.9))
    record(registry, "tictactoe", summary(b, c, 0.1, rule="threshold"))
    assert registry.production("tictactoe") == b


# --- evidence and ratings -----------------------------------------------------------------------


def test_evidence_twice_is_there_once(registry):
    a, b = entered(registry, 1), entered(registry, 2)
    first = record(registry, "tictactoe", summary(a, b, 0.6, {"random": 0.9}))
    assert record(registry, "tictactoe", summary(a, b, 0.6, {"random": 0.9})) == first
    found = show(registry, a)
    assert len(found["matches"]) == 2 and len(found["decisions"]) == 1
    assert json.loads(found["decisions"][0]["matches"]) == [m["id"] for m in found["matches"]]


def test_elo_is_that_of_the_matches_and_names_them(registry):
    """A score of 10/11 is 400 Elo by definition; Jeffreys' prior takes a little of it."""
    a, b = entered(registry, 1), entered(registry, 2)
    record(registry, "tictactoe", summary(a, None, fixed={"random": 10 / 11}, promoted=True))
    record(registry, "tictactoe", summary(b, a, 0.5))
    found = ratings(registry, "tictactoe")
    first, second = (found[f"{name[:12]}@64"] for name in (a, b))
    assert first.estimate.elo == pytest.approx(400, abs=15) and first.matches == [1, 2]
    assert second.estimate.elo == pytest.approx(first.estimate.elo, abs=15) and second.matches == [2]
    assert found["random"].estimate.elo == 0
    assert first.estimate.low < 400 < first.estimate.high
    assert {r["hash"]: r["elo"]["games"] for r in listed(registry)} == {a: 500, b: 400}


def test_of_matches_equal_but_for_their_number_of_games_the_longest_counts(registry):
    """The shorter ones are its beginning."""
    a = entered(registry, 1)
    for games in (20, 100, 40):
        given = summary(a, None, fixed={"random": 0.75}, promoted=True)
        given["fixed"]["random"] |= {"games": games, "pairs": games // 2}
        record(registry, "tictactoe", given)
    assert ratings(registry, "tictactoe")[f"{a[:12]}@64"].estimate.games == 100
    record(registry, "tictactoe", summary(a, None, fixed={"random": 0.75}, promoted=True, seed=2))
    found = ratings(registry, "tictactoe")[f"{a[:12]}@64"]
    assert found.estimate.games == 200 and found.matches == [2, 4]


def test_player_that_no_chain_links_to_random_has_a_reason_and_no_number(registry):
    a, b, c = (entered(registry, k) for k in (1, 2, 3))
    record(registry, "tictactoe", summary(a, None, fixed={"random": 0.9}, promoted=True))
    record(registry, "tictactoe", summary(b, c, 0.6))
    found = ratings(registry, "tictactoe")[f"{b[:12]}@64"]
    assert found.estimate is None and "links it to random" in found.reason


def test_simulations_are_rated_apart(registry):
    a = entered(registry, 1)
    for simulations, score in ((0, 0.6), (64, 0.9)):
        given = summary(a, None, fixed={"random": score}, promoted=True)
        given["players"]["candidate"] = player(a, simulations)
        record(registry, "tictactoe", given)
    found = ratings(registry, "tictactoe")
    assert found[f"{a[:12]}@0"].estimate.elo < found[f"{a[:12]}@64"].estimate.elo


def test_model_of_another_game_is_refused_as_evidence(registry):
    a, c = entered(registry, 1), entered(registry, 1, CONNECT4)
    for game, sides in (("tictactoe", (a, c)), ("connect4", (a, c)), ("tictactoe", (a, "f" * 64))):
        with pytest.raises(StoreError, match=r"plays (connect4|tictactoe)|is not entered"):
            record(registry, game, summary(*sides, 0.6))
    assert not show(registry, a)["matches"]


def test_model_of_another_game_is_refused_at_load(registry):
    a = entered(registry, 1)
    assert registry.load(a, TICTACTOE).hash == a
    with pytest.raises(ResumeError, match="plays tictactoe, not connect4"):
        registry.load(a, CONNECT4)


# --- names, tags, files -------------------------------------------------------------------------


def test_lineage_is_kept_and_only_what_was_unknown_is_added(registry):
    a = entered(registry, 1)
    entered(registry, 1, positions=500, steps=7, games=30, parent="p" * 64)
    entered(registry, 1, positions=900)
    row = registry.model(a)
    assert (row["positions"], row["steps"], row["games"], row["parent"]) == (500, 7, 30, "p" * 64)
    assert row["rules_identity"] and row["game"] == "tictactoe" and row["created"]


def test_model_is_named_by_hash_digits_or_tag(registry):
    a, b = entered(registry, 1), entered(registry, 2)
    assert registry.model(a[:6])["hash"] == registry.model(a)["hash"] == a
    registry.tag(b, "best")
    assert registry.model("best")["hash"] == b
    registry.tag(a, "best")
    for name, told in (("best", "means 2 models"), (a[:5], "knows no model"), ("nobody", "knows no model")):
        with pytest.raises(StoreError, match=told):
            registry.model(name)
    assert registry.tag(b, "best", remove=True)["tags"] == []
    with pytest.raises(StoreError, match="has no tag"):
        registry.tag(b, "best", remove=True)
    for bad in ("", "two words", "a/b"):
        with pytest.raises(StoreError, match="letters, digits"):
            registry.tag(a, bad)
    for bad in ("abcdef", "20261121", a[:12]):
        with pytest.raises(StoreError, match="beginning of a hash"):
            registry.tag(a, bad)
    assert registry.tag(a, "abcde")["tags"] == ["abcde", "best"]


def test_wrong_hash_is_named_with_file_and_both_hashes(registry):
    a, b = entered(registry, 1), entered(registry, 2)
    path = registry.path(registry.model(a))
    path.write_bytes(registry.path(registry.model(b)).read_bytes())
    for ask in (lambda: registry.load(a), lambda: promote(registry, a, "staging", force="x")):
        with pytest.raises(StoreError, match=rf"{a}\.safetensors has the wrong SHA-256: {b[:12]}.*{a[:12]}"):
            ask()
    path.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        registry.load(a)
    assert stages(registry)[a] == "development"


def test_registry_and_its_files_may_move_together(registry, tmp_path):
    a = entered(registry, 1)
    promote(registry, a, force="x")
    registry.close()
    os.rename(registry.folder, tmp_path / "elsewhere")
    with Registry(tmp_path / "elsewhere") as moved:
        assert moved.load(a).hash == a


def test_damaged_or_foreign_registry_is_named(tmp_path):
    for content, told in ((b"no database" * 500, "is damaged"), (None, "format 99")):
        place = tmp_path / told.replace(" ", "")
        place.mkdir()
        if content is None:
            with Registry(place) as opened, opened.change() as db:
                db.execute("PRAGMA user_version = 99")
        else:
            (place / "registry.sqlite").write_bytes(content)
        with pytest.raises(StoreError, match=told):
            Registry(place)


def test_reader_refuses_a_registry_without_bytes_or_that_is_absent_and_makes_nothing(tmp_path):
    with pytest.raises(StoreError, match="there is no registry in"):
        Registry(tmp_path / "new", make=False)
    assert not (tmp_path / "new").exists()
    (tmp_path / "registry.sqlite").touch()
    for read in (lambda: Registry(tmp_path, make=False), lambda: check(tmp_path)):
        with pytest.raises(StoreError, match=r"registry\.sqlite is damaged \(it has no bytes\)"):
            read()
    assert (tmp_path / "registry.sqlite").stat().st_size == 0


def test_check_finds_damage_that_opening_does_not(registry, folder):
    for seed in range(12):
        entered(registry, seed)
    registry.close()
    check(folder)
    data = bytearray(registry.file.read_bytes())
    (page,) = struct.unpack(">H", data[16:18])
    data[2 * page : 4 * page] = bytes(2 * page)
    registry.file.write_bytes(data)
    with Registry(folder) as opened:
        opened.rows("PRAGMA user_version")
    with pytest.raises(StoreError, match="is damaged"):
        check(folder)


def test_change_that_waits_too_long_is_told_and_changes_nothing(registry, folder):
    a = entered(registry, 1)
    told = pytest.raises(BusyError, match="another process may hold it")
    with Registry(folder, timeout=0.1) as other, registry.change(), told:
        promote(other, a, force="x")
    assert stages(registry)[a] == "development"


# --- pruning ------------------------------------------------------------------------------------


def there(registry):
    return {p.stem for p in registry.folder.glob("*/models/*.safetensors")}


def test_pruning_keeps_the_best_the_newest_the_staged_the_tagged_and_parents(registry):
    names = [entered(registry, k) for k in range(1, 9)]
    child = entered(registry, 20, parent=names[1])
    promote(registry, child, force="x")
    registry.tag(names[2], "liked")
    record(registry, "tictactoe", summary(names[3], None, fixed={"random": 0.9}, promoted=True))
    record(registry, "tictactoe", summary(names[4], None, fixed={"random": 0.6}, promoted=True))
    before = there(registry)
    told = prune(registry, best=1, newest=2, dry=True)
    assert there(registry) == before and told["bytes"] > 0
    found = prune(registry, best=1, newest=2)
    assert found["removed"] == told["removed"]
    assert there(registry) == {names[1], names[2], names[3], names[7], child}
    assert set(found["kept"]) == there(registry)
    assert len(registry.models()) == 9 and show(registry, names[4])["matches"]
    with pytest.raises(StoreError, match="was pruned"):
        registry.load(names[4])
    assert prune(registry, best=1, newest=2)["removed"] == []


def test_pruning_keeps_what_a_run_needs_to_go_on(registry):
    names = [entered(registry, k) for k in (1, 2, 3)]
    run = registry.folder / "a"
    (run / "config.yaml").write_text("game: {name: tictactoe}\n")
    (run / "champion").write_text(names[0])
    (run / "newest").write_text(names[1])
    assert prune(registry, best=0, newest=0)["removed"] == [names[2]]
    assert there(registry) == set(names[:2])


@pytest.mark.parametrize("stored", ["relative", "absolute"])
def test_pruning_keeps_what_a_run_needs_after_run_and_registry_have_moved(registry, tmp_path, stored):
    names = [entered(registry, k) for k in (1, 2, 3)]
    run, place = registry.folder / "a", tmp_path / "elsewhere"
    (run / "config.yaml").write_text("game: {name: tictactoe}\n")
    (run / "champion").write_text(names[0])
    (run / "newest").write_text(names[1])
    if stored == "absolute":
        with registry.change() as db:
            db.execute("UPDATE models SET run = ?", (str(run.resolve()),))
    registry.close()
    os.rename(registry.folder, place)
    with Registry(place) as moved:
        assert prune(moved, best=0, newest=0)["removed"] == [names[2]]
        assert there(moved) == set(names[:2])


def test_pruning_keeps_the_champion_of_a_checkpoint(registry):
    names = [entered(registry, k) for k in (1, 2)]
    run = registry.folder / "a"
    (run / "config.yaml").write_text("game: {name: tictactoe}\n")
    (run / "checkpoints" / "00000001").mkdir(parents=True)
    (run / "checkpoints" / "00000001" / "state.json").write_text(json.dumps({"champion": names[0]}))
    assert prune(registry, best=0, newest=0)["removed"] == [names[1]]


def test_model_that_several_runs_hold_is_kept_for_any_and_else_removed_from_all(registry):
    a, b = entered(registry, 1), entered(registry, 2)
    for run in ("a", "b", "c"):
        assert (entered(registry, 1, run=run), entered(registry, 2, run=run)) == (a, b)
    (registry.folder / "b" / "config.yaml").write_text("game: {name: tictactoe}\n")
    (registry.folder / "b" / "champion").write_text(a)
    files = list(registry.folder.glob(f"*/models/{b}.safetensors"))
    size = sum(path.stat().st_size for path in files)
    assert len(files) == 3
    found = prune(registry, best=0, newest=0)
    assert found["removed"] == [b] and found["kept"] == {a: "champion of b"} and found["bytes"] == size
    assert there(registry) == {a} and len(list(registry.folder.glob("*/models/*.safetensors"))) == 3


def test_model_of_a_renamed_run_is_entered_where_it_is_now(registry):
    a = entered(registry, 1)
    (registry.folder / "a").rename(registry.folder / "new")
    with pytest.raises(StoreError, match="cannot be read"):
        registry.load(a)
    entered(registry, 1, run="new")
    assert registry.load(a).hash == a
    assert (registry.model(a)["run"], registry.model(a)["removed"]) == ("new", None)


def test_pruning_keeps_all_models_of_a_run_in_which_past_models_play(registry):
    names = [entered(registry, k) for k in (1, 2, 3)]
    text = "game: {name: tictactoe}\nselfplay: {opponents: [{player: past, share: 0.2}]}\n"
    (registry.folder / "a" / "config.yaml").write_text(text)
    assert prune(registry, best=0, newest=0)["removed"] == [] and there(registry) == set(names)


def test_files_that_a_killed_pruning_left_go_with_the_next_one(registry):
    a = entered(registry, 1)
    with registry.change() as db:
        db.execute("UPDATE models SET removed = 'then' WHERE hash = ?", (a,))
    assert there(registry) == {a}
    prune(registry, best=0, newest=0)
    assert there(registry) == set()


def test_pruned_model_that_is_made_again_is_there_again(registry):
    a = entered(registry, 1)
    prune(registry, best=0, newest=0)
    assert entered(registry, 1) == a and registry.load(a).hash == a


# --- several processes --------------------------------------------------------------------------

PROMOTER = """
import pathlib, sys, time
from zeroloop.errors import StoreError
from zeroloop.registry import Registry
from zeroloop.registry.stages import promote
folder, name, start = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
with Registry(folder) as registry:
    print("ready", flush=True)
    sys.stdin.readline()
    time.sleep(max(0, start - time.time()))
    try:
        promote(registry, name, "production")
        print("won")
    except StoreError as error:
        print(f"refused: {error}")
"""


def started(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("reigning", [True, False])
def test_of_two_promoters_at_once_exactly_one_wins(registry, folder, reigning):
    """Both have evidence against the model in production; after the first has won, the second has none."""
    a, b, c = (entered(registry, k) for k in (1, 2, 3))
    if reigning:
        promote(registry, a, "production", force="first")
    for name in (b, c):
        record(registry, "tictactoe", summary(name, a, 0.6))
    for _ in range(3):
        processes = [started(PROMOTER, folder, name, 0) for name in (b, c)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        answers = []
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            answers.append(process.communicate(timeout=60)[0].strip())
            assert process.returncode == 0
        assert sorted(x[:7] for x in answers) == ["refused", "won"]
        winner, loser = (b, c) if answers[0] == "won" else (c, b)
        assert f"no evidence against {winner[:12]}" in "".join(answers)
        assert stages(registry)[winner] == "production" and stages(registry)[loser] == "development"
        assert not show(registry, loser)["history"]
        with registry.change() as db:  # once more from the start
            db.execute("UPDATE models SET stage = 'development' WHERE hash = ?", (winner,))
            if reigning:
                db.execute("UPDATE models SET stage = 'production' WHERE hash = ?", (a,))
            db.execute("DELETE FROM history WHERE hash = ?", (winner,))


KILLED = """
import os, pathlib, signal, sys
from zeroloop.registry import Registry, stages
real, point, count = stages._move, int(sys.argv[3]), [0]
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def move(*args, **named):
    if count[0] == point:
        die()
    count[0] += 1
    real(*args, **named)
stages._move = move
with Registry(pathlib.Path(sys.argv[1])) as registry:
    if point == 2:  # everything is written, but not committed
        commit = registry.change
        import contextlib
        @contextlib.contextmanager
        def change():
            with commit() as db:
                yield db
                die()
        registry.change = change
    stages.promote(registry, sys.argv[2], "production")
"""


@pytest.mark.parametrize("point", [0, 1, 2])
def test_promotion_killed_at_any_step_leaves_nothing_half_promoted(registry, folder, point):
    a, b = entered(registry, 1), entered(registry, 2)
    promote(registry, a, "production", force="first")
    record(registry, "tictactoe", summary(b, a, 0.6))
    process = started(KILLED, folder, b, point)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert stages(registry) == {a: "production", b: "development"}
    assert not show(registry, b)["history"] and len(show(registry, a)["history"]) == 1
    assert registry.load(b).hash == b
    promote(registry, b, "production")
    assert stages(registry) == {a: "staging", b: "production"}


WRITER = """
import json, pathlib, sys
from zeroloop.registry import Registry
from zeroloop.registry.evidence import record
given = json.loads(sys.stdin.readline())
for seed in range(15):
    with Registry(pathlib.Path(sys.argv[1])) as registry:
        record(registry, "tictactoe", {**given, "seed": seed + 100 * int(sys.argv[2])})
"""


def test_evidence_of_several_processes_at_once_is_all_there(registry, folder):
    a, b = entered(registry, 1), entered(registry, 2)
    processes = [started(WRITER, folder, k) for k in range(4)]
    began = time.monotonic()
    for process in processes:
        process.stdin.write(json.dumps(summary(a, b, 0.5, {"random": 0.9})) + "\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert time.monotonic() - began < 30
    assert len(show(registry, a)["matches"]) == 4 * 15 * 2


FIRST = """
import pathlib, sys
from zeroloop.registry import Registry
sys.stdin.readline()
with Registry(pathlib.Path(sys.argv[1])) as registry:
    print(len(registry.models()))
"""


def test_registry_may_be_made_by_several_processes_at_once(tmp_path):
    processes = [started(FIRST, tmp_path / "new") for _ in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate(timeout=60)[0] == "0\n" and process.returncode == 0
