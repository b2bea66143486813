"""Model families on one skeleton: a hosted MACE backbone, a density of Gaussian multipoles, its energy."""

from electret.models.base import Call, Density, Model, Structure
from electret.models.build import MODEL_CLASSES, build, from_mace
from electret.models.config import (
    FAMILIES,
    SELF_CONSISTENT,
    BackboneConfig,
    ElectrostaticsConfig,
    FixedPointConfig,
    FunctionalConfig,
    ModelConfig,
    QeqConfig,
    ScfConfig,
    SplitChargesConfig,
)
from electret.models.files import ModelFileError, load, read_header, save
from electret.models.statistics import Statistics

__all__ = [
    "FAMILIES",
    "MODEL_CLASSES",
    "SELF_CONSISTENT",
    "BackboneConfig",
    "Call",
    "Density",
    "ElectrostaticsConfig",
    "FixedPointConfig",
    "FunctionalConfig",
    "Model",
    "ModelConfig",
    "ModelFileError",
    "QeqConfig",
    "ScfConfig",
    "SplitChargesConfig",
    "Statistics",
    "Structure",
    "build",
    "from_mace",
    "load",
    "read_header",
    "save",
]
