"""Install a folder's wheel into an empty environment and use it without torch: `wheel_check.py dist`."""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PROGRAM = """
import sys
import numpy as np
import electret
from electret.units import COULOMB_CONSTANT

positions = np.array([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
cell = 4.0 * np.eye(3)
i, j, S, d, D = electret.neighbor_list("ijSdD", positions, cell, True, 4.5)
assert len(i) > 0 and np.allclose(np.linalg.norm(D, axis=1), d)

multipoles = np.array([[1.0], [-1.0]])
r = electret.coulomb(positions, multipoles, sigma=0.3, cell=cell, pbc=True, accuracy=1e-11)
madelung = -r.energy[0] * np.sqrt(12.0) / COULOMB_CONSTANT
self_energy = 1.0 / (np.sqrt(np.pi) * 0.3) * np.sqrt(12.0)
assert abs(madelung + self_energy - 1.762674773070) < 1e-8, madelung + self_energy  # CsCl

v = electret.features(positions, multipoles, sigma=1.0, widths=[1.5, 3.0], features_max_l=1)
u = electret.potential(np.zeros((1, 3)), positions, multipoles, sigma=1.0)
g = electret.Geometry(positions, sigma=1.0, widths=[1.5, 3.0])
assert np.isfinite(v).all() and np.isfinite(u).all() and np.isfinite(g.energy(multipoles)).all()

absent = {"torch", "mace", "e3nn", "ase"} & set(sys.modules)
assert not absent, absent
print(f"electret {electret.__version__}: the numpy calls work without torch")
"""


def main(folder: Path) -> None:
    wheels = sorted(folder.glob("electret-*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        sys.exit(f"no wheel in {folder}; build one with `make wheel`")
    wheel = wheels[-1]
    if "-abi3-manylinux" not in wheel.name and sys.platform == "linux":
        sys.exit(f"{wheel.name} is not an abi3 manylinux wheel")
    with tempfile.TemporaryDirectory() as scratch:
        venv.create(scratch, with_pip=True)
        python = Path(scratch) / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel.resolve()], check=True)
        subprocess.run([python, "-c", PROGRAM], check=True, cwd=scratch)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist"))
