"""Settings of MiniGrid-Memory."""

from dataclasses import dataclass

from configs.schema import EnvConfig, leaf


@dataclass(frozen=True)
class MiniGridMemoryConfig(EnvConfig):
    """MiniGrid-Memory, exactly: look at the object in the room, walk the hallway, turn to the like object."""

    name: str = leaf("minigrid_memory", "chosen by env=NAME")
    size: str = leaf("S13", "S7, S9, S11, S13, S13Random, S17Random, or S and any odd number, with or without Random",
                     pattern=r"S\d{1,3}(Random)?", form="S13 or S17Random")
    agent_view_size: int = leaf(3, "cells on a side of the view, odd; MiniGrid's own 7 needs no memory in S7 and S9",
                                min=3, max=23)
    actions: int = leaf(3, "3 (left, right, forward) or all 7 of MiniGrid's", min=3, max=7)
    max_steps: int | None = leaf(None, "step limit and scale of the reward; null: the environment's own", min=1)
    path: str = leaf("auto", "gather steps from tables or work them out; equal", choices=("auto", "table", "grid"))
    draws: str = leaf("device", "where layouts come from; minigrid: a seed's own, on the host", choices=("device", "minigrid"))
    cue_visible: bool = leaf(False, "the twin that needs no memory: the agent carries the cue's object")


@dataclass(frozen=True)
class MiniGridMemoryLongConfig(EnvConfig):
    """The rules of MiniGrid-Memory in a corridor of any width."""

    length_key = "width"

    name: str = leaf("minigrid_memory_long", "chosen by env=NAME")
    width: int = leaf(33, "cells from wall to wall", min=7, max=100_000)
    start: str = leaf("scattered", "anywhere in the hallway, or beside the cue", choices=("scattered", "first"))
    agent_view_size: int = leaf(3, "cells on a side of the view, odd", min=3, max=23)
    actions: int = leaf(3, "3 (left, right, forward) or all 7 of MiniGrid's", min=3, max=7)
    max_steps: int | None = leaf(None, "step limit and scale of the reward; null: the environment's own", min=1)
    path: str = leaf("auto", "gather steps from tables or work them out; equal", choices=("auto", "table", "grid"))
    draws: str = leaf("device", "where layouts come from; minigrid: numpy's order, on the host",
                      choices=("device", "minigrid"))
    cue_visible: bool = leaf(False, "the twin that needs no memory: the agent carries the cue's object")


ENVS = {"minigrid_memory": MiniGridMemoryConfig, "minigrid_memory_long": MiniGridMemoryLongConfig}
