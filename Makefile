# What a person or CI runs. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help install demo test check format protos bench slow compat model-card clean

PYTHON ?= python3.11
BIN := .venv/bin
PACKAGES := client core server examples bench training tests
PIP_FLAGS := --quiet --disable-pip-version-check --constraint constraints.txt

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/installed  ## put everything into .venv

.venv/installed: pyproject.toml constraints.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install $(PIP_FLAGS) --requirement requirements-dev.txt --editable '.[server]'
	touch $@

.venv-protos/installed: requirements-protos.txt
	test -x .venv-protos/bin/python || $(PYTHON) -m venv .venv-protos
	.venv-protos/bin/pip install --quiet --disable-pip-version-check --requirement requirements-protos.txt
	touch $@

demo: install  ## erase a concept on the embedded model; leaves demo.png
	$(BIN)/python examples/demo.py

test: install  ## run the tests
	$(BIN)/pytest -m "not slow and not gpu" --cov --cov-report=term:skip-covered

slow: install  ## run the tests that take minutes: full-size Stable Diffusion 2, long runs
	$(BIN)/pytest -m "slow and not gpu"

check: install .venv-protos/installed  ## format, lint, types, stubs, protos, imports, container, manifests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/buf format --diff --exit-code protos
	./scripts/check-stubs.sh
	$(BIN)/hadolint Dockerfile
	./scripts/check-manifests.sh

format: install  ## format the code and the protos
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/buf format --write protos

protos: .venv-protos/installed  ## write client/unsee/v1 from protos/
	./scripts/write-stubs.sh client

compat: install  ## read adapters with the oldest transformers that is admitted, and the newest
	./scripts/check-compat.sh

bench: install  ## measure the default method's quality; hours
	$(BIN)/python -m bench.few_shot

model-card: install  ## measure models/emoji and compare with its card
	$(BIN)/python -m bench.model_card

clean:  ## remove what the targets made
	rm -rf .venv .venv-protos .venv-oldest dist demo.png .pytest_cache .mypy_cache .ruff_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
