"""Gymnasium vector environments, and EnvPool's, as sources of rows: what `envs.group.Group` is for single environments.

The stream wants the last observation of an episode on a row of its own, and the reset row after it. A vector
environment steps all its environments at once, and depending on its autoreset mode
  NEXT_STEP does just that by itself;
  SAME_STEP resets on the very step that ends an episode and hands the last observation over in `info["final_obs"]`; on
            the next row, the environment has already made a step of its new episode;
  DISABLED  must be reset by a mask before it can step on, so by the next row it has made a step there too.
In the latter two, what was begun too early is thrown away unseen by a reset of these environments alone, for which
`reset` must know the option "reset_mask": Gymnasium demands it of DISABLED ones; its own vector classes have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from envs.group import EnvError, Recipe, Rows, describe, leaves_of, step_limit


class VectorSource:
    """Rows of a `gymnasium.vector.VectorEnv`.

    Raises ValueError where it names no autoreset mode, or one that it cannot be used in.
    """

    def __init__(self, vec: VectorEnv) -> None:
        self.vec, self.num_envs = vec, vec.num_envs
        self.mode = (vec.metadata or {}).get("autoreset_mode")
        self.listed = isinstance(vec.unwrapped, (SyncVectorEnv, AsyncVectorEnv))  # take a seed for each environment
        self.masks = self.mode is AutoresetMode.DISABLED or self.listed
        name = type(vec.unwrapped).__name__
        if not isinstance(self.mode, AutoresetMode):
            raise ValueError(f"{name} does not say how it resets (metadata['autoreset_mode'] is {self.mode!r})")
        if self.mode is AutoresetMode.SAME_STEP and not self.masks:
            raise ValueError(f"{name} resets on the step that ends an episode and cannot reset single environments; "
                             f"make it with AutoresetMode.NEXT_STEP")  # fmt: skip
        spec = getattr(vec, "spec", None)
        self._describe(vec.single_observation_space, vec.single_action_space, step_limit(vec),
                       spec and spec.reward_threshold)  # fmt: skip

    def _describe(self, observation_space: Any, action_space: Any, max_steps: int | None, threshold: float | None) -> None:
        self.leaves, self.texts = leaves_of(observation_space)
        self.action_space, self.max_steps, self.reward_threshold = action_space, max_steps, threshold
        self.action_names: list[str] = []
        self.over = np.ones(self.num_envs, bool)  # environments that reset by themselves, or must be, before they go on
        self.rows = Rows.empty(self.leaves, self.num_envs)

    def step(self, actions: np.ndarray, restart: np.ndarray, seeds: np.ndarray) -> Rows:
        """As `Group.step`. Without masks, seeds are heeded only where all environments restart together, and ValueError
        is raised where one is to restart in the middle of an episode."""
        if not (self.masks or restart.all()) and (restart & ~self.over).any():
            raise ValueError(f"{type(self.vec.unwrapped).__name__} restarts all its environments or none, so that their "
                             f"episodes cannot be staggered; give train.stagger_episodes=false")  # fmt: skip
        try:
            return self._step(actions, restart, seeds)
        except Exception as error:
            raise EnvError(f"{type(self.vec).__name__}: {describe(error)}") from error

    def _step(self, actions: np.ndarray, restart: np.ndarray, seeds: np.ndarray) -> Rows:
        rows = self.rows
        if restart.all():
            self._reset_all(seeds)
        else:
            if self.mode is AutoresetMode.DISABLED and self.over.any():
                self._reset_some(self.over, seeds)
            obs, rows.reward[:], rows.terminated[:], rows.truncated[:], info = self._advance(actions)
            self._put(obs)
            if self.mode is AutoresetMode.SAME_STEP:
                for i in np.flatnonzero(rows.terminated | rows.truncated):
                    for leaf, buffer in zip(self.leaves, rows.leaves, strict=True):
                        buffer[i] = leaf.of(info["final_obs"][i])
                info = info.get("final_info", {})
            rows.success[:] = _told(info, self.num_envs)
            done = self.over if self.mode is AutoresetMode.NEXT_STEP else np.zeros_like(restart)  # reset by this step
            again = restart & (~done | (self.masks & (seeds >= 0)))
            if again.any():
                self._reset_some(again, seeds)
        for array in (rows.reward, rows.terminated, rows.truncated):
            array[restart] = 0
        self.over = rows.terminated | rows.truncated
        return rows

    def _put(self, obs: Any) -> None:
        for leaf, buffer in zip(self.leaves, self.rows.leaves, strict=True):
            buffer[...] = leaf.of(obs)

    def _advance(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self.vec.step(actions.astype(self.vec.action_space.dtype))

    def _reset_all(self, seeds: np.ndarray) -> None:
        if (seeds < 0).all():
            self._put(self.vec.reset()[0])
        else:
            self._put(self.vec.reset(seed=_listed(seeds) if self.listed else int(seeds[0]))[0])

    def _reset_some(self, mask: np.ndarray, seeds: np.ndarray) -> None:
        seed = _listed(seeds) if self.listed else None
        obs = self.vec.reset(seed=seed, options={"reset_mask": mask.copy()})[0]
        for leaf, buffer in zip(self.leaves, self.rows.leaves, strict=True):
            buffer[mask] = leaf.of(obs)[mask]

    def render(self, index: Sequence[int]) -> list[np.ndarray]:
        frames = self.vec.render()
        if frames is None:
            raise EnvError(f"{type(self.vec.unwrapped).__name__} drew no pictures")
        return [np.asarray(frames[i]) for i in index]

    def close(self) -> None:
        self.vec.close()


class EnvPoolSource(VectorSource):
    """Rows of EnvPool (Weng et al. 2022, arXiv 2206.10558), which has C++ threads of its own: NEXT_STEP, and single
    environments can be reset by number. Its seed is given when a pool is made, so a new one is made for a new seed.

    Raises ValueError where EnvPool is not installed or has no such environment.
    """

    def __init__(self, recipe: Recipe, num_envs: int) -> None:
        try:
            import envpool
        except ImportError as error:
            raise ValueError(f"vectorization=envpool needs the package envpool ({error})") from error
        options = dict(recipe.kwargs)
        if recipe.max_episode_steps is not None:
            options["max_episode_steps"] = recipe.max_episode_steps
        if recipe.render:
            options["render_mode"] = "rgb_array"
        self._make = lambda seed: envpool.make(recipe.id, "gymnasium", num_envs=num_envs, seed=seed, **options)
        try:
            self.vec = self._make(0)
        except Exception as error:
            raise ValueError(f"EnvPool cannot make {recipe.id}: {describe(error)}") from error
        self.num_envs, self.mode, self.masks = num_envs, AutoresetMode.NEXT_STEP, True
        settings = self.vec.config
        self._describe(self.vec.observation_space, self.vec.action_space, settings.get("max_episode_steps"),
                       settings.get("reward_threshold"))  # fmt: skip

    def _advance(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self.vec.step(actions.astype(np.int32))

    def _reset_all(self, seeds: np.ndarray) -> None:
        if seeds[0] >= 0:
            self.vec.close()
            self.vec = self._make(int(seeds[0]))
        self._put(self.vec.reset()[0])

    def _reset_some(self, mask: np.ndarray, seeds: np.ndarray) -> None:
        obs = self.vec.reset(np.flatnonzero(mask).astype(np.int32))[0]
        for leaf, buffer in zip(self.leaves, self.rows.leaves, strict=True):
            buffer[mask] = leaf.of(obs)

    def render(self, index: Sequence[int]) -> list[np.ndarray]:
        return [np.asarray(frame) for frame in self.vec.render(env_ids=list(index))]


def _listed(seeds: np.ndarray) -> list[int | None]:
    return [None if seed < 0 else int(seed) for seed in seeds]


def _told(info: dict[str, Any], count: int) -> np.ndarray:
    """(count,) int8 of a vector environment's info, whose entries have a mask beside them; -1 where it says nothing."""
    for key in ("success", "is_success"):
        if key in info:
            said = np.broadcast_to(np.asarray(info.get(f"_{key}", True)), count)
            return np.where(said, np.asarray(info[key]).astype(bool), -1).astype(np.int8)
    return np.full(count, -1, np.int8)
