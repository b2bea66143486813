"""Infrared spectrum of bulk water: dynamics of a box, Born charges of its frames, a plot.

python examples/bulk_water/infrared.py runs/bulk_water/model.electret --output runs/bulk_water/infrared
"""

import argparse
from pathlib import Path

import numpy as np
from ase import units
from ase.io import iread, read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from matplotlib import pyplot

from electret.analysis import infrared_spectrum
from electret.calculator import Calculator

TEMPERATURE = 300.0
"""K."""
DATA = Path(__file__).parent / "data" / "valid.xyz"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--picoseconds", type=float, default=8.0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    atoms = read(DATA, "-1")
    atoms.info = {}  # its Fermi level would be a condition
    calculator = atoms.calc = Calculator(options.model)
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=rng)
    Langevin(
        atoms, 0.5 * units.fs, temperature_K=TEMPERATURE, friction=0.02 / units.fs, rng=rng, fixcm=False
    ).run(2000)
    file = options.output / "water.traj"
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs, trajectory=str(file), loginterval=6)
    dynamics.run(round(options.picoseconds * 2000))
    spectrum = infrared_spectrum(iread(file), calculator, timestep=3.0, resolution=40.0)
    columns = np.stack([spectrum.wavenumbers, spectrum.absorption], axis=1)
    np.savetxt(
        options.output / "infrared.csv", columns, "%.4g", delimiter=",", header="cm^-1,n alpha / cm^-1"
    )
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(spectrum.wavenumbers, spectrum.absorption)
    axes.set(xlim=(0, 4500), ylim=(0, None), xlabel="wavenumber / cm⁻¹", ylabel="n α / cm⁻¹")
    figure.savefig(options.output / "infrared.png", dpi=150)
    print(f"{spectrum.temperature:.0f} K, {len(spectrum.rates)} frames; spectrum in {options.output}")


if __name__ == "__main__":
    main()
