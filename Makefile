# make train: clone -> trained agent. make test: the same set-up with the development extras, then the tests.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

.PHONY: setup setup-dev train compare test test-slow test-peers test-gpu lint

setup: $(READY)
setup-dev: $(READY_DEV)

$(RUN):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gatemaze needs Python 3.11 or newer, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(READY): $(RUN) pyproject.toml constraints.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(READY_DEV): $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

train: ARGS ?= train.film=true
train: setup
	$(RUN) train_agent.py $(ARGS)

compare: setup
	$(RUN) compare_cells.py smoke $(ARGS)

test: setup-dev
	$(RUN) -m pytest --numprocesses auto --dist worksteal

test-slow: setup-dev
	$(RUN) -m pytest -m slow --timeout 3600 --numprocesses auto --dist worksteal

test-peers: setup-dev
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[peers]'
	$(RUN) -m pytest tests/envs/test_published_diagnostics.py tests/envs/test_gymnasium_stream.py

# no set-up, for a GPU machine has a torch of its own: it takes .venv if there is one, else $(PYTHON), and needs pytest there
test-gpu:
	$(or $(wildcard $(RUN)),$(PYTHON)) -m pytest -m gpu

lint: setup-dev
	$(RUN) -m ruff check .
