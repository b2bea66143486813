"""LAMMPS with the forces of a model, through `fix external`.

From Python, `attach`; for an input script, `python -m electret.interfaces.lammps INPUT --model MODEL
--elements O H`.
"""

from electret.interfaces.lammps.attachment import Attachment, attach

__all__ = ["Attachment", "attach"]
