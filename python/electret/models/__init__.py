"""Model families on one skeleton: a hosted MACE backbone, a density of Gaussian multipoles, its energy."""

from electret.models.config import (
    FAMILIES,
    BackboneConfig,
    ElectrostaticsConfig,
    ModelConfig,
    SplitChargesConfig,
)

__all__ = ["FAMILIES", "BackboneConfig", "ElectrostaticsConfig", "ModelConfig", "SplitChargesConfig"]
