"""Assessment of models on data: SCF statistics, frames left out, response of the dipole to a field."""

import io
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mace")
pytest.importorskip("electret.scf")
from ase import Atoms  # noqa: E402
from rich.console import Console  # noqa: E402

from electret import InputError  # noqa: E402
from electret.analysis import FieldDipoles, assess  # noqa: E402
from electret.analysis.scf_convergence import convergence_table, plot_convergence, run_solvers  # noqa: E402
from electret.data import GraphDataset, wrap_atoms  # noqa: E402
from electret.graph import Graph  # noqa: E402
from electret.models import ModelConfig, Statistics, build  # noqa: E402
from toy_qeq import ToyQeq  # noqa: E402


def frame(seed: int, **info: object) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = Atoms("OHHO", positions=rng.uniform(0, 2.0, (4, 3)) + 2.5 * np.arange(4)[:, None] * [1, 0, 0])
    atoms.info.update(info)
    return atoms


def labelled(model: ToyQeq, atoms: Atoms, shift: float = 0.0) -> Atoms:
    """A frame with the toy's own results as labels, the energy off by `shift`."""
    output = model(Graph.from_atoms(atoms, model.cutoff, labels=False))
    atoms.info["REF_energy"] = float(output["energy"][0]) + shift
    atoms.info["REF_dipole"] = output["dipole"][0].numpy()
    atoms.arrays["REF_forces"] = output["forces"].numpy()
    atoms.arrays["REF_charges"] = output["charges"].numpy()
    return atoms


def dataset(frames: list[Atoms]) -> GraphDataset:
    return GraphDataset(wrap_atoms(frames, file="frames.xyz"), ToyQeq.cutoff, torch.float64)


def test_statistics_count_iterations_and_name_the_unconverged() -> None:
    exact = ToyQeq()
    frames = [labelled(exact, frame(seed, total_charge=float(seed - 1)), shift=0.1) for seed in range(3)]
    complete = assess(exact, dataset(frames), batch_size=2)
    assert complete.scf.n_frames == 3
    assert not complete.scf.unconverged
    assert complete.scf.mean_iterations > 10
    assert "all converged" in complete.scf.lines()[0]
    # One frame starts closer than the others and alone gets there within so many iterations.
    needed = sorted(complete.scf.iterations)
    assert needed[0] < needed[-1]
    short = assess(ToyQeq(max_iterations=needed[0]), dataset(frames), batch_size=2)
    n_good = complete.scf.iterations.count(needed[0])
    assert len(short.scf.unconverged) == 3 - n_good
    lost = short.scf.unconverged[0]
    assert lost.where.startswith("frames.xyz, frame ")
    assert lost.iterations == needed[0]
    assert lost.residual > 1e-10
    text = "\n".join(short.scf.lines())
    assert "NOT CONVERGED" in text
    assert lost.where in text
    # The energies of the others, 0.1 eV off by construction, and nothing of the lost frames
    assert short.metrics.overall["energy"].count == n_good
    assert short.metrics.overall["energy"].mae == pytest.approx(0.1 / 4, abs=1e-8)
    assert complete.metrics.overall["energy"].count == 3
    assert short.as_dict()["scf"]["unconverged"][0]["frame"] == lost.where


def test_errors_per_charge_state() -> None:
    model = ToyQeq()
    frames = [
        labelled(model, frame(0, total_charge=1.0), shift=0.4),
        labelled(model, frame(1, total_charge=1.0), shift=0.4),
        labelled(model, frame(2), shift=0.2),
    ]
    result = assess(model, dataset(frames))
    assert result.by_charge.errors["charge +1"]["energy"].mae == pytest.approx(0.1, abs=1e-9)
    assert result.by_charge.errors["charge 0"]["energy"].mae == pytest.approx(0.05, abs=1e-9)
    assert result.seconds > 0
    assert result.n_atoms == 12


def synthetic(polarizability: float, model: float, n: int = 40, spread: float = 0.5) -> FieldDipoles:
    """Frames with random permanent dipoles that labels and predictions share."""
    rng = np.random.default_rng(3)
    strength = rng.uniform(0.02, 0.2, n)
    permanent = rng.normal(0.0, spread, n)
    return FieldDipoles(
        ["a"] * n,
        list(strength),
        list(permanent + polarizability * strength),
        list(permanent + model * strength),
    )


def test_field_response_measures_what_a_model_has_of_the_induced_dipole() -> None:
    clean = synthetic(10.0, 4.0, spread=0.0).responses()["all"]
    assert clean.reference_slope == pytest.approx(10.0)
    assert clean.slope == pytest.approx(4.0)
    assert clean.ratio == pytest.approx(0.4)
    assert clean.ratio_error < 1e-12
    assert clean.difference == pytest.approx(-6.0)
    assert set(synthetic(10.0, 4.0).responses()) == {"all"}  # one group needs no row of its own
    noisy = synthetic(10.0, 4.0).responses()["all"]
    assert 0.01 < noisy.ratio_error < 0.3
    assert abs(noisy.ratio - 0.4) < 3 * noisy.ratio_error
    assert abs(noisy.ratio - 1.0) > 3 * noisy.ratio_error  # distinguishes the model from the right one
    # what labels and predictions share cancels in the difference
    assert noisy.difference == pytest.approx(-6.0)
    assert noisy.difference_error < 1e-12
    few = synthetic(10.0, 4.0, n=2).responses()["all"]
    assert few.n_frames == 2
    assert np.isnan(few.ratio)
    assert few.as_dict()["ratio"] is None


def test_field_dipoles_take_neutral_frames_open_along_the_field() -> None:
    model = ToyQeq()
    field = [0.0, 0.06, 0.08]
    slab = frame(3, external_field=[0.0, 0.0, 0.1])
    slab.set_cell([9.0, 9.0, 20.0])
    along = slab.copy()
    slab.pbc, along.pbc = (True, True, False), (True, True, True)
    frames = [
        labelled(model, frame(0, external_field=field, config_type="kept")),
        labelled(model, frame(1, external_field=field, total_charge=1.0, config_type="charged")),
        labelled(model, frame(2, config_type="no field")),
        labelled(model, slab, shift=0.0),
        labelled(model, along),
    ]
    frames[3].info["config_type"], frames[4].info["config_type"] = "slab", "periodic"
    graph = Graph.collate([Graph.from_atoms(atoms, model.cutoff) for atoms in frames])
    dipoles = FieldDipoles()
    dipoles.add(model(graph), graph)
    assert dipoles.groups == ["kept", "slab"]
    direction = np.array(field) / 0.1
    assert dipoles.strength == pytest.approx([0.1, 0.1])
    assert abs(dipoles.reference[0]) > 0.1
    assert dipoles.reference[0] == pytest.approx(frames[0].info["REF_dipole"] @ direction)
    assert dipoles.predicted == pytest.approx(dipoles.reference, abs=1e-7)
    unconverged = replace(graph)
    dipoles.add({**model(graph), "scf_converged": torch.zeros(5, dtype=torch.bool)}, unconverged)
    assert len(dipoles) == 2


def test_convergence_of_solvers_is_recorded_frame_by_frame(tmp_path) -> None:
    frames = wrap_atoms([frame(seed, total_charge=float(seed % 2)) for seed in range(3)])
    runs = run_solvers(ToyQeq(), frames, ["newton", "mixing"], tolerance=1e-6, batch_size=2)
    assert [run.solver for run in runs] == ["newton", "mixing"]
    for run in runs:
        assert run.converged == [True] * 3
        assert run.iterations == [len(history) - 1 for history in run.histories]
        for history in run.histories:
            assert history[0] > 0.01
            assert history[-1] <= 1e-6 < history[-2]
    picture = tmp_path / "scf.png"
    assert plot_convergence(runs, picture).axes[0].get_yscale() == "log"
    assert picture.stat().st_size > 5000
    (failed,) = run_solvers(ToyQeq(), frames, ["newton"], max_iterations=3)
    assert failed.converged == [False] * 3
    assert failed.iterations == []
    console = Console(file=io.StringIO(), width=120)
    console.print(convergence_table([runs[0], failed]))
    text = console.file.getvalue()
    assert "3 of 3" in text
    assert "0 of 3" in text
    plot_convergence([failed], tmp_path / "failed.png")


def test_solvers_need_a_self_consistent_model() -> None:
    config = ModelConfig.parse({"family": "mace", "backbone": {"hidden_irreps": "2x0e + 2x1o", "max_ell": 1}})
    model = build(config, Statistics(elements=(1, 8), e0s={1: 0.0, 8: 0.0}, avg_num_neighbors=2.0))
    with pytest.raises(InputError, match="family 'mace'"):
        run_solvers(model, wrap_atoms([frame(0)]))
