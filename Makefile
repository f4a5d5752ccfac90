# The one door to this checkout: `make` alone lists what it can do.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=
# How long `make faults` breaks the server with each script, and `make real-test` measures each run.
SECONDS ?=
# Tests run in one process more than there are processors, as many of them wait. One that has run out of
# tests takes half of those that another one has left; in between, each runs a module in one go, as it
# shares servers.
TEST_PROCESSES := --numprocesses=$(shell echo $$(($$(nproc) + 1))) --dist=worksteal
# Tests of modules that are compiled, too: they run once more, against the compiled form.
IN_BOTH_FORMS := tests/libproto/test_framing.py tests/libproto/test_wrapping.py tests/libnet tests/server/region tests/server/core \
    tests/server/worker tests/crash_images/test_main.py \
    tests/libproto/test_form.py::test_the_modules_of_these_tests_have_the_form_that_was_asked_for \
    $(addprefix tests/server/journal/test_,books.py commit.py fill.py load.py money.py writer.py) \
    $(addprefix tests/bench/test_,connection.py mix.py results.py stream.py)
# Seconds after which a test is given up, with the stack of every thread.
TEST_TIMEOUT_S ?= 300
# The lock is made with the oldest Python supported: what suits it suits the newer ones too.
LOCK_PYVERSION := 3.11
LOCK_TOOL := pip-tools==7.6.2

# A program whose modules are compiled anew at each start takes twice as long to start, and tests start
# hundreds: what keeps Python from storing them, as some containers have it, is not for us.
unexport PYTHONDONTWRITEBYTECODE

PYVERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# Stamps: the environment is made anew when the lock or the Python changed, the project put in again
# when pyproject.toml changed.
LOCKED := $(VENV)/.locked-$(PYVERSION)
INSTALLED := $(VENV)/.installed-$(PYVERSION)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help python install run test test-compiled check installed crash-points mutants bench real-test compare compare-ipc pictures session model simulate faults fuzz hostile crash-images fmt lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: python $(INSTALLED) ## make .venv, install the locked versions and tradechat, compile modules (PYTHON=python3)
	@$(BIN)/python -m build_backend

python:
	@test -n "$(PYVERSION)" || { echo "tradechat needs Python 3.11 or newer, and '$(PYTHON)' does not run: install it, or name another with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tradechat needs Python 3.11 or newer, and '$(PYTHON)' is $(PYVERSION): name another with PYTHON=..." >&2; exit 1; }

# crcmod comes as source: it is built with the locked setuptools and nothing else.
$(LOCKED): requirements/build.txt requirements/lock.txt | python
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --require-hashes --no-deps --only-binary :all: -r requirements/build.txt
	$(PIP) install --quiet --require-hashes --no-deps --no-build-isolation --use-pep517 -r requirements/lock.txt
	@touch $@

# A path, not an import hook, leads to the checkout: the hook would double the time that every start of
# Python takes, and tests start it a thousand times.
$(INSTALLED): $(LOCKED) pyproject.toml $(wildcard build_backend/*.py)
	$(PIP) install --quiet --no-index --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	$(PIP) check
	@touch $@

run: install ## start a server with its state under ./data (ARGS="--workers 4 ...")
	@echo "To connect, from another terminal: $(BIN)/tradechat-cli --user NAME --register"
	@exec $(BIN)/tradechat-server --data ./data $(ARGS)

# With ARGS, only what they say: TRADECHAT_TESTS=compiled in the environment says in which form.
test: install ## run all tests, on all processors (ARGS="-n0 tests/libproto -x ...": in one process)
	$(BIN)/python -m pytest $(TEST_PROCESSES) --timeout=$(TEST_TIMEOUT_S) $(ARGS)
	$(if $(ARGS),,$(MAKE) test-compiled)

test-compiled: install ## run the tests of modules that are compiled against the compiled form (a minute)
	TRADECHAT_TESTS=compiled $(BIN)/python -m pytest $(TEST_PROCESSES) --timeout=$(TEST_TIMEOUT_S) $(IN_BOTH_FORMS) $(ARGS)

check: install ## lint, format, types, import arrows, freshness of generated documents
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/python -m pytest --quiet tests/test_imports.py tests/packaging/test_moved_imports.py
	$(BIN)/python -m libproto doc --check
	$(BIN)/python -m client.facades --check
	$(BIN)/python -m client.reference --check
	$(BIN)/python -m server.documents --check
	$(BIN)/python -m client.cli.manual --check
	$(BIN)/python -m bench.stress.manual --check

installed: install ## run all tests of the client against the wheel, installed (five minutes)
	TRADECHAT_INSTALLED=all $(BIN)/python -m pytest --timeout=0 -o faulthandler_timeout=0 tests/packaging/test_client_tests.py $(ARGS)

crash-points: install ## die before every step of every state change and of its repair (long: an hour on a slow machine)
	TRADECHAT_CRASH_POINTS=all $(BIN)/python -m pytest --timeout=0 -o faulthandler_timeout=0 tests/server/core/test_crash_points.py $(ARGS)

mutants: install ## plant known bugs, one by one, in a copy of the tree: their tests must find them, in both forms (ARGS="NAME ...")
	$(BIN)/python -m tests.mutants $(ARGS)
	$(BIN)/python -m tests.mutants --compiled $(ARGS)

bench: install ## measure the server's CPU time per request (ARGS="...")
	$(BIN)/python -m bench cpu $(ARGS)

# How long each load takes. 2 pipelines, 13 servers and 5 runs: about twelve minutes in all.
compare: SECONDS = 4
compare: install ## beside Redis, PostgreSQL and NATS, where they are installed (twelve minutes; SECONDS=4, of each load)
	$(BIN)/python -m bench.compare --seconds $(SECONDS) $(ARGS)

compare-ipc: install ## hand chunks over by shared segments, a socket and pipes, side by side (ARGS="--chunks 1000")
	$(BIN)/python -m bench.ipc $(ARGS)

pictures: install ## draw docs/pictures anew, from a server and a stress run (ARGS="--port 7879 ...")
	$(BIN)/python -m bench.pictures $(ARGS)

session: install ## put the first session of two people into README.md, as it really goes
	$(BIN)/python -m bench.session $(ARGS)

real-test: install ## 54 runs of the stress client, charts and a report in bench/results (SECONDS=30, of each)
	$(BIN)/python -m bench.realtest $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

hostile: install ## time honest users beside a thousand hostile connections (ARGS="...")
	$(BIN)/python -m bench hostile $(ARGS)

# atheris is large, and has no wheels for the newest Pythons: only who fuzzes installs it, beside the
# rest.
FUZZER := $(VENV)/fuzzer-$(PYVERSION)
$(FUZZER): requirements/fuzz.txt $(LOCKED)
	$(PIP) install --quiet --require-hashes --no-deps --only-binary :all: --upgrade --target $@ -r $<
	@touch $@

fuzz: SECONDS = 60
fuzz: install $(FUZZER) ## fuzz what reads bytes, and a server over sockets (SECONDS=60, of each of 10; ARGS="--runs 1000")
	PYTHONPATH=$(FUZZER) $(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS); found=$$?; \
	$(BIN)/python -m tests.fuzz.sessions --seconds $(SECONDS) $(ARGS) && exit $$found

model: ## check the model of the protocols, and find the bugs planted in it (some minutes)
	cd docs/model && $(PYTHON) check.py

simulate: SECONDS = 60
simulate: install ## the server's own code under schedules and faults that seeds decide (SECONDS=60; ARGS="--seed N --trace")
	$(BIN)/python -m tests.simulation $(if $(findstring --seed,$(ARGS)),,--seconds $(SECONDS) --first $$(date +%s)) $(ARGS)

faults: install ## kill, stop, cut, crash and interrupt a server under load, with a verdict (SECONDS=60, of each)
	$(BIN)/python -m bench.faults all $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

crash-images: install ## step a worker through operations by machine instruction, repair every image, in both forms (ARGS="deposit ...")
	$(BIN)/python -m tests.crash_images $(ARGS)
	TRADECHAT_PURE=1 $(BIN)/python -m tests.crash_images $(ARGS)

fmt: install ## format the sources and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: python ## make requirements/*.txt anew, with the newest versions
	@test "$(PYVERSION)" = "$(LOCK_PYVERSION)" || { echo "the lock is made with Python $(LOCK_PYVERSION), the oldest supported: make lock PYTHON=python$(LOCK_PYVERSION)" >&2; exit 1; }
	@set -e; tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; \
	"$$tools/bin/pip" --disable-pip-version-check install --quiet '$(LOCK_TOOL)'; \
	export CUSTOM_COMPILE_COMMAND='make lock'; \
	compile() { "$$tools/bin/pip-compile" --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options "$$@"; }; \
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	    | compile --output-file requirements/build.txt -; \
	echo atheris | compile --output-file requirements/fuzz.txt -; \
	compile --all-extras --constraint requirements/build.txt --output-file requirements/lock.txt pyproject.toml

clean: ## remove what make, pip and the tools made; ./data, the server's state, stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis libproto/compiled.txt
	find . -path './.*' -prune -o -name '*.so' -exec rm -f {} +
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
