"""Boxes of water that tests and benchmarks share; makes the helpers of `tests/` importable."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from water_boxes import CELL_LENGTH, batch_of, unit_of, water, water_of

__all__ = ["CELL_LENGTH", "batch_of", "unit_of", "water", "water_of"]
