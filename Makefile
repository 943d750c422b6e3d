# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint unit bench chaos simulate tools clean

help:             ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile
	@echo "  DEMO_SECONDS=90 ends the demo after so long; NAME=street runs one bench; STRICT=1 lets a skipped test fail"

demo: $(READY)    ## a street on this machine: lamps, cabinets, broker, centre
	@$(BIN)/python -m sim.demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

test: lint unit   ## everything that CI runs

lint: $(READY)    ## style, types, architecture
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(READY) tools
	STRICT=$(STRICT) $(BIN)/python -m pytest --cov --cov-report=term $(PYTEST)

bench: $(READY) tools  ## figures beside their references; NAME=street for one
	@$(BIN)/python -m tests.bench $(NAME)

chaos: $(READY) tools  ## kill and cut at random for two minutes, then count every reading; CHAOS_SECONDS, CHAOS_SEED
	@$(BIN)/python -m tests.chaos

simulate: $(READY)  ## simulated faults, the same for the same seed; SEEDS=1000, or SEED=123 for one of them again
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED) $(if $(TRACE),--trace) $(if $(MUTANT),--mutant $(MUTANT)),$(if $(SEEDS),--seeds $(SEEDS)))

tools:
	@scripts/tools

clean:            ## remove the environment and what was left behind
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage var dist

$(READY): pyproject.toml constraints.txt scripts/setup
	@scripts/setup $(VENV)
	@touch $(READY)
