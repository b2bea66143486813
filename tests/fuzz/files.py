"""Model files and data files with changed, removed and added bytes: refused, or read as they were."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.calls import magnitude, pick

FRAMES = """3
Lattice="9 0 0 0 9 0 0 0 9" {properties} REF_energy=-1.5 total_charge=0 pbc="T T F"
O 0.0 0.0 0.0 0.1 0.0 0.0 -0.8
H 0.9 0.0 0.0 -0.1 0.0 0.0 0.4
H 0.0 0.9 0.0 0.0 0.0 0.0 0.4
2
{properties} REF_energy=-2.5 REF_dipole="0 0 1" external_field="0 0 0.1" config_type=dimer pbc="F F F"
H 0.0 0.0 0.0 0.1 0.0 0.0 0.0
H 0.0 0.0 0.8 -0.1 0.0 0.0 0.0
""".replace("{properties}", "Properties=species:S:1:pos:R:3:REF_forces:R:3:REF_charges:R:1")

SNIPPETS = (
    b"", b"\x00", b"nan", b"inf", b"1e400", b"-1", b"T", b"0", b'"', b"\n", b"=", b":", b"\xff",
    b"\xef\xbb\xbf", b"Xx", b"0.8",
    b"REF_energy=1 ", b"charge=1 ", b"net_charge=2 ", b"1e300", b"9" * 40,
)  # fmt: skip


def prepare() -> None:
    """Imports, and the model file, before the memory is limited."""
    from electret.models import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.electret"
        path.write_bytes(model_bytes())
        load(path)


@functools.cache
def model_bytes() -> bytes:
    """A small model file."""
    from electret.models import ModelConfig, Statistics, build, save

    config = ModelConfig.parse(
        {
            "family": "local_charges",
            "backbone": {"r_max": 3.0, "hidden_irreps": "2x0e + 2x1o", "max_ell": 1, "correlation": 1},
        }
    )
    statistics = Statistics(elements=[1, 8], e0s={1: -1.0, 8: -2.0})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.electret"
        save(build(config, statistics, seed=1), path)
        return path.read_bytes()


def parts(content: bytes) -> tuple[bytes, bytes]:
    """Header and tensors of a model file."""
    end = int.from_bytes(content[:8], "little") + 8
    return content[8:end], content[end:]


def damage(generator: np.random.Generator, content: bytes, snippets: tuple[bytes, ...]) -> bytes:
    """The bytes with a piece cut off, changed, inserted or repeated."""
    at = int(generator.integers(len(content)))
    kind = generator.integers(4)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([int(generator.integers(256))]) + content[at + 1 :]
    if kind == 2:
        return content[:at] + pick(generator, snippets) + content[at + int(generator.integers(0, 9)) :]
    length = int(magnitude(generator, 1.0, 100.0))
    return content[:at] + content[at : at + length] + content[at:]


def case(generator: np.random.Generator) -> tuple[str, Callable[[], Any]]:
    """One damaged file."""
    if generator.random() < 0.8:
        content = FRAMES.encode()
        for _ in range(int(generator.integers(1, 4))):
            content = damage(generator, content, SNIPPETS)
        return f"data file {content!r}", lambda: read_frames(content)
    original = model_bytes()
    header = int.from_bytes(original[:8], "little") + 8
    if generator.random() < 0.7:  # mostly the header
        content = (
            damage(
                generator, original[:header], (b"1", b"-1", b"null", b"NaN", b"[", b"{", b"1e999", b"9" * 30)
            )
            + original[header:]
        )
    else:
        content = damage(generator, original, SNIPPETS)
    return f"model file, changed near byte {first_difference(content, original)}", lambda: read_model(
        content, original
    )


def first_difference(one: bytes, other: bytes) -> int:
    """Index of the first byte that differs."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def read_frames(content: bytes) -> Any:
    """Reads the frames of a data file; every number that is read as a condition or geometry is finite."""
    from electret.data import read_frames

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.xyz"
        path.write_bytes(content)
        frames = read_frames(path)
        return [array for frame in frames for array in (frame.atoms.positions, frame.atoms.cell.array)]


def read_model(content: bytes, original: bytes) -> Any:
    """Reads a model file; one that is accepted has to hold the original's numbers."""
    from electret.models import load, save

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.electret"
        path.write_bytes(content)
        model = load(path)
        if content == original:
            return None
        again = Path(folder) / "again.electret"
        save(model, again)
        if again.read_bytes() != original:
            raise AssertionError("a changed file is read as another model")
