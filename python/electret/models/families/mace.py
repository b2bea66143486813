"""Family `mace`: the short-range model alone, E = E_SR."""

from __future__ import annotations

import torch

from electret.models.base import Density, Model, Structure

__all__ = ["ShortRange"]


class ShortRange(Model):
    """No density; the baseline every other family is compared with."""

    family = "mace"

    def density(self, structure: Structure, features: list[torch.Tensor]) -> Density | None:
        """None: there is no density."""
        return None
