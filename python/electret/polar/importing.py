"""Models of family `polar` around existing PolarMACE models: objects, and files that MACE wrote."""

from __future__ import annotations

import os

import torch

from electret.models.base import Model
from electret.models.config import ModelConfig
from electret.models.existing_mace import from_mace as of_family
from electret.polar.electrostatics import checked_mode

__all__ = ["from_mace"]


def from_mace(
    mace: torch.nn.Module | str | os.PathLike[str],
    *,
    trust: bool = False,
    head: str | None = None,
    mode: str = "exact",
    dtype: str | None = None,
) -> Model:
    """A model of family `polar` with the parameters of a PolarMACE, for the calculator, training and
    `.electret` files; `electret.models.from_mace` with fewer options.

    Args:
        mace: the object, or a file that MACE wrote.
        trust: for a file: it is a pickle from a trusted source, and may be read (in another process).
        head: energy head, where there are several.
        mode: `"exact"` or `"as_trained"`, as in `accelerate`.
        dtype: `"float32"` or `"float64"`; that of the object where None.

    Raises:
        InputError: a file without `trust`, no PolarMACE, or an option of it that has no counterpart.
    """
    backbone = {name: value for name, value in (("head", head), ("dtype", dtype)) if value is not None}
    options = {"family": "polar", "backbone": backbone, "polar": {"mode": checked_mode(mode)}}
    return of_family(mace, ModelConfig.parse(options), trust=trust)
