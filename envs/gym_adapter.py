"""Our environments behind Gymnasium's interfaces: a `gymnasium.Env` and a `gymnasium.vector.VectorEnv`.

`import envs` registers every id that the table `envs.ENVS` lists;
`gymnasium.make_vec("envs:gatemaze/TMaze-v0", num_envs=8)` does it by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from torch import Tensor

import envs
from envs.env import Env, Step, at_least

# id -> (row of `envs.ENVS`, the keyword arguments that the id stands for)
IDS: dict[str, tuple[str, dict[str, Any]]] = {
    f"gatemaze/{id}-v0": (name, kwargs) for name, row in envs.ENVS.items() for id, kwargs in row.ids.items()
}
RENDER_MODES = ["rgb_array"]


def register_all() -> None:
    """Register every id of `IDS` once."""
    for name, (env, kwargs) in IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="envs.gym_adapter:make_single",
                vector_entry_point="envs.gym_adapter:make_vector",
                kwargs={"env": env, **kwargs},
            )


def make_single(env: str, render_mode: str | None = None, device: str = "cpu", **kwargs: Any) -> GymEnv:
    """Entry point of `gymnasium.make`."""
    return GymEnv(_native(env, 1, device, kwargs), render_mode=render_mode)


def make_vector(
    env: str,
    num_envs: int = 1,
    render_mode: str | None = None,
    device: str = "cpu",
    output: str = "numpy",
    max_episode_steps: int | None = None,
    **kwargs: Any,
) -> GymVectorEnv:
    """Entry point of `gymnasium.make_vec`."""
    native = _native(env, num_envs, device, kwargs)
    return GymVectorEnv(native, render_mode=render_mode, output=output, max_episode_steps=max_episode_steps)


def _native(name: str, num_envs: int, device: str, kwargs: dict[str, Any]) -> Env:
    """Raises ValueError for an argument that the environment does not have."""
    if "seed" in kwargs:
        raise ValueError("seed is an argument of reset(), not of make()")
    return envs.make(name, num_envs, device, **kwargs)


class GymEnv(gymnasium.Env[Any, np.int64]):
    """One environment (`env.num_envs == 1`) as a `gymnasium.Env`, on numpy arrays.

    `info` holds "success" (bool) on the last step of an episode and is empty otherwise, and so where a TimeLimit around this
    cuts an episode, which `unwrapped` does not see (the vector form, which counts itself, reports it). A MiniGrid environment
    also has what minigrid's wrappers read (`unwrapped.grid`, `agent_pos`, `get_frame`, ...: envs/minigrid_mirror.py).

    Raises:
        ValueError: env has more than one environment; render_mode unknown; an action outside the action space.
        AttributeError: something is assigned to one of minigrid's names, which would change a mirror alone.
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": 15}

    def __init__(self, env: Env, render_mode: str | None = None) -> None:
        if env.num_envs != 1:
            raise ValueError(f"GymEnv takes one environment, got num_envs = {env.num_envs}; use GymVectorEnv")
        self.env = env
        self.render_mode = _checked_mode(render_mode)
        self.observation_space, self.action_space = _spaces(env)
        self._seeded = False

    def __getattr__(self, name: str) -> Any:
        if "env" not in self.__dict__ or name not in self.env.gym_attributes:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self.env.gym_attribute(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "env" in self.__dict__ and name in self.env.gym_attributes:
            raise AttributeError(f"{name} can only be read here; env.load_minigrid takes the state of a minigrid environment")
        super().__setattr__(name, value)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; `seed` seeds the environment's generator as `Env.seed` does."""
        super().reset(seed=seed)
        _no_options(options)
        self._seeded = _reseed(self, seed, self._seeded)
        return self._observation(self.env.reset()), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"action must be an integer in 0..{self.env.num_actions - 1}, got {action!r}")
        if bool(self.env.ended[0]):
            raise ValueError("the episode is over: call reset() before step()")
        row = self.env.step(torch.tensor([int(action)], device=self.env.device))
        reward, terminated, truncated = (value.item() for value in self.env.gym_outcome(row))
        info = {"success": bool(self.env.success(self.env.state)[0])} if terminated or truncated else {}
        return self._observation(row), reward, terminated, truncated, info

    def _observation(self, row: Step) -> Any:
        return _each(self.env.gym_observation(row.obs), lambda value: _numpy(value)[0])

    def render(self) -> np.ndarray | None:
        """The frame (h, w, 3) uint8."""
        return self.env.render()[0] if _can_render(self) else None


make_single.metadata = GymEnv.metadata  # where gymnasium.make looks for what "human" and "rgb_array_list" are made of


class GymVectorEnv(gymnasium.vector.VectorEnv):
    """B environments as a `gymnasium.vector.VectorEnv` with NEXT_STEP autoreset, which is the stream itself.

    The flags come on the last row of an episode; the next step ignores that environment's action and returns the reset
    row with reward 0. `info` holds "success" (B,) bool and "_success" (B,) bool, the mask of episodes that just ended
    (as Gymnasium marks entries of `info`); "success" is False elsewhere.

    Args:
        env: any of ours.
        render_mode: None or "rgb_array".
        output: "numpy" (rewards float64, as Gymnasium's own vector environments) or "torch": tensors that stay on the
            device (rewards float32), without a host sync on a GPU, where actions are therefore not checked. Two kinds of
            id do read the device: those that replay minigrid's seeds (MiniGrid-Memory, unless draws="device" is given)
            and those whose observation has a text for each environment (Fetch, KeyCorridor).
        max_episode_steps: truncate an episode after so many steps, as Gymnasium's TimeLimit does for a single one.

    Raises:
        ValueError: unknown render_mode or output; a limit below 1; actions of the wrong shape, type or range.
    """

    def __init__(self, env: Env, render_mode: str | None = None, output: str = "numpy",
                 max_episode_steps: int | None = None) -> None:  # fmt: skip
        if output not in ("numpy", "torch"):
            raise ValueError(f"output must be 'numpy' or 'torch', got {output!r}")
        self.metadata = {
            "autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP,
            "render_modes": RENDER_MODES,
            "render_fps": 15,
        }
        self.env, self.output, self.num_envs = env, output, env.num_envs
        self.limit = None if max_episode_steps is None else at_least("max_episode_steps", max_episode_steps, 1)
        self._steps = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
        self.render_mode = _checked_mode(render_mode)
        self.single_observation_space, self.single_action_space = _spaces(env)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._seeded = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode everywhere. `seed` (one int for the whole batch) seeds the generator as `Env.seed` does."""
        super().reset(seed=seed)
        _no_options(options)
        self._seeded = _reseed(self, seed, self._seeded)
        self._steps.zero_()
        return self._observation(self.env.reset()), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if not self._seeded:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        row = self.env.step(self._checked(actions))
        late = None
        if self.limit is not None:
            self._steps = torch.where(row.first, 0, self._steps + 1)
            late = self._steps >= self.limit
            self.env.ended |= late
        reward, terminated, truncated = self.env.gym_outcome(row)
        truncated = truncated if late is None else truncated | late
        ended = self.env.ended.clone()
        info = {"success": self._out(self.env.success(self.env.state) & ended), "_success": self._out(ended)}
        reward = row.reward if self.output == "torch" else reward
        return self._observation(row), self._out(reward), self._out(terminated), self._out(truncated), info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """B frames (h, w, 3) uint8."""
        return tuple(self.env.render()) if _can_render(self) else None

    def _observation(self, row: Step) -> Any:
        return _each(self.env.gym_observation(row.obs), self._out)

    def _out(self, batch: Any) -> Any:
        return batch if self.output == "torch" else _numpy(batch)

    def _checked(self, actions: Any) -> Tensor:
        action = torch.as_tensor(actions)
        if action.shape != (self.num_envs,) or action.is_floating_point() or action.dtype == torch.bool:
            raise ValueError(f"actions must be {self.num_envs} integers, got {action.dtype} {tuple(action.shape)}")
        if action.device.type == "cpu":
            bad = ((action < 0) | (action >= self.env.num_actions)) & ~self.env.ended.cpu()
            if bad.any():
                i = int(bad.nonzero()[0])
                raise ValueError(f"action {int(action[i])} of environment {i} is not in 0..{self.env.num_actions - 1}")
        return action.to(self.env.device, torch.int64)


def _spaces(env: Env) -> tuple[gymnasium.Space[Any], gymnasium.spaces.Discrete]:
    space = env.gym_space()
    if space is None:
        dtype = _numpy(torch.empty(0, dtype=env.obs_dtype)).dtype
        space = gymnasium.spaces.Box(env.obs_low, env.obs_high, env.obs_shape, dtype=dtype.type)
    return space, gymnasium.spaces.Discrete(env.num_actions)


def _each(obs: Any, convert: Callable[[Any], Any]) -> Any:
    """`convert` an observation, or every entry of one that is a dict."""
    return {key: convert(value) for key, value in obs.items()} if isinstance(obs, dict) else convert(obs)


def _numpy(batch: Any) -> Any:
    return batch.cpu().numpy() if isinstance(batch, Tensor) else batch  # a tuple of strings stays one


def _reseed(gym: GymEnv | GymVectorEnv, seed: int | None, seeded: bool) -> bool:
    """Without any seed a first reset is random, as Gymnasium has it; later ones go on with the same generator."""
    if seed is not None:
        gym.env.seed(seed % 2**63)  # Gymnasium's may be any whole number, torch's have 64 bits
    elif not seeded:
        gym.env.seed(int(gym.np_random.integers(2**31)))
    return True


def _no_options(options: dict[str, Any] | None) -> None:
    if options:
        raise ValueError(f"reset() knows no options, got {', '.join(map(str, options))}")


def _checked_mode(mode: str | None) -> str | None:
    if mode is not None and mode not in RENDER_MODES:
        raise ValueError(f"render_mode must be None or 'rgb_array', got {mode!r}")
    return mode


def _can_render(gym: GymEnv | GymVectorEnv) -> bool:
    if gym.render_mode is None:
        gymnasium.logger.warn("render() needs render_mode='rgb_array', given where the environment is made")
    return gym.render_mode is not None
