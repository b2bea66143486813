"""Model families on one skeleton: a hosted MACE backbone, a density of Gaussian multipoles, its energy."""

from typing import TYPE_CHECKING

from electret.support.deferred import names_from

if TYPE_CHECKING:
    from electret.models.base import Call, Density, Model, Structure
    from electret.models.config import (
        FAMILIES,
        SELF_CONSISTENT,
        BackboneConfig,
        ElectrostaticsConfig,
        FixedPointConfig,
        FunctionalConfig,
        LatentConfig,
        ModelConfig,
        QeqConfig,
        ScfConfig,
        SplitChargesConfig,
    )
    from electret.models.construction import MODEL_CLASSES, build
    from electret.models.existing_mace import from_mace
    from electret.models.files import load, save
    from electret.models.header import ModelFileError, read_header
    from electret.models.start.statistics import Statistics

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
    "LatentConfig",
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

# Options and headers of files are read without PyTorch.
__getattr__ = names_from(
    __name__, ("header", "config", "start.statistics", "base", "construction", "files", "existing_mace")
)
