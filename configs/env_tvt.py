"""Settings of the TVT tasks."""

from dataclasses import dataclass

from configs.schema import EnvConfig, leaf


@dataclass(frozen=True)
class ThreePhasesConfig(EnvConfig):
    """Something to find out, apples that distract, something to do with it."""

    length_key = "distractor_length"

    explore_length: int = leaf(15, "steps of the first phase", min=1, max=1_000_000)
    distractor_length: int = leaf(60, "steps among the apples; 0: none", min=0, max=1_000_000)
    reward_length: int = leaf(15, "steps of the last phase", min=9, max=1_000_000)
    apples: int = leaf(10, "apples; 0: no distraction, and every figure of the spec sheet is exact", min=0, max=22)
    apple_reward: float = leaf(1.0, "reward of an apple")
    apple_reward_high: float | None = leaf(None, "drawn once per episode: apple_reward or this; null: always the former")
    final_reward: float = leaf(5.0, "what it is about", min=1e-6)
    cue_visible: bool = leaf(False, "the twin: the cue is the colour of the middle pixel, always")


@dataclass(frozen=True)
class PassiveMatchConfig(ThreePhasesConfig):
    """Passive visual match of Ni et al. (2023): a colour is shown, apples distract, the object of that colour is right."""

    name: str = leaf("passive_match", "chosen by env=NAME")
    fixed_colours: bool = leaf(False, "a colour is a position in every episode, as published; false: drawn anew in each")


@dataclass(frozen=True)
class ActiveMatchConfig(PassiveMatchConfig):
    """Active visual match of Hung et al. (2019): the colour is on a wall of two rooms and has to be looked for."""

    name: str = leaf("active_match", "chosen by env=NAME")
    explore_length: int = leaf(15, "steps of the first phase", min=10, max=1_000_000)
    distractor_length: int = leaf(90, "steps among the apples; 0: none", min=0, max=1_000_000)
    apple_reward_high: float | None = leaf(10.0, "drawn once per episode: apple_reward or this; null: always the former")
    final_reward: float = leaf(10.0, "what it is about", min=1e-6)


@dataclass(frozen=True)
class KeyToDoorConfig(ThreePhasesConfig):
    """Key to door of Hung et al. (2019), as in Ni et al. (2023): a key picked up first opens a door in the end."""

    name: str = leaf("key_to_door", "chosen by env=NAME")
    explore_length: int = leaf(15, "steps of the first phase", min=8, max=1_000_000)
    reward_length: int = leaf(10, "steps of the last phase", min=2, max=1_000_000)


ENVS = {
    "passive_match": PassiveMatchConfig,
    "active_match": ActiveMatchConfig,
    "key_to_door": KeyToDoorConfig,
}
