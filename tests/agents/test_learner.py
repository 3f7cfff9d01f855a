"""Rollout and update, counted: what goes where, and that replay is the rollout."""

import copy
import dataclasses

import pytest
import torch
from counting import CountingCell, CountingEnv
from tape import NoHostSync

from agents.agent import Agent, act, extra_inputs
from agents.encoders import VectorEncoder
from agents.learner import Learner, NonFiniteError, Settings, make_optimizer
from agents.rollout import collect, stagger, start
from agents.trainer import Schedule, Trainer, transitions
from memory_cells import VARIANTS, make_core

B, T = 6, 17
SETTINGS = Settings(
    gamma=0.9, trace_lambda=1.0, returns="vtrace", policy_loss="pg", ppo_clip=0.2, rho_bar=1.0, c_bar=1.0,
    correct_off_policy=True, value_cost=0.5, exploration="entropy", exploration_mean="rows", logit_cost=0.0,
    normalise_advantage="none", advantage_floor=0.05, reuse=1, minibatches=1, start_state="stored", bptt_length=None,
    burn_in=0, max_grad_norm=0.5,
)  # fmt: skip


def make_agent(core=None, seed=0, **kwargs):
    torch.manual_seed(seed)
    extra = extra_inputs(2, **kwargs) if kwargs else 0
    agent = Agent(VectorEncoder((2,), extra, 8), 2, core or make_core("lstm", 8, 8), **kwargs)
    with torch.no_grad():
        agent.policy.weight.normal_()  # a policy with opinions, so that ratios have something to be wrong about
    return agent


def make_learner(agent, lag=0, **changes):
    actor = copy.deepcopy(agent) if lag else agent
    return Learner(agent, actor, make_optimizer(agent, "adam", 1e-2, 0.9, 0.999, 1e-5, 0.0),
                   dataclasses.replace(SETTINGS, **changes), lag)  # fmt: skip


def rollout_of(agent, seed=0, rollouts=2, length=T):
    env, generator = CountingEnv(B, seed=seed), torch.Generator().manual_seed(seed)
    carry = start(env, agent)
    for _ in range(rollouts):
        rollout, carry = collect(env, agent, carry, length, generator)
    return rollout, carry


def test_rows_line_up():
    """Of the counting stream: rewards are the step numbers, boundaries where they should be, actions one row late."""
    rollout, carry = rollout_of(make_agent())
    rows = rollout.rows
    assert rows.reward.shape == (T + 1, B) and rollout.logits.shape == (T, B, 2)
    t = rows.obs[..., 0]
    assert torch.equal(t == 0, rows.first) and torch.equal(rows.reward, t)
    assert (rows.action[rows.first] == -1).all() and (rows.action[~rows.first] >= 0).all()
    assert torch.equal(rollout.ended[:-1], rows.first[2:])  # an end is followed by a first row
    assert (rows.discount[1:][~rollout.ended] == 1).all()
    assert (
        rollout.ended.any()
        and (rows.discount[1:][rollout.ended] == 0).any()
        and (rows.discount[1:][rollout.ended] == 1).any()
    )
    assert not (rollout.success & ~rollout.ended).any()
    for field, last in zip(rows, carry.row, strict=True):
        assert torch.equal(field[-1], last)  # the last row is the next rollout's first


def test_the_state_is_reset_once_and_carried_over():
    """A core that counts rows says, at every row, how far the episode is: t + 1."""
    agent = make_agent(CountingCell(8))
    seen = []
    agent.policy.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0].detach()))
    rollout, carry = rollout_of(agent)
    acted = torch.cat(seen[-T:])[..., 0]
    assert torch.equal(acted, rollout.rows.obs[:-1, :, 0] + 1)
    seen.clear()
    with torch.no_grad():
        agent(rollout.rows, rollout.state)
    assert torch.equal(seen[0][..., 0], rollout.rows.obs[..., 0] + 1)
    assert torch.equal(carry.state[0][:, 0], rollout.rows.obs[-2, :, 0] + 1)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("sees", [False, True])
def test_replay_equals_the_rollout(name, sees):
    """|ratio - 1| < 1e-5 with terminations, truncations and rollout edges inside the sequence."""
    agent = make_agent(make_core(name, 8, 8, horizon=20), see_last_action=sees, see_last_reward=sees)
    rollout, _ = rollout_of(agent)
    valid = transitions(rollout, False)
    assert (~valid).any()
    _, _, log = make_learner(agent).losses(rollout, valid)
    assert log["ratio_error"] < 1e-5


def test_nothing_is_seen_of_the_past_on_a_first_row():
    agent = make_agent(see_last_action=True, see_last_reward=True)
    inputs = []
    agent.encoder.register_forward_hook(lambda m, x, y: inputs.append(torch.cat([x[0].float(), x[1]], -1)))
    rollout, _ = rollout_of(agent)
    with torch.no_grad():
        agent(rollout.rows, rollout.state)
    x, rows = inputs[-1], rollout.rows
    assert (x[rows.first][:, 2:] == 0).all()
    torch.testing.assert_close(x[~rows.first][:, 4], rows.reward[~rows.first])
    assert torch.equal(x[~rows.first][:, 2:4].argmax(-1), rows.action[~rows.first])


def test_invalid_rows_have_no_say():
    """What an episode's last row did, and what its policy was, changes no loss and no gradient."""
    agent = make_agent()
    learner = make_learner(agent, exploration="uniform_kl", logit_cost=0.1)
    rollout, _ = rollout_of(agent)
    valid = transitions(rollout, False)
    learner.entropy_cost.fill_(0.1)

    def gradients(r):
        agent.zero_grad()
        terms, scales, _ = learner.losses(r, valid)
        assert terms.keys() == scales.keys()
        sum(scales[k] * v for k, v in terms.items()).backward()
        return [p.grad.clone() for p in agent.parameters()]

    before = gradients(rollout)
    logits = torch.where(valid.unsqueeze(-1), rollout.logits, torch.randn_like(rollout.logits))
    for a, b in zip(before, gradients(rollout._replace(logits=logits)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cut", [1, 4, 16])
def test_truncated_backpropagation_cuts_gradients_and_nothing_else(cut):
    agent = make_agent()
    rollout, _ = rollout_of(agent)
    valid = transitions(rollout, False)
    whole, pieces = make_learner(agent), make_learner(agent, bptt_length=cut)
    a, b = whole._replay(rollout, valid)[0], pieces._replay(rollout, valid)[0]
    torch.testing.assert_close(a.logits, b.logits, rtol=1e-5, atol=1e-6)
    obs = rollout.rows.obs.clone().requires_grad_()
    leaf = rollout._replace(rows=rollout.rows._replace(obs=obs))
    last = (T // cut) * cut  # first row of the last piece
    g_pieces = torch.autograd.grad(pieces._replay(leaf, valid)[0].value[-1].sum(), obs)[0]
    g_whole = torch.autograd.grad(whole._replay(leaf, valid)[0].value[-1].sum(), obs)[0]
    assert (g_pieces[:last] == 0).all() and (g_pieces[last:] != 0).any()
    assert (g_whole[:last] != 0).any()


def test_burn_in_warms_the_state_without_learning():
    agent = make_agent()
    rollout, _ = rollout_of(agent)
    valid = transitions(rollout, False)
    output, rows, mu, kept = make_learner(agent, burn_in=5)._replay(rollout, valid)
    assert rows.first.shape[0] == T + 1 - 5 and mu.shape[0] == kept.shape[0] == T - 5
    with torch.no_grad():
        full, _ = agent(rollout.rows, rollout.state)
    torch.testing.assert_close(output.logits, full.logits[5:], rtol=1e-5, atol=1e-6)
    zero = make_learner(agent, start_state="zero")._replay(rollout, valid)[0]
    started = rollout.rows.first.int().cumsum(0) > 0  # from the first reset on, the start state no longer matters
    torch.testing.assert_close(zero.logits[started], full.logits[started], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(zero.logits[0], full.logits[0])


@pytest.mark.parametrize("name", ["zoneout-lstm", "g2-lstm", "noisy-lstm"])
def test_burn_in_replays_the_noise_of_its_rows(name):
    agent = make_agent(make_core(name, 8, 8))
    rollout, _ = rollout_of(agent)
    assert not rollout.rows.first[2:4].any()  # or what the burn-in leaves behind would not matter
    _, _, log = make_learner(agent, burn_in=3).losses(rollout, transitions(rollout, False))
    assert log["ratio_error"] < 1e-5


def test_the_replay_is_judged_by_the_first_minibatch_alone():
    learner = make_learner(make_agent(), reuse=4, minibatches=2)
    rollout, _ = rollout_of(learner.actor)
    assert learner.update(rollout, transitions(rollout, False))["ratio_error"] < 1e-5
    assert learner.losses(rollout, transitions(rollout, False))[2]["ratio_error"] > 1e-3  # since then it has learned


@pytest.mark.parametrize("name, weight, most", [("indrnn", "weight_h", 2.0), ("ffm", "a", 0.0)])
def test_after_a_step_the_core_is_back_in_its_set(name, weight, most):
    core = make_core(name, 8, 8, horizon=20)
    learner = make_learner(make_agent(core))
    rollout, _ = rollout_of(learner.actor)
    bounded = [p for n, p in core.named_parameters() if n.split(".")[-1] == weight]
    for p in bounded:
        torch.nn.init.constant_(p, 9.0)
    learner.gradients(rollout, transitions(rollout, False))
    learner.descend(torch.tensor(1.0))
    assert bounded and all((p < most).all() for p in bounded)


@pytest.mark.parametrize("lag", [1, 3])
def test_the_actor_is_exactly_lag_updates_behind(lag):
    agent = make_agent()
    learner = make_learner(agent, lag=lag)
    versions = [[p.detach().clone() for p in agent.parameters()]]
    for k in range(7):
        rollout, _ = rollout_of(learner.actor, seed=k)
        learner.update(rollout, transitions(rollout, False))
        versions.append([p.detach().clone() for p in agent.parameters()])
        want = versions[max(0, len(versions) - 1 - lag)]
        assert all(torch.equal(a, b) for a, b in zip(learner.actor.parameters(), want, strict=True))


def test_off_policy_ratios_are_used_and_can_be_switched_off():
    old, new = make_agent(seed=0), make_agent(seed=1)
    rollout, _ = rollout_of(old)
    valid = transitions(rollout, False)
    corrected, plain = (make_learner(new, correct_off_policy=flag) for flag in (True, False))
    a, b = corrected.losses(rollout, valid), plain.losses(rollout, valid)
    assert a[2]["ratio_error"] > 0.1
    assert not torch.allclose(a[0]["policy"], b[0]["policy"])
    onpolicy, _ = rollout_of(new)
    valid = transitions(onpolicy, False)
    torch.testing.assert_close(corrected.losses(onpolicy, valid)[0]["policy"], plain.losses(onpolicy, valid)[0]["policy"],
                               rtol=1e-4, atol=1e-5)  # fmt: skip


def flat(rollout):
    """All tensors of a rollout; those of a state are (B, .), the others (rows, B, ...)."""
    return [x for field in rollout if field is not None for x in (field if isinstance(field, tuple) else (field,))]


def test_minibatches_cover_every_environment_once():
    agent = make_agent(make_core("zoneout-lstm", 8, 16))
    learner = make_learner(agent, minibatches=3, reuse=2, policy_loss="ppo", returns="gae")
    rollout, _ = rollout_of(agent)
    seen, real = [], learner.losses
    learner.losses = lambda r, v: (seen.append(r.rows.obs[0, :, 1]), parts.append((r, v)), real(r, v))[2]
    valid, parts = transitions(rollout, False), []
    learner.update(rollout, valid)
    assert len(seen) == 6
    for part, its in parts:  # every field has the same environments, in the same order
        at = part.rows.obs[0, :, 1].long()
        assert torch.equal(its, valid[:, at])
        for mine, all_of_them in zip(flat(part), flat(rollout), strict=True):
            assert torch.equal(mine, all_of_them[at] if all_of_them.shape[0] == B else all_of_them[:, at])
    for group in (seen[:3], seen[3:]):
        assert torch.equal(torch.cat(group).sort().values, torch.arange(B).float())


@pytest.mark.parametrize("size", [1.0, 1e30])  # a finite gradient of float32, whose square is not finite
def test_gradient_norm_is_clipped(size):
    agent = make_agent()
    learner = make_learner(agent, max_grad_norm=1e-3)
    real, rollout = learner.losses, rollout_of(agent)[0]

    def scaled(*batch):
        terms, scales, log = real(*batch)
        return {name: size * term for name, term in terms.items()}, scales, log

    learner.losses = scaled
    log = learner.update(rollout, transitions(rollout, False))
    assert 1e-3 * size < log["grad_norm"] < 100 * size  # reported before the clip
    norm = torch.stack([p.grad.norm() for p in agent.parameters()]).norm()
    torch.testing.assert_close(norm, torch.tensor(1e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_stops_before_the_step_and_is_named(where):
    agent = make_agent()
    learner = make_learner(agent)
    rollout, _ = rollout_of(agent)
    if where == "loss":
        rollout = rollout._replace(reward=rollout.reward * float("nan"))
    else:
        agent.core.weight_h.register_hook(lambda g: g * float("nan"))
    before = [p.detach().clone() for p in agent.parameters()]
    with pytest.raises(NonFiniteError, match=r"policy loss|core\.weight_h"):
        learner.update(rollout, transitions(rollout, False))
    assert all(torch.equal(a, b) for a, b in zip(before, agent.parameters(), strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_weight_decay_spares_what_makes_a_gate(name):
    """Every matrix of weights is decayed; biases, peepholes, KAF's coefficients, a time gate's parameters and whatever
    else is one number a unit are not. Without gradients an optimiser step is the decay alone."""
    agent = make_agent(make_core(name, 8, 16, horizon=20))
    before = {n: p.detach().clone() for n, p in agent.named_parameters()}
    for p in agent.parameters():
        p.grad = torch.zeros_like(p)
    make_optimizer(agent, "adam", 0.1, 0.9, 0.999, 1e-5, 0.5).step()
    for n, p in agent.named_parameters():
        spared = p.dim() == 1 or any(word in n for word in ("bias", "peephole", "alpha", "openness"))
        torch.testing.assert_close(p.detach(), before[n] * (1 if spared else 0.95))


def test_rmsprop_has_no_weight_decay():
    with pytest.raises(ValueError, match="rmsprop takes no weight_decay"):
        make_optimizer(make_agent(), "rmsprop", 1e-3, 0.9, 0.99, 1e-5, 0.1)


def test_actions_are_drawn_from_the_policy():
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0]).expand(1, 200_000, 4)
    from agents.agent import Output

    output, generator = Output(logits, torch.zeros(1, 200_000)), torch.Generator().manual_seed(0)
    frequency = torch.bincount(act(output, generator), minlength=4) / 200_000
    torch.testing.assert_close(frequency, logits[0, 0].softmax(-1), rtol=0, atol=0.005)
    assert (act(output, None) == 2).all()


def trainer_of(full_episode=False, **changes):
    agent = make_agent()
    flat = Schedule(1e-3, 0.5)
    return Trainer(CountingEnv(B), make_learner(agent, **changes), steps=500, unroll_length=T, full_episode=full_episode,
                   learning_rate=flat, entropy_cost=flat, normalise_reward=False, seed=0, stagger_episodes=False)  # fmt: skip


def test_steps_are_transitions_and_the_tracker_counts_episodes():
    trainer = trainer_of()
    trainer.iterate()
    # simulate the counting stream: lengths 3 + (n + b) % 4, reset rows are no steps
    steps, episodes, total, length = 0, 0, 0, 0
    for b in range(B):
        n, t = 0, 0
        for _ in range(T):
            if t == 3 + (n + b) % 4:
                n, t = n + 1, 0
                continue
            t, steps = t + 1, steps + 1
            if t == 3 + (n + b) % 4:
                episodes, total, length = episodes + 1, total + t * (t + 1) / 2, length + t
    assert trainer.step == steps
    got = trainer.tracker.read()
    assert got["episodes"] == episodes and got["return"] == total / episodes and got["length"] == length / episodes
    assert trainer.tracker.read() == {"episodes": 0, "return": None, "length": None, "success": None, "truncated": None}


def test_full_episodes_are_whole_and_counted_once():
    trainer = trainer_of(full_episode=True)
    for _ in range(3):
        before = trainer.step
        trainer.iterate()
        rows = trainer.rollout.rows
        assert rows.first[0].all() and trainer.step - before == int((~rows.first[1:]).sum())
        assert trainer.tracker.read()["episodes"] == B
    assert trainer.unroll_length == 6


def test_schedules_are_linear_in_steps():
    trainer = trainer_of()
    rates = []
    while not trainer.done:
        at = trainer.step
        trainer.iterate()
        rates.append((at, trainer.learner.optimizer.param_groups[0]["lr"]))
    for at, rate in rates:
        assert rate == pytest.approx(1e-3 * (1 - 0.5 * at / 500))


@pytest.mark.parametrize("changes", [{}, {"policy_loss": "ppo", "returns": "gae", "normalise_advantage": "scale",
                                          "exploration": "uniform_kl", "bptt_length": 4}])  # fmt: skip
def test_no_host_sync_in_a_rollout_nor_in_an_unchecked_update(changes):
    agent = make_agent(see_last_action=True, see_last_reward=True)
    env, generator = CountingEnv(B), torch.Generator().manual_seed(0)
    carry = start(env, agent)
    learner = make_learner(agent, minibatches=2, reuse=2, **changes)
    learner.update(collect(env, agent, carry, T, generator)[0], torch.ones(T, B, dtype=torch.bool))  # optimiser state
    with NoHostSync():
        rollout, carry = collect(env, agent, carry, T, generator)
        valid = transitions(rollout, False)
        learner.gradients(rollout, valid)  # the optimiser's step not: Adam off the GPU reads its step count
    with pytest.raises(AssertionError, match="host sync"), NoHostSync():
        valid.sum().item()


def test_staggered_episodes_are_spread_and_their_steps_counted():
    env, agent = CountingEnv(64), make_agent()
    carry, steps = stagger(env, agent, torch.Generator().manual_seed(0))
    assert 0 < steps <= 7 * 64
    assert len(set(env.state.t.tolist())) >= 4  # several phases of the episode
    rollout, _ = collect(env, agent, carry, T, torch.Generator())
    assert make_learner(agent).losses(rollout, transitions(rollout, False))[2]["ratio_error"] < 1e-5  # states fit rows


def test_a_run_too_short_for_its_staggering_says_so():
    agent, flat = make_agent(), Schedule(1e-3, 1.0)
    with pytest.raises(ValueError, match=r"train\.steps=5 is used up"):
        Trainer(CountingEnv(B), make_learner(agent), steps=5, unroll_length=T, full_episode=False, learning_rate=flat,
                entropy_cost=flat, normalise_reward=False, seed=0)  # fmt: skip
