"""Batched memory environments. `ENVS` names them, `make` builds them; importing registers them with Gymnasium."""

from __future__ import annotations

import difflib
import inspect
from typing import Any, NamedTuple

import torch

from envs.cards import Autoencode, CountRecall, RepeatFirst, RepeatPrevious
from envs.chains import DiscountingChain, MemoryChain, UmbrellaChain
from envs.control import CartPolePomdp, DelayedCatch
from envs.copying import CopyDelay
from envs.env import NO_ACTION, Env, Spec, Step
from envs.minigrid_control import DoorKey, Empty, RedBlueDoors
from envs.minigrid_memory import MiniGridMemory, MiniGridMemoryLong
from envs.minigrid_pickup import Fetch, KeyCorridor
from envs.state_tracking import StateTracking
from envs.tmaze import BakkerTMaze, TMaze, TMazeState
from envs.tmaze_delayed import DelayedChoice
from envs.tmaze_noisy import NoisyTMaze
from envs.tmaze_series import MultiCueTMaze, RewriteTMaze
from envs.tvt import ActiveMatch, KeyToDoor, PassiveMatch

__all__ = ["ENVS", "NO_ACTION", "BakkerTMaze", "Env", "EnvRow", "Spec", "Step", "TMaze", "TMazeState", "make"]
__all__ += ["DelayedChoice", "MultiCueTMaze", "NoisyTMaze", "RewriteTMaze"]


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


_PHASES = {"explore_length": 10, "distractor_length": 3, "reward_length": 9, "apples": 0}
_HUNG = {"distractor_length": 90, "apple_reward_high": 10.0, "final_reward": 10.0}

ENVS: dict[str, EnvRow] = {
    "tmaze_passive": EnvRow(TMaze, {"oracle_length": 0}, {}, {"corridor_length": 4}, {"TMaze": {}}),
    "tmaze_active": EnvRow(TMaze, {}, {"oracle_length": 1}, {"corridor_length": 4}, {"TMazeActive": {}}),
    "tmaze_bakker": EnvRow(BakkerTMaze, {}, {}, {"corridor_length": 4}, {"TMazeBakker": {}}),
    "tmaze_noisy": EnvRow(NoisyTMaze, {}, {}, {"corridor_length": 4, "slip": 0.1}, {"TMazeNoisy": {}}),
    "tmaze_rewrite": EnvRow(
        RewriteTMaze, {}, {}, {"corridor_length": 3, "corridors": 2, "step_cost": 0.1}, {"TMazeRewrite": {}}
    ),
    "tmaze_multicue": EnvRow(MultiCueTMaze, {}, {}, {"corridor_length": 3, "cues": 2}, {"TMazeMultiCue": {}}),
    "tmaze_delayed": EnvRow(
        DelayedChoice, {}, {}, {"corridor_length": 4, "delay": 3, "sigma": 0.5}, {"TMazeDelayed": {}}
    ),
    "memory_chain": EnvRow(MemoryChain, {}, {}, {"memory_length": 4, "num_bits": 3}, {"MemoryChain": {}}),
    "umbrella_chain": EnvRow(
        UmbrellaChain, {}, {}, {"chain_length": 5, "distractors": 2},
        {"UmbrellaChain": {}, "UmbrellaChainHidden": {"hidden": True}},
    ),
    "discounting_chain": EnvRow(DiscountingChain, {}, {}, {"mapping_seed": None}, {"DiscountingChain": {}}),
    "repeat_previous": EnvRow(RepeatPrevious, {}, {}, {"deck_size": 12, "k": 3}, {"RepeatPrevious": {}}),
    "repeat_first": EnvRow(RepeatFirst, {}, {}, {"deck_size": 8}, {"RepeatFirst": {}}),
    "autoencode": EnvRow(Autoencode, {}, {}, {"deck_size": 8}, {"Autoencode": {}}),
    "count_recall": EnvRow(CountRecall, {}, {}, {"deck_size": 8}, {"CountRecall": {}}),
    "copy_delay": EnvRow(CopyDelay, {}, {}, {"length": 4, "delay": 3}, {"CopyDelay": {}}),
    "state_tracking": EnvRow(StateTracking, {}, {}, {"length": 5}, {"StateTracking": {}}),
    "delayed_catch": EnvRow(DelayedCatch, {}, {}, {"runs": 2}, {"DelayedCatch": {}}),
    "cartpole_pomdp": EnvRow(CartPolePomdp, {}, {}, {"step_limit": 7}, {"CartPolePomdp": {}}),
    "passive_match": EnvRow(PassiveMatch, {}, {}, {**_PHASES, "explore_length": 2}, {"PassiveMatch": {}}),
    "active_match": EnvRow(ActiveMatch, {}, _HUNG, _PHASES, {"ActiveMatch": {}}),
    "key_to_door": EnvRow(KeyToDoor, {}, {"reward_length": 10}, _PHASES, {"KeyToDoor": {}}),
    "minigrid_memory": EnvRow(MiniGridMemory, {}, {}, {"size": "S7"}, {
        f"MiniGrid-Memory{size}": {"size": size, "agent_view_size": 7, "actions": 7, "draws": "minigrid"}
        for size in ("S7", "S9", "S11", "S13", "S13Random", "S17Random")
    }),
    "minigrid_memory_long": EnvRow(MiniGridMemoryLong, {}, {}, {"width": 8}, {"MiniGrid-MemoryLong": {}}),
    "minigrid_empty": EnvRow(Empty, {}, {}, {"size": 5, "random_start": True, "max_steps": 30}, {
        f"MiniGrid-Empty-{kind}{S}x{S}": {"size": S, **({"random_start": True} if kind else {})}
        for kind, S in (("", 5), ("Random-", 5), ("", 6), ("Random-", 6), ("", 8), ("", 16))
    }),
    "minigrid_doorkey": EnvRow(DoorKey, {}, {}, {"size": 5, "max_steps": 30}, {
        f"MiniGrid-DoorKey-{S}x{S}": {"size": S} for S in (5, 6, 8, 16)
    }),
    "minigrid_keycorridor": EnvRow(KeyCorridor, {}, {}, {"room_size": 3, "num_rows": 1, "max_steps": 60}, {
        f"MiniGrid-KeyCorridorS{S}R{R}": {"room_size": S, "num_rows": R}
        for S, R in ((3, 1), (3, 2), (3, 3), (4, 3), (5, 3), (6, 3))
    }),
    "minigrid_redblue": EnvRow(RedBlueDoors, {}, {}, {"size": 4, "max_steps": 30}, {
        f"MiniGrid-RedBlueDoors-{S}x{S}": {"size": S} for S in (6, 8)
    }),
    "minigrid_fetch": EnvRow(Fetch, {}, {}, {"size": 5, "num_objects": 2, "max_steps": 30}, {
        f"MiniGrid-Fetch-{S}x{S}-N{N}": {"size": S, "num_objects": N} for S, N in ((5, 2), (6, 2), (8, 3))
    }),
}  # fmt: skip


def make(name: str, num_envs: int, device: str | torch.device = "cpu", seed: int = 0, **kwargs: Any) -> Env:
    """Build the environment `name` of `ENVS`.

    Raises:
        ValueError: unknown name or argument (the nearest one is named), or a value out of range.
    """
    if name not in ENVS:
        raise ValueError(f"unknown environment {name!r}{_nearest(name, list(ENVS))}; known: {', '.join(ENVS)}")
    row = ENVS[name]
    for key in kwargs:
        if key in row.fixed:
            raise ValueError(f"{name} fixes {key} = {row.fixed[key]!r}; it cannot be set")
    taken = {"num_envs", "device", "seed", *row.fixed}
    known = [p for p in inspect.signature(row.env).parameters if p not in taken]
    for key in kwargs:
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
