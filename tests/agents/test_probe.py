"""The memory probe on cells that hold the cue, on one that cannot, and against scikit-learn."""

import pytest
import torch

from agents.agent import Agent
from agents.diagnose import diagnose, summary
from agents.probe import cross_validated, memory_probe, targets
from envs import make
from memory_cells.cells import Memoryless
from tests.agents.counting import CountingCell


class Sum(CountingCell):
    """Holds the sum of what it has seen, and with it the cue that it was shown once."""

    def project(self, x):
        return (x,)


class Same(torch.nn.Module):
    """Hands on the observation as it is."""

    def forward(self, obs, extra):
        return obs


def probed(core):
    env = make("tmaze_passive", num_envs=256, device="cpu", seed=0, corridor_length=6)
    agent = Agent(Same(), env.num_actions, core)
    return diagnose(agent, env, length=20, unroll_length=8, gamma=0.99, trace_lambda=0.95, seed=5)


def test_a_cell_that_copies_the_cue_is_read_perfectly():
    (found,) = probed(Sum(2))["probe"].values()
    assert found["step"] == list(range(8)) and found["accuracy"] == [1] * 8 and min(found["low"]) > 0.97


def test_the_memoryless_cell_is_at_chance():
    report = probed(Memoryless(2, 8))
    (found,) = report["probe"].values()
    assert found["accuracy"][0] == 1  # the cue is on show
    for low, chance, high in list(zip(found["low"], found["chance"], found["high"], strict=True))[1:]:
        assert low <= chance <= high < 0.6
    assert report["gates"] is None and "gates: this cell has no gate to record" in summary(report)


class Latest(CountingCell):
    """Holds the row that last showed a cue."""

    def project(self, x):
        return (x,)

    def step(self, z, state):
        return torch.where(z[0][:, 1:2] != 0, z[0], state[0]), state[1]


def test_a_cue_that_replaces_another_is_read_from_its_own_first_row_on():
    env = make("tmaze_rewrite", num_envs=256, device="cpu", seed=0, corridor_length=2, corridors=3)
    twin = make("tmaze_rewrite", num_envs=256, device="cpu", seed=0, corridor_length=2, corridors=3, cue_visible=True)
    report = diagnose(Agent(Same(), 3, Latest(3)), env, length=40, unroll_length=8, gamma=0.99, trace_lambda=0.95, seed=5)
    (found,) = report["probe"].values()
    assert min(found["accuracy"]) == 1 and found["step"][:3] == [0, 1, 2]
    report = diagnose(Agent(Same(), 3, Memoryless(4, 8)), twin, length=40, unroll_length=8, gamma=0.99, trace_lambda=0.95,
                      seed=5)  # fmt: skip
    (shown,) = report["probe"].values()
    assert min(shown["accuracy"]) == 1  # what is to be read is the cue of the row itself


def test_what_there_is_to_read():
    bits = torch.tensor([[1.0, -1], [1, 1], [-1, 1], [-1, 1]])
    assert {n: c.tolist() for n, c in targets(bits).items()} == {"cue 0": [1, 1, 0, 0], "cue 1": [0, 1, 1, 1]}
    hot = torch.eye(4)[[2, 0, 3]]
    assert {n: c.tolist() for n, c in targets(hot).items()} == {"class": [2, 0, 3]}
    assert {n: c.tolist() for n, c in targets(torch.tensor([[0.1, 5], [0.7, 5], [0.9, 5]])).items()} == {"cue 0": [0, 0, 1]}
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    classes = x[:, :3].argmax(1)
    assert cross_validated(x, classes).double().mean() > 0.85
    shuffled = classes[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    assert cross_validated(x, shuffled).double().mean() < 0.45  # of episodes it has not seen, it knows nothing


def test_the_probe_equals_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).double()
    classes = (x[:, 0] + torch.randn(60, generator=torch.Generator().manual_seed(1)) > 0).long()
    found, want = cross_validated(x, classes), torch.zeros(60, dtype=torch.bool)
    for k in range(5):
        train = torch.arange(60) % 5 != k
        z = (x - x[train].mean(0)) / x[train].std(0, correction=0)
        ridge = linear.Ridge(alpha=0.1 * 48).fit(z[train].numpy(), 2.0 * classes[train].numpy() - 1)
        want[~train] = torch.from_numpy(ridge.predict(z[~train].numpy()) > 0) == classes[~train].bool()
    assert torch.equal(found, want) and 0.5 < found.double().mean() < 1


def test_an_episode_counts_while_it_lasts():
    """Two environments of episodes of 3 and 1 rows; only what is there is probed."""
    age = torch.stack([torch.arange(90) % 3, torch.zeros(90, dtype=torch.int64)], 1)
    cue = torch.randint(2, (90, 2, 1), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    (found,) = memory_probe(cue, age, cue, 64).values()
    assert found["step"] == [0, 1, 2] and found["episodes"] == [120, 30, 30] and found["accuracy"][0] == 1
    assert memory_probe(cue[:9], age[:9], cue[:9], 64) == {}  # too few


def test_of_many_episodes_some_are_enough():
    cue = torch.randint(2, (5000, 1, 1), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    (found,) = memory_probe(cue, torch.zeros(5000, 1, dtype=torch.int64), cue, 64).values()
    assert found["episodes"] == [4096] and found["accuracy"] == [1]
