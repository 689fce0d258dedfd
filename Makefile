# What a person or CI runs. `make help` lists it.
.DEFAULT_GOAL := help
.PHONY: help install demo test check format protos bench bench-speed bench-gpu slow compat model-card clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/installed  ## put everything into .venv

.venv/installed: pyproject.toml constraints.txt requirements-dev.txt
	@echo "installing into .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt --requirement requirements-dev.txt --editable '.[server]'
	@touch $@

.venv-protos/installed: requirements-protos.txt
	@echo "installing the stubs' generator into .venv-protos"
	@test -x .venv-protos/bin/python || $(PYTHON) -m venv .venv-protos
	@.venv-protos/bin/python $(PIP_INSTALL) --requirement requirements-protos.txt
	@touch $@

.venv-oldest/installed: pyproject.toml constraints.txt constraints-oldest.txt requirements-dev.txt
	@echo "installing the oldest libraries that pyproject.toml admits into .venv-oldest"
	@test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python $(PIP_INSTALL) --constraint constraints-oldest.txt --requirement requirements-dev.txt \
		--editable '.[server]'
	@touch $@

demo: install  ## erase a concept on the embedded model; leaves demo.png
	$(BIN)/python examples/demo.py

test: install  ## run the tests
	$(BIN)/pytest -m "not slow and not gpu" --cov --cov-report=term:skip-covered

slow: install  ## run the tests that take minutes: full-size Stable Diffusion 2, long runs
	$(BIN)/pytest -m "slow and not gpu"

compat: .venv-oldest/installed  ## run the tests of core and adapters with the oldest transformers, diffusers and peft that are admitted
	.venv-oldest/bin/python -m pytest -m "not slow and not gpu" -W default tests/core tests/compat

check: install .venv-protos/installed  ## format, lint, types, stubs, protos, imports, container, manifests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy examples scripts
	$(BIN)/lint-imports
	./scripts/check-protos.sh
	$(BIN)/hadolint Dockerfile
	./scripts/check-manifests.sh

format: install  ## format the code and the protos
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/buf format --write protos

protos: .venv-protos/installed  ## write client/unsee/v1 from protos/
	./scripts/write-stubs.sh client

bench: install  ## measure the quality on all held-out concepts, beside the baselines'; hours
	$(BIN)/python -m bench.quality --budget standard

bench-speed: install  ## measure every method's seconds beside the baselines'
	$(BIN)/python -m bench.steps_curve
	$(BIN)/python -m bench.speed

bench-gpu: install  ## measure full-size Stable Diffusion 2, random weights, on a GPU where there is one
	$(BIN)/python -m bench.full_size

model-card: install  ## measure models/emoji and compare with its card
	$(BIN)/python -m bench.model_card

clean:  ## remove what the targets made
	rm -rf .venv .venv-protos .venv-oldest dist demo.png .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
