"""The group tokens: a literal table from NAME to dataclass; its YAML is `configs/<group>/<NAME>.yaml`.

`cell=NAME` has no table here, for the names belong to `memory_cells.variants` and the caller hands them in: every cell
is a CellConfig, and `configs/cell/NAME.yaml` is read only where a cell wants other defaults.
"""

from pathlib import Path

from configs.schema import ActiveConfig, AgentConfig, AuxConfig, BakkerConfig, DecoderConfig, PassiveConfig

CONFIG_ROOT = Path(__file__).resolve().parent

ENVS = {
    "tmaze_passive": PassiveConfig,
    "tmaze_active": ActiveConfig,
    "tmaze_bakker": BakkerConfig,
}

AGENTS = {
    "vtrace": AgentConfig,
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
