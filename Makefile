# Suri. `make` prints what there is; every target starts from nothing.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
CONFIG ?= configs/demo.yaml
ARGS ?=
PYTHON ?= python3
PIP_ARGS ?=

PY := .venv/bin/python
READY := .venv/.ready
DEMO := .cache/demo/SmolLM2-135M-Instruct.Q4_1.gguf
# The demo's base is fetched only for configs that name it.
BASE = $(shell grep -qs "$(DEMO)" "$(CONFIG)" <<< '' && echo $(DEMO))
RUN = $(PY) -m scripts.$@ --config $(CONFIG) $(ARGS)

.PHONY: help data train export preview plan chat test check clean
help:
	@echo 'make export    data -> tokens -> train -> merged checkpoint (the demo, or CONFIG=configs/NAME.yaml)'
	@echo 'make data      read, check, split and tokenise the data'
	@echo 'make train     train the adapter; goes on from the newest checkpoint'
	@echo 'make preview   five encoded rows, with what carries loss in green'
	@echo 'make plan      rows, tokens, steps, trained parameters and memory of a config'
	@echo 'make chat      talk to the exported checkpoint'
	@echo 'make test      the test suite        make check   lint, format, types'
	@echo 'make clean     remove runs/ and .cache/'
	@echo
	@echo 'One value only: make train ARGS="train.lr=1e-4 data.val=500".  Another disk: RUNS=/big/runs.'

data train export preview plan chat: $(READY) $(BASE)
	@$(RUN)

test: $(READY)
	@$(PY) -m pytest $(ARGS)

check: $(READY)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

# A venv without its mark was interrupted half-way: it is made anew.
$(READY): pyproject.toml constraints.txt
	@test -e $(READY) || rm -rf .venv
	@rm -f $(READY)
	@echo 'setup: installing pinned dependencies into .venv (once)'
	@$(PYTHON) scripts/setup_venv.py $(PIP_ARGS)
	@touch $(READY)

$(DEMO): $(READY)
	@$(PY) -m scripts.fetch_demo $(DEMO)

clean:
	rm -rf runs .cache
