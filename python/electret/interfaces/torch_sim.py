"""TorchSim: a model of electret as its `ModelInterface`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from electret.calculator.model import frozen_model
from electret.calculator.self_consistency import SelfConsistency
from electret.conditions import UNITS
from electret.cuda.neighbors import pairs_on_device
from electret.errors import InputError
from electret.graph import Graph, edges_of, finite
from electret.kernels.arguments import Systems
from electret.kernels.neighbors import neighbor_list

if TYPE_CHECKING:
    ModelInterface = torch.nn.Module
else:
    try:
        from torch_sim.models.interface import ModelInterface
    except ImportError as _error:
        _reason = _error

        class ModelInterface(torch.nn.Module):
            """In place of the interface of TorchSim, which is not installed."""

            def __init__(self) -> None:
                raise ImportError(
                    f"ElectretModel needs TorchSim ({_reason}); pip install 'electret[torch-sim]' brings it"
                )


__all__ = ["ElectretModel"]


class ElectretModel(ModelInterface):
    """A model for TorchSim: all systems of a state are one batch, with electret's neighbour lists.

    Conditions are those given here, one value for all systems or one for each, else those of the state, where
    it has tensors of these names (`total_charge` or `charge`, `external_field`, `fermi_level`,
    `spin_multiplicity` or `spin`). A self-consistent density begins at that of the last call with the same
    systems. At constant Fermi level `energy` is the grand potential, whose derivatives forces and stress are.

    States are float64 whatever the dtype of the backbone, as positions are in every electret model.

    Args:
        model: a file or a model, as for `Calculator`.
        device: None takes a GPU where there is one.
        dtype: of the backbone: `"float32"`, `"float64"` or None for the model's own.
        trust: as in `Calculator`.
        total_charge, fermi_level, spin_multiplicity: e, eV, 2S + 1: a number or `[n_systems]`.
        external_field: V/Å, `[3]` or `[n_systems, 3]`.
        compute_forces, compute_stress: give them. Stress of a state without periodic axes is zero, said once.
        scf_tolerance, scf_max_iterations, scf_solver: as in `Calculator`.

    Raises:
        ImportError: TorchSim is not installed.
        InputError: a model, a device or an option that cannot be used.

    Example:
        >>> import torch_sim                                              # doctest: +SKIP
        >>> model = ElectretModel("model.electret", total_charge=1.0)     # doctest: +SKIP
        >>> torch_sim.optimize(systems, model, optimizer=...)             # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | torch.nn.Module,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        trust: bool = False,
        total_charge: float | torch.Tensor | None = None,
        external_field: Any = None,
        fermi_level: float | torch.Tensor | None = None,
        spin_multiplicity: float | torch.Tensor | None = None,
        compute_forces: bool = True,
        compute_stress: bool = True,
        scf_tolerance: float | None = None,
        scf_max_iterations: int | None = None,
        scf_solver: str | None = None,
    ) -> None:
        super().__init__()
        place = device if device is not None else ("cuda" if torch.cuda.is_available() else "cpu")
        self.model, _ = frozen_model(model, place, dtype, trust=trust)
        self._device = torch.device(place)
        self._dtype = torch.float64
        self._compute_forces = compute_forces
        self._compute_stress = compute_stress
        self._memory_scales_with = "n_atoms_x_density"
        self.conditions = {
            "total_charge": total_charge,
            "external_field": external_field,
            "fermi_level": fermi_level,
            "spin_multiplicity": spin_multiplicity,
        }
        self._scf = SelfConsistency(scf_tolerance, scf_max_iterations, scf_solver)
        self._scf.check(self.model)
        self._said = False

    def forward(self, state: Any, **conditions: Any) -> dict[str, torch.Tensor]:
        """Energy, forces, stress and the density of all systems.

        Args:
            state: a `SimState`, or a dictionary of its tensors.
            conditions: in place of those of the state and of the model.

        Returns:
            `energy [n_systems]`, `forces [n_atoms, 3]`, `stress [n_systems, 3, 3]`; of the family's results
            `charges [n_atoms]`, `dipole [n_systems, 3]` (e·Å, where no axis is periodic), and of
            self-consistent families `found_fermi_level [n_systems]`, eV.

        Raises:
            InputError: elements, conditions or a state that the model cannot take.
            ConvergenceError: names the system whose SCF did not converge.
        """

        def read(name: str) -> Any:
            return state.get(name) if isinstance(state, Mapping) else getattr(state, name, None)

        graph = self._graph(read, conditions)
        periodic = bool(graph.pbc.any())
        stress = self._compute_stress and periodic
        options: dict[str, Any] = {"forces": self._compute_forces, "stress": stress}
        if self.model.self_consistent:
            output = self._converged(graph, options)
        else:
            output = self.model(graph, **options)
        found = {"energy": output.get("grand_potential", output["energy"])}
        found |= {name: output[name] for name in ("forces", "stress") if name in output}
        if self._compute_stress and not periodic:
            if not self._said:
                self._said = True
                warnings.warn("open systems have no stress: TorchSim is given zero (said once)", stacklevel=2)
            found["stress"] = torch.zeros_like(graph.cell)
        found |= {
            name: output[name]
            for name in self.model.description.properties
            if name in output and not (name == "dipole" and periodic)
        }
        if "fermi_level" in self.model.honours:
            # Newer versions of TorchSim keep results in the state, where `fermi_level` is a condition.
            found["found_fermi_level"] = output["fermi_level"]
        dtype = read("positions").dtype
        return {name: value.detach().to(dtype) for name, value in found.items()}

    def _converged(self, graph: Graph, options: dict[str, Any]) -> dict[str, torch.Tensor]:
        parts = (graph.atomic_numbers, graph.ptr, graph.pbc)
        systems = tuple(part.cpu().numpy().tobytes() for part in parts)
        output, converged = self._scf.output(self.model, graph, systems, **options)
        if not converged:
            system = int(torch.nonzero(~output["scf_converged"].bool())[0])
            raise self._scf.failure(output, self.model, f" (system {system} of the state)", system)
        return output

    def _graph(self, read: Any, conditions: Mapping[str, Any]) -> Graph:
        """The systems of a state as one batch."""
        positions = read("positions").detach().to(torch.float64)
        numbers = read("atomic_numbers")
        batch = read("system_idx")
        if numbers is None:
            raise InputError("the state has no atomic_numbers; electret's models need the elements")
        batch = positions.new_zeros(len(positions), dtype=torch.int64) if batch is None else batch.long()
        # TorchSim has cell vectors as columns, and one set of periodic axes for all systems.
        cell = read("cell").detach().to(torch.float64).reshape(-1, 3, 3).transpose(1, 2).contiguous()
        n_systems = len(cell)
        pbc = torch.as_tensor(read("pbc"), device=cell.device).bool()
        pbc = pbc.reshape(1, -1).expand(n_systems, 3).contiguous()
        counts = torch.bincount(batch, minlength=n_systems)
        edge_index, unit_shifts = self._edges(positions, cell, pbc, batch)
        values = self._conditions(read, conditions, n_systems, positions.device)
        return Graph(
            positions=positions,
            atomic_numbers=numbers.long(),
            cell=cell,
            pbc=pbc,
            batch=batch,
            ptr=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            edge_index=edge_index,
            unit_shifts=unit_shifts,
            **values,
        )

    def _edges(
        self, positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor, batch: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        boxes, axes, systems = cell.cpu().numpy(), pbc.cpu().numpy(), batch.cpu().numpy()
        if positions.device.type == "cuda":
            place = Systems(positions, boxes, axes, systems)
            i, j, shifts = pairs_on_device("ijS", place, self.model.cutoff)
            return torch.stack([i, j]), shifts.to(torch.float64)
        return edges_of(
            neighbor_list("ijSd", positions.numpy(), boxes, axes, self.model.cutoff, batch=systems)
        )

    def _conditions(
        self, read: Any, given: Mapping[str, Any], n_systems: int, device: torch.device
    ) -> dict[str, Any]:
        """Conditions of every system: of the call, else of the model, else of the state, else none."""
        for name in given:
            if name not in UNITS:
                raise InputError(f"{name!r} is no condition; there are {', '.join(UNITS)}")
        values = {}
        for name in UNITS:
            value = given.get(name, self.conditions[name])
            for source in (name, _OTHER_NAMES.get(name)):
                value = read(source) if value is None and source is not None else value
            nothing = {"fermi_level": np.nan, "spin_multiplicity": 1.0}.get(name, 0.0)
            shape = (n_systems, 3) if name == "external_field" else (n_systems,)
            value = nothing if value is None else value
            try:
                tensor = torch.as_tensor(value, dtype=self.model.dtype)
            except (TypeError, ValueError):
                raise InputError(f"{name} = {value!r}; give numbers or a tensor") from None
            if name != "fermi_level" and tensor.device.type == "cpu":  # elsewhere a look would wait for a GPU
                finite(name, tensor.numpy())
            tensor = tensor.to(device)
            if name == "spin_multiplicity":
                tensor = tensor.where(tensor != 0, 1.0)  # zero of TorchSim stands for no spin given
            try:
                values[name] = tensor.expand(shape).contiguous()
            except RuntimeError:
                raise InputError(
                    f"{name} has shape {list(tensor.shape)}; expected one value, or one for each of the "
                    f"{n_systems} systems"
                ) from None
        both = values["fermi_level"].isfinite() & (values["total_charge"] != 0)
        if both.any():
            raise InputError(
                f"system {int(both.nonzero()[0])} has both total_charge and fermi_level, but each fixes the "
                "other; give one of them (nan is no Fermi level)"
            )
        return values


_OTHER_NAMES = {"total_charge": "charge", "spin_multiplicity": "spin"}
"""Names of conditions in states of TorchSim."""
