"""Tokens and YAML -> Config. Pure: reads files, touches nothing else, imports neither torch nor anything above.

    train_agent.py [CONFIG] [key=value ...]

CONFIG is a name under configs/ ("default" if left out) or a path to a YAML file. An experiment file looks like this;
nested and dotted keys mean the same, and every part may be left out:

    defaults: {cell: ur-lstm, env: tmaze_passive, agent: a2c}
    env: {corridor_length: 50}
    train.steps: 3e6

A resolved config (`config.yaml` of a run folder) has `name` inside its sections in place of `defaults`.

An environment's level is chosen with it (`env=tmaze_passive-hard`, or `defaults: {env: tmaze_passive-hard}`).

Order: the groups are chosen first, by the file and then by the tokens cell=, env=, agent= wherever these stand; then
the leaves of the groups' YAMLs, of the file, and of the command line, each over the one before. The file's leaves stay
when a token changes the cell, the agent or the auxiliary loss ("everything else equal"); one that the new group lacks is
an error, not ignored. A token that changes the environment or its level leaves the file's env.* behind.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.checks import check_combinations, check_new
from configs.errors import ConfigError, show
from configs.groups import AGENTS, AUXILIARIES, CONFIG_ROOT, DEFAULT_GROUPS, ENVS, LEVELS, WITHOUT_FILES
from configs.leaves import Setting, closest, coerce, nearest, settings_of
from configs.schema import CellConfig, Config
from configs.strict_yaml import COMMAND_LINE, Leaf, parse_value, read_leaves

GROUPS = tuple(DEFAULT_GROUPS)
Choice = tuple[str, str]  # a group's name and where it was chosen


def load_config(argv_tokens: Sequence[str], known_cells: Sequence[str]) -> Config:
    """The Config of a command line (without the program's name and without its --options).

    Raises ConfigError, one line, for anything that is not exactly understood.
    """
    source, group_tokens, leaf_tokens = _sort_tokens(argv_tokens)
    path = _config_path(source, known_cells)
    chosen, leaves, resolved = _read(path)
    for group, choice in group_tokens.items():
        if group != "cell" and group in resolved and choice[0] != resolved[group][0]:
            raise ConfigError(f"{group}={choice[0]} {choice[1]} contradicts {group}.name={resolved[group][0]} "
                              f"{resolved[group][1]}: a resolved config fixes all of its {group}; start from a config "
                              f"with defaults instead")
        if group == "env" and choice[0] != chosen.get(group, choice)[0]:
            leaves = [leaf for leaf in leaves if not leaf.key.startswith("env.")]
        chosen[group] = choice
    chosen = {group: chosen.get(group, (name, "by default")) for group, name in DEFAULT_GROUPS.items()}
    env, dash, level = chosen["env"][0].partition("-")
    chosen["env"] = (env, chosen["env"][1])
    group_leaves = _group_leaves(chosen, known_cells, level if dash else None)
    config = _assemble(chosen, known_cells, [*group_leaves, *leaves, *leaf_tokens])
    check_new(config)
    return config


def from_resolved(path: str | Path, tokens: Sequence[str] = (), known_cells: Sequence[str] | None = None) -> Config:
    """The Config that `to_yaml` wrote to `path` (a file or a run folder), with key=value `tokens` over it.

    Groups' YAMLs are not consulted: a key that the file lacks has the schema's default. Groups cannot be changed.
    """
    path = Path(path)
    path = path / "config.yaml" if path.is_dir() else path
    chosen, leaves, resolved = _read(path)
    chosen.setdefault("aux", ("none", "by default"))  # runs from before there were auxiliary losses had none
    if not set(GROUPS) - {"aux"} <= set(resolved):
        missing = ", ".join(f"{g}.name" for g in GROUPS if g not in resolved and g != "aux")
        raise ConfigError(f"in {path}: not a resolved config (it lacks {missing})")
    source, group_tokens, leaf_tokens = _sort_tokens(tokens)
    if source is not None:
        raise ConfigError(f"{COMMAND_LINE}: {show(source)} is not a key=value setting")
    for group, (name, origin) in group_tokens.items():
        if name != chosen[group][0]:
            raise ConfigError(f"{group}={name} {origin} contradicts {group}={chosen[group][0]} of {path}, "
                              f"which is fixed")
    return _assemble(chosen, known_cells, [*leaves, *leaf_tokens])


def to_yaml(config: Config) -> str:
    """All settings as YAML; `from_resolved` gives back an equal Config."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def flatten_config(config: Config) -> dict[str, Any]:
    """{dotted key: value} of every setting, in order of the schema."""
    found: dict[str, Any] = {}
    for setting in settings_of(config):
        value: Any = config
        for part in setting.key.split("."):
            value = getattr(value, part)
        found[setting.key] = value
    return found


def diff_configs(a: Config, b: Config) -> list[str]:
    """The dotted keys that differ between two configs, those that only one of them has included; sorted as in a."""
    left, right = flatten_config(a), flatten_config(b)
    missing = object()
    return [k for k in {**left, **right} if left.get(k, missing) != right.get(k, missing)]


# ---------------------------------------------------------------------------------------------------------------------


def _sort_tokens(tokens: Iterable[str]) -> tuple[str | None, dict[str, Choice], list[Leaf]]:
    """CONFIG or None, the group tokens, and the rest in order."""
    source: str | None = None
    groups: dict[str, Choice] = {}
    leaves: dict[str, Leaf] = {}
    for token in tokens:
        if token.startswith("="):
            raise ConfigError(f"{COMMAND_LINE}: {show(token)} has no key; write key=value without spaces")
        key, equals, text = token.partition("=")
        if not equals or "/" in key:
            if token.startswith("-"):
                raise ConfigError(f"{COMMAND_LINE}: unknown option {show(token)}; settings are written key=value")
            if source is not None:
                raise ConfigError(f"{COMMAND_LINE}: two configs, {show(source)} and {show(token)}; "
                                  f"settings are written key=value")
            source = token
        elif key in GROUPS:
            if key in groups:
                raise ConfigError(f"{COMMAND_LINE}: {key} is given twice, {show(groups[key][0])} and {show(text)}")
            groups[key] = (text, COMMAND_LINE)
        else:
            if key in leaves:
                raise ConfigError(f"{COMMAND_LINE}: {show(key)} is given twice, "
                                  f"{show(leaves[key].text)} and {show(text)}")
            leaves[key] = parse_value(key, text)
    return source, groups, list(leaves.values())


def _config_path(source: str | None, known_cells: Sequence[str]) -> Path:
    source = "default" if source is None else source
    if "/" in source or source.endswith((".yaml", ".yml")):
        return Path(source).expanduser()
    names = sorted(p.stem for p in CONFIG_ROOT.glob("*.yaml"))
    if source not in names:
        if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", source):
            raise ConfigError(f"{COMMAND_LINE}: {source} is no config; to set a key write {source}=VALUE")
        key = "env" if {source, source.rpartition("-")[0]} & ENVS.keys() else "cell" if source in known_cells else None
        if key:
            raise ConfigError(f"{COMMAND_LINE}: {source} is no config; to choose it write {key}={source}")
        raise ConfigError(f"{COMMAND_LINE}: unknown config {show(source)}{nearest(source, names)} "
                          f"(a name under configs/ or a path to a YAML file)")
    return CONFIG_ROOT / f"{source}.yaml"


def _read(path: Path) -> tuple[dict[str, Choice], list[Leaf], dict[str, Choice]]:
    """Groups chosen by a file, its other leaves, and those groups that it chose by `<group>.name`."""
    chosen: dict[str, Choice] = {}
    resolved: dict[str, Choice] = {}
    leaves = []
    for leaf in read_leaves(path):
        head, _, rest = leaf.key.partition(".")
        if head == "defaults":
            if rest not in GROUPS:
                raise ConfigError(f"{leaf.origin}: defaults has no group {show(rest)}{nearest(rest, GROUPS)}")
            group, into = rest, chosen
        elif head in GROUPS and rest == "name":
            group, into = head, resolved
        elif leaf.key in GROUPS:
            raise ConfigError(f"{leaf.origin}: {leaf.key} is a section; to choose one write "
                              f"defaults: {{{leaf.key}: {leaf.text}}}")
        else:
            leaves.append(leaf)
            continue
        if not isinstance(leaf.value, str):
            raise ConfigError(f"{leaf.origin}: {leaf.key}={show(leaf.text)} is not a name")
        into[group] = (leaf.value, leaf.origin)
    for group, (name, origin) in resolved.items():
        if chosen.setdefault(group, (name, origin))[0] != name:
            raise ConfigError(f"{origin}: {group}.name={show(name)} contradicts defaults.{group}={chosen[group][0]}")
    return chosen, leaves, resolved


def _names(group: str, known_cells: Sequence[str]) -> list[str]:
    return list({"env": ENVS, "agent": AGENTS, "aux": AUXILIARIES, "cell": known_cells}[group])


def _check_names(chosen: dict[str, Choice], known_cells: Sequence[str] | None) -> None:
    for group, (name, origin) in chosen.items():
        if group == "cell" and known_cells is None:
            continue
        names = _names(group, known_cells or ())
        if name not in names:
            raise ConfigError(f"{origin}: unknown {group} {show(name)}{nearest(name, names)}")


def _group_leaves(chosen: dict[str, Choice], known_cells: Sequence[str], level: str | None) -> list[Leaf]:
    """What the groups' YAMLs say, the environment's level last."""
    _check_names(chosen, known_cells)
    found: list[Leaf] = []
    for group, (name, origin) in chosen.items():
        path = CONFIG_ROOT / group / f"{name}.yaml"
        if group in WITHOUT_FILES and not path.is_file():
            continue
        leaves = read_leaves(path)
        found += [leaf._replace(key=f"{group}.{leaf.key}") for leaf in leaves if not leaf.key.startswith("levels.")]
        if group != "env" or level is None:
            continue
        there = [known for known in LEVELS if any(leaf.key.startswith(f"levels.{known}.") for leaf in leaves)]
        if level not in there:
            raise ConfigError(f"{origin}: {show(name)} has no level {show(level)}{nearest(level, there)}")
        head = f"levels.{level}."
        found += [leaf._replace(key="env." + leaf.key.removeprefix(head)) for leaf in leaves if leaf.key.startswith(head)]
    return found


def _assemble(chosen: dict[str, Choice], known_cells: Sequence[str] | None, leaves: list[Leaf]) -> Config:
    _check_names(chosen, known_cells)
    name = {group: choice[0] for group, choice in chosen.items()}
    base = Config(cell=CellConfig(name=name["cell"]), env=ENVS[name["env"]](name=name["env"]),
                  agent=AGENTS[name["agent"]](name=name["agent"]),
                  aux=AUXILIARIES[name["aux"]](name=name["aux"]))
    settings = {s.key: s for s in settings_of(base)}
    sections = {key.partition(".")[0] for key in settings if "." in key}
    values: dict[str, Any] = {}
    for leaf in leaves:
        setting = settings.get(leaf.key)
        if setting is None or leaf.key.endswith(".name"):
            raise _unknown(leaf, settings, sections, name)
        head, _, rest = leaf.key.partition(".")
        (values.setdefault(head, {}) if rest else values)[rest or head] = coerce(setting, leaf)
    try:
        result = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(base), values))
    except OmegaConfBaseException as error:  # `coerce` is the stricter of the two, so this is a bug of ours
        raise ConfigError(error) from None
    assert isinstance(result, Config)
    check_combinations(result)
    return result


def _unknown(leaf: Leaf, settings: dict[str, Setting], sections: set[str], name: dict[str, str]) -> ConfigError:
    head, _, rest = leaf.key.partition(".")
    if head in GROUPS and rest == "name":
        return ConfigError(f"{leaf.origin}: {leaf.key} is set by choosing a group; write {head}={leaf.text}")
    if leaf.key in sections:
        keys = [k for k in settings if k.startswith(leaf.key + ".")]
        return ConfigError(f"{leaf.origin}: {leaf.key} is a section; set one of its keys, such as {keys[0]}=VALUE")
    for group, tables in (("env", ENVS), ("aux", AUXILIARIES)):
        owners = [choice for choice, table in tables.items() if rest in {f.name for f in fields(table)}]
        if head == group and owners:
            return ConfigError(f"{leaf.origin}: {leaf.key} does not exist for {group}={name[group]}, only for "
                               f"{group}={' or '.join(owners)}")
    choices = [k for k in settings if not k.endswith(".name")]
    near = closest(leaf.key, choices)
    hint = f"; did you mean {near}? (expected {settings[near].expected()})" if near else "; --help lists all keys"
    return ConfigError(f"{leaf.origin}: unknown key {show(leaf.key)}{hint}")
