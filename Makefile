# Two commands do all set-up: `make demo` trains a small MGVQ on real photographs, `make test` runs
# the tests. Both make .venv first and reuse it.

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/demo
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint clean

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: $(VENV)/ready
	$(BIN)/python -m vqlab.main --config=configs/mgvq_demo.py --workdir=$(WORKDIR)

test: $(VENV)/ready
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) runs
