"""The only loop over time and the only reset.

`unroll(cell, x (T, B, I), first (T, B), state) -> y (T, B, H), state`. Before row t, the environments with `first[t]`
go back to `cell.initial_state`. The plain Python loop is the definition; every other path must equal it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from memory_cells.cells import Cell, State
from memory_cells.gates import Gate
from memory_cells.kernels import sequence
from memory_cells.kernels.graph import NotTraceable

PATHS = ("auto", "fused", "eager", "loop", "scan")


@parametrize.cached()  # a weight that is computed (orthogonal, masked) is computed once, not once a row
def unroll(core: Cell, x: Tensor, first: Tensor, state: State, *, path: str = "auto", record: Sequence[str] = (),
           noise: tuple[Tensor, ...] | None = None):  # fmt: skip
    """Runs `core` over T rows.

    x (T, B, I); first (T, B) bool; state: a tuple of (B, .) tensors.
    path: "loop" is the definition; "fused" the sequence function (one C++ function on the CPU, torch operations
    elsewhere or without a compiler) and raises `NotTraceable` where a cell is not of that kind; "eager" the sequence
    function in torch operations; "scan" the cell's own form for a whole sequence and raises `ValueError` where it has
    none; "auto" takes, for more than one row, "scan" if the cell has it, else "fused", and falls back on "loop".
    record: names of traces to return as well, from "keep", "write" (the cell's gate, together with what wrappers hold) and the
    names of the state; each (T, B, .). Recording takes the loop.
    noise: what `core.draw` gave for these rows; None draws it here, from torch's default generator.
    Returns y (T, B, H), the state after the last row, and the dict of traces if any were asked for.

    Cells whose weights are computed (orthogonal, masked) may not be unrolled in two threads at once, nor first without and
    then with gradients within one `parametrize.cached()` of the caller's: torch keeps such weights in one place for all.
    """
    if path not in PATHS:
        raise ValueError(f"path must be one of {', '.join(PATHS)}, got {path!r}")
    noise = core.draw(*first.shape) if noise is None else noise
    _check(first, x=(x,), noise=noise, state=state)
    if record:
        return _recorded(core, _projected(core, x, noise, first), first, state, record)
    return run(core, x, noise, first, state, path)


def _check(first: Tensor, **parts: tuple[Tensor, ...]) -> None:
    """Raises ValueError where rows or environments do not match: the compiled path would read past a tensor's end."""
    T, B = first.shape
    if not T:
        raise ValueError("a sequence without rows")
    if first.dtype != torch.bool:
        raise ValueError(f"first must be bool, got {first.dtype}")
    for name, tensors in parts.items():
        wanted = (B,) if name == "state" else (T, B)
        for x in tensors:
            if x.shape[: len(wanted)] != wanted:
                raise ValueError(f"{name} of shape {tuple(x.shape)}, which must begin with {wanted}, as first has {(T, B)}")


def _projected(core: Cell, x: Tensor, noise: tuple[Tensor, ...], first: Tensor) -> tuple[Tensor, ...]:
    z = core.project(x)
    _check(first, projection=z)
    return z + noise


def run(core: Cell, x: Tensor, noise: tuple[Tensor, ...], first: Tensor, state: State,
        path: str = "auto") -> tuple[Tensor, State]:  # fmt: skip
    """`unroll` of what has the right number of rows and environments."""
    z = functools.cache(lambda: _projected(core, x, noise, first))
    if path == "loop" or (path == "auto" and first.shape[0] == 1):
        return _loop(core, z(), first, state)
    if path == "scan" and not hasattr(core, "scan"):
        raise ValueError(f"{type(core).__name__} has no form for a whole sequence; take path 'auto'")
    if path == "scan" or (path == "auto" and hasattr(core, "scan")):
        return core.scan(x, noise, first, state)
    try:
        return sequence.run(core, x, noise, z, first, state, compiled=path != "eager")
    except NotTraceable:
        if path != "auto":
            raise
        return _loop(core, z(), first, state)


def path_class(core: Cell) -> str:
    """What path "auto" takes for a sequence: "scan", "fused" or "loop"; of a stack what its layers take, the slowest if
    they differ. A fused path on a machine without a compiler runs step by step in torch and is called fused all the same."""
    if isinstance(layers := getattr(core, "layers", None), nn.ModuleList):
        return max(map(path_class, layers), key=("scan", "fused", "loop").index)
    if hasattr(core, "scan"):
        return "scan"
    with torch.no_grad():
        like = next(core.parameters(), torch.zeros(()))  # a generator of its own: asking changes no other draw
        noise = core.draw(1, 1, torch.Generator(like.device))
        z = core.project(like.new_zeros(1, 1, core.input_size)) + noise
        try:
            sequence.program_of(core, z, core.initial_state(1))
        except NotTraceable:
            return "loop"
    return "fused"


def reset(state: State, initial: State, first: Tensor) -> State:
    """`initial` where `first` (B,), else `state`."""
    return tuple(torch.where(first.view(-1, *(1,) * (s.dim() - 1)), i, s) for s, i in zip(state, initial, strict=True))


def by_row(z: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """What `core.step` takes of `z` (T, B, .), for each row. The gradient by `z` is then put together once: by indexing, each
    row's would be a tensor of all rows."""
    return list(zip(*(part.unbind() for part in z), strict=True))


def _loop(core: Cell, z: tuple[Tensor, ...], first: Tensor, state: State) -> tuple[Tensor, State]:
    initial, outputs = core.initial_state(first.shape[1]), []
    for row, fresh in zip(by_row(z), first.unbind(), strict=True):
        state = core.step(row, reset(state, initial, fresh))
        outputs.append(state[0])
    return torch.stack(outputs), state


def _recorded(core: Cell, z, first: Tensor, state: State, record: Sequence[str]):
    gate: Gate | None = getattr(core, "gate", None)
    known = [*core.state_names, *(("keep", "write") if gate is not None else ())]
    for name in record:
        if name not in known:
            raise ValueError(f"{type(core).__name__} has no trace {name!r}; it has {', '.join(known)}")
    traces: dict[str, list[Tensor]] = {name: [] for name in record}
    seen: list[tuple[Tensor, Tensor]] = []
    shares: list[Tensor | float] = []
    listen = lambda part, found: part.register_forward_hook(lambda module, inputs, output: found.append(output))  # noqa: E731
    hooks = [listen(gate, seen), *(listen(part, shares) for part in core.holds)] if gate is not None else []
    initial, outputs = core.initial_state(first.shape[1]), []
    try:
        for row, fresh in zip(by_row(z), first.unbind(), strict=True):
            seen.clear(), shares.clear()
            state = core.step(row, reset(state, initial, fresh))
            outputs.append(state[0])
            now = dict(zip(core.state_names, state, strict=True))
            if seen:
                keep, write = seen[-1]
                for share in shares:
                    keep, write = share + (1 - share) * keep, (1 - share) * write
                now |= {"keep": keep.expand_as(state[0]), "write": write.expand_as(state[0])}
            for name in record:
                traces[name].append(now[name])
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(outputs), state, {name: torch.stack(rows) for name, rows in traces.items()}
