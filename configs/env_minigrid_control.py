"""Settings of the MiniGrid tasks that need no memory."""

from dataclasses import dataclass

from configs.schema import EnvConfig, leaf


@dataclass(frozen=True)
class DoorKeyConfig(EnvConfig):
    """MiniGrid-DoorKey: fetch the key, unlock the door, go to the goal."""

    name: str = leaf("minigrid_doorkey", "chosen by env=NAME")
    size: int = leaf(8, "cells on each side, walls included", min=5, max=25)
    agent_view_size: int = leaf(7, "cells on each side of what the agent sees: odd", min=3)
    max_steps: int | None = leaf(None, "truncate an episode after this many steps; null: minigrid's own limit", min=1)
    cue_visible: bool = leaf(False, "the twin: the agent's own cell shows its direction")


@dataclass(frozen=True)
class EmptyConfig(DoorKeyConfig):
    """MiniGrid-Empty: go to the goal in the far corner of an empty room."""

    name: str = leaf("minigrid_empty", "chosen by env=NAME")
    size: int = leaf(8, "cells on each side, walls included", min=4, max=25)
    random_start: bool = leaf(False, "start anywhere, not in the corner")


ENVS = {
    "minigrid_empty": EmptyConfig,
    "minigrid_doorkey": DoorKeyConfig,
}
