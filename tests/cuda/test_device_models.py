"""Models on a device: no tensors of the CPU among those of the device, and the numbers of the CPU."""

from __future__ import annotations

import pytest
import torch

import devices
from electret.graph import Graph
from electret.models import FAMILIES, SELF_CONSISTENT, build
from electret.scf.state import ScfRequest
from electret.testing import assert_close, check_model
from labelled_device import Labelled, MixedDevices, labelled, to_labelled
from model_cases import STATISTICS, bulk, in_field, model_config, molecule, small_model

MANY_BODY = {"update": "many_body", "channels": 4, "hidden": 8, "energy": "none"}
FINDERS = {
    "default": ScfRequest(),
    "krylov": ScfRequest(solver="newton_cg"),
    "anderson": ScfRequest(solver="anderson", max_iterations=300),
    "mixing": ScfRequest(solver="mixing", max_iterations=5),
    "unrolled": ScfRequest(mode="unrolled", unrolled_steps=2),
    "direct": ScfRequest(mode="direct"),
}


def graph_for(model) -> Graph:
    """A charged molecule and a crystal."""
    conditions = in_field(molecule(), charge=1.0) if "total_charge" in model.honours else molecule()
    return Graph.collate(
        [Graph.from_atoms(atoms, model.cutoff, model.dtype, labels=False) for atoms in (conditions, bulk())]
    )


def loss(result: dict[str, torch.Tensor]) -> torch.Tensor:
    return result["energy"].sum() + result["forces"].square().sum()


def compared(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-9
) -> None:
    for name, value in expected.items():
        if name.startswith("scf_"):
            continue  # how it was found, not what
        there, here = found[name].detach().cpu(), value.detach()
        if float(here.nan_to_num().abs().max()) < 1e-7:  # as the field's energy without a field
            assert float(there.abs().max()) < 1e-9, name
        else:
            assert_close(name, there.nan_to_num(), here.nan_to_num(), tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_on_a_labelled_device(family):
    devices.require("emulated")
    model = build(model_config(family), STATISTICS, seed=1)
    graph = graph_for(model)
    expected = model(graph, training=True)
    with labelled():
        to_labelled(model)
        there = graph.to("cuda:0")
        result = model(there, training=True)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss(result), parameters, allow_unused=True)
        assert all(isinstance(value, Labelled) for value in result.values())
        compared(result, expected)
        stress = model(Graph.collate([there]), properties=model.available_properties - {"dielectric_tensor"})
        assert set(stress) >= set(expected)


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize("family", ["energy_functional", "fixed_point"])
def test_finding_densities_on_a_labelled_device(family, finder):
    devices.require("emulated")
    model = build(model_config(family), STATISTICS, seed=1)
    graph = graph_for(model)
    if finder == "direct":
        graph.labels["charges"] = torch.linspace(-0.5, 0.6, graph.n_atoms, dtype=torch.float64)
    expected = model(graph, training=True, scf=FINDERS[finder])
    with labelled():
        to_labelled(model)
        result = model(graph.to("cuda:0"), training=True, scf=FINDERS[finder])
        if finder == "anderson":  # extrapolations of an unfinished search would amplify rounding
            assert bool(result["scf_converged"].all())
        compared(result, expected)


def test_the_labels_find_mixed_devices():
    with labelled():
        with pytest.raises(MixedDevices, match="aten::index"):
            torch.zeros(3)[torch.zeros(2, dtype=torch.int64, device="cuda")]
        there = torch.zeros(3, device="cuda")
        assert there.device.type == "cuda"
        assert (there + 1.0 + torch.tensor(2.0)).cpu().tolist() == [3.0] * 3
        with pytest.raises(MixedDevices, match="aten::add"):
            there + torch.zeros(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize("family", ["split_charges", *SELF_CONSISTENT])
@pytest.mark.slow
def test_the_contract_on_the_emulated_device(family):
    with devices.on_device("emulated"):
        assert len(check_model(small_model(family), [in_field(molecule(), charge=1.0), bulk()])) > 15


@pytest.mark.parametrize("family", [*FAMILIES, "many_body"])
@pytest.mark.gpu
def test_the_contract_on_a_gpu(family):
    devices.require("cuda")
    many_body = family == "many_body"
    config = model_config("fixed_point", fixed_point=MANY_BODY) if many_body else model_config(family)
    model = build(config, STATISTICS, seed=4).to("cuda")
    graph = graph_for(model)
    expected = build(config, STATISTICS, seed=4)(graph, training=True)
    compared(model(graph.to("cuda"), training=True), expected)
    systems = [in_field(molecule(), charge=1.0) if "total_charge" in model.honours else molecule(), bulk()]
    assert check_model(model, systems)
