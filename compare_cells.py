"""Compare cells: every cell x environment x length x seed, everything else equal, as tables and figures.

    python compare_cells.py SUITE [cells=a,b] [envs=x,y-hard] [lengths=10,20] [seeds=5] [out=DIR] [jobs=N] [key=value ...]

SUITE is a name under configs/suites/ or a path; configs/suite_file.py says what one looks like. Further options:
baseline=CELL, first_seed=N, solved=RATE, match=width|parameters, learning_rates=1e-3,3e-3 (a sweep: each rate is tried for
every cell on every task, on sweep_seeds=N seeds of its own, and the best one taken), jobs=0 (only tables and figures of what
is there). key=value is a setting of every run, as for train_agent.py.

Each run is train_agent.py in a process of its own with one thread. The same command goes on after any interruption; it tries
failed runs again. DIR/runs holds the runs, DIR/*.csv the tables, DIR/figures the figures, DIR/logs what the runs printed.
Exit status: 0 all runs are done, 1 some are not (failed, or jobs=0), 2 a mistake in the command, 128 + N stopped by signal N.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import build  # sets the environment that torch is imported in, so it comes first

# isort: split

import record_video
import train_agent
from agents import cost, pool, reach
from agents.checkpoint import CheckpointError, list_checkpoints
from agents.digest import control_lines, ranking_lines, remarks
from agents.figures import draw_all
from agents.film import FilmError
from agents.page import page
from agents.pool import Job, create_folder, last_row
from agents.progress import duration
from agents.results import PENDING, Result, Slot, best_rate, done, makers, read_result, whole
from agents.rollout import stagger_rows
from agents.runlog import RunError, collect_versions, write_text
from agents.scoreboard import Scoreboard, Tally
from agents.tables import read_tables, write_csv, write_tables
from configs.errors import ConfigError
from configs.load import diff_configs, flatten_config, from_resolved
from configs.schema import Config
from configs.suite import Planned, Suite, Task, plan, series
from configs.suite_file import read_suite, suites
from envs.env import Spec
from envs.group import EnvError
from exits import exit_status
from memory_cells.variants import count_parameters

SCRIPT = Path(__file__).resolve()
REACH = "reach.json"
#: what may differ between a run that is there and the same run of this command
FREE = ("run_dir", *train_agent.RESUMABLE)


class Comparison:
    """A suite, its folder, and what is known of each cell on each task before anything runs."""

    def __init__(self, suite: Suite, argv: Sequence[str]) -> None:
        """Checks every combination, and the runs that are there. Raises ConfigError."""
        self.suite, self.argv = suite, list(argv)
        self.out = Path(suite.options.out or f"runs/compare-{suite.name}").resolve()
        self.workers = pool.available_cores() if suite.options.jobs is None else suite.options.jobs
        self._plans: dict[tuple[str, str, float | None, bool], list[Planned]] = {}
        self.tasks = [self._matched(task) for task in suite.tasks]
        self.known: dict[tuple[str, str], tuple[int, Spec]] = {}  # (cell, task) -> the core's parameters, the spec
        for run in self.one_each():
            env = build.make_env(run.config, 1, "cpu", seed=0)
            _steps_suffice(run, env.spec)
            _solving_can_be_seen(run, suite.options.solved)
            learner = run.config.agent
            spec = env.spec.seeing_last(learner.see_last_action or learner.see_last_reward)
            self.known[run.cell, run.task.label] = count_parameters(build.make_agent(run.config, env).core), spec
            made = not suite.learning_rates and all(done(r.folder) for r in self._plan(run.cell, run.task, None))
            if self.workers and not made:
                try:
                    build.check_run(run.config)
                except ConfigError as error:
                    raise ConfigError(f"{run.cell} on {run.task.label}: {error}") from error
        self.series = series({run.task.env: run.config.env for run in self.one_each()})
        self.check(self.sweep() if suite.learning_rates else self.runs())

    def _matched(self, task: Task) -> Task:
        """With match=parameters: every core has as many parameters as the baseline's at the width that is set."""
        if self.suite.options.match == "width":
            return task
        (run,) = plan(self.suite.options.baseline, task, [1], self.out, build.KNOWN_CELLS)
        size = count_parameters(build.make_agent(run.config, build.make_env(run.config, 1, "cpu", seed=0)).core)
        return dataclasses.replace(task, settings=task.settings | {"cell.hidden_size": "null",
                                                                   "cell.match_parameters": str(size)})  # fmt: skip

    def _plan(self, cell: str, task: Task, rate: float | None, sweep: bool = False) -> list[Planned]:
        key = cell, task.label, rate, sweep
        if key not in self._plans:
            seeds, folder, tag = (self.suite.sweep_seeds, "sweep", f"-lr{rate!r}") if sweep else (self.suite.seeds, "runs", "")
            self._plans[key] = plan(cell, task, seeds, self.out / folder, build.KNOWN_CELLS, rate, tag)
        return self._plans[key]

    def one_each(self) -> list[Planned]:
        """The first run of every cell on every task."""
        return [self._plan(cell, task, None)[0]
                for task in self.tasks for cell in self.suite.cells]  # fmt: skip

    def runs(self, rates: Mapping[tuple[str, str], float | None] | None = None) -> list[Planned]:
        """The comparison's runs, seed by seed, with the learning rates that a sweep has chosen."""
        groups = []
        for task in self.tasks:
            for cell in self.suite.cells:
                rate = (rates[cell, task.label] or self.suite.learning_rates[0]) if rates else None
                groups.append(self._plan(cell, task, rate))
        return [run for one_seed in zip(*groups) for run in one_seed]

    def sweep(self) -> list[Planned]:
        return [run for task in self.tasks for cell in self.suite.cells for rate in self.suite.learning_rates
                for run in self._plan(cell, task, rate, sweep=True)]  # fmt: skip

    def check(self, runs: Sequence[Planned]) -> None:
        """Raises ConfigError where a run that is there was made with other settings."""
        for run in runs:
            if not (run.folder / "config.yaml").is_file():
                continue
            old = from_resolved(run.folder, (), build.KNOWN_CELLS)
            changed = [key for key in diff_configs(old, run.config) if key not in FREE]
            if changed:
                was, now = (flatten_config(config).get(changed[0]) for config in (old, run.config))
                raise ConfigError(f"{run.folder} was made with {changed[0]}={was}, now it is {now}: give another out=, or "
                                  f"remove that folder")  # fmt: skip

    def slot(self, run: Planned) -> Slot:
        parameters, spec = self.known[run.cell, run.task.label]
        task, config = run.task, run.config
        return Slot(run.folder, run.cell, task.env, task.length, run.seed, config.agent.learning_rate, config.train.steps,
                    parameters, spec, self.suite.options.solved, self.series.get(task.env))  # fmt: skip

    def job(self, run: Planned) -> Job:
        name = run.folder.name
        return Job(name, run.cell, run.task.label, run.folder, self.out / "logs" / f"{name}.log",
                   pool.train_command(SCRIPT, *run.tokens), pool.train_command(SCRIPT, "--resume", str(run.folder)),
                   run.config.train.steps)  # fmt: skip

    def record(self) -> None:
        """suite.json: what was asked for and with which versions."""
        tasks = [dataclasses.asdict(task) | {"label": task.label, "spec": dataclasses.asdict(
            self.known[self.suite.cells[0], task.label][1])} for task in self.tasks]  # fmt: skip
        seen = {"suite": self.suite.name, "options": dataclasses.asdict(self.suite.options), "cells": self.suite.cells,
                "tasks": tasks, "seeds": list(self.suite.seeds), "learning_rates": self.suite.learning_rates,
                "versions": collect_versions(self.argv)}  # fmt: skip
        write_text(self.out / "suite.json", json.dumps(seen, indent=2) + "\n")


def _solving_can_be_seen(run: Planned, solved: float) -> None:
    """Raises ConfigError where nobody looks while a run trains, or it stops before it counts as solved."""
    train = run.config.train
    if not train.evaluate_every:
        raise ConfigError("a comparison needs train.evaluate_every above 0, or no run is seen to solve its task")
    if train.stop_at_success is not None and train.stop_at_success < solved:
        raise ConfigError(f"{run.task.label}: train.stop_at_success={train.stop_at_success} stops runs before solved={solved} "
                          f"counts them as solved; give solved={train.stop_at_success}, or less")


def _steps_suffice(run: Planned, spec: Spec) -> None:
    """Raises ConfigError where a run may have no steps left once its environments are spread over their episodes."""
    train, spread = run.config.train, stagger_rows(spec.max_rows) * run.config.train.num_envs
    if train.stagger_episodes and not run.config.agent.full_episode and train.steps <= spread:
        raise ConfigError(f"{run.task.label}: train.steps={train.steps} may be used up by spreading the episodes; expected "
                          f"more than {spread}, or train.stagger_episodes=false")  # fmt: skip


def execute(comparison: Comparison, runs: Sequence[Planned], seconds: Mapping[tuple[str, str], float], lock: int,
            doomed: Collection[tuple[str, str]] = ()) -> tuple[list[Result], list[str], int | None]:  # fmt: skip
    """Makes the runs that are not there, but for the (cell, task) in `doomed`, for which no learning rate was found. Returns
    the results, a line for each failure, and the signal that stopped it, if any."""
    jobs, stopped = [comparison.job(run) for run in runs], None
    for job in jobs:
        if job.state == "waiting" and (job.cell, job.task) in doomed:
            job.state, job.why = "failed", "every learning rate of the sweep has failed runs"
    if comparison.workers and any(job.state == "waiting" for job in jobs):
        estimates = {job.name: seconds[job.cell, job.task] for job in jobs}
        with Scoreboard(jobs, estimates, comparison.workers) as board:
            stopped = pool.run_all(jobs, comparison.workers, lock, board.show, pool.on_gpus)
    for job in jobs:  # that failed in an earlier call and was not tried again
        if job.state == "waiting" and job.failure.is_file():
            job.state, job.why = "failed", job.failure.read_text().strip()
    results = [read_result(comparison.slot(run), job.state == "failed") for run, job in zip(runs, jobs)]
    return results, [f"{job.name}: {job.why}" for job in jobs if job.state == "failed"], stopped


def announce(comparison: Comparison, planned: Sequence[Planned]) -> dict[tuple[str, str], float]:
    """Prints what `planned` will cost; returns the seconds that a run of each cell on each task takes at most."""
    suite, options = comparison.suite, comparison.suite.options
    todo = [run for run in planned if not done(run.folder)]
    print(f"{suite.name}: {options.about}" if options.about else suite.name)
    swept = f", after {_many(len(comparison.sweep()), 'run')} to choose the learning rates" if suite.learning_rates else ""
    there = f"; {len(planned) - len(todo)} are done" if len(todo) < len(planned) else ""
    size = f"{_many(len(suite.cells), 'cell')} x {_many(len(suite.tasks), 'task')} x {_many(options.seeds, 'seed')}"
    print(f"{size}{swept}: {_many(len(planned), 'run')}{there}", flush=True)
    if not todo or not comparison.workers:
        return {}
    configs = {(run.cell, run.task.label): dataclasses.replace(run.config, seed=0, run_dir=None)
               for run in comparison.one_each()}  # fmt: skip
    seconds = cost.estimate(comparison.out / "speed.json", configs, _speed)
    total = sum(seconds[run.cell, run.task.label] for run in todo) / comparison.workers
    print(f"about {sum(run.config.train.steps for run in todo):,} environment steps and {duration(total)} with "
          f"{comparison.workers} side by side if no run stops early", flush=True)  # fmt: skip
    return seconds


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _speed(config: Config) -> float:
    """Seconds of one run with `config`, from two updates and an evaluation of an untrained agent."""
    train = dataclasses.replace(config.train, stagger_episodes=False)
    device = build.set_up_torch(config)
    trainer = build.make_trainer(dataclasses.replace(config, train=train), device)
    watch = build.watcher(config, trainer.learner.agent, device)
    return cost.of_run(trainer, watch, config.train.evaluate_every, config.evaluate.episodes / config.train.evaluate_episodes)


def choose(comparison: Comparison, results: Sequence[Result]) -> dict[tuple[str, str], float | None]:
    """The best learning rate of each (cell, task), None where all have failed runs; writes sweep.csv, which shows all."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for run, result in zip(comparison.sweep(), results):
        groups.setdefault((run.cell, run.task.label), []).append(result)
    rates = {pair: best_rate(group) for pair, group in groups.items()}
    rows = [result.row() | {"chosen": int(result.slot.learning_rate == rates[pair])}
            for pair, group in groups.items() for result in group]  # fmt: skip
    write_csv(comparison.out / "sweep.csv", rows)
    return rates


def compare(comparison: Comparison, lock: int) -> int:
    """Runs, tables, figures, a screen of text; the exit status."""
    suite, out = comparison.suite, comparison.out
    comparison.record()
    rates: dict[tuple[str, str], float | None] = {}
    in_sweep: list[str] = []  # a rate that breaks a cell is told of, but is no failure of the comparison
    seconds = announce(comparison, [*(comparison.sweep() if suite.learning_rates else ()), *comparison.runs()])
    if suite.learning_rates:
        results, in_sweep, stopped = execute(comparison, comparison.sweep(), seconds, lock)
        pending = sum(result.status == PENDING for result in results)
        if stopped or pending:
            return leave(stopped, pending)
        rates = choose(comparison, results)
        comparison.check(comparison.runs(rates))
    doomed = {pair for pair, rate in rates.items() if rate is None}
    results, failures, stopped = execute(comparison, comparison.runs(rates), seconds, lock, doomed)
    write_tables(out, results, suite.options.baseline, look_inside(results, again=not stopped))
    write_text(out / "failures.txt", "".join(f"{line}\n" for line in (*in_sweep, *failures)))
    write_csv(out / "timings.csv", [timing(result) for result in results])
    pending = sum(result.status == PENDING for result in results)
    if stopped:
        return leave(stopped, pending)
    tables = read_tables(out)
    figures = draw_all(out / "figures", tables, suite.options.baseline)
    drawings = [f.with_suffix(".svg") for f in figures]
    write_text(out / "index.html", report(comparison, results, tables, drawings, [*in_sweep, *failures]))
    lines = ranking_lines(tables["ranking"], results, suite.options.baseline)
    lines += remarks(tables["ranking"], results, suite.options.baseline)
    for line in (*lines, *control_lines(results), *(f"FAILED {line}" for line in (*in_sweep, *failures))):
        print(line)
    print(f"page: {out}/index.html; tables: {out}/*.csv; figures: {out}/figures")
    return leave(None, pending) if pending else 1 if failures else 0


def report(comparison: Comparison, results: Sequence[Result], tables: Mapping[str, Sequence[Mapping]],
           figures: Sequence[Path], failures: Sequence[str]) -> str:  # fmt: skip
    """The comparison as one HTML page."""
    suite = comparison.suite
    lengths: dict[str, list[str]] = {}
    for task in suite.tasks:
        lengths.setdefault(task.env, []).extend([] if task.length is None else [str(task.length)])
    facts = [f"{_many(len(suite.cells), 'cell')} on " +
             ", ".join(f"{env} ({', '.join(found)})" if found else env for env, found in lengths.items()),
             f"{_many(len(suite.seeds), 'seed')} each, equal {suite.options.match}, baseline {suite.options.baseline}",
             *_settings([run.config for run in comparison.one_each()]),
             *(["learning rates chosen by a sweep: sweep.csv"] if suite.learning_rates else []),
             *(f"{_many(count, 'run')} made by {maker}" for maker, count in makers(results).items())]  # fmt: skip
    command = ["python", "compare_cells.py", *(token for token in comparison.argv if not token.startswith("jobs="))]
    return page(f"gatemaze: {suite.name}", suite.options.about, facts, control_lines(results), figures, tables["ranking"],
                tables["longest"], failures, films(comparison.out, results),
                [f"{shlex.join(command)}           # all of it",
                 f"{shlex.join([*command, 'jobs=0'])}    # figures, tables and page, from the runs that are there"],
                remarks(tables["ranking"], results, suite.options.baseline))  # fmt: skip


def _settings(configs: Sequence[Config]) -> list[str]:
    """What all runs have in common of learner, batch and budget, a line; "several" where tasks differ."""
    stop = lambda rate: "never" if rate is None else f"at a greedy success of {rate:g}"  # noqa: E731
    told = {"learner": {c.agent.name for c in configs}, "environments": {f"{c.train.num_envs:,}" for c in configs},
            "steps at most": {f"{c.train.steps:,}" for c in configs},
            "stop": {stop(c.train.stop_at_success) for c in configs}}  # fmt: skip
    one = {what: next(iter(values)) if len(values) == 1 else "several" for what, values in told.items()}
    return [f"learner {one['learner']}, {one['environments']} environments, {one['steps at most']} steps at most",
            f"a run stops early: {one['stop']}"]


def look_inside(results: Sequence[Result], again: bool = True) -> list[tuple[Slot, reach.Reach]]:
    """How far the gates and gradients of every run's agent reach; measured once, into the run's folder. Not `again`: only
    of those that were measured."""
    slots = [result.slot for result in results if result.success is not None]
    slots = [slot for slot in slots if again or (slot.folder / REACH).is_file()]
    new = {slot.folder for slot in slots if not (slot.folder / REACH).is_file()}
    found = []
    with Tally("looking into gates and gradients of agents", len(new)) if new else contextlib.nullcontext() as tally:
        for slot in slots:
            path = slot.folder / REACH
            try:
                if slot.folder in new:
                    reach.write(path, reach.reach(_diagnosis(slot.folder)))
                found.append((slot, reach.read(path)))
            except (ConfigError, RunError, CheckpointError, EnvError) as error:
                print(f"no gates and gradients of {slot.folder.name}: {error}", file=sys.stderr)
            if slot.folder in new:
                tally.advance()
    return found


def _diagnosis(run_dir: Path) -> dict[str, Any]:
    config = build.run_config(run_dir, [f"evaluate.num_envs={reach.ENVS}"], ("evaluate.",))
    device = build.set_up_torch(config)
    agent, _ = build.load_agent(run_dir, config, build.make_env(config, 1, device, seed=0))
    return build.diagnose_agent(config, agent, device, brief=True)


def films(out: Path, results: Sequence[Result]) -> dict[str, Path]:
    """A film of the best cell on each task (by mean success, then by steps to solve; of those whose runs are all done), of
    its first run that has a checkpoint, made once and again after the run was; caption -> file."""
    tasks: dict[Any, dict[str, list[Result]]] = {}
    for result in results:
        tasks.setdefault(result.slot.task, {}).setdefault(result.slot.cell, []).append(result)
    found = {}
    for cells in tasks.values():
        groups = [runs for runs in cells.values() if whole(runs)]
        if not groups:
            continue
        best = max(groups, key=lambda runs: (sum(run.success for run in runs),
                                             -sum(run.solved_at or run.slot.budget for run in runs)))  # fmt: skip
        filmed = next((run for run in best if list_checkpoints(run.slot.folder)), best[0])
        slot, success, path = filmed.slot, filmed.success, out / "films" / f"{filmed.slot.folder.name}.mp4"
        try:
            old = path.is_file() and path.stat().st_mtime < (slot.folder / "evaluation.json").stat().st_mtime
            if not path.is_file() or (old and list_checkpoints(slot.folder)):  # of a kept record there will be no other film
                create_folder(path.parent)
                record_video.film(record_video.parse([str(slot.folder), "--out", str(path)]))
            found[f"{slot.cell} on {slot.folder.name.partition(f'-{slot.cell}')[0]}: success {success:.0%}"] = path
        except (ConfigError, RunError, FilmError, CheckpointError, EnvError) as error:
            print(f"no film of {slot.folder.name}: {error}", file=sys.stderr)
    return found


def leave(signal: int | None, pending: int) -> int:
    """The last word and the exit status where runs are left to be made."""
    why = "stopped; what ran is saved, and the same command goes on: " if signal else ""
    print(f"{why}{_many(pending, 'run')} still to be made")
    return 128 + signal if signal else 1


def timing(result: Result) -> dict[str, Any]:
    """What depends on the clock, apart from the other tables."""
    slot, row = result.slot, last_row(result.slot.folder / "metrics.jsonl")
    return {"cell": slot.cell, "env": slot.env, "length": slot.length, "seed": slot.seed, "steps": result.steps,
            "steps_per_second": row.get("time/steps_per_second")}  # fmt: skip


def child(argv: Sequence[str]) -> int:
    """A run: train_agent.py, ending with the comparison that started it."""
    pool.leave_with_parent(int(argv[0]))
    return train_agent.main(list(argv[1:]))


def main(argv: list[str]) -> int:
    if argv[:1] == ["--child"]:
        return child(argv[1:])
    if {"-h", "--help"} & set(argv):
        print(f"{__doc__.strip()}\n\nsuites: {', '.join(suites())}")
        return 0
    return exit_status(lambda: run(argv), "interrupted; the same command goes on")


def run(argv: Sequence[str]) -> int:
    comparison = Comparison(read_suite(argv, build.KNOWN_CELLS), argv)
    out = comparison.out
    if (out / "config.yaml").is_file() or not (comparison.workers or (out / "runs").is_dir()):
        raise ConfigError(f"{out} is no comparison's folder (jobs=0 needs one, a run's cannot be one); give out=")
    create_folder(comparison.out)
    with pool.locked(comparison.out) as lock:
        return compare(comparison, lock)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
