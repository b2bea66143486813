"""Infrared spectra from Born effective charges along a trajectory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dct

from electret.calculator import Calculator
from electret.errors import InputError
from electret.units import COULOMB_CONSTANT

__all__ = ["InfraredSpectrum", "dipole_rate", "infrared_spectrum", "spectrum_of_rates"]

SPEED_OF_LIGHT = 2997.92458
"""Å/fs"""
_PER_CM = 1e8
"""Å per cm."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class InfraredSpectrum:
    """Absorption of light of classical nuclei.

    Attributes:
        wavenumbers: `[n]` cm⁻¹.
        absorption: n(ω) α(ω) of `[n]` cm⁻¹, refractive index times absorption coefficient.
        rates: dP/dt of each frame, `[n_frames, 3]` e Å/fs.
        temperature: K.
    """

    wavenumbers: Array
    absorption: Array
    rates: Array
    temperature: float


def dipole_rate(atoms: Atoms, calculator: Calculator) -> Array:
    """dP/dt = sum_i Z_i v_i `[3]` in e Å/fs, of Born effective charges Z and the velocities of the atoms.

    Raises:
        InputError: atoms without velocities.
        PropertyNotImplementedError: a family without Born charges at this boundary.
    """
    velocities = atoms.get_velocities()
    if not np.any(velocities):
        raise InputError(
            "the frames have no velocities (momenta); write the trajectory with them, as ASE's .traj and "
            "extxyz do during dynamics"
        )
    born = calculator.response(atoms, ["born_effective_charges"])["born_effective_charges"]
    return np.einsum("iab,ib->a", born, velocities) * units.fs


def infrared_spectrum(
    frames: Iterable[Atoms],
    calculator: Calculator,
    timestep: float,
    *,
    temperature: float | None = None,
    resolution: float = 20.0,
) -> InfraredSpectrum:
    """Infrared spectrum of a trajectory, of crystals and liquids as well as of molecules.

    Args:
        frames: of one trajectory at equal intervals, with velocities; read one at a time.
        calculator: gives Born effective charges, the calculator of the dynamics or another.
        timestep: interval of the frames in fs; frequencies up to 16,700 cm⁻¹/timestep are resolved.
        temperature: K; None takes the mean of the velocities.
        resolution: full width of a sharp line at half height, cm⁻¹.

    Raises:
        InputError: too few frames for the resolution, or without velocities.

    Example:
        >>> from ase.io import iread
        >>> spectrum = infrared_spectrum(iread("water.traj"), calc, timestep=2.0)  # doctest: +SKIP
        >>> spectrum.wavenumbers[spectrum.absorption.argmax()]  # doctest: +SKIP
    """
    rates, temperatures, volumes = [], [], []
    for atoms in frames:
        rates.append(dipole_rate(atoms, calculator))
        temperatures.append(atoms.get_temperature())
        volumes.append(atoms.get_volume() if atoms.cell.rank == 3 else 1.0)
    if not rates:
        raise InputError("the trajectory has no frames")
    found = float(np.mean(temperatures)) if temperature is None else temperature
    return spectrum_of_rates(rates, timestep, float(np.mean(volumes)), found, resolution=resolution)


def spectrum_of_rates(
    rates: ArrayLike, timestep: float, volume: float, temperature: float, *, resolution: float = 20.0
) -> InfraredSpectrum:
    """Infrared spectrum of rates dP/dt,

        n(ω) α(ω) = 1/(6 ε0 c V kT) ∫ dt exp(iωt) <dP/dt(0) · dP/dt(t)>,

    the classical spectrum with the harmonic quantum correction (R. Ramírez, T. López-Ciudad, P. Kumar, D.
    Marx, J. Chem. Phys. 121, 3973 (2004), Eqs. 2 and 19). The correlation is weighted by a Hann window.

    Args:
        rates: `[n_frames, 3]` e Å/fs at equal intervals.
        timestep: interval in fs.
        volume: Å³; of a molecule any, then `absorption` is per density of molecules in Å⁻³ times this volume.
        temperature: K.
        resolution: see `infrared_spectrum`.
    """
    values = np.asarray(rates, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 3 or not np.isfinite(values).all():
        raise InputError(f"rates have shape {values.shape}; expected finite numbers [n_frames, 3]")
    for name, number in {
        "timestep": timestep,
        "volume": volume,
        "temperature": temperature,
        "resolution": resolution,
    }.items():
        if not (math.isfinite(number) and number > 0):
            raise InputError(f"{name} = {number}; expected a positive number")
    # A Hann window of half width t has a line of full width 1/t at half height.
    n_lags = math.ceil(1.0 / (resolution / _PER_CM * SPEED_OF_LIGHT * timestep))
    n = len(values)
    if n < 2 * n_lags:
        raise InputError(
            f"{n} frames at intervals of {timestep:g} fs are too few for a resolution of {resolution:g} "
            f"cm⁻¹, which takes {2 * n_lags}; give more, or a larger resolution"
        )
    transform = np.fft.rfft(values, n=2 * n, axis=0)
    correlation = np.fft.irfft((np.abs(transform) ** 2).sum(axis=1))[:n_lags] / (n - np.arange(n_lags))
    window = 0.5 * (1.0 + np.cos(np.pi * np.arange(n_lags) / n_lags))
    spectrum = timestep * dct(np.append(correlation * window, 0.0), type=1)  # e² Å²/fs
    prefactor = 4.0 * math.pi * COULOMB_CONSTANT / (6.0 * SPEED_OF_LIGHT * volume * units.kB * temperature)
    frequencies = np.fft.rfftfreq(2 * n_lags, timestep).astype(np.float64)  # 1/fs
    return InfraredSpectrum(
        frequencies / SPEED_OF_LIGHT * _PER_CM, prefactor * _PER_CM * spectrum, values, temperature
    )
