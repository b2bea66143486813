"""Acceleration of PolarMACE objects in place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import torch

from electret.errors import InputError
from electret.kernels import inputs
from electret.polar.electrostatics import checked_mode
from electret.polar.hosted import PARTS, SETTINGS, PolarReplaced, Settings, polar_class, stand_in

__all__ = ["accelerate", "accelerated", "is_accelerated", "restore"]

Model = TypeVar("Model", bound=torch.nn.Module)


def accelerate(
    model: Model,
    mode: str = "exact",
    accuracy: float = 1e-8,
    method: str = "auto",
    precision: str = "float64",
) -> Model:
    """Have a MACE-POLAR-1 model sum its electrostatics by the kernels of this package, in place.

    The model stays a `mace.modules.PolarMACE` with its parameters, buffers and state dict: calculators,
    training and `torch.save` take it as before, and a file of it is one of the plain model. It runs without
    graph_longrange. Open systems, wires, slabs and crystals may share a batch. Virials and stress have the
    electrostatics and the field.

    Args:
        model: the object; one that is accelerated already takes the new settings.
        mode: `"exact"` sums every system as its periodic axes say. `"as_trained"` repeats the approximations
            of the training code, with which published weights were fitted: dipoles of open systems are
            displaced charges (differences of 1 to 10 meV/Å), slabs are crystals with a dipole correction
            along z, and sums of crystals and slabs end at the waves of the model's `kspace_cutoff`, at a cost
            that grows with the square of the number of atoms.
        accuracy: of the sums, relative; not of those that end at a cutoff.
        method: `"auto"`, `"direct"`, `"reciprocal"`, `"ewald"` or `"mesh"`, where there is no cutoff.
        precision: of long sums on a GPU, `"float64"` or `"float32"`.

    Returns:
        The model.

    Raises:
        InputError: the model is no PolarMACE, or a setting that cannot be used.

    Example:
        >>> import electret.polar
        >>> from mace.calculators import MACECalculator             # doctest: +SKIP
        >>> calculator = MACECalculator("polar.model", model_type="PolarMACE")  # doctest: +SKIP
        >>> electret.polar.accelerate(calculator.models[0])          # doctest: +SKIP
    """
    inputs.options(None, method, accuracy, precision)
    settings = Settings(checked_mode(mode), float(accuracy), method, precision)
    if not isinstance(model, polar_class()):
        raise InputError(
            f"the model is a {type(model).__name__}; electret.polar is for mace.modules.PolarMACE. "
            "electret.models.from_mace takes MACE models without electrostatics of their own"
        )
    if not is_accelerated(model):
        for name, kind in PARTS.items():
            part = getattr(model, name)
            part.__class__ = stand_in(kind, part.__class__)
        model.__class__ = stand_in(PolarReplaced, model.__class__)
    object.__setattr__(model, SETTINGS, settings)
    return model


def is_accelerated(model: torch.nn.Module) -> bool:
    """True if the electrostatics of the model are those of this package."""
    return isinstance(model, PolarReplaced)


def restore(model: Model) -> Model:
    """Undo `accelerate`, in place.

    A model that was loaded without graph_longrange is a plain PolarMACE then, which needs that package.

    Returns:
        The model.
    """
    if is_accelerated(model):
        for part in (*(getattr(model, name) for name in PARTS), model):
            part.__class__ = part.first_class
        vars(model).pop(SETTINGS, None)
    return model


@contextlib.contextmanager
def accelerated(**settings: Any) -> Iterator[None]:
    """Accelerate every PolarMACE that is made inside, as by MACE's training; `settings` are those of
    `accelerate`.

    Example:
        >>> import electret.polar
        >>> from mace.cli.run_train import main                      # doctest: +SKIP
        >>> with electret.polar.accelerated():                       # doctest: +SKIP
        ...     main()
    """
    polar = polar_class()
    make = polar.__init__

    def made(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        if type(self) is polar:
            accelerate(self, **settings)

    polar.__init__ = made
    try:
        yield
    finally:
        polar.__init__ = make
