"""The group tokens: a literal table from NAME to dataclass; its YAML is `configs/<group>/<NAME>.yaml`.

An environment's YAML may hold `levels`: easy, medium, hard and xl, each some keys; `env=NAME-LEVEL` sets these too.

`cell=NAME` has no table here, for the names belong to `memory_cells.variants` and the caller hands them in: every cell
is a CellConfig.
"""

from pathlib import Path

from configs import env_diagnostics, env_gymnasium, env_minigrid_control, env_minigrid_memory, env_tmaze, env_tvt
from configs.schema import AgentConfig, AuxConfig, DecoderConfig

CONFIG_ROOT = Path(__file__).resolve().parent

ENVS = {
    **env_tmaze.ENVS, **env_minigrid_memory.ENVS, **env_minigrid_control.ENVS, **env_tvt.ENVS, **env_diagnostics.ENVS,
    **env_gymnasium.ENVS,
}  # fmt: skip
LEVELS = ("easy", "medium", "hard", "xl")
#: the setting that is an environment's length, where it has one: what `lengths=` of a comparison sets
LENGTH_KEYS = {name: config.length_key for name, config in ENVS.items() if config.length_key}

AGENTS = {
    "vtrace": AgentConfig,
    "long": AgentConfig,
    "a2c": AgentConfig,
    "impala": AgentConfig,
    "ppo": AgentConfig,
}

AUXILIARIES = {
    "none": AuxConfig,
    "reconstruct": DecoderConfig,
    "predict": DecoderConfig,
}

DEFAULT_GROUPS = {"cell": "ur-lstm", "env": "tmaze_passive", "agent": "vtrace", "aux": "none"}
#: groups whose names may go without a YAML: the table says it all
WITHOUT_FILES = ("cell", "aux")
