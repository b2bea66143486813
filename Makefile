# Every target sets up what it needs in .venv; nothing outside this folder is touched.
# A set-up step runs again only when its inputs change: pyproject.toml for the dependencies, the Rust sources for the
# native module.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
# The build backend runs `maturin` by its name.
export PATH := $(abspath $(BIN)):$(PATH)
# uv installs several times as fast as pip, which takes over where uv does not get through; its cache is linked into the
# environment and takes no room of its own.
EDITABLE := --no-build-isolation --quiet --editable
UV := UV_CACHE_DIR=$(VENV)/.cache UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --python $(BIN)/python
install = { $(UV) $(EDITABLE) "$(1)" || $(BIN)/python -m pip install $(EDITABLE) "$(1)"; }

RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name '*.cu' -o -name '*.cuh' -o -name Cargo.toml)
# Processes of the Python tests, each of about 3 GB; one thread of PyTorch each is faster than one process with two.
TEST_JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile
# The instruction sets of the smallest processor, and what is tested with them too.
PORTABLE := ELECTRET_INSTRUCTIONS=portable ATEN_CPU_CAPABILITY=default
PORTABLE_TESTS := boundaries derivatives mesh neighbors response
# Both, so that crates have the features of the native module and are not compiled again.
CRATES := -p electret-core -p electret-py
CARGO_TEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo "nextest run" || echo "test")

.DEFAULT_GOAL := help
.PHONY: help build demo check test test-rust test-python fuzz lint bench docs wheel clean

help:  ## Show the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.10 or later, or set PYTHON=..."; exit 1; }
	@command -v cargo >/dev/null || { echo "cargo not found: install Rust 1.89 or later (https://rustup.rs)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel "maturin>=1.9,<2" uv
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dependencies: $(STAMPS)/venv pyproject.toml
	@echo "Installing the dependencies into $(VENV) (PyTorch is a download of some GB) and building the native module ..."
	@$(call install,.[dev])
	@touch $@

$(STAMPS)/native: $(STAMPS)/dependencies $(RUST_SOURCES)
	@echo "Building the native module ..."
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --skip-install
	@touch $@

$(STAMPS)/extra-%: $(STAMPS)/dependencies
	$(call install,.[$*])
	@touch $@

# The version that mace 0.3.16 runs with, beside the one of the peers.
$(STAMPS)/polar-peer: $(STAMPS)/dependencies
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/graph-longrange-0.4.0 graph-longrange==0.4.0
	@touch $@

# Without its own dependency vesin-torch, which electret does not call and which would replace PyTorch by an older
# one; TorchSim needs Python 3.11.
$(STAMPS)/torch-sim-peer: $(STAMPS)/dependencies
	if $(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 11))"; then \
	    $(BIN)/python -m pip install --quiet "h5py>=3.12" "tables>=3.10.2" "tqdm>=4.67" "vesin>=0.3.7" && \
	    $(BIN)/python -m pip install --quiet --no-deps "torch-sim-atomistic==0.3.0" "vesin-torch>=0.6"; fi
	@touch $@

build: $(STAMPS)/native  ## Set up .venv with the package and its native module

demo: build  ## Train a small model, run molecular dynamics in a field; plots and a table in demo_output/
	$(BIN)/electret demo --output demo_output

check: build  ## The fast tests, for work in progress: minutes; `make test` is the whole
	$(PYTEST) -m "not slow"

test: test-rust test-python  ## All tests: Rust, Python, docstring examples

test-rust: $(STAMPS)/venv
	cargo $(CARGO_TEST) --release $(CRATES)
	cargo test --release $(CRATES) --doc

test-python: build $(STAMPS)/extra-peers $(STAMPS)/polar-peer $(STAMPS)/extra-hosts $(STAMPS)/torch-sim-peer
	$(PYTEST)
	ELECTRET_EMULATED_ORDER=backward $(PYTEST) --device emulated @tests/on_devices.txt
	$(PORTABLE) $(PYTEST) $(PORTABLE_TESTS:%=tests/*/test_%.py)
	$(BIN)/python -m pytest --doctest-modules python/electret

MINUTES ?= 10
fuzz: build  ## Generated calls, configurations and files for MINUTES=10; none may abort, hang or end in a raw error
	cd tests && $(abspath $(BIN))/python -m fuzz --minutes $(MINUTES)

lint: build  ## Formatting, clippy, ruff, mypy, and the native stub against the built module
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/stubtest electret._native --mypy-config-file pyproject.toml

bench: build $(STAMPS)/extra-peers $(STAMPS)/extra-bench  ## Benchmarks against the peers, and the tables of targets
	cargo bench -p electret-benches
	$(BIN)/python benches/targets.py

docs: build $(STAMPS)/extra-docs  ## HTML documentation in site/
	$(BIN)/sphinx-build --fail-on-warning --keep-going -b html docs site

wheel: build $(STAMPS)/extra-wheel  ## abi3 manylinux2014 wheel and sdist in dist/, tried in an empty environment
	$(BIN)/maturin build --profile wheel --no-default-features --zig --compatibility manylinux2014 --out dist
	$(BIN)/maturin sdist --out dist
	$(BIN)/python tests/wheel_check.py dist

clean:  ## Remove .venv and everything built
	rm -rf $(VENV) dist site demo_output target .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python tests benches examples -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/electret/_native*.so
