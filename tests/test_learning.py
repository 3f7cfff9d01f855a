"""Agents that learn, in budgets of steps. The claims over seeds are `slow`; one small case is always run."""

import pytest

import build
from configs.load import load_config


def train(*tokens):
    """Trains a small default agent on one thread; the greedy report over 1,000 episodes."""
    config = load_config(["default", "train.threads=1", *tokens], build.KNOWN_CELLS)
    trainer = build.make_trainer(config, build.set_up_torch(config))
    watch = build.watcher(config, trainer.learner.agent, trainer.env.device)
    while not trainer.done and not (trainer.update and trainer.update % 10 == 0 and watch() >= 0.99):
        trainer.iterate()
    return build.evaluate_agent(config, trainer.learner.agent, trainer.env.device)["greedy"], trainer


SMALL = ("env.corridor_length=8", "train.num_envs=64", "train.unroll_length=32", "cell.hidden_size=32",
         "agent.learning_rate=3e-3")  # fmt: skip


def test_a_recurrent_agent_remembers():
    report, _ = train(*SMALL, "train.steps=250000")
    assert report["success_interval"][0] > 0.9, report


def test_the_memoryless_control_does_not():
    report, _ = train(*SMALL, "cell=memoryless", "train.steps=150000")
    assert report["success_interval"][0] <= 0.5 <= report["success_interval"][1], report


def test_the_cue_visible_twin_needs_no_memory():
    """The same control solves the twin, so what it lacks is memory and not the rest."""
    report, _ = train(*SMALL, "cell=memoryless", "env.cue_visible=true", "train.steps=250000")
    assert report["success_interval"][0] > 0.9, report


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("env", ["tmaze_passive", "tmaze_bakker"])
def test_the_default_solves_corridor_50(env, seed):
    report, trainer = train(f"env={env}", f"seed={seed}")
    assert report["success_interval"][0] > 0.9 and trainer.step <= 3_000_000, (trainer.step, report)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_vtrace_corrects_a_lag_of_four(seed):
    report, _ = train("agent=impala", "env.corridor_length=20", f"seed={seed}")
    assert report["success_interval"][0] > 0.9, report

