"""Compare cells: every cell on every task with every seed, everything else equal -> tables, plots and a page.

    python compare_cells.py SUITE [cells=a,b] [envs=x,y-hard] [lengths=10,20] [seeds=5] [key=value ...]

SUITE is a name under configs/suites/ or a path to such a file. Further options: out=FOLDER (default runs/compare-SUITE),
jobs=N runs side by side (default: one a core; 0: only tables and page from what is there), baseline=CELL, first_seed=N,
solved=RATE, match=parameters (every cell at the width at which it has as many parameters as the baseline),
learning_rates=1e-3,3e-4 (each cell's rate on each task is chosen on seeds of its own) and sweep_seeds=N. Settings
(train.steps=3e5) hold for every run.

The same command goes on where it was stopped, killed or not, and ends with the same tables, byte for byte. Exit status 1 if
a run failed.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path

import build  # sets the environment that torch is imported in, so it comes first
import record_video
from agents import comparison, comparison_figures, comparison_report
from agents import comparison_tables as tables
from agents import statistics as st
from agents.comparison import Job
from agents.comparison_tables import Entry
from agents.runlog import RunError, collect_versions, write_text
from configs.errors import ConfigError
from configs.load import diff_configs, from_resolved
from configs.suite import Planned, Suite, plan
from configs.suite_file import read_suite

TRIAL = 2  # iterations of a trial run, the last of which is timed


def main(argv: list[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(__doc__.strip())
        return 0
    try:
        return compare(read_suite(argv, build.KNOWN_CELLS), argv)
    except (ConfigError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def compare(suite: Suite, argv: list[str]) -> int:
    """Runs, judges and writes. Returns the exit status."""
    out = Path(suite.options.out or f"runs/compare-{suite.name}")
    parameters = baseline_parameters(suite, out)
    trials = (planned(suite, out / "sweep", suite.sweep_seeds, parameters, rate) for rate in suite.learning_rates)
    sweep = [run for runs in trials for run in runs]
    runs = planned(suite, out / "runs", suite.seeds, parameters)  # at the suite's own rate where there is no sweep
    check_folders(sweep or runs)
    announce(suite, [*sweep, *runs])
    rates: dict[tuple[str, str], float] = {}
    if sweep:
        execute(sweep, suite)
        rates = choose_rates(sweep)
        runs = planned(suite, out / "runs", suite.seeds, parameters, rates)
        check_folders(runs)
    execute(runs, suite)
    entries = [entry(run) for run in runs if job(run).done or job(run).why()]
    if not entries:
        print("no run has ended yet; nothing to report")
        return 1
    write(suite, out, entries, rates, argv)
    failed = [e for e in entries if e.why]
    for e in failed:
        print(f"FAILED {e.folder.name}: {e.why}", file=sys.stderr)
    return int(bool(failed or len(entries) < len(runs)))


def planned(suite: Suite, folder: Path, seeds, parameters: dict[str, int | None], rate=None) -> list[Planned]:
    """All runs of the suite; `rate` is one for all, or one for each (cell, task)."""
    found = []
    for task in suite.tasks:
        for cell in suite.cells:
            own = rate.get((cell, task.label)) if isinstance(rate, dict) else rate
            found += plan(cell, task, seeds, folder, build.KNOWN_CELLS, own, parameters[task.label])
    return found


def baseline_parameters(suite: Suite, out: Path) -> dict[str, int | None]:
    """{task: how many parameters the baseline's core has there}, or None for each where widths are what is equal."""
    if suite.options.match == "width":
        return {task.label: None for task in suite.tasks}
    found = {}
    for task in suite.tasks:
        config = plan(suite.options.baseline, task, [1], out, build.KNOWN_CELLS)[0].config
        core = build.make_agent(config, build.make_env(config, 1, build.torch.device("cpu"), 0)).core
        found[task.label] = sum(p.numel() for p in core.parameters())
    return found


def check_folders(runs: list[Planned]) -> None:
    """Refuses a folder that holds a run of other settings, before anything is written."""
    for run in runs:
        if (run.folder / "config.yaml").is_file():
            differing = diff_configs(from_resolved(run.folder, (), build.KNOWN_CELLS), run.config)
            if differing := [key for key in differing if key != "run_dir"]:
                raise ConfigError(f"{run.folder} holds a run with another {', '.join(differing)}; take another out=FOLDER")


def job(run: Planned) -> Job:
    return Job(run.folder.name, run.folder, run.tokens, run.config.train.steps)


def entry(run: Planned) -> Entry:
    return Entry(run.cell, run.task.label, run.task.env, run.task.length, run.seed, run.config.train.steps, run.folder,
                 job(run).why())  # fmt: skip


def execute(runs: list[Planned], suite: Suite) -> None:
    jobs = suite.options.jobs
    if jobs != 0:
        comparison.run_all([job(run) for run in runs], jobs or os.cpu_count() or 1)


def announce(suite: Suite, runs: list[Planned]) -> None:
    """What it will cost, from a trial of the baseline's first task."""
    todo = [run for run in runs if not job(run).done]
    steps = sum(run.config.train.steps - min(job(run).step(), run.config.train.steps) for run in todo)
    shape = f"{len(suite.cells)} cells x {len(suite.tasks)} tasks x {len(suite.seeds)} seeds"
    if not todo or suite.options.jobs == 0:
        print(f"{suite.name}: {shape}; {len(todo)} of {len(runs)} runs to do")
        return
    config, workers = todo[0].config, suite.options.jobs or os.cpu_count() or 1
    trainer = build.make_trainer(config, build.set_up_torch(config))
    for _ in range(TRIAL):
        began, before = time.perf_counter(), trainer.step
        trainer.iterate()
    rate = (trainer.step - before) / (time.perf_counter() - began)
    hours = steps / rate / min(workers, len(todo)) / 3600
    print(f"{suite.name}: {shape}; {len(todo)} of {len(runs)} runs to do, at most {steps:,} environment steps: about "
          f"{hours:.1f} h with {workers} at a time at {rate:,.0f} steps/s each, less where runs solve early", flush=True)


def choose_rates(sweep: list[Planned]) -> dict[tuple[str, str], float]:
    """The rate with the best mean measure for each cell and task; of equals the largest. Failed runs count as -inf."""
    scores: dict[tuple[str, str, float], list[float]] = {}
    for run in sweep:
        row = tables.results([entry(run)], 1.0)[0] if job(run).done else {"measure": None}
        key = (run.cell, run.task.label, run.config.agent.learning_rate)
        scores.setdefault(key, []).append(float("-inf") if row["measure"] is None else row["measure"])
    best: dict[tuple[str, str], tuple[float, float]] = {}
    for (cell, task, rate), values in scores.items():
        best[cell, task] = max(best.get((cell, task), (float("-inf"), 0.0)), (sum(values) / len(values), rate))
    return {key: rate for key, (_, rate) in best.items()}


def write(suite: Suite, out: Path, entries: list[Entry], rates: dict[tuple[str, str], float], argv: list[str]) -> None:
    """CSVs, figures and the page."""
    rows = tables.results(entries, suite.options.solved)
    summary, overall = tables.summary(rows), tables.overall(rows, suite.options.baseline)
    curves, longest = tables.curves(entries), tables.longest(rows)
    chosen = [{"cell": cell, "task": task, "learning_rate": rate} for (cell, task), rate in rates.items()]
    for name, table in (("results", rows), ("summary", summary), ("overall", overall), ("curves", curves),
                        ("longest", longest), ("learning_rates", chosen)):  # fmt: skip
        tables.write_csv(out / f"{name}.csv", table)
    figures = comparison_figures.draw(out / "figures", summary, overall, curves)
    versions, counts = collect_versions(argv), Counter(e.cell for e in entries)
    facts = [f"{len(suite.cells)} cells, {len(suite.tasks)} tasks, {len(suite.seeds)} seeds; equal {suite.options.match}; "
             f"baseline {suite.options.baseline}; {len(entries)} runs, at least {min(counts.values())} a cell",
             f"torch {versions['torch']}, Python {versions['python']}, {versions['cpu']}"]  # fmt: skip
    command = " ".join(["python compare_cells.py", *argv])
    page = comparison_report.page(
        f"gatemaze: {suite.name}", suite.options.about, facts, {n: out / "figures" / f"{n}.svg" for n in figures}, overall,
        longest, {e.folder.name: e.why for e in entries if e.why}, films(suite, out, summary, entries), [command])  # fmt: skip
    write_text(out / "index.html", page)
    best = overall[0]
    if best["iqm"] is not None:
        found = st.Estimate(best["iqm"], best["iqm_low"], best["iqm_high"])
        print(f"best over all tasks: {best['cell']}, IQM {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]")
    print(f"wrote {out / 'index.html'}, and its tables and figures beside it")


def films(suite: Suite, out: Path, summary: list[dict], entries: list[Entry]) -> dict[str, Path]:
    """A film of the best cell's first run on each task, made once; caption -> file."""
    found = {}
    for task in suite.tasks:
        rows = [row for row in summary if row["task"] == task.label and row["measure"] is not None]
        if not rows:
            continue
        cell = max(rows, key=lambda row: row["measure"])["cell"]
        run = next(e for e in entries if (e.task, e.cell) == (task.label, cell))
        path = out / "films" / f"{run.folder.name}.mp4"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                record_video.film(record_video.parse([str(run.folder), "--out", str(path), "device=cpu"]))
            except (ConfigError, RunError, record_video.FilmError) as error:
                print(f"no film of {run.folder.name}: {error}", file=sys.stderr)
                continue
        found[f"{cell} on {task.label}"] = path
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
