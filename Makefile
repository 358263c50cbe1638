# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
export RAY_USAGE_STATS_ENABLED := 0
# a process that may not keep its bytecode compiles everything again: tests and demo start hundreds
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all fuzz lint bench docs hashes sbom audit clean

demo: .venv/ready
	$(BIN)/raycadian demo

test: .venv/ready
	$(BIN)/python -m pytest -m "not ray and not long"
	$(BIN)/python -m pytest -m "ray and not long"

# faults of clusters against the clock: what fails on a busy machine has a second try, alone, and both are shown
test-all: test
	$(BIN)/python -m pytest -m long || $(BIN)/python -m pytest -m long --last-failed --last-failed-no-failures none

# mutated bytes of every format; what gives neither a value nor a ValueError that names the file is kept in fuzz-findings/
FUZZ_MINUTES ?= 20
fuzz: .venv/ready
	FUZZ_MINUTES=$(FUZZ_MINUTES) PYTHONPATH=tests:tests/modalities $(BIN)/python tests/fuzz/fuzzing.py
	FUZZ_EXAMPLES=500 $(BIN)/python -m pytest tests/fuzz/test_truth.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/ready
	$(BIN)/python benchmarks/all.py

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# the archive of every package by its SHA-256: `pip install --no-deps --require-hashes -r constraints-hashed.txt`
hashes: .venv/ready
	$(BIN)/python deploy/hashes.py

# what .venv holds, as CycloneDX
sbom: .venv/ready .tools/ready
	mkdir -p dist
	.tools/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.json

# known vulnerabilities of what constraints.txt names; fails where they can't be looked up
audit: .tools/ready
	.tools/bin/python deploy/audit.py constraints.txt

.tools/ready: Makefile
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet cyclonedx-bom==7.5.0 pip-audit==2.10.1
	touch $@

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[sim,dev]'
	touch $@

clean:
	rm -rf .venv .bench-venv .tools
