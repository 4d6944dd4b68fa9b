# make demo   play the quick-start experiment, draw its curve, write its report; no key, no network
# make test   run the tests
# make full   install what the optional extras need too, so that no test is skipped
# make check  formatting, lint, types, and the links of the documentation
# make site   write the documentation as a website to site/
# make bench  measure; see benchmarks/
# make real   play a small language model on this machine; see experiments/smollm2/README.md
# make sample play the sessions in transcripts/sample again, after a change of prompts or format
# make docs   write what is generated again: tables of fields and settings, a picture, outputs of the notebook
# Each of them creates .venv first if it is not there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := transcripts/quickstart

FULL := dev,inspect,ray,hf,train,browser

.PHONY: demo test full check site format bench real sample docs clean

demo: $(READY)
	$(BIN)/icl-loop run experiments/quickstart.toml
	$(BIN)/icl-loop plot $(DEMO) -o $(DEMO)/curve.png
	$(BIN)/icl-loop plot $(DEMO) -o $(DEMO)/curve.html
	$(BIN)/icl-loop report $(DEMO) -o $(DEMO)/report.html

test: $(READY)
	$(BIN)/pytest

full: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(FULL)]'

check: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(MAKE) --no-print-directory site

site: $(READY)
	$(BIN)/properdocs build --strict --quiet

format: $(READY)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(READY)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/hostile.py
	$(BIN)/python benchmarks/turns.py
	$(BIN)/python benchmarks/tokens_per_sample.py
	$(BIN)/python benchmarks/reference.py
	$(BIN)/python benchmarks/neural.py
	$(BIN)/python benchmarks/verdicts.py
	$(BIN)/python benchmarks/power.py
	$(BIN)/python benchmarks/ladder.py
	$(BIN)/python benchmarks/million.py
	$(BIN)/python benchmarks/cache.py
	$(BIN)/python benchmarks/transcript_size.py
	$(BIN)/python benchmarks/fuzz.py
	$(BIN)/python benchmarks/long.py
	$(BIN)/python benchmarks/page.py

real: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[local]'
	$(BIN)/python experiments/smollm2/play.py

sample: $(READY)
	rm -rf transcripts/sample
	env -u TIKTOKEN_CACHE_DIR $(BIN)/icl-loop run experiments/quickstart.toml \
	  --set name=sample --streams 2 --turns 25

docs: $(READY)
	$(BIN)/python tests/format_tables.py
	$(BIN)/python tests/exchange_picture.py
	$(BIN)/python tests/notebook.py

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "icl_loop needs Python 3.11 or newer; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) $(DEMO) site .mypy_cache .ruff_cache .pytest_cache .hypothesis
