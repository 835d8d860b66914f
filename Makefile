# `make demo` and `make test` need nothing but Python 3.11 to 3.13 and a network that reaches a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Steps into one environment: what densecast needs, and its own kernels, for `make demo`; then what its development needs.
USE_STAMP := $(VENV)/.installed-for-use
STAMP := $(VENV)/.installed
NATIVE := pipeline/engines/native/extension
NATIVE_STAMP := $(VENV)/.installed-native
NATIVE_FILES := $(wildcard $(NATIVE)/src/*) $(NATIVE)/CMakeLists.txt $(NATIVE)/pyproject.toml
# Two processes: TensorFlow tests leave a core idle now and then, and the two of a small machine are enough for both.
# Each keeps the tests of a file together, as far as it can, so that what a file prepares is prepared once.
PYTEST_ARGS ?= --numprocesses 2 --dist worksteal
export TF_CPP_MIN_LOG_LEVEL ?= 2
# pip compiles nothing here (below), so a process that kept no bytecode would compile all that it imports, every time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: sanitize help demo test test-large test-cluster test-runners lint format types docs package coverage bench clean

help:
	@echo "make demo    install densecast in .venv; convert, score and report on what the project ships"
	@echo "make test    run the tests                make test-large  those that take over 30 seconds each"
	@echo "make test-cluster  the tests on Flink and on an object store; make test-runners  on Prism and Spark: both install them"
	@echo "make lint    ruff: format and rules, codespell, TOML      make format  apply ruff's"
	@echo "make types   mypy: strict, but for tests"
	@echo "make docs    builds docs/ as a site in build/docs; warnings are errors"
	@echo "make package  builds sdist and wheel, and runs the demo from the wheel in an empty environment"
	@echo "make coverage  the tests, and which lines they ran: build/coverage/index.html"
	@echo "make sanitize  the native engine's kernels under sanitizers"
	@echo "make bench   speed, as ratios measured side by side"
	@echo "make clean   remove .venv and what the demo wrote"

# Without --no-compile, pip compiles all of TensorFlow and Beam, of which little is imported.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

$(USE_STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[cpu]'
	touch $@

# densecast's own kernels. Without a compiler densecast goes on: other engines run the nets. `make CXX=none` leaves them out.
$(NATIVE_STAMP): $(USE_STAMP) $(NATIVE_FILES)
	@if command -v "$(firstword $(CXX))" >/dev/null; then \
		echo "building densecast's own kernels"; \
		CXX="$(CXX)" $(PIP) --force-reinstall --no-deps ./$(NATIVE); \
	else \
		echo "no C++ compiler ($(CXX)): densecast goes on without its own kernels; other engines run the nets"; \
	fi
	touch $@

$(STAMP): $(USE_STAMP) $(NATIVE_STAMP)
	$(PIP) --editable '.[cpu,openvino,notebook,bench,docs,dev]'
	touch $@

demo: $(USE_STAMP) $(NATIVE_STAMP)
	$(BIN)/densecast demo --output demo-output

# tests/cluster takes the whole machine, and servers that `make test` does not install.
test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS) --ignore tests/cluster -m "not large"

# Exit status 5: no test is large.
test-large: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS) --ignore tests/cluster -m large || test $$? = 5

# Apart from `make test`, since it is slower; the figure is for people, no limit is held.
coverage: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS) --ignore tests/cluster \
		--cov --cov-report=term:skip-covered --cov-report=html:build/coverage

CLUSTER_TEST := DENSECAST_CLUSTER_TOOLS=required $(BIN)/python -m pytest

test-cluster: $(STAMP)
	infra/flink/cluster install
	infra/s3/server build
	$(CLUSTER_TEST) tests/cluster/test_object_storage.py tests/cluster/test_flink.py

test-runners: $(STAMP)
	infra/prism/install
	infra/spark/install
	$(CLUSTER_TEST) tests/cluster/test_runners.py

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/check-toml $(wildcard pyproject.toml infra/*/*.toml)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP)
	$(BIN)/mypy

# A fresh environment each time: no page of an earlier build stays, and every warning is seen.
docs: $(STAMP)
	$(BIN)/python -m sphinx --fresh-env --write-all --fail-on-warning --keep-going --quiet docs build/docs

package: $(STAMP)
	.ci/package

# Needs a C++ compiler, CMake and Ninja.
sanitize: $(STAMP)
	$(PIP) nanobind==3.1.0
	$(NATIVE)/sanitize $(BIN)/python

bench: $(STAMP)
	tests/benchmarks/install
	tests/benchmarks/install-pipelines
	$(BIN)/python -m tests.benchmarks --json build/bench --plot build/bench/ruler.svg

clean:
	rm -rf $(VENV) demo-output build
