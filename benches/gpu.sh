#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one call from the root of the repository: builds, runs every test on the
# device, checks memory accesses, and writes the benchmarks to benches/results/gpu.{json,md}.
#
#     benches/gpu.sh [devices, as in CUDA_VISIBLE_DEVICES]
#
# All may be used if none are named: tests of several run where there are several, the rest on the first. What cannot
# run is told at the end. ELECTRET_PYTHON names a Python that has electret and its extras already; then nothing is
# installed and the Rust tests run only where cargo is found.
set -u
cd "$(dirname "$0")/.."
[ "$#" -gt 0 ] && export CUDA_VISIBLE_DEVICES="$1"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || {
    echo "nvidia-smi finds no GPU: nothing was tested" >&2
    exit 2
}
if [ -z "${ELECTRET_PYTHON:-}" ]; then
    make build .venv/.stamps/extra-peers .venv/.stamps/extra-bench || exit 1
    ELECTRET_PYTHON=.venv/bin/python
fi
python="$ELECTRET_PYTHON"
failed=()

step() { # name, command ...
    local name="$1"
    shift
    echo "== $name"
    "$@" || failed+=("$name")
}

ELECTRET_SITE_PACKAGES="$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
export ELECTRET_SITE_PACKAGES
if command -v cargo >/dev/null; then
    step "Rust tests on the device" env ELECTRET_TEST_DEVICE=0 cargo test --release -p electret-core --test main cuda::
    if command -v compute-sanitizer >/dev/null; then
        binary="$(cargo test --release -p electret-core --test main --no-run 2>&1 | sed -n 's/.*(\(.*\))$/\1/p' | tail -1)"
        for tool in memcheck racecheck synccheck; do
            step "compute-sanitizer $tool" env ELECTRET_TEST_DEVICE=0 \
                compute-sanitizer --tool "$tool" --error-exitcode 1 "$binary" cuda:: --test-threads=1
        done
    else
        failed+=("compute-sanitizer was not found")
    fi
else
    failed+=("cargo was not found, so no Rust test ran on the device")
fi
step "Python tests that want a device" "$python" -m pytest -m gpu
step "the numpy layer's tests on the device" "$python" -m pytest --device cuda @tests/on_devices.txt
step "benchmarks" "$python" benches/gpu.py --output benches/results

if [ "${#failed[@]}" -gt 0 ]; then
    printf 'NOT PASSED: %s\n' "${failed[@]}" >&2
    exit 1
fi
echo "all passed; benches/results/gpu.md has the numbers"
