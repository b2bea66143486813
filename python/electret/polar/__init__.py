"""MACE-POLAR-1 (`mace.modules.PolarMACE`) on the kernels of this package."""

from electret.polar.acceleration import accelerate, accelerated, is_accelerated, restore

__all__ = ["accelerate", "accelerated", "is_accelerated", "restore"]
