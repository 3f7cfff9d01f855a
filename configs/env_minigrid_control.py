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


@dataclass(frozen=True)
class RedBlueDoorsConfig(DoorKeyConfig):
    """MiniGrid-RedBlueDoors: open the red door, then the blue one."""

    name: str = leaf("minigrid_redblue", "chosen by env=NAME")
    size: int = leaf(8, "height; the width is twice that, the room's in the middle as much", min=4, max=25)


@dataclass(frozen=True)
class FetchConfig(DoorKeyConfig):
    """MiniGrid-Fetch: among keys and balls, pick up the one that is asked for."""

    name: str = leaf("minigrid_fetch", "chosen by env=NAME")
    size: int = leaf(8, "cells on each side, walls included", min=4, max=25)
    num_objects: int = leaf(3, "keys and balls; there must be a cell left for the agent", min=1)


@dataclass(frozen=True)
class KeyCorridorConfig(EnvConfig):
    """MiniGrid-KeyCorridor: find the key in a side room, unlock the door, pick up the ball behind it."""

    name: str = leaf("minigrid_keycorridor", "chosen by env=NAME")
    room_size: int = leaf(6, "cells on each side of a room, walls included", min=3, max=25)
    num_rows: int = leaf(3, "rows of rooms", min=1, max=25)
    agent_view_size: int = leaf(7, "cells on each side of what the agent sees: odd", min=3)
    max_steps: int | None = leaf(None, "truncate an episode after this many steps; null: minigrid's own limit", min=1)
    cue_visible: bool = leaf(False, "the twin: the agent's own cell shows its direction")


ENVS = {
    "minigrid_empty": EmptyConfig,
    "minigrid_doorkey": DoorKeyConfig,
    "minigrid_keycorridor": KeyCorridorConfig,
    "minigrid_redblue": RedBlueDoorsConfig,
    "minigrid_fetch": FetchConfig,
}
