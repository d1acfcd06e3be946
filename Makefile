# Each of these does its own set-up: `make demo` trains a small MGVQ on real photographs,
# `make demo-semanticist` a small Semanticist, `make study` compares bottlenecks, `make test` runs the
# tests. All make .venv first and reuse it.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
WORKDIR ?= runs/demo
CONCEPTS ?= runs/semanticist
CONTROL ?= runs/semanticist-not-nested
STUDY ?= runs/study
BIN := $(VENV)/bin

.PHONY: demo demo-semanticist study test test-slow lint clean

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: $(VENV)/ready
	$(BIN)/python -m vqlab.main --config=configs/mgvq_demo.py --workdir=$(WORKDIR)

demo-semanticist: $(VENV)/ready
	$(BIN)/python -m vqlab.main --config=configs/semanticist_demo.py:control --workdir=$(CONTROL)
	$(BIN)/python -m vqlab.main --config=configs/semanticist_demo.py --workdir=$(CONCEPTS) \
		--compare=$(CONTROL)

study: $(VENV)/ready
	$(BIN)/python -m vqlab.study --study=configs/studies/beat_vae.py:quick --workdir=$(STUDY)

test: $(VENV)/ready
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) runs
