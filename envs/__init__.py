"""Batched memory environments. `ENVS` names them, `make` builds them; importing registers them with Gymnasium."""

from __future__ import annotations

import difflib
import inspect
from typing import Any, NamedTuple

import torch

from envs.env import NO_ACTION, Env, Spec, Step
from envs.minigrid_memory import MiniGridMemory, MiniGridMemoryLong
from envs.tmaze import BakkerTMaze, TMaze, TMazeState

__all__ = ["ENVS", "NO_ACTION", "BakkerTMaze", "Env", "EnvRow", "Spec", "Step", "TMaze", "TMazeState", "make"]


class EnvRow(NamedTuple):
    """A row of `ENVS`: the class, the arguments that define the name, and defaults that `make` lets one change.

    `tiny`: arguments of an instance small enough for tests. `ids`: Gymnasium ids "gatemaze/ID-v0" and the arguments
    that each stands for; further ones may be given where it is made.
    """

    env: type[Env]
    fixed: dict[str, Any]
    defaults: dict[str, Any]
    tiny: dict[str, Any] = {}
    ids: dict[str, dict[str, Any]] = {}


ENVS: dict[str, EnvRow] = {
    "tmaze_passive": EnvRow(TMaze, {"oracle_length": 0}, {}, {"corridor_length": 4}, {"TMaze": {"oracle_length": 0}}),
    "tmaze_active": EnvRow(TMaze, {}, {"oracle_length": 1}, {"corridor_length": 4}),
    "tmaze_bakker": EnvRow(BakkerTMaze, {}, {}, {"corridor_length": 4}, {"TMazeBakker": {}}),
    "minigrid_memory": EnvRow(MiniGridMemory, {}, {}, {"size": "S7"}, {
        f"MiniGrid-Memory{size}": {"size": size, "agent_view_size": 7, "actions": 7, "draws": "minigrid"}
        for size in ("S7", "S9", "S11", "S13", "S13Random", "S17Random")
    }),
    "minigrid_memory_long": EnvRow(MiniGridMemoryLong, {}, {}, {"width": 8}, {"MiniGrid-MemoryLong": {}}),
}


def make(name: str, num_envs: int, device: str | torch.device = "cpu", seed: int = 0, **kwargs: Any) -> Env:
    """Build the environment `name` of `ENVS`.

    Raises:
        ValueError: unknown name or argument (the nearest one is named), or a value out of range.
    """
    if name not in ENVS:
        raise ValueError(f"unknown environment {name!r}{_nearest(name, list(ENVS))}; known: {', '.join(ENVS)}")
    row = ENVS[name]
    known = [p for p in inspect.signature(row.env).parameters if p not in row.fixed]
    for key in kwargs:
        if key in row.fixed:
            raise ValueError(f"{name} fixes {key} = {row.fixed[key]!r}; it cannot be set")
        if key not in known:
            raise ValueError(f"{name} has no argument {key!r}{_nearest(key, known)}; known: {', '.join(known)}")
    return row.env(num_envs, device=device, seed=seed, **row.fixed, **{**row.defaults, **kwargs})


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.3)
    return f", did you mean {near[0]!r}?" if near else ""


try:
    from envs.gym_adapter import GymEnv, GymVectorEnv, register_all
except ModuleNotFoundError as missing:  # the stream works without Gymnasium
    if missing.name is None or missing.name.split(".")[0] != "gymnasium":
        raise
else:
    register_all()
    __all__ += ["GymEnv", "GymVectorEnv"]


def __getattr__(name: str) -> Any:
    if name in ("GymEnv", "GymVectorEnv"):
        raise ImportError(f"envs.{name} needs the package gymnasium, which is not installed")
    raise AttributeError(f"module 'envs' has no attribute {name!r}")
