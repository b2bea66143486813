"""Picture of the landing page: `python docs/pictures/landing.py` writes landing.png beside this file.

Left and middle: potential around an ion above a slab of 5 layers, with charges that stay zero and with
charges that minimise the energy (`electret.charge_equilibration`). Right: energies of the charge states of an
oxygen vacancy in quartz, from the table of docs/studies/sio2_vacancy.md.
"""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib
import numpy as np

import electret

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
SPACING = 2.6
"""Distance of neighbouring atoms in Å."""
SIGMA = 0.9
ION = np.array([0.0, 0.0, 9.5])


def slab(n: int = 11, n_layers: int = 5) -> np.ndarray:
    """Positions [n_atoms, 3] of a cubic slab whose upper layer lies at z = 4.4 Å."""
    axis = SPACING * (np.arange(n) - (n - 1) / 2)
    layers = 4.4 - SPACING * np.arange(n_layers)
    return np.array([[x, y, z] for z in layers for x in axis for y in axis])


def potentials() -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """x, z, potentials [n_z, n_x] in the plane y = SPACING / 2 without and with response, atoms near it."""
    metal = slab()
    positions = np.concatenate([metal, [ION]])
    # The ion keeps its charge: its hardness is large and its electronegativity makes +1 e the minimum.
    hardness = np.append(np.full(len(metal), 0.2), 1e6)
    electronegativity = np.append(np.zeros(len(metal)), -1e6)
    solved = electret.charge_equilibration(
        positions, electronegativity, hardness, SIGMA, total_charge=1.0, method="direct"
    )
    x, z = np.linspace(-15, 15, 181), np.linspace(-10, 15, 151)
    points = np.array([[a, SPACING / 2, b] for b in z for a in x])
    shape = (len(z), len(x))
    frozen = np.append(np.zeros(len(metal)), 1.0)
    values = [
        electret.potential(points, positions, charges[:, None], SIGMA, method="direct").reshape(shape)
        for charges in (frozen, solved.charges)
    ]
    return x, z, values, metal[np.abs(metal[:, 1] - SPACING) < 0.1]


def charge_states() -> dict[str, list[float]]:
    """Energies in eV relative to charge 0 at +1 and +2 e, by model."""
    with open(HERE.parent / "studies/sio2_vacancy/probe_charge_states.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return {
        name: [0.0] + [float(row[2]) for row in rows if row[0] == name and row[1] in ("+1", "+2")]
        for name in ("labels", "local_charges", "fixed_point")
    }


def main() -> None:
    x, z, values, atoms = potentials()
    plt.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.5), width_ratios=[1, 1, 0.8], layout="constrained")
    levels = np.arange(0.0, 4.01, 0.25)
    for axis, potential, title in zip(
        axes, values, ("charges that do not respond", "self-consistent charges"), strict=False
    ):
        filled = axis.contourf(x, z, potential, levels=levels, cmap="magma", extend="both")
        axis.contour(x, z, potential, levels=levels, colors="white", linewidths=0.4, alpha=0.7)
        axis.scatter(atoms[:, 0], atoms[:, 2], s=16, facecolor="none", edgecolor="#9fd3ff", linewidth=0.8)
        axis.scatter(*ION[[0, 2]], s=40, color="white", edgecolor="black", zorder=3)
        axis.annotate(
            "+1 e", ION[[0, 2]], xytext=(7, 5), textcoords="offset points", color="black", weight="bold"
        )
        axis.set(title=title, xlabel="x / Å", xlim=(-15, 15), ylim=(-10, 15), aspect="equal")
    axes[0].set_ylabel("z / Å")
    figure.colorbar(filled, ax=axes[:2], label="potential / V", shrink=0.85)
    styles = {
        "labels": {
            "color": "black",
            "marker": "o",
            "linestyle": "none",
            "markersize": 9,
            "fillstyle": "none",
        },
        "local_charges": {"color": "#c44e52", "marker": "s", "markersize": 5},
        "fixed_point": {"color": "#1f77b4", "marker": "D", "markersize": 4.5},
    }
    names = {
        "labels": "GFN1-xTB",
        "local_charges": "local charges",
        "fixed_point": "self-consistent\n(fixed_point)",
    }
    for name, energies in charge_states().items():
        axes[2].plot([0, 1, 2], energies, label=names[name], **styles[name])
    axes[2].set(title="vacancy in quartz", xlabel="charge / e", ylabel="energy / eV", xticks=[0, 1, 2])
    axes[2].legend(frameon=False)
    axes[2].spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "landing.png", dpi=110)


if __name__ == "__main__":
    main()
