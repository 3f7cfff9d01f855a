"""The text of `train_agent.py --help`: every key with its default, range and meaning."""

from collections.abc import Sequence

from configs.groups import AGENTS, AUXILIARIES, CONFIG_ROOT, ENVS
from configs.leaves import Setting, settings_of
from configs.load import flatten_config, load_config
from configs.schema import Config


def _line(setting: Setting) -> str:
    default = setting.default
    text = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
    return f"  {setting.key + '=' + text:<40} {setting.expected()}. {setting.meta.get('help', '')}".rstrip()


def _chosen(known_cells: Sequence[str]) -> str:
    """The settings of the default experiment that are not the schema's."""
    plain, chosen = flatten_config(Config()), flatten_config(load_config([], known_cells))
    names = [f"{group}={chosen[f'{group}.name']}" for group in ("cell", "env", "agent")]
    return " ".join(names + [f"{key}={value}" for key, value in chosen.items()
                             if not key.endswith(".name") and plain.get(key, value) != value])  # fmt: skip


def describe(known_cells: Sequence[str]) -> str:
    """All keys with schema defaults, one a line; the keys of each environment under its own heading; the configs."""
    lines = [f"groups: cell=NAME  env={'|'.join(ENVS)}  agent={'|'.join(AGENTS)}  "
             f"aux={'|'.join(AUXILIARIES)}",
             f"configs: {', '.join(sorted(path.stem for path in CONFIG_ROOT.glob('*.yaml')))}", "",
             "settings, each with its value where neither CONFIG nor a group chooses another; a run's config.yaml holds",
             f"what was used. Without CONFIG it is default, which chooses {_chosen(known_cells)}:"]
    settings = [s for s in settings_of(Config()) if not s.key.endswith(".name")]
    lines += [_line(s) for s in settings if not s.key.startswith("env.")]
    for table in dict.fromkeys(ENVS.values()):
        names = [name for name, row in ENVS.items() if row is table]
        lines += ["", f"with env={' or '.join(names)}:"]
        lines += [_line(s) for s in settings_of(table(), "env.") if s.key != "env.name"]
    lines += ["", "with aux=reconstruct or predict:"]
    lines += [_line(s) for s in settings_of(AUXILIARIES["reconstruct"](), "aux.") if s.key != "aux.name"]
    return "\n".join(lines) + "\n"
