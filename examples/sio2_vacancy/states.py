"""Labels of a charge state, with a Fermi level that counts only where it is one.

In a gap the Fermi level may be anywhere; the label is the middle. The energy against charge has a kink there:
in quartz with a neutral vacancy the label is -14 eV, while taking an electron away costs 17 eV. As a slope of
the energy, which it is in every self-consistent model, it would contradict the energies of the charge states.
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
    """`labelled` with `config_fermi_level_weight` = 0 where the gap is wide."""
    frame = labelled(atoms, calculator, config_type, chain)
    weigh_fermi_level(frame, calculator.results["gap"])
    return frame


def weigh_fermi_level(frame: Atoms, gap: float) -> None:
    """Leave the Fermi level of a frame out of training where the gap (eV) is wide."""
    if gap > WIDEST_GAP:
        frame.info["config_fermi_level_weight"] = 0.0
