"""Self-play takes the exact values of the bear-off where the configuration asks for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zeroloop.config import Config, GameConfig, NetworkConfig, SearchConfig, SelfPlayConfig
from zeroloop.errors import ConfigError
from zeroloop.evaluator import NetworkEvaluator
from zeroloop.evaluator.choice import Choice, shapes_of
from zeroloop.games import make
from zeroloop.networks import build
from zeroloop.players.bearoff import BearoffEvaluator
from zeroloop.selfplay.collector import LocalCollector
from zeroloop.start import check_start

NETWORK = NetworkConfig(kind="mlp", blocks=1, channels=8, value_hidden=8)
CONFIG = Config(
    game=GameConfig(name="backgammon"),
    network=NETWORK,
    search=SearchConfig(bearoff=2),
    selfplay=SelfPlayConfig(games=2, threads=1),
)


@pytest.mark.parametrize(("checkers", "kind"), [(2, BearoffEvaluator), (0, NetworkEvaluator)])
def test_the_evaluator_that_plays_knows_the_table(checkers, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    game = make("backgammon")
    config = replace(CONFIG, search=SearchConfig(bearoff=checkers))
    collector = LocalCollector(game, config, Choice("openvino", "cpu", "fp32"), lambda episode: None)
    collector.publish(build(NETWORK, shapes_of(game), 1), "model")
    assert type(collector.groups[0]._evaluator) is kind
    collector.begin(8)
    assert collector.collect(lambda: False) and collector.groups[0].moves >= 8
    assert collector.counters()["evaluations"] > 0
    collector.close()


def test_a_game_without_a_bearoff_is_refused():
    config = replace(CONFIG, game=GameConfig(name="connect4"))
    with pytest.raises(ConfigError, match="search.bearoff is 2, but connect4 has no bear-off"):
        check_start(make("connect4"), config)
