"""MACE-POLAR-1 (`mace.modules.PolarMACE`) on the kernels of this package."""

from electret.models.existing_mace import from_mace
from electret.polar.acceleration import accelerate, accelerated, is_accelerated, restore
from electret.polar.pickles import load, save

__all__ = ["accelerate", "accelerated", "from_mace", "is_accelerated", "load", "restore", "save"]
