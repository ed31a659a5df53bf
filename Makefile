# Two commands for a newcomer: `make demo` and `make test`. Both build .venv first.
SHELL := bash
.SHELLFLAGS := -o pipefail -e -c
.DELETE_ON_ERROR:

PYTHON ?= python3
JOBS ?= 3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of this version comes before anything that depends on torch, or several GB of CUDA come along.
TORCH := torch==2.13.0

.PHONY: demo test test-all test-lowest fuzz bench bench-large evaluation rating sweep lint docs site neural clean
demo: $(VENV)/installed
	$(BIN)/python docs/demo.py

test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses $(JOBS)

# The long form: every way of writing killed at random moments, every division of the work, and what else takes long.
test-all: $(VENV)/installed
	DSELECT_LONG=1 $(BIN)/python -m pytest --numprocesses $(JOBS)

# The same tests with the oldest versions that pyproject.toml allows.
test-lowest: $(VENV)/lowest/installed
	$(VENV)/lowest/bin/python -m pytest --numprocesses $(JOBS)

$(VENV)/lowest/installed: pyproject.toml | $(VENV)/installed
	test -x $(VENV)/lowest/bin/python || $(PYTHON) -m venv $(VENV)/lowest
	$(VENV)/lowest/bin/pip install --quiet --disable-pip-version-check uv
	$(VENV)/lowest/bin/uv pip install --quiet --python $(VENV)/lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	touch $@

# So many seconds of invented input for the reader, the splicer and every loader of model files, each.
FUZZ := reader splicer dsir zipfit lm contrast bin cut kmeans rater mixture
SECONDS_EACH ?= 60
fuzz: $(VENV)/fuzz/installed
	for target in $(FUZZ); do $(VENV)/fuzz/bin/python tests/fuzz.py $$target -max_total_time=$(SECONDS_EACH); done

$(VENV)/fuzz/installed: pyproject.toml | $(VENV)/installed
	test -x $(VENV)/fuzz/bin/python || $(PYTHON) -m venv $(VENV)/fuzz
	$(VENV)/fuzz/bin/pip install --quiet --disable-pip-version-check --editable . atheris
	touch $@

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Speed and memory beside the floor and the official package, as ratios from one run; the table goes to docs/performance.md.
bench: $(VENV)/installed $(VENV)/official/installed
	$(BIN)/python tests/bench/run.py --official $(VENV)/official/bin/python --page docs/performance.md

# Time and memory over pools of 1 to 10 GB, which are made first: half an hour, and 15 GB in WORK.
WORK ?= /tmp
bench-large: $(VENV)/installed $(VENV)/ray/installed
	$(BIN)/python tests/bench/large.py --work $(WORK) --ray $(VENV)/ray/bin/python --page docs/performance.md --plot docs/memory.svg

$(VENV)/ray/installed: pyproject.toml | $(VENV)/installed
	test -x $(VENV)/ray/bin/python || $(PYTHON) -m venv $(VENV)/ray
	$(VENV)/ray/bin/pip install --quiet --disable-pip-version-check --editable '.[ray]'
	touch $@

# What is compared with stays out of the environment that dselect lives in.
$(VENV)/official/installed: | $(VENV)/installed
	$(PYTHON) -m venv $(VENV)/official
	$(VENV)/official/bin/pip install --quiet --disable-pip-version-check data-selection==1.0.3 'nltk<3.9' joblib zip-fit==1.0.9 brotli zstandard
	$(VENV)/official/bin/pip install --quiet --disable-pip-version-check kenlm==0.3.0 || echo 'bench: KenLM cannot be built here; its row is left out'
	touch $@

# Write each command's --help into its page; the tests check that this was done.
docs: $(VENV)/installed
	$(BIN)/python docs/generate.py

# The pages as a site, build/site/index.html.
site: $(VENV)/site/installed
	$(VENV)/site/bin/sphinx-build -q -W --keep-going -b html docs build/site

$(VENV)/site/installed: | $(VENV)/installed
	$(PYTHON) -m venv $(VENV)/site
	$(VENV)/site/bin/pip install --quiet --disable-pip-version-check 'sphinx>=8' 'myst-parser>=4' 'furo>=2024.8'
	touch $@

# Select for real targets and train small language models on each selection; the tables go to docs/evaluation.md.
# JUDGE=ngram takes minutes, transformer the better part of an hour; both leaves out the latter where torch is not there.
DATA ?= ../shared/data
JUDGE ?= both
evaluation: $(VENV)/installed
	$(BIN)/python docs/evaluation.py $(DATA) $(JUDGE)

# Learn raters from pairwise judgments and try them on texts they have not seen; the tables go to the page of qurating.
# SENTENCES=FOLDER names a model of sentence-transformers to try too, which needs `make neural`.
rating: $(VENV)/installed
	$(BIN)/python docs/rating.py $(DATA) $(SENTENCES)

# Methods by targets by budgets, as docs/sweeps.md has it: on the demo's text, or on what DATA names.
SWEEP := $(if $(filter file,$(origin DATA)),demo,real)
SWEEP_BUDGETS := $(if $(filter demo,$(SWEEP)),50kB 150kB,500kB 2MB)
sweep: $(VENV)/installed
	$(BIN)/python docs/sweep.py $(if $(filter real,$(SWEEP)),$(DATA))
	PATH=$(abspath $(BIN)):$$PATH $(MAKE) -C build/sweep/$(SWEEP) -f $(abspath docs/examples/sweep/Makefile) -j 2 --no-print-directory BUDGETS='$(SWEEP_BUDGETS)' all report

neural: $(VENV)/installed
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable '.[neural]'

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
