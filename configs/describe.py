"""The text of `train_agent.py --help`: every key with its default, range and meaning."""

from configs.groups import AGENTS, AUXILIARIES, ENVS
from configs.leaves import Setting, settings_of
from configs.schema import Config


def _line(setting: Setting) -> str:
    default = setting.default
    text = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
    return f"  {setting.key + '=' + text:<40} {setting.expected()}. {setting.meta.get('help', '')}".rstrip()


def describe(schema: type[Config] = Config) -> str:
    """All keys with schema defaults, one a line; the keys of each environment under its own heading.

    A chosen agent or env may have another default in its YAML; a run's `config.yaml` holds what was used.
    """
    lines = [f"groups: cell=NAME  env={'|'.join(ENVS)}  agent={'|'.join(AGENTS)}  "
             f"aux={'|'.join(AUXILIARIES)}", "", "settings (key=default):"]
    settings = [s for s in settings_of(schema()) if not s.key.endswith(".name")]
    lines += [_line(s) for s in settings if not s.key.startswith("env.")]
    for table in dict.fromkeys(ENVS.values()):
        names = [name for name, row in ENVS.items() if row is table]
        lines += ["", f"with env={' or '.join(names)}:"]
        lines += [_line(s) for s in settings_of(table(), "env.") if s.key != "env.name"]
    lines += ["", "with aux=reconstruct or predict:"]
    lines += [_line(s) for s in settings_of(AUXILIARIES["reconstruct"](), "aux.") if s.key != "aux.name"]
    return "\n".join(lines) + "\n"
