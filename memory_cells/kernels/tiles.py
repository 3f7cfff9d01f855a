"""Matrix products of few rows, for processors with AVX-512: the weight lies in panels, a tile of the result in registers.

In a sequence every thread multiplies its few rows with the same weight T times. A general product reads that weight from
memory as it lies, and with 8 rows gets to half of what the processor can do; here it is laid out once per sequence. Each
number is a sum in the order of the inner dimension, whatever the number of rows, so a row's result does not depend on
the rows beside it, on the batch's size, or on how threads share it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from torch import Tensor

LANES = 16  # numbers in a vector

SOURCE = r"""
#ifdef __AVX512F__
#include <immintrin.h>
// y (M, N) (+)= x (M, in) times one panel (in, 16 V), of which the first `left` columns are there
template <int M, int V>
static void tile(long in, const float* panel, const float* x, float* y, long N, long left, bool add) {
    __mmask16 there[V];
    for (int v = 0; v < V; ++v) there[v] = left >= 16 * v + 16 ? 0xFFFF : left > 16 * v ? (1 << (left - 16 * v)) - 1 : 0;
    __m512 sum[M][V];
    for (int m = 0; m < M; ++m)
        for (int v = 0; v < V; ++v)
            sum[m][v] = add ? _mm512_maskz_loadu_ps(there[v], y + m * N + 16 * v) : _mm512_setzero_ps();
    for (long k = 0; k < in; ++k) {
        __m512 w[V];
        for (int v = 0; v < V; ++v) w[v] = _mm512_loadu_ps(panel + (k * V + v) * 16);
        for (int m = 0; m < M; ++m) {
            const __m512 a = _mm512_set1_ps(x[m * in + k]);
            for (int v = 0; v < V; ++v) sum[m][v] = _mm512_fmadd_ps(a, w[v], sum[m][v]);
        }
    }
    for (int m = 0; m < M; ++m)
        for (int v = 0; v < V; ++v) _mm512_mask_storeu_ps(y + m * N + 16 * v, there[v], sum[m][v]);
}
// tiles of 8 rows: with V = 3 they hold 24 of the 32 registers
template <int V>
static void all(long rows, long in, long N, const float* panels, const float* x, float* y, bool add) {
    typedef void (*tile_t)(long, const float*, const float*, float*, long, long, bool);
    static const tile_t of[] = {nullptr, tile<1, V>, tile<2, V>, tile<3, V>, tile<4, V>, tile<5, V>, tile<6, V>, tile<7, V>};
    for (long n = 0; n < N; n += 16 * V, panels += in * 16 * V) {
        long b = 0;
        for (; b + 8 <= rows; b += 8) tile<8, V>(in, panels, x + b * in, y + b * N + n, N, N - n, add);
        if (b < rows) of[rows - b](in, panels, x + b * in, y + b * N + n, N, N - n, add);
    }
}
// y (rows, N) (+)= x (rows, in) times the matrix (in, N) in panels of 16 `vectors` columns
extern "C" void multiply(long rows, long in, long N, int vectors, const float* panels, const float* x, float* y, bool add) {
    (vectors == 3 ? all<3> : all<2>)(rows, in, N, panels, x, y, add);
}
#endif
"""


def vectors(columns: int) -> int:
    """How wide a panel is best for that many columns, in vectors: 3, or 2 where three leave much of the last one empty.

    A tile of two vectors a row makes 0.87 of the operations a second of one of three (97 against 112 billion)."""
    columns_in = lambda v: -(-columns // (v * LANES)) * v  # noqa: E731
    return 3 if columns_in(3) * 0.87 <= columns_in(2) else 2


def panels(matrix: Tensor) -> Tensor:
    """(in, N) float32 of any strides -> (panels, in, columns of a panel), zeros behind the last column."""
    rows, columns = matrix.shape
    width = vectors(columns) * LANES
    whole, rest = divmod(columns, width)
    packed = matrix.new_empty(whole + (rest > 0), rows, width)
    packed[:whole].copy_(matrix[:, : whole * width].unflatten(1, (whole, width)).transpose(0, 1))
    if rest:
        packed[whole, :, rest:].zero_()
        packed[whole, :, :rest].copy_(matrix[:, whole * width :])
    return packed


@functools.cache
def function(compiled: Callable[[str, str], ctypes.CDLL]) -> ctypes.c_void_p:
    """`multiply`, null where the processor has no AVX-512. `compiled` makes a library of a source and a level of
    optimisation."""
    found = getattr(compiled(SOURCE, "-O3"), "multiply", None)
    return ctypes.cast(found, ctypes.c_void_p) if found else ctypes.c_void_p()
