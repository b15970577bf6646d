# make env   the environment in .venv, from Python 3.11+ and pip; with PYTHON=python3.12 one for that, in .venv-python3.12
# make demo  fit a VAE to digits and judge it
# make test  the fast lane of the tests, six minutes on two cores
# make test-slow  all others: conjugate grids, many seeds, NUTS, the README, the examples
# make bench how fast it is, here and against peers: docs/performance.md
# make docs  the documentation in docs/_build, without a network: half a minute
# make gallery  the pictures of the examples, anew: half an hour
# make check format, lint, types

PYTHON ?= $(shell for python in python3 python python3.11 python3.12 python3.13; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# a Python that is asked for has an environment of its own beside that of make env
VENV = .venv$(if $(filter command,$(firstword $(origin PYTHON))),-$(notdir $(PYTHON)))

# two workers, each with one thread of torch; what one has not begun, the other takes over
PYTEST = $(VENV)/bin/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: env demo test test-slow bench docs gallery check clean

env: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "pyro_vae needs Python 3.11 or later with venv; none was found; give one: make env PYTHON=/path/to/python"; exit 1; }
	@echo "making an environment in $(VENV): some minutes, mostly for PyTorch"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: env
	$(VENV)/bin/pyro-vae demo

test: env
	$(PYTEST) -m 'not slow'

test-slow: env
	$(PYTEST) -m slow

bench: env
	$(VENV)/bin/python benchmarks/page.py

docs: env
	$(VENV)/bin/python -m sphinx -W --keep-going -a -q docs docs/_build  # -a: their lists of pages too

gallery: env
	$(VENV)/bin/python docs/gallery.py

check: env
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean:
	rm -rf .venv .venv-* runs build dist docs/_build docs/gallery docs/look_up/written .pytest_cache .mypy_cache .ruff_cache .hypothesis
