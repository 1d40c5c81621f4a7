# `make demo` and `make test` need python3 >= 3.11 with venv, nothing else; the first call installs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
export MPLBACKEND = Agg

.PHONY: setup demo test docs lint types clean
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON): older than 3.11; pass PYTHON=/path/to/python3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "$(PYTHON): has no venv; install it (Debian: apt-get install python3-venv)"; exit 1; }
	@echo 'installing into $(VENV): several GB with PyTorch, minutes without output'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/wsikd demo -o demo

# Without bytecode each of the hundreds of processes would compile the sources again.
test: $(STAMP) lint types
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

docs: $(STAMP)
	$(BIN)/python -c 'import myst_nb, pydata_sphinx_theme, sphinx_copybutton, sphinx_design' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo docs/_build/html/index.html

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

clean:
	rm -rf build dist docs/_build docs/measurements docs/_static/schemas *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
