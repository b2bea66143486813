"""Infrared spectra: oscillators with a closed form, and rates that are derivatives of the polarisation."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mace")

from ase import Atoms, units
from scipy.integrate import trapezoid

from electret import InputError
from electret.analysis import dipole_rate, infrared_spectrum, spectrum_of_rates
from electret.analysis.infrared import SPEED_OF_LIGHT
from electret.calculator import Calculator
from electret.models import Model
from electret.units import COULOMB_CONSTANT
from model_cases import bulk, small_model

TEMPERATURE, VOLUME, CHARGE, MASS = 300.0, 1000.0, 0.6, 20.0


def oscillators(wavenumber: float, timestep: float, n_frames: int) -> np.ndarray:
    """dP/dt of one charge that oscillates along each axis with the mean energy of the temperature."""
    frequency = 2 * np.pi * wavenumber * SPEED_OF_LIGHT / 1e8
    speed = np.sqrt(2 * units.kB * TEMPERATURE / MASS) * units.fs  # mean square kT/m
    times = timestep * np.arange(n_frames)
    return CHARGE * speed * np.cos(frequency * times[:, None] + np.array([0.3, 1.7, 4.0]))


@pytest.mark.parametrize("wavenumber", [500.0, 1650.0, 3400.0])
def test_lines_and_sum_rule_of_oscillators(wavenumber: float) -> None:
    """The line is at the frequency; its integral over ω is pi/(2 ε0 c V) sum q²/m at any temperature."""
    found = spectrum_of_rates(oscillators(wavenumber, 1.0, 20_000), 1.0, VOLUME, TEMPERATURE)
    peak = found.wavenumbers[found.absorption.argmax()]
    assert peak == pytest.approx(wavenumber, abs=10.0)
    above = found.wavenumbers[found.absorption > found.absorption.max() / 2]
    assert np.ptp(above) == pytest.approx(20.0, abs=12.0)
    frequencies = 2 * np.pi * found.wavenumbers * SPEED_OF_LIGHT / 1e8  # 1/fs
    mass = MASS / units.fs**2  # eV fs²/Å²
    expected = np.pi / 2 * 4 * np.pi * COULOMB_CONSTANT / (SPEED_OF_LIGHT * VOLUME) * CHARGE**2 / mass * 1e8
    assert trapezoid(found.absorption, frequencies) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("family", ["local_charges", "split_charges", "sqe", "latent_ewald"])
def test_rates_are_derivatives_of_the_polarization(family: str) -> None:
    model: Model = small_model(family)
    atoms = bulk()
    atoms.set_velocities(np.random.default_rng(0).normal(0.0, 0.02, (5, 3)))
    calculator = Calculator(model)
    rate = dipole_rate(atoms, calculator)
    born = calculator.response(atoms, ["born_effective_charges"])["born_effective_charges"]
    np.testing.assert_allclose(rate, np.einsum("iab,ib->a", born, atoms.get_velocities()) * units.fs)
    assert np.abs(rate).max() > 1e-5
    if model.description.has_polarization:
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * 0.5e-3 * atoms.get_velocities() * units.fs
            moved.calc = calculator
            ends.append(calculator.get_property("polarization", moved))
        np.testing.assert_allclose(rate, (ends[0] - ends[1]) / 1e-3, rtol=1e-4, atol=1e-8)


def test_spectrum_of_a_trajectory() -> None:
    """Frames at rest but for one ion that oscillates: its line, with Born charges of every frame."""
    frames, calculator = [], Calculator(small_model("fixed_charges"))
    positions = [[1.0, 0.0, 0.0], [0.0, 2.5, 0.0], [0.0, 0.0, 4.0], [4.0, 4.0, 1.0]]
    frequency = 2 * np.pi * 1000.0 * SPEED_OF_LIGHT / 1e8
    for index in range(400):
        atoms = Atoms("NaHHO", positions, cell=[8, 8, 8], pbc=True)
        velocities = np.zeros((4, 3))
        velocities[0, 0] = 0.05 * np.cos(frequency * 2.0 * index)
        atoms.set_velocities(velocities)
        frames.append(atoms)
    found = infrared_spectrum(iter(frames), calculator, 2.0, resolution=100.0)
    assert found.wavenumbers[found.absorption.argmax()] == pytest.approx(1000.0, abs=45.0)
    assert found.rates.shape == (400, 3)
    assert found.temperature == pytest.approx(np.mean([atoms.get_temperature() for atoms in frames]))


def test_errors() -> None:
    calculator = Calculator(small_model("local_charges"))
    with pytest.raises(InputError, match="no velocities"):
        infrared_spectrum([bulk()], calculator, 1.0)
    with pytest.raises(InputError, match="no frames"):
        infrared_spectrum([], calculator, 1.0)
    rates = np.ones((10, 3))
    with pytest.raises(InputError, match=r"10 frames at intervals of 1 fs are too few"):
        spectrum_of_rates(rates, 1.0, 100.0, 300.0)
    with pytest.raises(InputError, match="temperature = -3"):
        spectrum_of_rates(rates, 1.0, 100.0, -3.0)
    with pytest.raises(InputError, match=r"shape \(10, 2\)"):
        spectrum_of_rates(rates[:, :2], 1.0, 100.0, 300.0)
