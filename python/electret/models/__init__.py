"""Model families on one skeleton: a hosted MACE backbone, a density of Gaussian multipoles, its energy."""

from electret.models.base import Density, Model, Structure
from electret.models.build import MODEL_CLASSES, build, from_mace
from electret.models.config import (
    FAMILIES,
    BackboneConfig,
    ElectrostaticsConfig,
    ModelConfig,
    SplitChargesConfig,
)
from electret.models.files import ModelFileError, load, read_header, save
from electret.models.statistics import Statistics

__all__ = [
    "FAMILIES",
    "MODEL_CLASSES",
    "BackboneConfig",
    "Density",
    "ElectrostaticsConfig",
    "Model",
    "ModelConfig",
    "ModelFileError",
    "SplitChargesConfig",
    "Statistics",
    "Structure",
    "build",
    "from_mace",
    "load",
    "read_header",
    "save",
]
