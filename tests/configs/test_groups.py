"""Environments' levels."""

import dataclasses

import pytest

import envs
from configs import ConfigError, load_config
from configs.groups import ENVS, LEVELS


def load(*tokens):
    return load_config(list(tokens), ("ur-lstm",))


def refused(*tokens):
    with pytest.raises(ConfigError) as caught:
        load(*tokens)
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name in ENVS if name != "gymnasium"])  # anybody's: it has none
def test_levels(name):
    """Every environment has its four levels, each of which it can be built at, and they differ."""
    found = [load(f"env={name}-{level}").env for level in LEVELS]
    for config in found:
        arguments = dataclasses.asdict(config)
        envs.make(arguments.pop("name"), num_envs=1, **arguments)
    assert len(set(found)) == len(LEVELS)


def test_choosing_a_level(tmp_path):
    assert load("env=tmaze_passive-hard").env.corridor_length == 500
    assert load("env=tmaze_passive-hard", "env.corridor_length=7").env.corridor_length == 7
    path = tmp_path / "mine.yaml"
    path.write_text("defaults: {env: tmaze_passive-medium}\nenv: {penalty_mode: action}\n")
    config = load(str(path))
    assert (config.env.name, config.env.corridor_length, config.env.penalty_mode) == ("tmaze_passive", 100, "action")
    assert load(str(path), "env=tmaze_passive-easy").env.penalty_mode == "schedule"  # another env is another env
    assert load(str(path), "env=tmaze_bakker").env.corridor_length == 50
    assert "has no level 'hadr'; did you mean hard?" in refused("env=tmaze_passive-hadr")
    assert "unknown env 'tmaze_pasive'" in refused("env=tmaze_pasive-hard")
