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


@dataclass(frozen=True)
class NoisyConfig(BakkerConfig):
    """Bakker's T-maze with observation noise, distractor bits and slips."""

    name: str = leaf("tmaze_noisy", "chosen by env=NAME")
    distractors: int = leaf(6, "random bits beside the observation", min=0, max=10_000)
    sigma: float = leaf(0.5, "noise of the corridor's code: its ones are drawn from [1 - sigma, 1]", min=0, max=1)
    slip: float = leaf(0.0, "probability that a step forward fails", min=0, max=0.99)


@dataclass(frozen=True)
class RewriteConfig(EnvConfig):
    """Endless T-maze: K corridors, a new cue in each."""

    length_key = "corridor_length"

    name: str = leaf("tmaze_rewrite", "chosen by env=NAME")
    corridor_length: int = leaf(20, "cells from the start of a corridor to its junction", min=1, max=1_000_000)
    corridors: int = leaf(10, "corridors of an episode", min=1, max=1_000_000)
    min_length: int | None = leaf(None, "draw each length from this to corridor_length; null: all are that long", min=1)
    step_cost: float = leaf(0.01, "cost of a step that is not forward in the corridor", min=0, max=1)
    wrong_turn_cost: float = leaf(1.0, "cost of a wrong turn, which ends the episode", min=0, max=1)
    show_position: bool = leaf(True, "the agent sees how far it is along the corridor")
    step_limit: int | None = leaf(None, "truncate an episode after this many steps; null: the env's own limit",
                                     min=1)
    cue_visible: bool = leaf(False, "the twin that needs no memory: the cue is shown in every observation")


@dataclass(frozen=True)
class MultiCueConfig(EnvConfig):
    """K cues, one a row, then K corridors and junctions in that order."""

    length_key = "corridor_length"

    name: str = leaf("tmaze_multicue", "chosen by env=NAME")
    corridor_length: int = leaf(10, "cells from the start of a corridor to its junction", min=1, max=1_000_000)
    cues: int = leaf(4, "cues and junctions of an episode", min=1, max=62)
    step_cost: float = leaf(0.1, "cost of a step that is not forward in the corridor", min=0, max=1)
    step_limit: int | None = leaf(None, "truncate an episode after this many steps; null: the env's own limit",
                                     min=1)
    cue_visible: bool = leaf(False, "the twin that needs no memory: the next turn is shown in every observation")


@dataclass(frozen=True)
class DelayedConfig(EnvConfig):
    """Passive T-maze whose choice is paid for `delay` steps later, with noise on the way."""

    length_key = "corridor_length"

    name: str = leaf("tmaze_delayed", "chosen by env=NAME")
    corridor_length: int = leaf(20, "cells from the start to the junction: memory length", min=0, max=1_000_000)
    delay: int = leaf(20, "steps from the choice to its reward: credit length less one", min=0, max=1_000_000)
    sigma: float = leaf(0.0, "size of the random rewards on these steps", min=0, max=1_000_000)
    cue_visible: bool = leaf(False, "the twin that needs no memory: the cue is shown in every observation")


ENVS = {
    "tmaze_passive": PassiveConfig,
    "tmaze_active": ActiveConfig,
    "tmaze_bakker": BakkerConfig,
    "tmaze_noisy": NoisyConfig,
    "tmaze_rewrite": RewriteConfig,
    "tmaze_multicue": MultiCueConfig,
    "tmaze_delayed": DelayedConfig,
}
