"""Label structures with an oxygen vacancy at several total charges and the same positions (GFN1-xTB).

    python examples/sio2_vacancy/charge_states.py IN.xyz OUT.xyz --charges 0 1 2 --every 3 --others-only

Every frame of the output names its structure (`structure`), so that energies of charge states can be
subtracted, and the place of its vacancy (`vacancy`, Å).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms
from ase.io import read, write
from rich.progress import track
from states import labelled_state
from structures import vacancy_position

sys.path.insert(0, str(Path(__file__).parents[1] / "demo_data"))
from labels import XTB


def at_charges(frames: Sequence[Atoms], charges: Sequence[float], others_only: bool) -> list[Atoms]:
    """Labelled copies of the frames with a vacancy at each charge; with `others_only` not at their own."""
    found = []
    for number, atoms in enumerate(track(frames, description="Charge states")):
        vacancy = vacancy_position(atoms)
        if vacancy is None:
            continue
        own = float(atoms.info["total_charge"])
        for charge in charges:
            if others_only and charge == own:
                continue
            frame = labelled_state(atoms, XTB(charge), f"vacancy_q{charge:+.0f}", atoms.info["chain"])
            frame.info |= {"structure": number, "vacancy": vacancy}
            found.append(frame)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("frames", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--charges", type=float, nargs="+", default=(0, 1, 2), help="e")
    parser.add_argument("--every", type=int, default=1, help="take one frame with a vacancy in so many")
    parser.add_argument("--others-only", action="store_true", help="leave out the charge a frame has already")
    options = parser.parse_args()
    frames = [atoms for atoms in read(options.frames, ":") if vacancy_position(atoms) is not None]
    write(
        options.output,
        at_charges(frames[:: options.every], options.charges, options.others_only),
        format="extxyz",
    )


if __name__ == "__main__":
    main()
