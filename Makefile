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
RUN = $(PY) -m scripts.$@ --config="$$CONFIG" $(ARGS)

A ?=
B ?=
DATA ?=
TOKENIZER ?=
CASES ?=
# Tests of `make test`: those that need no extra and are quick. `make test-all` adds the others.
CORE := not (slow or report or ray or browser or eval or judge or notebook)
# Of the adapter store.
ADAPTER ?=
SHOW ?=
REMOVE ?=
MEASURE ?=
COMBINE ?=
HOW ?= cat
RANK ?= 0
DENSITY ?= 0.2
REPLACE ?=
YES ?=
# Paths and names reach the shell as environment variables, never as text of a command, so they may hold spaces, quotes.
export CONFIG A B DATA TOKENIZER ADAPTER SHOW REMOVE MEASURE COMBINE HOW RANK DENSITY
STORE = $(PY) -m scripts.adapters
# Compiled files are kept: without them every import of transformers takes 16 seconds instead of 5.
unexport PYTHONDONTWRITEBYTECODE
.NOTPARALLEL:

.PHONY: help demo-base data train export report verify eval preview plan chat keep adapters ask compare judge methods forgetting curves data-diff bench profile test test-all check clean clean-runs
help:
	@echo 'make export    data -> tokens -> train -> merged checkpoint (the demo, or CONFIG=configs/NAME.yaml)'
	@echo 'make data      read, clean, compare, split and tokenise the data; a report to look at'
	@echo 'make data-diff A=run1 B=run2    what changed between two builds of the data'
	@echo 'make train     train the adapter; goes on from the newest checkpoint'
	@echo 'make report    one HTML page of all that the run has so far, to be forwarded; it makes no other part'
	@echo 'make verify    hash the run folder, its data, base and templates anew: has anything changed?'
	@echo 'make preview   five encoded rows, with what carries loss in green'
	@echo 'make plan      rows, tokens, steps, trained parameters and memory of a config'
	@echo 'make eval      base against tuned: held-out rows, benchmarks, forgetting, each with its error (docs/evaluation.md)'
	@echo 'make chat      talk to the exported checkpoint; ADAPTER=name: to the base with that adapter of the store'
	@echo 'make keep ADAPTER=name          put the run'"'"'s adapter into the store, adapters/name (many tasks, one base)'
	@echo 'make adapters                   list the store; SHOW=name, REMOVE=name, MEASURE=name (on the run'"'"'s held-out rows)'
	@echo 'make adapters COMBINE="a=0.7 b=0.3" ADAPTER=both   a weighted sum of LoRAs; HOW=cat, svd, ties or dare'
	@echo 'make ask < questions.txt        several adapters answer in one batch; a line is "name: question"'
	@echo 'make compare   base and tuned model side by side on question sets: a page to vote on, files for AlpacaEval'
	@echo 'make judge     a model behind an OpenAI-compatible address votes: ARGS="judge.model=NAME judge.base_url=http://..."'
	@echo 'make bench DATA=alpaca_data.json TOKENIZER=folder    training speed on this GPU, beside Hugging Face'
	@echo 'make profile DATA=... TOKENIZER=... CASES=shared     its largest kernels, and a trace'
	@echo 'make methods       every way to adapt a model on one config, in one table (half an hour)'
	@echo 'make forgetting    what rehearsal, L2-SP and EWC buy against forgetting, with LoRA and with all weights (over half an hour)'
	@echo 'make curves DATA=alpaca_data.json   loss curves beside those of Hugging Face'"'"'s Trainer, three seeds each'
	@echo 'make test      the core of the tests, in about a minute        make check   lint, format, types'
	@echo 'make test-all  every test, with what the extras add (Ray, a browser, benchmarks, a judge)'
	@echo 'make clean     remove caches and what killed commands left half-written'
	@echo 'make clean-runs      what is in runs/, with sizes; YES=1 removes it'
	@echo
	@echo 'One value only: make train ARGS="train.lr=1e-4 data.val=500".  Another disk: RUNS=/big/runs.'

data: .venv/.report
judge: .venv/.judge
data train export report verify preview plan ask compare judge: $(READY) demo-base
	@$(RUN)

methods forgetting: $(READY) demo-base
	@$(PY) -m scripts.benchmarks.$@ --config="$$CONFIG" $(ARGS)

eval: .venv/.eval demo-base
	@$(RUN)

chat: $(READY) demo-base
	@$(RUN) $${ADAPTER:+"chat.adapter=$$ADAPTER"}

keep: $(READY) demo-base
	@$(STORE) keep --config="$$CONFIG" $(if $(REPLACE),--replace) -- "$$ADAPTER" $(ARGS)

adapters: $(READY) $(if $(MEASURE),demo-base)
	@if [ -n "$$SHOW" ]; then $(STORE) show -- "$$SHOW"; \
	elif [ -n "$$REMOVE" ]; then $(STORE) remove -- "$$REMOVE"; \
	elif [ -n "$$MEASURE" ]; then $(STORE) measure --config="$$CONFIG" -- "$$MEASURE" $(ARGS); \
	elif [ -n "$$COMBINE" ]; then set -f; $(STORE) combine --how "$$HOW" --rank "$$RANK" --density "$$DENSITY" \
	  $(if $(REPLACE),--replace) -- "$$ADAPTER" $$COMBINE; \
	else $(STORE) list; fi

data-diff: $(READY)
	@$(PY) -m scripts.data_diff "$$A" "$$B"

curves: $(READY) $(DEMO)
	@$(PY) -m scripts.benchmarks.curves "$$DATA" $(ARGS)

# DATA: instruction data in Alpaca form. TOKENIZER: a folder with tokenizer.model.
bench profile: $(READY)
	@$(PY) -m scripts.benchmarks.bench_train "$$DATA" "$$TOKENIZER" $(if $(filter profile,$@),--profile) $(CASES)

test: $(READY)
	@$(PY) -m pytest -m "$(CORE)" $(ARGS)

test-all: .venv/.report .venv/.ray .venv/.browser .venv/.eval .venv/.judge .venv/.notebook demo-base
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
	@$(PYTHON) scripts/setup_venv.py dev $(PIP_ARGS)
	@touch $(READY)

# Extras that only some commands need.
.venv/.report .venv/.ray .venv/.browser .venv/.eval .venv/.judge .venv/.notebook: .venv/.%: $(READY)
	@echo 'setup: installing the extra $* (once)'
	@$(PYTHON) scripts/setup_venv.py $* $(PIP_ARGS)
	@test $* != report || $(PY) -m scripts.fetch_grammar || echo 'without it the report has no English verb chart'
	@touch $@

$(DEMO): $(READY)
	@$(PY) -m scripts.fetch_demo $(DEMO)

# The demo's base is fetched only for configs that name it.
demo-base: $(READY)
	@if test ! -e $(DEMO) && grep -qsF $(DEMO) -- "$$CONFIG" < /dev/null; then $(PY) -m scripts.fetch_demo $(DEMO); fi

# Only what Suri fetched, converted or compiled; .cache may hold files of others too.
clean:
	rm -rf .cache/demo .cache/base .cache/report .pytest_cache .mypy_cache .ruff_cache
	find pipeline scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@if test -e $(READY); then $(PY) -m scripts.clean tmp; fi

clean-runs: $(READY)
	@$(PY) -m scripts.clean runs $(if $(filter 1 yes,$(YES)),yes)
