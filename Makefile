# make env   the environment in .venv, from Python 3.11+ and pip
# make demo  fit a VAE to digits and judge it
# make test  the tests
# make check format, lint, types

PYTHON ?= $(shell for python in python3 python python3.11 python3.12 python3.13; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: env demo test check clean

env: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "pyro_vae needs Python 3.11 or later with venv; none was found; give one: make env PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: env
	.venv/bin/pyro-vae demo

test: env
	.venv/bin/python -m pytest

check: env
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

clean:
	rm -rf .venv runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
