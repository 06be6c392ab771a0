# The developer's interface. `make` lists the targets. Everything lives in .venv; `make clean` takes it away.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# JupyterLab's sidebar, and where JupyterLab looks for it. Without npm there is none, and everything else works.
BUNDLE := xec_forward/labextension/package.json
LINK   := $(VENV)/share/jupyter/labextensions/xec_forward
# The tests run in so many processes, a file in one of them.
TESTERS := 2
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

# What the user's own Python settings say must not reach into the virtual environment.
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help demo lab test soak check format bench screenshots clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## run the quickstart notebook against a bastion, a cluster and a database of its own
	@exec $(BIN)/python -m xec_forward demo

lab: $(VENV)/.lab $(BUNDLE) $(LINK) ## open the quickstart notebook in JupyterLab, with the same bastion and database
	@exec $(BIN)/python -m xec_forward demo --lab $(LAB_OPTIONS)

test: $(VENV)/.dev $(BUNDLE) ## run every test, notebooks included
	@exec $(BIN)/python -m pytest -c pyproject.toml -n $(TESTERS) --dist loadfile --nbval --nbval-current-env --nbval-sanitize-with=notebooks/sanitize.cfg $(PYTEST_OPTIONS)

soak: $(VENV)/.dev ## run the faults and the port-forwards in full and show their figures (minutes; root, for network namespaces)
	@XEC_FORWARD_SOAK=1 exec $(BIN)/python -m pytest -s -o timeout=0 tests/interop/test_faults*.py tests/kubernetes/test_faults.py tests/kubernetes/test_port_forward.py tests/kubernetes/test_distance.py $(PYTEST_OPTIONS)

check: $(VENV)/.dev ## ruff (lint and format), mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.dev ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.dev $(VENV)/.peers ## measure speed and size against ssh -L, kubectl, kr8s and portforward
	@set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python -m benchmarks.$$(basename $$script .py); done

screenshots: $(VENV)/.dev $(BUNDLE) ## renew the pictures of docs/sidebar.md
	@XEC_FORWARD_SCREENSHOTS=docs/images exec $(BIN)/python -m pytest -q tests/browser/test_walk.py tests/browser/test_sidebar.py::test_light_and_dark

clean: ## remove the virtual environment, the built sidebar and every cache
	rm -rf labextension/node_modules labextension/lib labextension/core xec_forward/labextension
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis notebooks/.ipynb_checkpoints
	find xec_forward tests notebooks benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamp files: a target that is there and newer than pyproject.toml costs nothing. Each set contains the one before.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is %d.%d. Run: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'This Python cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@echo 'Making $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@# --group needs pip 25.1
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml
	@echo 'Installing what the demo needs (once; about a minute)'
	@$(PIP) install --editable '.[demo]'
	@touch $@

$(VENV)/.lab: $(VENV)/.demo pyproject.toml
	@echo 'Installing JupyterLab (once)'
	@$(PIP) install --editable '.[demo,lab]'
	@touch $@

$(VENV)/.dev: $(VENV)/.lab pyproject.toml
	@echo 'Installing what the tests need (once)'
	@$(PIP) install --editable '.[demo,lab,keyring]' --group dev
	@# The other line of ipykernel that is supported, for a kernel that has it on its path.
	@$(PIP) install --no-deps --upgrade --target $(VENV)/ipykernel-6 'ipykernel==6.31.*'
	@touch $@

# Whom bench_kubernetes compares with, in an environment of their own: one that cannot be had is left out, and named.
$(VENV)/.peers: $(VENV)/.python
	@echo 'Installing kr8s and portforward, to compare with (once)'
	@$(PYTHON) -m venv $(VENV)/peers
	@for each in kr8s portforward; do $(VENV)/peers/bin/python -m pip --disable-pip-version-check --quiet install $$each || true; done
	@touch $@

$(BUNDLE): $(wildcard labextension/*.json labextension/*.mjs labextension/src/*.ts labextension/style/*)
	@if ! command -v npm >/dev/null; then \
	    echo 'npm is not installed: JupyterLab opens without the sidebar' >&2; \
	else \
	    echo 'Building the JupyterLab sidebar (about a minute the first time)'; \
	    cd labextension && { [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --ignore-scripts --silent; } \
	        && npm run --silent build >/dev/null || echo 'The sidebar could not be built: JupyterLab opens without it' >&2; \
	fi

$(LINK): $(VENV)/.lab
	@mkdir -p $(@D)
	@ln -sfn $(CURDIR)/xec_forward/labextension $@
