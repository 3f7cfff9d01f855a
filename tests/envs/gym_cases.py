"""Gymnasium environments for tests: one that counts, one that goes wrong. Importing registers them ("gym_cases:ID"), in
worker processes too."""

from __future__ import annotations

import os
import signal
import time

import gymnasium
import numpy as np
from gymnasium import spaces


class Counting(gymnasium.Env):
    """Observation: (seed modulo 8, episode, t, action before). Episode e lasts `length(own, e)` steps; those with e % 3 == 0
    terminate, e % 3 == 1 are truncated, the others are both. Reward 10 e + t. `told`: what `info` says of success."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = spaces.Box(-1, 1e6, (4,), np.float32)
    action_space = spaces.Discrete(5, start=3)

    def __init__(self, render_mode=None, told="success", size=(17, 33)):
        self.render_mode, self.told, self.size = render_mode, told, size
        self.episode, self.own = -1, 0

    @staticmethod
    def length(own, episode):
        return 1 + (own + 3 * episode) % 4

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.own, self.episode = seed % 8, -1
        self.episode, self.t = self.episode + 1, 0
        return self.row(-1), {}

    def row(self, action):
        return np.array([self.own, self.episode, self.t, action], np.float32)

    def step(self, action):
        self.t += 1
        over, kind = self.t == self.length(self.own, self.episode), self.episode % 3
        info = {self.told: self.episode % 2 == 1} if over and self.told else {}
        return self.row(action), 10 * self.episode + self.t, over and kind != 1, over and kind != 0, info

    def render(self):
        frame = np.full((*self.size, 3), 40, np.uint8)
        frame[:, : 4 * (self.t + 1)] = (30 + 20 * self.episode % 200, 200, 90)
        return frame


class Faulty(gymnasium.Env):
    """`fault` happens at step 3 of every environment whose seed is `unlucky` modulo 4, of all if it is -1, or "make" when
    one is made in a worker."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fault="raise", unlucky=0, render_mode=None):
        self.fault, self.unlucky = fault, unlucky
        if fault == "make" and os.getpid() != int(os.environ.get("GYM_CASES_PARENT", -1)):
            raise OSError("no licence")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.bad = 0, seed is not None and self.unlucky in (-1, seed % 4)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == 3 and self.bad:
            if self.fault == "raise":
                raise RuntimeError("the simulator\nis broken")
            if self.fault == "shape":
                return np.zeros(3, np.float32), 0.0, False, False, {}
            if self.fault == "exit":
                os._exit(7)
            if self.fault in ("SIGKILL", "SIGSTOP"):
                os.kill(os.getpid(), getattr(signal, self.fault))
            if self.fault == "hang":
                while True:
                    time.sleep(60)
        return np.zeros(2, np.float32), 1.0, False, False, {}


class NoMasks(gymnasium.vector.VectorEnv):
    """Counting environments that step and restart together, in the autoreset mode that they are told."""

    def __init__(self, num_envs, mode):
        self.num_envs, self.metadata = num_envs, {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = Counting.observation_space, Counting.action_space
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self.envs = [Counting() for _ in range(num_envs)]

    def reset(self, *, seed=None, options=None):
        assert not options
        self.over = np.zeros(self.num_envs, bool)
        seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
        return np.stack([env.reset(seed=s)[0] for env, s in zip(self.envs, seeds)]), {}

    def step(self, actions):
        rows = [(env.reset()[0], 0.0, False, False, {}) if over else env.step(int(action))
                for env, over, action in zip(self.envs, self.over, actions)]  # fmt: skip
        obs, reward, terminated, truncated, _ = (np.array(column) for column in zip(*rows))
        self.over = terminated | truncated
        return obs, reward, terminated, truncated, {}


for name, entry in (("Counting", Counting), ("Faulty", Faulty)):
    gymnasium.register(f"{name}-v0", entry)
gymnasium.register("Thresholded-v0", Counting, reward_threshold=12.0, max_episode_steps=50, kwargs={"told": None})
gymnasium.register("Silent-v0", Counting, kwargs={"told": None})
gymnasium.register("Continuous-v0", "gymnasium.envs.classic_control:PendulumEnv")
