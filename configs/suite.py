"""A suite: which cells are compared on which tasks with how many seeds, and the runs that this means. Pure data, no torch.

A *task* is one environment at one length or level. `configs/suite_file.py` reads a suite.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.load import load_config
from configs.schema import Config, EnvConfig, leaf

#: seeds of a sweep of learning rates start here; those of the comparison lie below
SWEEP_SEED = 100_001


@dataclass(frozen=True)
class Options:
    """What a suite or its command line says beside settings. Lists are text with commas."""

    about: str = leaf("", "what the suite asks")
    cells: str = leaf("", "cells to compare")
    envs: str = leaf("", "environments, NAME or NAME-LEVEL")
    lengths: str = leaf("", "lengths of every environment, in place of the suite's")
    seeds: int = leaf(5, "runs of each cell on each task", min=1, max=10_000)
    first_seed: int = leaf(1, "their seeds are this and the following", min=0, max=SWEEP_SEED - 10_001)
    baseline: str = leaf("lstm", "the cell that the others are compared with")
    solved: float = leaf(0.95, "greedy success rate in training at which a run counts as solved", min=0, max=1)
    match: str = leaf("width", "what is equal between cells", choices=("width", "parameters"))
    learning_rates: str = leaf("", "a sweep: rates to try for every cell on every task, on seeds of its own")
    sweep_seeds: int = leaf(2, "runs of each of these rates", min=1, max=1000)
    out: str = leaf("", "folder of the comparison")
    jobs: int | None = leaf(None, "runs side by side; null: one a core; 0: none, only tables and figures", min=0, max=4096)


@dataclass(frozen=True)
class Task:
    """`env` is NAME or NAME-LEVEL; `length` the value of its length setting, None where it has none. `settings`: dotted
    keys and their text, an explicit length among them."""

    env: str
    length: int | None
    settings: dict[str, str]

    @property
    def label(self) -> str:
        return self.env if self.length is None else f"{self.env}-{self.length}"


@dataclass(frozen=True)
class Suite:
    """What is compared, checked name by name; the settings are checked by `plan`."""

    name: str
    options: Options
    cells: tuple[str, ...]
    tasks: tuple[Task, ...]
    learning_rates: tuple[float, ...]

    @property
    def seeds(self) -> range:
        return range(self.options.first_seed, self.options.first_seed + self.options.seeds)

    @property
    def sweep_seeds(self) -> range:
        return range(SWEEP_SEED, SWEEP_SEED + self.options.sweep_seeds)


@dataclass(frozen=True)
class Planned:
    """One run: `tokens` are what train_agent.py is given, `config` is what they mean, `folder` where it goes."""

    cell: str
    task: Task
    seed: int
    folder: Path
    tokens: tuple[str, ...]
    config: Config


def series(envs: Mapping[str, EnvConfig]) -> dict[str, str]:
    """The series of every task that has a length, by its `env`: tasks of one series differ in length alone, and it is called
    as the environment, or where that has several, as its levels. `envs`: settings by NAME or NAME-LEVEL, at any length."""
    groups: dict[EnvConfig, list[str]] = {}
    for env, config in envs.items():
        if config.length_key is not None:
            groups.setdefault(dataclasses.replace(config, **{config.length_key: 0}), []).append(env)
    names = [config.name for config in groups]
    return {env: config.name if names.count(config.name) == 1 else ", ".join(group)
            for config, group in groups.items() for env in group}  # fmt: skip


def plan(cell: str, task: Task, seeds: Iterable[int], folder: Path, known_cells: Sequence[str],
         rate: float | None = None, tag: str = "") -> list[Planned]:  # fmt: skip
    """The runs of `cell` on `task`, one a seed, each in a folder of its own under `folder` with `tag` in its name; `rate`:
    the learning rate, None for the settings' own. Raises ConfigError."""
    settings = {"train.threads": "1", **task.settings}
    if rate is not None:
        settings["agent.learning_rate"] = repr(rate)
    tokens = (f"env={task.env}", f"cell={cell}", *(f"{key}={text}" for key, text in settings.items()))
    config, runs = load_config(tokens, known_cells), []
    for seed in seeds:
        run_dir = folder / f"{task.label}-{cell}{tag}-s{seed}"
        own = dataclasses.replace(config, seed=seed, run_dir=str(run_dir))
        runs.append(Planned(cell, task, seed, run_dir, (*tokens, f"seed={seed}", f"run_dir={run_dir}"), own))
    return runs
