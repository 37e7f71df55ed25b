# Self-documenting: `make` alone lists the targets.

VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help dev build test check-c check-root lint format dist wheels clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	python3 -m venv $(VENV)

dev: $(BIN)/python ## set up .venv with every tool and an editable install
	$(BIN)/pip install -e '.[dev]'

build: $(BIN)/python ## compile the extension again, warnings as errors
	CI=true $(BIN)/pip install --no-deps -e .

test: ## run the tests; what cannot run here is skipped with the reason
	$(BIN)/pytest

check-c: ## run the tests of the engine's C code
	$(BIN)/pytest tests/test_engine.py tests/test_abi.py tests/test_layers.py

check-root: ## run the tests as root; nothing may be skipped
	sudo VIRTDISK_REQUIRE=all $(BIN)/pytest

lint: ## style, types, layers, metadata, workflows
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/lint.sh

format: ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find src tests '(' -name '*.c' -o -name '*.h' ')' -print0 | xargs -0 -r $(BIN)/clang-format -i

dist: ## build sdist and wheel, and check them as PyPI would
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

wheels: ## build and test the wheels of this platform (needs Docker on Linux)
	$(BIN)/cibuildwheel --output-dir dist

clean: ## remove what was built
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -f virtdisk/_virtdisk*.so virtdisk/_virtdisk*.pyd virtdisk/virtdisk-server
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
