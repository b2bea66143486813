"""Names under which a data file holds labels and inputs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, create_model

from electret.labels import LABELS

__all__ = ["DataKeys", "DipoleOrigin"]

DipoleOrigin = Literal["origin", "center_of_mass", "center_of_charge"]
"""Point about which dipole labels are given: the origin of the coordinates, the centre of mass, or the centre
of the nuclear charges."""

_Keys: Any = create_model(
    "_Keys",
    **{name: (str, Field(default=label.key, description=label.note)) for name, label in LABELS.items()},  # type: ignore[call-overload]
)


class DataKeys(_Keys):
    """Key of each quantity of `electret.labels.LABELS` in `atoms.info` or `atoms.arrays` (or in ASE's
    calculator results, e.g. `energy`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
