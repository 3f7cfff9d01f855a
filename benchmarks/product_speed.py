"""The recurrent product alone, one thread: torch's own against the register tiles of `memory_cells/kernels/tiles.py`.

    python benchmarks/product_speed.py

Billions of operations a second (two for each multiplication) of (rows, inner) x (inner, columns) for the weights of an LSTM
with 128 and 256 units, forward and backward; best of 60 interleaved batches of 40. Equality is checked first.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch

from memory_cells.kernels import compiler, tiles


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    if not (functions := tiles.functions(compiler.compiled)):
        sys.exit("this processor has no AVX-512: torch's own product is what is used")
    address = ctypes.cast(functions[0], ctypes.c_void_p).value
    multiply = ctypes.CFUNCTYPE(None, *[ctypes.c_long] * 3, *[ctypes.c_void_p] * 3, ctypes.c_bool)(address)
    print("| weight | rows | torch | tiles |\n|---|---|---|---|")
    for inner, columns in ((128, 512), (512, 128), (256, 1024), (1024, 256)):
        for rows in (4, 8, 16, 32, 64):
            x, w, y = torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)
            panels = tiles.panels(w)
            given = rows, inner, columns, panels.data_ptr(), x.data_ptr(), y.data_ptr(), False
            multiply(*given)
            torch.testing.assert_close(y, x @ w, atol=1e-3, rtol=0)
            best = [float("inf")] * 2
            for _ in range(60):
                for i, call in enumerate((lambda: torch.mm(x, w, out=y), lambda: multiply(*given))):  # noqa: B023
                    began = time.perf_counter()
                    for _ in range(40):
                        call()
                    best[i] = min(best[i], (time.perf_counter() - began) / 40)
            rates = " | ".join(f"{2e-9 * rows * inner * columns / seconds:.0f}" for seconds in best)
            print(f"| {inner} x {columns} | {rows} | {rates} |")


if __name__ == "__main__":
    main()
