"""An environment that counts and a core that counts: plumbing is right when every number comes out where it should."""

from typing import NamedTuple

import torch

from envs.env import Env, Spec
from memory_cells.cells import Cell


class CountState(NamedTuple):
    number: torch.Tensor  # of the episode, per environment
    t: torch.Tensor


class CountingEnv(Env):
    """Episode n of environment b lasts 3 + (n + b) % 4 steps; it is truncated where n + b is odd, else it terminates.

    Reward of step t is t; the observation is (t, b). Success where the episode number is even.
    """

    num_actions, action_names = 2, ("zero", "one")
    obs_low, obs_high = 0.0, 1e6

    def prepare(self):
        self.index = torch.arange(self.num_envs, device=self.device)
        self.spawned = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device) - 1

    def spawn(self):
        torch.rand(1, generator=self.generator, device=self.device)  # randomness that must be saved with the rest
        number = self.state.number + 1 if hasattr(self, "state") else self.spawned
        return CountState(number, torch.zeros_like(number))

    def act(self, state, action):
        t = state.t + 1
        over = t >= 3 + (state.number + self.index) % 4
        odd = (state.number + self.index) % 2 == 1
        return CountState(state.number, t), t.to(torch.float32), over & ~odd, over & odd

    def observe(self, state):
        return torch.stack([state.t, self.index], -1).to(torch.float32)

    def success(self, state):
        return state.number % 2 == 0

    def oracle(self, state):
        return torch.zeros_like(state.t)

    def cue(self, state):
        return state.number.unsqueeze(-1).to(torch.float32)

    def describe(self):
        return Spec(0, 1, 0.0, 0.0, 0.0, 0.0, None, 0.0, 7, 0.5)


class CountingCell(Cell):
    """h counts the rows since the episode's start: 1 on its first row. c is the sum of the inputs seen in it."""

    state_names, memory = ("h", "c"), "c"

    def __init__(self, size):
        super().__init__(size, size)
        self.scale = torch.nn.Parameter(torch.ones(size))

    def project(self, x):
        return (x * self.scale,)

    def step(self, z, state):
        return state[0] + 1 + 0 * z[0], state[1] + z[0]
