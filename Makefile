# Each target sets up what it needs: a virtual environment from pip, in .venv.
# `make floors` does all of CI on the lowest versions that pyproject.toml states.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check docs floors integrations

demo: $(VENV)/examples.installed
	$(BIN)/python -m examples.gpt compare

# Tests that are about more than exact numbers: their programs are compiled quickly.
QUICK := $(wildcard tests/test_gpt_*.py) $(addprefix tests/test_,contract.py examples.py faults.py docs.py claims.py)

test: $(VENV)/test.installed
	QUICK_COMPILE=1 $(BIN)/python -m pytest -n auto $(QUICK)
	$(BIN)/python -m pytest -n auto $(QUICK:%=--ignore=%)

check: $(VENV)/dev.installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python
	PYTHONPATH=. $(BIN)/pyright --pythonpath $(BIN)/python --verifytypes optax_wsd --ignoreexternal

docs: $(VENV)/docs.installed
	$(BIN)/python -m sphinx --fail-on-warning --keep-going docs docs/_build

# Python 3.12 or newer, as MaxText needs it; NAMES="flax_nnx tunix" for some of them.
integrations: .venv-integrations/bin/uv
	PATH="$(CURDIR)/$(dir $<):$$PATH" $(PYTHON) -m integrations $(NAMES)

.venv-integrations/bin/uv:
	$(PYTHON) -m venv .venv-integrations
	.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check uv

floors:
	rm -rf $(VENV)-floors
	$(PYTHON) -m venv $(VENV)-floors
	grep -o '"[A-Za-z-]\+>=[0-9.]*' pyproject.toml | tr -d '"' | sed 's/>=/==/' > $(VENV)-floors/floors.txt
	PIP_CONSTRAINT=$(VENV)-floors/floors.txt $(MAKE) VENV=$(VENV)-floors check docs test

$(VENV)/%.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
