# `make demo` and `make test` set up everything they need in .venv, in the versions of requirements/lock.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest
CHROMIUM := /usr/bin/chromium
# Tests that import most of the package and take little time: what a lower bound may break.
QUICK := tests/features tests/gallery tests/images tests/method tests/views tests/test_settings.py

.PHONY: demo test test-lowest check docs format lock clean

demo: $(READY)
	$(BIN)/spade-index demo --out demo

test: $(READY) $(CHROMIUM)
	$(BIN)/python -m pytest

# At the lower bounds that setup.py promises.
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -p no:cacheprovider $(QUICK)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Choose today's versions of everything, and of everything at the lower bounds.
lock:
	$(PYTHON) requirements/lock.py

# $(1): a virtual environment, $(2): a constraints file, $(3): the extras
define install
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --constraint $(2) pip setuptools
$(1)/bin/python -m pip install --quiet --constraint $(2) --no-build-isolation --editable ".[$(3)]"
touch $(1)/.ready
endef

ALL := cpu,demo,serve,test,dev
RUNTIME := cpu,demo,serve,test

$(READY): setup.py requirements/lock.txt
	$(call install,$(VENV),requirements/lock.txt,$(ALL))

$(LOWEST)/.ready: setup.py requirements/lowest.txt
	$(call install,$(LOWEST),requirements/lowest.txt,$(RUNTIME))

# The page's tests need a browser.
$(CHROMIUM):
	@test "$$(id -u)" = 0 || { echo "tests need $@: run \`apt-get install -y chromium\` as root" >&2; exit 1; }
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium

clean:
	rm -rf $(VENV) $(LOWEST) build *.egg-info demo
