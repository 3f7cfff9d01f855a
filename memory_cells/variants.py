"""The tables: one row a variant, every axis an object. `make_core` is the one way to a core by name, and
`matching_hidden_size` finds the width at which it has a given number of parameters.

A row names its topology, gate, initialisation, squash and wrappers; `TAKES` says which options each of these parts has. An
option is taken by the rows whose parts have it, and refused by the others.
"""

from __future__ import annotations

import bisect
import difflib
import functools
from dataclasses import dataclass, field
from functools import partial

import torch

from memory_cells import (
    baselines,
    cells,
    gates,
    inits,
    linear,
    multi,
    noisy,
    nru,
    relational,
    slstm,
    squash,
    timescales,
    wrappers,
)


def _alone(cell):
    """A topology without a gate or an initialisation to choose."""
    return lambda i, h, gate, init, **kw: cell(i, h, **kw)


def _with_init(cell):
    return lambda i, h, gate, init, **kw: cell(i, h, init=init, **kw)


def _lstm(init):
    return lambda i, h: cells.LSTM(i, h, gates.Free(), init)


def _gru(i, h):
    return cells.GRU(i, h, gates.Coupled(), weights="torch")


CELLS = {
    "lstm": cells.LSTM,
    "gru": cells.GRU,
    "gated-rnn": cells.GatedRNN,
    "leaky-rnn": lambda i, h, gate, init, **kw: cells.GatedRNN(i, h, gates.Static(init, h), **kw),
    "nru": _alone(nru.NRU),
    "memoryless": _alone(cells.Memoryless),
    "rnn": _alone(baselines.Elman),
    "indrnn": lambda i, h, gate, init, **kw: multi.stack(baselines.IndRNN, i, h, **kw),
    "orth-rnn": _alone(baselines.OrthRNN),
    "goru": _alone(baselines.GORU),
    "rhn": _alone(baselines.RHN),
    "clockwork": _alone(timescales.Clockwork),
    "sru": _alone(timescales.StatisticalRU),
    "g2-lstm": _with_init(noisy.G2LSTM),
    "noisy-lstm": _with_init(noisy.NoisyLSTM),
    "on-lstm": _alone(slstm.ONLSTM),
    "slstm": _alone(slstm.SLSTM),
    "rmc": _alone(relational.RMC),
    "stacked-lstm": lambda i, h, gate, init, **kw: multi.stack(_lstm(init), i, h, **kw),
    "dilated-lstm": lambda i, h, gate, init, layers=4: multi.dilated_stack(_lstm(init), i, h, multi.doubling(layers)),
    "dilated-gru": lambda i, h, gate, init, layers=4: multi.dilated_stack(_gru, i, h, multi.doubling(layers)),
    "mingru": _alone(linear.MinGRU),
    "minlstm": _alone(linear.MinLSTM),
    "lru": _alone(linear.LRU),
    "ffm": _alone(linear.FFM),
}
#: squash -> gate
GATES = {
    "free": gates.Free,
    "coupled": gates.Coupled,
    "janet": partial(gates.Coupled, offset=1.0),
    "refine": gates.Refine,
    "ordered": gates.Ordered,
    "ordered-refine": partial(gates.Refine, primary=squash.Cumax),
    "ordered-master": partial(gates.Master, primary=squash.Cumax),
    "master": gates.Master,
    None: None,
}
INITS = {
    "constant": lambda horizon, bias=1.0: inits.Constant(bias),
    "zero": lambda horizon: inits.Constant(0.0),
    "chrono": lambda horizon: inits.Chrono(horizon),
    "heavy": lambda horizon: inits.HeavyTail(),
    "uniform": lambda horizon: inits.Uniform(),
    None: lambda horizon: None,
}
#: hidden size, init -> what makes a squash; None is the logistic function
SQUASHES = {
    "kaf": lambda h, init, **kw: partial(squash.KAF, h, (init or inits.Constant(0.0)).reach(h), **kw),
    None: lambda h, init: squash.Sigmoid,
}
#: innermost first: a row's wrappers stand in this order
WRAPPERS = {
    "hdetach": lambda core, horizon, **kw: wrappers.HDetach(core, **kw),
    "zoneout": lambda core, horizon, **kw: wrappers.Zoneout(core, **kw),
    "gaussian": lambda core, horizon, threshold=0.0, **kw: wrappers.TimeGate(
        core, wrappers.Gaussian(core.hidden_size, horizon, **kw), threshold),
    "oscillating": lambda core, horizon, open_fraction=0.05, **kw: wrappers.TimeGate(
        core, wrappers.Oscillating(core.hidden_size, open_fraction), **kw),
}  # fmt: skip
#: part of a row -> the options it has; `horizon` is required where it stands. Every row takes `layers`: the topologies that
#: have layers of their own stand here with it, the others are stacked
TAKES = {
    "constant": ("bias",),
    "chrono": ("horizon",),
    "refine": ("refine_bias",),
    "master": ("chunk",),
    "ordered-master": ("chunk",),
    "on-lstm": ("chunk",),
    "gru": ("reset_form",),
    "kaf": ("kaf_size",),
    "nru": ("memory_size", "heads", "head_reduce", "feed_x"),
    "indrnn": ("layers",),
    "stacked-lstm": ("layers",),
    "dilated-lstm": ("layers",),
    "dilated-gru": ("layers",),
    "hdetach": ("p_detach", "coin", "detach_until"),
    "zoneout": ("zoneout_c", "zoneout_h"),
    "gaussian": ("horizon", "threshold", "sigma_start", "sigma_end", "sigma_until"),
    "oscillating": ("open_fraction", "threshold"),
}
#: option -> what it is, and a value other than the default
OPTIONS = {
    "bias": ("keep-bias of the constant initialisation (default 1)", 2.0),
    "refine_bias": ("start of the refine gate: 'neg', minus the keep-bias (default where that is uniform), or 'zero'", "zero"),
    "chunk": ("units that share a master gate (default 1); must divide the hidden size", 2),
    "reset_form": ("reset gate 'after' (default) or 'before' the recurrent product", "before"),
    "kaf_size": ("points of the KAF dictionary (default: one every 8/9)", 6),
    "memory_size": ("width of the NRU's memory; memory_size * heads must be a square", 9),
    "heads": ("write and erase heads of the NRU", 1),
    "head_reduce": ("'mean' (default, the code) or 'sum' (the paper) over the NRU's heads", "sum"),
    "feed_x": ("whether the NRU's heads see the input (default no, the code)", True),
    "p_detach": ("h-detach: probability of blocking (default 0.25)", 0.6),
    "coin": ("h-detach: one coin a row for the whole 'batch' (default) or for each 'sample'", "sample"),
    "detach_until": ("h-detach: fraction of the training from which on it is off (default 1: never)", 0.5),
    "zoneout_c": ("probability of keeping a unit's memory (default 0.5)", 0.3),
    "zoneout_h": ("probability of keeping a unit's output (default 0.05)", 0.4),
    "open_fraction": ("share of its period that a phased unit is open (default 0.05)", 0.5),
    "threshold": ("time gate in evaluation: below this openness a unit is not computed (default 0)", 0.3),
    "sigma_start": ("Gaussian time gate: factor on sigma when training starts (default 1)", 0.5),
    "sigma_end": ("Gaussian time gate: factor on sigma from sigma_until on (default 1)", 2.0),
    "sigma_until": ("Gaussian time gate: fraction of the training in which that factor moves (default 1)", 0.5),
    "layers": ("equal layers, each reading the one below (default 1; indrnn and stacked-lstm 2; dilated-* 4)", 3),
}
#: topology -> widths that `matching_hidden_size` considers are multiples of this, so that heads, slots and chunks stay as
#: they are; of the option `chunk` where it is given, of 1 elsewhere
STEPS = {"rmc": 8, "slstm": 4, "on-lstm": 10}
WIDEST = 65536


@dataclass(frozen=True)
class Variant:
    """One row. `fixed` are arguments of the topology that belong to the variant's definition."""

    cell: str
    gate: str | None = None
    init: str | None = None
    source: str = ""
    fixed: dict = field(default_factory=dict)
    squash: str | None = None
    wrappers: tuple[str, ...] = ()

    @property
    def options(self) -> set[str]:
        """The options that this row takes."""
        parts = (self.cell, self.gate, self.init, self.squash, *self.wrappers)
        return {"layers", *(option for part in parts for option in TAKES.get(part, ()))} - self.fixed.keys()


_GU, _TALLEC, _JANET = "Gu et al. 2020", "Tallec & Ollivier 2018", "van der Westhuizen & Lasenby 2018"
_KAF, _NRU, _PHASED = "Scardapane et al. 2018", "Chandar et al. 2019", "Neil et al. 2016"
_HDETACH, _ZONEOUT, _GLSTM = "Arpit et al. 2018", "Krueger et al. 2017", "Thornton et al. 2019"

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
    "o-lstm": Variant("lstm", "ordered", "zero", f"{_GU} (O-)"),
    "or-lstm": Variant("lstm", "ordered-refine", "zero", f"{_GU} (OR)"),
    "om-lstm": Variant("lstm", "ordered-master", "zero", f"{_GU} (OM)"),
    "um-lstm": Variant("lstm", "master", "uniform", f"{_GU} (UM)"),
    "cm-lstm": Variant("lstm", "master", "chrono", f"{_GU}'s master gates, chrono bias: ours"),
    "heavy-chrono-lstm": Variant("lstm", "free", "heavy", f"{_TALLEC}, unknown horizon"),
    "gru": Variant(
        "gru", "coupled", None, "Cho et al. 2014 as torch.nn.GRU, its own initialisation", {"weights": "torch"}
    ),
    "tied-gru": Variant("gru", "coupled", "constant", f"{_GU} (--)"),
    "chrono-gru": Variant("gru", "coupled", "chrono", _TALLEC),
    "heavy-chrono-gru": Variant("gru", "coupled", "heavy", f"{_TALLEC}, unknown horizon"),
    "u-gru": Variant("gru", "coupled", "uniform", f"{_GU} (U-)"),
    "r-gru": Variant("gru", "refine", "constant", f"{_GU} (-R)"),
    "cr-gru": Variant("gru", "refine", "chrono", f"{_GU} (CR)"),
    "ur-gru": Variant("gru", "refine", "uniform", f"{_GU} (UR)"),
    "o-gru": Variant("gru", "ordered", "zero", f"{_GU} (O-)"),
    "or-gru": Variant("gru", "ordered-refine", "zero", f"{_GU} (OR)"),
    "om-gru": Variant("gru", "ordered-master", "zero", f"{_GU} (OM)"),
    "um-gru": Variant("gru", "master", "uniform", f"{_GU} (UM)"),
    "janet": Variant("gated-rnn", "janet", "constant", f"{_JANET}; beta = 1"),
    "chrono-janet": Variant("gated-rnn", "janet", "chrono", f"{_JANET}; beta = 1"),
    "leaky-rnn": Variant("leaky-rnn", None, "constant", f"{_TALLEC}, eq. 5"),
    "chrono-leaky-rnn": Variant("leaky-rnn", None, "chrono", f"{_TALLEC}, eq. 5"),
    "gated-rnn": Variant("gated-rnn", "coupled", "constant", f"{_TALLEC}, eq. 10; also JANET with beta = 0"),
    "chrono-gated-rnn": Variant(
        "gated-rnn", "coupled", "chrono", f"{_TALLEC}, eq. 10; also JANET with beta = 0, chrono bias"
    ),
    "kaf-lstm": Variant("lstm", "free", "constant", _KAF, squash="kaf"),
    "kaf-chrono-lstm": Variant("lstm", "free", "chrono", f"{_KAF}; chrono bias", squash="kaf"),
    "kaf-u-lstm": Variant("lstm", "coupled", "uniform", f"{_KAF}; uniform bias", squash="kaf"),
    "kaf-ur-lstm": Variant("lstm", "refine", "uniform", f"{_KAF}; refine gate, uniform bias", squash="kaf"),
    "kaf-gru": Variant("gru", "coupled", "constant", _KAF, squash="kaf"),
    "kaf-ur-gru": Variant("gru", "refine", "uniform", f"{_KAF}; refine gate, uniform bias", squash="kaf"),
    "nru": Variant("nru", source=f"{_NRU}; as released for copy, denoise and pixels"),
    "nru-relu": Variant("nru", source=f"{_NRU}; with ReLU in the heads", fixed={"use_relu": True}),
    "hdetach-lstm": Variant("lstm", "free", "constant", _HDETACH, wrappers=("hdetach",)),
    "hdetach-chrono-lstm": Variant("lstm", "free", "chrono", f"{_HDETACH}; chrono bias", wrappers=("hdetach",)),
    "hdetach-ur-lstm": Variant("lstm", "refine", "uniform", f"{_HDETACH}; UR gates", wrappers=("hdetach",)),
    "hdetach-nru": Variant("nru", source=f"{_HDETACH}; on the NRU: ours", wrappers=("hdetach",)),
    "zoneout-lstm": Variant("lstm", "free", "constant", _ZONEOUT, wrappers=("zoneout",)),
    "g-lstm": Variant("lstm", "free", "constant", _GLSTM, wrappers=("gaussian",)),
    "phased-lstm": Variant("lstm", "free", "constant", _PHASED, {"peepholes": True}, wrappers=("oscillating",)),
    "elman": Variant("rnn", source="Elman 1990; torch.nn.RNN, its own initialisation"),
    "irnn": Variant("rnn", source="Le et al. 2015", fixed={"activation": "relu", "start": "identity"}),
    "rnn-orth": Variant(
        "rnn",
        source="as Chandar et al. 2019 ran it: ReLU, LayerNorm",
        fixed={"activation": "relu", "start": "orthogonal", "norm": True},
    ),
    "indrnn": Variant("indrnn", source="Li et al. 2018; two layers"),
    "orth-rnn": Variant("orth-rnn", source="Lezcano-Casado & Martinez-Rubio 2019 (expRNN)"),
    "goru": Variant("goru", source="Jing et al. 2017"),
    "rhn": Variant("rhn", source="Zilly et al. 2017; depth 4"),
    "clockwork": Variant("clockwork", source="Koutnik et al. 2014; periods 1 to 128"),
    "sru": Variant("sru", source="Oliva et al. 2017, the statistical recurrent unit"),
    "g2-lstm": Variant("g2-lstm", None, "constant", "Li et al. 2018"),
    "noisy-lstm": Variant("noisy-lstm", None, "constant", "Gulcehre et al. 2016; learnt p"),
    "on-lstm": Variant("on-lstm", source="Shen et al. 2019"),
    "slstm": Variant("slstm", source="Beck et al. 2024"),
    "rmc": Variant("rmc", source="Santoro et al. 2018; 4 slots, 2 heads"),
    "stacked-lstm": Variant("stacked-lstm", None, "constant", "two layers of lstm"),
    "dilated-lstm": Variant("dilated-lstm", None, "constant", "Chang et al. 2017; dilations 1, 2, 4, 8"),
    "dilated-gru": Variant("dilated-gru", source="Chang et al. 2017; dilations 1, 2, 4, 8"),
    "mingru": Variant("mingru", source="Feng et al. 2024"),
    "minlstm": Variant("minlstm", source="Feng et al. 2024"),
    "lru": Variant("lru", source="Orvieto et al. 2023"),
    "ffm": Variant("ffm", source="Morad et al. 2023"),
}


def make_core(name: str, input_size: int, hidden_size: int, *, horizon: float | None = None, **options) -> cells.Cell:
    """The core `name` of VARIANTS, (T, B, input_size) -> (T, B, hidden_size).

    horizon: environment steps that a memory should bridge; required by the chrono initialisation and the Gaussian time
    gate. options: those of OPTIONS that the row takes; None means the default. An option that the row has no use for raises
    ValueError, except `horizon`, which describes the task and not the cell.
    With `layers` above 1 every layer is a core of its own, wrappers and noise included; see `multi.Stacked`.
    """
    row, given = _checked(name, horizon, options)
    one = partial(_one_layer, row, given, horizon)
    own = "layers" in TAKES.get(row.cell, ())
    if own or given.get("layers", 1) == 1:
        return one(input_size, hidden_size)
    return multi.stack(one, input_size, hidden_size, given["layers"])


def count_parameters(core: torch.nn.Module) -> int:
    """Trainable parameters, as an optimiser counts them; an orthogonal matrix counts as the H * H that torch keeps for it."""
    return sum(p.numel() for p in core.parameters() if p.requires_grad)


def matching_hidden_size(name: str, input_size: int, parameters: int, *, horizon: float | None = None, **options) -> int:
    """The hidden size at which `make_core(name, input_size, ...)` comes closest to so many trainable parameters.

    Of two equally close ones the smaller. Only widths that the row's heads, slots and chunks fit are considered (STEPS).
    The core is laid out on the meta device, without memory or random numbers. Raises ValueError as `make_core` does,
    and where even the narrowest core has more parameters or the widest (WIDEST) has fewer.
    """
    row, given = _checked(name, horizon, options)
    step = given.get("chunk") or STEPS.get(row.cell, 1)

    @functools.cache
    def size(width: int) -> int:
        with torch.device("meta"):
            return count_parameters(make_core(name, input_size, width, horizon=horizon, **options))

    def size_or_less(width: int) -> int:
        try:
            return size(width)
        except ValueError:  # too narrow; a bad option has raised at `top`
            return -1

    top = 8 * step
    while size(top) < parameters:
        if 2 * top > WIDEST:
            raise ValueError(f"cell {name!r} has only {size(top)} parameters at hidden size {top}, not {parameters}")
        top *= 2
    widths = range(step, top + 1, step)
    at = bisect.bisect_left(widths, parameters, key=size_or_less)
    above, too_many = widths[at], size(widths[at]) - parameters
    if at and size_or_less(widths[at - 1]) >= 0:
        below = widths[at - 1]
        return below if parameters - size(below) <= too_many else above
    if too_many:
        raise ValueError(f"cell {name!r} has at least {size(above)} parameters (hidden size {above}), not {parameters}")
    return above


def _checked(name: str, horizon: float | None, options: dict) -> tuple[Variant, dict]:
    """The row, and the options that are not None. Raises ValueError."""
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, 1, 0)
        raise ValueError(f"unknown cell {name!r}; did you mean {near[0]!r}? Known: {', '.join(VARIANTS)}")
    row, given = VARIANTS[name], {option: value for option, value in options.items() if value is not None}
    for option in options:
        if option not in OPTIONS:
            raise ValueError(f"unknown option {option!r}; known: horizon, {', '.join(OPTIONS)}")
    for option in given:
        if option not in row.options:
            fits = [n for n, v in VARIANTS.items() if option in v.options]
            raise ValueError(f"cell {name!r} takes no {option}; cells that do: {', '.join(fits)}")
    if "horizon" in row.options and horizon is None:
        raise ValueError(f"cell {name!r} needs a horizon (the longest time it should bridge, in environment steps)")
    return row, given


def _one_layer(row: Variant, given: dict, horizon: float | None, input_size: int, hidden_size: int) -> cells.Cell:
    def of(part: str | None) -> dict:
        return {option: given[option] for option in TAKES.get(part, ()) if option in given}

    init = INITS[row.init](horizon, **of(row.init))
    squasher = SQUASHES[row.squash](hidden_size, init, **of(row.squash))
    gate = GATES[row.gate](squasher, **of(row.gate)) if row.gate else None
    extra = {"squash": squasher} if row.squash else {}
    core = CELLS[row.cell](input_size, hidden_size, gate, init, **row.fixed, **extra, **of(row.cell))
    for wrapper in row.wrappers:
        core = WRAPPERS[wrapper](core, horizon, **of(wrapper))
    return core
