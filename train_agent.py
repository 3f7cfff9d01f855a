"""Train an agent from a config, or resume a run.

    python train_agent.py [CONFIG] [cell=NAME env=NAME agent=NAME] [key=value ...]
    python train_agent.py --resume RUN [key=value ...]

CONFIG is a name under configs/ or a path (default: default). RUN is a run's folder, or one of its checkpoint folders to go on
from that. `--help` lists every key.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import build  # sets the environment that torch is imported in, so it comes first
from agents.checkpoint import CheckpointError
from agents.evaluate import Stopped
from agents.film import FilmError
from agents.runlog import (
    TensorBoardMirror,
    create_run_dir,
    find_run,
    note_resumption,
    write_run_files,
    write_text,
)
from agents.session import Interrupt, Session
from configs.arguments import show_help
from configs.describe import describe
from configs.errors import ConfigError
from configs.load import flatten_config, load_config, to_yaml
from configs.schema import Config
from envs.group import EnvError
from exits import exit_status, quoted

#: what a resumed run may change: where and how often, not what it computes
RESUMABLE = ("device", "train.checkpoint_every", "train.keep_checkpoints", "train.threads", "train.film", "env.workers",
             "env.timeout")  # fmt: skip


def parse(argv: list[str]) -> tuple[Config, tuple[Path, str] | None]:
    """The config, and if a run is to be resumed its folder and checkpoint. Raises ConfigError, RunError."""
    argv = [part for token in argv for part in (token.split("=", 1) if token.startswith("--resume=") else [token])]
    options = [token for token in argv if token.startswith("-")]
    if not options:
        return load_config(argv, build.KNOWN_CELLS), None
    if options != ["--resume"] or not "".join(argv[argv.index("--resume") + 1 :][:1]):
        wrong = next((o for o in options if o != "--resume"), None)
        told = f"unknown option {wrong}; the options are --resume RUN and --help" if wrong else "--resume needs one RUN"
        raise ConfigError(told)
    at = argv.index("--resume")
    (run_dir, which), tokens = find_run(Path(argv[at + 1])), argv[:at] + argv[at + 2 :]
    return build.run_config(run_dir, tokens, RESUMABLE), (run_dir, which)


def train(config: Config, resume: tuple[Path, str] | None, argv: list[str], begun: list[Path]) -> int:
    """Trains, evaluates, and returns the exit status. `begun` gets the run's folder once there is something to go on with."""
    device = build.set_up_torch(config)
    trainer = build.make_trainer(config, device)  # before the folder: a bad combination must leave nothing behind
    if resume:
        run_dir = resume[0]
    else:
        run_dir = create_run_dir(config.run_dir, name=f"{config.env.name}-{config.cell.name}-s{config.seed}")
        write_run_files(run_dir, to_yaml(config), argv, trainer.env.exact)
    begun.append(run_dir)
    t = config.train
    session = Session(run_dir, trainer, log_every=t.log_every, checkpoint_every=t.checkpoint_every,
                      keep=t.keep_checkpoints, evaluate_every=t.evaluate_every,
                      watch=build.watcher(config, trainer.learner.agent, device),
                      stop_at_success=t.stop_at_success, diagnose_every=t.diagnose_every, examine_every=t.examine_every,
                      examine=build.examiner(config, trainer.learner.agent, device) if t.examine_every else None)  # fmt: skip
    restored = session.restore(resume[1]) if resume else ()
    print(f"run folder: {run_dir}", *trainer.env.remarks, *restored, sep="\n")
    if resume and session.finished and (report := _result(run_dir)):
        session.close()
        print("this run has ended; its result:")
        return _conclude(run_dir, config, report)
    if resume:
        note_resumption(run_dir, argv)
    with Interrupt() as interrupt:
        finished = session.run(interrupt)
        if session.solved:
            print(f"ended at step {trainer.step:,}: greedy success reached train.stop_at_success={t.stop_at_success:g}")
        if finished:
            print(f"the final evaluation: {config.evaluate.episodes:,} greedy and as many sampled episodes", flush=True)
        try:
            with interrupt.bounded(session.last_words):
                report = build.evaluate_agent(config, trainer.learner.agent, device, interrupt) if finished else None
        except Stopped:
            report = None
    if report is None:
        session.close()
        where = f"at step {trainer.step:,}" if not finished else "in the final evaluation"
        print(f"stopped {where} and saved; go on with: python train_agent.py --resume {quoted(run_dir)}")
        return 128 + interrupt.signum
    report |= {"step": trainer.step, "update": trainer.update}
    write_text(run_dir / "evaluation.json", json.dumps(report, indent=2) + "\n")
    session.close()  # until here no other process may write this run
    with TensorBoardMirror(run_dir / "tensorboard") as board:
        board.write_settings(trainer.step, flatten_config(config), build.results(report))
    return _conclude(run_dir, config, report)


def _result(run_dir: Path) -> dict | None:
    """The final evaluation, if there is one."""
    try:
        report = json.loads((run_dir / "evaluation.json").read_text())
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and {"episodes", "greedy", "sampled", "reference"} <= report.keys() else None


def _conclude(run_dir: Path, config: Config, report: dict) -> int:
    print(build.report_line(report))
    video = run_dir / "video.mp4"
    if video.exists():
        print(f"film: {video}")
    else:
        print(film(run_dir) if config.train.film else f"film it with: python record_video.py {quoted(run_dir)}")
    return 0


def film(run_dir: Path) -> str:
    """Films the run that has ended; what there is to say of it. That there is no film is no failure of the training."""
    import record_video  # what encodes films is slow to import

    try:
        return f"film: {record_video.film(record_video.parse([str(run_dir)]))}"
    except (CheckpointError, FilmError, EnvError) as error:
        return f"no film: {error}"


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        cells = textwrap.fill("cells: " + " ".join(build.KNOWN_CELLS), 120, subsequent_indent="  ", break_on_hyphens=False)
        show_help(f"{__doc__.strip()}\n\n{cells}\n\n{describe(build.KNOWN_CELLS)}")
        return 0
    begun: list[Path] = []
    return exit_status(lambda: train(*parse(argv), argv, begun), "interrupted; a run that has begun goes on with --resume RUN",
                       begun)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
