# Everything sets itself up in .venv; PYTHON picks the interpreter, VENV the folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
READY := $(VENV)/.ready
# A quarter of the suite's time is waiting, so tests/conftest.py has one worker more than there are cores.
PARALLEL := -n auto --dist worksteal
# Otherwise each of hundreds of processes would compile again what none has kept.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help test check fix endurance conformance e2e bench demo docs proto clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

there_is_python = command -v $(PYTHON) >/dev/null || { \
	echo "There is no $(PYTHON) here. Name another one: make PYTHON=python3.13 …" >&2; exit 1; }

$(READY): pyproject.toml
	@$(there_is_python)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "devplugin needs Python 3.11 or later; this is $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.13 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "This Python has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) (once; it takes a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

ifneq ($(origin PYTHON),file)
# Somebody asks for an interpreter: what is there may be another one's.
$(READY): | same-python
.PHONY: same-python
same-python:
	@$(there_is_python)
	@[ ! -e $(READY) ] || [ "$$($(PY) --version)" = "$$($(PYTHON) --version)" ] || { \
		echo "$(VENV) has $$($(PY) --version), and not $$($(PYTHON) --version). Name another folder: make VENV=.venv-other …" >&2; exit 1; }
endif

test: $(READY) ## run the tests
	@$(PY) -m pytest $(PARALLEL)

check: $(READY) ## everything that must hold before a commit
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(MAKE) --no-print-directory -j 3 check-types check-layers check-docs
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q $(PARALLEL)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report

# What takes one core each, at once.
.PHONY: check-types check-layers check-docs
check-types:
	@$(BIN)/mypy
check-layers:
	@$(BIN)/lint-imports --no-logo
check-docs:
	@$(BIN)/sphinx-build -q -W --keep-going -n docs docs/_build/html

fix: $(READY) ## format, and mend what can be mended by itself
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

endurance: $(READY) ## a thousand kubelet restarts, two hundred kills: minutes
	@$(PY) -m pytest -m endurance tests/test_endurance.py

conformance: $(READY) ## the same cases on the fake kubelet and on five real device managers (needs Go)
	@tests/kubelets/build
	@$(PY) -m pytest -m "conformance or kubelets" -n 4 tests/kubelets tests/cdi tests/conformance

e2e: $(READY) ## the whole scenario on a real node, in namespaces (needs root and Go)
	@tests/e2e/run
	@$(PY) -m pytest -m e2e tests/e2e

bench: ## measure it beside other ways to write a device plugin (needs Go; half an hour)
	@PYTHON=$(PYTHON) benchmarks/run

demo: $(READY) ## play the whole scenario with the sample plugin on an embedded kubelet
	@$(PY) -m examples.sample_device.demo

docs: $(READY) ## build the documentation into docs/_build/html
	@$(BIN)/sphinx-build -q -W --keep-going -n docs docs/_build/html
	@echo "docs/_build/html/index.html"

proto: $(READY) ## generate the messages from the .proto files again
	@$(PY) tests/generate_proto.py devplugin/_proto
	@$(PY) tests/generate_proto.py devplugin/_podresources

clean: ## remove what make made
	@rm -rf $(VENV) docs/_build .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
