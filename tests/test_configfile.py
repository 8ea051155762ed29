"""How layers become a typed configuration, what each error says, and what can be read back."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import MISSING, dataclass, field, replace
from typing import Literal

import pytest
import yaml

from zeroloop.configfile import (
    Key,
    Layer,
    assignment_layers,
    build,
    content_hash,
    describe,
    diff,
    dump,
    environment_layers,
    keys,
    load,
    to_plain,
)
from zeroloop.errors import ConfigError
from zeroloop.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Search:
    simulations: int = 64
    """Visits for each move."""
    noise: float = 0.25
    root: Literal["gumbel", "puct"] = "gumbel"

    def __post_init__(self) -> None:
        if self.simulations < 1:
            raise ConfigError(f"simulations is {self.simulations}; it must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Selfplay:
    temperature: Schedule = Schedule.constant(1)
    games: int | None = None
    resume: bool = False
    search: Search = Search(simulations=8)


@dataclass(frozen=True, kw_only=True)
class Head:
    weight: float = 1.0
    widths: tuple[int, ...] = (32, 32)


@dataclass(frozen=True, kw_only=True)
class Network:
    heads: dict[str, Head] = field(default_factory=lambda: {"policy": Head(), "value": Head()})
    """What the network answers.

    One head for each answer.
    """
    options: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    name: str = "run"
    search: Search = field(default_factory=Search)
    selfplay: Selfplay = field(default_factory=Selfplay)
    network: Network = field(default_factory=Network)
    arena: Search | None = None
    rivals: tuple[Head, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Needy:
    game: str


def from_text(text: str, *more: Layer) -> Config:
    return load(Config, Layer.from_text(text, "hex.yaml"), *more)


def from_set(*assignments: str) -> Config:
    return load(Config, *assignment_layers(assignments))


def from_environment(**environment: str) -> Config:
    return load(Config, *environment_layers(environment))


def error_of(text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        from_text(text)
    return str(raised.value)


def error_of_set(*assignments: str) -> str:
    with pytest.raises(ConfigError) as raised:
        from_set(*assignments)
    return str(raised.value)


# Types


def test_nothing_given_is_the_default():
    assert load(Config) == Config()


def test_empty_file_is_the_default():
    assert from_text("# nothing\n") == Config()


def test_file_holds_only_differences():
    assert from_text("search: {noise: 0.5}") == Config(search=Search(noise=0.5))


def test_file_layer_reads_a_file(tmp_path):
    path = tmp_path / "hex.yaml"
    path.write_text("name: größe\n", encoding="utf-8")
    assert load(Config, Layer.from_file(path)).name == "größe"


def test_difference_is_to_the_default_of_the_section_where_it_stands():
    selfplay = from_text("selfplay: {search: {noise: 0.5}}").selfplay
    assert selfplay.search == Search(simulations=8, noise=0.5)


def test_int_is_a_float_where_a_float_is_due():
    noise = from_text("search: {noise: 1}").search.noise
    assert type(noise) is float and noise == 1.0


@pytest.mark.parametrize("text", ["3e-4", "3.0e-4", "'0.0003'"])
def test_text_that_reads_as_a_float_is_a_float(text):
    assert from_text(f"search: {{noise: {text}}}").search.noise == 3e-4


def test_optional_takes_null_and_a_value():
    assert from_text("selfplay: {games: null}").selfplay.games is None
    assert from_text("selfplay: {games: 7}").selfplay.games == 7


def test_optional_section_is_made_by_a_mapping():
    assert from_text("arena: {simulations: 5}").arena == Search(simulations=5)


def test_list_becomes_a_tuple():
    heads = from_text("network: {heads: {value: {widths: [8]}}}").network.heads
    assert heads["value"].widths == (8,)


def test_tuple_holds_sections():
    assert from_text("rivals: [{weight: 2}, {}]").rivals == (Head(weight=2.0), Head())


def test_dict_adds_a_key_to_its_default():
    heads = from_text("network: {heads: {ownership: {weight: 0.5}}}").network.heads
    assert heads == {"policy": Head(), "value": Head(), "ownership": Head(weight=0.5)}


def test_null_takes_a_key_out_of_a_dict():
    assert from_text("network: {heads: {value: null}}").network.heads == {"policy": Head()}


def test_schedule_is_read_from_its_mapping():
    temperature = from_text("selfplay: {temperature: {over: ply, at: {0: 1, 12: 0}}}").selfplay
    assert temperature.temperature == Schedule(((0, 1), (12, 0)), "ply")


def test_alias_repeats_a_value():
    config = from_text("search: &s {simulations: 3}\narena: *s")
    assert config.arena == config.search


# Errors of keys


def test_unknown_key_names_file_line_and_suggestion():
    text = "seed: 1\nselfplay:\n  simulation: 3\n"
    assert error_of(text) == (
        "hex.yaml:3: unknown key 'selfplay.simulation'. Did you mean 'search.simulations'?"
    )


def test_unknown_section_suggests_a_section():
    assert error_of("serch: {noise: 1}") == ("hex.yaml:1: unknown key 'serch'. Did you mean 'search'?")


def test_unknown_key_below_a_dict_suggests_with_the_name_in_the_dict():
    assert error_of("network: {heads: {value: {wieght: 1}}}") == (
        "hex.yaml:1: unknown key 'network.heads.value.wieght'. Did you mean 'network.heads.value.weight'?"
    )


def test_unknown_key_below_a_tuple_suggests_with_the_index():
    assert error_of("rivals:\n- {}\n- {wieght: 1}") == (
        "hex.yaml:3: unknown key 'rivals.1.wieght'. Did you mean 'rivals.1.weight'?"
    )


def test_unknown_key_like_no_other_lists_the_keys_of_its_section():
    assert error_of("search: {qqqqqqqqqqqq: 1}") == (
        "hex.yaml:1: unknown key 'search.qqqqqqqqqqqq'. The keys of 'search' are: simulations, noise, root."
    )


def test_unknown_key_at_the_top_like_no_other_lists_the_top():
    assert error_of("1: 1") == (
        "hex.yaml:1: unknown key '1'. The keys of the configuration are: "
        "seed, name, search, selfplay, network, arena, rivals."
    )


def test_key_given_twice_names_both_lines():
    assert error_of("search:\n  noise: 1\n  noise: 2\n") == (
        "hex.yaml:3: the key 'noise' is already given at hex.yaml:2."
    )


def test_missing_key_without_default_is_named():
    with pytest.raises(ConfigError) as raised:
        build(Needy, {}, "stored")
    assert str(raised.value) == "stored: the key 'game' is missing; it has no default."


def test_key_of_a_dict_must_be_a_string():
    assert error_of("network: {options: {9: 1}}") == (
        "hex.yaml:1: the key 9 of network.options must be a string: put it in quotes."
    )


# Errors of values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: many", "seed is 'many' (a string); it must be a whole number."),
        ("seed: 1.5", "seed is 1.5 (a number); it must be a whole number."),
        ("seed: true", "seed is true (a boolean); it must be a whole number."),
        ("seed: null", "seed is null; it must be a whole number."),
        ("seed: {a: 1}", "seed is a mapping; it must be a whole number."),
        ("seed: [1]", "seed is a list; it must be a whole number."),
        ("name: 7", "name is 7 (a whole number); it must be a string: put it in quotes."),
        ("name: no", "name is false (a boolean); it must be a string: put it in quotes."),
        ("name: [a]", "name is a list; it must be a string."),
        ("search: 5", "search is 5 (a whole number); it must be a mapping."),
        (
            "search: {noise: yes}",
            "search.noise is true (a boolean); it must be a finite number.",
        ),
        (
            "search: {noise: much}",
            "search.noise is 'much' (a string); it must be a finite number.",
        ),
        ("search: {noise: .nan}", "search.noise is nan (a number); it must be a finite number."),
        (
            "search: {root: puckt}",
            "search.root is 'puckt' (a string); it must be one of 'gumbel', 'puct'.",
        ),
        (
            "selfplay: {games: few}",
            "selfplay.games is 'few' (a string); it must be a whole number or null.",
        ),
        (
            "selfplay: {resume: 1}",
            "selfplay.resume is 1 (a whole number); it must be true or false.",
        ),
        ("rivals: 3", "rivals is 3 (a whole number); it must be a list."),
        ("rivals: [3]", "rivals.0 is 3 (a whole number); it must be a mapping."),
        ("network: {options: [1]}", "network.options is a list; it must be a mapping."),
        (
            "network: {options: {size: big}}",
            "network.options.size is 'big' (a string); it must be a whole number.",
        ),
        (
            "selfplay: {temperature: {over: ply, at: {}}}",
            "selfplay.temperature: a schedule needs at least one point under 'at'.",
        ),
    ],
)
def test_wrong_type_names_line_key_value_and_what_is_allowed(text, message):
    assert error_of("# first line\n" + text) == f"hex.yaml:2: {message}"


def test_refusal_of_a_class_has_the_place_of_the_key_in_front():
    assert error_of("search:\n  noise: 0.1\n  simulations: 0\n") == (
        "hex.yaml:3: simulations is 0; it must be at least 1."
    )


def test_refusal_that_names_no_given_key_has_the_place_of_the_section_in_front():
    with pytest.raises(ConfigError) as raised:
        build(Picky, {"section": {"other": 1}}, "stored")
    assert str(raised.value) == "stored: this cannot be."


@dataclass(frozen=True, kw_only=True)
class Impossible:
    other: int = 0

    def __post_init__(self) -> None:
        if self.other:
            raise ConfigError("this cannot be.")


@dataclass(frozen=True, kw_only=True)
class Picky:
    section: Impossible = Impossible()


# Errors of files


def test_invalid_yaml_names_the_line():
    assert error_of("seed: 1\nname: 'open\n") == (
        "hex.yaml:3: not valid YAML: found unexpected end of stream."
    )


def test_character_that_yaml_forbids_names_the_file():
    assert error_of("seed: \x00") == ("hex.yaml: not valid YAML: special characters are not allowed.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2024-13-45", "'2024-13-45' is not a valid timestamp."),
        ("!!bool maybe", "'maybe' is not a valid bool."),
        ("!!timestamp noon", "'noon' is not a valid timestamp."),
    ],
)
def test_scalar_that_cannot_be_read_names_the_line(text, message):
    assert error_of(f"seed: 1\nname: {text}\n") == f"hex.yaml:2: {message}"


def test_merge_key_is_refused():
    message = error_of("search: &s {noise: 1}\narena:\n  <<: *s\n")
    assert message.startswith("hex.yaml:3: not valid YAML: could not determine a constructor")


@pytest.mark.parametrize("text", ["search: !!python/dict {}", "search: !own {}"])
def test_tag_is_refused(text):
    assert error_of(text).startswith("hex.yaml:1: the tag '")


def test_alias_of_itself_is_refused():
    assert error_of("search: &s {noise: *s}") == "hex.yaml:1: an alias contains itself."


def test_key_that_is_a_list_is_refused():
    assert error_of("? [a]\n: 1\n") == ("hex.yaml:1: a key must be a single value, not a list or a mapping.")


def test_file_that_is_no_mapping_is_refused_even_below_other_layers():
    with pytest.raises(ConfigError) as raised:
        from_text("[1]", *assignment_layers(["seed=1"]))
    assert str(raised.value) == "hex.yaml: the configuration is a list; it must be a mapping."


def test_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"hex\.yaml: cannot be read: No such file"):
        Layer.from_file(tmp_path / "hex.yaml")


def test_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "hex.yaml"
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match=r"hex\.yaml: is not UTF-8 text"):
        Layer.from_file(path)


# Environment and --set


def test_environment_reaches_a_nested_key():
    config = from_environment(ZEROLOOP_SELFPLAY__SEARCH__SIMULATIONS="5")
    assert config.selfplay.search.simulations == 5


def test_environment_reaches_a_key_at_the_top():
    assert from_environment(ZEROLOOP__SEED="5").seed == 5


def test_environment_value_is_yaml():
    config = from_environment(ZEROLOOP_SELFPLAY__TEMPERATURE="{over: run, at: {0: 1, 1: 0}}")
    assert config.selfplay.temperature.over == "run"


def test_environment_without_the_prefix_is_ignored():
    assert from_environment(OTHER__SEED="1", OTHER_SEED="1", ZEROLOOP="1") == Config()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ZEROLOOP_SEARCH_SIMULATIONS", "ZEROLOOP_SEARCH__SIMULATIONS"),
        ("ZEROLOOP_SEARCH_C_VISIT", "ZEROLOOP_SEARCH__C_VISIT"),
        ("ZEROLOOP_SEED", "ZEROLOOP__SEED"),
        ("ZEROLOOP_", "ZEROLOOP__KEY"),
    ],
)
def test_environment_without_double_underscore_is_refused_with_suggestion(name, meant):
    with pytest.raises(ConfigError) as raised:
        from_environment(**{name: "4"})
    assert str(raised.value).startswith(f"{name}: it names no key, ")
    assert str(raised.value).endswith(f"Did you mean '{meant}'?")


def test_environment_that_names_no_key_is_refused_with_suggestion():
    with pytest.raises(ConfigError) as raised:
        from_environment(ZEROLOOP_SERCH__SIMULATIONS="5")
    assert str(raised.value) == (
        "ZEROLOOP_SERCH__SIMULATIONS: unknown key 'serch.simulations'. Did you mean 'search.simulations'?"
    )


def test_environment_below_a_schedule_names_no_key():
    with pytest.raises(ConfigError, match="'selfplay.temperature.over'. Did you mean 'selfplay.t"):
        from_environment(ZEROLOOP_SELFPLAY__TEMPERATURE__OVER="ply")


def test_environment_with_wrong_type_names_the_variable():
    with pytest.raises(ConfigError) as raised:
        from_environment(ZEROLOOP__SEED="many")
    assert str(raised.value) == ("ZEROLOOP__SEED: seed is 'many' (a string); it must be a whole number.")


def test_environment_with_invalid_yaml_names_the_variable():
    with pytest.raises(ConfigError, match="^ZEROLOOP__SEED: not valid YAML: "):
        from_environment(ZEROLOOP__SEED="{")


def test_set_reaches_a_nested_key():
    assert from_set("search.simulations=5").search.simulations == 5


def test_set_reaches_below_a_dict():
    heads = from_set("network.heads.value.weight=2").network.heads
    assert heads == {"policy": Head(), "value": Head(weight=2.0)}


def test_set_takes_a_schedule():
    config = from_set("selfplay.temperature={over: ply, at: {0: 1, 12: 0}}")
    assert config.selfplay.temperature == Schedule(((0, 1), (12, 0)), "ply")


def test_set_value_may_hold_an_equals_sign():
    assert from_set("name=a=b").name == "a=b"


@pytest.mark.parametrize("assignment", ["search.simulations", "=5"])
def test_set_without_key_or_equals_sign_is_refused(assignment):
    assert error_of_set(assignment) == (
        f"--set {assignment}: it must have the form section.key=value, such as search.simulations=64."
    )


@pytest.mark.parametrize("key", ["search..noise", "search.noise.x", "rivals.0.weight"])
def test_set_of_what_is_no_key_is_refused(key):
    assert error_of_set(f"{key}=1").startswith(f"--set {key}: unknown key '{key}'. Did you mean")


# Precedence


def test_later_file_wins_key_by_key():
    config = from_text(
        "search: {simulations: 1, noise: 0.1}", Layer.from_text("search: {noise: 0.2}", "b.yaml")
    )
    assert config.search == Search(simulations=1, noise=0.2)


def test_environment_wins_over_file_and_set_wins_over_environment():
    environment = environment_layers({"ZEROLOOP__SEED": "2", "ZEROLOOP__NAME": "environment"})
    config = from_text("seed: 1\nname: file", *environment, *assignment_layers(["seed=3"]))
    assert (config.seed, config.name) == (3, "environment")


def test_later_set_wins():
    assert from_set("seed=1", "seed=2").seed == 2


def test_schedule_is_replaced_as_a_whole():
    config = from_text(
        "selfplay: {temperature: {over: ply, at: {0: 1, 5: 2}, interpolation: linear}}",
        Layer.from_text("selfplay: {temperature: {over: ply, at: {3: 1, 4: 0}}}", "b.yaml"),
    )
    assert config.selfplay.temperature == Schedule(((3, 1), (4, 0)), "ply", "step")


def test_tuple_is_replaced_as_a_whole():
    config = from_text("rivals: [{}, {}]", *assignment_layers(["rivals=[{weight: 2}]"]))
    assert config.rivals == (Head(weight=2.0),)


def test_dict_merges_by_key_across_layers():
    layers = assignment_layers(["network.options.b=3", "network.options.c=4"])
    options = from_text("network: {options: {a: 1, b: 2}}", *layers).network.options
    assert options == {"a": 1, "b": 3, "c": 4}


def test_later_layer_brings_back_what_null_removed():
    config = from_text("arena: null", *assignment_layers(["arena.noise=0.5"]))
    assert config.arena == Search(noise=0.5)


def test_error_names_the_layer_that_won():
    with pytest.raises(ConfigError, match="^--set seed: seed is 'x'"):
        from_text("seed: 1", *assignment_layers(["seed=x"]))


def test_refusal_after_a_merge_names_every_place_of_the_section():
    text = "section: {}"
    layers = Layer.from_text(text, "a.yaml"), *assignment_layers(["section.other=1"])
    with pytest.raises(ConfigError) as raised:
        load(Picky, *layers)
    assert str(raised.value) == "a.yaml:1, --set section.other: this cannot be."


# Reading back

FULL = Config(
    name="3e-4",
    search=Search(noise=1e-5),
    selfplay=Selfplay(temperature=Schedule(((0, 1), (0.5, 0.1)), "run"), games=3),
    network=Network(heads={"value": Head(widths=()), "süß": Head()}, options={"size": 9}),
    arena=Search(root="puct"),
    rivals=(Head(weight=0.5),),
)


def test_build_of_plain_data_is_equal():
    assert build(Config, to_plain(FULL), "stored") == FULL


@pytest.mark.parametrize("config", [Config(), FULL], ids=["default", "full"])
def test_load_of_a_dump_is_equal_with_equal_hash(config):
    loaded = from_text(dump(config))
    assert loaded == config and content_hash(loaded) == content_hash(config)


def test_dump_is_in_order_of_declaration():
    names = ["seed", "name", "search", "selfplay", "network", "arena", "rivals"]
    assert list(yaml.safe_load(dump(FULL))) == names


def test_plain_form_says_which_keys_of_a_default_dict_are_gone():
    assert to_plain(Config(network=Network(heads={})))["network"]["heads"] == {
        "policy": None,
        "value": None,
    }


def test_hash_changes_with_any_value():
    assert content_hash(Config(seed=1)) != content_hash(Config())


def test_equal_numbers_hash_alike():
    whole = Config(selfplay=Selfplay(temperature=Schedule(((0, 1), (1, 2)), "run")))
    fractional = Config(selfplay=Selfplay(temperature=Schedule(((0.0, 1.0), (1, 2.0)), "run")))
    assert whole == fractional and content_hash(whole) == content_hash(fractional)


def test_order_within_a_dict_does_not_change_the_hash():
    forward, backward = Network(options={"a": 1, "b": 2}), Network(options={"b": 2, "a": 1})
    assert content_hash(forward) == content_hash(backward)


def test_hash_is_equal_across_processes():
    here = os.path.dirname(__file__)
    program = (
        f"import sys; sys.path.insert(0, {here!r})\n"
        "import test_configfile as t; print(t.content_hash(t.FULL))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.path.dirname(here)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == content_hash(FULL)


def test_equal_trees_do_not_differ():
    assert diff(FULL, FULL) == []


def test_diff_names_each_key_with_both_values():
    other = replace(
        FULL,
        seed=1,
        selfplay=Selfplay(games=3),
        network=Network(heads=FULL.network.heads, options={"komi": 7}),
        arena=None,
    )
    schedule = {"over": "run", "at": {0: 1, 0.5: 0.1}, "interpolation": "linear"}
    assert diff(FULL, other) == [
        ("seed", 0, 1),
        ("selfplay.temperature", schedule, 1),
        ("network.options.size", 9, None),
        ("network.options.komi", None, 7),
        ("arena", {"simulations": 64, "noise": 0.25, "root": "puct"}, None),
    ]


def test_keys_are_dotted_and_in_order():
    assert keys(Config) == [
        "seed",
        "name",
        "search.simulations",
        "search.noise",
        "search.root",
        "selfplay.temperature",
        "selfplay.games",
        "selfplay.resume",
        "selfplay.search.simulations",
        "selfplay.search.noise",
        "selfplay.search.root",
        "network.heads",
        "network.heads.<name>.weight",
        "network.heads.<name>.widths",
        "network.options",
        "arena",
        "arena.simulations",
        "arena.noise",
        "arena.root",
        "rivals",
        "rivals.<index>.weight",
        "rivals.<index>.widths",
    ]


def described(name: str) -> Key:
    return next(key for key in describe(Config) if key.name == name)


def test_description_holds_type_default_and_doc():
    assert described("search.simulations") == (
        "search.simulations",
        "int",
        64,
        "Visits for each move.",
    )


def test_description_of_an_undocumented_key_has_no_doc():
    assert described("search.noise").doc == ""


def test_description_keeps_the_lines_of_a_doc():
    doc = "What the network answers.\n\nOne head for each answer."
    assert described("network.heads").doc == doc


def test_description_has_the_default_of_the_section_where_it_stands():
    assert described("selfplay.search.simulations").default == 8


def test_description_has_a_plain_default():
    assert described("network.heads").default["value"] == {"weight": 1.0, "widths": [32, 32]}


def test_description_marks_a_key_without_default():
    assert describe(Needy) == [("game", "str", MISSING, "")]


# Fields that no configuration can hold


@dataclass(frozen=True, kw_only=True)
class Mixed:
    either: int | str = 0


@dataclass(frozen=True, kw_only=True)
class Pair:
    pair: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True)
class Gaps:
    gaps: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Nested:
    nested: dict[str, set[int]] = field(default_factory=dict)


@pytest.mark.parametrize("cls", [Mixed, Pair, Gaps, Nested])
def test_unsupported_type_of_a_field_is_an_error_of_the_program(cls):
    with pytest.raises(TypeError, match=f"{cls.__name__}.* configuration cannot hold a"):
        load(cls)
