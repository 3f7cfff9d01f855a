"""Gymnasium environments one by one, and the program of a worker process that hosts some (`envs.workers` starts it).

This file imports nothing of ours, so that a worker starts without torch, and gymnasium only where it is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import re
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # it would greet on standard output

#: packages that register environments only when they are imported, by the id's first part
PLUGINS = {"MiniGrid": "minigrid", "BabyAI": "minigrid", "popgym": "popgym", "ALE": "ale_py", "gatemaze": "envs"}
HEADER = struct.Struct("<cQ")  # kind of message, bytes that follow


class EnvError(RuntimeError):
    """An environment, or the process that runs it, failed; the message is one line."""

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split())[:600])


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What `gymnasium.make` is to make, as plain data. `id` may be "module:Id-v0": the module is imported first."""

    id: str
    kwargs: dict[str, bool | int | float | str]
    max_episode_steps: int | None = None
    render: bool = False

    def load(self) -> str:
        """Import the package that registers the id; the id without it. Raises ValueError."""
        module, _, name = self.id.rpartition(":")
        plugin = module or PLUGINS.get(re.split("[-/]", name)[0])
        if plugin:
            try:
                importlib.import_module(plugin)
            except Exception as error:  # whatever the module does when it is imported
                raise ValueError(f"{self.id} needs the package {plugin}, which cannot be imported ({error})") from error
        return name

    def make(self) -> Any:
        """The `gymnasium.Env`. Raises ValueError, one line, for anything that stands in the way."""
        env = self._make(None)
        if not self.render:
            return env
        modes = (env.metadata or {}).get("render_modes") or []
        env.close()
        if "rgb_array" not in modes:
            raise ValueError(f"{self.id} cannot be drawn: it has no render mode rgb_array")
        return self._make("rgb_array")

    def _make(self, render_mode: str | None) -> Any:
        name = self.load()
        import gymnasium

        options = {"render_mode": render_mode, "max_episode_steps": self.max_episode_steps}
        options = {key: value for key, value in options.items() if value is not None}  # not every environment knows them
        try:
            return gymnasium.make(name, disable_env_checker=True, **options, **self.kwargs)
        except Exception as error:  # whatever the environment's constructor raises
            raise ValueError(f"cannot make {self.id}: {describe(error)}") from error


class Leaf(NamedTuple):
    """One array in an observation: where it is, and its space (Box, Discrete, MultiDiscrete or MultiBinary)."""

    path: tuple[str | int, ...]
    space: Any

    @property
    def name(self) -> str:
        return ".".join(map(str, self.path))

    def of(self, obs: Any) -> Any:
        for key in self.path:
            obs = obs[key]
        return obs

    def buffer(self, count: int) -> np.ndarray:
        return np.zeros((count, *self.space.shape), self.space.dtype)


def leaves_of(space: Any, path: tuple = ()) -> tuple[list[Leaf], list[str]]:
    """The leaves of an observation space in order, and the names of texts, which are left out.

    Raises ValueError for spaces that are no tree of arrays.
    """
    from gymnasium import spaces

    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        found = [leaves_of(part, (*path, key)) for key, part in parts]
        return [leaf for leaves, _ in found for leaf in leaves], [text for _, texts in found for text in texts]
    if space.dtype is not None and space.dtype.kind == "U":  # gymnasium's Text, minigrid's MissionSpace
        return [], [".".join(map(str, path)) or "text"]
    if isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return [Leaf(path, space)], []
    raise ValueError(f"observations of the space {type(space).__name__} are not supported")


class Rows(NamedTuple):
    """One row of B environments. `success`: 1 yes, 0 no, -1 the environment does not say."""

    leaves: list[np.ndarray]
    reward: np.ndarray  # (B,) float64
    terminated: np.ndarray  # (B,) bool
    truncated: np.ndarray  # (B,) bool
    success: np.ndarray  # (B,) int8, meaningful where the episode ended

    @classmethod
    def empty(cls, leaves: Sequence[Leaf], count: int) -> Rows:
        flags = np.zeros(count, bool), np.zeros(count, bool), np.zeros(count, np.int8)
        return cls([leaf.buffer(count) for leaf in leaves], np.zeros(count), *flags)

    @property
    def arrays(self) -> list[np.ndarray]:
        return [*self.leaves, *self[1:]]


def step_limit(made: Any) -> int | None:
    """The tightest limit of steps that an environment of Gymnasium, single or vector, tells of: its own id's, MiniGrid's, or
    that of our spec sheet."""
    own, spec = made.unwrapped, getattr(made, "spec", None)
    rows = getattr(getattr(getattr(own, "env", None), "spec", None), "max_rows", None)
    told = [spec and spec.max_episode_steps, getattr(own, "max_steps", None), rows and rows - 1]
    return min((n for n in told if isinstance(n, int) and n > 0), default=None)


class Group:
    """`count` environments in this process. `first`: the number of the first of them, for messages.

    Raises ValueError where they cannot be made.
    """

    def __init__(self, recipe: Recipe, count: int, first: int = 0) -> None:
        self.envs = [recipe.make() for _ in range(count)]
        self.num_envs, self.first = count, first
        env = self.envs[0]
        self.action_space, (self.leaves, self.texts) = env.action_space, leaves_of(env.observation_space)
        self.max_steps = step_limit(env)
        self.reward_threshold = env.spec.reward_threshold if env.spec else None
        self.action_names = [str(name) for name in getattr(getattr(env.unwrapped, "actions", None), "__members__", ())]
        self.rows = Rows.empty(self.leaves, count)

    def step(self, actions: np.ndarray, restart: np.ndarray, seeds: np.ndarray) -> Rows:
        """Reset the environments in `restart` (with their seed unless it is -1), step the others.

        Args:
            actions: (B,) or (B, k) integers; restart: (B,) bool; seeds: (B,) int64.

        Returns: Arrays of its own, overwritten by the next call. Raises EnvError.
        """
        rows, choose = self.rows, int if actions.ndim == 1 else np.asarray
        for i, env in enumerate(self.envs):
            try:
                if restart[i]:
                    obs, info = env.reset(seed=None if seeds[i] < 0 else int(seeds[i]))
                    reward, terminated, truncated = 0.0, False, False
                else:
                    obs, reward, terminated, truncated, info = env.step(choose(actions[i]))
                for leaf, buffer in zip(self.leaves, rows.leaves, strict=True):
                    buffer[i] = leaf.of(obs)
                rows.reward[i], rows.terminated[i], rows.truncated[i] = reward, terminated, truncated
                if terminated or truncated:
                    told = info.get("success", info.get("is_success"))
                    rows.success[i] = -1 if told is None else bool(told)
            except Exception as error:
                raise EnvError(f"environment {self.first + i}: {describe(error)}") from error
        return rows

    def render(self, index: Sequence[int]) -> list[np.ndarray]:
        """Frames (h, w, 3) uint8 of the environments `index`. Raises EnvError."""
        frames = []
        for i in index:
            try:
                frame = np.asarray(self.envs[i].render())
            except Exception as error:
                raise EnvError(f"environment {self.first + i}: {describe(error)}") from error
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
                raise EnvError(f"environment {self.first + i} drew no picture (got {frame.dtype} {frame.shape})")
            frames.append(frame)
        return frames

    def close(self) -> None:
        for env in self.envs:
            env.close()


def describe(error: BaseException) -> str:
    """'ValueError: what is wrong (file.py line 3)'."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


# --- the worker's side -----------------------------------------------------------------------------------------------


def main(command: int, lifeline: int) -> None:
    """Serves one parent over the socket `command`, until it asks to stop or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole job; the parent finishes its update first
        signal.signal(number, signal.SIG_IGN)
    _die_with_the_parent(lifeline)
    with socket.socket(fileno=command) as sock, sock.makefile("rb") as stream:
        group: Group | None = None
        while True:
            header = stream.read(HEADER.size)
            if len(header) < HEADER.size:
                return
            kind, size = HEADER.unpack(header)
            data = stream.read(size)
            try:
                if kind == b"Q":
                    if group is not None:
                        group.close()
                    return
                if kind == b"I":
                    group, answer = _set_up(json.loads(data)), b""
                elif kind == b"S":
                    answer = b"".join(array.tobytes() for array in group.step(*_orders(data, group)).arrays)
                else:
                    (frame,) = group.render(struct.unpack("<q", data))
                    answer = struct.pack("<3q", *frame.shape) + np.ascontiguousarray(frame).tobytes()
                sock.sendall(HEADER.pack(b"K", len(answer)) + answer)
            except (EnvError, ValueError) as error:
                text = str(error).encode()
                sock.sendall(HEADER.pack(b"E", len(text)) + text)


def _set_up(setup: dict[str, Any]) -> Group:
    sys.path[:] = setup["path"]
    return Group(Recipe(**setup["recipe"]), setup["count"], setup["first"])


def _orders(data: bytes, group: Group) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `Workers.step` sent: actions, restart, seeds."""
    n, shape = group.num_envs, group.action_space.shape
    size = 8 * n * int(np.prod(shape))
    actions = np.frombuffer(data, np.int64, size // 8).reshape(n, *shape)
    return actions, np.frombuffer(data, bool, n, size), np.frombuffer(data, np.int64, n, size + n)


def _die_with_the_parent(lifeline: int) -> None:
    """On Linux the kernel kills this process when the other end of `lifeline` closes, even where an environment hangs
    in C code or the process is stopped. Elsewhere a worker leaves when it next looks for an order."""
    import fcntl

    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        watched = socket.socket(fileno=lifeline)
        watched.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            if watched.recv(1, socket.MSG_PEEK) == b"":  # it was closed before
                os._exit(1)
        watched.detach()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
