"""What the learner does to a cell: values scheduled by progress, the time gate's computational budget, and what it refuses."""

import copy
import math

import pytest
import torch
from counting import CountingEnv
from test_learner import B, NoHostSync, T, make_agent, make_learner, rollout_of

import build
import train_agent
from agents.rollout import collect, start
from agents.trainer import Schedule, Trainer, transitions
from configs.load import load_config
from memory_cells import VARIANTS, make_core, unroll
from memory_cells.multi import Stacked
from memory_cells.wrappers import set_progress

CURRICULUM = {"sigma_start": 0.1, "sigma_end": 30.0, "sigma_until": 0.5}


def g_lstm(**options):
    return make_core("g-lstm", 8, 8, horizon=8.0, **options)


# --- scheduled values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress, factor", [(0, 0.1), (0.125, 7.575), (0.25, 15.05), (0.5, 30), (0.75, 30), (1, 30)])
def test_sigma_moves_linearly_and_stays(progress, factor):
    core = g_lstm(**CURRICULUM)
    assert core.openness.factor.item() == pytest.approx(0.1)  # from the start, before anybody says so
    set_progress(core, 0.9)
    set_progress(core, progress)
    assert core.openness.factor.item() == pytest.approx(factor)


def test_h_detach_ends_for_good():
    core = make_core("hdetach-lstm", 8, 8, p_detach=0.4, detach_until=0.3)
    for progress, p in ((0.0, 0.4), (0.29, 0.4), (0.3, 0.0), (0.9, 0.0), (0.1, 0.4)):
        set_progress(core, progress)
        assert core.p_detach.item() == pytest.approx(p)


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_moves_by_default(name):
    core = make_core(name, 8, 16, horizon=20)
    before = copy.deepcopy(core.state_dict())
    for progress in (0.0, 0.5, 0.999):
        set_progress(core, progress)
        assert all(torch.equal(a, b) for a, b in zip(before.values(), core.state_dict().values(), strict=True))


def test_wrappers_inside_a_stack_are_reached():
    stack = Stacked([g_lstm(**CURRICULUM), g_lstm(**CURRICULUM)])
    set_progress(stack, 0.5)
    assert [layer.openness.factor.item() for layer in stack.layers] == [30.0, 30.0]


@pytest.mark.parametrize("path", ["fused", "eager"])
def test_a_compiled_step_sees_the_value_of_the_moment(path):
    core, x, first = g_lstm(**CURRICULUM), torch.randn(12, 3, 8), torch.zeros(12, 3, dtype=torch.bool)
    seen = []
    for progress in (0.0, 0.1, 0.5):
        set_progress(core, progress)
        ys = [unroll(core, x, first, core.initial_state(3), path=p)[0] for p in (path, "loop")]
        torch.testing.assert_close(*ys, rtol=1e-5, atol=1e-6)
        seen.append(ys[0])
    assert (seen[0] - seen[1]).abs().max() > 0.01 and (seen[1] - seen[2]).abs().max() > 0.01


def trainer_of(core, lag=0, steps=600, **changes):
    flat = Schedule(1e-3, 1.0)
    return Trainer(CountingEnv(B), make_learner(make_agent(core), lag=lag, **changes), steps=steps, unroll_length=T,
                   full_episode=False, learning_rate=flat, entropy_cost=flat, normalise_reward=False, seed=0,
                   stagger_episodes=False)  # fmt: skip


@pytest.mark.parametrize("lag", [0, 2])
def test_the_trainer_sets_them_before_every_rollout(lag):
    """In the actor as in the learner: a rollout is made, and its coins are drawn, with the values it is learned with."""
    core = make_core("hdetach-lstm", 8, 8, p_detach=1.0, detach_until=0.5)
    trainer, coins = trainer_of(core, lag), []
    actor = trainer.learner.actor
    assert (actor is trainer.learner.agent) == (lag == 0)
    real = actor.core.draw
    actor.core.draw = lambda *a: (coins.append(real(*a)[0].mean().item()), real(*a))[1]
    progress = []
    while not trainer.done:
        progress.append(trainer.step / trainer.steps)
        trainer.iterate()
    assert coins == [1.0 if p < 0.5 else 0.0 for p in progress] and len(set(coins)) == 2


def test_h_detach_switched_off_is_the_plain_cell():
    """The gradient of a whole update, off, is that of the cell inside without the wrapper; before, it is another."""
    wrapped = make_agent(make_core("hdetach-lstm", 8, 8, p_detach=1.0, detach_until=0.5))
    plain = make_agent(make_core("lstm", 8, 8))
    plain.load_state_dict({k.replace("core.inner.", "core."): v for k, v in wrapped.state_dict().items()
                           if not k.endswith("p_detach")})  # fmt: skip

    def gradients(agent, progress):
        learner = make_learner(agent)
        learner.schedule(0.0, 0.01, progress)
        set_progress(wrapped, progress)
        rollout, _ = rollout_of(wrapped)  # whose coins draw from the generator of the actions, fallen or not
        learner.update(rollout if agent is wrapped else rollout._replace(noise=()), transitions(rollout, False))
        return [p.grad for p in agent.parameters()]

    want = gradients(plain, 0.6)
    torch.testing.assert_close(gradients(wrapped, 0.6), want, rtol=1e-5, atol=1e-7)
    on = gradients(wrapped, 0.4)
    assert any((a - b).abs().max() > 1e-3 * b.abs().max() for a, b in zip(on, want, strict=True))


# --- the budget ------------------------------------------------------------------------------------------------------


def by_hand(core, rollout, valid, clock, skip=0):
    """(mean openness, share of openings at or above the threshold), row by row, in numbers."""
    mu, sigma = (core.openness.mu * 8).tolist(), ((core.openness.sigma.abs() + 1e-3) * 8).tolist()
    threshold, k = core.threshold.item(), []
    for b in range(B):
        t = clock[b]
        for row in range(T):
            t = 1 if rollout.rows.first[row, b] else t + 1
            if row >= skip and valid[row, b]:
                k += [math.exp(-(((t - m) / s) ** 2)) for m, s in zip(mu, sigma, strict=True)]
    return sum(k) / len(k), sum(x >= threshold for x in k) / len(k)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("changes", [{}, {"burn_in": 5}, {"start_state": "zero"}])
def test_the_budget_is_the_mean_openness_of_rows_that_are_acted_on(changes, layers):
    cores = [g_lstm(threshold=0.4) for _ in range(layers)]
    agent = make_agent(Stacked(cores) if layers > 1 else cores[0])
    with torch.no_grad():
        for core in cores:
            core.openness.sigma.uniform_(0.1, 0.4)
    learner, (rollout, _) = make_learner(agent, budget_cost=0.3, **changes), rollout_of(agent)
    valid = transitions(rollout, False)
    terms, scales, log = learner.losses(rollout, valid)
    clock = [0.0] * B if "start_state" in changes else rollout.state[-1][:, 0].tolist()
    clocks = rollout.state[2::3]  # behind every layer's h and c
    assert len(clocks) == layers and (clocks[0] > 0).any() and all(torch.equal(clocks[0], other) for other in clocks)
    each = [by_hand(core, rollout, valid, clock, changes.get("burn_in", 0)) for core in cores]
    openness, updates = (sum(shares) / layers for shares in zip(*each, strict=True))
    assert terms.keys() == scales.keys() and scales["budget"] == 0.3
    assert terms["budget"].item() == pytest.approx(openness, rel=1e-5)
    assert log["unit_updates"].item() == pytest.approx(updates) and 0.05 < updates < 0.95


GATED = [name for name, row in VARIANTS.items() if "threshold" in row.options]


@pytest.mark.parametrize("name", GATED)
def test_updates_are_counted_in_training_as_evaluation_makes_them(name):
    """A phased unit leaks in training, and no threshold holds there."""
    core = make_core(name, 8, 64, horizon=8, threshold=0.2)
    first, state = torch.rand(40, 3) < 0.1, core.initial_state(3)
    share = core.train().unit_updates(first, state).mean()
    executed, total = core.eval().multiply_adds(first, state)
    assert 0 < share < 1 and share.item() == pytest.approx(executed.item() / total.item())


@pytest.mark.parametrize("name", GATED)
def test_its_gradient_reaches_the_time_gate_alone(name):
    agent = make_agent(make_core(name, 8, 8, horizon=8))
    learner, (rollout, _) = make_learner(agent), rollout_of(agent)
    terms, _, _ = learner.losses(rollout, transitions(rollout, False))
    terms["budget"].backward()
    reached = {n for n, p in agent.named_parameters() if p.grad is not None and (p.grad != 0).any()}
    assert reached == {f"core.openness.{n}" for n, _ in agent.core.openness.named_parameters()}


def test_other_cells_have_no_such_term():
    rollout, _ = rollout_of(agent := make_agent())
    terms, scales, log = make_learner(agent, budget_cost=0.5).losses(rollout, transitions(rollout, False))
    assert "budget" not in terms.keys() | scales.keys() and "unit_updates" not in log


@pytest.mark.parametrize("cost", [0.0, 0.5])
def test_a_cost_shuts_units_in_training(cost):
    tokens = ["smoke", "device=cpu", "cell=g-lstm", "cell.hidden_size=16", "cell.threshold=0.1", "env.corridor_length=5",
              "agent.learning_rate=0.01", f"agent.budget_cost={cost}", "train.steps=20000", "train.num_envs=32",
              "train.unroll_length=16"]  # fmt: skip
    trainer = build.make_trainer(load_config(tokens, build.KNOWN_CELLS), torch.device("cpu"))
    logs = [trainer.iterate() for _ in range(15)]
    openness, updates = ([log[name].item() for log in logs] for name in ("budget_loss", "unit_updates"))
    if cost:
        assert openness[-1] < 0.7 * openness[0] and updates[-1] < 0.9 * updates[0]
    else:
        assert openness[-1] > 0.85 * openness[0]


def test_it_costs_no_host_sync():
    agent = make_agent(g_lstm(**CURRICULUM))
    learner, env = make_learner(agent, budget_cost=0.1), CountingEnv(B)
    carry, generator = start(env, agent), torch.Generator()
    with NoHostSync():
        learner.schedule(1e-3, 0.01, 0.3)
        rollout, _ = collect(env, agent, carry, T, generator)
        learner.losses(rollout, transitions(rollout, False))


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens, words", [
    (["cell=ur-lstm", "agent.budget_cost=0.1"], ["agent.budget_cost=0.1", "time gate (g-lstm, phased-lstm)", "ur-lstm"]),
    (["cell=phased-lstm", "cell.sigma_start=0.1"], ["phased-lstm", "takes no sigma_start", "g-lstm"]),
    (["cell=lstm", "cell.sigma_end=0.1"], ["takes no sigma_end"]), (["cell=lstm", "cell.threshold=0.1"], ["threshold"]),
    (["cell=g-lstm", "cell.sigma_until=0.5"], ["sigma_until=0.5", "both are 1.0"]),
    (["cell=g-lstm", "cell.sigma_start=0"], ["out of range"]), (["cell=g-lstm", "cell.sigma_until=1.5"], ["out of range"]),
    (["cell=g-lstm", "cell.detach_until=0.5"], ["takes no detach_until", "hdetach-lstm"]),
    (["cell=hdetach-lstm", "cell.detach_until=2"], ["out of range"]),
    (["train.cuda_graphs=true", "device=cpu"], ["train.cuda_graphs=true", "device=cpu", "train.cuda_graphs=false"]),
    (["train.cuda_graphs=true", "aux=reconstruct"], ["train.cuda_graphs=true", "aux=reconstruct", "aux=none"]),
])  # fmt: skip
def test_refused_in_one_line_before_anything_is_written(tokens, words, tmp_path, capsys):
    assert train_agent.main(["smoke", *tokens, f"run_dir={tmp_path / 'run'}"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("error: ") and told.err.count("\n") == 1
    assert all(word in told.err for word in words), told.err
    assert not list(tmp_path.iterdir())


def test_the_cells_refuse_too():
    for wrong in ({"sigma_start": 0.0}, {"sigma_end": -1.0}, {"sigma_end": 2.0, "sigma_until": 0.0}):
        with pytest.raises(ValueError, match="must be positive"):
            g_lstm(**wrong)
    with pytest.raises(ValueError, match="fraction of the training"):
        make_core("hdetach-lstm", 8, 8, detach_until=1.5)
