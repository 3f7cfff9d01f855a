"""Where the auxiliary losses look, how far their gradient goes, and that they teach the state something."""

import dataclasses
import math

import pytest
import torch
from counting import CountingEnv
from test_learner import SETTINGS, B, T, make_agent, rollout_of

import build
from agents.agent import Agent
from agents.auxiliary import Auxiliary, AuxiliarySettings, flat_state, remember
from agents.encoders import make_encoder
from agents.learner import Learner, make_optimizer
from agents.observations import make_target
from agents.rollout import collect, start
from agents.trainer import transitions
from configs.load import load_config
from envs import ENVS, make
from envs.env import Step
from memory_cells import VARIANTS, make_core

TARGET = make_target("vector", (2,), None)


def settings(kind="reconstruct", **changes):
    base = dict(kind=kind, cost=1.0, anchors=1, segment=4, truncation=100, memory=0, pretrain_updates=0, decoder_size=16,
                decoder_layers=2)  # fmt: skip
    return AuxiliarySettings(**(base | changes))


def spy(auxiliary):
    """Records (span, same_episode, distance) of every decoding."""
    seen, real = [], auxiliary._decode
    auxiliary._decode = lambda *a: (seen.append(a), real(*a))[1]
    return seen


@pytest.mark.parametrize("memory", [0, 30])
@pytest.mark.parametrize("kind", ["reconstruct", "predict"])
def test_segments_lie_where_they_should(kind, memory):
    """The counting stream says at every row which row of its episode it is."""
    agent = make_agent()
    auxiliary = Auxiliary(agent, TARGET, settings(kind, memory=memory))
    seen, generator = spy(auxiliary), torch.Generator().manual_seed(0)
    env, acting = CountingEnv(B), torch.Generator().manual_seed(0)
    carry, past, stream, farthest = start(env, agent), None, [], 0
    for k in range(6):
        rollout, carry = collect(env, agent, carry, T, acting)
        rollout.rows.obs[..., 1] = torch.arange(k * T, (k + 1) * T + 1).unsqueeze(1)  # the row's number in the stream
        rollout = rollout._replace(past=past)
        stream.append(rollout.rows.obs[:-1])
        whole = torch.cat([*stream, rollout.rows.obs[-1:]])
        for _ in range(5):
            auxiliary.loss(agent, rollout, rollout.state, generator)
            _, span, same, distance = seen.pop()
            L = span.obs.shape[0]
            assert 4 + (kind == "predict") == L
            at = int(span.obs[0, 0, 1])
            assert torch.equal(span.obs[:, 0, 1], torch.arange(at, at + L).float())
            end = at + distance  # rows the state has seen
            assert k * T < end <= (k + 1) * T  # it stands inside the rollout
            farthest = max(farthest, distance)
            span_end = at + L if kind == "predict" else end
            for b in range(B):
                t = whole[at:span_end, b, 0]
                assert same[b] == (t[1:] == t[:-1] + 1).all()  # one episode from the segment to the anchor
            assert distance == 1 if kind == "predict" else distance >= 4
        past = remember(past, rollout.rows, memory)
    assert kind == "predict" or (farthest > T) == (memory > 0)


@pytest.mark.parametrize("kind", ["reconstruct", "predict"])
@pytest.mark.parametrize("truncation", [1, 3, 100])
def test_the_gradient_goes_back_exactly_so_far(kind, truncation):
    agent = make_agent()
    auxiliary = Auxiliary(agent, TARGET, settings(kind, truncation=truncation))
    rollout, _ = rollout_of(agent)
    obs = rollout.rows.obs.clone().requires_grad_()
    leaf = rollout._replace(rows=rollout.rows._replace(obs=obs, first=torch.zeros_like(rollout.rows.first)))
    state = tuple(s.clone().requires_grad_() for s in rollout.state)
    generator = torch.Generator().manual_seed(3)
    held = auxiliary._state_at(agent, leaf, state, 9)
    gradient = torch.autograd.grad(flat_state(agent.core, held).sum(), obs)[0]
    reached = gradient.abs().sum((1, 2)) > 0
    assert reached.tolist() == [max(0, 9 - truncation) <= t < 9 for t in range(T + 1)]
    loss, _ = auxiliary.loss(agent, leaf, state, generator)
    loss.backward()
    assert all(s.grad is None for s in state)
    assert agent.core.weight_h.grad is not None or truncation == 1


@pytest.mark.parametrize("name", VARIANTS)
def test_it_fits_every_core(name):
    agent = make_agent(make_core(name, 8, 16, horizon=20))
    auxiliary = Auxiliary(agent, TARGET, settings(anchors=2))
    rollout, _ = rollout_of(agent)
    loss, log = auxiliary.loss(agent, rollout, rollout.state, torch.Generator().manual_seed(0))
    loss.backward()
    assert torch.isfinite(loss) and log and all(p.grad is not None for p in auxiliary.parameters())


def test_clocks_are_no_part_of_what_is_asked():
    for name in VARIANTS:
        core = make_core(name, 8, 16, horizon=20)
        state = core.initial_state(B)
        later = tuple(s + 500 if "clock" in n else s for n, s in zip(core.state_names, state, strict=True))
        assert torch.equal(flat_state(core, later), flat_state(core, state))
    stack = make_core("g-lstm", 8, 16, horizon=20, layers=2)
    assert flat_state(stack, stack.initial_state(B)).shape == (B, 4 * 16)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", ["reconstruct", "predict"])
def test_the_loss_by_hand(kind, layers):
    """Row j + 1 is guessed from the held state and rows 0 .. j, one after the other, never from itself."""
    auxiliary = Auxiliary(make_agent(), TARGET, settings(kind, decoder_layers=layers)).double()
    torch.manual_seed(1)
    L, held = 5, torch.randn(B, 16, dtype=torch.float64)
    span = Step(obs=torch.randn(L, B, 2, dtype=torch.float64), action=torch.randint(0, 2, (L, B)),
                reward=torch.randn(L, B, dtype=torch.float64), discount=torch.ones(L, B), first=torch.zeros(L, B).bool())
    same = torch.arange(B) % 3 > 0
    total = {"row": [], "action": []}
    for b in same.nonzero().flatten().tolist():
        h, c = auxiliary.start(held[b]).tanh().chunk(2)
        upper = torch.zeros(layers - 1, 16, dtype=torch.float64)
        state = torch.cat([h[None], upper]), torch.cat([c[None], upper])
        for j in range(L - 1):
            # the action that led to row j, or of a prediction, which may know what is done, that leads to row j + 1
            action = span.action[j + (kind == "predict"), b]
            x = torch.tensor([*span.obs[j, b], action == 0, action == 1, span.reward[j, b]], dtype=torch.float64)
            y, state = auxiliary.decoder(x[None], state)
            guess = auxiliary.readout(y[0])
            total["row"].append((guess[:2] - span.obs[j + 1, b]).square().mean() + (guess[2] - span.reward[j + 1, b]) ** 2)
            if kind == "reconstruct":
                total["action"].append(-guess[3:].log_softmax(0)[span.action[j + 1, b]])
    expected = sum(torch.stack(terms).mean() for terms in total.values() if terms)
    found, _ = auxiliary._decode(held, span, same, 6)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind, away", [("reconstruct", (5, 4, 3, 2, 1)), ("predict", (1, 2, 3, 4, 5))])
def test_errors_are_logged_by_how_far_they_are_from_the_anchor(kind, away):
    auxiliary = Auxiliary(make_agent(), TARGET, settings(kind))
    error = 10.0 ** torch.arange(5).view(5, 1).expand(5, B)
    found = auxiliary._by_distance(error, torch.ones(5, B, dtype=torch.bool), 6 if kind == "reconstruct" else 1)
    for low, high in ((0, 1), (1, 4), (4, 16)):
        rows = [10.0**j for j, d in enumerate(away) if low < d <= high]
        assert found.pop(f"auxiliary_error_within_{high}").item() == pytest.approx(sum(rows) / len(rows))
    assert not found


def learner_with(kind, learner=SETTINGS, **changes):
    agent = make_agent()
    auxiliary = Auxiliary(agent, TARGET, settings(kind, **changes))
    modules = torch.nn.ModuleDict({"agent": agent, "auxiliary": auxiliary})
    return Learner(agent, agent, make_optimizer(modules, "adam", 3e-3, 0.9, 0.999, 1e-5, 0.0), learner, 0, auxiliary)


def test_the_weight_counts_and_the_decoder_is_clipped_and_trained_with_the_rest():
    def gradient(**changes):
        learner = learner_with("reconstruct", dataclasses.replace(SETTINGS, max_grad_norm=0.0), segment=2, anchors=9,
                               **changes)  # fmt: skip
        rollout, _ = rollout_of(learner.actor)
        learner.gradients(rollout, transitions(rollout, False))
        return torch.cat([p.grad.flatten() for p in learner.modules.parameters() if p.grad is not None])

    none, once, thrice = (gradient(cost=cost) for cost in (0.0, 1.0, 3.0))
    torch.testing.assert_close(thrice - none, 3 * (once - none), rtol=1e-4, atol=1e-6)
    assert (once - none).norm() > 0.1
    learner = learner_with("reconstruct", dataclasses.replace(SETTINGS, max_grad_norm=1e-3), segment=3, anchors=9)
    before = [p.detach().clone() for p in learner.auxiliary.parameters()]
    seen = spy(learner.auxiliary)
    rollout, _ = rollout_of(learner.actor)
    learner.update(rollout, transitions(rollout, False))
    assert len(seen) == 9
    assert torch.stack([p.grad.norm() for p in learner.modules.parameters()]).norm().item() == pytest.approx(1e-3, rel=1e-4)
    assert all(p.grad.norm() > 0 and not torch.equal(p, old)
               for p, old in zip(learner.auxiliary.parameters(), before, strict=True))  # fmt: skip


@pytest.mark.parametrize("kind", ["reconstruct", "predict"])
def test_pretraining_trains_nothing_but_the_auxiliary_term(kind):
    learner = learner_with(kind, pretrain_updates=3, memory=20)
    heads = [p.detach().clone() for m in (learner.agent.policy, learner.agent.value) for p in m.parameters()]
    losses = []
    for k in range(4):
        rollout, _ = rollout_of(learner.actor, seed=k)
        losses.append(learner.update(rollout, transitions(rollout, False)))
        now = [p for m in (learner.agent.policy, learner.agent.value) for p in m.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(heads, now, strict=True)) == (k < 3)
    assert all("auxiliary_loss" in log for log in losses)
    assert learner.past.first.shape == (20, B)


def test_the_state_learns_to_hold_what_it_is_asked_for():
    learner = learner_with("reconstruct", pretrain_updates=10**6, anchors=4)
    first, last = [], []
    for k in range(120):
        rollout, _ = rollout_of(learner.actor, seed=k)
        log = learner.update(rollout, transitions(rollout, False))
        (first if k < 10 else last if k >= 110 else []).append(log["auxiliary_loss"].item())
    assert sum(last) < 0.5 * sum(first)


# --- observations that are no vectors --------------------------------------------------------------------------------


class CountingSymbols(CountingEnv):
    """A grid of 1 x 2 cells with two channels: the step number and the environment's, then their parities."""

    obs_kind, obs_values = "symbols", (8, 6)

    def observe(self, state):
        number, index = state.t, self.index
        return torch.stack([number, index, number % 2, index % 2], -1).view(-1, 1, 2, 2).to(torch.uint8)


class CountingPixels(CountingEnv):
    """A picture of 2 x 2 pixels, the brighter the later in the episode."""

    obs_kind = "pixels"

    def observe(self, state):
        return (30 * state.t).view(-1, 1, 1, 1).expand(-1, 2, 2, 3).to(torch.uint8)


def test_symbols_by_hand():
    """Each cell reads as one vector of sum(values) entries, and is guessed by a softmax for each channel."""
    target = make_target("symbols", (1, 2, 2), (3, 2))
    obs = torch.tensor([[[[[2, 0], [1, 1]]]]], dtype=torch.uint8)
    assert target.size == 10 and target.read(obs).tolist() == [[[0, 0, 1, 1, 0, 0, 1, 0, 0, 1]]]
    guess = torch.randn(1, 1, 10)
    g = guess.flatten().tolist()
    errors = []
    for cell, codes in ((0, (2, 0)), (1, (1, 1))):
        for at, code, values in ((0, codes[0], 3), (3, codes[1], 2)):
            own = g[5 * cell + at : 5 * cell + at + values]
            errors.append(math.log(sum(math.exp(a) for a in own)) - own[code])
    assert target.error(guess, obs).item() == pytest.approx(sum(errors) / 4, rel=1e-5)
    sure = 30.0 * target.read(obs)
    assert target.error(sure, obs) < 1e-6 < 10 < target.error(-sure, obs)


def test_pixels_and_vectors_by_hand():
    obs = torch.tensor([[[[[255, 0, 51]]]]], dtype=torch.uint8)
    target = make_target("pixels", (1, 1, 3), None)
    torch.testing.assert_close(target.read(obs), torch.tensor([[[1.0, 0.0, 0.2]]]))
    assert target.error(torch.tensor([[[0.5, 0.0, 0.2]]]), obs).item() == pytest.approx(0.25 / 3)
    plain = make_target("vector", (2,), None)
    vector = torch.tensor([[[255.0, -3.0]]])
    assert torch.equal(plain.read(vector), vector) and plain.error(vector + 2, vector).item() == pytest.approx(4)
    with pytest.raises(ValueError, match="unknown kind of observation 'smell'"):
        make_target("smell", (2,), None)


@pytest.mark.parametrize("kind", ["reconstruct", "predict"])
@pytest.mark.parametrize("name", ENVS)
def test_it_reads_every_environment(name, kind):
    torch.manual_seed(0)
    env = make(name, num_envs=B, **ENVS[name].tiny)
    encoder = make_encoder(env.obs_kind, env.obs_shape, env.obs_values, 0, 8)
    agent = Agent(encoder, env.num_actions, make_core("lstm", 8, 8))
    auxiliary = Auxiliary(agent, make_target(env.obs_kind, env.obs_shape, env.obs_values), settings(kind, segment=2))
    rollout, _ = collect(env, agent, start(env, agent), 4, torch.Generator())
    loss, _ = auxiliary.loss(agent, rollout, rollout.state, torch.Generator().manual_seed(1))
    loss.backward()
    assert loss > 0 or rollout.rows.first[1:].any()  # a segment within one episode has an error
    assert all(p.grad.isfinite().all() for p in auxiliary.parameters())


@pytest.mark.parametrize("kind", ["reconstruct", "predict"])
@pytest.mark.parametrize("family", [CountingSymbols, CountingPixels])
def test_the_decoder_learns_what_the_stream_shows(family, kind):
    """The count goes up by one a row, so the next row follows from the one before; rollouts are as short as episodes."""
    env = family(B)
    torch.manual_seed(0)
    encoder = make_encoder(env.obs_kind, env.obs_shape, env.obs_values, 0, 8)
    agent = Agent(encoder, env.num_actions, make_core("lstm", 8, 16))
    auxiliary = Auxiliary(agent, make_target(env.obs_kind, env.obs_shape, env.obs_values), settings(kind, segment=2, memory=2))
    optimizer = torch.optim.Adam([*agent.parameters(), *auxiliary.parameters()], 1e-2)
    generator, errors, past, carry = torch.Generator().manual_seed(0), [], None, start(env, agent)
    while len(errors) < 60:
        rollout, carry = collect(env, agent, carry, 5, generator)
        loss, log = auxiliary.loss(agent, rollout._replace(past=past), rollout.state, generator)
        past = remember(past, rollout.rows, 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss > 0:  # else an episode ended everywhere between segment and anchor
            assert encoder.layers[0].weight.grad.abs().sum() > 0
            errors.append(sum(log.values()).item() / len(log))
    assert past.obs.dtype == torch.uint8 and sum(errors[-10:]) < 0.5 * sum(errors[:10])


def test_what_asks_for_nothing_counts_for_nothing():
    agent = make_agent()
    auxiliary = Auxiliary(agent, TARGET, settings(anchors=3))
    rollout, _ = rollout_of(agent)
    terms = [(torch.tensor(3.0), {"near": torch.tensor(2.0)}, torch.tensor(True)),
             (torch.tensor(0.0), {"near": torch.tensor(0.0), "far": torch.tensor(0.0)}, torch.tensor(False)),
             (torch.tensor(5.0), {"near": torch.tensor(4.0)}, torch.tensor(True))]  # fmt: skip
    drawn = iter(terms)
    auxiliary._anchor = lambda *a: next(drawn)
    loss, log = auxiliary.loss(agent, rollout, rollout.state, torch.Generator())
    assert loss == 4 and log["near"] == 3 and math.isnan(log["far"])


def test_the_decoder_does_not_start_as_the_core():
    config = load_config(["smoke", "cell=lstm", "device=cpu", "aux=reconstruct", "aux.segment=3"], build.KNOWN_CELLS)
    learner = build.make_trainer(config, torch.device("cpu")).learner
    core, decoder = learner.agent.core.weight_x.flatten(), learner.auxiliary.start.weight.flatten()
    n = min(len(core), len(decoder))
    assert abs(torch.corrcoef(torch.stack([core[:n], decoder[:n]]))[0, 1]) < 0.2


def test_loaded_in_the_middle_of_pretraining():
    """How many updates there were decides whether the decoder alone is trained."""
    tokens = ["aux=reconstruct", "aux.segment=3", "aux.pretrain_updates=4", "cell.hidden_size=8", "train.num_envs=4",
              "train.unroll_length=16"]  # fmt: skip
    config = load_config(["smoke", "cell=lstm", "device=cpu", *tokens], build.KNOWN_CELLS)
    whole, first, second = (build.make_trainer(config, torch.device("cpu")) for _ in range(3))
    for _ in range(2):
        first.iterate()
    second.load(first.state())
    for trainer, updates in ((whole, 6), (second, 4)):
        assert all(trainer.iterate()["auxiliary_loss"] > 0 for _ in range(updates))
    after, resumed = whole.learner.agent.state_dict(), second.learner.agent.state_dict()
    assert all(torch.equal(after[name], resumed[name]) for name in after)
