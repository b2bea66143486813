"""`electret info`: what is installed and found, and what a model file holds."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import electret
from electret import _native
from electret.cuda.package_folders import register_package_folders
from electret.support.console import PlainTable
from electret.support.cores import available_cores

__all__ = ["cuda_report", "device_report", "model_table", "system_table"]

_PACKAGES = ("numpy", "torch", "mace-torch", "e3nn", "ase", "pydantic", "safetensors", "schedulefree")
_CPU_FLAGS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "asimd", "sve")


def system_table() -> PlainTable:
    """Versions, threads, CPU features, CUDA."""
    table = PlainTable("electret", None)
    table.add_row("electret", electret.__version__)
    table.add_row("Python", f"{platform.python_version()} on {platform.platform()}")
    for package in _PACKAGES:
        table.add_row(package, _version(package))
    for name, value in (
        *_threads(),
        ("CPU features", ", ".join(_cpu_features()) or "unknown"),
        ("instructions", _instructions()),
        ("CUDA", cuda_report()),
        *device_report(),
    ):
        table.add_row(name, value)
    return table


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _threads() -> Iterator[tuple[str, str]]:
    chosen = os.environ.get("RAYON_NUM_THREADS")
    every = f"{available_cores()} (all cores available)"
    yield "Rust threads", f"{chosen} (RAYON_NUM_THREADS)" if chosen else every
    if importlib.util.find_spec("torch") is not None:
        import torch

        yield "torch threads", str(torch.get_num_threads())


def _cpu_features() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return [platform.machine()]
    flags = next(
        (line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), []
    )
    return [platform.machine(), *(flag for flag in _CPU_FLAGS if flag in flags)]


def _instructions() -> str:
    """The instruction set of the native loops, and where it comes from."""
    variable = "ELECTRET_INSTRUCTIONS"
    return f"{_native.INSTRUCTIONS} ({variable if os.environ.get(variable) else 'best of this machine'})"


def cuda_report() -> str:
    """The CUDA devices that torch finds, or why it finds none."""
    if importlib.util.find_spec("torch") is None:
        return "not looked for: torch is not installed"
    import torch

    if torch.version.cuda is None:
        return f"none: torch {torch.__version__} is a build without CUDA"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"CUDA {torch.version.cuda}: {', '.join(names)}"
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError as error:
        return (
            f"none: torch is built for CUDA {torch.version.cuda}, but the driver cannot be loaded ({error})"
        )
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return f"none: CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} hides every device"
    return f"none: the driver is there, but torch (CUDA {torch.version.cuda}) finds no device it can use"


def device_report() -> Iterator[tuple[str, str]]:
    """Driver, devices, compiler, FFT and folder of compiled kernels that electret's own kernels use."""
    register_package_folders()
    try:
        count = _native.device_count()
    except _native.DeviceError as error:
        yield "GPU", f"none: {error}"
        count = 0
    for index in range(count):
        try:
            found = _native.device_properties(index)
        except _native.DeviceError as error:
            yield f"GPU {index}", f"cannot be used: {error}"
            continue
        yield (
            f"GPU {index}",
            f"{found['name']}, sm_{found['architecture']}, {found['multiprocessors']} multiprocessors, "
            f"{found['memory'] / 2**30:.1f} GiB, driver for CUDA {_cuda_version(found['driver'])}",
        )
    libraries = _native.device_libraries()
    path, version, message = libraries["nvrtc"]
    targets = libraries["architectures"]
    if path is None:
        yield "NVRTC", f"not found: {message}"
    else:
        known = f", compiles for sm_{min(targets)} to sm_{max(targets)}" if targets else ""
        yield "NVRTC", f"{_version_text(version)} at {path}{known}"
    path, message = libraries["cufft"]
    yield "cuFFT", f"not found: {message}" if path is None else str(path)
    cache = libraries["cache"]
    yield "kernel cache", "none: there is no home folder" if cache is None else str(cache)


def _cuda_version(number: int) -> str:
    """As 13.0 of 13000."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _version_text(version: object) -> str:
    return ".".join(map(str, version)) if isinstance(version, (tuple, list)) else str(version)


def model_table(path: Path) -> PlainTable:
    """Family, options, elements and training of a model file, from its header alone."""
    from ase.data import chemical_symbols

    from electret.models.config import ModelConfig
    from electret.models.header import read_header

    header = read_header(path)
    config, found = ModelConfig.parse(header["config"]), header["statistics"]
    table = PlainTable(str(path), None)
    table.add_row("family", config.family)
    if "n_parameters" in header:
        table.add_row("parameters", str(header["n_parameters"]))
    table.add_row("dtype", config.backbone.dtype)
    table.add_row("cutoff", f"{config.backbone.r_max:g} Å")
    table.add_row(
        "elements",
        ", ".join(f"{chemical_symbols[z]} (E0 {found['e0s'][str(z)]:.4f} eV)" for z in found["elements"]),
    )
    table.add_row("shift, scale", f"{found['mean']:.6g} eV, {found['scale']:.6g} eV")
    table.add_row("backbone", _options(config.backbone.model_dump(exclude_defaults=True)))
    if config.description.electrostatics != "none":
        table.add_row("electrostatics", _options(config.electrostatics.model_dump()))
    shown = {"family", "backbone", "electrostatics", "scf"}
    for name, value in config.model_dump(exclude_defaults=True, exclude=shown).items():
        table.add_row(name, _options(value) if isinstance(value, dict) else str(value))
    if config.description.self_consistent:
        table.add_row("scf", _options(config.scf.model_dump()))
    table.add_row("written by", _options(header["versions"], " "))
    for name, value in header["metadata"].items():
        table.add_row(name, _shown(value))
    return table


def _options(options: dict[str, object], between: str = "=") -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in options.items()) or "defaults"


def _shown(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    lines = []
    for name, errors in value.items():
        if isinstance(errors, dict):
            parts = [f"{key} MAE {entry['mae']:.4g}" for key, entry in errors.items() if "mae" in entry]
            lines.append(f"{name}: {', '.join(parts)}")
        else:
            lines.append(f"{name}: {errors}")
    return "\n".join(lines)
