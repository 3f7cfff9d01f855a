"""Arrows point down: who may import whom, read from the source; and the sizes and the map of the house."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"memory_cells", "envs", "agents", "configs"}
SCRIPTS = {p.stem for p in ROOT.glob("*.py")}
#: the packages that each folder may import beside the standard library
MAY_IMPORT = {
    "memory_cells": {"memory_cells", "torch"},
    "memory_cells/kernels": {"memory_cells", "torch", "triton"},
    "envs": {"envs", "torch", "numpy", "gymnasium", "minigrid", "envpool"},
    "agents": {"agents", "envs", "memory_cells", "torch", "numpy", "scipy", "safetensors", "rich", "av", "PIL",
               "matplotlib"},
    "configs": {"configs", "yaml", "omegaconf"},
}  # fmt: skip
#: what makes something from numbers; with a config in the same file, it belongs in build.py
CONSTRUCTORS = {"Agent", "Learner", "Trainer", "Schedule", "Settings", "make", "make_core", "make_optimizer", "TMaze",
                "BakkerTMaze", "MetricsLog"}  # fmt: skip


def sources(*folders: str) -> list[Path]:
    """The Python files of the project, or of some of its folders (of these without what lies deeper)."""
    if folders:
        return [p for folder in folders for p in sorted((ROOT / folder).glob("*.py"))]
    try:
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "*.py"], capture_output=True, check=True, text=True)
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    except (OSError, subprocess.SubprocessError):
        found = []
    return [p for p in found if p.is_file()] or [p for f in (*OURS, "tests", ".") for p in (ROOT / f).rglob("*.py")]


def imports(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """(module, names) of every import in a file, wherever it stands; relative ones made absolute."""
    found = []
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            found.append((".".join([*above, *filter(None, [node.module])]), tuple(a.name for a in node.names)))
    return found


def tops(path: Path) -> set[str]:
    return {module.split(".")[0] for module, _ in imports(path)}


def test_the_reader_sees_every_form(tmp_path, monkeypatch):
    (tmp_path / "agents" / "deep").mkdir(parents=True)
    path = tmp_path / "agents" / "deep" / "x.py"
    path.write_text("import os.path as p, torch.nn\nfrom . import a\nfrom ..b import c, d\ndef f():\n  import envs.env\n"
                    "try:\n  from configs.load import load_config as z\nexcept ImportError: pass\n")  # fmt: skip
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert set(imports(path)) == {
        ("os.path", ()), ("torch.nn", ()), ("agents.deep", ("a",)), ("agents.b", ("c", "d")), ("envs.env", ()),
        ("configs.load", ("load_config",)),
    }  # fmt: skip


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_arrows_point_down(folder):
    files = sources(folder)
    assert files
    for path in files:
        wrong = tops(path) - MAY_IMPORT[folder] - sys.stdlib_module_names
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_every_folder_has_its_law():
    folders = {str(p.parent.relative_to(ROOT)) for p in sources()} - {"."}
    assert {f for f in folders if f.split("/")[0] not in ("tests", "benchmarks", "docs")} == set(MAY_IMPORT)


def test_nobody_imports_a_script_but_a_script():
    for path in sources():
        if path.parent == ROOT or path.relative_to(ROOT).parts[0] in ("tests", "benchmarks"):
            continue
        assert not tops(path) & SCRIPTS, f"{path.relative_to(ROOT)} imports a script"


def test_only_build_knows_a_config_and_a_constructor():
    knows_both = set()
    for path in [p for p in sources() if p.relative_to(ROOT).parts[0] not in ("tests", "benchmarks")]:
        if "configs" not in tops(path):
            continue
        if tops(path) & (OURS - {"configs"}):
            assert path.parent == ROOT, f"{path.relative_to(ROOT)} imports configs and what it configures"
        for module, names in imports(path):
            if module.split(".")[0] in OURS - {"configs"} and CONSTRUCTORS & set(names):
                knows_both.add(path.name)
    assert knows_both == {"build.py"}


def test_no_constructor_takes_a_config():
    """Not even unimported, as an annotation or under the name `config`."""
    for path in sources("memory_cells", "memory_cells/kernels", "envs", "agents"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                names = {a.arg for a in (*node.args.args, *node.args.kwonlyargs)}
                assert not names & {"config", "cfg", "args"}, f"{path.relative_to(ROOT)}: {node.name}"


def test_a_file_fits_one_idea():
    for path in sources():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 400, f"{path.relative_to(ROOT)} has {lines} lines"


def test_the_map_names_every_file():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [p.name for p in sources() if p.parent == ROOT and p.name not in text]
    assert not missing, f"README.md does not name {', '.join(missing)}"
    assert all(f"{folder}/" in text for folder in OURS)
