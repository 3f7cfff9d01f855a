"""Each term on numbers one can check by hand, and what its gradient does at the edges."""

import math

import pytest
import torch
from tape import NoHostSync

from agents import losses

MASK = torch.tensor([[True, True], [False, True]])
LOGITS = torch.tensor([[[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]], [[9.0, 9.0, -9.0], [0.5, 0.5, 0.5]]]).double()
POLICY = LOGITS.log_softmax(-1)


def test_masked_entries_have_no_say():
    changed = POLICY.clone()
    changed[1, 0] = float("nan")
    for term in (losses.negative_entropy, losses.uniform_kl, losses.logit_energy):
        want = term(POLICY, MASK)
        assert torch.equal(term(changed, MASK), want)
        leaf = POLICY.clone().requires_grad_()
        term(leaf, MASK).backward()
        assert (leaf.grad[1, 0] == 0).all()
    assert losses.masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)) == 0


def test_entropy_and_uniform_kl():
    kept = [LOGITS[0, 0], LOGITS[0, 1], LOGITS[1, 1]]
    entropies = [torch.distributions.Categorical(logits=x).entropy() for x in kept]
    torch.testing.assert_close(losses.negative_entropy(POLICY, MASK), -sum(entropies) / 3)
    uniform = torch.distributions.Categorical(logits=torch.zeros(3).double())
    kls = [torch.distributions.kl_divergence(uniform, torch.distributions.Categorical(logits=x)) for x in kept]
    torch.testing.assert_close(losses.uniform_kl(POLICY, MASK), sum(kls) / 3)


def test_the_kl_still_pushes_where_entropy_has_given_up():
    logits = torch.tensor([[[30.0, 0.0, 0.0, 0.0]]]).double()
    mask = torch.ones(1, 1, dtype=torch.bool)
    pushes = []
    for term in (losses.negative_entropy, losses.uniform_kl):
        leaf = logits.clone().requires_grad_()
        term(leaf.log_softmax(-1), mask).backward()
        pushes.append(leaf.grad[0, 0])
    assert pushes[0].abs().max() < 1e-10
    torch.testing.assert_close(pushes[1], torch.tensor([0.75, -0.25, -0.25, -0.25]).double(), rtol=0, atol=1e-6)


def test_ppo_clips_in_the_direction_of_the_advantage_only():
    log_mu = torch.zeros(1, 4).double()
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5]]).double()
    advantage = torch.tensor([[1.0, -1.0, 1.0, -1.0]]).double()
    mask = torch.ones(1, 4, dtype=torch.bool)
    log_pi = ratio.log().requires_grad_()
    loss = losses.ppo(log_pi, log_mu, advantage, mask, clip=0.2)
    want = -(1.2 * 1 + 1.5 * -1 + 0.5 * 1 + 0.8 * -1) / 4
    assert loss.item() == pytest.approx(want)
    loss.backward()
    assert (log_pi.grad == 0).tolist() == [[True, False, False, True]]


def test_policy_gradient_and_value():
    log_pi = torch.tensor([[math.log(0.5), math.log(0.25)], [0.0, math.log(0.1)]]).double()
    advantage = torch.tensor([[1.0, 2.0], [100.0, -1.0]]).double()
    want = -(math.log(0.5) + 2 * math.log(0.25) - math.log(0.1)) / 3
    assert losses.policy_gradient(log_pi, advantage, MASK).item() == pytest.approx(want)
    assert losses.value_error(torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [50.0, 3.0]]), MASK).item() == pytest.approx(
        14 / 6
    )


def test_normalisation():
    a = torch.tensor([[1.0, 2.0], [1000.0, 6.0]]).double()
    assert losses.normalise(a, MASK, "none", 0.05) is a
    std = losses.normalise(a, MASK, "std", 0.05)[MASK]
    assert std.mean().abs() < 1e-9 and std.pow(2).mean().item() == pytest.approx(1)
    scale = losses.normalise(a, MASK, "scale", 0.05)
    torch.testing.assert_close(scale[MASK], a[MASK] / math.sqrt(41 / 3))
    tiny = losses.normalise(a * 1e-6, MASK, "scale", 0.05)
    torch.testing.assert_close(tiny, a * 1e-6 / 0.05)  # noise is not blown up
    torch.testing.assert_close(losses.normalise(a * 1e-6, MASK, "scale", 1e-8), scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64, torch.float64, torch.bool])
def test_rare_observations_count_as_much_as_frequent_ones(dtype):
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(0, 2, (5, 3, 7), generator=generator).to(dtype)
    kind = torch.randint(0, 5, (40, 6), generator=generator)
    kind[kind == 4] = torch.where(torch.rand((kind == 4).sum(), generator=generator) < 0.1, 4, 0)
    mask, first = torch.rand(40, 6, generator=generator) < 0.8, kind == 9
    with NoHostSync():
        weight = losses.rarity(kinds[kind], first, mask)
    shares = [weight[mask & (kind == k)].sum() for k in range(5)]
    torch.testing.assert_close(torch.stack(shares), (mask.sum() / 5).expand(5).double())
    assert all(weight[mask & (kind == k)].unique().numel() == 1 for k in range(5)) and not weight[~mask].any()
    first[:2] = True
    own = losses.rarity(kinds[torch.zeros_like(kind)], first, mask)  # a first row and another one that look alike
    torch.testing.assert_close(own[first & mask].sum(), own[~first & mask].sum())
    for same in (kinds[torch.zeros_like(kind)], torch.arange(240).view(40, 6, 1).double()):  # all alike, or no two
        torch.testing.assert_close(losses.rarity(same, kind == 9, mask), mask.double())
    assert not losses.rarity(kinds[kind], first, mask & False).any()


def test_log_prob_reads_no_action_without_failing():
    got = losses.log_prob(POLICY, torch.tensor([[0, 1], [-1, 2]]))
    torch.testing.assert_close(got[0, 1], LOGITS[0, 1].log_softmax(-1)[1])
    torch.testing.assert_close(got[1, 1], LOGITS[1, 1].log_softmax(-1)[2])
