# make env   the environment in .venv, from Python 3.11+ and pip
# make demo  fit a VAE to digits and judge it
# make test  the fast lane of the tests, six minutes on two cores
# make test-slow  all others: conjugate grids, many seeds, NUTS, the README, the examples
# make bench how fast it is, here and against peers: docs/performance.md
# make docs  the documentation in docs/_build, without a network: half a minute
# make gallery  the pictures of the examples, anew: half an hour
# make check format, lint, types

PYTHON ?= $(shell for python in python3 python python3.11 python3.12 python3.13; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# two workers, each with one thread of torch; what one has not begun, the other takes over
PYTEST = .venv/bin/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: env demo test test-slow bench docs gallery check clean

env: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "pyro_vae needs Python 3.11 or later with venv; none was found; give one: make env PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: env
	.venv/bin/pyro-vae demo

test: env
	$(PYTEST) -m 'not slow'

test-slow: env
	$(PYTEST) -m slow

bench: env
	.venv/bin/python benchmarks/page.py

docs: env
	.venv/bin/python -m sphinx -W --keep-going -q docs docs/_build

gallery: env
	.venv/bin/python docs/gallery.py

check: env
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

clean:
	rm -rf .venv runs build dist docs/_build docs/gallery docs/look_up/written .pytest_cache .mypy_cache .ruff_cache .hypothesis
