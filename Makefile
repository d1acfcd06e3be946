# Each of these does its own set-up: `make demo` trains a small MGVQ on real photographs,
# `make demo-semanticist` a small Semanticist, `make demo-generate` draws digits by both methods,
# `make study` compares bottlenecks, `make test` runs the tests. All make .venv first and reuse it.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
WORKDIR ?= runs/demo
CONCEPTS ?= runs/semanticist
CONTROL ?= runs/semanticist-not-nested
DIGITS ?= runs/digits
STUDY ?= runs/study
BIN := $(VENV)/bin

.PHONY: demo demo-semanticist demo-generate study test test-slow lint clean

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

demo-generate: $(VENV)/ready
	$(call generate,mgvq,indices)
	$(call generate,semanticist,concepts)

# A tokenizer, the codes that it makes of the digits, a generator of such codes, and samples.
define generate
	$(BIN)/python -m vqlab.main --config=configs/$(1)_digits.py --workdir=$(DIGITS)/$(1)
	$(BIN)/python -m vqlab.tokenize --config=configs/$(1)_gpt_digits.py --what=$(2) \
		--source=$(DIGITS)/$(1) --views=4 --output=$(DIGITS)/$(1)-$(2)
	$(BIN)/python -m vqlab.main --config=configs/$(1)_gpt_digits.py --workdir=$(DIGITS)/$(1)-gpt \
		--config.objective.tokenizer=$(DIGITS)/$(1) \
		--config.data.name=records --config.data.path=$(DIGITS)/$(1)-$(2)
	$(BIN)/python -m vqlab.generate --workdir=$(DIGITS)/$(1)-gpt --num_per_class=10 \
		--output=$(DIGITS)/$(1)-samples
endef

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
