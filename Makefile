# Every target sets itself up: a virtual environment in .venv with what that target needs, made once.
#
#   make demo         train, pack, serve and explain real mortgage decisions
#   make serve        serve the demo's repository (REPO=… for another, its ledger beside it) until Ctrl-C
#   make test         all tests
#   make clients      an environment of Triton's and KServe's clients, which tests call; part of `make test`
#   make lint         formatters, linters, types, import rules, generated code
#   make native-test  the kernel's laws and a fuzz run in C++, under address, undefined-behaviour and thread sanitizers
#   make bench        all benchmarks
#   make bench-kernel the kernel against its peers: `make bench-kernel ARGS=--help`
#   make bench-guard  a minute of Locust: ratios of the hot path against bench/baselines/guard.json
#   make bench-baseline  measure that baseline anew, for this kind of machine
#   make bench-serving the service under load, with its rivals: `make bench-serving ARGS=--help`
#   make bench-peers  environments of their own for peers that need another Python
#   make format       what the formatters and linters can mend themselves
#   make proto        generate Python from protos/
#   make clean        remove what the targets made
PYTHON ?= python3.11
DEMO_REPO := var/demo/models
REPO ?= $(DEMO_REPO)
# Beside the repository, so that no two share one.
LEDGER ?= $(dir $(REPO:%/=%))ledger.sqlite
VENV := .venv
BIN := $(VENV)/bin
# Clients that cannot share an environment with ours: tests/clients/requirements.txt says why.
CLIENTS := $(VENV)/clients

# What the native extensions are built from; touching one rebuilds them.
NATIVE := setup.py pyproject.toml constraints.txt $(wildcard native/*/*.cpp native/*/*.h native/*/*.pyx native/*/*.pxi)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_QUIET := 1

.PHONY: demo serve test clients native-test lint format proto bench bench-kernel bench-serving bench-guard bench-baseline bench-peers clean
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Stamps say what is installed. `lint` needs the tests' packages too (it checks types), so it includes them; the tests
# need the benchmarks' (they start Locust).
$(VENV)/.demo: EXTRAS := demo
$(VENV)/.test: EXTRAS := test
$(VENV)/.lint: EXTRAS := test,lint
$(VENV)/.bench: EXTRAS := bench
$(VENV)/.demo $(VENV)/.test $(VENV)/.lint $(VENV)/.bench: $(NATIVE) | $(BIN)/python
	@echo "installing xai-service[$(EXTRAS)] into $(VENV) ..."
	XAI_WERROR=1 PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --editable '.[$(EXTRAS)]'
	@touch $@ $(if $(filter %lint,$@),$(VENV)/.test) $(if $(filter-out %demo,$@),$(VENV)/.bench) $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/xai demo

serve: $(VENV)/.demo
ifeq ($(REPO),$(DEMO_REPO))
	@test -d $(REPO) || $(BIN)/xai demo
endif
	$(BIN)/xai serve --repository $(REPO) --ledger $(LEDGER)

test: $(VENV)/.test clients
	$(BIN)/python -m pytest

clients: $(CLIENTS)/.made

$(CLIENTS)/.made: tests/clients/requirements.txt | $(BIN)/python
	@echo "installing clients of the Open Inference Protocol into $(CLIENTS) ..."
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --no-deps --requirement $<
	@touch $@

native-test:
	$(MAKE) -C native/tests

lint: $(VENV)/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror $(wildcard native/*/*.cpp native/*/*.h bench/loadgen/*.cpp bench/loadgen/*.h)
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint native
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/python tools/gen_protos.py --check

format: $(VENV)/.lint
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(wildcard native/*/*.cpp native/*/*.h bench/loadgen/*.cpp bench/loadgen/*.h)

proto: $(VENV)/.lint
	$(BIN)/python tools/gen_protos.py

bench: bench-kernel bench-serving

bench-kernel: $(VENV)/.bench
	$(BIN)/python bench/kernel_bench.py $(ARGS)

bench-guard: $(VENV)/.bench
	$(BIN)/python bench/guard.py $(ARGS)

bench-baseline: $(VENV)/.bench
	$(BIN)/python bench/guard.py --update 5 $(ARGS)

bench-serving: $(VENV)/.bench
	$(BIN)/python bench/serving_bench.py $(ARGS)

bench-peers: $(VENV)/.bench
	$(BIN)/python bench/kernel_bench.py --setup-peers

clean:
	rm -rf $(VENV) build *.egg-info xai_service/*.so var/demo
