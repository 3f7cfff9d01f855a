"""Settings as data: the schema, its YAML files, and the way from a command line to a Config."""

from configs.describe import describe
from configs.errors import ConfigError
from configs.load import diff_configs, flatten_config, from_resolved, load_config, to_yaml
from configs.schema import AgentConfig, CellConfig, Config, EnvConfig, EvaluateConfig, TrainConfig

__all__ = [
    "AgentConfig",
    "CellConfig",
    "Config",
    "ConfigError",
    "EnvConfig",
    "EvaluateConfig",
    "TrainConfig",
    "describe",
    "diff_configs",
    "flatten_config",
    "from_resolved",
    "load_config",
    "to_yaml",
]
