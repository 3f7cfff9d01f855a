"""Settings as data: the schema, its YAML files, and the way from a command line to a Config."""

from configs.describe import describe
from configs.errors import ConfigError
from configs.load import diff_configs, flatten_config, from_resolved, load_config, to_yaml
from configs.schema import (
    ActiveConfig,
    AgentConfig,
    BakkerConfig,
    CellConfig,
    Config,
    EnvConfig,
    EvaluateConfig,
    PassiveConfig,
    TrainConfig,
)

__all__ = [
    "ActiveConfig",
    "AgentConfig",
    "BakkerConfig",
    "CellConfig",
    "Config",
    "ConfigError",
    "EnvConfig",
    "EvaluateConfig",
    "PassiveConfig",
    "TrainConfig",
    "describe",
    "diff_configs",
    "flatten_config",
    "from_resolved",
    "load_config",
    "to_yaml",
]
