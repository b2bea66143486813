"""Every CUDA kernel compiles with NVRTC for the oldest and the newest GPUs, which needs no GPU."""

import pytest

from electret import _native
from electret.cuda.package_folders import register_package_folders


def architectures() -> list[int]:
    """Every architecture that NVRTC compiles for."""
    register_package_folders()
    return _native.device_libraries()["architectures"]


@pytest.mark.parametrize("generation", ["sm_80", "newest"])
def test_every_module_compiles(generation):
    known = architectures()
    if not known:
        message = _native.device_libraries()["nvrtc"][2]
        pytest.skip(f"NO KERNEL WAS COMPILED FOR CUDA: {message}")
    architecture = known[-1] if generation == "newest" else int(generation[3:])
    assert architecture in known
    compiled = dict(_native.compile_kernels(architecture))
    files = {name.split()[0] for name in compiled}
    assert len(compiled) > 100
    assert {
        "real.cu",
        "reciprocal_structure.cu",
        "mesh_spread.cu",
        "mesh_gather.cu",
        "neighbors.cu",
        "site_terms.cu",
    } <= files
    assert min(compiled.values()) > 1000  # bytes of machine code


def test_an_unknown_architecture_is_named():
    if not architectures():
        pytest.skip("NVRTC was not found")
    with pytest.raises(_native.DeviceError, match="sm_12345"):
        _native.compile_kernels(12345)
