"""Labels of a charge state; the Fermi level has no weight inside a gap.

Inside a gap the Fermi level is arbitrary; the label is the middle. The energy against charge has a kink:
in quartz with a neutral vacancy the label is -14 eV, while removing an electron costs 17 eV. In every
self-consistent model the Fermi level is a slope of the energy, so this label would contradict the energies
of the charge states.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ase import Atoms

sys.path.insert(0, str(Path(__file__).parents[1] / "demo_data"))
from labels import XTB, labelled

WIDEST_GAP = 2.0
"""Gap in eV up to which the Fermi level is trained on."""


def labelled_state(atoms: Atoms, calculator: XTB, config_type: str, chain: str) -> Atoms:
    """`labelled` with `config_fermi_level_weight` = 0 if the gap is wide."""
    frame = labelled(atoms, calculator, config_type, chain)
    weigh_fermi_level(frame, calculator.results["gap"])
    return frame


def weigh_fermi_level(frame: Atoms, gap: float) -> None:
    """Exclude the Fermi level of a frame from training if the gap (eV) is wide."""
    if gap > WIDEST_GAP:
        frame.info["config_fermi_level_weight"] = 0.0
