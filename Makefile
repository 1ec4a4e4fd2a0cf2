# On a fresh Debian or Ubuntu, `make demo` and `make test` are all there is to know.

.DEFAULT_GOAL := help
.PHONY: help demo test lint check coverage bench image-check install clean packages-demo packages-test packages-bench
SHELL := /bin/bash
export PATH := $(PATH):/usr/sbin:/sbin

BIN := .venv/bin
PURE := values wire crypto queueing proto
SUITES := $(wildcard $(addprefix tests/,vectors unit sim mesh attacks netns))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: .venv/.runs ## three sites in network namespaces join one mesh, before your eyes
	@$(BIN)/meshnode demo

test: lint check ## everything that CI runs

lint: .venv/.tests ## style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: .venv/.tests ## the test suites, cheapest first
	$(BIN)/pytest $(SUITES)

coverage: .venv/.tests ## branch coverage of the pure layers by their unit tests
	$(BIN)/pytest -q tests/unit tests/vectors $(PURE:%=--cov=meshnode.%) --cov-branch --cov-report=term-missing:skip-covered

bench: .venv/.tests ## against every other VPN that is installed here, into docs/benchmarks.md (root)
	-@$(MAKE) --no-print-directory packages-bench
	$(BIN)/python -m tests.bench $(BENCH)

image-check: .venv/.tests ## the container image in a plain root file system, without an engine (root)
	$(BIN)/python -m tests.image.check

install: ## meshnode for this machine, in /opt/meshnode and /usr/local/bin (root)
	$$(.ci/packages install) -m venv /opt/meshnode
	/opt/meshnode/bin/pip install -q --disable-pip-version-check .
	ln -sf /opt/meshnode/bin/meshnode /usr/local/bin/meshnode

clean: ## remove what make has built
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: .runs has the package installed, .tests its development tools too. Both follow pyproject.toml.

.venv/.runs: pyproject.toml | packages-demo
	$(call install,demo,.)

.venv/.tests: pyproject.toml | packages-test
	$(call install,test,.[dev])
	@touch .venv/.runs

packages-demo packages-test packages-bench: packages-%:
	@.ci/packages $* >/dev/null

define install
@$(BIN)/pip --version >/dev/null 2>&1 || $$(.ci/packages $(1)) -m venv --clear .venv
$(BIN)/pip install -q --disable-pip-version-check -e '$(2)'
@touch $@
endef
