"""Evaluation: exactly N episodes, none counted for being short; the intervals; and no trace left in training."""

import json
import math
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats

import build
import evaluate_agent
import train_agent
from agents.agent import Agent
from agents.encoders import VectorEncoder
from agents.evaluate import Episodes, computation, evaluate, play, summarise
from configs.load import load_config
from envs.env import Env, Spec
from memory_cells import make_core
from memory_cells.multi import Stacked

TINY = [
    "smoke", "device=cpu", "train.threads=1", "cell.hidden_size=8", "agent.embedding_size=8", "train.num_envs=8",
    "train.steps=400", "train.evaluate_every=2", "train.evaluate_episodes=5", "evaluate.episodes=11",
    "evaluate.num_envs=4", "seed=4", "agent.entropy_cost=0.1",
]  # fmt: skip


class FortuneState(NamedTuple):
    number: torch.Tensor  # of the episode, per environment
    t: torch.Tensor
    lucky: torch.Tensor
    actions: torch.Tensor  # sum of the actions taken


class FortuneEnv(Env):
    """Half of the episodes are lucky, by the generator: these succeed and last 1 step, the others fail and last 10, so
    counting whatever ends first would find too many successes. Each step rewards with 1 / length."""

    num_actions, action_names = 2, ("zero", "one")
    obs_high = 1e6

    def spawn(self):
        lucky = torch.rand(self.num_envs, generator=self.generator) < 0.5
        zero = torch.zeros(self.num_envs, dtype=torch.int64)
        return FortuneState(self.state.number + 1 if hasattr(self, "state") else zero, zero, lucky, zero)

    def act(self, state, action):
        length = torch.where(state.lucky, 1, 10)
        new = state._replace(t=state.t + 1, actions=state.actions + action)
        return new, 1 / length, new.t >= length, torch.zeros_like(state.lucky)

    def observe(self, state):
        return torch.stack([state.t, state.number], -1).to(torch.float32)

    def success(self, state):
        return state.lucky

    def oracle(self, state):
        return torch.zeros_like(state.t)

    def cue(self, state):
        return state.lucky.unsqueeze(-1).to(torch.float32)

    def describe(self):
        return Spec(0, 1, 1.0, 1.0, 1.0, 1.0, None, 1.0, 11, 0.5)


class FixedEnv(FortuneEnv):
    """Environment b fails with episodes of 1 + 2b steps; only environment 0's succeed. Reward 1 a step."""

    def spawn(self):
        return super().spawn()._replace(lucky=torch.arange(self.num_envs) == 0)

    def act(self, state, action):
        new = state._replace(t=state.t + 1, actions=state.actions + action)
        over = new.t >= 1 + 2 * torch.arange(self.num_envs)
        return new, torch.ones(self.num_envs), over & (state.number % 2 == 0), over  # some end in both ways, some are cut


def make_agent(seed=0, size=2, actions=2, core="lstm"):
    torch.manual_seed(seed)
    agent = Agent(VectorEncoder((size,), 0, 8), actions, make_core(core, 8, 8, horizon=10))
    with torch.no_grad():
        agent.policy.weight.normal_()
    return agent


@pytest.mark.parametrize("num_envs", [1, 3, 7])
@pytest.mark.parametrize("episodes", [1, 2, 3, 7, 10, 31])
def test_exactly_n_by_quota(num_envs, episodes):
    """Also where N is no multiple of the environments, or smaller."""
    found = play(make_agent(), FixedEnv(num_envs), episodes, None)
    quota = [episodes // num_envs + (b < episodes % num_envs) for b in range(num_envs)]
    lengths = [1 + 2 * b for b, n in enumerate(quota) for _ in range(n)]
    assert found.lengths.tolist() == lengths and found.returns.tolist() == lengths
    assert found.success.tolist() == [length == 1 for length in lengths]
    assert {len(x) for x in found} == {episodes} and found.returns.dtype == torch.float64


def test_short_episodes_are_not_over_counted():
    """The first 2 x 128 to end would be 73 % successes (a lucky one takes 2 rows, an unlucky one 11)."""
    found = play(make_agent(), FortuneEnv(128, seed=3), 256, None)
    rate = found.success.double().mean().item()
    assert abs(rate - 0.5) < 3 * 0.5 / math.sqrt(256)
    torch.testing.assert_close(found.returns, torch.ones(256, dtype=torch.float64), atol=1e-6, rtol=0)
    assert torch.equal(found.lengths, torch.where(found.success, 1, 10))
    # the first two episodes of every environment, and no others
    env, lucky = FortuneEnv(128, seed=3), []
    env.reset()
    for _ in range(40):
        lucky.append((env.ended.clone(), env.state.lucky.clone()))
        env.step(torch.zeros(128, dtype=torch.int64))
    expected = [[bool(won[b]) for ended, won in lucky if ended[b]][:2] for b in range(128)]
    assert found.success.tolist() == [won for pair in expected for won in pair]


@pytest.mark.parametrize("wins, n", [(0, 10), (10, 10), (1, 3), (497, 1000), (1000, 1000), (0, 1), (95, 100)])
def test_wilson_interval(wins, n):
    won = torch.arange(n) < wins
    found = summarise(Episodes(won.double(), torch.ones(n, dtype=torch.int64), won))
    z, p = 1.959963984540054, wins / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    closed = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
    assert found["success_interval"] == pytest.approx(closed, abs=1e-12)
    assert found["success_rate"] == p and 0 <= found["success_interval"][0] <= p <= found["success_interval"][1] <= 1


def test_bootstrap_interval():
    values = torch.from_numpy(np.random.default_rng(1).normal(3.0, 2.0, 400))
    found = summarise(Episodes(values, torch.ones(400, dtype=torch.int64), values > 0))
    half = stats.t.ppf(0.975, 399) * values.std().item() / 20
    mean = values.mean().item()
    assert found["mean_return"] == mean
    assert found["return_interval"] == pytest.approx([mean - half, mean + half], abs=0.1 * half)
    assert found == summarise(Episodes(values, torch.ones(400, dtype=torch.int64), values > 0))  # and it repeats
    same = summarise(Episodes(torch.full((5,), 0.3).double(), torch.ones(5, dtype=torch.int64), torch.ones(5) > 0))
    assert same["return_interval"] == [same["mean_return"]] * 2
    assert json.loads(json.dumps(found)) == found


def test_the_state_is_carried_and_reset():
    """Played one environment at a time or all together, an agent that remembers does the same."""
    agent = make_agent(core="gru")
    together = play(agent, FixedEnv(5), 5, None)
    taken = []
    for b in range(5):
        env = FixedEnv(5)
        row, state = env.reset(), agent.initial_state(5)
        for _ in range(1 + 2 * b):
            output, state = agent(type(row)(*(x.unsqueeze(0) for x in row)), state)
            row = env.step(output.logits[0].argmax(-1))
        assert env.ended[b]
        taken.append(env.state.t[b].item())
    assert together.lengths.tolist() == taken


def test_greedy_takes_the_likeliest_and_sampled_draws():
    agent = make_agent()
    with torch.no_grad():
        agent.policy.weight.zero_()
        agent.policy.bias.copy_(torch.tensor([0.0, math.log(3.0)]))  # action 1 with probability 3/4

    class Recorded(FortuneEnv):
        def step(self, action):
            if not self.ended.all():
                actions.append(action[~self.ended])
            return super().step(action)

    actions: list[torch.Tensor] = []
    play(agent, Recorded(64), 128, None)
    assert (torch.cat(actions) == 1).all()
    actions.clear()
    play(agent, Recorded(64), 512, torch.Generator().manual_seed(0))
    drawn = torch.cat(actions).double()
    assert abs(drawn.mean() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / len(drawn)) and len(drawn) > 1000


def test_it_leaves_no_trace():
    """The default generator, the training's generators, its environment, its gradients and the agent's mode."""
    config = load_config([*TINY, "cell=gru", "agent.actor_lag=2"], build.KNOWN_CELLS)
    device = torch.device("cpu")
    one, two = (build.make_trainer(config, device) for _ in range(2))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    watch = build.watcher(config, one.learner.agent, device)
    for _ in range(4):
        watch()
        build.evaluate_agent(config, one.learner.agent, device)
        assert one.learner.agent.training == two.learner.agent.training
        for log, other in zip(one.iterate().items(), two.iterate().items(), strict=True):
            assert log[0] == other[0] and torch.equal(log[1], other[1]), log[0]
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("act", "minibatch"):
        assert torch.equal(one.state()["generators"][name], two.state()["generators"][name])
    for left, right in zip(one.learner.agent.parameters(), two.learner.agent.parameters(), strict=True):
        assert torch.equal(left, right)


def test_evaluation_repeats_whatever_came_before():
    agent, env = make_agent(size=2, actions=4), build.make_env(load_config(["smoke"], build.KNOWN_CELLS), 7, "cpu", 0)
    first = evaluate(agent, env, 20, seed=9)
    torch.rand(100)
    env.step(torch.zeros(7, dtype=torch.int64))
    assert evaluate(agent, env, 20, seed=9) == first
    assert evaluate(agent, env, 20, seed=10) != first
    assert first["reference"]["r_star"] == 1.0 and first["reference"]["chance"] == 0.5
    assert first["greedy"]["episodes"] == first["sampled"]["episodes"] == 20


# --- the script ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("evaluate") / "run"
    assert train_agent.main([*TINY, f"run_dir={run}"]) == 0
    return run


@pytest.fixture
def reports(finished, capsys):
    def call(*arguments) -> dict:
        capsys.readouterr()
        assert evaluate_agent.main([str(finished), "--json", *arguments]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        report = json.loads(told.out)  # one JSON object and nothing else
        assert isinstance(report, dict)
        return report

    return call


def test_the_script_equals_the_evaluation_of_training(finished, reports):
    report = reports()
    assert report == json.loads((finished / "evaluation.json").read_text())
    for how in ("greedy", "sampled"):
        low, high = report[how]["success_interval"]
        assert low <= report[how]["success_rate"] <= high and report[how]["episodes"] == 11
    assert report == reports("--episodes", "11", "train.threads=1") == reports("evaluate.episodes=11", "device=cpu")


def test_an_agent_restored_evaluates_as_it_did_in_training(finished):
    """Bit for bit what it was when it was saved, evaluated by the code of training itself."""
    config = load_config(TINY, build.KNOWN_CELLS)
    trainer = build.make_trainer(config, torch.device("cpu"))
    while not trainer.done:
        trainer.iterate()
    inside = build.evaluate_agent(config, trainer.learner.agent, torch.device("cpu"))
    saved = json.loads((finished / "evaluation.json").read_text())
    assert inside | {"step": trainer.step, "update": trainer.update} == saved


def test_lengths_and_overrides(reports, finished, tmp_path):
    plain = reports()
    per_length = reports("--lengths", "3,5,40")["lengths"]
    assert list(per_length) == ["3", "5", "40"] and per_length["5"] == plain
    assert per_length["40"]["greedy"]["mean_length"] == 41 and per_length["3"] == reports("env.corridor_length=3")
    assert reports("--episodes", "3")["greedy"]["episodes"] == 3
    assert reports("evaluate.seed=7")["seed"] == 7
    shutil.copytree(finished, tmp_path / "moved")  # a run is found wherever it lies
    assert evaluate_agent.main([str(tmp_path / "moved")]) == 0


def test_the_line_for_people(finished, capsys):
    assert evaluate_agent.main([str(finished), "--lengths", "3,6", "--episodes", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["corridor 3", "corridor 6"]
    assert all(w in lines[0] for w in ("4 episodes", "greedy success", "sampled success", "optimum 1", "chance"))


# --- a time gate's threshold -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gated(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("gated") / "run"
    assert train_agent.main([*TINY, "cell=g-lstm", "cell.threshold=0.3", "cell.horizon=8", f"run_dir={run}"]) == 0
    return run


def report_of(run: Path, capsys, *arguments) -> dict:
    capsys.readouterr()
    assert evaluate_agent.main([str(run), "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_report_counts_what_a_threshold_saves(gated, capsys):
    """Counted unit by unit while the same episodes are played with k set to 0 below the threshold."""
    report = report_of(gated, capsys, "cell.threshold=0.6")
    config = build.run_config(gated, [], ("cell.",))
    env = build.make_env(config, 4, torch.device("cpu"), seed=0)
    agent, _ = build.load_agent(gated, config, env)
    gate, opened, acted = agent.core.openness, [], []
    agent.core.threshold.zero_()
    real = gate.forward

    def cut(t, training):
        k = torch.where(real(t, training) < 0.6, 0.0, real(t, training))
        opened.append((k > 0).sum(-1))
        return k

    gate.forward = cut
    step = env.step
    quota, done = torch.tensor([3, 3, 3, 2]), torch.zeros(4, dtype=torch.int64)  # of 11 episodes

    def watched(action):
        acted.append(~env.ended & (done < quota))  # rows that a counted episode goes on from
        row = step(action)
        done.add_(env.ended)
        return row

    env.step = watched
    real_reset = env.reset
    env.reset = lambda: (real_reset(), acted.clear(), done.zero_())[0]
    env.seed(config.evaluate.seed)
    played = summarise(play(agent, env, 11, None))
    units = sum(int(o[a].sum()) for o, a in zip(opened, acted, strict=True))
    rows = sum(int(a.sum()) for a in acted)
    products = 4 * (8 + 8)  # of a unit: four blocks on eight inputs and eight outputs
    assert rows == played["mean_length"] * 11 and 0 < units < rows * 8
    want = played | {"unit_updates": units / (rows * 8), "multiply_adds": units * products,
                     "multiply_adds_total": rows * 8 * products}  # fmt: skip
    assert {name: report["greedy"][name] for name in want} == want


def test_layers_are_summed():
    torch.manual_seed(0)
    cores = [make_core("g-lstm", size, 8, horizon=10, threshold=t) for size, t in ((3, 0.3), (8, 0.7))]
    each = [computation(Agent(VectorEncoder((2,), 0, 8), 2, core), torch.tensor([4, 1, 9])) for core in cores]
    both = computation(Agent(VectorEncoder((2,), 0, 8), 2, Stacked(cores)), torch.tensor([4, 1, 9]))
    assert [one["multiply_adds_total"] for one in each] == [14 * 8 * 4 * (size + 8) for size in (3, 8)]
    assert 0 < each[1]["unit_updates"] < each[0]["unit_updates"] < 1
    for name, found in both.items():
        assert found == pytest.approx(sum(one[name] for one in each) / (2 if name == "unit_updates" else 1))
    assert computation(make_agent(), torch.tensor([4])) == {}


def test_a_threshold_of_the_command_line_counts_and_not_the_saved_one(gated, capsys):
    saved = json.loads((gated / "evaluation.json").read_text())
    plain = report_of(gated, capsys)
    seconds = plain.pop("row_seconds")
    assert set(seconds) == {"plain", "open_units"} and all(s > 0 for s in seconds.values())
    assert plain == saved  # wall time is in no run's record
    share = {t: report_of(gated, capsys, f"cell.threshold={t}")["sampled"]["unit_updates"] for t in ("null", 0.3, 0.6, 0.9)}
    assert share["null"] == 1 > share[0.3] == saved["sampled"]["unit_updates"] > share[0.6] > share[0.9] > 0
    assert evaluate_agent.main([str(gated), "cell.threshold=0.6"]) == 0
    line = capsys.readouterr().out
    assert f"{share[0.6]:.1%} of unit updates made" in line and "a row takes" in line and "multiply-adds" in line
    for how in report_of(gated, capsys, "--lengths", "3,5", "cell.threshold=0.6")["lengths"].values():
        assert 0 < how["greedy"]["multiply_adds"] < how["greedy"]["multiply_adds_total"]


def test_what_an_evaluation_may_not_change_of_a_cell(gated, finished, capsys):
    for run, token, words in ((finished, "cell.threshold=0.1", "takes no threshold"), (gated, "cell.threshold=1", "[0, 1)"),
                              (gated, "cell.horizon=9", "cell.horizon cannot change"),
                              (gated, "cell.sigma_start=0.5", "cell.threshold")):  # fmt: skip
        capsys.readouterr()
        assert evaluate_agent.main([str(run), token]) == 2
        told = capsys.readouterr()
        assert words in told.err and told.err.count("\n") == 1 and told.out == ""


def test_what_a_run_stops_at_is_not_what_it_is_judged_by(monkeypatch):
    """Training looks at one set of episodes, always the same; the final evaluation plays another."""
    config, cpu = load_config(TINY, build.KNOWN_CELLS), torch.device("cpu")
    agent = build.make_trainer(config, cpu).learner.agent
    seeds, seed = [], Env.seed
    monkeypatch.setattr(Env, "seed", lambda env, number: (seeds.append(number), seed(env, number))[1])
    watch = build.watcher(config, agent, cpu)
    watch(), watch()
    watched = set(seeds)
    seeds.clear()
    build.evaluate_agent(config, agent, cpu)
    assert len(watched) == 1 and watched.isdisjoint(seeds) and seeds


def test_at_another_length_it_is_the_same_network(tmp_path):
    """KAF gates of a chrono cell have a dictionary as wide as its horizon asks for, which is that of training."""
    run = tmp_path / "run"
    assert train_agent.main([*TINY, "cell=kaf-chrono-lstm", f"run_dir={run}"]) == 0
    config = build.run_config(run, [], ())
    longer = build.run_config(run, ["env.corridor_length=60"], ("env.",))
    agents = [build.load_agent(run, c, build.make_env(c, 1, torch.device("cpu"), 0))[0] for c in (config, longer)]
    assert agents[0].core.gate.squash_forget.points == agents[1].core.gate.squash_forget.points
    assert evaluate_agent.main([str(run), "--lengths", "5,60", "--episodes", "4"]) == 0


def test_every_look_in_training_sees_the_same_episodes(tmp_path):
    config = load_config([*TINY, "env=tmaze_noisy"], build.KNOWN_CELLS)
    agent = build.make_agent(config, build.make_env(config, 1, torch.device("cpu"), 0))
    watch = build.watcher(config, agent, torch.device("cpu"))
    assert len({watch() for _ in range(4)}) == 1
