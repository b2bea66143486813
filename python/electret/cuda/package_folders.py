"""Folders of Python packages, for NVIDIA's libraries that come with PyTorch."""

from __future__ import annotations

import functools
import importlib.util
import site
import sys
import sysconfig
from pathlib import Path

from electret import _native

__all__ = ["package_folders", "register_package_folders"]


def package_folders() -> list[str]:
    """Folders that hold installed packages, that of PyTorch first."""
    found: list[Path] = []
    torch = importlib.util.find_spec("torch")
    if torch is not None and torch.origin is not None:
        found.append(Path(torch.origin).parent.parent)
    found += [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    found += [Path(folder) for folder in site.getsitepackages()]
    found.append(Path(site.getusersitepackages()))
    found += [Path(folder) for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]
    return [str(folder) for folder in dict.fromkeys(found) if folder.is_dir()]


@functools.cache
def register_package_folders() -> None:
    """Pass the folders to the native layer, once."""
    _native.add_package_folders(package_folders())
