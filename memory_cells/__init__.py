"""Recurrent cells, their gates and initialisations, and the one loop over time."""

from memory_cells.cells import Cell
from memory_cells.unroll import unroll
from memory_cells.variants import VARIANTS, make_core

__all__ = ["VARIANTS", "Cell", "make_core", "unroll"]
