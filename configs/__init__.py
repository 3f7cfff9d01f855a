"""Settings as data: the schema, its YAML files, and the way from a command line to a Config."""

from configs.describe import describe
from configs.errors import ConfigError
from configs.load import diff_configs, flatten_config, from_resolved, load_config, to_yaml
from configs.schema import (
    AgentConfig,
    BakkerConfig,
    CellConfig,
    Config,
    EnvConfig,
    EvaluateConfig,
    TMazeConfig,
    TrainConfig,
)

__all__ = ["AgentConfig", "BakkerConfig", "CellConfig", "Config", "ConfigError", "EnvConfig", "EvaluateConfig",
           "TMazeConfig", "TrainConfig", "describe", "diff_configs", "flatten_config", "from_resolved", "load_config",
           "to_yaml"]
