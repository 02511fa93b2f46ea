# Each target works on a fresh clone: it makes .venv and installs what it needs, once per change of pyproject.toml or constraints.txt.
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e
PINNED := pyproject.toml constraints.txt
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3 python)

.DELETE_ON_ERROR:
.PHONY: help demo test check bench lint clean

help:
	@echo "make demo    train on bundled data, print the scores, leave demo-run/"
	@echo "make test    every check and test"
	@echo "make check   the fast ones: format, lint, types, import contract, quick tests"
	@echo "make bench   every benchmark"
	@echo "make clean   remove caches and demo-run/, keep .venv"

demo: .venv/.core
	rm -rf demo-run
	$(BIN)/polytask demo --out demo-run

test: lint
	$(BIN)/pytest -n auto --dist worksteal

check: lint
	$(BIN)/pytest -n auto --dist worksteal -m "not slow"

lint: .venv/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports

bench: .venv/.bench
	@set -e; for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python -m "benchmarks.$$(basename "$$file" .py)"; done

clean:
	rm -rf demo-run build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.core: $(PINNED) | $(BIN)/python
	$(INSTALL) .
	@touch $@

.venv/.bench: $(PINNED) | $(BIN)/python
	$(INSTALL) '.[bench]'
	@touch .venv/.core $@

.venv/.test: $(PINNED) | $(BIN)/python
	$(INSTALL) '.[test]'
	@touch .venv/.core .venv/.bench $@

$(BIN)/python:
	@for python in $(CANDIDATES); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "making .venv with $$python"; exec "$$python" -m venv .venv; \
		fi; \
	done; \
	echo "polytask needs Python 3.11 or newer; none of these is: $(CANDIDATES)." >&2; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	exit 1
