"""compare_cells.py: a comparison that is killed again and again ends with the tables of one that was not; slips; sweeps."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import pytest

import build
import compare_cells
import train_agent
from agents.pool import locked
from agents.results import FAILED
from agents.runlog import note_resumption
from agents.tables import NAMES, read_tables
from benchmarks import run_records
from configs.suite_file import read_suite
from envs.group import EnvError
from memory_cells import variants
from tests.agents.compared import compared

ROOT = Path(__file__).resolve().parent.parent
SUITE = """
about: a tiny one
cells: memoryless, lstm
seeds: 2
settings:
  device: cpu
  cell.hidden_size: 8
  agent.embedding_size: 8
  train: {steps: 2000, num_envs: 8, unroll_length: 16, checkpoint_every: 1, log_every: 2, evaluate_every: 5,
          evaluate_episodes: 16, keep_checkpoints: 1}
  evaluate: {episodes: 20, num_envs: 20}
envs:
  tmaze_passive: {lengths: 4}
"""
#: a cell that acts but cannot be trained, known to every process that finds this module first
CRASH = """
from memory_cells import variants
from memory_cells.cells import Memoryless

class Crash(Memoryless):
    def project(self, x):
        if len(x) > 1:
            raise RuntimeError("this gate is broken")
        return super().project(x)

variants.CELLS["crash"] = lambda i, h, gate, init: Crash(i, h)
variants.VARIANTS["crash"] = variants.Variant("crash", source="a test")
"""


@pytest.fixture
def suite(tmp_path, monkeypatch) -> str:
    monkeypatch.setattr(compare_cells, "films", lambda *_: {})  # each has tests of its own, and takes seconds
    monkeypatch.setattr(compare_cells, "draw_all", lambda *_: [])
    path = tmp_path / "a tiny.yaml"
    path.write_text(SUITE)
    return str(path)


def comparison(*argv: str) -> compare_cells.Comparison:
    return compare_cells.Comparison(read_suite(argv, build.KNOWN_CELLS), argv)


def by_hand(runs) -> None:
    """Makes runs as train_agent.py makes them, without the comparison's processes."""
    for run in runs:
        assert train_agent.main(list(run.tokens)) == 0


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in (*(f"{name}.csv" for name in NAMES), "failures.txt")}


# --- killed --------------------------------------------------------------------------------------------------------------


def steps_of(out: Path) -> int:
    """Steps of all checkpoints together."""
    return sum(int(p.read_text().split("-")[0].split(" ")[0]) for p in out.glob("runs/*/checkpoints/latest"))


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def beyond(process: subprocess.Popen, out: Path, steps: int) -> None:
    """Waits until so many steps more than now are saved."""
    began, steps = time.monotonic(), steps_of(out) + steps
    while steps_of(out) < steps:
        assert process.poll() is None and time.monotonic() - began < 240, process.stdout.read()
        time.sleep(0.005)


def killed(suite: str, tmp_path: Path, monkeypatch, jobs: int, extra: list[str]) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(CRASH)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'first'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    out, plain = tmp_path / "killed", tmp_path / "plain"
    argv = [suite, "cells=memoryless,lstm,crash", "baseline=lstm", *extra]

    def launch() -> subprocess.Popen:
        return subprocess.Popen([sys.executable, ROOT / "compare_cells.py", *argv, f"out={out}", f"jobs={jobs}"], text=True,
                                cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def kill(process: subprocess.Popen, victims: list[int]) -> None:
        for victim in victims:
            os.kill(victim, signal.SIGKILL)

    for number in range(3):
        parent = launch()
        beyond(parent, out, 400)
        if number == 1:
            kill(parent, children(parent.pid)[:1])  # the comparison goes on with it
            beyond(parent, out, 400)
        orphans = children(parent.pid)
        kill(parent, [parent.pid])
        parent.communicate()
        assert orphans
        with locked(out):  # held by every child that is still there
            assert not any(Path(f"/proc/{pid}").exists() and b"--child" in Path(f"/proc/{pid}/cmdline").read_bytes()
                           for pid in orphans)  # fmt: skip
    last = launch()
    told = last.communicate(timeout=600)[0]
    assert last.returncode == 1 and "RuntimeError: this gate is broken" in told, told
    done = {p.parent: p.stat().st_mtime_ns for p in out.glob("runs/*/evaluation.json")}

    exec(CRASH, {"__name__": "crash"})  # so that this process knows the cell too
    try:
        monkeypatch.setattr(build, "KNOWN_CELLS", (*build.KNOWN_CELLS, "crash"))
        reference = comparison(*argv, f"out={plain}")
        by_hand([run for run in reference.runs() if run.cell != "crash"])
        for run in reference.runs():
            if run.cell == "crash":
                job = reference.job(run)
                job.failure.parent.mkdir(exist_ok=True)
                job.failure.write_text("RuntimeError: this gate is broken\n")
        assert compare_cells.main([*argv, f"out={plain}", "jobs=0"]) == 1
        assert tables(out) == tables(plain)
        assert compare_cells.main([*argv, f"out={out}", "jobs=0"]) == 1  # and once more from what is there
        assert tables(out) == tables(plain)
    finally:
        del variants.CELLS["crash"], variants.VARIANTS["crash"]
    assert {p.parent: p.stat().st_mtime_ns for p in out.glob("runs/*/evaluation.json")} == done
    found = read_tables(out)
    assert {row["status"] for row in found["results"] if row["cell"] == "crash"} == {"failed"}
    assert len(found["results"]) == 3 * len(reference.suite.tasks) * len(reference.suite.seeds)
    assert all(row["status"] in ("censored", "solved") for row in found["results"] if row["cell"] != "crash")
    assert (out / "index.html").is_file() and (out / "figures" / "ranking.svg").is_file()
    assert json.loads((out / "suite.json").read_text())["cells"] == ["memoryless", "lstm", "crash"]


def test_killed_three_times_and_a_child_once(suite, tmp_path, monkeypatch):
    killed(suite, tmp_path, monkeypatch, 1, ["seeds=1"])


@pytest.mark.slow
def test_killed_two_at_a_time(suite, tmp_path, monkeypatch):
    killed(suite, tmp_path, monkeypatch, 2, ["train.steps=6000", "lengths=4,5"])


# --- from what is there ------------------------------------------------------------------------------------------------------


def test_a_comparison_by_hand(suite, tmp_path, capsys):
    """jobs=0: only tables and figures, of all that is there."""
    argv = [suite, f"out={tmp_path / 'out'}", "train.steps=300"]
    runs = comparison(*argv).runs()
    assert [(run.cell, run.seed) for run in runs] == [("memoryless", 1), ("lstm", 1), ("memoryless", 2), ("lstm", 2)]
    by_hand(runs[:3])
    capsys.readouterr()
    assert compare_cells.main([*argv, "jobs=0"]) == 1
    told = capsys.readouterr().out
    assert "2 cells x 1 task x 2 seeds: 4 runs; 3 are done" in told and "1 run still to be made" in told
    assert "looking into gates and gradients of agents: 3 of 3" in told
    assert [row["status"] for row in read_tables(tmp_path / "out")["results"]] == ["censored"] * 3 + ["pending"]
    by_hand(runs[3:])
    assert compare_cells.main([*argv, "jobs=0"]) == 0
    made = read_tables(tmp_path / "out")
    assert [row["status"] for row in made["results"]] == ["censored"] * 4
    assert all(300 <= row["steps"] < 300 + 8 * 16 for row in made["results"])
    assert {row["parameters"] for row in made["results"]} == {72, 544}  # of the cores alone
    told = capsys.readouterr().out
    assert "control on tmaze_passive 4" in told and "gradients of agents: 1 of 1" in told
    page = (tmp_path / "out" / "index.html").read_text()
    assert "control on tmaze_passive 4" in page and f"python compare_cells.py '{suite}' out=" in unescape(page)
    assert compare_cells.main([*argv, "jobs=0"]) == 0 and "looking into" not in capsys.readouterr().out

    # kept as text and made again elsewhere, the runs give the same tables
    kept, elsewhere = tmp_path / "kept.jsonl", tmp_path / "elsewhere"
    note_resumption(runs[0].folder, ["--resume", str(runs[0].folder)])
    run_records.keep(tmp_path / "out", kept)
    assert str(tmp_path) not in kept.read_text()
    before = kept.read_bytes()
    (tmp_path / "none").mkdir()
    run_records.keep(tmp_path / "none", kept)  # runs that are only in the file stay in it
    assert kept.read_bytes() == before
    run_records.restore(kept, elsewhere)
    capsys.readouterr()
    assert compare_cells.main([suite, f"out={elsewhere}", "train.steps=300", "jobs=0"]) == 0
    assert "4 runs; 4 are done" in (told := capsys.readouterr().out) and "looking into" not in told
    assert tables(elsewhere) == tables(tmp_path / "out")
    for name in ("../x", "a/b", ""):
        kept.write_text(json.dumps({"run": name, "files": {}}) + "\n")
        with pytest.raises(SystemExit, match="line 1 is no record"):
            run_records.restore(kept, elsewhere)


def test_the_best_cell_is_filmed_unless_a_run_of_it_failed(tmp_path, monkeypatch):
    def rule(cell, env, length, seed):
        if (cell == "gru" or env == "tmaze_bakker") and seed == 2:
            return FAILED
        return {"memoryless": 0.5, "lstm": 0.9, "gru": 1.0}[cell], None

    filmed = []
    monkeypatch.setattr(compare_cells.record_video, "parse", lambda argv: Path(argv[0]))
    monkeypatch.setattr(compare_cells.record_video, "film", filmed.append)
    results = compared("memoryless lstm gru", {"tmaze_passive": (10,), "tmaze_bakker": (10,)}, 2, rule)
    compare_cells.films(tmp_path, results)
    assert filmed == [Path("tmaze_passive-10-lstm-s1")]
    monkeypatch.setattr(compare_cells, "list_checkpoints", lambda run: [run] if run.name.endswith("s2") else [])
    compare_cells.films(tmp_path, results)
    assert filmed[1:] == [Path("tmaze_passive-10-lstm-s2")]
    equal = compared("lstm gru", {"tmaze_passive": (10,)}, 1, lambda cell, *_: (1.0, 9000 if cell == "lstm" else 5000))
    compare_cells.films(tmp_path, equal)
    assert filmed[2:] == [Path("tmaze_passive-10-gru-s1")]


def test_a_film_of_a_run_that_was_made_again_is_made_again(tmp_path, monkeypatch):
    (run,) = compared("lstm", {"tmaze_passive": (10,)}, 1, lambda *_: (1.0, 9000))
    folder = tmp_path / "run"
    run = dataclasses.replace(run, slot=dataclasses.replace(run.slot, folder=folder))
    filmed = []
    monkeypatch.setattr(compare_cells.record_video, "parse", lambda argv: Path(argv[2]))
    monkeypatch.setattr(compare_cells.record_video, "film", lambda path: (filmed.append(path), path.write_bytes(b"film")))
    folder.mkdir()
    (folder / "evaluation.json").write_text("{}")
    film = tmp_path / "films" / "run.mp4"
    monkeypatch.setattr(compare_cells, "list_checkpoints", lambda run: [run] if len(filmed) < 2 else [])
    for count, evaluated in ((1, 0), (1, 0), (2, 10), (2, 10)):  # seconds after the film
        if filmed:
            stamp = film.stat().st_mtime + evaluated
            os.utime(folder / "evaluation.json", (stamp, stamp))
        compare_cells.films(tmp_path, [run])
        assert len(filmed) == count


def test_a_broken_environment_ends_in_a_line(suite, tmp_path, monkeypatch, capsys):
    """Looking into an agent may meet it too: that run is told of, the rest is written."""
    argv = [suite, f"out={tmp_path / 'out'}", "train.steps=300", "jobs=0", "cells=lstm", "seeds=1"]
    by_hand(comparison(*argv).runs())

    def broken(*_, **__):
        raise EnvError("worker 0 is dead")

    monkeypatch.setattr(compare_cells, "_diagnosis", broken)
    capsys.readouterr()
    assert compare_cells.main(argv) == 0
    told = capsys.readouterr().err
    assert "no gates and gradients of tmaze_passive-4-lstm-s1: worker 0 is dead" in told
    assert (tmp_path / "out" / "index.html").is_file()
    monkeypatch.setattr(build, "make_env", broken)
    assert compare_cells.main(argv) == 2 and capsys.readouterr().err == "error: worker 0 is dead\n"


def test_a_control_that_sees_its_last_action_is_measured_by_what_that_gives(suite, tmp_path):
    """Without memory the optimum of repeat_first is to say again what one said."""
    tokens = suite, "envs=repeat_first"
    (one,) = {spec for _, spec in comparison(*tokens).known.values()}
    told = {spec for _, spec in comparison(*tokens, "agent.see_last_action=true").known.values()}
    assert one.r0_memory < -0.49 and one.chance == 0.25 and one.score(one.r0_memory) == 0
    assert {(spec.r0_memory, spec.chance, spec.score(1.0)) for spec in told} == {(1.0, None, None)}


def test_what_was_made_with_other_settings_is_refused(suite, tmp_path, capsys):
    out = tmp_path / "out"
    by_hand(comparison(suite, f"out={out}").runs()[:1])
    files = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    capsys.readouterr()
    for token, words in (("agent.gamma=0.9", "agent.gamma=0.999, now it is 0.9"), ("train.steps=3000", "train.steps=2000")):
        assert compare_cells.main([suite, f"out={out}", token]) == 2
        told = capsys.readouterr()
        assert words in told.err and "give another out=" in told.err and told.err.count("\n") == 1 and not told.out
    assert files == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    comparison(suite, f"out={out}", "seeds=3", "cells=memoryless,gru", "train.threads=2")  # more, or elsewhere: fine


@pytest.mark.parametrize("tokens, words", [
    (["cells=lstn"], ["did you mean lstm?"]), (["cells=um-lstm", "cell.chunk=3"], ["chunk"]),
    (["cell.chunk=2"], ["takes no chunk", "um-lstm"]), (["train.evaluate_every=0"], ["train.evaluate_every above 0"]),
    (["agent.budget_cost=1"], ["agent.budget_cost", "time gate"]), (["train.cuda_graphs=true", "device=cpu"], ["cuda_graphs"]),
    (["aux=predict", "aux.segment=60"], ["aux.segment=60", "at most"]),
    (["agent.minibatches=3"], ["does not divide"]), (["out=/proc/nothing"], ["cannot make the folder /proc/nothing"]),
    (["solved=0.95", "train.stop_at_success=0.5"], ["stops runs before solved=0.95"]),
    (["jobs=0", "out=nowhere"], ["nowhere is no comparison's folder", "jobs=0 needs one"]),
    (["baseline=janet", "cells=lstm,gru"], ["the baseline janet is none of the cells: lstm, gru"]),
    (["train.stagger_episodes=true", "train.steps=20"], ["train.steps=20 may be used up", "train.stagger_episodes=false"]),
    (["train.step=5"], ["did you mean train.steps?"]), (["envs=tmaze_bakker", "env.step_limit=3"], ["step_limit"]),
])  # fmt: skip
def test_slips_write_nothing(suite, tmp_path, monkeypatch, capsys, tokens, words):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert compare_cells.main([suite, *tokens]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ") and told.err.count("\n") == 1 and not told.out
    assert all(word in told.err for word in words), told.err
    assert set(tmp_path.rglob("*")) == before


def test_help(capsys):
    assert compare_cells.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("cells=a,b", "smoke", "retention", "jobs=0", "Exit status"))


def test_the_cost_is_that_of_the_settings_at_hand(suite, tmp_path, monkeypatch):
    """With more steps or units in the same folder it is measured anew, with other seeds it is not."""
    asked = []
    monkeypatch.setattr(compare_cells, "_speed", lambda config: asked.append(config) or config.train.steps / 10)

    def seconds(*tokens):
        made = comparison(suite, "cells=lstm", f"out={tmp_path}", "jobs=1", *tokens)
        return compare_cells.announce(made, made.runs())["lstm", "tmaze_passive-4"]

    assert [seconds(), seconds("train.steps=5000"), seconds("first_seed=7", "seeds=5")] == [200, 500, 200] and len(asked) == 2
    assert seconds("cell.hidden_size=16") == 200 and len(asked) == 3


def test_equal_parameters(suite, tmp_path):
    """Every core has as many as the baseline at the suite's width, as nearly as whole widths allow."""
    made = comparison(suite, "cells=lstm,gru,janet", "match=parameters", "cell.hidden_size=16", f"out={tmp_path / 'out'}")
    sizes = {cell: parameters for (cell, _), (parameters, _) in made.known.items()}
    assert sizes["lstm"] == 4 * 16 * (8 + 16 + 1) and all(abs(size / sizes["lstm"] - 1) < 0.1 for size in sizes.values())
    widths = comparison(suite, "cells=lstm,gru,janet", "cell.hidden_size=16", f"out={tmp_path / 'out'}").known
    assert widths["janet", "tmaze_passive-4"][0] < 0.6 * sizes["lstm"]


def test_a_sweep_of_learning_rates(suite, tmp_path, capsys):
    """The comparison takes for each cell the rate that was best on seeds of its own, and reports all rates."""
    out = tmp_path / "out"
    argv = [suite, "seeds=1", "cells=lstm,memoryless", "learning_rates=1e-3,3e-3", "sweep_seeds=1", f"out={out}",
            "train.steps=300"]  # fmt: skip
    made = comparison(*argv)
    swept = made.sweep()
    assert len(swept) == 4 and {run.seed for run in swept}.isdisjoint(made.suite.seeds)
    by_hand(swept)
    scores = {("lstm", 1e-3): 0.2, ("lstm", 3e-3): 0.9, ("memoryless", 1e-3): 0.6, ("memoryless", 3e-3): 0.1}
    for run in swept:  # a score by hand, so that the choice is known
        path = run.folder / "evaluation.json"
        report = json.loads(path.read_text())
        report["greedy"]["mean_return"] = 0.5 + scores[run.cell, run.config.agent.learning_rate] / 2
        path.write_text(json.dumps(report))
    best = {("lstm", "tmaze_passive-4"): 3e-3, ("memoryless", "tmaze_passive-4"): 1e-3}
    by_hand(made.runs(best))
    capsys.readouterr()
    assert compare_cells.main([*argv, "jobs=0"]) == 0
    assert "after 4 runs to choose the learning rates: 6 runs; 6 are done" in capsys.readouterr().out
    assert {row["cell"]: row["learning_rate"] for row in read_tables(out)["results"]} == {"lstm": 3e-3, "memoryless": 1e-3}
    lines = (out / "sweep.csv").read_text().splitlines()
    assert len(lines) == 5 and sum(line.endswith(",1") for line in lines) == 2
    for run in [run for run in swept if run.cell == "lstm"]:  # both rates of lstm have failed: so has lstm
        (run.folder / "evaluation.json").unlink()
        assert compare_cells.main([*argv, "jobs=0"]) == 1  # nothing is chosen before the sweep is whole
        assert capsys.readouterr().out.endswith("1 run still to be made\n")
        made.job(run).failure.parent.mkdir(exist_ok=True)
        made.job(run).failure.write_text("NonFiniteError: loss\n")
    shutil.rmtree(made.runs(best)[0].folder)
    assert compare_cells.main([*argv, "jobs=0"]) == 1
    assert "every learning rate of the sweep has failed runs" in (out / "failures.txt").read_text()
