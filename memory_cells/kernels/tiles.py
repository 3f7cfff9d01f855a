"""Matrix products for processors with AVX-512: a weight lies in panels, a tile of the result in registers.

In a sequence every thread multiplies its few rows with the same weight T times. A general product reads that weight from
memory as it lies, and with 8 rows gets to half of what the processor can do; here it is laid out once per sequence. The
gradient of a weight takes all rows at once, and what is multiplied with the same gradient shares its layout. Each number is
a sum in the order of the inner dimension, whatever the number of rows, so a row's result does not depend on the rows
beside it, on the batch's size, or on how threads share it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16  # numbers in a vector

SOURCE = r"""
#ifdef __AVX512F__
#include <immintrin.h>
#include <cstdlib>
#include <omp.h>
// The next panel's vectors where `columns` are left: 3, or 2 where 3 would leave a single one behind.
static inline int wide(long columns) {
    const long vectors = (columns + 15) / 16;
    return vectors == 4 ? 2 : vectors < 3 ? vectors : 3;
}
// the columns that are there in the last of U vectors
static inline __mmask16 there(long columns, int U) {
    const long last = columns - 16 * (U - 1);
    return last < 16 ? (1 << last) - 1 : 0xFFFF;
}
// y (M rows of N) (+)= x times one panel (in, 16 U), whose last vector has the columns `last`; x lies as (M, in), or
// `packed` as (in, M). 8 rows of 3 vectors hold 24 of the 32 registers.
template <int M, int U, bool packed>
static void tile(long in, const float* panel, const float* x, float* y, long N, __mmask16 last, bool add) {
    __m512 sum[M][U];
    for (int m = 0; m < M; ++m)
        for (int u = 0; u < U; ++u) sum[m][u] = _mm512_setzero_ps();
    for (long k = 0; k < in; ++k) {
        __m512 w[U];
        for (int u = 0; u < U; ++u) w[u] = _mm512_loadu_ps(panel + (k * U + u) * 16);
        for (int m = 0; m < M; ++m) {
            const __m512 a = _mm512_set1_ps(packed ? x[k * M + m] : x[m * in + k]);
            for (int u = 0; u < U; ++u) sum[m][u] = _mm512_fmadd_ps(a, w[u], sum[m][u]);
        }
    }
    for (int m = 0; m < M; ++m)
        for (int u = 0; u < U; ++u) {
            const __mmask16 mask = u + 1 < U ? (__mmask16)0xFFFF : last;
            float* const to = y + m * N + 16 * u;
            if (add) sum[m][u] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum[m][u]);
            _mm512_mask_storeu_ps(to, mask, sum[m][u]);
        }
}
typedef void (*tile_t)(long, const float*, const float*, float*, long, __mmask16, bool);
template <int U>
static void all(long rows, long in, const float* panel, const float* x, float* y, long N, __mmask16 last, bool add) {
    static const tile_t of[] = {nullptr, tile<1, U, false>, tile<2, U, false>, tile<3, U, false>, tile<4, U, false>,
                                tile<5, U, false>, tile<6, U, false>, tile<7, U, false>};
    long b = 0;
    for (; b + 8 <= rows; b += 8) tile<8, U, false>(in, panel, x + b * in, y + b * N, N, last, add);
    if (b < rows) of[rows - b](in, panel, x + b * in, y + b * N, N, last, add);
}
// y (rows, N) (+)= x (rows, in) times the matrix (in, N) in panels
extern "C" void multiply(long rows, long in, long N, const float* panels, const float* x, float* y, bool add) {
    for (long n = 0; n < N;) {
        const int U = wide(N - n);
        (U == 3 ? all<3> : U == 2 ? all<2> : all<1>)(rows, in, panels + in * n, x, y + n, N, there(N - n, U), add);
        n += 16 * U;
    }
}
// rows of a matrix (rows, N) into panels, zeros behind the last column
static void lay_out(long rows, long N, const float* x, float* panels) {
    for (long k = 0; k < rows; ++k, x += N)
        for (long n = 0; n < N;) {
            const int U = wide(N - n);
            for (int u = 0; u < U; ++u)
                _mm512_storeu_ps(panels + rows * n + (k * U + u) * 16,
                                 _mm512_maskz_loadu_ps(u + 1 < U ? (__mmask16)0xFFFF : there(N - n, U), x + n + 16 * u));
            n += 16 * U;
        }
}
// dw_i (M, N_i) = g' x_i and db (M), the sum of the rows of g, for g (rows, M) and x_i (rows, N_i). A thread has columns of g
// to itself: a number is a sum of sums over `depth` rows, in their order, however many threads there are. False if there
// is no memory to lay them out.
extern "C" bool gradient(long rows, long M, int count, int threads, const float* g, const float* const* x, const long* N,
                         float* const* dw, float* db) {
    long widest = 0;
    for (int i = 0; i < count; ++i) widest = N[i] > widest ? N[i] : widest;
    const long padded = (widest + 15) / 16 * 16;
    long depth = (1 << 18) / (M + padded) / 8 * 8;  // so that a slice of g and of x stays in the second cache
    depth = depth < 64 ? 64 : depth > 512 ? 512 : depth;
    const long stride = 8 * depth + 16;  // of a block of 8 columns of g: at 8 depth all would share a few sets of a cache
    bool failed = false;
    #pragma omp parallel num_threads(threads) if (threads > 1) reduction(|| : failed)
    {
        const long team = omp_get_num_threads(), id = omp_get_thread_num(), blocks = (M + 15) / 16;
        const long lo = blocks * id / team * 16, hi = blocks * (id + 1) / team * 16 < M ? blocks * (id + 1) / team * 16 : M;
        const long tall = (hi - lo + 15) / 16 * 2;
        float* const panels = lo < hi ? (float*)std::aligned_alloc(64, 4 * (padded * depth + tall * stride)) : nullptr;
        float* const columns = panels + padded * depth;
        failed = lo < hi && !panels;
        for (long r = 0; r < rows && panels; r += depth) {
            const long K = rows - r < depth ? rows - r : depth;
            for (long i = 0; i < tall; i += 2) {  // whole lines of memory
                const __mmask16 mask = there(hi - lo - 8 * i, 1);
                const float* from = g + r * M + lo + 8 * i;
                float* const to = columns + i * stride;
                __m512 sum = _mm512_setzero_ps();
                for (long k = 0; k < K; ++k, from += M) {
                    const __m512 v = _mm512_maskz_loadu_ps(mask, from);
                    _mm256_storeu_ps(to + 8 * k, _mm512_castps512_ps256(v));
                    _mm256_storeu_ps(to + stride + 8 * k, _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
                    sum = _mm512_add_ps(sum, v);
                }
                if (r) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, db + lo + 8 * i), sum);
                _mm512_mask_storeu_ps(db + lo + 8 * i, mask, sum);
            }
            for (int s = 0; s < count; ++s) {
                lay_out(K, N[s], x[s] + r * N[s], panels);
                for (long n = 0; n < N[s];) {
                    const int U = wide(N[s] - n);
                    const __mmask16 last = there(N[s] - n, U);
                    const tile_t of = U == 3 ? tile<8, 3, true> : U == 2 ? tile<8, 2, true> : tile<8, 1, true>;
                    for (long m = lo; m < hi; m += 8) {
                        const float* const block = columns + (m - lo) / 8 * stride;
                        float* const to = dw[s] + m * N[s] + n;
                        if (m + 8 <= hi) {
                            of(K, panels + K * n, block, to, N[s], last, r > 0);
                            continue;
                        }
                        float rest[8 * 48];  // fewer than 8 rows of dw are left
                        of(K, panels + K * n, block, rest, 48, last, false);
                        for (long i = 0; i < hi - m; ++i)
                            for (long j = 0; j < 16 * U && n + j < N[s]; ++j)
                                to[i * N[s] + j] = (r ? to[i * N[s] + j] : 0) + rest[48 * i + j];
                    }
                    n += 16 * U;
                }
            }
        }
        std::free(panels);
    }
    return !failed;
}
#endif
"""


def panels(matrix: Tensor) -> Tensor:
    """(in, N) float32 of any strides -> its panels of up to 48 columns one after the other, zeros behind the last column."""
    matrix = F.pad(matrix, (0, -matrix.shape[1] % LANES))
    rows, columns = matrix.shape
    threes, rest = divmod(columns // LANES, 3)
    if rest == 1 and threes:  # the last four are two panels of two
        threes -= 1
    packed, at = matrix.new_empty(rows * columns), threes * 3 * LANES
    packed[: rows * at].view(threes, rows, 3 * LANES).copy_(matrix[:, :at].unflatten(1, (threes, 3 * LANES)).transpose(0, 1))
    for panel in matrix[:, at:].split(2 * LANES, 1):
        packed[rows * at :][: panel.numel()].view_as(panel).copy_(panel)
        at += panel.shape[1]
    return packed


@functools.cache
def functions(compiled: Callable[[str, str], ctypes.CDLL]) -> tuple[Callable, Callable] | None:
    """`multiply` and `gradient`, None where the processor has no AVX-512. `compiled` makes a library of a source and a level
    of optimisation."""
    library = compiled(SOURCE, "-O3")
    if not hasattr(library, "multiply"):
        return None
    library.gradient.restype = ctypes.c_bool
    return library.multiply, library.gradient


def gradients(function: Callable, g: Tensor, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """For `y = sum of x_i w_i' + b`, whose gradient is `g` (rows, M), with `inputs` x_i (rows, N_i): the gradients by each
    w_i (M, N_i) and by b (M,). `function`: `gradient` of `functions`; all float32, contiguous, of at least one row."""
    (rows, M), count = g.shape, len(inputs)
    found = [g.new_empty(M, x.shape[1]) for x in inputs]
    by_bias = g.new_empty(M)
    pointers = lambda tensors: (ctypes.c_void_p * count)(*(t.data_ptr() for t in tensors))  # noqa: E731
    done = function(
        ctypes.c_long(rows), ctypes.c_long(M), ctypes.c_int(count), ctypes.c_int(min(torch.get_num_threads(), -(-M // LANES))),
        ctypes.c_void_p(g.data_ptr()), pointers(inputs), (ctypes.c_long * count)(*(x.shape[1] for x in inputs)),
        pointers(found), ctypes.c_void_p(by_bias.data_ptr()),
    )  # fmt: skip
    if not done:
        raise MemoryError(f"no room to lay out a gradient of {rows} x {M}")
    return found, by_bias
