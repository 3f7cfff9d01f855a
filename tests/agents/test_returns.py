"""Both returns against O(T^2) double-precision sums, across terminations and truncations, with ratios away from 1."""

import pytest
import torch

from agents.returns import gae, vtrace

T, B, GAMMA = 23, 9, 0.93


def stream(seed):
    """Random rows with terminations, truncations and rollout edges; `first` follows every end."""
    g = torch.Generator().manual_seed(seed)
    ends = torch.rand(T + 1, B, generator=g) < 0.2
    first = torch.zeros(T + 1, B, dtype=torch.bool)
    for t in range(1, T + 1):
        first[t] = ends[t - 1] & ~first[t - 1]
    last = torch.zeros(T + 1, B, dtype=torch.bool)  # row t is the last of its episode
    last[:-1] = first[1:]
    terminated = last & (torch.rand(T + 1, B, generator=g) < 0.5) & ~first
    value, reward = torch.randn(T + 1, B, generator=g).double(), torch.randn(T + 1, B, generator=g).double()
    log_rho = 0.8 * torch.randn(T, B, generator=g).double()
    return value, torch.where(first, 0, reward), (~terminated).double(), first, log_rho


def naive_vtrace(value, reward, discount, first, log_rho, lam, rho_bar, c_bar):
    """v_s = V_s + sum_{t >= s} (prod_{i < t} gamma_i c_i) delta_t, written as the sum (Espeholt et al. 2018, eq. 1)."""
    target, advantage = value[:-1].clone(), torch.zeros(T, B, dtype=torch.float64)
    rho = log_rho.exp()
    for b in range(B):
        for s in range(T):
            product = 1.0
            for t in range(s, T):
                if first[t + 1, b]:  # no transition leads from row t
                    break
                d = GAMMA * discount[t + 1, b]
                delta = min(rho[t, b], rho_bar) * (reward[t + 1, b] + d * value[t + 1, b] - value[t, b])
                target[s, b] += product * delta
                product = product * d * lam * min(rho[t, b], c_bar)
    for b in range(B):
        for s in range(T):
            if not first[s + 1, b]:
                following = target[s + 1, b] if s + 1 < T else value[T, b]
                mixed = lam * following + (1 - lam) * value[s + 1, b]
                advantage[s, b] = reward[s + 1, b] + GAMMA * discount[s + 1, b] * mixed - value[s, b]
    return target, advantage


@pytest.mark.parametrize("lam", [1.0, 0.9])
@pytest.mark.parametrize("rho_bar, c_bar", [(1.0, 1.0), (2.0, 0.7), (1e9, 1e9)])
def test_vtrace_equals_the_sum(rho_bar, c_bar, lam):
    value, reward, discount, first, log_rho = stream(1)
    assert (log_rho.exp() > rho_bar).any() or rho_bar > 100  # the clipping acts
    ret = vtrace(
        value, reward[1:], GAMMA * discount[1:], first[1:], log_rho, trace_lambda=lam, rho_bar=rho_bar, c_bar=c_bar
    )
    target, advantage = naive_vtrace(value, reward, discount, first, log_rho, lam, rho_bar, c_bar)
    torch.testing.assert_close(ret.target, target, rtol=0, atol=1e-10)
    torch.testing.assert_close(ret.advantage, advantage, rtol=0, atol=1e-10)
    torch.testing.assert_close(ret.weight, log_rho.exp().clamp(max=rho_bar), rtol=0, atol=0)


def naive_gae(value, reward, discount, first, lam):
    advantage = torch.zeros(T, B, dtype=torch.float64)
    for b in range(B):
        for s in range(T):
            product = 1.0
            for t in range(s, T):
                if first[t + 1, b]:
                    break
                d = GAMMA * discount[t + 1, b]
                advantage[s, b] += product * (reward[t + 1, b] + d * value[t + 1, b] - value[t, b])
                product = product * d * lam
    return advantage


@pytest.mark.parametrize("lam", [1.0, 0.95, 0.0])
def test_gae_equals_the_sum(lam):
    value, reward, discount, first, _ = stream(2)
    ret = gae(value, reward[1:], GAMMA * discount[1:], first[1:], trace_lambda=lam)
    want = naive_gae(value, reward, discount, first, lam)
    torch.testing.assert_close(ret.advantage, want, rtol=0, atol=1e-10)
    torch.testing.assert_close(ret.target, want + value[:-1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("lam", [1.0, 0.8])
def test_on_policy_they_agree(lam):
    value, reward, discount, first, log_rho = stream(3)
    args = (value, reward[1:], GAMMA * discount[1:], first[1:])
    a, b = vtrace(*args, torch.zeros_like(log_rho), trace_lambda=lam), gae(*args, trace_lambda=lam)
    torch.testing.assert_close(a.target, b.target, rtol=0, atol=1e-12)
    torch.testing.assert_close(a.advantage, b.advantage, rtol=0, atol=1e-12)


def test_an_episodes_last_row_is_its_own_target_and_bootstraps_a_truncation():
    """Hand-made: row 2 ends the episode by truncation, row 3 starts another."""
    value = torch.tensor([1.0, 2.0, 10.0, 4.0, 5.0]).view(-1, 1)
    reward = torch.tensor([0.5, 0.25, 0.0, 1.0]).view(-1, 1)
    first = torch.tensor([False, False, True, False]).view(-1, 1)
    for terminated, bootstrap in ((False, 10.0), (True, 0.0)):
        discount = torch.full((4, 1), 0.5)
        discount[1] = 0.0 if terminated else 0.5
        ret = vtrace(value, reward, discount, first, torch.zeros(4, 1))
        assert ret.target[2] == 10.0 and ret.advantage[2] == 0
        assert ret.target[1] == 0.25 + 0.5 * bootstrap
        assert ret.target[0] == 0.5 + 0.5 * (0.25 + 0.5 * bootstrap)
        assert ret.target[3] == 1.0 + 0.5 * 5.0


def test_nothing_crosses_an_episode():
    """Values and rewards after a boundary change nothing before it."""
    value, reward, discount, first, log_rho = stream(4)
    b = next(b for b in range(B) if first[5:15, b].any())
    edge = 5 + int(first[5:15, b].nonzero()[0])
    for f in (lambda *a: vtrace(*a, log_rho), gae):
        before = f(value, reward[1:], GAMMA * discount[1:], first[1:]).target[: edge - 1, b].clone()
        changed, other = value.clone(), reward.clone()
        changed[edge:, b] += 7
        other[edge:, b] -= 3
        after = f(changed, other[1:], GAMMA * discount[1:], first[1:]).target[: edge - 1, b]
        assert torch.equal(before, after)
