"""Self-consistency: solvers, derivatives through the solution, direct evaluation, independence of
systems."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from electret import InputError
from electret.graph import Graph
from electret.models import SELF_CONSISTENT, build
from electret.models.base import Structure
from electret.scf import ScfRequest
from electret.scf.implicit import linear_solve
from electret.scf.linear.blocks import NativeJacobian
from electret.scf.linear.gmres import gmres
from electret.scf.problem import Residual, Systems
from electret.scf.response import wrong_response
from electret.scf.solvers import Anderson, Mixing
from electret.scf.state import State
from electret.testing import assert_close
from model_cases import FAMILY_OPTIONS, STATISTICS, bulk, in_field, model_config, molecule, slab, small_model
from solvable import conditions

VARIANTS = {
    "qeq": ("qeq", {}, 120),
    "functional": ("energy_functional", {}, 120),
    "affine": ("fixed_point", {}, 80),
    "nonlinear": (
        "fixed_point",
        {"fixed_point": {"nonlinearity": "residual_mlp", "energy": "mlp", "potential_embedding": "features"}},
        80,
    ),
    "many_body": ("fixed_point", {"fixed_point": {"update": "many_body", "channels": 4, "hidden": 8}}, 60),
}


def batch_of(model, *systems):
    return Graph.collate(
        [Graph.from_atoms(atoms, model.cutoff, model.dtype, labels=False) for atoms in systems]
    )


def variant(name, **scf):
    family, options, _ = VARIANTS[name]
    return build(model_config(family, **{**options, "scf": {"tolerance": 1e-12, **scf}}), STATISTICS, seed=1)


# --- equations ---


LOCAL = {
    "affine": {"nonlinearity": "none"},
    "affine with a constant": {"potential_embedding": "features", "charge_gate": False},
    "affine per species": {"potential_embedding": "species", "isotropic_response": False},
    "nonlinear": {"nonlinearity": "residual_mlp", "potential_embedding": "features"},
    "charge gate": {"charge_gate": True, "nonlinearity": "residual_mlp"},
    "dipoles": {"responding": "dipoles"},
    "network of each element": {
        "nonlinearity": "mlp",
        "potential_embedding": "species",
        "isotropic_response": False,
    },
}


def learned(model):
    """A molecule in a field and a crystal, and the learned parameters of their equations."""
    graph = batch_of(model, in_field(molecule(), 1.0), bulk())
    elements = model.backbone.elements_of(graph)
    shifts = torch.einsum("ek,eki->ei", graph.unit_shifts, graph.cell[graph.batch[graph.edge_index[0]]])
    structure = Structure(graph, elements, graph.positions, graph.cell, shifts)
    _, features = model.backbone(graph, structure.edge_vectors, elements)
    parameters = model.parameters_of(structure, [layer.double() for layer in features])
    return graph, parameters


@pytest.mark.parametrize(
    ("name", "max_l", "features_max_l"),
    [*((name, 1, 1) for name in LOCAL), ("nonlinear", 1, 2), ("charge gate", 2, 1), ("affine", 0, 0)],
)
def test_linearised_update_is_its_value_and_its_derivative(name, max_l, features_max_l):
    """Rows from autograd, at the potential at which the solver evaluates the update."""
    backbone = {"hidden_irreps": "4x0e + 4x1o + 4x2e"} if max(max_l, features_max_l) == 2 else None
    electrostatics = {"max_l": max_l, "features_max_l": features_max_l, "sigma": 1.0}
    options = {"fixed_point": LOCAL[name], "electrostatics": electrostatics}
    model = build(model_config("fixed_point", backbone, **options), STATISTICS, seed=1)
    graph, parameters = learned(model)
    generator = torch.Generator().manual_seed(2)
    v = torch.randn(graph.n_atoms, *model.norms.shape, generator=generator, dtype=torch.float64)
    value, derivative = model.update.linearised(parameters, v)
    variable = v.clone().requires_grad_()
    expected = model.update(parameters, variable)
    rows = [
        torch.autograd.grad(component.sum(), variable, retain_graph=True, materialize_grads=True)[0]
        for component in expected.unbind(dim=1)
    ]
    wanted = torch.stack(rows, dim=1)
    assert float(wanted.abs().max()) > 1e-4
    assert_close("value", [value], [expected.detach()], 1e-12)
    assert_close("derivative", [derivative], [wanted], 1e-12)
    assert not value.requires_grad
    assert not derivative.requires_grad
    if model.update.affine:
        constant, derivative = model.update.straight(parameters)
        straight = constant + torch.einsum("alwm,awm->al", derivative, v)
        assert_close("straight value", [straight.detach()], [expected.detach()], 1e-12)
        assert_close("straight derivative", [derivative.detach()], [wanted], 1e-12)


@pytest.mark.parametrize(
    ("family", "options", "scale"),
    [
        ("qeq", {}, 1.0),
        ("energy_functional", {}, 1.0),
        ("energy_functional", {"convex": 0}, 1.0),
        ("energy_functional", {}, 300.0),
    ],
    ids=["qeq", "functional", "quadratic functional", "functional beyond its kinks"],
)
def test_derivatives_of_a_local_energy(family, options, scale):
    """Gradient and Hessian from autograd, and the derivatives of the gradient in the parameters."""
    changes = {"functional": {**FAMILY_OPTIONS[family].get("functional", {}), **options}} if options else {}
    model = build(model_config(family, **changes), STATISTICS, seed=1)
    graph, parameters = learned(model)
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    generator = torch.Generator().manual_seed(2)
    p = scale * torch.randn(graph.n_atoms, (model.max_l + 1) ** 2, generator=generator, dtype=torch.float64)
    p.requires_grad_()
    (wanted,) = torch.autograd.grad(model.local_energy(leaves, p).sum(), p, create_graph=True)
    found = model.local_gradient(leaves, p)
    assert_close("gradient", [found.detach()], [wanted.detach()], 1e-12)
    rows = [
        torch.autograd.grad(component.sum(), p, retain_graph=True)[0] for component in wanted.unbind(dim=1)
    ]
    assert_close("Hessian", [model.local_hessian(leaves, p).detach()], [torch.stack(rows, dim=1)], 1e-12)
    weights = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    names, inputs = zip(*leaves.items(), strict=True)
    ours, theirs = (
        torch.autograd.grad((weights * gradient).sum(), [*inputs, p], materialize_grads=True)
        for gradient in (found, wanted)
    )
    for name, one, other in zip((*names, "p"), ours, theirs, strict=True):
        assert_close(name, [one], [other], 1e-11)


# --- solvers ---


@pytest.mark.parametrize("name", VARIANTS)
def test_solvers_agree(name):
    """Newton, Newton with matrix-free solves, Anderson and mixing converge to one density, Newton in the
    fewest iterations."""
    model = variant(name)
    graph = batch_of(model, in_field(molecule(), 1.0), bulk(), slab())
    found = {}
    for solver in ("newton", "newton_cg", "anderson", "mixing"):
        request = ScfRequest(solver=solver, tolerance=1e-11, max_iterations=500)
        found[solver] = model(graph, scf=request)
        assert found[solver]["scf_converged"].all(), solver
        assert float((found[solver]["total_charge"] - graph.total_charge).abs().max()) < 1e-10, solver
    for solver in ("newton_cg", "anderson", "mixing"):
        for key in ("multipoles", "energy", "fermi_level", "forces"):
            assert_close(f"{key} by {solver}", found[solver][key], found["newton"][key], 1e-8)
    iterations = {solver: int(result["scf_iterations"].max()) for solver, result in found.items()}
    assert iterations["newton"] < iterations["anderson"] < iterations["mixing"] / 2
    if name in ("qeq", "affine"):
        assert iterations["newton"] == 1  # affine: solved, not iterated


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", VARIANTS)
def test_anderson_takes_a_fraction_of_the_iterations_of_mixing(name, seed):
    """Per system, at constant charge and constant Fermi level; the ion's Fermi level is tens of eV away from
    the start (a weight of the levels that the least squares did not see took 107 iterations for 38)."""
    model = build(model_config(VARIANTS[name][0], **VARIANTS[name][1]), STATISTICS, seed=seed)
    systems = [in_field(molecule(), 1.0), bulk(), slab(), molecule(), bulk()]
    for atoms in systems[-2:]:
        atoms.info["fermi_level"] = -1.0
    graph = batch_of(model, *systems)
    found = {
        solver: model(graph, forces=False, scf=ScfRequest(solver=solver, tolerance=1e-7, max_iterations=300))
        for solver in ("anderson", "mixing")
    }
    assert found["anderson"]["scf_converged"].all()
    ours, theirs = (found[solver]["scf_iterations"] for solver in ("anderson", "mixing"))
    assert (ours <= 0.6 * theirs).all(), (ours, theirs)
    alone = model(
        batch_of(model, systems[0]), forces=False, scf=ScfRequest(solver="anderson", tolerance=1e-7)
    )
    assert_close("history", alone["scf_history"][0, :5], found["anderson"]["scf_history"][0, :5], 1e-8)


class Mapping:
    """p = F(p), one number per atom and no Fermi level to find."""

    affine = variational = False

    def __init__(self, function, batch):
        self.function = function
        self.systems = conditions(batch, fermi_level=0.0)

    def at(self, state, known=None):
        change = self.function(state.multipoles) - state.multipoles
        return SimpleNamespace(
            state=state,
            residual=Residual(-change, self.systems.condition(state)),
            local_step=change,
            local_response=torch.zeros_like(change),
        )


def columns(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


MAPPINGS = {
    # slope k, so that an iteration of mixing leaves 1 - 0.25 (1 - k) of the error
    "slow": lambda p: 1.0 + columns(0.999, 0.9, 0.5, -0.5, -4.0) * p,
    "nearly singular": lambda p: 1e-6 + (1.0 - columns(1e-6, 1e-3, 0.1, 0.5, 1.0)) * p,
    "saturating": lambda p: 2.0 - columns(1.0, 1.5, 2.0, 2.5, 3.0) * torch.tanh(2.0 * p - 1.0),
    "kinks": lambda p: 1.0 - columns(0.5, 1.0, 2.0, 3.0, 4.0) * p.clamp(min=0.0),
    "coupled": lambda p: (
        torch.sin(columns(1.0, 2.0, 3.0, 4.0, 5.0) + p) - 1.5 * p.roll(1, 0) + 0.5 * p.roll(2, 0)
    ),
}


@pytest.mark.parametrize("name", MAPPINGS)
def test_anderson_is_never_much_slower_than_mixing(name):
    """Two copies and an equation without a solution in one batch, against one alone."""
    one = MAPPINGS[name]

    def three(p):
        return torch.cat([one(p[:5]), one(p[5:10]), 1.0 + 1e3 * p[10:].square()])

    def solved(solver, function, batch):
        problem = Mapping(function, torch.tensor(batch))
        start = State(torch.zeros(len(batch), 1).double(), torch.zeros(problem.systems.n_systems).double())
        with torch.no_grad():
            return solver(tolerance=1e-8, max_iterations=300).solve(problem, start)

    together = solved(Anderson, three, [0] * 5 + [1] * 5 + [2])
    alone, mixing = (solved(solver, one, [0] * 5) for solver in (Anderson, Mixing))
    assert together.record.converged.tolist() == [True, True, False]
    counts = [int(alone.record.iterations), *together.record.iterations[:2].tolist()]
    assert max(counts) <= 1.3 * int(mixing.record.iterations) + 3
    if name in ("slow", "nearly singular"):
        assert max(counts) < 30 < int(mixing.record.iterations)
    for system in range(2):
        found = together.state.multipoles[5 * system : 5 * system + 5]
        assert_close("state", found, alone.state.multipoles, 5e-3 if name == "nearly singular" else 1e-4)
        history, wanted = (run.record.history for run in (together, alone))
        assert_close("history", history[system, :5], wanted[0, :5], 1e-9)


def test_history_and_residual_belong_to_the_iterations():
    model = variant("functional")
    result = model(
        batch_of(model, in_field(molecule(), 1.0), bulk()),
        scf=ScfRequest(solver="mixing", max_iterations=500),
    )
    for system in range(2):
        steps = int(result["scf_iterations"][system])
        history = result["scf_history"][system]
        assert torch.isfinite(history[: steps + 1]).all()
        assert torch.isnan(history[steps + 1 :]).all()
        assert history[steps] == result["scf_residual"][system] <= 1e-8 < history[0]


@pytest.mark.parametrize("solver", ["mixing", "anderson", "newton"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_system_that_fails_leaves_the_others_alone(name, solver):
    """One system whose response diverges (mixing), or whose Jacobian is singular (Newton): the others are
    as they are by themselves, and everything is finite."""
    model = variant(name)
    request = ScfRequest(solver=solver, max_iterations=400)
    alone = model(batch_of(model, bulk()), scf=request)
    assert alone["scf_converged"].all()
    graph = batch_of(model, in_field(molecule(), 1.0), bulk())
    original = model.parameters_of

    def spoiled(structure, features):
        parameters = original(structure, features)
        first = (graph.batch == 0).double()[:, None]
        if model.variational:
            # the local update of an atom is then a hundred times too large
            alone = 0.02 - model.electrostatics_of(structure).self_interaction()
            hardness = parameters["hardness"]
            return {**parameters, "hardness": hardness + first * (alone - hardness)}
        return {**parameters, "isotropic": parameters["isotropic"] * (1 + 1e7 * first[:, :, None])}

    model.parameters_of = spoiled
    result = model(graph, training=True, scf=request)
    if solver == "mixing":  # the others may well converge where mixing cannot
        assert result["scf_converged"].tolist() == [False, True]
    atoms = graph.batch == 1
    for key in ("charges", "forces"):
        assert_close(key, result[key][atoms].detach(), alone[key], 1e-9)
    assert_close("energy", result["energy"][1:].detach(), alone["energy"], 1e-9)
    assert all(torch.isfinite(result[key]).all() for key in ("energy", "forces", "multipoles"))


def test_running_out_of_iterations_is_reported_and_finite():
    model = variant("functional")
    graph = batch_of(model, in_field(molecule(), 1.0), bulk())
    result = model(graph, scf=ScfRequest(solver="mixing", max_iterations=3))
    assert not result["scf_converged"].any()
    assert result["scf_iterations"].tolist() == [3, 3]
    assert torch.isfinite(result["forces"]).all()


def test_requests_that_cannot_be_used_are_refused():
    model = variant("qeq")
    graph = batch_of(model, molecule())
    with pytest.raises(InputError, match="solver"):
        model(graph, scf=ScfRequest(solver="magic"))
    with pytest.raises(InputError, match="mode"):
        ScfRequest(mode="guess")
    with pytest.raises(InputError, match="tolerance"):
        ScfRequest(tolerance=0.0)
    start = model(batch_of(model, bulk()))
    with pytest.raises(InputError, match=r"scf\.start"):
        model(graph, scf=ScfRequest(start=State(start["multipoles"], start["fermi_level"])))
    with pytest.raises(InputError, match="explicit"):
        small_model("local_charges")(graph, scf=ScfRequest())
    with pytest.raises(InputError, match="stability"):
        model(graph, properties=["stability"])


# --- derivatives ---


def training_loss(result, weights):
    """Loss of every trained quantity, curved in each."""
    return (
        (result["energy"] - result["energy"].detach() - 1.0).square().sum()
        + (weights * result["forces"].square()).sum()
        + result["charges"].pow(3).sum()
        + result["dipole"].square().sum()
        + 0.1 * result["fermi_level"].square().sum()
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_implicit_gradients_equal_unrolled_ones(name):
    """Gradients of a loss of energies, forces, charges, dipoles and Fermi levels in all parameters: two
    chord-Newton steps against the whole iteration in the graph, 1e-8 relative."""
    model = variant(name, mixing=0.7)
    graph = batch_of(model, in_field(molecule(), 1.0), bulk())
    weights = torch.randn(graph.n_atoms, 3, generator=torch.Generator().manual_seed(3)).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = []
    for request in (ScfRequest(), ScfRequest(mode="unrolled", unrolled_steps=VARIANTS[name][2])):
        result = model(graph, training=True, scf=request)
        assert float(result["scf_residual"].max()) < 1e-12
        loss = training_loss(result, weights)
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradients.append(torch.cat([value.flatten() for value in found]))
    implicit, unrolled = gradients
    assert_close("gradients", implicit, unrolled, 1e-8 * float(unrolled.abs().max()))


@pytest.mark.parametrize("name", ["affine", "nonlinear", "qeq", "functional"])
def test_first_derivatives_take_one_solve_with_the_transpose(name, monkeypatch):
    """No solve with the transpose if the energy is stationary, and one solve in total for affine densities.
    Forces agree with those of training, whose solves are converged to rounding."""
    model = variant(name, tolerance=1e-8, linear_solver="krylov")
    graph = batch_of(model, bulk(), slab())
    solves = []
    solve = NativeJacobian.solve

    def counted(self, multipoles, condition, transpose=False, tolerance=None):
        solves.append(transpose)
        return solve(self, multipoles, condition, transpose, tolerance)

    monkeypatch.setattr(NativeJacobian, "solve", counted)
    found = model(graph, stress=True)
    assert solves.count(True) == (0 if model.variational else 1)
    if name in ("affine", "qeq"):
        assert solves.count(False) == 1
    exact = model(graph, stress=True, training=True, scf=ScfRequest(tolerance=1e-12))
    for key in ("energy", "multipoles", "forces", "stress"):
        assert_close(key, found[key], exact[key].detach(), 1e-9)


def test_one_chord_step_is_not_enough_for_losses_of_forces(monkeypatch):
    """Gradients of losses of forces need two steps: with one they differ."""
    model = variant("nonlinear", mixing=0.7)
    graph = batch_of(model, in_field(molecule(), 1.0))
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient():
        loss = model(graph, training=True)["forces"].square().sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([value.flatten() for value in found])

    two = gradient()
    monkeypatch.setattr(model, "_chord_steps", lambda call: 1)
    one = gradient()
    assert float((one - two).abs().max()) > 1e-6 * float(two.abs().max())


@pytest.mark.parametrize("name", ["qeq", "functional", "nonlinear"])
def test_gradgradcheck_through_the_solution(name):
    """Energy and charges as functions of positions and field, first and second derivatives by torch's own
    finite differences."""
    model = variant(name)
    base = batch_of(model, in_field(molecule(), 1.0))
    from dataclasses import replace

    def outputs(positions, field):
        graph = replace(base, positions=positions, external_field=field)
        result = model(graph, forces=False, training=True)
        return result["energy"], result["charges"]

    inputs = (base.positions.clone().requires_grad_(), base.external_field.clone().requires_grad_())
    assert gradcheck(outputs, inputs, eps=1e-5, atol=1e-5)
    assert gradgradcheck(outputs, inputs, eps=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["affine", "nonlinear", "many_body"])
def test_stability_is_the_spectral_radius_with_its_gradient(name):
    """Against the eigenvalues of the matrix of D B built column by column, and its gradient against
    finite differences in one parameter."""
    model = variant(name)
    graph = batch_of(model, in_field(molecule(), 1.0), bulk())
    result = model(graph, training=True, properties=["stability"])
    stability = result["stability"]
    assert stability.shape == (2,)
    parameter = model.update.response.output
    (gradient,) = torch.autograd.grad(stability.sum(), parameter, retain_graph=True)
    direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)).double()
    step, values = 1e-4, []
    original = parameter.detach().clone()
    for sign in (1, -1):
        with torch.no_grad():
            parameter.copy_(original + sign * step * direction)
            # at the state before, as the gradient has it: the density is a constant of the hinge
            values.append(float(stability_at(model, graph, result)))
    with torch.no_grad():
        parameter.copy_(original)
    expected = (values[0] - values[1]) / (2 * step)
    assert_close("gradient of the stability", [(gradient * direction).sum()], [expected], 1e-5)
    assert_close("stability", [stability.sum().detach()], [stability_at(model, graph, result)], 1e-9)


def problem_of(model, graph):
    """Equations of a batch, with cached operators."""
    from electret.models.self_consistent import _systems

    elements = model.backbone.elements_of(graph)
    shifts = torch.einsum("ek,eki->ei", graph.unit_shifts, graph.cell[graph.batch[graph.edge_index[0]]])
    structure = Structure(graph, elements, graph.positions, graph.cell, shifts)
    _, features = model.backbone(graph, structure.edge_vectors, elements)
    parameters = model.parameters_of(structure, features)
    electrostatics = model.electrostatics_of(structure)
    return model.problem(parameters, electrostatics, _systems(graph), True, "auto")


@pytest.mark.parametrize("name", ["affine", "nonlinear", "many_body"])
def test_wrong_response_is_the_share_of_charges_that_rise_with_the_level(name):
    """Against the density at two Fermi levels, and its gradient in one parameter against finite
    differences."""
    model = variant(name)
    with torch.no_grad():
        model.update.response.output.normal_(0.0, 10.0, generator=torch.Generator().manual_seed(2))
    graph = batch_of(model, in_field(molecule(), 1.0), bulk())
    parameter, state = model.update.response.output, None
    direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)).double()
    original, step = parameter.detach().clone(), 1e-5

    def response_at(size):
        """Share and its parts at the state of the first call."""
        nonlocal state
        with torch.no_grad():
            parameter.copy_(original + size * direction)
        problem = problem_of(model, graph)
        if state is None:
            state = State(
                0.1 * torch.cos(torch.arange(graph.n_atoms * 4.0)).reshape(-1, 4).double(),
                torch.full((2,), model.statistics.fermi_level, dtype=torch.float64),
            )
        return wrong_response(problem, state), problem

    share, problem = response_at(0.0)
    with torch.no_grad():
        charges = [
            problem.at(State(state.multipoles, state.fermi_level + h)).density[:, 0] for h in (step, -step)
        ]
    response = (charges[0] - charges[1]) / (2 * step)
    sizes = problem.systems.sum(response.abs())
    expected = problem.systems.sum(response.clamp(min=0)) / sizes
    assert bool(((expected > 0.02) & (expected < 0.98)).all())
    assert_close("share", share.detach(), expected, 1e-6)
    (gradient,) = torch.autograd.grad(share.sum(), parameter)
    found = []
    for size in (step, -step):
        one, problem = response_at(size)
        with torch.no_grad():  # the denominator is a constant of the hinge
            own = problem.systems.sum(problem.at(state).charge_response.abs())
            found.append(float((one.detach() * own / sizes).sum()))
    response_at(0.0)
    assert_close("gradient", [(gradient * direction).sum()], [(found[0] - found[1]) / (2 * step)], 1e-5)


def stability_at(model, graph, result):
    """Spectral radii of D B summed over systems, from dense eigenvalues, at the density of `result`."""
    with torch.no_grad():
        problem = problem_of(model, graph)
        electrostatics = problem.electrostatics
        state = State(result["multipoles"].detach(), result["fermi_level"].detach())
        point = problem.at(state)
        total, n_lm = 0.0, state.multipoles.shape[1]
        for system in range(graph.n_systems):
            atoms = torch.nonzero(graph.batch == system)[:, 0]
            columns = []
            for atom in atoms:
                for component in range(n_lm):
                    unit = torch.zeros_like(state.multipoles)
                    unit[atom, component] = 1.0
                    v = torch.from_numpy(electrostatics.operators.geometry.features(unit.numpy()))
                    columns.append(point.tangent(v)[atoms].flatten())
            total += float(np.abs(np.linalg.eigvals(torch.stack(columns, dim=1).numpy())).max())
    return total


def test_linear_solve_is_differentiable_any_number_of_times():
    matrix = torch.tensor([[3.0, 1.0], [0.5, 2.0]], dtype=torch.float64)

    class Dense:
        def solve(self, x, y, transpose=False, tolerance=None):
            k = matrix.T if transpose else matrix
            z = torch.linalg.solve(k, torch.cat([x.flatten(), y]))
            return z[:1].reshape(1, 1), z[1:]

    x = torch.randn(1, 1, dtype=torch.float64, requires_grad=True)
    y = torch.randn(1, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda a, b: linear_solve(a**2, b**2, Dense()), (x, y))
    assert gradgradcheck(lambda a, b: linear_solve(a**2, b**2, Dense(), True), (x, y))


def test_gmres_solves_every_system_of_a_batch():
    """Systems of different size and difficulty, one singular: against dense solves."""
    generator = torch.Generator().manual_seed(1)
    batch = torch.tensor([0, 0, 0, 1, 2, 2])
    conditions = torch.zeros(3, dtype=torch.float64)
    systems = Systems(batch, 3, torch.ones(3, dtype=torch.bool), conditions, conditions)
    blocks = []
    for size in (7, 3, 5):
        blocks.append(torch.eye(size).double() + 0.7 * torch.randn(size, size, generator=generator).double())
    blocks[1][:] = 0.0  # singular

    def apply(x, y):
        out, conds = torch.zeros_like(x), torch.zeros_like(y)
        for system, block in enumerate(blocks):
            atoms = batch == system
            z = block @ torch.cat([x[atoms].flatten(), y[system : system + 1]])
            out[atoms], conds[system] = z[:-1].reshape(-1, 2), z[-1]
        return out, conds

    right = (
        torch.randn(6, 2, generator=generator).double(),
        torch.randn(3, generator=generator).double(),
    )
    x, y, converged = gmres(apply, *right, systems)
    assert converged.tolist() == [True, False, True]
    assert float(x[3].abs().max()) == float(y[1]) == 0.0
    for system in (0, 2):
        atoms = batch == system
        expected = torch.linalg.solve(
            blocks[system], torch.cat([right[0][atoms].flatten(), right[1][system : system + 1]])
        )
        found = torch.cat([x[atoms].flatten(), y[system : system + 1]])
        assert_close(f"system {system}", found, expected, 1e-10)


# --- direct evaluation at the labelled density ---


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("labels", ["multipoles", "charges"])
def test_direct_evaluation_at_the_own_density_is_self_consistent(name, labels):
    """The model's own density as a label is reproduced, and the stationarity of variational families
    vanishes. Dipoles without labels are solved for."""
    model = variant(name)
    graph = batch_of(model, in_field(molecule(), 1.0), bulk())
    solution = model(graph)
    graph.labels = {labels: solution[labels], "fermi_level": solution["fermi_level"]}
    direct = model(graph, scf=ScfRequest(mode="direct"), training=True)
    assert_close("multipoles", direct["multipoles"].detach(), solution["multipoles"], 1e-9)
    assert_close("energy", direct["energy"].detach(), solution["energy"], 1e-8)
    if model.variational:
        known = torch.isfinite(direct["stationarity"])
        assert known[:, 0].all()
        assert bool(known[:, 1:].all()) == (labels == "multipoles")
        assert float(direct["stationarity"][known].abs().max()) < 1e-8
    # another density is not: the evaluation moves, and its gradient reaches the parameters
    graph.labels[labels] = graph.labels[labels] + 0.1
    other = model(graph, scf=ScfRequest(mode="direct"), training=True)
    key = "stationarity" if model.variational else "multipoles"
    expected = torch.zeros_like(other[key]) if model.variational else direct[key]
    difference = torch.nan_to_num(other[key] - expected)
    assert float(difference.abs().max()) > 1e-4
    gradients = torch.autograd.grad(
        difference.square().sum(), list(model.parameters()), allow_unused=True, materialize_grads=True
    )
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-6


@pytest.mark.parametrize("name", VARIANTS)
def test_forces_of_direct_evaluation_in_a_field(name):
    """Central differences of the energy at fixed labels, along random displacements."""
    model = variant(name)
    atoms = in_field(molecule(), 0.3)
    labels = {key: model(batch_of(model, atoms))[key] + 0.05 for key in ("multipoles", "fermi_level")}

    def direct(displacement):
        moved = atoms.copy()
        moved.positions += displacement
        graph = batch_of(model, moved)
        graph.labels = dict(labels)
        return model(graph, scf=ScfRequest(mode="direct"))

    direction = np.random.default_rng(5).normal(size=atoms.positions.shape)
    step = 1e-4
    low, high = (float(direct(sign * step * direction)["energy"].detach()) for sign in (-1, 1))
    slope = -float((direct(0.0)["forces"].detach().numpy() * direction).sum())
    assert_close("slope of the energy", [slope], [(high - low) / (2 * step)], 1e-5)


@pytest.mark.parametrize("family", SELF_CONSISTENT)
def test_direct_evaluation_without_a_fermi_level_finds_one(family):
    model = build(model_config(family), STATISTICS, seed=1)
    graph = batch_of(model, in_field(molecule(), 0.3))
    solution = model(graph)
    graph.labels = {"multipoles": solution["multipoles"]}
    direct = model(graph, scf=ScfRequest(mode="direct"))
    assert_close("fermi_level", direct["fermi_level"], solution["fermi_level"], 1e-7)


def test_direct_evaluation_needs_charges():
    model = variant("affine")
    with pytest.raises(InputError, match="no labelled charge"):
        model(batch_of(model, molecule()), scf=ScfRequest(mode="direct"))


# --- an insulator: dipoles respond, charges do not ---


def insulator(**electrostatics):
    """A fixed point whose dipoles alone respond, isotropically."""
    config = model_config(
        "fixed_point",
        fixed_point={"responding": "dipoles", "energy": "none", "channels": 4},
        electrostatics={"max_l": 1, "sigma": 0.4, "widths": (0.4,), "accuracy": 1e-10, **electrostatics},
        scf={"tolerance": 1e-12},
    )
    return build(config, STATISTICS, seed=1)


def test_insulator_keeps_its_charges_in_a_field():
    model = insulator()
    free, pulled = molecule(), in_field(molecule(), 0.0)
    a, b = (model(batch_of(model, atoms)) for atoms in (free, pulled))
    assert torch.allclose(a["charges"], b["charges"], atol=1e-12)
    assert float((a["multipoles"] - b["multipoles"]).abs().max()) > 1e-5
    ion = model(batch_of(model, in_field(molecule(), 1.0)))
    assert_close("total charge", ion["total_charge"], [1.0], 1e-12)
    level = molecule()
    level.info["fermi_level"] = 0.0
    with pytest.raises(InputError, match="fermi_level"):
        model(batch_of(model, level))


def test_insulators_need_dipoles_and_fields():
    for orders in ({"max_l": 0}, {"features_max_l": 0}):
        with pytest.raises(InputError, match="responding"):
            model_config(
                "fixed_point",
                fixed_point={"responding": "dipoles"},
                electrostatics={"max_l": 1, "sigma": 1.0, **orders},
            )


def test_dielectric_tensor_of_a_cubic_lattice_of_dipoles():
    """Clausius-Mossotti: epsilon = (1 + 2x)/(1 - x), x = 4 pi K alpha/(3 V), for one polarisable atom per
    cubic cell; narrow Gaussians do not overlap, so they are points to each other."""
    model = insulator()
    with torch.no_grad():
        model.update.response.output.zero_()  # only the isotropic response is left
        model.update.isotropic_bias.fill_(2.0)
    from ase import Atoms

    atoms = Atoms("O", cell=[3.6] * 3, pbc=True)
    found = model(batch_of(model, atoms), properties=["dielectric_tensor"])["dielectric_tensor"][0]
    alone = Atoms("O", [[0, 0, 0]])
    # the surroundings of the atom in the crystal differ, so its polarisability is read from the crystal
    # itself
    graph = batch_of(model, atoms)
    response = {}
    original = model.parameters_of

    def spy(structure, features):
        response.update(original(structure, features))
        return dict(response)

    model.parameters_of = spy
    model(graph)
    coefficient = float(response["isotropic"][0, 1, 0] / model.norms[0, 1])
    from electret.kernels.arguments import Receivers
    from electret.kernels.external_field import receiver_scale

    alpha = -coefficient * float(receiver_scale(Receivers(np.array([0.4]), 1, "receiver"))[0, 1])
    from electret.units import COULOMB_CONSTANT

    x = 4 * np.pi * COULOMB_CONSTANT * alpha / (3 * 3.6**3)
    assert 0.02 < x < 0.9
    assert_close("epsilon", found, np.eye(3) * (1 + 2 * x) / (1 - x), 1e-6)
    with pytest.raises(InputError, match="crystals"):
        model(batch_of(model, alone), properties=["dielectric_tensor"])
    with pytest.raises(InputError, match="dielectric_tensor"):
        variant("affine")(graph, properties=["dielectric_tensor"])
