"""Equal parameter counts: the width that `matching_hidden_size` picks, over all rows, and the config keys of a core's size."""

import random

import pytest
import torch

import build
from configs.errors import ConfigError
from configs.load import load_config
from memory_cells import make_core, variants
from memory_cells.cells import Cell
from memory_cells.variants import OPTIONS, STEPS, VARIANTS, count_parameters, matching_hidden_size

I, HORIZON = 16, 50
rows = pytest.mark.parametrize("name", VARIANTS)


def laid_out(name, width, **options) -> Cell:
    with torch.device("meta"):
        return make_core(name, I, width, horizon=HORIZON, **options)


@rows
def test_a_core_can_be_laid_out_without_numbers(name):
    """On the meta device it has the parameters that it has on the CPU, and no random number is drawn."""
    before = torch.get_rng_state()
    shapes = {key: p.shape for key, p in laid_out(name, 40).named_parameters()}
    assert torch.equal(before, torch.get_rng_state())
    real = make_core(name, I, 40, horizon=HORIZON)
    if name in ("orth-rnn", "goru"):  # the parametrization's name for the same matrix
        shapes["parametrizations.weight_h.original"] = shapes.pop("weight_h")
    assert shapes == {key: p.shape for key, p in real.named_parameters()}
    assert count_parameters(laid_out(name, 40)) == count_parameters(real)


def considered(name, **options) -> range:
    step = options.get("chunk") or STEPS.get(VARIANTS[name].cell, 1)
    return range(8 * step, 30 * step, step)


@rows
def test_the_widths_considered_fit_and_grow(name):
    """What the bisection relies on, for the row as it is and with every option of its own changed."""
    changed = {option: OPTIONS[option][1] for option in VARIANTS[name].options & OPTIONS.keys()}
    for options in ({}, changed):
        sizes = [count_parameters(laid_out(name, width, **options)) for width in considered(name, **options)[::3]]
        assert sizes == sorted(set(sizes))


@rows
def test_no_other_width_comes_closer(name):
    """Against the slow way: every width considered, at targets between, on and next to the sizes there are."""
    widths = considered(name)
    sizes = {width: count_parameters(laid_out(name, width)) for width in widths}
    low, high = sizes[widths[1]], sizes[widths[-2]]
    draw = random.Random(name)
    for target in (draw.randint(low, high), draw.randint(low, high), sizes[widths[9]], sizes[widths[15]] + 1):
        found = matching_hidden_size(name, I, target, horizon=HORIZON)
        assert found == min(widths, key=lambda width: (abs(sizes[width] - target), width)), target


def test_a_tie_goes_to_the_smaller():
    sizes = [count_parameters(make_core("elman", I, width)) for width in (20, 21)]
    assert sum(sizes) % 2 == 0
    assert matching_hidden_size("elman", I, sum(sizes) // 2) == 20
    assert matching_hidden_size("elman", I, sum(sizes) // 2 + 1) == 21


def test_options_that_cost_parameters_are_counted():
    for options in ({"layers": 3}, {"chunk": 6}, {"layers": 2, "chunk": 5}):
        width = matching_hidden_size("um-lstm", I, 50_000, **options)
        assert width % options.get("chunk", 1) == 0
        assert abs(count_parameters(make_core("um-lstm", I, width, **options)) / 50_000 - 1) < 0.1
    assert matching_hidden_size("nru", I, 50_000, memory_size=9, heads=1) > matching_hidden_size("nru", I, 50_000)


def test_few_cores_are_laid_out(monkeypatch):
    counted = []
    monkeypatch.setattr(
        variants, "count_parameters", lambda core, _real=count_parameters: (counted.append(1), _real(core))[1]
    )
    matching_hidden_size("ur-lstm", I, 10_000_000)
    assert 2 < len(counted) < 40


def test_impossible_sizes_say_so():
    smallest = count_parameters(make_core("lstm", I, 1))
    with pytest.raises(ValueError, match=rf"'lstm' has at least {smallest} parameters \(hidden size 1\), not 5"):
        matching_hidden_size("lstm", I, 5)
    assert matching_hidden_size("lstm", I, smallest) == 1
    with pytest.raises(ValueError, match=r"'rmc' has at least \d+ parameters \(hidden size 8\)"):
        matching_hidden_size("rmc", I, 10)
    with pytest.raises(ValueError, match=r"'clockwork' has at least \d+ parameters \(hidden size 8\)"):
        matching_hidden_size("clockwork", I, 10)
    with pytest.raises(ValueError, match="'memoryless' has only"):
        matching_hidden_size("memoryless", I, 10**9)
    for name, options, why in (("lstn", {}, "did you mean"), ("nru", {"heads": 3}, "must be a square"),
                               ("chrono-lstm", {}, "needs a horizon"), ("lstm", {"chunk": 2}, "takes no chunk")):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            matching_hidden_size(name, I, 10_000, **options)


# --- from a config ------------------------------------------------------------------------------------------------------


def core_of(*tokens) -> Cell:
    config = load_config(tokens, build.KNOWN_CELLS)
    return build.make_agent(config, build.make_env(config, 2, torch.device("cpu"), 0)).core


def test_a_config_can_ask_for_parameters_in_place_of_a_width():
    core = core_of("cell=cr-lstm", "cell.match_parameters=30000")
    assert abs(count_parameters(core) / 30_000 - 1) < 0.02
    same = core_of("cell=cr-lstm", f"cell.hidden_size={core.hidden_size}")
    assert all(torch.equal(a, b) for a, b in zip(core.parameters(), same.parameters(), strict=True))
    layered = core_of("cell=cr-lstm", "cell.match_parameters=30000", "cell.layers=3")
    assert len(layered.layers) == 3 and abs(count_parameters(layered) / 30_000 - 1) < 0.05


def test_the_width_of_a_config_that_names_none():
    assert core_of("cell=lstm").hidden_size == 128
    assert core_of("cell=lstm", "cell.layers=2").layers[0].hidden_size == 128


def test_a_width_and_a_count_contradict():
    with pytest.raises(ConfigError, match=r"cell.match_parameters=9000 picks the width, and so does cell.hidden_size=8"):
        core_of("cell.match_parameters=9000", "cell.hidden_size=8")
    with pytest.raises(ConfigError, match="hidden_size=16; expected one of them to be null"):
        core_of("smoke", "cell.match_parameters=9000")  # the width stands in the file
    assert core_of("smoke", "cell.match_parameters=9000", "cell.hidden_size=null").hidden_size != 16
    with pytest.raises(ConfigError, match="cell: cell 'ur-lstm' has at least"):
        core_of("cell.match_parameters=9")
