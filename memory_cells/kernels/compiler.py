"""C++ source to a shared object, compiled once per source and machine and kept in `$XDG_CACHE_HOME/gatemaze` (default
`~/.cache/gatemaze`)."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

FLAGS = ["-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"]


_refused: dict[Path, str] = {}  # what the compiler has said once, it would say at every call


class CompilerMissing(Exception):
    """No C++ compiler, or no matrix product to link to."""


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "\n".join(x for x in lines if x.startswith(("model name", "flags", "Features")))
    except OSError:
        return platform.processor()


@functools.cache
def product_of_torch(symbol: str) -> int:
    """The address of a BLAS routine that torch itself carries. Raises CompilerMissing."""
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).parent / "lib" / name
        if path.exists():
            try:
                return ctypes.cast(getattr(ctypes.CDLL(str(path)), symbol), ctypes.c_void_p).value
            except AttributeError:
                break
    raise CompilerMissing(f"this build of torch does not export {symbol}")


def compiled(source: str, optimise: str) -> ctypes.CDLL:
    """The library of a C++ source, made with the flag `optimise` if it is not there yet. Raises CompilerMissing."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise CompilerMissing("no C++ compiler (g++ or clang++) on the PATH")
    key = hashlib.sha256("\n".join([source, compiler, optimise, *FLAGS, _machine()]).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gatemaze"
    target = folder / f"{key}.so"
    if target in _refused:
        raise CompilerMissing(_refused[target])
    try:
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                text, built = Path(work) / "kernel.cpp", Path(work) / "kernel.so"
                text.write_text(source)
                command = [*shlex.split(compiler), optimise, *FLAGS, str(text), "-o", str(built)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    said = (done.stderr.strip() or "no message").splitlines()[0].replace(f"{work}/", "")
                    _refused[target] = f"{compiler} failed: {said}"
                    raise CompilerMissing(_refused[target])
                os.replace(built, target)
        return ctypes.CDLL(str(target))
    except OSError as error:  # no such compiler, a cache that cannot be written, or not be run from
        raise CompilerMissing(f"cannot compile with {compiler} into {folder}: {error}") from error
