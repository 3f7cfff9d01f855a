"""Nothing that is read is run: a gate over the source, and run folders made to harm."""

import ast
import random
import subprocess
from pathlib import Path

import pytest
import torch

import evaluate_agent
import train_agent
from agents import checkpoint
from agents.checkpoint import flatten, load, unflatten

ROOT = Path(__file__).resolve().parent.parent

# --- the gate --------------------------------------------------------------------------------------------------------

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "hydra", "lightning"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "os.system",
    "os.popen", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load",
    "yaml.full_load_all", "numpy.load", "np.load", "subprocess.getoutput", "subprocess.getstatusoutput",
}  # fmt: skip
KEYWORDS = {("weights_only", False), ("shell", True), ("allow_pickle", True)}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def offences(text: str) -> list[str]:
    """What in a source text could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [module] if module.split(".")[0] in MODULES else []
            found += [f"{module}.{a.name}" for a in node.names if f"{module}.{a.name}" in CALLS]
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            found += [name] if name in CALLS or name in BUILTINS else []
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in KEYWORDS:
                    found.append(f"{keyword.arg}={keyword.value.value}")
        elif isinstance(node, ast.Constant) and node.value in ("_target_", "_partial_"):
            found.append(str(node.value))
    return found


@pytest.mark.parametrize("text", [
    "import pickle", "from pickle import loads", "import torch\ntorch.load('x')", "from torch import load", "eval('1')",
    "exec(x)", "__import__('os')", "f(weights_only=False)", "yaml.load(x, Loader=L)", "yaml.unsafe_load(x)",
    "d['_target_']", "os.system('ls')", "subprocess.run('ls', shell=True)", "np.load(x, allow_pickle=True)",
    "def f():\n  import dill", "torch.save(x, p)", "torch.hub.load('a', 'b')", "from yaml import load",
])  # fmt: skip
def test_the_gate_sees(text):
    assert offences(text)


def test_the_gate_lets_pass():
    assert not offences("agent.eval()\nre.compile('x')\ntorch.compile(f)\nyaml.safe_load(x)\nf(shell=False)\njson.load(p)")


def test_no_tracked_file_runs_what_it_reads():
    try:
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "*.py"], capture_output=True, check=True, text=True)
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    except (OSError, subprocess.SubprocessError):
        files = list(ROOT.glob("*.py")) + [p for f in ("agents", "configs", "envs", "memory_cells") for p in
                                           (ROOT / f).rglob("*.py")]  # fmt: skip
    files = [p for p in files if p.is_file() and p.relative_to(ROOT).parts[0] != "tests"]
    assert len(files) > 30
    found = {str(p.relative_to(ROOT)): offences(p.read_text(encoding="utf-8")) for p in files}
    assert not {name: what for name, what in found.items() if what}


# --- hostile run folders ---------------------------------------------------------------------------------------------

TINY = [
    "smoke", "device=cpu", "train.threads=1", "cell=gru", "cell.hidden_size=4", "agent.embedding_size=4",
    "train.num_envs=4", "train.steps=150", "agent.minibatches=1", "agent.reuse=1", "evaluate.episodes=2",
    "train.evaluate_every=0", "agent.actor_lag=1", "agent.normalise_reward=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("security") / "run"
    assert train_agent.main([*TINY, f"run_dir={run}"]) == 0
    return run


def contents(folder: Path) -> dict:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(arguments: tuple, capsys, allow: tuple = (2,)) -> str:
    """Runs a script; it must leave with one line, and change nothing, or with another status of `allow`."""
    main, tokens, run = arguments
    before = contents(run)
    capsys.readouterr()
    status = main(tokens)
    told = capsys.readouterr().err
    assert status in allow
    if status == 2:
        assert told.startswith("error: ") and told.count("\n") == 1 and len(told) < 2000, told
        assert all(c.isprintable() for c in told[:-1]), told
        assert contents(run) == before
    return told


def both(run: Path) -> list[tuple]:
    return [(train_agent.main, ["--resume", str(run)], run), (evaluate_agent.main, [str(run)], run)]


BOMB = "\n".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" if a else f"{b}: &{b} [x]" for a, b in zip(" abcdefgh", "abcdefghi"))


@pytest.mark.parametrize("text", [
    "run_dir: !!python/object/apply:os.system ['touch OWNED']", "!!python/object/new:os.system [touch OWNED]",
    "run_dir: !!python/name:os.system", "run_dir: ${oc.env:HOME}", "run_dir: ${oc.create:x}", "seed: ${cell.hidden_size}",
    "agent: {_target_: os.system, command: touch OWNED}", "_target_: os.system", "x: &x [*x]", BOMB,
    "cell: {name: !!python/object/apply:os.system ['touch OWNED']}", "cell:\n  name: ${env:HOME}\n", "run_dir: |\n  a\n  b",
    "defaults: {cell: ../../etc/passwd}", "env: {name: __import__}", "\x00", "seed: 1\nseed: 2", "<<: {seed: 1}", "[]", "",
    "a: " + "[" * 5000, "seed: " + "9" * 10000, "\ufeff\u202e: 1", "run_dir: \"\\e[2J\"",
])  # fmt: skip
def test_hostile_config(text, run, tmp_path, capsys, monkeypatch):
    """Added to a good config.yaml, and in its place."""
    monkeypatch.chdir(tmp_path)
    good = (run / "config.yaml").read_text()
    for number, content in enumerate((good + "\n" + text if text not in ("", "[]") else "", text)):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text(content)
        (folder / "metrics.jsonl").write_text("")
        for arguments in both(folder):
            assert "config.yaml" in refused(arguments, capsys)
    assert not (tmp_path / "OWNED").exists()


def forge(run: Path, folder: Path, nested: dict, meta: dict | bytes, tensors: bytes | None = None) -> Path:
    """A run folder whose checkpoint holds anything at all, with every hash right."""
    folder.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (folder / name).write_bytes((run / name).read_bytes())
    flat, structure = flatten("trainer", nested)
    if isinstance(meta, dict):
        meta = checkpoint._json_bytes({"trainer": structure, **meta})
    body = {"tensors.safetensors": checkpoint._tensor_bytes(flat) if tensors is None else tensors, "meta.json": meta}
    manifest = checkpoint._manifest_bytes(1, body)
    path = folder / "checkpoints" / f"{1:012d}"
    path.mkdir(parents=True)
    for name, data in {**body, "manifest.json": manifest}.items():
        (path / name).write_bytes(data)
    (path.parent / "latest").write_text(f"{path.name} {checkpoint._sha256(manifest)}\n")
    return folder


def state_of(run: Path) -> tuple[dict, dict]:
    tensors, meta, _ = load(run)
    return unflatten(tensors, meta.pop("trainer")), meta


@pytest.mark.parametrize("meta", [
    {"metrics_offset": "x"}, {"metrics_offset": -1}, {"metrics_offset": 10**30}, {"metrics_offset": 1.5},
    {"metrics_offset": None}, {"metrics_offset": [1]}, {"metrics_offset": 3}, {"solved": "no"}, {"solved": {}},
    {"trainer": None}, {"trainer": []}, {"trainer": 3}, {"trainer": {}}, {"trainer": {"$tensor": "nothing"}},
    {"trainer": {"$dict": 3}}, {"trainer": {"$other": 3}}, {"trainer": {"$tensor": ["x"]}},
    b"", b"[]", b"3", b"null", b"{", b"\xff", b"[" * 100000, b'{"a": 1}', b'{"trainer": {"$number": "x"}}',
    b'{"trainer": NaN, "metrics_offset": NaN, "solved": NaN}', b'{"$tuple": [1]}', b'{"$dict": [[{"$dict": []}, 1]]}',
])  # fmt: skip
def test_hostile_meta(meta, run, tmp_path, capsys):
    nested, good = state_of(run)
    folder = forge(run, tmp_path / "run", nested, {**good, **meta} if isinstance(meta, dict) else meta)
    resume, evaluate = both(folder)
    refused(resume, capsys)
    refused(evaluate, capsys, (2, 0) if isinstance(meta, dict) and "trainer" not in meta else (2,))


@pytest.mark.parametrize("tensors", [b"", b"\x00" * 8, b"\xff" * 64, b"\x80\x04" + b"x" * 30,
                                     b"\x40\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32","shape":[99999999999],'
                                     b'"data_offsets":[0,4]}}   ' + b"\0" * 4])  # fmt: skip
def test_hostile_tensors(tensors, run, tmp_path, capsys):
    nested, good = state_of(run)
    for arguments in both(forge(run, tmp_path / "run", nested, good, tensors)):
        refused(arguments, capsys)


VALUES = [None, "x", -1, 1e300, True, [], {}, {"a": 1}, [1, 2, 3], torch.zeros(3), torch.zeros(0), torch.tensor("nan" > ""),
          torch.zeros(2, 2, dtype=torch.int64), 10**30]  # fmt: skip


def places(nested, at=()):
    """The paths of every entry of a nest, at any depth."""
    for key in nested if isinstance(nested, dict) else range(len(nested)):
        yield (*at, key)
        if isinstance(nested[key], (dict, list)):
            yield from places(nested[key], (*at, key))


def mutated(nested, place, value):
    copy = dict(nested) if isinstance(nested, dict) else list(nested)
    copy[place[0]] = mutated(nested[place[0]], place[1:], value) if len(place) > 1 else value
    return copy


def try_mutations(run, tmp_path, capsys, chosen) -> None:
    nested, good = state_of(run)
    refusals = 0
    for number, (place, value) in enumerate(chosen(list(places(nested)))):
        forged = mutated(nested, place, value)
        for arguments in both(forge(run, tmp_path / str(number), forged, good)):
            try:
                refusals += bool(refused(arguments, capsys, (0, 2)))
            except Exception as error:
                raise AssertionError(f"{'/'.join(map(str, place))} = {value!r}: {error!r}") from error
    assert refusals


def test_hostile_states(run, tmp_path, capsys):
    """Some entry of the trainer's state is something else: refused in one line, or harmless; never a traceback."""
    rng = random.Random(0)
    try_mutations(run, tmp_path, capsys, lambda all_: [(p, rng.choice(VALUES)) for p in rng.sample(all_, 40)])


@pytest.mark.slow
def test_every_hostile_state(run, tmp_path, capsys):
    try_mutations(run, tmp_path, capsys, lambda all_: [(p, v) for p in all_ for v in VALUES])


def test_the_forger_can_also_be_honest(run, tmp_path, capsys):
    """Else every refusal above could have another reason."""
    for arguments in both(forge(run, tmp_path / "run", *state_of(run))):
        refused(arguments, capsys, (0,))
