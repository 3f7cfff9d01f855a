"""Settings: what is accepted comes out exactly, everything else is one helpful line."""

import dataclasses
import difflib
import inspect
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from agents.learner import Settings
from configs import (
    Config,
    ConfigError,
    TrainConfig,
    describe,
    diff_configs,
    flatten_config,
    from_resolved,
    load_config,
    to_yaml,
)
from configs.env_tmaze import ActiveConfig, BakkerConfig
from configs.groups import AGENTS, CONFIG_ROOT, DEFAULT_GROUPS, ENVS
from configs.leaves import settings_of
from memory_cells import VARIANTS
from memory_cells.variants import OPTIONS

CELLS = ("memoryless", "lstm", "ur-lstm", "c-lstm", "gru")


def load(*tokens) -> Config:
    return load_config(list(tokens), CELLS)


def refused(*tokens, call=load) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*tokens)
    text = str(caught.value)
    assert text.isprintable() and 10 < len(text) <= 600, text
    assert isinstance(caught.value, ValueError)
    return text


def in_file(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return refused(str(path))


# --- accepted --------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_schema_and_the_shipped_files():
    config = load()
    assert config == load("default") == load(str(CONFIG_ROOT / "default.yaml"))
    assert (config.cell.name, config.env.name, config.agent.name) == ("ur-lstm", "tmaze_passive", "long")
    assert config.env.corridor_length == 50 and config.run_dir is None and config.device == "auto"


def test_config_is_deeply_frozen_plain_data():
    config = load("env=tmaze_bakker")
    assert type(config.env) is BakkerConfig
    for part in (config, config.cell, config.env, config.agent, config.train, config.evaluate):
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.seed = 3
    assert hash(config) == hash(load("env=tmaze_bakker"))


SHIPPED = sorted(CONFIG_ROOT.glob("*.yaml"))
#: every two of a file, an environment and an agent meet; all three at once would be five times as many
PAIRS = [(path, env, list(AGENTS)[(i + j) % len(AGENTS)]) for i, path in enumerate(SHIPPED) for j, env in enumerate(ENVS)]


@pytest.mark.parametrize("path, env, agent", PAIRS, ids=lambda x: x.stem if isinstance(x, Path) else x)
def test_every_shipped_file_goes_with_every_group(path, env, agent):
    config = load(path.stem, f"env={env}", f"agent={agent}", "cell=gru")
    assert (config.env.name, config.agent.name, config.cell.name) == (env, agent, "gru")
    assert isinstance(config.env, ENVS[env]) and isinstance(config.agent, AGENTS[agent])


def test_tables_and_files_agree():
    for group, table in (("env", ENVS), ("agent", AGENTS)):
        assert {p.stem for p in (CONFIG_ROOT / group).glob("*.yaml")} == set(table)


@pytest.mark.parametrize("name", envs.ENVS)
def test_fields_of_an_env_are_what_make_accepts(name):
    """Every setting reaches the environment, and the environment has nothing that cannot be set."""
    row = envs.ENVS[name]
    config = load(f"env={name}").env
    arguments = dataclasses.asdict(config)
    assert arguments.pop("name") == name
    takes = set(inspect.signature(row.env).parameters) - {"num_envs", "device", "seed", *row.fixed}
    assert set(arguments) == takes
    env = envs.make(name, num_envs=1, **arguments)
    for key, value in arguments.items():
        assert value is None or getattr(env, key) == value
    bare = envs.make(name, num_envs=1)  # and the defaults are the environment's own
    for key, value in arguments.items():
        assert value is None or getattr(bare, key) == value


def test_fields_of_the_agent_are_what_an_update_takes():
    assert set(inspect.signature(Settings).parameters) <= {f.name for f in dataclasses.fields(Config().agent)}
    ours = {f.name for f in dataclasses.fields(Config().cell)} - {"name", "path", "horizon"}
    ours -= {"hidden_size", "match_parameters"}
    assert ours == set(OPTIONS)
    assert {*envs.ENVS, "gymnasium"} == set(ENVS) and DEFAULT_GROUPS["cell"] in VARIANTS


def test_group_tokens_come_first_and_leaves_in_order():
    config = load("env.corridor_length=7", "agent.reuse=2", "agent=ppo", "env=tmaze_active", "cell=lstm", "seed=5")
    assert (config.env.corridor_length, config.env.oracle_length, config.agent.reuse) == (7, 1, 2)
    assert config.agent.policy_loss == "ppo" and config.cell.name == "lstm" and config.seed == 5


def test_file_forms_and_precedence(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("defaults: {cell: gru, env: tmaze_active, agent: ppo}\n"
                    "env: {corridor_length: 9}\nenv.oracle_length: 3\ntrain.steps: 3e6\nagent:\n  gamma: 1\n")
    config = load(str(path), "env.corridor_length=11")
    assert config.env == ActiveConfig(name="tmaze_active", corridor_length=11, oracle_length=3)
    assert config.train.steps == 3_000_000 and config.agent.gamma == 1.0 and config.agent.minibatches == 4
    assert type(config.train.steps) is int and type(config.agent.gamma) is float
    assert load(str(path), "agent=a2c").agent.gamma == 1.0  # the file's own leaves stay
    path.write_text("# nothing but a comment\n")
    assert load(str(path)) == dataclasses.replace(load("default", "agent=vtrace"), train=TrainConfig())


@pytest.mark.parametrize("token, expected", [
    ("train.steps=3e6", 3_000_000), ("train.steps=1_000", 1000), ("train.steps=2000.0", 2000),
    ("agent.learning_rate=1e-3", 1e-3), ("agent.learning_rate=.5", 0.5), ("agent.gamma=1", 1.0),
    ("train.threads=null", None), ("train.threads=2", 2), ("cell.bias=-1.5", -1.5), ("run_dir=null", None),
    ("run_dir=123", "123"), ("run_dir=runs/a=b c: d", "runs/a=b c: d"), ("run_dir='null'", "null"),
    ("run_dir=no", "no"),
    ("deterministic=false", False), ("agent.see_last_action=yes", True), ("device=cuda:1", "cuda:1"),
    ("cell.refine_bias=neg", "neg"), ("agent.optimizer='rmsprop'", "rmsprop"), ("run_dir=a # b", "a # b"),
    ("agent.gamma=0.1", 0.1), ("run_dir=[x]", "[x]"), ("run_dir=2026-11-21", "2026-11-21"), ("run_dir=12:30", "12:30"),
])
def test_values(token, expected):
    value = flatten_config(load(token))[token.partition("=")[0]]
    assert value == expected and type(value) is type(expected)


LEAF_VALUES = {
    int: lambda m: st.integers(m["min"] or 0, m["max"] or 10**9),
    float: lambda m: st.floats(0.0 if m["min"] is None else m["min"], m["max"], allow_infinity=False, allow_nan=False),
    bool: lambda m: st.booleans(),
    str: lambda m: st.sampled_from(m["choices"]) if m["choices"] else st.just("cuda:3") if m["pattern"] else
    st.text(st.characters(codec="utf-8"), min_size=1).filter(
        lambda t: t.isprintable() and "${" not in t and t.strip() != "???"),
}


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_resolved_round_trip(data, tmp_path_factory):
    """Any valid config written by to_yaml is read back equal, types and all; so is its diff."""
    env = data.draw(st.sampled_from(sorted(ENVS)))
    base = load(f"env={env}", "agent=ppo")
    changed = base
    for setting in data.draw(st.lists(st.sampled_from([s for s in settings_of(base) if not s.key.endswith(".name")]),
                                      max_size=6, unique_by=lambda s: s.key)):
        value = data.draw(LEAF_VALUES[setting.type](setting.meta) | (st.none() if setting.optional else st.nothing()))
        head, _, rest = setting.key.partition(".")
        inner = dataclasses.replace(getattr(changed, head), **{rest: value}) if rest else value
        changed = dataclasses.replace(changed, **{head: inner})
    path = tmp_path_factory.mktemp("run") / "config.yaml"
    path.write_text(to_yaml(changed), encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["env"]["name"] == env
    try:
        back = from_resolved(path)
    except ConfigError as error:  # the draw made an impossible combination
        assert any(key in str(error) for key in ("agent.", "train.stop_at_success", "cell.match_parameters"))
        return
    assert back == changed and to_yaml(back) == to_yaml(changed)
    assert from_resolved(path.parent) == changed
    assert {type(v) for v in flatten_config(back).values()} <= {int, float, bool, str, type(None)}
    different = diff_configs(base, back)
    assert (different == []) == (base == back)
    assert all(flatten_config(base)[k] != flatten_config(back)[k] for k in different)


def test_resolved_file_as_a_start_and_with_overrides(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(load("env=tmaze_active", "env.corridor_length=9", "agent=ppo", "agent.reuse=2")))
    config = from_resolved(path, ["env.corridor_length=20", "env=tmaze_active"], CELLS)
    assert config.env.corridor_length == 20 and config.agent.reuse == 2
    again = load(str(path), "seed=7", "cell=gru")
    assert again.agent.reuse == 2 and again.cell.name == "gru" and again.seed == 7
    assert "contradicts" in refused(str(path), "agent=a2c") and "contradicts" in refused(str(path), "env=tmaze_passive")
    for tokens in (["env=tmaze_passive"], ["other"], ["env.corridor_lenght=3"]):
        refused(path, tokens, call=from_resolved)
    assert "ur-lstm" in refused(path, (), ["gru", "lstm"], call=from_resolved)
    assert "not a resolved config" in refused(CONFIG_ROOT / "default.yaml", call=from_resolved)
    assert "no such config file" in refused(tmp_path / "nothing", call=from_resolved)
    path.write_text("\n".join(line for line in to_yaml(load()).splitlines() if "burn_in" not in line))
    assert from_resolved(path) == load()  # written before the setting existed


def test_diff_across_envs_names_the_keys_of_one_side():
    keys = diff_configs(load(), load("env=tmaze_bakker", "seed=2", "agent.gamma=0.5"))
    assert keys == ["seed", "env.name", "env.penalty_mode", "agent.gamma", "env.step_limit"]


def test_describe_lists_every_key():
    text = describe(tuple(VARIANTS))
    for env in ENVS:
        for key in flatten_config(load(f"env={env}")):
            assert key.endswith(".name") or f"  {key}=" in text
    assert all(words in text for words in (" train.num_envs=32 ", "bakker, cart", "one of adam, rms", "from 1 to", "or null"))


# --- refused ---------------------------------------------------------------------------------------------------------

WHERE = "on the command line"


@pytest.mark.parametrize("tokens, words", [
    (["train.step=3"], ["unknown key 'train.step'", "did you mean train.steps?", "an integer", WHERE]),
    (["env.corridor_lenght=3"], ["did you mean env.corridor_length?"]),
    (["hidden_size=3"], ["did you mean cell.hidden_size?"]), (["agent.lr=3"], ["did you mean agent.learning_rate?"]),
    (["lr=3"], ["agent.learning_rate"]), (["sed=3"], ["did you mean seed?"]), (["Seed=3"], ["did you mean seed?"]),
    (["_target_=os.system"], ["unknown key '_target_'"]), (["agent._target_=x"], ["unknown key"]),
    (["train.steps.x=3"], ["unknown key"]), (["+seed=3"], ["seed?"]), (["=3"], ["no key"]), ([".=3"], ["unknown"]),
    (["__class__=3"], ["unknown key"]), (["env.__init__.__globals__=3"], ["unknown key"]),
    (["env=tmaze_bakker", "env.oracle_length=1"], ["env.oracle_length does not exist for env=tmaze_bakker"]),
    (["train.steps=3.5"], ["train.steps='3.5'", "an integer"]), (["train.steps=many"], ["not a number"]),
    (["train.steps=true"], ["not a number"]), (["train.steps=0"], ["out of range", "from 1"]),
    (["train.steps=-5"], ["out of range"]), (["train.steps=null"], ["null", "an integer"]), (["seed="], ["empty"]),
    (["train.steps=1e300"], ["out of range"]), (["seed=" + "9" * 5000], ["an integer"]), (["seed=[1]"], ["integer"]),
    (["seed={a: 1}"], ["integer"]), (["train.checkpoint_every=1e30"], ["too large"]), (["run_dir="], ["run_dir"]),
    (["agent.gamma=1.5"], ["out of range", "from 0 to 1"]), (["agent.gamma=nan"], ["not a number"]),
    (["agent.gamma=.nan"], ["not finite"]), (["agent.max_grad_norm=.inf"], ["not finite"]),
    (["agent.max_grad_norm=1e999"], ["not finite"]), (["agent.gamma=yes"], ["not a number"]),
    (["deterministic=1"], ["true or false"]), (["deterministic=maybe"], ["true or false"]),
    (["agent.optimizer=adamm"], ["did you mean adam?", "one of adam, rmsprop"]), (["agent.optimizer=3"], ["adam"]),
    (["cell.reset_form=befor"], ["did you mean before?", "or null"]), (["agent.returns=true"], ["vtrace"]),
    (["device=cuad"], ["auto, cpu, cuda or cuda:N"]), (["device=cuda:"], ["cuda:N"]), (["device=null"], ["cuda:N"]),
    (["cell=ur-lstn"], ["unknown cell 'ur-lstn'", "did you mean ur-lstm?"]), (["cell=xx"], ["choose from memoryless"]),
    (["env=tmaze_passsive"], ["did you mean tmaze_passive?"]), (["env=../env/x"], ["unknown env"]),
    (["agent=pppo"], ["did you mean ppo?"]), (["agent="], ["unknown agent ''"]), (["cell=lstm/../x"], ["unknown cell"]),
    (["cell=lstm", "cell=gru"], ["given twice"]), (["seed=1", "seed=2"], ["given twice"]),
    (["cell.name=gru"], ["write cell=gru"]), (["train=3"], ["is a section", "train."]),
    (["defaults=3"], ["unknown key"]), (["gru"], ["write cell=gru"]), (["tmaze_noisy-xl"], ["write env=tmaze_noisy-xl"]),
    (["defualt"], ["did you mean default?"]), (["default", "smoke"], ["two configs"]), (["--seed"], ["unknown option"]),
    (["train.steps", "=", "3"], ["without spaces"]), (["train.steps"], ["train.steps=VALUE"]),
    (["nowhere/x.yaml"], ["no such config file"]), ([""], ["config"]),
    (["/"], ["is a folder, no config file"]), (["nul\0.yaml"], ["yaml"]), (["run_dir=a\nb"], ["control characters"]),
    (["run_dir=${env:HOME}"], ["interpolations"]), (["seed=${oc.env:HOME}"], ["interpolations"]),
    (["run_dir=???"], ["no value"]), (["seed=!!python/object/apply:os.system ['x']"], ["integer"]),
    (["seed=*a"], ["integer"]), (["seed=&a 3"], ["integer"]), (["${x}=3"], ["unknown key"]),
    (["env=${x}"], ["unknown env"]),
])
def test_bad_tokens(tokens, words):
    text = refused(*tokens)
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("tokens, words", [
    (["agent.minibatches=7"], ["does not divide train.num_envs=32", "nearest that does: 8"]),
    (["agent.burn_in=128"], ["at most 127"]), (["agent.bptt_length=129"], ["at most 128"]),
    (["agent.full_episode=true", "agent.bptt_length=8"], ["contradicts", "agent.bptt_length=null"]),
    (["agent.full_episode=true", "agent.burn_in=8"], ["contradicts", "agent.burn_in=0"]),
    (["agent.full_episode=true", "agent.start_state=zero"], ["agent.start_state=zero", "agent.full_episode=false"]),
    (["agent.ppo_clip=0.1"], ["agent.ppo_clip=0.1 does nothing", "agent.policy_loss=ppo"]),
    (["agent=ppo", "agent.c_bar=0.5"], ["agent.c_bar=0.5 does nothing", "agent.returns=vtrace"]),
    (["agent.optimizer=rmsprop", "agent.adam_beta1=0.5"], ["agent.adam_beta1=0.5", "agent.optimizer=adam"]),
    (["agent.normalise_advantage=std", "agent.advantage_floor=1e-3"], ["agent.advantage_floor=0.001 does nothing"]),
    (["agent.rho_bar=0"], ["agent.rho_bar", "out of range"]),
    (["agent.c_bar=2"], ["c_bar <= rho_bar"]), (["env.oracle_length=2"], ["env=tmaze_active"]),
    (["env=tmaze_active", "env.oracle_length=0"], ["out of range", "from 1"]),
    (["train.stop_at_success=0.9", "train.evaluate_every=0"], ["train.stop_at_success=0.9", "train.evaluate_every"]),
    (["agent=ppo", "agent.correct_off_policy=false"], ["agent.policy_loss=pg"]),
    (["agent=impala", "agent.returns=gae"], ["agent.actor_lag=4", "agent.returns=vtrace"]),
    (["agent.returns=gae", "agent.reuse=2"], ["agent.reuse=2"]),
])
def test_impossible_combinations(tokens, words):
    text = refused(*tokens)
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("tokens", [
    ["agent=a2c", "agent.returns=gae"], ["agent=impala", "agent.correct_off_policy=false"], ["agent.burn_in=63"],
    ["agent=impala", "agent.correct_off_policy=false", "agent.returns=gae"], ["agent.bptt_length=64"],
    ["agent.policy_loss=ppo", "agent.actor_lag=4"], ["agent.full_episode=true"], ["agent.rho_bar=2", "agent.c_bar=2"],
])
def test_possible_combinations(tokens):
    load(*tokens)


@pytest.mark.parametrize("text, words", [
    ("train:\n  step: 3\n", ["mine.yaml line 2", "did you mean train.steps?"]), ("seed: x\n", ["line 1", "an integer"]),
    ("seed: 1\nseed: 2\n", ["line 2", "given twice"]), ("env: {corridor_length: 3}\nenv.corridor_length: 4", ["twice"]),
    ("env:\n  corridor_length: 1\nenv:\n  oracle_length: 1\n", ["twice"]), ("seed.x: 1\nseed: 2", ["twice"]),
    ("seed: 1\nseed.x: 2", ["single value"]), ("run_dir: 2026\n", ["quote it"]), ("agent.optimizer: [adam]", ["is a list"]),
    ("env: tmaze_active\n", ["is a section", "defaults: {env: tmaze_active}"]), ("train: 3\n", ["is a section"]),
    ("env: {}\n- x", ["mine.yaml line 2"]), ("[]", ["key: value"]), ("3", ["key: value"]), ("a: b: c", ["line 1"]),
    ("defaults: {environment: tmaze_active}", ["no group 'environment'", "choose from cell, env, agent"]),
    ("defaults: {env: 3}", ["not a name"]), ("defaults: tmaze", ["defaults has no group"]),
    ("defaults: {env: tmaze_aktive}", ["line 1", "did you mean tmaze_active?"]), ("cell: {name: 3}", ["not a name"]),
    ("defaults: {env: tmaze_active}\nenv: {name: tmaze_bakker}", ["contradicts"]),
    ("seed: ${env:HOME}", ["interpolations"]), ("run_dir: ${oc.env:HOME}", ["interpolations"]),
    ("seed: ???", ["value"]),
    ("run_dir: !!python/object/apply:os.system ['touch owned']", ["python/object", "not allowed"]),
    ("!!python/object:os.x {}", ["not allowed"]), ("seed: !!int 3", ["not allowed"]), ("seed: ! 3", ["not allowed"]),
    ("seed: !!binary aGk=", ["not allowed"]), ("run_dir: !include /etc/passwd", ["not allowed"]),
    ("%TAG ! tag:yaml.org,2002:python/\n---\nseed: !object:os.x {}", ["not allowed"]),
    ("a: &a 3\nseed: *a", ["anchors"]), ("train: &a {steps: 3}\nevaluate: {<<: *a}", ["anchors"]),
    ("train: {<<: {steps: 3}}", ["unknown key 'train.<<.steps'"]), ("_target_: os.system", ["unknown key '_target_'"]),
    ("agent: {_target_: os.system, _args_: x}", ["agent._target_"]), ("hydra: {run: {dir: x}}", ["hydra.run.dir"]),
    ("? [a, b]\n: 3", ["plain name"]), ("'': 3", ["plain name"]), ("? {a: 1}\n: 3", ["plain name"]),
    ("seed:", ["empty"]),
    ("---\nseed: 1\n---\nseed: 2", ["document"]), ("seed: '1\x07'", ["YAML"]), ('run_dir: "a\\nb"', ["control"]),
    ('run_dir: "\\ud800"', ["mine.yaml"]), (b"seed: \xff\xfe", ["UTF-8"]), ("[" * 50_000, ["deep"]),
    (b"\x80\x05", ["UTF"]),
    ("a: " * 3000, ["mine.yaml"]), ("{a: " * 5000, ["deep"]), ("- " * 5000, ["mine.yaml"]),
    ("? " * 5000, ["mine.yaml"]),
    (".".join("a" * 50) + ": 3", ["deep"]), ("seed: " + "9" * 5000, ["number"]), ("x" * 1_000_001, ["larger"]),
    ("\tseed: 1", ["mine.yaml"]), ("seed: 1:30", ["not a number"]), ("seed: 0x10", ["not a number"]),
    ("a: |\n  x", ["mine"]),
])
def test_bad_and_hostile_files(tmp_path, text, words):
    start = time.monotonic()
    message = in_file(tmp_path, text)
    assert time.monotonic() - start < 2
    for word in words:
        assert word in message, message


def test_unreadable_paths(tmp_path):
    for path in (tmp_path, tmp_path / "x.yaml", Path("/dev/zero"), tmp_path / "default.yaml" / "x.yaml"):
        assert ("is a folder" if path.is_dir() else "no such config file") in refused(str(path) + "/" * path.is_dir())


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["", "seed=", "run_dir=", "env.", "agent=", "train.steps="]))
def test_any_token_gives_a_config_or_one_line(text, start):
    try:
        assert isinstance(load(start + text), Config)
    except ConfigError as error:
        assert str(error).isprintable()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from("\n :{}[]!&*'\"#-?%@`|>,$.\t\x00é") | st.characters()),
                min_size=1, max_size=6))
def test_any_mutated_file_gives_a_config_or_one_line(tmp_path_factory, edits):
    text = list(to_yaml(load()))
    for at, character in edits:
        text[at % len(text)] = character
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_bytes("".join(text).encode("utf-8", "surrogatepass"))
    for call in (from_resolved, lambda p: load(str(p))):
        try:
            assert isinstance(call(path), Config)
        except ConfigError as error:
            assert str(error).isprintable()


def test_every_misspelt_key_finds_its_way_back():
    missed = []
    for key in flatten_config(load()):
        if key.endswith(".name"):
            continue
        for wrong in (key + "s", key[:-3] + key[-2:] + key[-3]):
            if wrong in flatten_config(load()) or wrong == key:
                continue
            text = refused(f"{wrong}=1")
            near = text.partition("did you mean ")[2].partition("?")[0]
            if near != key and difflib.SequenceMatcher(None, wrong, near).ratio() < 0.8:
                missed.append((wrong, text))
    assert not missed


def test_an_error_is_quick_and_needs_no_torch():
    code = ("import sys; from configs import load_config, ConfigError\n"
            "try: load_config(['sed=1'], ['ur-lstm'])\nexcept ConfigError as e: print(e)\n"
            "assert not {'torch', 'numpy', 'envs', 'agents', 'memory_cells'} & set(sys.modules)")
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=CONFIG_ROOT.parent, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0 and "did you mean seed?" in done.stdout, done.stderr
    assert time.monotonic() - start < 10  # 0.3 s on a quiet core


def test_a_run_from_before_auxiliary_losses_had_none(tmp_path):
    text = to_yaml(load("seed=4"))
    assert "aux:\n  name: none\n" in text
    (tmp_path / "config.yaml").write_text(text.replace("aux:\n  name: none\n", ""))
    assert from_resolved(tmp_path) == load("seed=4")
