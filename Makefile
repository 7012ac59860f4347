# Every target sets up .venv first; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.stamp
FPGA_STAMP := $(VENV)/.stamp-fpga
DOCS_STAMP := $(VENV)/.stamp-docs
SOC_STAMP := $(VENV)/.stamp-soc
TORCH_STAMP := $(VENV)/.stamp-torch
NETWORKS_STAMP := $(VENV)/.stamp-networks
DATA ?= mnist.npz
BOARD ?= ulx3s-25f
SLACK ?= 0
BOARDS := $(shell ls -r fpga/boards | sed -n '/^__/d; s/_/-/g; s/\.py$$//p')
CONFIG ?= small
TESTS ?=
PROOFS ?=
SEED ?= 1
KWS := $(wildcard $(or $(LEPTON_SHARED),../shared)/models/kws_ref_model.tflite)

.DEFAULT_GOAL := help
.PHONY: help setup sim test slow wheel formal verify bench mnist networks fpga fpga-synth fpga-sim fpga-report soc lint format docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lepton needs Python 3.11 or newer: make setup PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar on -e '.[test]'
	@touch $@

setup: $(STAMP) ## make .venv with lepton and its tools (again when pyproject.toml changes)

sim: setup ## run the digits on the RTL; MODEL=, INPUT= and CONFIG= choose others
	$(VENV)/bin/lepton sim --config $(CONFIG) $(if $(MODEL),--model '$(MODEL)') $(if $(INPUT),--input '$(INPUT)')

test: setup ## unit tests, testbenches and end-to-end tests; TESTS= chooses some, WAVES=1 records the benches'
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

slow: setup ## the tests that `make test` leaves out: the same on more configurations
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m slow $(TESTS)

wheel: setup ## the wheel in new environments: what works without extras and its size; [rtl] runs the RTL, [fpga] synthesizes
	$(VENV)/bin/python -m pytest -m wheel tests/test_wheel.py $(TESTS)

verify: setup ## the whole verification plan, its table, docs/verification.md; SEED= of the random campaigns
	$(VENV)/bin/python -m lepton.verif.plan --seed $(SEED)

formal: setup ## prove properties of the RTL, and that each proof finds a planted bug (answers are kept in build/formal); PROOFS= chooses some
	$(VENV)/bin/python -m lepton.verif.formal --json build/formal/results.json $(PROOFS)

bench: setup ## measure the reference models at all presets on the RTL, write docs/performance.md
	$(VENV)/bin/lepton bench --all

$(TORCH_STAMP): $(STAMP)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar on -e '.[torch,evaluate]'
	@touch $@

mnist: $(TORCH_STAMP) ## train MNIST (DATA=mnist.npz) in PyTorch, on the device's integers, and pruned: accuracy, cycles on the RTL
	$(VENV)/bin/python examples/prune_mnist.py '$(DATA)'

$(NETWORKS_STAMP): $(STAMP)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar on -e '.[networks]'
	@touch $@

networks: $(NETWORKS_STAMP) ## six networks from PyTorch, ONNX, QDQ and Keras: near the float network, the same bytes everywhere
	$(VENV)/bin/python -m lepton.verif.networks

$(FPGA_STAMP): $(STAMP)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar on -e '.[fpga]'
	@touch $@

fpga: $(FPGA_STAMP) ## bitstream of BOARD= with reports in build/fpga/BOARD (docs/boards.md)
	$(VENV)/bin/lepton fpga build $(BOARD) --slack $(SLACK)

fpga-synth: ## synthesize all boards, two at a time: area outside a board's bounds fails
	@$(MAKE) --no-print-directory -k -j2 -O $(addprefix fpga-synth-,$(BOARDS))

fpga-synth-%: $(FPGA_STAMP)
	$(VENV)/bin/lepton fpga build $* --synth-only

fpga-sim: $(FPGA_STAMP) ## simulate the netlist of BOARD= (docs/boards.md); an iCE40 board's must be built
	$(VENV)/bin/python -m lepton.verif.netlist.simulate $(BOARD)

$(SOC_STAMP): $(STAMP)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar on -e '.[soc]'
	@touch $@

soc: $(SOC_STAMP) ## a RISC-V with the accelerator on its bus, in simulation: C firmware runs the digits and MODEL= (INPUT=)
	$(VENV)/bin/python -m lepton.fpga.soc $(if $(or $(MODEL),$(KWS)),--model '$(or $(MODEL),$(KWS))') $(if $(INPUT),--input '$(INPUT)')

fpga-report: setup ## write docs/fpga.md from the results in build/fpga
	$(VENV)/bin/lepton fpga report

lint: setup ## formatting, lint, types, and that every import points down
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

format: setup ## put the sources into the form that lint checks
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

$(DOCS_STAMP): $(STAMP)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar on -e '.[docs]'
	@touch $@

docs: $(DOCS_STAMP) ## the pages of docs/ and the API as a site in build/site
	$(VENV)/bin/mkdocs build --strict

clean: ## remove what was built (keeps .venv)
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
	find rtl verif sw fpga tests -name __pycache__ -prune -exec rm -rf {} +
