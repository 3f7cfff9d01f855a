"""The update against its definition: a double loop over environments and transitions, in float64."""

import copy
import math

import pytest
import torch
from counting import CountingEnv
from test_learner import B, T, make_agent, make_learner, rollout_of

import build
from agents.learner import Settings
from agents.rollout import stagger
from agents.tracker import EpisodeTracker, RewardScale
from agents.trainer import Schedule, Trainer, transitions


def off_policy(agent, length=T):
    """A rollout whose behaviour policy is another than the agent's, in float64."""
    rollout, _ = rollout_of(agent, length=length)
    logits = rollout.logits + torch.randn(rollout.logits.shape, generator=torch.Generator().manual_seed(5))
    obs = torch.randint(0, 2, rollout.rows.obs.shape, generator=torch.Generator().manual_seed(6))  # some rare, some frequent
    rows = rollout.rows._replace(obs=obs.double(), discount=rollout.rows.discount.double())
    state = tuple(s.double() for s in rollout.state)
    return rollout._replace(rows=rows, reward=rollout.reward.double() / 3, logits=logits.double(), state=state)


def log_softmax(logits):
    most = max(logits)
    norm = math.log(sum(math.exp(x - most) for x in logits)) + most
    return [x - norm for x in logits]


def twin(agent, rollout, s: Settings) -> dict[str, float]:
    """The loss terms, from what is written about them."""
    with torch.no_grad():
        output, _ = agent(rollout.rows, rollout.state)
    found = []  # of every transition that is learned from
    for b in range(B):
        first, action = rollout.rows.first[:, b].tolist(), rollout.rows.action[:, b].tolist()
        reward, discount, value = (x[:, b].tolist() for x in (rollout.reward, rollout.rows.discount, output.value))
        pi, mu = output.logits[:, b].tolist(), rollout.logits[:, b].tolist()
        error, target_after = 0.0, value[T]
        for t in reversed(range(s.burn_in, T)):
            if first[t + 1]:  # row t is the last of its episode: no transition, and what it is worth is its value
                error, target_after = 0.0, value[t]
                continue
            log_pi, log_mu = log_softmax(pi[t]), log_softmax(mu[t])
            ratio = math.exp(log_pi[action[t + 1]] - log_mu[action[t + 1]])
            rho = min(s.rho_bar, ratio) if s.returns == "vtrace" else 1.0
            c = min(s.c_bar, ratio) if s.returns == "vtrace" else 1.0
            g = s.gamma * discount[t + 1]
            error = rho * (reward[t] + g * value[t + 1] - value[t]) + g * s.trace_lambda * c * error
            if s.returns == "vtrace":
                mixed = s.trace_lambda * target_after + (1 - s.trace_lambda) * value[t + 1]
                advantage = reward[t] + g * mixed - value[t]
            else:
                advantage = error
            target_after = value[t] + error
            what = first[t], *rollout.rows.obs[t, b].tolist()
            found.append((log_pi, pi[t], action[t + 1], ratio, rho, advantage, error, what))
    n, advantages = len(found), [x[5] for x in found]
    mean, rms = sum(advantages) / n, math.sqrt(sum(a * a for a in advantages) / n)
    std = math.sqrt(sum((a - mean) ** 2 for a in advantages) / n)
    change = {"none": lambda a: a, "std": lambda a: (a - mean) / (std + 1e-8),
              "scale": lambda a: a / max(rms, s.advantage_floor)}  # fmt: skip
    sums = dict.fromkeys(("policy", "value", "exploration", "logit"), 0.0)
    seen = [x[-1] for x in found]
    for log_pi, logits, taken, ratio, rho, advantage, error, what in found:
        advantage, p = change[s.normalise_advantage](advantage), [math.exp(x) for x in log_pi]
        if s.policy_loss == "ppo":
            clipped = min(max(ratio, 1 - s.ppo_clip), 1 + s.ppo_clip)
            sums["policy"] -= min(ratio * advantage, clipped * advantage)
        else:
            sums["policy"] -= log_pi[taken] * rho * advantage
        sums["value"] += error**2 / 2  # the target is the value plus this
        rare = n / len(set(seen)) / seen.count(what) if s.exploration_mean == "observations" else 1
        if s.exploration == "entropy":
            sums["exploration"] += rare * sum(q * x for q, x in zip(p, log_pi, strict=True))
        else:
            sums["exploration"] += rare * sum(math.log(1 / len(p) / q) / len(p) for q in p)
        sums["logit"] += sum((x - sum(logits) / len(logits)) ** 2 for x in logits) / len(logits)
    return {name: total / n for name, total in sums.items()} | {"rms": rms}


@pytest.mark.parametrize("normalise", ["none", "std", "scale"])
@pytest.mark.parametrize("changes", [
    {}, {"burn_in": 4, "trace_lambda": 0.8, "rho_bar": 1.3, "c_bar": 0.9, "exploration": "uniform_kl",
         "advantage_floor": 20.0},
    {"exploration_mean": "observations"}, {"exploration_mean": "observations", "exploration": "uniform_kl", "burn_in": 3},
    {"policy_loss": "ppo", "returns": "gae", "trace_lambda": 0.9}, {"policy_loss": "ppo", "ppo_clip": 0.05, "burn_in": 3},
], ids=str)  # fmt: skip
def test_losses_are_what_is_written_about_them(changes, normalise):
    agent = make_agent().double()
    learner, rollout = make_learner(agent, normalise_advantage=normalise, **changes), off_policy(agent)
    terms, _, log = learner.losses(rollout, transitions(rollout, False))
    expected = twin(agent, rollout, learner.settings)
    assert log["advantage_rms"].item() == pytest.approx(expected.pop("rms"), rel=1e-9)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-9)


def test_in_full_episode_mode_only_the_first_episode_counts():
    rollout, _ = rollout_of(make_agent(), rollouts=1)  # from a reset, as in this mode
    valid = transitions(rollout, True)
    for b in range(B):
        over = False
        for t in range(T):
            over = over or bool(rollout.rows.first[t + 1, b])
            assert valid[t, b] == (not over)


def test_rewards_are_divided_by_the_rms_of_the_discounted_return():
    rows, gamma, generator = 40, 0.9, torch.Generator().manual_seed(0)
    reward = torch.randn(rows, B, generator=generator) + 1
    valid = torch.rand(rows, B, generator=generator) > 0.2
    discount = (torch.rand(rows, B, generator=generator) > 0.1).float()
    scale, count, squares, running = RewardScale(B, gamma, torch.device("cpu")), 1e-4, 1e-4, [0.0] * B
    for begin in (0, 15):  # in two pieces
        end = 15 if begin == 0 else rows
        found = scale(reward[begin:end], discount[begin:end], valid[begin:end])
        for t in range(begin, end):
            for b in range(B):
                if not valid[t, b]:  # a new episode starts
                    running[b] = 0.0
                    continue
                running[b] = gamma * running[b] + float(reward[t, b])
                count, squares = count + 1, squares + running[b] ** 2
                running[b] *= float(discount[t, b])
        torch.testing.assert_close(found, reward[begin:end] / math.sqrt(squares / count), rtol=1e-5, atol=1e-6)


def trainer_of(agent, env, steps=10_000, **kwargs):
    settings = dict(full_episode=False, learning_rate=Schedule(1e-3, 1.0), entropy_cost=Schedule(0.1, 0.5),
                    normalise_reward=False, seed=0) | kwargs  # fmt: skip
    return Trainer(env, make_learner(agent), steps=steps, unroll_length=T, **settings)


def test_the_agent_sees_rewards_as_they_are_whatever_is_learned_from():
    trainer = trainer_of(make_agent(see_last_reward=True, see_last_action=True), CountingEnv(B), normalise_reward=True)
    for _ in range(3):
        assert trainer.iterate()["ratio_error"] < 1e-5
    assert trainer.scale.moments[0] > 1


def test_what_is_told_of_an_episode_are_its_rewards_as_they_are():
    one, other = (trainer_of(make_agent(), CountingEnv(B), normalise_reward=normalise) for normalise in (True, False))
    (scaled, *_), (plain, *_) = one.roll(one.carry), other.roll(other.carry)
    assert torch.equal(scaled.rows.action, plain.rows.action) and not torch.equal(scaled.reward, plain.reward)
    told, expected = one.tracker.state_dict(), other.tracker.state_dict()
    assert all(torch.equal(told[name], expected[name]) for name in expected) and expected["running"].any()


def test_the_entropy_cost_follows_its_schedule():
    trainer = trainer_of(make_agent(), CountingEnv(B), steps=500)
    while not trainer.done:
        at = trainer.step
        trainer.iterate()
        assert trainer.learner.entropy_cost.item() == pytest.approx(0.1 * (1 - 0.5 * at / 500))


def test_no_two_generators_of_a_run_or_of_neighbouring_runs_draw_the_same():
    from configs.load import load_config

    drawn = []
    for seed in (1, 2, 3):
        trainer = build.make_trainer(load_config(["smoke", f"seed={seed}", "train.stagger_episodes=false"],
                                                 build.KNOWN_CELLS), torch.device("cpu"))  # fmt: skip
        learner = trainer.learner
        for generator in (trainer.env.generator, trainer.generator, learner.generator, learner.positions):
            drawn.append(generator.initial_seed())
    assert len(set(drawn)) == 12 and not {1, 2, 3} & set(drawn)  # those are the seeds of the agents' parameters


def test_staggering_spreads_episodes_of_one_length():
    from configs.load import load_config

    config = load_config(["smoke", "train.num_envs=64"], build.KNOWN_CELLS)
    env = build.make_env(config, 64, torch.device("cpu"), seed=0)
    stagger(env, build.make_agent(config, env), torch.Generator().manual_seed(0))
    assert len(set(env.state.t.tolist())) > 4


def test_an_episode_whose_start_was_not_seen_counts_for_nothing():
    tracker = EpisodeTracker(2, torch.device("cpu"))
    tracker.partial[0] = True
    ended = torch.zeros(7, 2, dtype=torch.bool)
    ended[1], ended[5, 0] = True, True
    valid = torch.ones(7, 2, dtype=torch.bool)
    valid[2] = False  # the new episodes' first rows
    discount = torch.ones(7, 2)
    discount[5, 0] = 0  # this one terminated, environment 1's was truncated
    tracker.add(torch.ones(7, 2), discount, valid, ended, ended)
    assert tracker.read() == {"episodes": 2, "return": 2.5, "length": 2.5, "success": 1.0, "truncated": 0.5}
    saved = copy.deepcopy(tracker.state_dict())
    assert not saved["partial"].any()


def test_after_staggering_only_whole_episodes_are_told():
    trainer = trainer_of(make_agent(), CountingEnv(64), steps=100_000)
    trainer.iterate()
    assert 3 <= trainer.tracker.read()["length"] <= 6  # all of the counting stream are that long, parts of them less
