"""A suite's YAML and a command line -> Suite. Every slip is one line, with the nearest valid choice.

    SUITE [cells=a,b] [envs=x,y-hard] [lengths=10,20] [seeds=5] [key=value ...]

SUITE is a name under configs/suites/ or a path. A suite is strict YAML (configs/strict_yaml.py), its lists are text:

    about: one line on what it asks
    cells: memoryless, lstm, gru
    seeds: 3
    defaults: {agent: ppo}                                    # groups of every run, as in an experiment's file
    settings: {train.steps: 3e5, cell.hidden_size: 32}        # of every run, over these
    envs:
      tmaze_passive:
        lengths: 10, 20                                       # a task each
        train.steps: 5e5                                      # of this environment, over `settings`
      tmaze_active: {levels: easy, defaults: {agent: long}}   # groups of this environment's runs

The command line's options replace the suite's and its settings go over all others. `envs=NAME` takes the suite's lengths,
levels and settings of NAME where it has some; `envs=NAME-LEVEL` only its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, show
from configs.groups import CONFIG_ROOT, DEFAULT_GROUPS, ENVS, LENGTH_KEYS, LEVELS
from configs.leaves import coerce, nearest, settings_of
from configs.load import load_config
from configs.schema import Config
from configs.strict_yaml import COMMAND_LINE, Leaf, parse_value, read_leaves
from configs.suite import Options, Suite, Task

SUITE_ROOT = CONFIG_ROOT / "suites"
OPTIONS = {s.key: s for s in settings_of(Options())}
NOT_IN_A_FILE = ("envs", "lengths", "out", "jobs")
#: what an environment's section may hold beside settings
OF_AN_ENV = ("lengths", "levels")
#: settings that the comparison gives to every run, and what to write instead
INSTEAD = {"cell": "cells=", "env": "envs=", "seed": "seeds= and first_seed=", "run_dir": "out="}
#: groups that a suite chooses for every run
CHOOSABLE = tuple(group for group in DEFAULT_GROUPS if group not in INSTEAD)
SECTIONS = ("defaults", "settings", "envs")
Leaves = dict[str, Leaf]


def suites() -> list[str]:
    """The names under configs/suites/."""
    return sorted(path.stem for path in SUITE_ROOT.glob("*.yaml"))


def read_suite(argv: Sequence[str], known_cells: Sequence[str]) -> Suite:
    """The suite of a command line. Raises ConfigError."""
    path, given = _path(argv), _tokens(argv[1:])
    in_file, settings, envs = _sections(read_leaves(path), path)
    for key, found in given.items():
        if key not in OPTIONS:
            _check_setting(found, key, tuple(OPTIONS))
    over = {key: found for key, found in given.items() if key not in OPTIONS}
    chosen = in_file | {key: found for key, found in given.items() if key in OPTIONS}
    options = Options(**{key: _option(key, found) for key, found in chosen.items()})
    cells = _names(chosen["cells"], "cell", known_cells)
    if options.baseline not in known_cells:
        raise ConfigError(f"{chosen['baseline'].origin}: unknown cell {show(options.baseline)} as baseline"
                          f"{nearest(options.baseline, known_cells)}")  # fmt: skip
    if "baseline" in given and options.baseline not in cells:
        raise ConfigError(f"{given['baseline'].origin}: the baseline {options.baseline} is none of the cells: "
                          f"{', '.join(cells)}")  # fmt: skip
    rates = tuple(_numbers(chosen.get("learning_rates"), float))
    if rates and "learning_rates" in given:  # a sweep that is asked for goes over a file's own rate
        for section in (settings, *envs.values()):
            section.pop("agent.learning_rate", None)
    tasks: list[Task] = []
    for name, entry in _environments(chosen.get("envs"), envs).items():
        texts = {key: found.text for key, found in {**settings, **entry, **over}.items() if key not in OF_AN_ENV}
        tasks += _tasks(name, entry, texts, chosen.get("lengths"))
    labels = [task.label for task in tasks]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"{label} is asked for twice")
    if "sweep_seeds" in chosen and not rates:
        raise ConfigError(f"{chosen['sweep_seeds'].origin}: sweep_seeds is of a sweep; it needs learning_rates=RATE,RATE")
    if rates and (len(rates) == 1 or len(set(rates)) < len(rates)):
        asked = chosen["learning_rates"]
        raise ConfigError(f"{asked.origin}: learning_rates={asked.text} is no sweep: it takes two rates or more, each "
                          f"once (for one write agent.learning_rate)")  # fmt: skip
    if rates and any("agent.learning_rate" in task.settings for task in tasks):
        raise ConfigError(f"{chosen['learning_rates'].origin}: learning_rates asks for a sweep, "
                          f"but agent.learning_rate is set; take one of them out")  # fmt: skip
    return Suite(path.stem, options, cells, tuple(tasks), rates)


def _path(argv: Sequence[str]) -> Path:
    if not argv or "=" in argv[0].partition("/")[0]:
        raise ConfigError(f"{COMMAND_LINE}: the suite comes first: {', '.join(suites())}, or a path to a YAML file")
    name = argv[0]
    if "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name).expanduser()
    if name not in suites():
        raise ConfigError(f"{COMMAND_LINE}: unknown suite {show(name)}{nearest(name, suites())}")
    return SUITE_ROOT / f"{name}.yaml"


def _tokens(argv: Sequence[str]) -> Leaves:
    found: Leaves = {}
    for token in argv:
        key, equals, text = token.partition("=")
        if not equals or not key:
            raise ConfigError(f"{COMMAND_LINE}: {show(token)} is not key=value")
        if key in found:
            raise ConfigError(f"{COMMAND_LINE}: {key} is given twice")
        found[key] = parse_value(key, text)
    return found


def _sections(leaves: list[Leaf], path: Path) -> tuple[Leaves, Leaves, dict[str, Leaves]]:
    """A file's options, its settings, and the section of each environment."""
    known = [key for key in OPTIONS if key not in NOT_IN_A_FILE]
    options, settings, envs = {}, {}, {}
    for found in leaves:
        head, _, rest = found.key.partition(".")
        if found.key in known:
            options[found.key] = found
        elif head == "settings" and rest:
            _check_setting(found, rest, ())
            settings[rest] = found
        elif head == "defaults" and rest:
            settings[_group(found, rest)] = found
        elif head == "envs" and rest:
            env, _, key = rest.partition(".")
            if env not in ENVS:
                raise ConfigError(f"{found.origin}: unknown env {show(env)}{nearest(env, list(ENVS))}")
            section = envs.setdefault(env, {})
            if key:
                if key.startswith("defaults."):
                    key = _group(found, key.removeprefix("defaults."))
                elif key not in OF_AN_ENV:
                    _check_setting(found, key, OF_AN_ENV)
                section[key] = found._replace(key=key)
            elif found.value is not None:
                raise ConfigError(f"{found.origin}: envs.{env} is a section: lengths, levels and settings")
        elif head in SECTIONS:
            raise ConfigError(f"{found.origin}: {head} is a section, not a single value")
        else:
            raise ConfigError(f"{found.origin}: unknown key {show(found.key)} of a suite"
                              f"{nearest(found.key, [*known, *SECTIONS])}")  # fmt: skip
    if "cells" not in options or not envs:
        raise ConfigError(f"in {path}: a suite needs cells and envs")
    return options, settings, envs


def _group(found: Leaf, key: str) -> str:
    """`key`, if it is a group that a suite chooses."""
    if key not in CHOOSABLE:
        _check_setting(found, key, CHOOSABLE)
        raise ConfigError(f"{found.origin}: defaults chooses {' and '.join(CHOOSABLE)}, no {show(key)}")
    return key


def _check_setting(found: Leaf, key: str, others: Sequence[str]) -> None:
    """Dotted keys are checked by load_config; one without a dot may be a slip in one of `others`."""
    if key in INSTEAD:
        raise ConfigError(f"{found.origin}: {key} is set for every run by the comparison; write {INSTEAD[key]}")
    top = [s.key for s in settings_of(Config()) if "." not in s.key and s.key not in INSTEAD]
    known = [*top, *CHOOSABLE]
    if "." not in key and key not in known:
        raise ConfigError(f"{found.origin}: unknown key {show(key)}{nearest(key, [*others, *known])}")


def _option(key: str, found: Leaf) -> Any:
    """Text stays text, whatever YAML makes of it ("50" alone is a number there)."""
    if OPTIONS[key].type is str and isinstance(found.value, (int, float)):
        return found.text
    return coerce(OPTIONS[key], found)


def _split(found: Leaf | None) -> list[str]:
    parts = [part.strip() for part in found.text.split(",")] if found else []
    if not all(parts) or len(set(parts)) < len(parts):
        raise ConfigError(f"{found.origin}: {found.key}={show(found.text)} is no list of different values with commas")
    return parts


def _names(found: Leaf, what: str, known: Sequence[str], of: Callable[[str], str] = str) -> tuple[str, ...]:
    names = tuple(_split(found))
    for name in names:
        if of(name) not in known:
            raise ConfigError(f"{found.origin}: unknown {what} {show(of(name))}{nearest(of(name), list(known))}")
    return names


def _numbers(found: Leaf | None, kind: type) -> list[Any]:
    numbers = []
    for text in _split(found):
        try:
            numbers.append(kind(text))
        except ValueError:
            numbers.append(-1)
        if not 0 <= numbers[-1] < 1e15:
            what = "integers" if kind is int else "numbers"
            raise ConfigError(f"{found.origin}: {found.key}={show(found.text)} is no list of {what} with commas")
    return numbers


def _environments(asked: Leaf | None, envs: dict[str, Leaves]) -> dict[str, Leaves]:
    """{NAME or NAME-LEVEL: its section}, as the command line asks, or all of the suite's."""
    if asked is None:
        return envs
    found = {}
    for name in _names(asked, "env", list(ENVS), lambda name: name.partition("-")[0]):
        env, dash, _ = name.partition("-")
        section = envs.get(env, {})
        found[name] = {k: v for k, v in section.items() if k not in OF_AN_ENV} if dash else section
    return found


def _tasks(name: str, section: Leaves, settings: dict[str, str], lengths: Leaf | None) -> list[Task]:
    """The tasks of one environment; `lengths` of the command line replace the section's, at every level."""
    env = name.partition("-")[0]
    key, asked = LENGTH_KEYS.get(env), lengths or section.get("lengths")
    if asked and key is None:
        raise ConfigError(f"{asked.origin}: {env} has no length; what has: {', '.join(LENGTH_KEYS)}")
    if asked and f"env.{key}" in settings:
        raise ConfigError(f"{asked.origin}: lengths contradicts env.{key}={settings[f'env.{key}']}; take one of them out")
    levels = section.get("levels")
    for level in _split(levels):
        if level not in LEVELS:
            raise ConfigError(f"{levels.origin}: {env} has no level {show(level)}{nearest(level, LEVELS)}")
    choices = [f"{name}-{level}" for level in _split(levels)]
    values = _numbers(asked, int)
    if lengths:
        pairs = [(choice, value) for choice in choices or [name] for value in values]
    else:
        pairs = [(choice, None) for choice in choices] + [(name, value) for value in values]
    return [_task(choice, value, key, settings) for choice, value in pairs or [(name, None)]]


def _task(choice: str, length: int | None, key: str | None, settings: dict[str, str]) -> Task:
    if length is not None:
        settings = {**settings, f"env.{key}": str(length)}
    elif key is not None:  # the environment's or the level's own
        cell = DEFAULT_GROUPS["cell"]
        length = getattr(load_config([f"env={choice}", *(f"{k}={text}" for k, text in settings.items())], [cell]).env, key)
    return Task(choice, length, settings)
