# `make` lists the commands.
.DEFAULT_GOAL := help
.PHONY: help demo test bench lint thrift notebook clean lock

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */make \1 /' | awk '{printf "  %-5s %-9s", $$1, $$2; $$1=$$2=""; print $$0}'

.venv/.ready: requirements.lock setup.cfg
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	@touch $@
