# Suri. `make` prints what there is; every target starts from nothing.
# BSD make stops at the next line and prints it; to GNU make it is a rule without a recipe, which nothing needs.
.error suri: needs GNU make 3.82 or newer, mostly installed as gmake - try gmake export
.DEFAULT_GOAL := help
# .SHELLFLAGS, which ends a recipe at its first error, came with 3.82; macOS ships 3.81.
ifneq ($(filter 3.7% 3.80% 3.81%,$(MAKE_VERSION)),)
$(error suri: GNU make 3.82 or newer is needed, this is $(MAKE_VERSION). On macOS: brew install make, then: gmake export)
endif
BASH_PATH := $(or $(wildcard /bin/bash),$(shell command -v bash))
ifeq ($(BASH_PATH),)
$(error suri: bash is missing. Install it, for instance: apk add bash (Alpine), pkg install bash (FreeBSD))
endif
SHELL := $(BASH_PATH)
.SHELLFLAGS := -eu -o pipefail -c
CONFIG ?= configs/demo.yaml
ARGS ?=
PYTHON ?= python3
PIP_ARGS ?=
# The build of torch: cpu or cuda; empty: the set-up looks for an NVIDIA card (docs/installation.md).
TORCH ?=
# Not taken from the shell's variables: without its mark this folder is made anew.
VENV := .venv

PY := $(VENV)/bin/python
READY := $(VENV)/.ready
DEMO := .cache/demo/SmolLM2-135M-Instruct.Q4_1.gguf
# Of `make train`: cards of this machine, and how often it goes on by itself after one has failed.
GPUS ?=
RESTARTS ?=
# Of `make plan GPUS=N`: the kind of card, its price for an hour, and what was measured of one.
CARD ?=
PRICE ?=
RATE ?=
LINK ?=
RUN = $(PY) -m scripts.$@ --config="$$CONFIG" $(ARGS)

A ?=
B ?=
DATA ?=
TOKENIZER ?=
CASES ?=
# Tests of `make test`: those that need no extra and are quick. `make test-all` adds the others.
CORE := not (slow or report or ray or browser or eval or judge or documents or llama or notebook or serving or vllm or s3)
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
# Of `make push`.
REPO ?=
# Of `make publish`.
TO ?=
WHAT ?=
SKIP ?=
PUBLIC ?=
UNFINISHED ?=
# Of `make recover`.
BASE ?=
DIFF ?=
OUT ?=
# Paths and names reach the shell as environment variables, never as text of a command, so they may hold spaces, quotes.
export GPUS RESTARTS CARD PRICE RATE LINK CONFIG A B DATA TOKENIZER ADAPTER SHOW REMOVE MEASURE COMBINE HOW RANK DENSITY BASE DIFF OUT REPO WHAT SKIP TO
STORE = $(PY) -m scripts.adapters
# PYTHON is started first: it may be missing, or a pyenv shim of a version that is not active.
SETUP = $(PYTHON) -c '' > /dev/null 2>&1 || { echo 'suri: $(PYTHON) is missing or does not start' >&2; \
	  echo '  fix:   install Python 3.11 to 3.14, or name the one you have: make export PYTHON=python3.12' >&2; exit 2; }; \
	VENV=$(VENV) TORCH=$(TORCH) $(PYTHON) -B -m scripts.setup_venv
# Compiled files are kept: without them every import of transformers takes 16 seconds instead of 5.
unexport PYTHONDONTWRITEBYTECODE
.NOTPARALLEL:

.PHONY: help demo-base documents-extra data train export report verify eval preview plan chat serve ui generate keep adapters ask compare judge methods forgetting curves data-diff diff recover push publish bench profile test test-all check clean clean-runs
help:
	@echo 'Start'
	@echo '  make export        data, tokens, training, merge, measurements: the demo'
	@echo '                     in some minutes, or CONFIG=configs/mine.yaml'
	@echo '  make chat          talk to the result; ADAPTER=NAME: to a stored adapter'
	@echo "  make serve         a server with OpenAI's API: result, base, stored adapters"
	@echo '  make ui            the same server, and its page in a browser'
	@echo '  make data          read, clean, compare and split the data; a report on it'
	@echo '  make generate      a teacher model makes rows, from CONFIG=...'
	@echo '  make train         train the adapter; goes on from the newest checkpoint;'
	@echo '                     GPUS=4: on four cards of this machine'
	@echo
	@echo 'Look'
	@echo '  make plan          rows, tokens, steps, memory and time, before a run;'
	@echo '                     GPUS=64 CARD=h100: on so many cards, with the price'
	@echo '  make preview       five rows as the model sees them; trained tokens green'
	@echo '  make report        one HTML page of all that the run has so far'
	@echo '  make verify        have the files of a run changed since it wrote them?'
	@echo '  make data-diff A=run1 B=run2     what changed between two builds of data'
	@echo
	@echo 'Compare'
	@echo '  make eval          base and tuned model on held-out rows and benchmarks'
	@echo '  make compare       their answers side by side, on a page to vote on'
	@echo '  make judge         another model votes: ARGS="judge.model=NAME"'
	@echo
	@echo 'Share'
	@echo '  make keep ADAPTER=NAME           store the adapter of a run'
	@echo '  make adapters                    list the store; SHOW=NAME, REMOVE=NAME,'
	@echo '                                   MEASURE=NAME (on held-out rows)'
	@echo '  make adapters COMBINE="a=0.7 b=0.3" ADAPTER=NAME   add up stored LoRAs;'
	@echo '                                   HOW=cat, svd, ties or dare'
	@echo '  make ask < questions.txt         several adapters answer in one batch;'
	@echo '                                   a line is "NAME: question"'
	@echo '  make diff          the export without its base: an exact difference'
	@echo '  make recover BASE=FOLDER DIFF=FOLDER OUT=NEW       and the model again'
	@echo '  make push REPO=you/name          send the export to a hub, private unless'
	@echo '                                   PUBLIC=1, after showing what goes'
	@echo '  make publish TO=s3://bucket/folder      send the data to an object store'
	@echo
	@echo 'Advanced'
	@echo '  make methods       compare the ways to adapt a model (half an hour)'
	@echo '  make forgetting    compare the ways not to forget (over half an hour)'
	@echo '  make bench DATA=FILE TOKENIZER=FOLDER      speed beside Hugging Face'
	@echo '  make profile DATA=FILE TOKENIZER=FOLDER CASES=shared   largest kernels'
	@echo '  make curves DATA=FILE                      loss curves beside theirs'
	@echo '  make test          the core of the tests; make test-all: every test'
	@echo '  make check         lint, format and types'
	@echo '  make clean         remove caches and half-written files'
	@echo '  make clean-runs    list the runs with their sizes; YES=1 removes them'
	@echo
	@echo 'A config of your own:   make export CONFIG=configs/mine.yaml'
	@echo 'Other values:           make train ARGS="train.lr=1e-4 data.val=500"'
	@echo 'Another disk:           make train RUNS=/big/runs'

# A target that does not exist: the nearest one that does. It runs before there is a .venv, by any Python 3.
.DEFAULT:
	@$(PYTHON) scripts/unknown_target.py '$(subst ','\'',$@)' $(firstword $(MAKEFILE_LIST)) || \
	  { test $$? = 2 || echo 'suri: no such target; `make` lists all' >&2; exit 2; }

data: $(VENV)/.report
judge generate: $(VENV)/.judge
generate data train export plan: documents-extra
data export report verify preview ask compare judge diff: $(READY) demo-base
	@$(RUN)

train: $(READY) demo-base
	@$(RUN) $${GPUS:+--gpus="$$GPUS"} $${RESTARTS:+--restarts="$$RESTARTS"}

# They read the demo's base only for some configs, and fetch it themselves.
generate: $(READY)
	@$(RUN)

plan: $(READY)
	@$(RUN) $${GPUS:+--gpus="$$GPUS"} $${CARD:+--card="$$CARD"} $${PRICE:+--price="$$PRICE"} \
	  $${RATE:+--rate="$$RATE"} $${LINK:+--link="$$LINK"}

methods forgetting: $(READY) demo-base
	@$(PY) -m scripts.benchmarks.$@ --config="$$CONFIG" $(ARGS)

eval: $(VENV)/.eval demo-base
	@$(RUN)

chat: $(READY) demo-base
	@$(RUN) $${ADAPTER:+"chat.adapter=$$ADAPTER"}

serve ui: $(VENV)/.serving demo-base
	@$(RUN)

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

recover: $(READY)
	@$(PY) -m scripts.recover -- "$$BASE" "$$DIFF" "$$OUT"

push: $(READY)
	@$(PY) -m scripts.push --config="$$CONFIG" $${WHAT:+--what="$$WHAT"} $${SKIP:+--skip="$$SKIP"} \
	  $(if $(filter 1 yes,$(PUBLIC)),--public) $(if $(filter 1 yes,$(YES)),--yes) \
	  $(if $(filter 1 yes,$(UNFINISHED)),--unfinished) $(if $(REPLACE),--replace) -- "$$REPO" $(ARGS)

publish: $(READY)
	@$(PY) -m scripts.publish --config="$$CONFIG" -- "$$TO" $(ARGS)

curves: $(READY) $(DEMO)
	@$(PY) -m scripts.benchmarks.curves "$$DATA" $(ARGS)

# DATA: instruction data in Alpaca form. TOKENIZER: a folder with tokenizer.model.
bench profile: $(READY)
	@$(PY) -m scripts.benchmarks.bench_train "$$DATA" "$$TOKENIZER" $(if $(filter profile,$@),--profile) $(CASES)

test: $(READY)
	@$(PY) -m pytest -m "$(CORE)" $(ARGS)

test-all: $(VENV)/.report $(VENV)/.ray $(VENV)/.browser $(VENV)/.eval $(VENV)/.judge $(VENV)/.documents $(VENV)/.notebook $(VENV)/.serving $(VENV)/.clients $(VENV)/.moto $(DEMO)
	@$(PY) -m pytest $(ARGS)

check: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

# An environment without its mark was interrupted half-way: it is made anew.
$(READY): pyproject.toml constraints.txt
	@$(SETUP) dev $(PIP_ARGS)
	@touch $(READY)

# Extras that only some commands need.
$(VENV)/.report $(VENV)/.ray $(VENV)/.browser $(VENV)/.eval $(VENV)/.judge $(VENV)/.documents $(VENV)/.notebook $(VENV)/.serving $(VENV)/.clients: $(VENV)/.%: $(READY)
	@$(SETUP) $* $(PIP_ARGS)
	@test $* != report || $(PY) -m scripts.fetch_grammar || echo 'without it the report has no English verb chart'
	@touch $@

# An object store for tests. It needs an older python-dateutil than constraints.txt has, so it is apart.
$(VENV)/.moto: $(READY)
	@$(PY) -m venv $(VENV)/moto
	@$(VENV)/moto/bin/python -m pip install --quiet --disable-pip-version-check -r tests/helpers/moto.txt $(PIP_ARGS)
	@touch $@

$(DEMO): $(READY)
	@$(PY) -m scripts.fetch_demo $(DEMO)

# The demo's base is fetched only for configs that name it.
demo-base: $(READY)
	@if test ! -e $(DEMO) && grep -qsF $(DEMO) -- "$$CONFIG" < /dev/null; then $(PY) -m scripts.fetch_demo $(DEMO); fi

# PDF files are read with a package that is installed only for configs that name documents.
documents-extra: $(READY)
	@if test ! -e $(VENV)/.documents && { test -n "$(findstring synthesis.documents,$(ARGS))" || \
	  grep -qsE '^[^#]*\bdocuments:' -- "$$CONFIG" < /dev/null; }; then $(MAKE) --no-print-directory $(VENV)/.documents; fi

# Only what Suri fetched, converted or compiled; .cache may hold files of others too.
clean:
	rm -rf .cache/demo .cache/base .cache/report .pytest_cache .mypy_cache .ruff_cache
	find pipeline scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@if test -e $(READY); then $(PY) -m scripts.clean tmp; fi

clean-runs: $(READY)
	@$(PY) -m scripts.clean runs $(if $(filter 1 yes,$(YES)),yes)
