# `make demo` and `make test` set up everything they need in .venv, in the versions of requirements/lock.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest
LABEL_STUDIO := .venv-label-studio
CHROMIUM := /usr/bin/chromium-headless-shell
MOSQUITTO := /usr/sbin/mosquitto
PODMAN := /usr/bin/podman
# Modules are compiled once, and not by each process that a test starts, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE
# What a lower bound may break: every package that setup.py names is used as the product uses it, by the tests of the
# module that calls it. What tests the project's own rules only (damage, caches, kills, hostile input) is left out.
QUICK := tests/features tests/views tests/test_settings.py \
	$(addprefix tests/gallery/test_,catalog.py codecs.py gallery.py index.py reading.py remote.py remote_moto.py shard.py writer.py) \
	$(addprefix tests/images/test_,formats.py images.py images_decode.py loading.py region_rule.py sources.py tiles.py) \
	$(addprefix tests/method/test_,calibration.py defects.py detector.py interest.py metrics.py origin.py regions.py) \
	$(addprefix tests/server/test_,connections.py docs.py figures.py native.py v2.py) tests/sinks/test_mqtt.py
# Fails, and names them, where files are longer than 300 lines; only the changelog grows with every release.
LONG_FILES := git ls-files '*.py' '*.sh' '*.js' '*.css' '*.html' '*.md' ':!CHANGELOG.md' | xargs wc -l | \
	awk '$$1 > 300 && $$2 != "total" { print $$2 ": " $$1 " lines, 300 at most"; long = 1 } END { exit long }'

.PHONY: demo test test-lowest test-label-studio test-container check format lock node-red clean

demo: $(READY)
	$(BIN)/spade-index demo --out demo

# All cores; a process that has finished its half of the tests takes some from the other's.
test: $(READY) $(CHROMIUM) $(MOSQUITTO)
	$(BIN)/python -m pytest -n auto --dist worksteal

# At the lower bounds that setup.py promises.
test-lowest: $(LOWEST)/.ready $(MOSQUITTO)
	$(LOWEST)/bin/python -m pytest -n auto --dist worksteal -p no:cacheprovider $(QUICK)

# Against a real Label Studio, in an environment of its own (about 1 GB).
test-label-studio: $(READY) $(LABEL_STUDIO)/.ready
	LABEL_STUDIO=$(LABEL_STUDIO)/bin/label-studio $(BIN)/python -m pytest -n 0 tests/server/real_label_studio.py

# The image, on a base made of Debian's packages, which takes root; build/container keeps about 15 GB for the next run.
test-container: $(READY) $(PODMAN)
	$(BIN)/python -m pytest -n 0 tests/containers/in_podman.py

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	@$(LONG_FILES)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The flow of examples/ in a real Node-RED, of which npm installs a copy; CI does not need it.
node-red: $(READY) $(MOSQUITTO)
	npm install --silent --no-audit --no-fund --prefix build/node-red node-red
	PYTHONPATH=tests $(BIN)/python -m durability.node_red build/node-red

# Choose today's versions of everything, and of everything at the lower bounds.
lock:
	$(PYTHON) requirements/lock.py

# The native kernel is compiled by g++, where it is; its tests need it.
# $(1): a virtual environment, $(2): a constraints file, $(3): the extras
define install
@command -v g++ > /dev/null || test "$$(id -u)" != 0 || \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq g++; } || true
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --constraint $(2) pip setuptools
$(1)/bin/python -m pip install --quiet --constraint $(2) --no-build-isolation --editable ".[$(3)]"
touch $(1)/.ready
endef

ALL := cloud,cpu,demo,heic,mqtt,ray,serve,test,dev
RUNTIME := cloud,cpu,demo,heic,mqtt,ray,serve,test

NATIVE := $(wildcard kernels/native/*.cpp kernels/native/*.h kernels/native/*.inc)

$(READY): setup.py requirements/lock.txt $(NATIVE)
	$(call install,$(VENV),requirements/lock.txt,$(ALL))

$(LOWEST)/.ready: setup.py requirements/lowest.txt $(NATIVE)
	$(call install,$(LOWEST),requirements/lowest.txt,$(RUNTIME))

$(LABEL_STUDIO)/.ready: requirements/label-studio.txt
	$(PYTHON) -m venv $(LABEL_STUDIO)
	$(LABEL_STUDIO)/bin/python -m pip install --quiet --requirement requirements/label-studio.txt
	touch $(LABEL_STUDIO)/.ready

# The page's tests need a browser, those of MQTT a broker.
$(CHROMIUM) $(MOSQUITTO):
	@test "$$(id -u)" = 0 || { echo "tests need $@: run \`apt-get install -y $(@F)\` as root" >&2; exit 1; }
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(@F)

$(PODMAN):
	@test "$$(id -u)" = 0 || { echo "test-container needs root" >&2; exit 1; }
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		podman runc debootstrap containernetworking-plugins iptables

clean:
	rm -rf $(VENV) $(LOWEST) $(LABEL_STUDIO) build *.egg-info demo
