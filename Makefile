# make demo        two iterations in the pocket world, with a report
# make alpaca-mini DATA=folder   the same flow on real Alpaca rows (docs/operate.md says what the folder holds)
# make test        the test suite
# make check       formatting, lint and types
# make install     the environment alone

PYTHON ?= python3
STORE  ?= store
DATA   ?= data
bin     = .venv/bin

.PHONY: install demo alpaca-mini test check

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(bin)/pip install --quiet --upgrade pip
	$(bin)/pip install --quiet --editable '.[test]'
	touch $@

demo: install
	$(bin)/montessori run configs/tiny.yaml --store "$(STORE)" $(ARGS)

alpaca-mini: install
	$(bin)/montessori run configs/alpaca-mini.yaml --store "$(STORE)" \
	  --set seeds.source=$(DATA)/seeds/alpaca_gpt4_sample_999.jsonl \
	  --set reference.source=$(DATA)/reference/montessori_reference_set.jsonl \
	  --set test.source=$(DATA)/alpaca_eval/gpt4_1106_preview.jsonl $(ARGS)

test: install
	$(bin)/pytest $(ARGS)

check: install
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy
