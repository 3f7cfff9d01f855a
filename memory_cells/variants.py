"""The tables: one row a variant, every axis an object. `make_core` is the one way to a core by name.

A row names its topology, gate and initialisation; the axes' own options (`horizon`, `bias`, `refine_bias`,
`reset_form`) are taken by the rows whose parts have them, and refused by the others.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from memory_cells import cells, gates, inits

CELLS = {
    "lstm": lambda i, h, gate, init, **kw: cells.LSTM(i, h, gate, init, **kw),
    "gru": lambda i, h, gate, init, **kw: cells.GRU(i, h, gate, init, **kw),
    "gated-rnn": lambda i, h, gate, init, **kw: cells.GatedRNN(i, h, gate, init, **kw),
    "leaky-rnn": lambda i, h, gate, init, **kw: cells.GatedRNN(i, h, gates.Static(init, h), **kw),
    "memoryless": lambda i, h, gate, init, **kw: cells.Memoryless(i, h, **kw),
}
GATES = {
    "free": lambda refine_bias: gates.Free(),
    "coupled": lambda refine_bias: gates.Coupled(),
    "janet": lambda refine_bias: gates.Coupled(offset=1.0),
    "refine": lambda refine_bias: gates.Refine(refine_bias or "neg"),
    None: lambda refine_bias: None,
}
INITS = {
    "constant": lambda horizon, bias: inits.Constant(1.0 if bias is None else bias),
    "chrono": lambda horizon, bias: inits.Chrono(horizon),
    "uniform": lambda horizon, bias: inits.Uniform(),
    None: lambda horizon, bias: None,
}


@dataclass(frozen=True)
class Variant:
    """One row. `fixed` are arguments of the topology that belong to the variant's definition."""

    cell: str
    gate: str | None = None
    init: str | None = None
    source: str = ""
    fixed: dict = field(default_factory=dict)

    @property
    def options(self) -> set[str]:
        """The axis options that this row takes."""
        found = {"horizon"} if self.init == "chrono" else {"bias"} if self.init == "constant" else set()
        found |= {"refine_bias"} if self.gate == "refine" else set()
        return found | ({"reset_form"} if self.cell == "gru" else set())


_GU, _TALLEC, _JANET = "Gu et al. 2020", "Tallec & Ollivier 2018", "van der Westhuizen & Lasenby 2018"

VARIANTS = {
    "memoryless": Variant("memoryless", source="control: no state is read"),
    "lstm": Variant("lstm", "free", "constant", "Gers et al. 2000; forget bias 1"),
    "lstm-torch": Variant("lstm", "free", None, "torch.nn.LSTM, its own initialisation", {"weights": "torch"}),
    "chrono-lstm": Variant("lstm", "free", "chrono", _TALLEC),
    "tied-lstm": Variant("lstm", "coupled", "constant", f"{_GU} (--)"),
    "c-lstm": Variant("lstm", "coupled", "chrono", f"{_GU} (C-)"),
    "u-lstm": Variant("lstm", "coupled", "uniform", f"{_GU} (U-)"),
    "r-lstm": Variant("lstm", "refine", "constant", f"{_GU} (-R)"),
    "cr-lstm": Variant("lstm", "refine", "chrono", f"{_GU} (CR)"),
    "ur-lstm": Variant("lstm", "refine", "uniform", f"{_GU} (UR)"),
    "gru": Variant(
        "gru", "coupled", None, "Cho et al. 2014 as torch.nn.GRU, its own initialisation", {"weights": "torch"}
    ),
    "chrono-gru": Variant("gru", "coupled", "chrono", _TALLEC),
    "ur-gru": Variant("gru", "refine", "uniform", _GU),
    "janet": Variant("gated-rnn", "janet", "constant", f"{_JANET}; beta = 1"),
    "chrono-janet": Variant("gated-rnn", "janet", "chrono", f"{_JANET}; beta = 1"),
    "leaky-rnn": Variant("leaky-rnn", None, "constant", f"{_TALLEC}, eq. 5"),
    "gated-rnn": Variant("gated-rnn", "coupled", "constant", f"{_TALLEC}, eq. 10"),
}


def make_core(name: str, input_size: int, hidden_size: int, *, horizon: float | None = None, bias: float | None = None,
              refine_bias: str | None = None, reset_form: str | None = None) -> cells.Cell:  # fmt: skip
    """The core `name` of VARIANTS, (T, B, input_size) -> (T, B, hidden_size).

    horizon: T_max of the chrono initialisation, environment steps (required by it); bias: keep-bias of the constant one
    (default 1); refine_bias "neg" or "zero"; reset_form "after" or "before". None means the default. An option that the
    variant has no use for raises ValueError, except `horizon`, which describes the task and not the cell.
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, 1, 0)
        raise ValueError(f"unknown cell {name!r}; did you mean {near[0]!r}? Known: {', '.join(VARIANTS)}")
    row = VARIANTS[name]
    for option, value in (("bias", bias), ("refine_bias", refine_bias), ("reset_form", reset_form)):
        if value is not None and option not in row.options:
            fits = [n for n, v in VARIANTS.items() if option in v.options]
            raise ValueError(f"cell {name!r} takes no {option}; cells that do: {', '.join(fits)}")
    if "horizon" in row.options and horizon is None:
        raise ValueError(f"cell {name!r} needs a horizon (the longest time it should bridge, in environment steps)")
    extra = {"reset_form": reset_form} if reset_form is not None else {}
    gate, init = GATES[row.gate](refine_bias), INITS[row.init](horizon, bias)
    return CELLS[row.cell](input_size, hidden_size, gate, init, **row.fixed, **extra)
