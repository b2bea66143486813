"""The parts of e3nn and MACE that models are made of, imported without messages and without unused packages.

Both import packages that no model needs: MACE its training tools with pandas, torchmetrics and matplotlib,
e3nn SymPy and a part of SciPy, together three times as much as PyTorch. Such a module is put off: it is in
`sys.modules`, and its code runs when a name is read that has not been set beforehand.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from electret.support.locks import Lock

__all__ = ["couplings_once", "mace_blocks", "mace_models", "mace_radial", "o3", "quiet", "torch_tools"]

_waiting: dict[str, Callable[[], None]] = {}
"""Code of the modules that are put off."""
_loading = Lock()


def _put_off(name: str, **names: Any) -> None:
    """Puts a module off; `names` are set, and equal those of the module."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)

    def read(attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__all__":  # those of any module are set already
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        with _loading, quiet():
            vars(module).pop("__getattr__", None)
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):  # packages before their modules
                _waiting.pop(".".join(parts[:depth]), _nothing)()
        return getattr(module, attribute)

    _waiting[name] = partial(spec.loader.exec_module, module)
    vars(module).update(names, __getattr__=read)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _nothing() -> None:
    pass


class _PackagesFirst:
    """Finder that runs a package that is put off before any module of it is imported, as Python does."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        for package in list(_waiting):
            if name.startswith(f"{package}.") and name not in _waiting:
                with _loading, quiet():
                    vars(sys.modules[package]).pop("__getattr__", None)
                    _waiting.pop(package, _nothing)()


def _set_names(package: str, *modules: str) -> list[Any]:
    """Imports modules of a package and sets their public names in it, as its own code would."""
    found = []
    for module in modules:
        # By import_module: `from package import module` would read a name of the package.
        found.append(importlib.import_module(f"{package}.{module}"))
        for name, value in vars(found[-1]).items():
            defined = str(getattr(value, "__module__", None)).startswith(found[-1].__name__)
            if defined and not name.startswith("_"):
                vars(sys.modules[package]).setdefault(name, value)
    return found


def _pycode(*arguments: Any, **options: Any) -> str:
    from sympy.printing.pycode import PythonCodePrinter

    return PythonCodePrinter(options).doprint(*arguments)


@contextlib.contextmanager
def couplings_once() -> Iterator[None]:
    """Computes the coupling coefficients that layers, orders and irreps of a MACE have in common once."""
    compute, found = couplings._wigner_nj, {}

    def once(irreps: Sequence[Any], *options: Any, **named: Any) -> list[tuple[Any, Any, torch.Tensor]]:
        key = str((list(irreps), options, named))
        if key not in found:
            found[key] = compute(irreps, *options, **named)
        return found[key]

    couplings._wigner_nj = once
    try:
        yield
    finally:
        couplings._wigner_nj = compute


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides the warnings of e3nn about TorchScript, which newer versions of PyTorch call deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="The TorchScript type system", category=UserWarning)
        # MACE sets this variable for the whole process, and so for those that it starts.
        warnings.filterwarnings("ignore", message="Environment variable TORCH_FORCE", category=UserWarning)
        yield


# e3nn 0.4.4 loads its constants with torch.load, which refuses them from torch 2.6 on without this.
torch.serialization.add_safe_globals([slice])

# MACE prints that cuEquivariance is missing; no model here uses it.
with quiet(), contextlib.redirect_stdout(io.StringIO()):
    import scipy  # noqa: F401

    _put_off("torch._dynamo")
    _put_off("scipy.constants", c=299792458.0, e=1.602176634e-19)
    _put_off("sympy")
    _put_off("sympy.printing")
    _put_off("sympy.printing.pycode", pycode=_pycode)
    _put_off("e3nn.o3")
    _set_names("e3nn.o3", "_rotation", "_wigner", "_irreps", "_tensor_product", "_spherical_harmonics")
    _set_names("e3nn.o3", "_reduce", "_linear", "_norm")
    _put_off("e3nn.io")
    _set_names("e3nn.io", "_cartesian_tensor")
    _put_off("e3nn.nn")
    _set_names("e3nn.nn", "_extract", "_activation", "_fc", "_gate")
    o3: Any = sys.modules["e3nn.o3"]

    import mace  # noqa: F401 (before its packages)

    _put_off("mace.tools")
    _put_off("mace.modules")
    torch_tools, couplings = _set_names("mace.tools", "torch_tools", "cg")
    mace_blocks, mace_models, mace_radial = _set_names("mace.modules", "blocks", "models", "radial")

sys.meta_path.insert(0, _PackagesFirst)  # type: ignore[arg-type]
