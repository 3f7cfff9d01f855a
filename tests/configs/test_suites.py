"""Suites: every file under configs/suites/ means something, and every slip is one line with the nearest choice."""

from pathlib import Path

import pytest

import build
from configs.errors import ConfigError
from configs.load import load_config
from configs.suite import SWEEP_SEED, plan, series
from configs.suite_file import read_suite, suites

CELLS, OUT = build.KNOWN_CELLS, Path("out")  # nothing is written there
TEXT = """
about: a small one
cells: lstm, gru
seeds: 2
baseline: gru
settings: {train.steps: 2e3, cell.hidden_size: 8}
envs:
  tmaze_passive:
    lengths: 4, 5
    train.steps: 3e3
  tmaze_active: {levels: "easy, medium"}
  tmaze_bakker:
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return lambda *tokens: read_suite([str(path), *tokens], CELLS)


def configs(suite, cell="lstm") -> dict:
    return {task.label: plan(cell, task, [3], OUT, CELLS)[0].config for task in suite.tasks}


def test_a_file_chooses_the_learner_and_the_command_line_another(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT + "defaults: {agent: ppo}\n")
    assert {config.agent.policy_loss for config in configs(read_suite([str(path)], CELLS)).values()} == {"ppo"}
    assert {config.agent.policy_loss for config in configs(read_suite([str(path), "agent=vtrace"], CELLS)).values()} == {"pg"}


def test_an_environment_chooses_its_own_learner_and_sets_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace("  tmaze_bakker:", "  tmaze_bakker: {defaults: {agent: ppo}, agent.minibatches: 2}"))
    for config in configs(read_suite([str(path)], CELLS)).values():
        own = config.env.name == "tmaze_bakker"
        assert (config.agent.policy_loss, config.agent.minibatches) == (("ppo", 2) if own else ("pg", 4))


@pytest.mark.parametrize("name", suites())
def test_every_suite_means_something(name):
    """Every cell on one task and every task with one cell, as load_config understands it."""
    suite = read_suite([name], CELLS)
    assert suite.options.about and suite.options.baseline in suite.cells and "memoryless" in suite.cells
    pairs = [(suite.cells[0], task) for task in suite.tasks] + [(cell, suite.tasks[0]) for cell in suite.cells[1:]]
    for cell, task in pairs:
        for run in plan(cell, task, suite.seeds, OUT, CELLS):
            assert run.config.cell.name == cell and run.config.env.name == task.env.partition("-")[0]
            assert run.config.train.evaluate_every and run.config.train.threads == 1


def test_smoke_is_as_large_as_it_should_be():
    suite = read_suite(["smoke"], CELLS)
    assert len(suite.cells) >= 8 and len({task.env for task in suite.tasks}) >= 3 and len(suite.seeds) >= 3
    assert all(10 <= task.length <= 20 for task in suite.tasks)


def test_what_a_suite_means(suite):
    mine = suite()
    assert (mine.name, mine.cells, list(mine.seeds), mine.options.baseline) == ("mine", ("lstm", "gru"), [1, 2], "gru")
    labels = ["tmaze_passive-4", "tmaze_passive-5", "tmaze_active-easy-20", "tmaze_active-medium-50", "tmaze_bakker-50"]
    assert [task.label for task in mine.tasks] == labels
    found = configs(mine)
    assert [config.train.steps for config in found.values()] == [3000, 3000, 2000, 2000, 2000]
    assert [config.env.corridor_length for config in found.values()] == [4, 5, 20, 50, 50]
    assert {(c.cell.hidden_size, c.seed, c.cell.name) for c in found.values()} == {(8, 3, "lstm")}


def test_the_command_line_goes_over_all(suite):
    mine = suite("cells=janet,lstm", "envs=tmaze_passive,tmaze_active-hard", "seeds=3", "first_seed=11", "train.steps=99999",
                 "agent=ppo", "agent.gamma=0.9")  # fmt: skip
    assert mine.cells == ("janet", "lstm") and list(mine.seeds) == [11, 12, 13]
    assert [task.label for task in mine.tasks] == ["tmaze_passive-4", "tmaze_passive-5", "tmaze_active-hard-100"]
    assert {(c.train.steps, c.agent.name, c.agent.gamma) for c in configs(mine).values()} == {(99999, "ppo", 0.9)}
    assert [task.label for task in suite("envs=tmaze_bakker,tmaze_active", "lengths=7,9").tasks] == [
        "tmaze_bakker-7", "tmaze_bakker-9", "tmaze_active-easy-7", "tmaze_active-easy-9", "tmaze_active-medium-7",
        "tmaze_active-medium-9"]  # fmt: skip
    (other,) = suite("envs=umbrella_chain-easy").tasks
    assert other.env == "umbrella_chain-easy"


def test_tokens_say_what_the_config_says(suite):
    """What a child gets as its command line is what the comparison has checked."""
    for task in suite("learning_rates=1e-3,3e-3").tasks:
        for rate in (None, 3e-3):
            runs = plan("gru", task, [1, 2], OUT, CELLS, rate)
            assert len({run.folder for run in runs}) == 2
            for run in runs:
                assert load_config(run.tokens, CELLS) == run.config and run.config.run_dir == str(run.folder)
                assert rate is None or run.config.agent.learning_rate == rate


def test_a_series_differs_in_length_alone(suite):
    """Levels that differ in more are series of their own; what has no length is in none."""
    def of(*tokens):
        return series({task.env: plan("lstm", task, [1], OUT, CELLS)[0].config.env for task in suite(*tokens).tasks})

    assert of() == {"tmaze_passive": "tmaze_passive", "tmaze_active-easy": "tmaze_active",
                    "tmaze_active-medium": "tmaze_active", "tmaze_bakker": "tmaze_bakker"}  # fmt: skip
    assert of("envs=tmaze_noisy-easy,tmaze_noisy-hard,cartpole_pomdp") == {
        "tmaze_noisy-easy": "tmaze_noisy-easy", "tmaze_noisy-hard": "tmaze_noisy-hard"}  # fmt: skip


def test_a_sweep_has_seeds_of_its_own(suite):
    mine = suite("learning_rates=1e-3,1e-2", "sweep_seeds=3")
    assert read_suite(["smoke", "learning_rates=1e-3,1e-2"], CELLS).learning_rates == (1e-3, 1e-2)  # over the rate in its file
    assert mine.learning_rates == (1e-3, 1e-2) and list(mine.sweep_seeds) == [SWEEP_SEED + k for k in range(3)]
    with pytest.raises(ConfigError, match="first_seed"):
        suite(f"first_seed={SWEEP_SEED}")


@pytest.mark.parametrize("tokens, words", [
    (["cells=lstn"], ["unknown cell 'lstn'", "did you mean lstm?"]), (["cells=lstm,,gru"], ["no list"]),
    (["cells=lstm,lstm"], ["different values"]), (["baseline=grru"], ["as baseline", "did you mean gru?"]),
    (["envs=tmaze_pasive"], ["unknown env", "did you mean tmaze_passive?"]),
    (["envs=tmaze_passive-hrd"], ["no level 'hrd'", "did you mean hard?"]),
    (["envs=tmaze_passive,tmaze_passive-easy", "lengths=5"], []),
    (["sweep_seeds=2"], ["sweep_seeds", "needs learning_rates"]),
    (["learning_rates=1e-3,0.001"], ["each once"]), (["learning_rates=1e-3"], ["two rates or more", "agent.learning_rate"]),
    (["lengths=5,x"], ["no list of integers"]), (["lengths=0"], ["env.corridor_length='0'", "from 1"]),
    (["lengths=5", "env.corridor_length=5"], ["lengths contradicts env.corridor_length=5"]),
    (["envs=discounting_chain", "lengths=5"], ["discounting_chain has no length"]),
    (["seeds=0"], ["seeds='0'", "from 1"]), (["seeds=many"], ["not a number"]), (["jobs=-1"], ["from 0"]),
    (["match=size"], ["width, parameters"]), (["solved=2"], ["from 0 to 1"]),
    (["sedes=3"], ["unknown key 'sedes'", "did you mean seeds?"]), (["cell=gru"], ["write cells="]),
    (["seed=3"], ["write seeds="]), (["env=tmaze_bakker"], ["write envs="]), (["run_dir=x"], ["write out="]),
    (["train.step=5"], ["did you mean train.steps?"]), (["agent=pppo"], ["did you mean ppo?"]),
    (["seeds=1", "seeds=2"], ["seeds is given twice"]), (["seeds"], ["not key=value"]),
    (["learning_rates=1e-3,fast"], ["no list of numbers"]), (["learning_rates=1e-3,nan"], ["no list of numbers"]),
    (["learning_rates=1e-3,1e-2", "agent.learning_rate=1"], ["agent.learning_rate is set"]),
])  # fmt: skip
def test_slips_on_the_command_line(suite, tokens, words):
    def read():
        mine = suite(*tokens)
        for task in mine.tasks:
            plan("lstm", task, [1], OUT, CELLS)

    if not words:  # no slip: a level beside the suite's own tasks
        return read()
    with pytest.raises(ConfigError) as error:
        read()
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("old, new, words", [
    ("cells: lstm, gru", "cells: lstm, grru", ["line 3", "did you mean gru?"]),
    ("cells: lstm, gru", "cels: lstm", ["unknown key 'cels'", "did you mean cells?"]),
    ("cells: lstm, gru", "cells: [lstm, gru]", ["line 3", "is a list"]), ("cells: lstm, gru", "", ["needs cells and envs"]),
    ("tmaze_bakker:", "tmaze_baker:", ["did you mean tmaze_bakker?"]), ("tmaze_bakker:", "tmaze_bakker: 5", ["is a section"]),
    ("lengths: 4, 5", "length: 4, 5", ["unknown key 'length'", "did you mean lengths?"]),
    ("easy, medium", "easy, hrad", ["line 11: tmaze_active has no level 'hrad'", "did you mean hard?"]),
    ("easy, medium", "easy, easy", ["different"]),
    ("settings: {train.steps", "settings: {train.step", ["did you mean train.steps?"]),
    ("settings: {train.steps", "settings: {seed: 3, train.steps", ["write seeds="]), ("seeds: 2", "seeds: 2.5", ["integer"]),
    ("seeds: 2", "jobs: 2", ["unknown key 'jobs'"]), ("settings: {", "settings: !!python/object {", ["tag"]),
    ("settings: {train.steps: 2e3, cell.hidden_size: 8}", "settings: 5", ["settings is a section"]),
    ("seeds: 2", "defaults: {agent: ppoo}", ["unknown agent 'ppoo'", "did you mean ppo?"]),
    ("seeds: 2", "defaults: {agnt: ppo}", ["did you mean agent?"]), ("seeds: 2", "defaults: {cell: gru}", ["write cells="]),
    ("seeds: 2", "defaults: {device: cpu}", ["chooses agent and aux"]), ("seeds: 2", "defaults: 3", ["is a section"]),
    ("tmaze_bakker:", "tmaze_bakker: {defaults: {agnt: ppo}}", ["line 12", "did you mean agent?"]),
    ("tmaze_bakker:", "tmaze_bakker: {agent: ppo, agent.reuse: 2}", ["'envs.tmaze_bakker.agent' is a single value"]),
])  # fmt: skip
def test_slips_in_a_file(tmp_path, old, new, words):
    assert TEXT.count(old) == 1
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(ConfigError) as error:
        mine = read_suite([str(path)], CELLS)
        for task in mine.tasks:
            plan("lstm", task, [1], OUT, CELLS)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("argv, words", [
    ([], ["the suite comes first", "smoke"]), (["seeds=3"], ["the suite comes first"]),
    (["smok"], ["unknown suite 'smok'", "did you mean smoke?"]), (["mine.yaml"], ["no such config file: mine.yaml"]),
])  # fmt: skip
def test_slips_in_the_suite(argv, words):
    with pytest.raises(ConfigError) as error:
        read_suite(argv, CELLS)
    assert all(word in str(error.value) for word in words), error.value
