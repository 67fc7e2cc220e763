# Two environments, both made here from pinned and hashed requirements, with nothing but python3, python3-venv and make:
#   .venv        the checkout as it stands: make demo, make check, and one test by hand
#   .build/venv  the wheel built from it, installed: make test
# rig/ and tests/ stand beside watchdogd/ and are not installed, yet the tests must get watchdogd from the wheel. So the
# checkout stands in a .pth file of each environment, which puts it LAST on sys.path: site-packages, where the wheel is,
# comes first. PYTHONSAFEPATH keeps Python from putting the working directory in front, in every process that a test
# starts too. tests/unit/test_layout.py fails when this does not hold.

PYTHON ?= python3
# Tests at a time. Stories mostly wait, so more than there are processors; they start first and are handed out one by one
# (--maxschedchunk=1), which ends one story earlier than --dist worksteal.
STORY_JOBS ?= 6
# make lock LOCK=--upgrade takes the newest versions; without it only what pyproject.toml or *.in changed is pinned anew.
LOCK ?=

# Where the Debian package is built, and where it goes. It is built from a copy: debhelper works inside debian/.
DEB_BUILD ?= .build/deb
DIST ?= dist
DEB_SOURCES := watchdogd systemd config docs completions debian pyproject.toml README.md CHANGELOG.md LICENSE
DEB_NEEDS := apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends dpkg-dev \
  && DEBIAN_FRONTEND=noninteractive apt-get build-dep --yes --no-install-recommends ./

MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.SUFFIXES:
unexport PYTHONPATH PYTHONHOME

# --no-build-isolation: what is built from source (sdnotify) is built with the pinned setuptools of requirements/build.txt.
PIP := -m pip --disable-pip-version-check --no-input --quiet
INSTALL := $(PIP) install --require-hashes --no-build-isolation --use-pep517
# Folders too: they change when a file goes away.
SOURCES := pyproject.toml README.md LICENSE $(shell find watchdogd systemd config docs/man completions -name __pycache__ -prune -o -print)
TESTS_OF_WHEEL := PYTHONSAFEPATH=1 MONGO_WATCHDOG_WHEEL=1

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: demo
demo: .venv/.runtime ## the story with a real mongod and a real uWSGI, without and with the watchdog
	@.venv/bin/python -m rig.demo

# A smoke test of it, without the pages: make bench QUICK=1
.PHONY: bench
bench: .venv/.runtime ## what it costs here, beside lsof, ss, psutil and C; writes docs/benchmarks.md (25 minutes, QUICK=1: 2)
	@.venv/bin/python -m rig.bench $(if $(QUICK),--quick,--write)

.PHONY: forks
forks: .venv/.runtime ## how many of 1 000 forks hang, with the byte aimed and not (two hours; FORKS=100 for fewer)
	@.venv/bin/python -m rig.forks $(FORKS)

.PHONY: cures
cures: .venv/.runtime ## how soon stuck apps are cured, by the shipped policy (half an hour; CURES=3: 6 minutes)
	@.venv/bin/python -m rig.cures $(CURES)

.PHONY: settings
settings: .venv/.runtime ## which settings of uWSGI and pymongo need the watchdog (6 minutes)
	@.venv/bin/python -m rig.settings

.PHONY: test
test: .build/venv/.wheel ## unit, integration and story tests of the installed wheel (STORY_JOBS=6)
	$(TESTS_OF_WHEEL) .build/venv/bin/python -m rig.fetch
	@# Where it cannot be had, the tests that need it are skipped with the reason.
	-$(TESTS_OF_WHEEL) .build/venv/bin/python -m rig.debian
	$(TESTS_OF_WHEEL) .build/venv/bin/python -m pytest -n $(STORY_JOBS) --maxschedchunk=1

.PHONY: test-oldest
test-oldest: .build/oldest/.wheel ## unit and integration tests with the oldest dependencies (Python 3.11 only)
	$(TESTS_OF_WHEEL) .build/oldest/bin/python -m rig.fetch
	$(TESTS_OF_WHEEL) .build/oldest/bin/python -m pytest -n 2 -m "not story and not system"

.PHONY: check
check: .venv/.dev ## ruff, its format, import-linter, and mypy --strict
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports --no-cache
	.venv/bin/mypy

.PHONY: deb
deb: .deb-needs ## dist/mongo-watchdog_VERSION_all.deb for Debian 12 and newer; as root it installs what it needs
	rm -rf $(DEB_BUILD)
	mkdir -p $(DEB_BUILD)/source $(DIST)
	tar --exclude=__pycache__ -cf - $(DEB_SOURCES) | tar -xf - -C $(DEB_BUILD)/source
	@# PATH: a Python of pyenv, say, has no hatchling.
	cd $(DEB_BUILD)/source && PATH=/usr/sbin:/usr/bin:/sbin:/bin dpkg-buildpackage --build=binary --unsigned-changes
	cp $(DEB_BUILD)/*.deb $(DIST)/

.PHONY: .deb-needs
.deb-needs:
	@command -v dpkg-checkbuilddeps >/dev/null && dpkg-checkbuilddeps || { \
	  if [ "$$(id -u)" != 0 ]; then echo 'as root: $(DEB_NEEDS)' >&2; exit 1; fi; $(DEB_NEEDS); }

.PHONY: clean
clean: ## deletes what make made here; the real components stay in their cache
	rm -rf .venv .build .hypothesis dist
	find . -name __pycache__ -prune -exec rm -rf {} +

# ---- environments; each step leaves a stamp file, so a second make is quick

.venv/.made .build/venv/.made .build/oldest/.made: %/.made: requirements/build.txt
	@$(PYTHON) -c 'import sys; sys.exit("%s is Python %d.%d; 3.11 or newer is needed: make PYTHON=python3.11 ..." % \
	  (sys.executable, *sys.version_info[:2]) if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $*
	$*/bin/python $(INSTALL) -r $<
	echo '$(CURDIR)' >"$$($*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/checkout.pth"
	touch $@

.venv/.runtime: requirements/runtime.txt .venv/.made
	.venv/bin/python $(INSTALL) -r $<
	touch $@

.venv/.dev: requirements/dev.txt .venv/.runtime
	.venv/bin/python $(INSTALL) -r $<
	touch $@

.build/venv/.installed: requirements/dev.txt .build/venv/.made
	.build/venv/bin/python $(INSTALL) -r $<
	touch $@

# Pure Python, as Debian 12 has it: with a compiler it would get its C extension, and another machine would test another pymongo.
.build/oldest/.installed: requirements/oldest.txt .build/oldest/.made
	CC=false .build/oldest/bin/python $(INSTALL) --no-cache-dir -r $<
	touch $@

.build/wheel/.built: $(SOURCES) .build/venv/.installed
	rm -rf .build/wheel
	.build/venv/bin/python $(PIP) wheel --no-deps --no-build-isolation --wheel-dir .build/wheel .
	touch $@

.build/venv/.wheel .build/oldest/.wheel: %/.wheel: .build/wheel/.built %/.installed
	$*/bin/python $(PIP) install --no-deps --no-index --force-reinstall .build/wheel/*.whl
	$*/bin/python $(PIP) check
	touch $@

# ---- pins

# Pinned here, without hashes: they only write the files below, on a developer's machine.
LOCK_TOOLS := pip==26.0 pip-tools==7.6.2
PIP_COMPILE = CUSTOM_COMPILE_COMMAND='make lock' .build/lock/bin/python -m piptools compile $(LOCK) --quiet --generate-hashes \
  --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links
# Writes the dependency groups of pyproject.toml as files that pip-compile can read.
GROUPS_TO_FILES := import pathlib, tomllib; \
  [pathlib.Path(f".build/lock/{name}.in").write_text("\n".join(needs)) \
   for name, needs in tomllib.loads(pathlib.Path("pyproject.toml").read_text())["dependency-groups"].items()]

.PHONY: lock
lock: ## writes requirements/*.txt anew (LOCK=--upgrade for the newest versions); with Python 3.11
	$(PYTHON) -m venv --clear .build/lock
	.build/lock/bin/python $(PIP) install $(LOCK_TOOLS)
	.build/lock/bin/python -c '$(GROUPS_TO_FILES)'
	$(PIP_COMPILE) -o requirements/build.txt requirements/build.in
	$(PIP_COMPILE) -o requirements/runtime.txt pyproject.toml
	$(PIP_COMPILE) -o requirements/dev.txt -c requirements/runtime.txt pyproject.toml .build/lock/test.in .build/lock/check.in
	$(PIP_COMPILE) -o requirements/oldest.txt requirements/oldest.in .build/lock/test.in
