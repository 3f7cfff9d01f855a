"""Settings of the T-mazes."""

from dataclasses import dataclass

from configs.schema import EnvConfig, leaf


@dataclass(frozen=True)
class PassiveConfig(EnvConfig):
    """Passive T-maze of Ni et al. (2023): the cue is seen at the start."""

    length_key = "corridor_length"

    name: str = leaf("tmaze_passive", "chosen by env=NAME")
    corridor_length: int = leaf(50, "cells from the start to the junction", min=1, max=1_000_000)
    penalty_mode: str = leaf("schedule", "what costs -1/L: being behind schedule (Ni et al.) or the action (AMAGO)",
                             choices=("schedule", "action"))
    cue_visible: bool = leaf(False, "the twin that needs no memory: the cue is shown in every observation")


@dataclass(frozen=True)
class ActiveConfig(PassiveConfig):
    """Active T-maze of Ni et al. (2023): the agent must first step back to the oracle that shows the cue."""

    name: str = leaf("tmaze_active", "chosen by env=NAME")
    oracle_length: int = leaf(1, "cells from the start back to the oracle", min=1, max=1_000_000)


@dataclass(frozen=True)
class BakkerConfig(EnvConfig):
    """T-maze of Bakker (2002): +4 for the right turn, -0.1 for the wrong one and for standing still."""

    length_key = "corridor_length"

    name: str = leaf("tmaze_bakker", "chosen by env=NAME")
    corridor_length: int = leaf(50, "cells from the start to the junction", min=1, max=1_000_000)
    step_limit: int | None = leaf(None, "truncate an episode after this many steps; null: the env's own limit",
                                     min=1)
    cue_visible: bool = leaf(False, "the twin that needs no memory: the cue is shown in every observation")


ENVS = {
    "tmaze_passive": PassiveConfig,
    "tmaze_active": ActiveConfig,
    "tmaze_bakker": BakkerConfig,
}
