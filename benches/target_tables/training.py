"""Share of electrostatics in a training step."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from target_tables.options import Options
from target_tables.process import Row
from target_tables.report import markdown, missing, ms
from water import CELL_LENGTH, water

TITLE = "Training: share of electrostatics in a step"
TEXT = """A step of `electret train` (energies, forces and charges; forward, backward, clipping, Adam) on
batches of 20 frames of periodic water; the backbone is the small one of the demo, `qeq.yaml` and
`fixed_point.yaml`, so that the share is an upper one. *native*: wall time inside the compiled electret
functions (forward, backward, second derivatives and solves), measured by hooks around them, minimum over
steps of the whole and of the share; the torch code between them counts as backbone. *mace_run_train*: a
step of MACE's own training (`mace.tools.train.take_step` with its loader, loss of energy and forces, Adam)
with the same backbone on the same frames, in the same process, the two taken in turns; *over mace*: our
step over that. A batch is collated within the step in both."""

FAMILIES = ("mace", "local_charges", "qeq", "fixed_point")
FRAMES, LAYERS, STEPS = 20, (2, 3, 4), 2
"""Layers of molecules along each axis of a frame."""
TARGET = 0.15
DTYPES = ("float64", "float32")
BACKBONE = {
    "r_max": 4.5,
    "hidden_irreps": "16x0e + 16x1o",
    "num_interactions": 2,
    "correlation": 2,
    "max_ell": 2,
    "radial_MLP": [32, 32],
}
FUNCTIONS = (
    "coulomb",
    "coulomb_tangent",
    "features",
    "features_gradient",
    "features_tangent",
    "potential",
    "charge_equilibration",
)
CLASSES = ("Geometry", "Jacobian")


def cases(options: Options) -> list[Row]:
    sizes = {"n_frames": FRAMES, "layers": LAYERS, "steps": STEPS}
    if options.max_atoms < 3 * np.prod(LAYERS):
        sizes = {"n_frames": 2, "layers": (2, 2, 1), "steps": 1}
    limits = {"threads": options.threads, "timeout": 2 * options.timeout}
    return [{"family": family, "dtype": dtype, **sizes, **limits} for dtype in DTYPES for family in FAMILIES]


def measure(
    family: str, dtype: str, n_frames: int, layers: list[int], steps: int, threads: int
) -> Iterator[Row]:
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="electret_bench_") as folder, native_time() as native:
        trainer = make_trainer(family, dtype, water_frames(n_frames, layers), Path(folder))
        indices = list(range(n_frames))
        peer = mace_step(trainer, water_frames(n_frames, layers))
        trainer._step(indices, trainer.train_set.batch(indices))
        peer()
        times, peers = [], []
        for _ in range(steps):
            begin = time.perf_counter()
            peer()
            peers.append(1e3 * (time.perf_counter() - begin))
            native.clear()
            begin = time.perf_counter()
            trainer._step(indices, trainer.train_set.batch(indices))
            times.append((1e3 * (time.perf_counter() - begin), 1e3 * sum(native.values()), dict(native)))
    step, inside, parts = min(times, key=lambda entry: entry[0])
    yield {
        "atoms": 3 * int(np.prod(layers)),
        "frames": n_frames,
        "step_ms": step,
        "mace_ms": min(peers),
        "native_ms": inside,
        "share": min(entry[1] / entry[0] for entry in times),
        "parts_ms": {name: 1e3 * seconds for name, seconds in parts.items()},
    }


def mace_step(trainer: Any, frames: list) -> Callable[[], None]:
    """A step as `mace_run_train` takes it, of a copy of the backbone."""
    import copy

    import torch
    from mace.data import AtomicData, KeySpecification, config_from_atoms
    from mace.modules.loss import WeightedEnergyForcesLoss
    from mace.tools import AtomicNumberTable
    from mace.tools.torch_geometric.dataloader import DataLoader
    from mace.tools.train import take_step

    before = torch.get_default_dtype()
    torch.set_default_dtype(trainer.model.dtype)
    model = copy.deepcopy(trainer.model.backbone.mace).requires_grad_(True)
    table = AtomicNumberTable([int(number) for number in model.atomic_numbers])
    keys = KeySpecification(info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"})
    cutoff = float(model.r_max)
    data = [
        AtomicData.from_config(config_from_atoms(atoms, key_specification=keys), z_table=table, cutoff=cutoff)
        for atoms in frames
    ]
    torch.set_default_dtype(before)
    loader = DataLoader(data, batch_size=len(data))
    loss = WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, amsgrad=True)
    wanted = {"forces": True, "virials": False, "stress": False}

    def step() -> None:
        take_step(model, loss, next(iter(loader)), optimizer, None, wanted, 10.0, torch.device("cpu"))

    return step


@contextmanager
def native_time() -> Iterator[dict[str, float]]:
    """Seconds inside each native function while this is open."""
    from electret import _native

    spent: dict[str, float] = {}

    def hooked(name: str, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin

        return call

    class Hooked:
        """Stands for an object of a native class."""

        def __init__(self, name: str, inner: Any) -> None:
            self._name, self._inner = name, inner

        def __getattr__(self, attribute: str) -> Any:
            value = getattr(self._inner, attribute)
            return hooked(f"{self._name}.{attribute}", value) if callable(value) else value

    def make(name: str, native: Callable) -> Callable:
        def construct(*args: Any, **kwargs: Any) -> Hooked:
            bare = [value._inner if isinstance(value, Hooked) else value for value in args]
            return Hooked(name, hooked(name, native)(*bare, **kwargs))

        return construct

    kept = {name: getattr(_native, name) for name in (*FUNCTIONS, *CLASSES)}
    for name in FUNCTIONS:
        setattr(_native, name, hooked(name, kept[name]))
    for name in CLASSES:
        setattr(_native, name, make(name, kept[name]))
    try:
        yield spent
    finally:
        for name, value in kept.items():
            setattr(_native, name, value)


def make_trainer(family: str, dtype: str, frames: list, folder: Path, device: str = "cpu"):
    import ase.io
    from rich.console import Console

    from electret.training import TrainingConfig
    from electret.training.loop import Trainer
    from electret.training.run import _build_model, _datasets, load_data
    from electret.training.run_log import RunLog

    ase.io.write(folder / "train.xyz", frames)
    ase.io.write(folder / "valid.xyz", frames[:1])
    loss = {"energy": 1, "forces": 100} | ({} if family == "mace" else {"charges": 100})
    model: dict[str, Any] = {"family": family, "backbone": BACKBONE}
    if family != "mace":
        model["electrostatics"] = {"max_l": 1, "sigma": 1.0}
    config = TrainingConfig.model_validate(
        {
            "name": "bench",
            "dtype": dtype,
            "device": device,
            "output": str(folder / "run"),
            "model": model,
            "data": {
                "train": str(folder / "train.xyz"),
                "valid": str(folder / "valid.xyz"),
                "batch_size": len(frames),
            },
            "stages": [{"name": "main", "epochs": 1, "lr": 1e-4, "loss": loss, "clip_grad": 10}],
        }
    )
    data = load_data(config)
    datasets = _datasets(config, {"train": data.train, "valid": data.valid})
    built = _build_model(config, data, datasets["train"])
    log = RunLog(folder, Console(file=StringIO()), 1, tensorboard=False)
    return Trainer(config, built, datasets["train"], datasets["valid"], log)


def water_frames(n_frames: int, layers: Sequence[int]) -> list:
    """Periodic boxes cut from different 192-atom ones, with labels of the right size."""
    from ase import Atoms

    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen = (grid < layers).all(axis=1)
    frames = []
    for seed in range(n_frames):
        positions = water(seed=seed)["positions"].reshape(64, 3, 3)[chosen].reshape(-1, 3)
        cell = np.diag(np.array(layers) * CELL_LENGTH / 4)
        atoms = Atoms("OHH" * chosen.sum(), positions=positions, cell=cell, pbc=True)
        atoms.info["REF_energy"] = -467.0 * chosen.sum() + rng.normal()
        atoms.arrays["REF_forces"] = rng.normal(size=positions.shape)
        atoms.arrays["REF_charges"] = np.tile([-0.8, 0.4, 0.4], chosen.sum())
        frames.append(atoms)
    return frames


def table(rows: list[Row]) -> str:
    measured = [row for row in rows if "missing" not in row]
    lines = []
    for row in measured:
        largest = sorted(row["parts_ms"].items(), key=lambda part: -part[1])[:3]
        verdict = "met" if row["share"] < TARGET else "**missed**"
        lines.append(
            (
                row["family"],
                row["dtype"],
                f"{row['frames']} × {row['atoms']}",
                ms(row["step_ms"]),
                ms(row["native_ms"]),
                f"{100 * row['share']:.1f} %",
                verdict if row["family"] != "mace" else "",
                ms(row["mace_ms"]),
                f"{row['step_ms'] / row['mace_ms']:.2f}",
                ", ".join(f"{name} {ms(value)}" for name, value in largest),
            )
        )
    columns = (
        "family",
        "dtype",
        "frames × atoms",
        "step / ms",
        "native / ms",
        "share",
        f"target < {100 * TARGET:.0f} %",
        "mace_run_train / ms",
        "over mace",
        "largest / ms",
    )
    return markdown(columns, lines) + missing(rows, ("family", "dtype"))
