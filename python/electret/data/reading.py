"""Frames from data files: read through ASE, checked, and brought to the package's own keys."""

from __future__ import annotations

import io
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import iread
from ase.io.extxyz import SPECIAL_3_3_KEYS, UNPROCESSED_KEYS, key_val_str_to_dict, read_xyz
from numpy.typing import NDArray

from electret.conditions import UNITS, check_other_names
from electret.data.keys import DataKeys, DipoleOrigin
from electret.errors import InputError
from electret.labels import CONVERTED, LABELS, Label

__all__ = [
    "ISOLATED_ATOM",
    "Frame",
    "iterate_frames",
    "iterate_structures",
    "origin_of_dipole",
    "read_structures",
    "wrap_atoms",
]

ISOLATED_ATOM = "IsolatedAtom"
"""`config_type` of the single-atom frames that hold the atomic energies (MACE's convention); on reading,
case, `-`, `_` and spaces do not matter."""

ENERGY_KIND = "energy_kind"
"""Key of `atoms.info` that says which energy that of a frame is, `energy` or `grand_potential`, whatever the
key map says."""

_INPUTS = ("external_field", "spin_multiplicity", "grid_points")
_WEIGHT_KEYS = tuple(name for name in LABELS if name not in _INPUTS)
_DATABASES = (".db", ".aselmdb")
_BLOCK = 1 << 20  # bytes of text read at once
_EXTXYZ_SUFFIXES = (".xyz", ".extxyz")


@dataclass(frozen=True, eq=False)
class Frame:
    """One structure with its labels under the default keys (`REF_energy`, ...) and where it came from.

    `other_keys` are the names its file holds besides (to name likely mistakes in the key map).
    """

    atoms: Atoms
    file: str
    index: int
    other_keys: frozenset[str] = frozenset()

    @property
    def where(self) -> str:
        """Place of the frame, for messages."""
        return f"{self.file}, frame {self.index}"

    @property
    def config_type(self) -> str:
        """Kind of configuration, `Default` where the file gives none."""
        return str(self.atoms.info.get("config_type", "Default"))

    @property
    def is_isolated_atom(self) -> bool:
        """True if the frame only holds an atomic energy."""
        return self.config_type == ISOLATED_ATOM

    @property
    def chain(self) -> str | None:
        """Trajectory the frame belongs to; frames of one chain are never split between sets."""
        chain = self.atoms.info.get("chain")
        return None if chain is None else str(chain)

    def has(self, name: str) -> bool:
        """True if the frame carries quantity `name` (a name of `DataKeys`)."""
        key = LABELS[name].key
        return key in (self.atoms.arrays if LABELS[name].per_atom else self.atoms.info)

    def value(self, name: str) -> Any:
        """Quantity `name` of the frame."""
        key = LABELS[name].key
        return self.atoms.arrays[key] if LABELS[name].per_atom else self.atoms.info[key]


def iterate_frames(
    path: str | Path, keys: DataKeys | None = None, dipole_origin: DipoleOrigin = "origin"
) -> Iterator[Frame]:
    """Frames of a file one by one, see `electret.data.read_frames`."""
    keys = keys or DataKeys()
    for index, atoms in enumerate(iterate_structures(path)):
        yield _normalised(atoms, keys, str(path), index, dipole_origin)


def read_structures(path: str | Path) -> list[Atoms]:
    """All structures of a file, see `electret.data.read_frames`."""
    return list(iterate_structures(path))


def iterate_structures(path: str | Path) -> Iterator[Atoms]:
    """Structures of a file one by one. Pipes and `-`, standard input, hold extended XYZ."""
    path = Path(path)
    if str(path) != "-" and (path.is_dir() or not path.exists()):
        raise InputError(
            f"data file '{path}' does not exist (paths in a config are relative to the config's folder)"
        )
    empty = True
    if path.suffix.lower() in _EXTXYZ_SUFFIXES or not path.is_file():
        structures = _read_extxyz(path)
    else:
        structures = _read_by_ase(path)
    for atoms in structures:
        empty = False
        yield atoms
    if empty:
        raise InputError(f"{path}: the file holds no frame")


def _read_by_ase(path: Path) -> Iterator[Atoms]:
    try:
        yield from _rows(path) if path.suffix in _DATABASES else iread(path, index=":")
    except Exception as error:
        raise InputError(f"{path}: ASE cannot read this file: {error}") from error


def _rows(path: Path) -> Iterator[Atoms]:
    """Structures of a database of ASE with the entries of each row, which `iread` leaves aside."""
    from ase.db import connect

    with connect(path, serial=True) as database:
        for row in database.select():
            atoms = row.toatoms()
            atoms.info |= {**row.key_value_pairs, **row.data}
            yield atoms


def wrap_atoms(
    structures: Sequence[Atoms],
    keys: DataKeys | None = None,
    file: str = "<atoms>",
    dipole_origin: DipoleOrigin = "origin",
) -> list[Frame]:
    """Checked frames from ASE structures in memory, see `read_frames`."""
    keys = keys or DataKeys()
    return [_normalised(atoms, keys, file, index, dipole_origin) for index, atoms in enumerate(structures)]


def origin_of_dipole(atoms: Atoms, choice: DipoleOrigin) -> NDArray[np.float64]:
    """Position [3] of the point about which dipoles are given."""
    if choice == "center_of_mass":
        return np.asarray(atoms.get_center_of_mass())
    if choice == "center_of_charge":
        return np.asarray(atoms.numbers @ atoms.positions / atoms.numbers.sum())
    return np.zeros(3)


def _read_extxyz(path: Path) -> Iterator[Atoms]:
    for index, first_line, block in _blocks(path):
        if not _is_rectangular(block):
            _check_columns(path, index, first_line, block)
        try:
            # ASE's extxyz reader is given one frame at a time so that its errors can be placed.
            text = io.StringIO("\n".join(block) + "\n")
            atoms = next(read_xyz(text, index=0, properties_parser=_comment))
        except Exception as error:
            _check_columns(path, index, first_line, block)
            raise InputError(
                f"{path}: frame {index} (lines {first_line}-{first_line + len(block) - 1}) is not valid "
                f"extended XYZ: {error}"
            ) from error
        yield atoms


def _lines(path: Path) -> Iterator[str]:
    """Lines of a file of text, without blank ones at its end."""
    position, blank = 0, 0
    with nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb") as file:
        while raw := b"".join(file.readlines(_BLOCK)):
            try:
                text = raw.decode("utf-8-sig" if position == 0 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}: the file is not UTF-8 text (byte {position + error.start}); is it extended XYZ?"
                ) from error
            position += len(raw)
            for line in text.splitlines():
                if not line.strip():
                    blank += 1
                    continue
                yield from itertools.repeat("", blank)
                blank = 0
                yield line


def _blocks(path: Path) -> Iterator[tuple[int, int, list[str]]]:
    """Frame index, number of its first line (from 1), and its lines."""
    lines = _lines(path)
    index, start = 0, 0
    for first in lines:
        try:
            n_atoms = int(first)
        except ValueError:
            raise InputError(
                f"{path}: line {start + 1} should give the number of atoms of frame {index}, found "
                f"'{first[:60]}'"
            ) from None
        if n_atoms < 1:
            raise InputError(f"{path}: line {start + 1}: frame {index} has {n_atoms} atoms; remove the frame")
        block = [first, *itertools.islice(lines, min(n_atoms + 1, sys.maxsize))]
        if len(block) < n_atoms + 2:
            raise InputError(
                f"{path}: frame {index} starts at line {start + 1} with {n_atoms} atoms but the file ends "
                f"after {max(len(block) - 2, 0)} of them; the file is truncated or the number is "
                "wrong"
            )
        yield index, start + 1, block
        start, index = start + n_atoms + 2, index + 1


_ENTRY = re.compile(r"""([^\s="'{\[\\]+)=("[^"\\]+"|[^\s="'{\[\\]+)(?:\s+|$)""")
_NUMERIC = re.compile(r"[-+.0-9eE ]*[0-9][-+.0-9eE ]*")
_LAYOUT = re.compile(r'(?:^|\s)Properties=("?)([\w:]+)\1(?:\s|$)')


def _comment(line: str) -> dict[str, Any]:
    """Entries of a comment line as ASE's own parser gives them, which reads character by character."""
    found: dict[str, Any] = {}
    end = 0
    while match := _ENTRY.match(line, end):
        key, value = match[1], match[2].strip('"')
        end = match.end()
        if _NUMERIC.fullmatch(value) and key not in SPECIAL_3_3_KEYS and key.lower() not in UNPROCESSED_KEYS:
            words = value.split()
            try:
                numbers = np.array(words, dtype=float if set(value) & set(".eE") else int)
            except (ValueError, OverflowError):
                return dict(key_val_str_to_dict(line))
            found[key] = numbers[0] if len(numbers) == 1 else numbers
        else:
            found[key] = copy(_entry(match[0].strip()))
    return found if end == len(line) > 0 else dict(key_val_str_to_dict(line))


@lru_cache(maxsize=1000)
def _entry(text: str) -> Any:
    return next(iter(key_val_str_to_dict(text).values()))


def _is_rectangular(block: list[str]) -> bool:
    """True if every atom line has as many words as the comment announces."""
    layout = _LAYOUT.search(block[1])
    try:
        n_words = sum(map(int, layout[2].split(":")[2::3])) if layout else 4
    except ValueError:
        return False
    return all(len(line.split()) == n_words for line in block[2:])


def _check_columns(path: Path, index: int, first_line: int, block: list[str]) -> None:
    """Refuse atom lines that do not hold what `Properties` announces (ASE would drop or misread columns)."""
    try:
        properties = key_val_str_to_dict(block[1]).get("Properties", "species:S:1:pos:R:3")
        fields = str(properties).split(":")
        kinds = [
            kind for kind, count in zip(fields[1::3], fields[2::3], strict=True) for _ in range(int(count))
        ]
    except Exception as error:
        raise InputError(
            f"{path}: line {first_line + 1} (comment of frame {index}) cannot be parsed: {error}"
        ) from error
    for offset, line in enumerate(block[2:], start=2):
        words = line.split()
        if len(words) != len(kinds):
            raise InputError(
                f"{path}: line {first_line + offset} (frame {index}, atom {offset - 2}) has {len(words)} "
                f"columns, but Properties={properties} asks for {len(kinds)}"
            )
        for word, kind in zip(words, kinds, strict=True):
            if kind in "RI" and not _is_number(word):
                raise InputError(
                    f"{path}: line {first_line + offset} (frame {index}, atom {offset - 2}): '{word}' is "
                    f"not a number"
                )


def _is_number(word: str) -> bool:
    try:
        float(word.replace("D", "E").replace("d", "e"))
    except ValueError:
        return False
    return True


def _normalised(atoms: Atoms, keys: DataKeys, file: str, index: int, dipole_origin: DipoleOrigin) -> Frame:
    """Copy of the structure that holds labels only under the default keys."""
    where = f"{file}, frame {index}"
    if len(atoms) == 0:
        raise InputError(f"{where}: the frame has no atoms; remove it")
    _check_finite(atoms.positions, f"{where}: positions", per_atom=True)
    _check_finite(np.asarray(atoms.cell), f"{where}: cell", per_atom=False)
    unknown = np.flatnonzero(atoms.numbers < 1)
    if unknown.size:
        raise InputError(
            f"{where}: atom {unknown[0]} has no known chemical element (symbol '{atoms.symbols[unknown[0]]}')"
        )
    clean = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    keys = _with_energy_kind(keys, atoms, where)
    used = set()
    for name, label in LABELS.items():
        key = getattr(keys, name)
        if any(target == name and getattr(keys, source) == key for source, target in CONVERTED.items()):
            continue  # the key holds what this label is made of
        raw = _lookup(atoms, key)
        if name == "total_charge":
            raw = _total_charge(atoms, key, raw, where)
        if raw is None:
            continue
        used.add(key)
        value = _checked(raw, label, len(atoms), f"{where}: key '{key}'")
        if label.per_atom:
            clean.set_array(LABELS[name].key, value)
        else:
            clean.info[LABELS[name].key] = value if value.ndim else float(value)
    condition_keys = {name: getattr(keys, name) for name in UNITS}
    check_other_names(atoms.info, condition_keys, clean.info, where)
    _check_grid(clean, keys, where)
    _convert(clean, keys, where)
    if LABELS["dipole"].key in clean.info and not clean.pbc.all():
        charge = clean.info.get(LABELS["total_charge"].key, 0.0)
        moved = clean.info[LABELS["dipole"].key] + charge * origin_of_dipole(atoms, dipole_origin)
        clean.info[LABELS["dipole"].key] = moved
    for key in ("config_type", "chain"):
        if key in atoms.info:
            clean.info[key] = str(atoms.info[key])
    if re.sub("[^a-z]", "", clean.info.get("config_type", "").lower()) in ("isolatedatom", "isolatedatoms"):
        clean.info["config_type"] = ISOLATED_ATOM
    for name in _WEIGHT_KEYS:
        key = f"config_{name}_weight"
        if key in atoms.info:
            weight = _checked_weight(atoms.info[key], f"{where}: key '{key}'")
            clean.info.setdefault(f"config_{CONVERTED.get(name, name)}_weight", weight)
    if "config_weight" in atoms.info:
        clean.info["config_weight"] = _checked_weight(
            atoms.info["config_weight"], f"{where}: key 'config_weight'"
        )
    results = atoms.calc.results if atoms.calc is not None else {}
    return Frame(
        clean,
        file,
        index,
        frozenset({*atoms.info, *atoms.arrays, *results} - used - {"numbers", "positions"}),
    )


def _with_energy_kind(keys: DataKeys, atoms: Atoms, where: str) -> DataKeys:
    """The keys of a frame that says which energy its own is."""
    kind = atoms.info.get(ENERGY_KIND)
    if kind not in (None, "energy", "grand_potential"):
        raise InputError(
            f"{where}: {ENERGY_KIND}={kind!r}; give 'energy' (E) or 'grand_potential' (E + mu Q) for key "
            f"'{keys.energy}'"
        )
    if kind == "grand_potential":
        return keys.model_copy(update={"grand_potential": keys.energy})
    if kind == "energy" and keys.grand_potential == keys.energy:
        return keys.model_copy(update={"grand_potential": LABELS["grand_potential"].key})
    return keys


def _lookup(atoms: Atoms, key: str) -> Any:
    if key in atoms.info:
        return atoms.info[key]
    if key in atoms.arrays:
        return atoms.arrays[key]
    if atoms.calc is None:
        return None
    # Readers of VASP, Espresso and GPAW keep the Fermi level beside the results.
    return getattr(atoms.calc, "eFermi", None) if key == "efermi" else atoms.calc.results.get(key)


def _total_charge(atoms: Atoms, key: str, value: Any, where: str) -> Any:
    """The total charge, `charge` being accepted as a second name of the default key."""
    if key != LABELS["total_charge"].key or "charge" not in atoms.info:
        return value
    other = atoms.info["charge"]
    if value is not None and not np.array_equal(np.ravel(other), np.ravel(value)):
        raise InputError(f"{where}: total_charge={value} and charge={other} disagree; give one of them")
    return other


def _checked(raw: Any, label: Label, n_atoms: int, what: str) -> NDArray[np.float64]:
    try:
        value = np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} holds {raw!r}, expected numbers in {label.unit}") from None
    if label.name == "multipoles":
        n_lm = value.shape[1] if value.ndim == 2 else 0
        fits = value.ndim == 2 and len(value) == n_atoms and n_lm > 0 and int(np.sqrt(n_lm)) ** 2 == n_lm
        expected = f"({n_atoms}, (max_l + 1)**2)"
    elif label.rows == "point":
        value = _grid_rows(value, label)
        fits = len(value) > 0 and value.shape[1:] in label.shapes
        expected = " or ".join(str(("n_points", *shape)).replace("'", "") for shape in label.shapes)
    else:
        lead = (n_atoms,) if label.per_atom else ()
        shapes = [lead + shape for shape in label.shapes]
        fits = value.shape in shapes
        expected = " or ".join(str(shape) for shape in shapes)
    if not fits:
        raise InputError(f"{what} has shape {value.shape}, expected {expected}")
    _check_finite(value, what, per_atom=label.per_atom)
    if label.name in ("charges", "potentials"):
        return value.reshape(n_atoms)
    if label.name == "born_effective_charges":
        return value.reshape(n_atoms, 9)
    if label.name == "grid_potentials":
        return value.reshape(-1)
    if label.name == "polarizability":
        return _symmetric(value.reshape(3, 3), what)
    if label.name in ("stress", "virials") and value.size == 9:
        return _voigt(value.reshape(3, 3), what)
    return value.reshape(()) if () in label.shapes else value


def _grid_rows(value: NDArray[np.float64], label: Label) -> NDArray[np.float64]:
    """Rows of a grid quantity; older versions of ASE make a matrix of nine numbers, column by column."""
    if label.name == "grid_potentials" and value.shape == (3, 3):
        return value.reshape(-1, order="F")
    if label.name == "grid_points" and value.ndim == 1 and value.size % 3 == 0:
        return value.reshape(-1, 3)
    return value if value.ndim else value.reshape(1)


def _check_grid(atoms: Atoms, keys: DataKeys, where: str) -> None:
    """Potentials on a grid need their points, one each."""
    found = {name: atoms.info.get(LABELS[name].key) for name in ("grid_points", "grid_potentials")}
    lengths = {getattr(keys, name): len(value) for name, value in found.items() if value is not None}
    if len(lengths) == 1:
        (missing,) = {keys.grid_points, keys.grid_potentials} - set(lengths)
        raise InputError(f"{where}: key '{next(iter(lengths))}' is given without '{missing}'; give both")
    if len(set(lengths.values())) > 1:
        raise InputError(f"{where}: grid points and potentials differ in number, {lengths}")


def _convert(atoms: Atoms, keys: DataKeys, where: str) -> None:
    """Give the frame the energy of its grand potential and the stress of its virials."""
    omega, virials = (atoms.info.get(LABELS[name].key) for name in ("grand_potential", "virials"))
    if omega is not None:
        missing = [
            f"{name} (key '{getattr(keys, name)}')"
            for name in ("total_charge", "fermi_level")
            if LABELS[name].key not in atoms.info
        ]
        if missing:
            raise InputError(
                f"{where}: key '{keys.grand_potential}' is the grand potential E + mu Q, of which the energy "
                f"cannot be had without {' and '.join(missing)}; add it"
            )
        energy = omega - atoms.info[LABELS["fermi_level"].key] * atoms.info[LABELS["total_charge"].key]
        _put(atoms, "energy", energy, "grand_potential", keys, where)
    if virials is not None:
        if atoms.cell.rank < 3:
            raise InputError(
                f"{where}: key '{keys.virials}' is given, but the cell has no volume to make a stress of it "
                "(-virials / volume); give the frame a cell or remove the key"
            )
        _put(atoms, "stress", -virials / atoms.get_volume(), "virials", keys, where)


def _put(
    atoms: Atoms, name: str, value: NDArray[np.float64] | float, source: str, keys: DataKeys, where: str
) -> None:
    """Set a converted label; refuse it beside one that it contradicts."""
    own = atoms.info.setdefault(LABELS[name].key, value)
    relative, absolute = (0.0, 1e-2) if name == "energy" else (1e-2, 1e-4)
    if not np.allclose(own, value, rtol=relative, atol=absolute):
        raise InputError(
            f"{where}: '{getattr(keys, name)}' = {own} and '{getattr(keys, source)}', which gives {value}, "
            f"disagree ({LABELS[name].unit}); remove one of them, or set data.keys.{source} to another name"
        )


def _symmetric(tensor: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    if not np.allclose(tensor, tensor.T, atol=1e-6 + 1e-4 * np.abs(tensor).max()):
        raise InputError(f"{what} is not a symmetric tensor: {tensor.tolist()}")
    return (tensor + tensor.T) / 2


def _voigt(stress: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    """ASE's order xx, yy, zz, yz, xz, xy."""
    stress = _symmetric(stress, what)
    return np.array([stress[0, 0], stress[1, 1], stress[2, 2], stress[1, 2], stress[0, 2], stress[0, 1]])


def _check_finite(value: NDArray[np.float64], what: str, per_atom: bool) -> None:
    if not np.isfinite(value).all():
        bad = np.argwhere(~np.isfinite(value))
        place = f" at atom {bad[0][0]}" if per_atom else ""
        raise InputError(f"{what} holds {value[tuple(bad[0])]}{place}; remove the frame or the value")


def _checked_weight(raw: Any, what: str) -> float:
    try:
        weight = float(raw)
    except (TypeError, ValueError):
        raise InputError(f"{what} holds {raw!r}, expected a number") from None
    if not (np.isfinite(weight) and weight >= 0):
        raise InputError(f"{what} is {weight}; a weight must be finite and not negative")
    return weight
