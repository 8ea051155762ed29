"""Self-play: legal games that replay, whatever their company, and that say what may be learnt from them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from tests.material import CUT_TREE, TICTACTOE, Scripted, lowest, number, small_config, turns
from tests.search.test_matches_reference import PlainEvaluator
from tests.toy_games import hashed_evaluator
from zeroloop.config import OpponentConfig
from zeroloop.episode import Episode
from zeroloop.errors import PlayerError
from zeroloop.evaluator import UniformEvaluator
from zeroloop.evaluator.choice import Choice, shapes_of
from zeroloop.games.game import CHANCE, TERMINAL
from zeroloop.networks import build
from zeroloop.schedule import Schedule
from zeroloop.selfplay import SelfPlay
from zeroloop.selfplay.collector import LocalCollector

GAMES = {"tictactoe": TICTACTOE, "cut_tree": CUT_TREE}


def episodes_of(game, keys, *, evaluator=None, group=0, groups=1, make_player=None, **sections):
    """Play until all games with these keys are finished and return them in the order of keys."""
    config = small_config(**sections)
    found = {}

    def keep(episode):
        assert episode.game_id not in found, "a game was handed out twice"
        found[episode.game_id] = episode

    play = SelfPlay(
        game,
        config,
        group=group,
        groups=groups,
        on_episode=keep,
        make_player=make_player,
        opponent_label=lambda player, key: player,
    )
    play.publish(evaluator or UniformEvaluator(game, config.selfplay.games), "model")
    wanted, turns = set(keys), 0
    while not wanted <= found.keys():
        play.turn(1 << 60)
        turns += 1
        assert turns < 20_000, f"games {wanted - found.keys()} do not end"
    return [found[k] for k in sorted(wanted)]


def opinionated(game, salt=5):
    return PlainEvaluator(game, hashed_evaluator(game, salt))


def assert_same(a, b):
    assert [e.to_bytes() for e in a] == [e.to_bytes() for e in b]


# --- legal games --------------------------------------------------------------------------------


def assert_replays(game, episode):
    """Play the actions by the rules in plain Python and meet the recorded states and the outcome."""
    state = game.copy(episode.states[0])
    for t in range(episode.plies):
        assert state.tobytes() == episode.states[t].tobytes(), f"ply {t} is another state"
        mover = int(game.rules["to_play"](state))
        assert mover == episode.to_play[t] and mover != TERMINAL
        game.play(state, int(episode.action[t]))  # raises where it is not legal
    if episode.truncated:
        assert game.rules["to_play"](state) != TERMINAL
    else:
        assert game.rules["to_play"](state) == TERMINAL
        assert int(game.rules["outcome"](state)) == episode.outcome
        np.testing.assert_allclose(episode.final_value, np.array(game.points(state)) / game.scale)


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("rule", ["puct", "gumbel"])
def test_episodes_are_legal_games_from_the_start_to_their_end(name, rule):
    game = GAMES[name]
    found = episodes_of(game, range(40), evaluator=opinionated(game), search={"rule": rule})
    for episode in found:
        assert_replays(game, episode)
        assert episode.states[0].tobytes() == game.initial_state().tobytes()
        assert episode.game == game.id and episode.seed == 7
        assert episode.source == "selfplay" and episode.seats == ("model",) * game.num_players
    assert len({e.action.tobytes() for e in found}) > 4, "the games are too much alike"


@pytest.mark.parametrize("name", GAMES)
def test_what_is_learnt_from_a_ply_is_consistent(name):
    game = GAMES[name]
    for e in episodes_of(game, range(40), evaluator=opinionated(game)):
        assert e.offsets[0] == 0 and e.offsets[-1] == len(e.policy_ids)
        for t in range(e.plies):
            ids = e.policy_ids[e.offsets[t] : e.offsets[t + 1]]
            probs = e.policy_probs[e.offsets[t] : e.offsets[t + 1]].astype(float)
            searched = e.simulations[t] > 0
            assert (e.value_weight[t] == 1) == searched and (e.policy_weight[t] == 1) == (len(ids) > 0)
            if not searched:
                assert not e.root_value[t].any() and e.surprise[t] == 0 and len(ids) == 0
                continue
            assert set(ids.tolist()) <= set(game.legal(e.states[t])) and (np.diff(ids) > 0).all()
            assert probs.min() > 5e-5 and probs.sum() == pytest.approx(1, abs=5e-3)
            assert e.surprise[t] >= 0 and np.abs(e.root_value[t]).max() <= 1 + 1e-6


def test_surprise_is_the_divergence_of_the_target_from_the_prior():
    """The evaluator without opinions gives every legal action the same prior."""
    for e in episodes_of(TICTACTOE, range(10), search={"rule": "puct"}):
        for t in range(e.plies):
            if e.policy_weight[t]:
                p = e.policy_probs[e.offsets[t] : e.offsets[t + 1]].astype(float)
                legal = len(TICTACTOE.legal(e.states[t]))
                want = (p * np.log(p * legal)).sum()
                assert e.surprise[t] == pytest.approx(want, abs=2e-2)


def test_simulations_are_those_of_the_schedule_over_plies():
    budget = Schedule.from_plain({"over": "ply", "at": {0: 12, 3: 5}})
    found = episodes_of(TICTACTOE, range(20), search={"simulations": budget})
    for e in found:
        for t in range(e.plies):
            if e.simulations[t]:
                assert e.simulations[t] == (12 if t < 3 else 5)


# --- independence of company --------------------------------------------------------------------

VARIANTS = {
    "puct": {"search": {"rule": "puct"}},
    "gumbel": {"search": {"rule": "gumbel"}},
    "reuse": {"search": {"rule": "puct", "tree_reuse": True}},
    "cheap": {"selfplay": {"full_search_fraction": number(0.4), "cheap_simulations": number(2)}},
    "openings": {"selfplay": {"random_opening_share": number(0.6), "random_opening_plies": number(3)}},
    "cache": {"selfplay": {"cache_megabytes": 1}},
}


def with_games(sections, games):
    own = {**sections.get("selfplay", {}), "games": games}
    return {**sections, "selfplay": own}


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_games_do_not_depend_on_how_many_are_in_flight(name, variant):
    game, keys = GAMES[name], range(30)
    few, many = (episodes_of(game, keys, **with_games(VARIANTS[variant], n)) for n in (4, 16))
    assert_same(few, many)


def test_games_do_not_depend_on_company_with_an_evaluator_of_opinions():
    parts = [
        episodes_of(
            TICTACTOE, range(16), evaluator=opinionated(TICTACTOE), **with_games(VARIANTS["reuse"], n)
        )
        for n in (1, 8)
    ]
    assert_same(*parts)


def test_games_do_not_depend_on_the_number_of_groups():
    whole = episodes_of(CUT_TREE, range(24))
    parts = [episodes_of(CUT_TREE, range(g, 24, 3), group=g, groups=3) for g in range(3)]
    assert_same(whole, sorted((e for part in parts for e in part), key=lambda e: e.game_id))


def test_cache_changes_no_game():
    plain = episodes_of(TICTACTOE, range(20), evaluator=opinionated(TICTACTOE))
    cached = episodes_of(
        TICTACTOE, range(20), evaluator=opinionated(TICTACTOE), selfplay={"cache_megabytes": 1}
    )
    assert_same(plain, cached)


def test_another_seed_gives_other_games():
    a, b = (episodes_of(TICTACTOE, range(10), run={"seed": s}) for s in (7, 8))
    assert sum(x.action.tobytes() == y.action.tobytes() for x, y in zip(a, b, strict=True)) < 5


# --- cheap searches, forced moves, openings -----------------------------------------------------


def test_cheap_searches_train_no_policy():
    sections = {"full_search_fraction": number(0.3), "cheap_simulations": number(3)}
    found = episodes_of(TICTACTOE, range(60), selfplay=sections)
    full = cheap = 0
    for e in found:
        for t in range(e.plies):
            if e.simulations[t] == 8:
                assert e.policy_weight[t] == 1 and e.offsets[t + 1] > e.offsets[t]
                full += 1
            elif e.simulations[t] == 3:
                assert e.policy_weight[t] == 0 and e.offsets[t + 1] == e.offsets[t]
                assert e.value_weight[t] == 1 and e.surprise[t] == 0
                cheap += 1
            else:
                assert e.simulations[t] == 0
    n = full + cheap
    assert abs(full / n - 0.3) < 4 * math.sqrt(0.3 * 0.7 / n)  # 4 sigma


@pytest.mark.parametrize("name", GAMES)
def test_forced_moves_are_played_without_a_search(name):
    game = GAMES[name]
    forced = searched = 0
    for e in episodes_of(game, range(40)):
        for t in range(e.plies):
            if e.to_play[t] == CHANCE:
                continue
            legal = game.legal(e.states[t])
            if len(legal) == 1:
                assert e.action[t] == legal[0] and e.simulations[t] == 0
                assert e.policy_weight[t] == e.value_weight[t] == 0
                forced += 1
            else:
                assert e.simulations[t] == 8
                searched += 1
    assert forced and searched


def test_random_openings_are_not_recorded():
    """Games begin at the first ply behind the opening, whose length is uniform over 1 to its bound."""
    sections = {"random_opening_share": number(0.5), "random_opening_plies": number(3)}
    found = episodes_of(TICTACTOE, range(400), selfplay=sections, search={"simulations": number(1)})
    plies = Counter(int(e.states[0]["plies"]) for e in found)
    assert set(plies) == {0, 1, 2, 3}
    for length, share in ((0, 1 / 2), (1, 1 / 6), (2, 1 / 6), (3, 1 / 6)):
        assert abs(plies[length] / 400 - share) < 4 * math.sqrt(share * (1 - share) / 400)  # 4 sigma
    for e in found:
        assert_replays(TICTACTOE, e)
    first = Counter(e.states[0].tobytes() for e in found if e.states[0]["plies"] == 1)
    assert len(first) == 9, "the plies of an opening are uniform over legal actions"


def test_random_openings_that_end_the_game_are_drawn_again():
    sections = {"random_opening_share": number(1), "random_opening_plies": number(9)}
    found = episodes_of(TICTACTOE, range(100), selfplay=sections, search={"simulations": number(1)})
    for e in found:
        assert e.plies >= 1 and 1 <= e.states[0]["plies"] <= 8
        assert_replays(TICTACTOE, e)


def test_game_that_no_opening_leaves_undecided_begins_without_one():
    """A game of one ply ends with any opening."""
    game = turns("one_ply", [[1], [0]], 2)
    sections = {"random_opening_share": number(1), "random_opening_plies": number(4)}
    for e in episodes_of(game, range(20), selfplay=sections):
        assert e.plies == 1 and e.states[0]["plies"] == 0


def test_plies_of_an_opening_count_towards_the_bound():
    """CutTree is cut after five plies, those of the opening included."""
    sections = {"random_opening_share": number(1), "random_opening_plies": number(2)}
    found = episodes_of(CUT_TREE, range(60), selfplay=sections)
    assert all(e.states[0]["depth"] >= 1 for e in found)
    for e in found:
        assert e.states[0]["depth"] + e.plies <= 5
        assert e.truncated == (e.states[0]["depth"] + e.plies == 5 and not ended(e))


def ended(episode):
    state = CUT_TREE.copy(episode.states[-1])
    CUT_TREE.play(state, int(episode.action[-1]))
    return CUT_TREE.rules["to_play"](state) == TERMINAL


# --- chance and truncation ----------------------------------------------------------------------


def test_chance_plies_are_recorded_with_no_seat_and_no_target():
    seen = 0
    for e in episodes_of(CUT_TREE, range(60)):
        for t in np.flatnonzero(e.to_play == CHANCE):
            outcomes = [a for a, _ in CUT_TREE.chance(e.states[t])]
            assert e.action[t] in outcomes
            assert e.policy_weight[t] == e.value_weight[t] == e.simulations[t] == 0
            assert e.offsets[t + 1] == e.offsets[t] and not e.root_value[t].any()
            seen += 1
    assert seen > 10


def test_chance_outcomes_follow_their_probabilities():
    """Chi-square over all chance nodes that were met: 4 sigma."""
    found = episodes_of(CUT_TREE, range(500), search={"simulations": number(1)})
    total = freedom = 0.0
    counts, tables = {}, {}
    for e in found:
        for t in np.flatnonzero(e.to_play == CHANCE):
            key = e.states[t].tobytes()
            counts.setdefault(key, Counter())[int(e.action[t])] += 1
            tables[key] = CUT_TREE.chance(e.states[t])
    for key, table in tables.items():
        n = sum(counts[key].values())
        if len(table) > 1 and n * min(p for _, p in table) >= 5:
            total += sum((counts[key][a] - n * p) ** 2 / (n * p) for a, p in table)
            freedom += len(table) - 1
    assert freedom >= 3
    assert abs(total - freedom) < 4 * math.sqrt(2 * freedom)


def test_truncated_games_are_flagged_and_keep_their_last_root_value():
    found = episodes_of(CUT_TREE, range(60))
    cut = [e for e in found if e.truncated]
    assert cut and len(cut) < len(found)
    for e in cut:
        assert e.plies == CUT_TREE.max_plies and e.outcome == -1
        last = np.flatnonzero(e.simulations > 0)[-1]
        np.testing.assert_array_equal(e.final_value, e.root_value[last])
    assert any(e.simulations[-1] == 0 for e in cut), "one should end with dice or a forced move"


# --- opponents ----------------------------------------------------------------------------------


def with_opponents(game, keys, games=8, **sections):
    made = []

    def make_player(label):
        made.append(Scripted(game, lowest, label))
        return made[-1]

    opponents = (OpponentConfig(player="old", share=0.3), OpponentConfig(player="weak", share=0.2))
    own = {**sections.pop("selfplay", {}), "opponents": opponents, "games": games}
    found = episodes_of(game, keys, make_player=make_player, selfplay=own, **sections)
    return found, made


@pytest.mark.parametrize("name", GAMES)
def test_opponents_sit_in_one_seat_by_name_and_train_nothing(name):
    game = GAMES[name]
    found, made = with_opponents(game, range(120), search={"simulations": number(2)})
    assert sorted(p.name for p in made) == ["old", "weak"], "each opponent is made once"
    seated = Counter()
    for e in found:
        assert_replays(game, e)
        others = [i for i, label in enumerate(e.seats) if label != "model"]
        if not others:
            assert e.source == "selfplay"
            continue
        (seat,) = others
        seated[e.seats[seat], seat] += 1
        assert e.source == f"selfplay:{e.seats[seat]}"
        theirs = e.to_play == seat
        for column in (e.policy_weight, e.value_weight, e.simulations, e.surprise):
            assert not column[theirs].any()
        assert not e.root_value[theirs].any()
        for t in np.flatnonzero(theirs):
            assert e.action[t] == game.legal(e.states[t])[0] and e.offsets[t] == e.offsets[t + 1]
    for label, share in (("old", 0.3), ("weak", 0.2)):
        got = sum(n for (who, _), n in seated.items() if who == label) / 120
        assert abs(got - share) < 4 * math.sqrt(share * (1 - share) / 120)  # 4 sigma
    assert {seat for _, seat in seated} == set(range(game.num_players))


def test_games_with_opponents_do_not_depend_on_how_many_are_in_flight():
    few, many = (with_opponents(CUT_TREE, range(30), games=n)[0] for n in (4, 16))
    assert_same(few, many)


def test_opponent_is_asked_with_the_key_and_ply_of_the_game():
    found, made = with_opponents(TICTACTOE, range(40))
    asked = {(key, ply): state for p in made for state, key, ply in p.asked}
    for e in found:
        for t in range(e.plies):
            if e.seats[e.to_play[t]] != "model":
                assert asked[e.game_id, t] == e.states[t].tobytes()


def test_illegal_move_of_an_opponent_is_refused_with_its_position():
    """It would be recorded as a ply of a game that never was."""

    def cheat(label):
        return Scripted(TICTACTOE, lambda state, legal, key, ply: 0, label)

    opponents = (OpponentConfig(player="cheat", share=1.0),)
    with pytest.raises(PlayerError, match=r"cheat chose action 0 in position [XO./]{11} of tictactoe"):
        episodes_of(TICTACTOE, range(20), make_player=cheat, selfplay={"opponents": opponents})


def test_shares_of_nothing_leave_every_seat_to_the_model():
    opponents = (OpponentConfig(player="old", share=0.0),)
    found = episodes_of(TICTACTOE, range(20), selfplay={"opponents": opponents})
    assert {e.seats for e in found} == {("model", "model")}


# --- driving ------------------------------------------------------------------------------------


def test_turns_stop_at_the_quota_and_leave_nothing_in_flight():
    config = small_config()
    play = SelfPlay(TICTACTOE, config, on_episode=lambda e: None)
    play.publish(UniformEvaluator(TICTACTOE, 8), "model")
    for quota in (50, 100):
        while play.turn(quota):
            assert play.moves < quota
        assert quota <= play.moves < quota + 8 * 9
        play.snapshot()  # asserts that no batch is in flight


@pytest.mark.parametrize("name", GAMES)
def test_snapshot_goes_on_where_it_was_taken(name):
    game = GAMES[name]
    config = small_config(**VARIANTS["reuse"])

    def group(found):
        play = SelfPlay(game, config, on_episode=found.append)
        play.publish(UniformEvaluator(game, 8), "model")
        return play

    whole, first, second = [], [], []
    play = group(whole)
    while play.turn(300):
        pass
    play = group(first)
    while play.turn(120):
        pass
    saved = {k: v.copy() for k, v in play.snapshot().items()}
    other = group(second)
    other.restore(saved, [], [])
    while other.turn(300):
        pass
    assert_same(whole, first + second)


def test_restored_group_does_not_play_finished_games_again():
    found = []
    config = small_config()
    play = SelfPlay(TICTACTOE, config, on_episode=found.append)
    play.publish(UniformEvaluator(TICTACTOE, 8), "model")
    while play.turn(60):
        pass
    saved, before = play.snapshot(), {e.game_id for e in found}
    saved = {k: v.copy() for k, v in saved.items()}
    while play.turn(120):
        pass
    finished = {e.game_id for e in found}
    assert finished > before
    later = []
    again = SelfPlay(TICTACTOE, config, on_episode=later.append)
    again.publish(UniformEvaluator(TICTACTOE, 8), "model")
    again.restore(saved, [], finished)
    while again.turn(240):
        pass
    keys = [e.game_id for e in later]
    assert len(set(keys)) == len(keys) and not set(keys) & finished
    for e in later:
        assert_replays(TICTACTOE, e)
        assert isinstance(e, Episode)


# --- the collector ------------------------------------------------------------------------------


@pytest.fixture
def collectors():
    """Return a function that makes collectors with a network, which are closed at the end of the test."""
    made = []

    def collector(found, threads=2, deterministic=True):
        config = small_config(
            selfplay={"threads": threads, "games": 6, "cache_megabytes": 1},
            run={"deterministic": deterministic},
        )
        made.append(LocalCollector(TICTACTOE, config, Choice("torch", "cpu", "fp32"), found.append))
        made[-1].publish(build(config.network, shapes_of(TICTACTOE), 3), "model")
        return made[-1]

    yield collector
    for each in made:
        each.close()


def never():
    return False


def played(collector, quotas, stop):
    """Play until each group has made its moves."""
    collector.quotas = quotas
    return collector.collect(stop)


@pytest.mark.parametrize("deterministic", [False, True])
def test_groups_of_a_collector_play_games_of_their_own(collectors, deterministic):
    found = []
    collector = collectors(found, deterministic=deterministic)
    assert played(collector, [80, 80], never)
    assert all(group.moves >= 80 for group in collector.groups)
    keys = [e.game_id for e in found]
    assert len(set(keys)) == len(keys) > 10 and {k % 2 for k in keys} == {0, 1}
    for e in found:
        assert_replays(TICTACTOE, e)
    counters = collector.counters()
    assert counters["moves"] == sum(g.moves for g in collector.groups)
    assert 0 < counters["evaluations"] <= counters["simulations"] + counters["moves"]


def test_deterministic_collector_hands_out_its_games_in_the_same_order_again(collectors):
    first, second = [], []
    for found in (first, second):
        collector = collectors(found)
        for quota in (60, 120):
            assert played(collector, [quota] * 2, never)
    assert_same(first, second)


def test_deterministic_collector_hands_out_nothing_before_a_phase_is_complete(collectors):
    found, asked = [], [0]

    def stop():
        asked[0] += 1
        return asked[0] > 60

    collector = collectors(found)
    assert not played(collector, [400, 400], stop)
    assert found == [] and any(collector.pending)
    assert played(collector, [400, 400], never)
    assert found and not any(collector.pending)


def test_phase_that_was_stopped_and_restored_gives_the_same_games(collectors):
    """The snapshot holds games that are finished and not handed out yet, and the evaluation cache."""
    whole, stopped, later = [], [], []
    assert played(collectors(whole), [200, 200], never)
    collector, asked = collectors(stopped), [0]

    def stop():
        asked[0] += 1
        return asked[0] > 80

    assert not played(collector, [200, 200], stop) and stopped == []
    saved = [{k: v.copy() for k, v in group.items()} for group in collector.snapshot(True)]
    assert sum(len(arrays["pending.sizes"]) for arrays in saved) > 0
    other = collectors(later)
    other.restore(saved, collector.state(), set())
    assert played(other, [200, 200], never)
    assert_same(whole, later)
    for a, b in zip(other.snapshot(False), collectors_end(collectors), strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def collectors_end(collectors):
    """Return the games in flight of a collector that was never stopped."""
    collector = collectors([])
    assert played(collector, [200, 200], never)
    return collector.snapshot(False)


def test_a_run_that_workers_have_played_goes_on_in_threads_with_keys_of_its_own(collectors):
    found, later = [], []
    collector = collectors(found, deterministic=False)
    collector.restore([], {}, {0, 1, 2, 3})
    assert played(collector, [60, 60], never)
    first, groups = collector.numbers
    assert groups == 1 << 37 and {e.game_id % groups - first for e in found} == {0, 1}
    assert len({e.game_id for e in found}) == len(found) > 5
    again = collectors(later, deterministic=False)
    again.restore(collector.snapshot(False), collector.state(), {e.game_id for e in found})
    assert again.numbers == collector.numbers and played(again, [120, 120], never)
    assert not {e.game_id for e in later} & {e.game_id for e in found}
